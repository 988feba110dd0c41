"""What a worker of a cluster does: make one run of a sweep after the other.

A worker opens one connection, to the scheduler, and nobody needs to reach the worker: how a run ended is told as an
event, which travels on that connection. So workers may be behind firewalls, and on networks of their own.
"""

import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import distributed

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.runs import execution
from workspace.runs.execution import Job
from workspace.sweeps import local
from workspace.sweeps.local import Slot

_NAME = re.compile(r"(?P<host>[^/]+)/(?P<machine>[^/]+)/[^/]+")


class RefusedError(UserError):
    """The worker would not make the runs that the sweep's own machine would make."""

    def __init__(self, message: str) -> None:
        super().__init__(message, cli.BAD_INPUT)


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
    worker.log_event(sweep, (worker.get_current_task(), local.make_run(job, slot, _Cancel(sweep))))


class _Cancel(threading.Event):
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
