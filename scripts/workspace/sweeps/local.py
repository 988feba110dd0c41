"""Many runs at once on this machine, each with its share of it."""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import NamedTuple, Self

from lesson import machine

from workspace.base import programs
from workspace.runs import execution, folders
from workspace.runs.execution import Job

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What PyTorch reads, and Dask sets to 1 where it starts several workers."""


class Slot(NamedTuple):
    """Where a worker stands among those of its machine."""

    index: int
    on_machine: int
    in_container: int


class Workers:
    """`count` threads of this process, which make runs until `cancel` is set: the kernels are processes anyway."""

    def __init__(self, count: int, cancel: threading.Event) -> None:
        self._count, self._cancel = count, cancel
        self._free = [Slot(index, count, count) for index in range(count)]
        self._pool = ThreadPoolExecutor(count)

    def __enter__(self) -> Self:
        """They begin with the first job."""
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """None of them is left."""
        if error:
            self.stop()
        self._pool.shutdown(cancel_futures=True)

    def count(self) -> int:
        """How many runs they make at once."""
        return self._count

    def submit(self, job: Job) -> Future[str]:
        """Let the next worker that is free make the run of `job`."""
        return self._pool.submit(self._make, job)

    def _make(self, job: Job) -> str:
        slot = self._free.pop(0)
        try:
            return make_run(job, slot, self._cancel)
        finally:
            self._free.append(slot)

    def outcome(self, future: Future[str]) -> str:
        """How the run of `future`, which is done, ended; that it could not be made is an outcome, too."""
        if error := future.exception():
            return f"{folders.LOST}: {type(error).__name__}: {error}"
        return future.result()

    def stop(self) -> None:
        """Let them end the runs of this sweep."""
        self._cancel.set()


def make_run(job: Job, slot: Slot, cancel: threading.Event) -> str:
    """Make the run of `job` with the slot's share of the machine, unless it is there already; how it ended."""
    if job.folder.exists():
        return folders.Run(job.folder).status
    threads = max(1, min((os.cpu_count() or 1) // slot.on_machine, cpus() // slot.in_container))
    environment = dict.fromkeys(_THREADS, str(threads)) | job.environment
    if gpus() and not job.notebook.takes_whole_machine:
        environment["CUDA_VISIBLE_DEVICES"] = gpus()[slot.index % len(gpus())]
    if cancel.is_set():
        return folders.LOST
    return execution.execute(replace(job, environment=environment), cancel).status


@cache
def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    listed = programs.ask("nvidia-smi", "-L").stdout.splitlines()
    return [str(index) for index, line in enumerate(listed) if line.startswith("GPU ")]


def cpus() -> int:
    """The CPUs that this process may use."""
    return machine.threads(os.cpu_count() or 1)


def how_many() -> int:
    """How many runs this machine makes at once unless it is told: one a GPU, else one for each two CPUs."""
    return len(gpus()) or max(1, cpus() // 2)
