"""What a worker of a sweep does: make one run after the other, each with its share of the machine.

A worker opens one connection, to the scheduler, and nobody needs to reach the worker: how a run ended is told as an
event, which travels on that connection. So workers may be behind firewalls, and on networks of their own.
"""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import distributed
from lesson import machine

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.runs import execution, folders
from workspace.runs.execution import Job

cancels: dict[str, threading.Event] = {}
"""How this process stops the sweeps that it began, by name; other processes ask the scheduler."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What PyTorch reads, and Dask sets to 1 where it starts several workers."""


class RefusedError(UserError):
    """The worker would not make the runs that the sweep's own machine would make."""

    def __init__(self, message: str) -> None:
        super().__init__(message, cli.BAD_INPUT)


class Slot(NamedTuple):
    """Where a worker stands among those of its machine."""

    index: int
    on_machine: int
    in_container: int


def make_run(job: Job, slots: Mapping[str, Slot], sweep: str, wanted: Mapping[str, str]) -> None:
    """Make the run of `job` on this worker, unless it is done already, and tell the sweep how it ended.

    Raises RefusedError where it could not be the run that the sweep's own machine, made of `wanted`, would make.
    """
    worker = distributed.get_worker()
    name = str(worker.name).partition("/")[0] if _NAME.fullmatch(str(worker.name)) else worker.name
    if differing := difference(fingerprint(), wanted):
        raise RefusedError(f"worker {name} has {differing}: use one image everywhere")
    if not job.folder.parent.is_dir():
        raise RefusedError(f"worker {name} does not see {job.folder.parent}: share it, at the same path")
    slot = slots.get(worker.address, Slot(0, 1, 1))
    if job.notebook.takes_whole_machine and slot.on_machine > 1:
        raise RefusedError(
            f"{job.notebook.name} takes the whole machine, and worker {name} shares it: one worker a machine, please"
        )
    status = _make_run(job, slot, cancels.get(sweep) or _RemoteCancel(sweep))
    worker.log_event(sweep, (worker.get_current_task(), status))


def _make_run(job: Job, slot: Slot, cancel: threading.Event) -> str:
    if job.folder.exists():
        return folders.Run(job.folder).status
    threads = max(1, min((os.cpu_count() or 1) // slot.on_machine, cpus() // slot.in_container))
    environment = dict.fromkeys(_THREADS, str(threads)) | job.environment
    if gpus() and not job.notebook.takes_whole_machine:
        environment["CUDA_VISIBLE_DEVICES"] = gpus()[slot.index % len(gpus())]
    if cancel.is_set():
        return folders.LOST
    return execution.execute(replace(job, environment=environment), cancel).status


class _RemoteCancel(threading.Event):
    """Set when the sweep's command, in another process, says so, or cannot be heard any more."""

    def __init__(self, sweep: str) -> None:
        super().__init__()
        self._event = distributed.Event(sweep, client=distributed.get_client())
        self._ask_at = 0.0

    def is_set(self) -> bool:
        if not super().is_set() and time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + 1
            try:
                if self._event.is_set():
                    self.set()
            except Exception:  # whatever Dask raises when its scheduler is gone
                self.set()
        return super().is_set()


@cache
def fingerprint() -> dict[str, str]:
    """What runs are made with here: Python, the packages, the workspace's own code."""
    top = places.REPOSITORY
    files = [*top.glob("scripts/**/*.py"), *top.glob("docker/kernels/*/*"), *top.glob("docker/requirements.lock")]
    digests = [f"{file.relative_to(top)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in sorted(files)]
    code = hashlib.sha256("\n".join(digests).encode()).hexdigest()[:8]
    return execution.versions() | {"distributed": distributed.__version__, "the workspace's code of": code}


def difference(found: Mapping[str, str], wanted: Mapping[str, str]) -> str | None:
    """The first of what is `wanted` that was not `found`, in words; None where all of it was."""
    for what, value in wanted.items():
        if found.get(what) != value:
            return f"{what} {found.get(what)} in place of {value}"
    return None


_NAME = re.compile(r"(?P<host>[^/]+)/(?P<machine>[^/]+)/[^/]+")


def new_name() -> str:
    """A name for a worker of this machine, by which `slots` knows what else is on it: HOST/MACHINE/CHANCE.

    Containers of one machine have hosts and addresses of their own, and those of two machines may have the same.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine
    host = socket.gethostname()
    return f"{host}/{boot.read_text()[:8] if boot.exists() else host}/{os.urandom(3).hex()}"


def slots(workers: Mapping[str, str]) -> dict[str, Slot]:
    """Where each worker stands, by its address; `workers` holds their names by their addresses."""
    places_of: dict[str, tuple[str, str]] = {}
    for address, name in workers.items():
        if known := _NAME.fullmatch(name):
            places_of[address] = known["machine"], known["host"]
        else:  # a name that Dask made, which tells nothing: the address's host has to do
            host = re.match(r"\w+://\[?([^/\]]+?)(:\d+)?(/|\]|$)", address)
            places_of[address] = (host[1] if host else address), ""
    found = {}
    for address, place in places_of.items():
        neighbours = sorted(other for other, where in places_of.items() if where[0] == place[0])
        inside = list(places_of.values()).count(place)
        found[address] = Slot(neighbours.index(address), len(neighbours), inside)
    return found


@cache
def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def cpus() -> int:
    """The CPUs that this process may use."""
    return machine.threads(os.cpu_count() or 1)


def how_many() -> int:
    """How many runs this machine makes at once unless it is told: one a GPU, else one for each two CPUs."""
    return len(gpus()) or max(1, cpus() // 2)
