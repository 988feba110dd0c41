"""Run a notebook by papermill, and leave one folder that says all about it.

What papermill lets pass is caught here: a whole run has a time limit, a kernel that died is a failure, kernels of runs
that start at once do not race for ports, and nothing outlives its run.
"""

import contextlib
import errno
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
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from workspace.base import places
from workspace.base.terminal import duration
from workspace.runs import folders, kernels, notebook_parameters
from workspace.runs.folders import Record
from workspace.runs.notebook import Notebook
from workspace.runs.notebook_parameters import OUTPUT_FOLDER
from workspace.runs.progress import Progress

_OUTPUT_WITHIN_S = 300
"""What a cell printed may arrive so long after its end: some thousand lines a second are read."""


@dataclass(frozen=True)
class Job:
    """A run to make: `parameters` are checked already, `folder` is where it will be published."""

    notebook: Notebook
    folder: Path
    or_beside: bool = field(default=False, kw_only=True)  # take a name beside `folder` where that one is taken
    parameters: dict[str, Any] = field(default_factory=dict)
    timeout_s: float | None = None
    cell_timeout_s: int | None = None
    start_timeout_s: int = 180  # papermill's 60 are too few on a busy machine
    kernel: str | None = None
    sweep: str | None = None  # the sweep it belongs to
    cwd: Path | None = None  # where the kernel runs; None: in the notebook's folder, as in the lab
    environment: dict[str, str] = field(default_factory=dict)  # beyond this process's own


def execute(job: Job, cancel: threading.Event, progress: Progress | None = None) -> folders.Run:
    """Run `job` and publish its folder, however it ended; the status says how. `cancel` stops it.

    Works in any thread. A run of a sweep that is stopped leaves nothing, for it will be made again. Raises UserError
    where the folder is another run's, or could not be written.
    """
    begun = time.monotonic()
    progress = progress or Progress()
    record = Record(
        notebook=str(job.notebook.path),
        notebook_digest=job.notebook.digest,
        given=job.parameters,
        sweep=job.sweep,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        host=socket.gethostname(),
        pid=os.getpid(),
        image=places.image_stamp(),
        versions=versions(),
    )
    with folders.working(job.folder, record, or_beside=job.or_beside) as (hidden, folder):
        progress.folder = folder
        status, error = _execute(job, hidden, cancel, progress)
        _rename_output_folder(hidden / job.notebook.name, hidden, folder)
        if status == folders.STOPPED and job.sweep:
            shutil.rmtree(hidden, ignore_errors=True)
            return folders.Run(hidden)
        metrics = folders.Run(hidden).metrics
        effective = notebook_parameters.effective(job.notebook, job.parameters)
        record = replace(
            record,
            status=status,
            error=error,
            parameters=effective,
            seed=effective.get("seed"),
            seconds=round(time.monotonic() - begun, 2),
            threads=metrics.get("threads") or _asked_threads(job),
            device=metrics.get("device"),
            dataset_digest=metrics.get("dataset_digest"),
        )
        return folders.Run(folders.publish(hidden, folder, record))


def _execute(job: Job, hidden: Path, cancel: threading.Event, progress: Progress) -> tuple[str, str | None]:
    """Run the notebook into `hidden`; how it ended, and why if it did not complete."""
    # A cell that papermill injected into the notebook before, it replaces.
    values = {name: parameter.default for name, parameter in job.notebook.injected.items()} | job.parameters
    if OUTPUT_FOLDER in job.notebook.parameters:
        values[OUTPUT_FOLDER] = str(hidden)
    executed = hidden / job.notebook.name
    sockets = Path(tempfile.mkdtemp(prefix="run-"))  # short: a socket's path may have 107 characters
    kernel = kernels.Kernel()

    def begin_cell(**cell: object) -> None:  # noqa: ARG001
        kernel.busy = True
        progress.begin_cell(hidden)

    def end_cell(**cell: object) -> None:  # noqa: ARG001
        kernel.busy = False
        if not executed.is_file():
            executed.unlink(missing_ok=True)  # a pipe that the notebook put there: who writes to it waits for ever
        if job.cell_timeout_s and progress.seconds_in_cell >= job.cell_timeout_s:
            raise CellTimeoutError  # its end was noticed too late, but no run in which a limit was hit has completed

    with (
        (hidden / folders.LOG).open("a+", encoding="utf-8", errors="backslashreplace") as log,
        tempfile.TemporaryFile("w+", errors="replace", dir=hidden) as beside,
        kernels.Watchdog(job.timeout_s, cancel, kernel) as watchdog,
    ):
        try:
            papermill.execute_notebook(
                job.notebook.node(),
                _literal(executed),
                values,
                engine_name=kernels.ENGINE,
                source=str(job.notebook.path),
                kernel_name=job.kernel or job.notebook.kernel,
                language=kernels.LANGUAGE,
                progress_bar=False,
                start_timeout=job.start_timeout_s,
                timeout=job.cell_timeout_s,
                iopub_timeout=_OUTPUT_WITHIN_S,
                stdout_file=_Log(log, progress),
                stderr_file=_Log(log, progress),
                resources={"metadata": {"path": str(job.cwd or job.notebook.path.parent)}},
                kernel_manager_class=kernels.manager(sockets, job.environment, beside, kernel),
                on_notebook_start=progress.begin,
                on_cell_execute=begin_cell,
                on_cell_executed=end_cell,
            )
        except PapermillExecutionError as error:
            log.write("\n".join(error.traceback) + "\n")
            return watchdog.verdict or (folders.FAILED, _in_words(error, progress.said))
        except CellTimeoutError:
            if job.cell_timeout_s and progress.seconds_in_cell >= job.cell_timeout_s:
                late = f"cell {progress.cell} took longer than {duration(job.cell_timeout_s)}"
                return watchdog.verdict or (folders.TIMED_OUT, late)
            endless = f"cell {progress.cell} has ended, but its output has not after {duration(_OUTPUT_WITHIN_S)} more"
            return watchdog.verdict or (folders.FAILED, f"{endless}: print less")
        except (DeadKernelError, RuntimeError) as error:
            if not isinstance(error, DeadKernelError) and "Kernel" not in str(error):
                raise
            where = f"in cell {progress.cell}" if progress.cell else "at its start"
            return watchdog.verdict or (
                folders.FAILED,
                f"the kernel died {where}: {kernel.cause_of_death()}",
            )
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # half a notebook was written, even if by now there is room for the rest
            return folders.FAILED, f"{error.strerror}: {error.filename or hidden}"
        else:
            return watchdog.verdict or (folders.COMPLETED, None)
        finally:
            kernel.end()
            (hidden / folders.PROGRESS).unlink(missing_ok=True)
            _add_what_is_missing(log, beside)
            shutil.rmtree(sockets, ignore_errors=True)


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


def _in_words(error: PapermillExecutionError, said: str) -> str:
    """What went wrong; `said` is the last line that the cell printed, where magics say why they fail."""
    text = re.sub(r"\x1b\[[\d;]*m", "", error.evalue).strip().splitlines() or [""]
    told = f"{error.ename}: {text[0]}" if error.traceback else said
    return f"{told} (in cell [{error.exec_count}])"


def _add_what_is_missing(log: TextIO, beside: TextIO) -> None:
    """Add to the log what the kernel and its children said that did not arrive there as output, or too late."""
    log.seek(0)  # the file that was opened, whatever the notebook has put in its place
    known = Counter(log.read().splitlines())
    beside.seek(0)
    for line in beside:
        if known[line.rstrip("\n")] > 0:
            known[line.rstrip("\n")] -= 1
        else:
            log.write(line)


def _rename_output_folder(executed: Path, hidden: Path, folder: Path) -> None:
    """Let the executed notebook name its folder as it will be found."""
    with contextlib.suppress(OSError):
        text = executed.read_text()
        executed.write_text(text.replace(str(hidden), str(folder)))


def _literal(path: Path) -> str:
    """`path` for papermill, which takes braces for its own."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _asked_threads(job: Job) -> int | None:
    asked = (os.environ | job.environment).get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else None


def versions() -> dict[str, str]:
    """What the runs of this Python are made with."""
    found = {"workspace": places.version(), "python": platform.python_version()}
    for package in ("torch", "torchvision", "papermill"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


# What goes wrong is told once, by the record.
for talker in ("papermill", "asyncio"):
    logging.getLogger(talker).setLevel(logging.CRITICAL)
