"""Many runs at once, by dask.distributed: in this process, or on any Dask cluster that shares the work folder."""

import contextlib
import hashlib
import itertools
import logging
import os
import platform
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import dask
import distributed
from distributed import Client, Future, LocalCluster
from lesson import machine

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.waiting import wait_until
from workspace.runs import execution, folders
from workspace.runs.execution import Job

NO_WORKERS = 3
"""Exit code: there is nobody to do the work, or nobody any more."""

_CONNECTS_WITHIN_S, _ANSWERS_WITHIN_S = 8, 30

_cancels: dict[str, threading.Event] = {}
"""How this process stops the sweeps that it began, by name; other processes ask the scheduler."""

dask.config.set(
    {
        "distributed.scheduler.worker-saturation": 1.0,  # no worker holds back a run that another could begin
        "distributed.scheduler.allowed-failures": 3,  # a machine that goes takes no run with it
        "distributed.comm.timeouts.connect": _CONNECTS_WITHIN_S,
    }
)
# What goes wrong is told once, by the command.
logging.getLogger("distributed").setLevel(logging.CRITICAL)


class LostError(UserError):
    """Nobody is left to do the work."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}. What is done is kept; the same command goes on from there", NO_WORKERS)


@contextlib.contextmanager
def local(jobs: int) -> Iterator[Client]:
    """`jobs` workers that are threads of this process: the kernels are processes anyway."""
    here = "127.0.0.1:0"  # Dask listens on every address unless it is told
    with (
        LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            processes=False,
            memory_limit=0,
            dashboard_address=here,
            worker_dashboard_address=here,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextlib.contextmanager
def remote(scheduler: str, folder: Path) -> Iterator[Client]:
    """The workers of the cluster at `scheduler`, all with the versions of this machine and the same `folder`.

    Raises UserError where there are none, or others.
    """
    if not re.match(r"(tcp|tls)://", scheduler):
        raise UserError(f"--scheduler {scheduler}: write tcp://HOST:8786 or tls://HOST:8786", cli.BAD_INPUT)
    try:
        client = Client(scheduler, timeout=_CONNECTS_WITHIN_S)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"no scheduler answers at {scheduler}: {error}", NO_WORKERS) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_ANSWERS_WITHIN_S)
        except TimeoutError as error:
            raise UserError(
                f"the scheduler at {scheduler} has no workers; on each machine: "
                f"dask worker {scheduler} --nworkers 1 --nthreads 1 --memory-limit 0",
                NO_WORKERS,
            ) from error
        _require_same(client, folder)
        yield client


def work_off(
    client: Client,
    jobs: Iterator[Job],
    cancel: threading.Event,
    *,
    ahead: bool,
    ended: Callable[[Job, str], Job | None],
    waiting: Callable[[int], None],
) -> None:
    """Run all `jobs`, each once; `ended` is told how each ended and may name a job to make in its place.

    `ahead` keeps work in store at the workers; without it, the next job is asked for only when one can start.
    `waiting` is called with the number of jobs under way, some times a second. Raises LostError.
    """
    name = f"sweep-{os.urandom(8).hex()}"
    _cancels[name] = cancel
    everywhere = distributed.Event(name, client=client)
    told = False
    under_way: dict[Future, Job] = {}
    again: list[Job] = []
    alone_since: float | None = None
    try:
        while True:
            _require_running(client)
            slots = _slots(client)
            alone_since = None if slots else alone_since or time.monotonic()
            if alone_since and time.monotonic() - alone_since > _ANSWERS_WITHIN_S:
                raise LostError("all workers have gone")
            room = len(slots) * (2 if ahead else 1) - len(under_way)
            if not cancel.is_set():
                for job in itertools.islice(itertools.chain(_popped(again), jobs), max(0, room)):
                    under_way[client.submit(make_here, job, slots, name, pure=False)] = job
            elif not told:
                told = True
                with contextlib.suppress(Exception):
                    everywhere.set()
            for future in [future for future in under_way if future.done()]:
                job = under_way.pop(future)
                if following := ended(job, _outcome(future)):
                    again.append(following)
            if not under_way and (cancel.is_set() or (not again and room > 0)):
                return
            waiting(min(len(under_way), len(slots)))
            cancel.wait(0.05) if not told else time.sleep(0.05)
    finally:
        del _cancels[name]


def make_here(job: Job, slots: dict[str, tuple[int, int]], sweep: str) -> str:
    """Run `job` on this worker unless it is done already, and return how it ended."""
    if job.folder.exists():
        return folders.Run(job.folder).status
    worker = distributed.get_worker()
    index, at_once = slots.get(worker.address, (0, 1))
    environment = {"OMP_NUM_THREADS": str(max(1, _cpus() // at_once))} | job.environment
    if gpus := _gpus():
        environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
    cancel = _cancels.get(sweep) or _RemoteCancel(sweep)
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


def _outcome(future: Future) -> str:
    """How the run of `future` ended; that the worker could not make it is an outcome, too."""
    if future.status == "finished":
        return future.result()
    if future.status == "error":
        error = future.exception()
        return f"{folders.LOST}: {type(error).__name__}: {error}"
    return folders.LOST


def _popped(jobs: list[Job]) -> Iterator[Job]:
    while jobs:
        yield jobs.pop()


def _require_running(client: Client) -> None:
    wait_until(lambda: client.status in ("running", "closed"), 3)
    if client.status != "running":
        raise LostError("the scheduler does not answer any more")


def _slots(client: Client) -> dict[str, tuple[int, int]]:
    """For each worker its number on its machine, and how many there are on that machine."""
    machines: dict[str, list[str]] = {}
    for address in sorted(client.scheduler_info(n_workers=-1)["workers"]):
        host = re.match(r"\w+://\[?([^/\]]+?)(:\d+)?(/|\]|$)", address)
        machines.setdefault(host[1] if host else address, []).append(address)
    return {
        address: (index, len(neighbours))
        for neighbours in machines.values()
        for index, address in enumerate(neighbours)
    }


def _require_same(client: Client, folder: Path) -> None:
    """Refuse workers that would not make the runs that this machine would make."""
    here = _fingerprint(folder)
    try:
        theirs = client.run(_fingerprint, folder)
    except Exception as error:  # whatever an import that fails there raises here
        raise UserError(f"the workers cannot run the workspace's code: {error}. Use one image everywhere") from error
    for worker, fingerprint in theirs.items():
        for what, value in here.items():
            if fingerprint.get(what) != value:
                if what == "folder":
                    raise UserError(f"{worker} does not see {folder}: share it, at the same path", cli.BAD_INPUT)
                raise UserError(
                    f"{worker} has {what} {fingerprint.get(what)} and here is {value}: use one image everywhere",
                    cli.BAD_INPUT,
                )


def _fingerprint(folder: Path) -> dict[str, str]:
    package = b"".join(file.read_bytes() for file in sorted((places.REPOSITORY / "scripts").rglob("*.py")))
    return {
        "Python": platform.python_version(),
        "distributed": distributed.__version__,
        "torch": execution.versions().get("torch", "none"),
        "the workspace's code of": hashlib.sha256(package).hexdigest()[:8],
        "folder": str(folder.is_dir()),
    }


@cache
def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def _cpus() -> int:
    return machine.threads(os.cpu_count() or 1)


def default_jobs() -> int:
    """How many runs this machine makes at once unless it is told: one a GPU, else one for each two CPUs."""
    return len(_gpus()) or max(1, _cpus() // 2)
