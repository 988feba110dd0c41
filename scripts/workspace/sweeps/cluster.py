"""Many runs at once, by dask.distributed: in this process, or on any Dask cluster that shares the work folder."""

import contextlib
import itertools
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator

import dask
import distributed
from distributed import Client, Future, LocalCluster

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.base.programs import wait_until
from workspace.runs import folders
from workspace.runs.execution import Job
from workspace.sweeps import worker

NO_WORKERS = 3
"""Exit code: there is nobody to do the work, or nobody any more."""

CONNECTS_WITHIN_S, _ANSWERS_WITHIN_S = 8, 30

dask.config.set(
    {
        "distributed.scheduler.worker-saturation": 1.0,  # no worker holds back a run that another could begin
        "distributed.scheduler.allowed-failures": 3,  # a machine that goes takes no run with it
        "distributed.comm.timeouts.connect": CONNECTS_WITHIN_S,
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
def remote(scheduler: str) -> Iterator[Client]:
    """The workers of the cluster at `scheduler`. Raises UserError where it has none."""
    with connected(scheduler) as client:
        try:
            client.wait_for_workers(1, timeout=_ANSWERS_WITHIN_S)
        except TimeoutError as error:
            raise UserError(
                f"the scheduler at {scheduler} has no workers; scripts/worker on another machine makes one, or "
                "docker compose up --scale worker=2 on this one; their logs say why where they do not stay",
                NO_WORKERS,
            ) from error
        yield client


def connected(scheduler: str, within_s: float = CONNECTS_WITHIN_S) -> Client:
    """A client of the scheduler at this address. Raises UserError where none answers, or one with other keys."""
    if not re.match(r"(tcp|tls)://", scheduler):
        raise UserError(f"the scheduler {scheduler}: write tcp://HOST:8786 or tls://HOST:8786", cli.BAD_INPUT)
    try:
        return Client(scheduler, timeout=within_s)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        if _certificate_refused(error):
            raise UserError(
                f"the scheduler at {scheduler} has other keys than this machine: copy its cluster.yaml here again",
                NO_WORKERS,
            ) from error
        raise UserError(
            f"no scheduler answers at {scheduler}: is it up, and is its port open for this machine? ({error})",
            NO_WORKERS,
        ) from error


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
    worker.cancels[name] = cancel
    everywhere = distributed.Event(name, client=client)
    outcomes: dict[str, str] = {}  # by the futures' keys
    client.subscribe_topic(name, lambda event: outcomes.update([event[1]]))
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
                    under_way[client.submit(worker.make_run, job, slots, name, worker.fingerprint(), pure=False)] = job
            elif not told:
                told = True
                with contextlib.suppress(Exception):
                    everywhere.set()
            for future in [future for future in under_way if future.done()]:
                job = under_way.pop(future)
                if following := ended(job, _outcome(future, outcomes)):
                    again.append(following)
            if not under_way and (cancel.is_set() or (not again and room > 0)):
                return
            waiting(min(len(under_way), len(slots)))
            cancel.wait(0.05) if not told else time.sleep(0.05)
    finally:
        del worker.cancels[name]
        with contextlib.suppress(Exception):  # whatever Dask raises when its scheduler is gone
            everywhere.set()
            client.unsubscribe_topic(name)


def _outcome(future: Future, told: dict[str, str]) -> str:
    """How the run of `future` ended; that the worker could not make it is an outcome, too. Raises RefusedError."""
    if future.status == "finished":
        return told.pop(future.key, folders.LOST)
    if future.status == "error":
        error = future.exception()
        if isinstance(error, worker.RefusedError):
            raise error
        if isinstance(error, ImportError | AttributeError):  # there is no such function there
            raise worker.RefusedError(f"a worker cannot run the workspace's code: {error}: use one image everywhere")
        return f"{folders.LOST}: {type(error).__name__}: {error}"
    return folders.LOST


def _popped(jobs: list[Job]) -> Iterator[Job]:
    while jobs:
        yield jobs.pop()


def _require_running(client: Client) -> None:
    wait_until(lambda: client.status in ("running", "closed"), 3)
    if client.status != "running":
        raise LostError("the scheduler does not answer any more")


def _slots(client: Client) -> dict[str, worker.Slot]:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return worker.slots({address: str(told["name"]) for address, told in workers.items()})


def _certificate_refused(error: BaseException | None) -> bool:
    """Whether one side of a connection does not know the authority of the other's certificate."""
    while error:
        if "SSL" in str(error) or "certificate" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
