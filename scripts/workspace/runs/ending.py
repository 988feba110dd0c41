"""What is done to runs and sweeps once they are there: stopped, removed, and taken back."""

import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.programs import wait_until
from workspace.runs import folders, sweep_record
from workspace.runs.folders import TRASH
from workspace.runs.sweep_record import SweepRecord

_ENDS_WITHIN_S = 30
_REMOVED = re.compile(r"(.+)-[0-9a-f]{6}")
"""What is called `run` is called this among the removed, where others of its name may be already."""


def stop(name: str | None) -> str:
    """End the run or the sweep called `name`, or the latest run; what there is of it is kept. Says what came of it.

    Raises UserError where it is not running, or does not end.
    """
    if name and (sweep := sweep_record.find(name)):
        record = SweepRecord.read(sweep)
        if not record or not sweep_record.at_work(sweep):
            raise UserError(f"the sweep {sweep.name} is not at work", cli.BAD_INPUT)
        _end(sweep.name, record.host, record.pid, lambda: not sweep_record.at_work(sweep))
        return f"stopped; what is done is kept in {sweep}, and the same command goes on from there"
    run = folders.find(name)
    if run.status != folders.RUNNING:
        raise UserError(f"{run.full_name} is not running: {run.status}", cli.BAD_INPUT)
    if run.record.sweep:
        raise UserError(
            f"{run.full_name} belongs to a sweep; {places.command('runs')} stop {run.record.sweep} stops that"
        )
    _end(run.full_name, run.record.host, run.record.pid, lambda: not folders.is_at_work(run))
    return f"stopped; what there is of it is in {run.folder.with_name(run.name)}"


def _end(name: str, host: str, pid: int | None, ended: Callable[[], bool]) -> None:
    if host != socket.gethostname():
        raise UserError(f"{name} runs on {host or 'another machine'}; stop it there")
    if not pid:
        raise UserError(f"{name} does not say which process makes it")
    os.kill(pid, signal.SIGTERM)
    if not wait_until(ended, _ENDS_WITHIN_S):
        raise UserError(f"{name} does not end; `kill -9 {pid}` ends it at once")


def removable(name: str) -> tuple[folders.Run, str]:
    """The run or the sweep called `name`, and what to call it when asking. Raises UserError where it is at work."""
    sweep = sweep_record.find(name)
    found = folders.Run(sweep) if sweep else folders.find(name)
    if sweep_record.at_work(sweep) if sweep else found.status == folders.RUNNING:
        raise UserError(f"{name} is running; {places.command('runs')} stop {name} ends it", cli.BAD_INPUT)
    return found, f"the sweep {found.name} with all its runs" if sweep else f"{found.full_name} ({found.status})"


def remove(run: folders.Run) -> Path:
    """Move a run's folder, or a sweep's, to where it can be taken back from, and return that place.

    Raises UserError where the folder may not be written to.
    """
    trash = run.folder.parent / TRASH
    place = trash / f"{run.folder.name}-{secrets.token_hex(3)}"
    try:
        trash.mkdir(exist_ok=True)
        run.folder.rename(place)
        os.utime(place, ns=(time.time_ns(), time.time_ns()))  # the latest is what is taken back first
    except OSError as error:
        raise UserError(f"{run.folder} cannot be removed: {error.strerror}") from error
    return place


def removed() -> list[Path]:
    """Where the removed runs and sweeps are, the latest first."""
    found = [place for trash in (TRASH, f"*/{TRASH}") for place in folders.top().glob(f"{trash}/*")]
    known = [place for place in found if _REMOVED.fullmatch(place.name)]
    return sorted(known, key=lambda place: place.stat().st_mtime, reverse=True)


def _was(place: Path) -> Path:
    """The folder that was removed to `place`."""
    return place.parent.parent / _REMOVED.sub(r"\1", place.name)


def take_back(place: Path) -> Path:
    """Put what was removed back to where it was, and return that. Raises UserError where something else is there."""
    folder = _was(place)
    if folder.exists():
        raise UserError(f"{folder} is there again; {place} stays where it is")
    try:
        place.rename(folder)
    except OSError as error:
        raise UserError(f"{place} cannot be taken back: {error.strerror}") from error
    return folder


def find_removed(name: str | None) -> Path:
    """The latest removed run or sweep called `name`, RUN or SWEEP/RUN; None: the latest. Raises UserError for none."""
    known = removed()
    for place in known:
        if name in (None, folders.Run(_was(place)).full_name, place.name):
            return place
    if not known:
        raise UserError(f"nothing was removed in {folders.top()}", cli.BAD_INPUT)
    raise UserError(f"no {name} was removed; the latest that was is {known[0].name}", cli.BAD_INPUT)
