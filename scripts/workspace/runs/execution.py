"""Run a notebook by papermill, and leave one folder that says all about it.

What papermill lets pass is caught here: a whole run has a time limit, a kernel that died is a failure, kernels of runs
that start at once do not race for ports, and nothing outlives its run.
"""

import contextlib
import importlib.metadata
import logging
import os
import platform
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.terminal import duration
from workspace.runs import folders, kernels
from workspace.runs.notebook_parameters import OUTPUT_FOLDER, of_notebook


@dataclass(frozen=True)
class Job:
    """A run to make: `parameters` are checked already, `folder` is where it will be published."""

    notebook: Path
    folder: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    timeout_s: float | None = None
    cell_timeout_s: int | None = None
    start_timeout_s: int = 180  # papermill's 60 are too few on a busy machine
    kernel: str | None = None
    sweep: str | None = None  # the sweep it belongs to
    cwd: Path | None = None  # where the kernel runs; None: in the notebook's folder, as in the lab
    environment: dict[str, str] = field(default_factory=dict)  # beyond this process's own


class Progress:
    """Where a run is; written by its thread, read by the one that shows it."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.cells = 0
        self.cell = 0
        self.cell_begun = self.begun
        self.said = ""

    def __str__(self) -> str:
        """Cell, the last line the notebook printed, time taken; time left where that line tells how far it is."""
        now = time.monotonic()
        words = [f"cell {self.cell} of {self.cells}" if self.cell else "starting the kernel"]
        if self.said:
            words.append(self.said[:70])
        words.append(duration(now - self.begun))
        if share := _share(self.said):
            words.append(f"about {duration((now - self.cell_begun) * (1 - share) / share)} left in this cell")
        return " · ".join(words)


def run(job: Job, cancel: threading.Event, progress: Progress | None = None) -> folders.Run:
    """Run `job` and publish its folder, however it ended; the status says how. `cancel` stops it.

    Works in any thread. Where another attempt at the same run was published meanwhile, that one is the result. A run of
    a sweep that is stopped leaves nothing, for it will be made again. Raises UserError where the folder could not be
    written.
    """
    progress = progress or Progress()
    source = job.notebook.read_bytes()
    begun, started = time.monotonic(), datetime.now(UTC)
    state = {
        "notebook": str(job.notebook),
        "given": job.parameters,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "sweep": job.sweep,
        "started": started.isoformat(timespec="seconds"),
    }
    with folders.attempt(job.folder, state) as hidden:
        status, error = _execute(job, hidden, cancel, progress)
        if status == folders.STOPPED and job.sweep:
            shutil.rmtree(hidden, ignore_errors=True)
            return folders.Run(hidden)
        found = folders.Run(hidden)
        known = of_notebook(job.notebook)
        effective = {name: parameter.default for name, parameter in known.items()} | job.parameters
        effective.pop(OUTPUT_FOLDER, None)
        record = {
            "status": status,
            "error": error,
            "notebook": str(job.notebook),
            "notebook_digest": folders.digest(source),
            "parameters": effective,
            "given": job.parameters,
            "sweep": job.sweep,
            "seed": effective.get("seed"),
            "started": state["started"],
            "seconds": round(time.monotonic() - begun, 2),
            "host": state["host"],
            "threads": found.metrics.get("threads") or _asked_threads(job),
            "device": found.metrics.get("device"),
            "dataset_digest": found.metrics.get("dataset_digest"),
            "image": places.image_stamp(),
            "versions": versions(),
        }
        try:
            folders.publish(hidden, job.folder, record)
        except FileExistsError:
            shutil.rmtree(hidden, ignore_errors=True)
    return folders.Run(job.folder)


def require_kernel(job: Job) -> None:
    """Raise UserError where the kernel that the job or its notebook asks for is not installed."""
    try:
        name = job.kernel or papermill.utils.nb_kernel_name(papermill.iorw.load_notebook_node(str(job.notebook)))
    except (ValueError, nbformat.ValidationError) as error:
        if "No kernel name" not in str(error):
            raise UserError(
                f"{job.notebook} is a broken notebook: {str(error).splitlines()[0]}", cli.BAD_INPUT
            ) from error
        raise UserError(f"{job.notebook} names no kernel; -k python3 runs it with Python's", cli.BAD_INPUT) from error
    try:
        KernelSpecManager().get_kernel_spec(name)
    except NoSuchKernel as error:
        raise UserError(
            f"the kernel {name!r} is not installed here; -k python3 takes Python's own", cli.BAD_INPUT
        ) from error


def _execute(job: Job, hidden: Path, cancel: threading.Event, progress: Progress) -> tuple[str, str | None]:
    """Run the notebook into `hidden`; how it ended, and why if it did not complete."""
    known = of_notebook(job.notebook)
    values = dict(job.parameters)
    if OUTPUT_FOLDER in known:
        values[OUTPUT_FOLDER] = str(hidden)
    executed = hidden / job.notebook.name
    sockets = Path(tempfile.mkdtemp(prefix="run-"))  # short: a socket's path may have 107 characters
    kernel = kernels.Kernel()
    with (hidden / folders.LOG).open("a") as log, kernels.Watchdog(job.timeout_s, cancel, kernel) as watchdog:
        try:
            papermill.execute_notebook(
                _literal(job.notebook),
                _literal(executed),
                values,
                kernel_name=job.kernel,
                language="python",
                progress_bar=False,
                start_timeout=job.start_timeout_s,
                execution_timeout=job.cell_timeout_s,
                stdout_file=_Log(log, progress),
                stderr_file=_Log(log, progress),
                resources={"metadata": {"path": str(job.cwd or job.notebook.parent)}},
                kernel_manager_class=kernels.manager(sockets, job.environment, log, kernel),
                on_notebook_start=_counts_cells(progress),
                on_cell_execute=_follows_cells(progress),
            )
        except PapermillExecutionError as error:
            log.write("\n".join(error.traceback) + "\n")
            return watchdog.verdict or (folders.FAILED, _in_words(error))
        except CellTimeoutError:
            return watchdog.verdict or (
                folders.TIMED_OUT,
                f"cell {progress.cell} took longer than {duration(job.cell_timeout_s or 0)}",
            )
        except (DeadKernelError, RuntimeError) as error:
            if not isinstance(error, DeadKernelError) and "Kernel" not in str(error):
                raise
            return watchdog.verdict or (
                folders.FAILED,
                f"the kernel died in cell {progress.cell}: {kernel.cause_of_death()}",
            )
        except OSError as error:
            return folders.FAILED, f"{error.strerror}: {error.filename or hidden}"
        else:
            return watchdog.verdict or (folders.COMPLETED, None)
        finally:
            kernel.end()
            shutil.rmtree(sockets, ignore_errors=True)
            _rename_output_folder(executed, hidden, job.folder)


class _Log:
    """Where the notebook's output goes: to the log, and its last line to whoever watches."""

    def __init__(self, file: TextIO, progress: Progress) -> None:
        self._file, self._progress = file, progress

    def write(self, text: str) -> None:
        self._file.write(text)
        if lines := [line for line in re.split(r"[\r\n]", text) if line.strip()]:
            self._progress.said = lines[-1].strip()

    def flush(self) -> None:
        self._file.flush()


def _counts_cells(progress: Progress) -> Callable[..., None]:
    def hook(notebook: Any) -> None:  # noqa: ANN401
        progress.cells = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)

    return hook


def _follows_cells(progress: Progress) -> Callable[..., None]:
    def hook(cell: object, cell_index: int) -> None:  # noqa: ARG001
        progress.cell += 1
        progress.cell_begun = time.monotonic()
        progress.said = ""

    return hook


def _share(said: str) -> float:
    """How much of the work is done, if `epoch 1.5 of 12`, `step 3/12` or a bar such as `40%|` says so, else 0."""
    if found := re.search(r"\b(\d+(?:\.\d+)?) ?(?:/|of) ?(\d+(?:\.\d+)?)\b|\b(\d+(?:\.\d+)?)%\|", said):
        share = float(found[3]) / 100 if found[3] else float(found[1]) / (float(found[2]) or 1)
        return share if 0 < share <= 1 else 0
    return 0


def _in_words(error: PapermillExecutionError) -> str:
    said = re.sub(r"\x1b\[[\d;]*m", "", error.evalue).strip().splitlines() or [""]
    return f"{error.ename}: {said[0]} (in cell [{error.exec_count}])"


def _rename_output_folder(executed: Path, hidden: Path, folder: Path) -> None:
    """Let the executed notebook name its folder as it will be found."""
    with contextlib.suppress(OSError):
        text = executed.read_text()
        executed.write_text(text.replace(str(hidden), str(folder)))


def _literal(path: Path) -> str:
    """`path` for papermill, which takes braces for its own."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _asked_threads(job: Job) -> int | None:
    asked = (job.environment | os.environ).get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else None


def versions() -> dict[str, str]:
    """What the runs of this Python are made with."""
    found = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "papermill"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


# What goes wrong is told once, by the record.
for talker in ("papermill", "asyncio"):
    logging.getLogger(talker).setLevel(logging.CRITICAL)
