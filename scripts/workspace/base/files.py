"""Files that are either the old one or the new one, whatever happens in between, and files as locks."""

import contextlib
import fcntl
import itertools
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from workspace.base import cli

UNFINISHED = ".unfinished-"
"""How the names begin of files that are being written, and of what a kill left of them."""

_MOST_FOLDERS = 5_000
"""A start does not wait for a look at more: what was left takes room, and does no other harm."""


def beside(file: Path) -> Path:
    """A name that nobody else uses, in the folder of `file`, and short where the file's own is as long as names go."""
    return file.with_name(UNFINISHED + secrets.token_hex(8))


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside `file` for its new content, which takes its place when the block ends well, and else goes.

    Raises OSError, with the file's name, where the disk does not take it.
    """
    new = beside(file)
    try:
        yield new
        with new.open("rb") as written:
            os.fsync(written.fileno())
        new.replace(file)
    except OSError as error:
        error.filename = error.filename or str(file)  # a full disk is noticed where the name is not known any more
        raise
    finally:
        new.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(file: Path, waiting: str) -> Iterator[None]:
    """Hold `file` for this process alone, and say `waiting` where another has it and must be waited for."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            cli.say(waiting)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left of files in `folder` and below; nobody may be writing there."""
    for place, folders, files in itertools.islice(os.walk(folder), _MOST_FOLDERS):
        for left in (Path(place, name) for name in folders + files if name.startswith(UNFINISHED)):
            with contextlib.suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
