"""Run a notebook by papermill, and leave one folder that says all about it.

What papermill lets pass is caught here: a whole run has a time limit, a kernel that died is a failure, kernels of runs
that start at once do not race for ports, and nothing outlives its run.
"""

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty
from typing import Any, TextIO

import nbformat
import papermill
import zmq
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.exceptions import PapermillExecutionError

from workspace import cli, deaths, places, runs
from workspace.cli import UserError
from workspace.parameters import OUTPUT_FOLDER, of_notebook
from workspace.terminal import duration

_FINALLY_S = {runs.STOPPED: 5, runs.TIMED_OUT: 0.6}
"""What a cell gets between KeyboardInterrupt and the end: a limit in time is one to the second."""

_HEADLESS = Path(__file__).parent / "headless"
"""What kernels that nobody watches do without."""


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


def run(job: Job, cancel: threading.Event, progress: Progress | None = None) -> runs.Run:
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
    with runs.attempt(job.folder, state) as hidden:
        status, error = _execute(job, hidden, cancel, progress)
        if status == runs.STOPPED and job.sweep:
            shutil.rmtree(hidden, ignore_errors=True)
            return runs.Run(hidden)
        found = runs.Run(hidden)
        known = of_notebook(job.notebook)
        effective = {name: parameter.default for name, parameter in known.items()} | job.parameters
        effective.pop(OUTPUT_FOLDER, None)
        record = {
            "status": status,
            "error": error,
            "notebook": str(job.notebook),
            "notebook_digest": runs.digest(source),
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
            runs.publish(hidden, job.folder, record)
        except FileExistsError:
            shutil.rmtree(hidden, ignore_errors=True)
    return runs.Run(job.folder)


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
    kernel = _Kernel()
    with (hidden / runs.LOG).open("a") as log, _Watchdog(job.timeout_s, cancel, kernel) as watchdog:
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
                kernel_manager_class=_kernel_manager(sockets, job.environment, log, kernel),
                on_notebook_start=_counts_cells(progress),
                on_cell_execute=_follows_cells(progress),
            )
        except PapermillExecutionError as error:
            log.write("\n".join(error.traceback) + "\n")
            return watchdog.verdict or (runs.FAILED, _in_words(error))
        except CellTimeoutError:
            return watchdog.verdict or (
                runs.TIMED_OUT,
                f"cell {progress.cell} took longer than {duration(job.cell_timeout_s or 0)}",
            )
        except (DeadKernelError, RuntimeError) as error:
            if not isinstance(error, DeadKernelError) and "Kernel" not in str(error):
                raise
            return watchdog.verdict or (
                runs.FAILED,
                f"the kernel died in cell {progress.cell}: {kernel.cause_of_death()}",
            )
        except OSError as error:
            return runs.FAILED, f"{error.strerror}: {error.filename or hidden}"
        else:
            return watchdog.verdict or (runs.COMPLETED, None)
        finally:
            kernel.end()
            shutil.rmtree(sockets, ignore_errors=True)
            _rename_output_folder(executed, hidden, job.folder)


class _Kernel:
    """The process of a run's kernel, from when it starts, with all that it starts itself."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._deaths = deaths.Watch()

    def started(self, process: subprocess.Popen) -> None:
        self._process = process

    @property
    def has_started(self) -> bool:
        return self._process is not None

    def send(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)  # Jupyter gives each kernel a session of its own

    def note(self) -> None:
        """Note that it lives, if it does."""
        if self._process is not None and self._process.poll() is None:
            self._deaths.lives()

    def end(self) -> None:
        """Whatever the notebook has left behind."""
        self.send(signal.SIGKILL)

    def cause_of_death(self) -> str:
        """Why it ended, as far as anybody can say."""
        return self._deaths.cause(self._process.returncode if self._process else None)


class _Watchdog:
    """Ends the kernel when its time is over or the run is cancelled; `verdict` then says so."""

    def __init__(self, timeout_s: float | None, cancel: threading.Event, kernel: _Kernel) -> None:
        self.verdict: tuple[str, str] | None = None
        self._timeout_s, self._cancel, self._kernel = timeout_s, cancel, kernel
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        give_up = time.monotonic() + (self._timeout_s or float("inf"))
        note_at = time.monotonic()
        while not self._over.wait(0.05):
            if time.monotonic() >= note_at:
                self._kernel.note()
                note_at += 1
            if self._cancel.is_set():
                self.verdict = runs.STOPPED, "stopped before its end"
            elif time.monotonic() >= give_up:
                self.verdict = runs.TIMED_OUT, f"longer than the {self._timeout_s:g} s it was given"
            if self.verdict and self._kernel.has_started:
                self._kernel.send(signal.SIGINT)
                if not self._over.wait(_FINALLY_S[self.verdict[0]]):
                    self._kernel.send(signal.SIGKILL)
                return


def _kernel_manager(
    sockets: Path, environment: dict[str, str], log: TextIO, kernel: _Kernel
) -> type[AsyncKernelManager]:
    """Kernels that listen on files in `sockets`: TCP ports are raced for by kernels that start at the same time.

    What they say outside any cell goes to `log`.
    """

    class Manager(AsyncKernelManager):
        def __init__(self, **traits: object) -> None:
            super().__init__(**traits)
            self.client_factory = _Client
            self.connection_file = str(sockets / "kernel.json")
            self.transport = "ipc"
            self.ip = str(sockets / "socket")

        def _connect_control_socket(self) -> None:
            # Asked to end over the control channel, ipykernel 7.4 deadlocks in one case of ten, for three seconds: the
            # channel's thread reports to another that has gone. The shell channel has no thread of its own.
            self._control_socket = self.connect_shell()

        async def start_kernel(self, **options: object) -> None:
            inherited = {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"}
            inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_HEADLESS), os.environ.get("PYTHONPATH")]))
            await super().start_kernel(**options, env=inherited | environment, stdout=log, stderr=log)
            kernel.started(self.provisioner.process)

        async def _async_wait(self, pollinterval: float = 0.1) -> None:  # noqa: ARG002
            # An ended kernel is noticed ten times sooner: a short run consists of little else.
            await super()._async_wait(pollinterval=0.01)

    return Manager


class _Client(AsyncKernelClient):
    """Is ready as soon as the kernel answers and is heard; the stock one first listens in vain for 0.2 s."""

    def __init__(self, **traits: object) -> None:
        super().__init__(**traits)
        self.context.setsockopt(zmq.RECONNECT_IVL, 10)  # tries in vain until the kernel has made its sockets

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        give_up = time.monotonic() + (timeout or float("inf"))
        while not await self._answers():
            if not await self.is_alive():
                raise RuntimeError("Kernel died before replying to kernel_info")
            if time.monotonic() > give_up:
                raise RuntimeError(f"Kernel didn't respond in {timeout:g} seconds")

    async def _answers(self) -> bool:
        question = self.kernel_info()
        try:
            while (await self.shell_channel.get_msg(timeout=1))["parent_header"].get("msg_id") != question:
                pass
            await self.iopub_channel.get_msg(timeout=0.2)  # anything shows that this channel is connected, too
        except Empty:
            return False
        return True


class _NotebookClient(PapermillNotebookClient):
    """Notices at once that its kernel has died, where the stock one looks once a second."""

    async def _async_poll_kernel_alive(self) -> None:
        with contextlib.suppress(DeadKernelError):
            while True:
                await asyncio.sleep(0.05)
                await self._async_check_alive()
        self.task_poll_for_reply.cancel()


papermill.engines.PapermillNotebookClient = _NotebookClient  # which papermill's engine takes by this name


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
