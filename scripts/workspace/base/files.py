"""Files that are either the old one or the new one, whatever happens in between."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

UNFINISHED = ".unfinished-"
"""How the names begin of files that are being written, and of what a kill left of them."""


def beside(file: Path) -> Path:
    """A name that nobody else uses, in the folder of `file`, and short where the file's own is as long as names go."""
    return file.with_name(UNFINISHED + secrets.token_hex(8))


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside `file` for its new content, which takes its place when the block ends well, and else goes."""
    new = beside(file)
    try:
        yield new
        with new.open("rb") as written:
            os.fsync(written.fileno())
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left of files in `folder` and below; nobody may be writing there."""
    for place, folders, files in os.walk(folder):
        for left in (Path(place, name) for name in folders + files if name.startswith(UNFINISHED)):
            with contextlib.suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
