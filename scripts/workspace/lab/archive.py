"""A workspace as one archive: the work folder (notebooks, runs, the lab's settings) and what is known of the lesson.

Not in it: datasets, which are fetched again, installed packages, and the token, which no copy should carry.

The archive is a tar, compressed. Its last member lists every file with its SHA-256: an archive that was cut short has
no such list, one that was damaged does not agree with it.
"""

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.files import UNFINISHED

_LIST = "sha256.json"
_STAGING = ".restoring-"
_PIECE = 1 << 20
_TRIES = 5


def _sources() -> dict[str, Path]:
    """What is kept, by its name in the archive."""
    return {"work": places.work(), "state/seeded.json": places.state() / "seeded.json"}


def write(stream: BinaryIO) -> int:
    """Write the workspace to `stream` and return how many files it has.

    The lab may run meanwhile: a file that changes while it is read is read again, one that is deleted is left out
    or kept as it last was.
    """
    digests: dict[str, str] = {}
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=stream) as zipped,
        tarfile.open(fileobj=zipped, mode="w|") as tar,
    ):
        for name, path in _files():
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                for _ in range(_TRIES):  # what is added again replaces what was added before
                    before = path.lstat()
                    if not stat.S_ISREG(before.st_mode):
                        print(f"left out, since it is no file: {name}", file=sys.stderr)
                        break
                    digests[name] = _add(tar, name, path)
                    if _same(path.lstat(), before):
                        break
        content = json.dumps({"files": digests}, indent=1).encode()
        member = tarfile.TarInfo(_LIST)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return len(digests)


def _files() -> Iterator[tuple[str, Path]]:
    for name, path in _sources().items():
        if path.is_file():
            yield name, path
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(folder for folder in folders if not folder.startswith(_STAGING))
            for file in sorted(file for file in files if not file.startswith(UNFINISHED)):
                inside = Path(folder, file)
                yield f"{name}/{inside.relative_to(path)}", inside


def _same(now: os.stat_result, before: os.stat_result) -> bool:
    return (now.st_mtime_ns, now.st_size, now.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)


def _add(tar: tarfile.TarFile, name: str, path: Path) -> str:
    """Add a file and return its digest."""
    with path.open("rb") as file:
        member = tar.gettarinfo(arcname=name, fileobj=file)
        reader = _Hashing(file, member.size)
        tar.addfile(member, reader)
    return reader.digest.hexdigest()


class _Hashing:
    """Exactly `size` bytes of a file, which may shrink or grow meanwhile, and their digest."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        piece = self._file.read(size).ljust(size, b"\0")
        self._left -= size
        self.digest.update(piece)
        return piece


def verify(stream: BinaryIO) -> int:
    """Read an archive to its end and return how many files it has. Raises UserError unless every byte is right."""
    digests, listed = {}, None
    with _faults_told():
        for member, content in _members(stream):
            if member.name == _LIST:
                listed = _list(content)
            else:
                digests[member.name] = _digest(content)
    return _require_equal(digests, listed)


def restore(stream: BinaryIO) -> tuple[int, Path | None]:
    """Put an archive's files back; how many, and where those are that stood in their place and differed.

    Nothing is touched before the whole archive has arrived and proved right, and nothing is overwritten.
    Raises UserError where it is not right; then all is as it was.
    """
    digests, listed, staging = {}, None, None
    try:
        with _faults_told():
            staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=places.work()))
            for member, content in _members(stream):
                if member.name == _LIST:
                    listed = _list(content)
                    continue
                file = staging / member.name
                file.parent.mkdir(parents=True, exist_ok=True)
                digests[member.name] = _digest(content, file)
                file.chmod(0o600 | member.mode & 0o777)
                os.utime(file, (member.mtime, member.mtime))
        count = _require_equal(digests, listed)
        return count, _put_in_place(staging, sorted(digests))
    finally:
        if staging:
            shutil.rmtree(staging, ignore_errors=True)


def _put_in_place(staging: Path, names: list[str]) -> Path | None:
    aside = places.work() / time.strftime("before-restore-%Y%m%d-%H%M%S")
    for name in names:
        new = staging / name
        if name.startswith("work/"):
            place = places.work() / name.removeprefix("work/")
        else:  # the state's own file may be on another volume
            shutil.copyfile(new, places.state() / "new")
            (places.state() / "new").replace(places.state() / name.removeprefix("state/"))
            continue
        if os.path.lexists(place):
            if place.is_file() and not place.is_symlink() and place.read_bytes() == new.read_bytes():
                continue
            kept = aside / place.relative_to(places.work())
            kept.parent.mkdir(parents=True, exist_ok=True)
            place.replace(kept)
        place.parent.mkdir(parents=True, exist_ok=True)
        new.replace(place)
    return aside if aside.exists() else None


def _members(stream: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, Iterator[bytes]]]:
    """The members of an archive and their contents, to be read in turn. Raises UserError where it is none of ours."""
    with tarfile.open(fileobj=stream, mode="r|gz") as tar:
        for member in tar:
            _require_harmless(member)
            file = tar.extractfile(member)
            yield member, iter(lambda file=file: file.read(_PIECE), b"")


@contextlib.contextmanager
def _faults_told() -> Iterator[None]:
    """Raise UserError for what reading a damaged archive, or writing to a full disk, raises."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's, not the archive's
            raise UserError(f"the work folder cannot take it: {error.strerror}; nothing was changed") from error
        raise UserError(f"this is no backup of a workspace, or a damaged one: {error}; nothing was changed") from error


def _list(content: Iterator[bytes]) -> dict[str, str]:
    try:
        return dict(json.loads(b"".join(content))["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("the backup is damaged: its list of files cannot be read; nothing was changed") from error


def _require_harmless(member: tarfile.TarInfo) -> None:
    parts = Path(member.name).parts
    known = member.name in (_LIST, "state/seeded.json") or (parts[:1] == ("work",) and len(parts) > 1)
    if not known or ".." in parts or not member.isreg():
        raise UserError(f"this is no backup of a workspace: it has {member.name!r} in it; nothing was changed")


def _digest(content: Iterator[bytes], file: Path | None = None) -> str:
    """The SHA-256 of `content`, which is also written to `file`."""
    digest = hashlib.sha256()
    with file.open("wb") if file else open(os.devnull, "wb") as written:  # noqa: PTH123
        for piece in content:
            digest.update(piece)
            written.write(piece)
    return digest.hexdigest()


def _require_equal(digests: dict[str, str], listed: dict[str, str] | None) -> int:
    if listed is None:
        raise UserError("the backup is incomplete: its end is missing; nothing was changed")
    if wrong := sorted(name for name in digests.keys() | listed.keys() if digests.get(name) != listed.get(name)):
        raise UserError(f"the backup is damaged: {wrong[0]} is not what was saved; nothing was changed")
    return len(listed)


def main(options: argparse.Namespace) -> None:
    """Do, on this side of the container's wall, what the one argument says, with standard input or output."""
    if options.action == "write":
        write(sys.stdout.buffer)
    else:
        tell(*restore(sys.stdin.buffer))


def tell(count: int, aside: Path | None) -> None:
    """Say what was restored."""
    cli.say(f"Restored {count:,} files, every one as it was saved.")
    if aside:
        cli.say(f"What stood in their place and differed is kept in {aside.name}/.")


if __name__ == "__main__":
    cli.run(__doc__, main, lambda parser: parser.add_argument("action", choices=["write", "restore"]))
