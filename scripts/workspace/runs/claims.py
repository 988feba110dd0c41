"""How a run gets its folder: it works in a hidden one that nobody else has, which gets its name at the end."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.runs.folders import RECORD, STATE, Record, Run, beside

_CLAIM = "000000"
"""The end of a hidden folder's name where that folder alone may become the result; elsewhere it is random."""


@contextlib.contextmanager
def working(folder: Path, record: Record, *, or_beside: bool = False) -> Iterator[tuple[Path, Path]]:
    """A hidden folder to make a run in, and the folder that `publish` will make of it; alive until the block ends.

    Nobody else gets the same folder, which is NAME-2, NAME-3 ... `or_beside` it where it is taken. Only the runs of one
    sweep may be made twice at once: a worker that was given up may still be at work. Raises UserError where the folder
    is taken, or the disk does not take it.
    """
    hidden = _hidden(folder)
    try:
        hidden.mkdir(parents=True)
        new = hidden / f"{STATE}.new"
        record.write(new)
        with new.open("r+") as state:  # to write: NFS locks no other
            fcntl.flock(state, fcntl.LOCK_EX)
            new.rename(hidden / STATE)  # which nobody has seen without a lock
            if not record.sweep:
                hidden, folder = _claim(hidden, beside(folder) if or_beside else [folder])
            yield hidden, folder
    except OSError as error:
        raise UserError(f"{error.filename or hidden} cannot be written: {error.strerror}") from error


def publish(hidden: Path, folder: Path, record: Record) -> Path:
    """Make the hidden folder the result: write run.json last, then rename it. Where it is found from then on.

    That is `folder`, unless something else stands there by now: then beside it, for no result is thrown away. Only of a
    sweep's run that was made twice, the first one stays. Raises OSError where the disk does not take it.
    """
    record.write(hidden / RECORD)
    for place in beside(folder):
        try:
            hidden.rename(place)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
            if record.is_of_the_same_job_as(Run(place).record):
                shutil.rmtree(hidden, ignore_errors=True)
                return place
        else:
            (place / STATE).unlink()
            return place
    raise AssertionError("there is always a next name")


def _hidden(folder: Path, end: str | None = None) -> Path:
    return folder.with_name(f".{folder.name}.{end or secrets.token_hex(3)}")


def _claim(hidden: Path, wanted: Iterable[Path]) -> tuple[Path, Path]:
    """Take the first of the `wanted` folders that is free, by the name that only one hidden folder can have.

    A folder that is renamed brings its lock along: whoever finds the name taken sees whether its owner lives.
    """
    for folder in wanted:
        claimed = _hidden(folder, _CLAIM)
        while not folder.exists():
            try:
                hidden.rename(claimed)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                if not _put_aside(claimed):
                    break
            else:
                if not folder.exists():  # a run that ended just now
                    return claimed, folder
                hidden = claimed.rename(hidden)
    shutil.rmtree(hidden)
    raise UserError(f"{folder} is taken by another run: choose another -o", cli.BAD_INPUT)


def _put_aside(remains: Path) -> bool:
    """Give the remains of a killed run a name of their own; whether there is nothing at their place any more."""
    state = remains / STATE
    try:
        with state.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(held.fileno()), state.stat()):  # and not of another run since
                remains.rename(remains.with_suffix(f".{secrets.token_hex(3)}"))
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return not remains.exists()
    return True
