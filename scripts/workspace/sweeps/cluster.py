"""Many runs at once on the machines of a Dask cluster, which share the work folder."""

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator

import dask
import distributed
from distributed import Client, Future

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.base.programs import wait_until
from workspace.runs import folders
from workspace.runs.execution import Job
from workspace.sweeps import worker
from workspace.sweeps.local import Slot

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
def workers(scheduler: str) -> Iterator["Workers"]:
    """Those of the cluster at `scheduler`. Raises UserError where it has none."""
    with connected(scheduler) as client:
        try:
            client.wait_for_workers(1, timeout=_ANSWERS_WITHIN_S)
        except TimeoutError as error:
            raise UserError(
                f"the scheduler at {scheduler} has no workers; scripts/worker on another machine makes one, or "
                "docker compose up --scale worker=2 on this one; their logs say why where they do not stay",
                NO_WORKERS,
            ) from error
        mine = Workers(client)
        try:
            yield mine
        finally:
            mine.stop()


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


class Workers:
    """The workers at `client`'s scheduler, which make the runs of one sweep."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sweep = f"sweep-{os.urandom(8).hex()}"
        self._stop = distributed.Event(self._sweep, client=client)
        self._slots: dict[str, Slot] = {}
        self._seen = time.monotonic()  # when there was any
        self._told: dict[str, str] = {}  # how runs ended, by the futures' keys
        client.subscribe_topic(self._sweep, lambda event: self._told.update([event[1]]))

    def count(self) -> int:
        """How many runs they make at once. Raises LostError where there is nobody any more."""
        wait_until(lambda: self._client.status in ("running", "closed"), 3)
        if self._client.status != "running":
            raise LostError("the scheduler does not answer any more")
        known = self._client.scheduler_info(n_workers=-1)["workers"]
        self._slots = worker.slots({address: str(told["name"]) for address, told in known.items()})
        if self._slots:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > _ANSWERS_WITHIN_S:
            raise LostError("all workers have gone")
        return len(self._slots)

    def submit(self, job: Job) -> Future:
        """Let the next worker that is free make the run of `job`."""
        return self._client.submit(worker.make_run, job, self._slots, self._sweep, worker.fingerprint(), pure=False)

    def outcome(self, future: Future) -> str:
        """How the run of `future`, which is done, ended; that it could not be made is an outcome, too.

        Raises RefusedError.
        """
        if future.status == "finished":
            return self._told.pop(future.key, folders.LOST)
        if future.status == "error":
            error = future.exception()
            if isinstance(error, worker.RefusedError):
                raise error
            if isinstance(error, ImportError | AttributeError):  # there is no such function there
                raise worker.RefusedError(
                    f"a worker cannot run the workspace's code: {error}: use one image everywhere"
                )
            return f"{folders.LOST}: {type(error).__name__}: {error}"
        return folders.LOST

    def stop(self) -> None:
        """Let them end the runs of this sweep."""
        with contextlib.suppress(Exception):  # whatever Dask raises when its scheduler is gone
            self._stop.set()


def _certificate_refused(error: BaseException | None) -> bool:
    """Whether one side of a connection does not know the authority of the other's certificate."""
    while error:
        if "SSL" in str(error) or "certificate" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
