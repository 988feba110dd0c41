"""Files that are either the old one or the new one, whatever happens in between, and files as locks."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from workspace.base import cli


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside `file` for its new content, which takes its place when the block ends well, and else goes."""
    new = file.with_name(f".{file.name}.new")
    try:
        yield new
        new.replace(file)
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
