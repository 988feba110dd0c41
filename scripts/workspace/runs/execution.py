"""Run a notebook by papermill, and leave one folder that says all about it.

What papermill lets pass is caught here: a whole run has a time limit, a kernel that died is a failure, kernels of runs
that start at once do not race for ports, and nothing outlives its run.
"""

import contextlib
import errno
import importlib.metadata
import os
import platform
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

from workspace.base import places
from workspace.runs import folders, kernels, notebook_parameters
from workspace.runs.folders import Record
from workspace.runs.notebook import Notebook
from workspace.runs.progress import Progress


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
    with (
        (hidden / folders.LOG).open("a+", encoding="utf-8", errors="backslashreplace") as log,
        tempfile.TemporaryFile("w+", errors="replace", dir=hidden) as beside,
    ):
        folder = job.cwd or job.notebook.path.parent
        kernel = kernels.Kernel(job.kernel or job.notebook.kernel, folder, job.environment, beside)
        with kernels.Watchdog(job.timeout_s, cancel, kernel) as watchdog:
            try:
                kernel.start()
                from workspace.runs import cells  # papermill, which is imported while the kernel starts

                ended = cells.execute(job, hidden, kernel, log, progress)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise  # half a notebook was written, even if by now there is room for the rest
                ended = folders.FAILED, f"{error.strerror}: {error.filename or hidden}"
            finally:
                kernel.end()
                (hidden / folders.PROGRESS).unlink(missing_ok=True)
                _add_what_is_missing(log, beside)
            return watchdog.verdict or ended


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
