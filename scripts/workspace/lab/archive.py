"""A workspace as one archive: the work folder (notebooks, runs, the lab's settings) and what is known of the lesson.

Not in it: datasets, which are fetched again, installed packages, and the token, which no copy should carry.

The archive is a tar inside of gzip, whose checksum covers every byte. Its last member says what was left out: without
one it was cut short.
"""

import argparse
import contextlib
import fcntl
import filecmp
import gzip
import io
import itertools
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
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.files import UNFINISHED, replacing

_LAST = "left-out.json"
_LAST_OF_EARLIER_RELEASES = "sha256.json"
"""It says what was left out, too, beside digests of the files."""
_SEEDED = "state/seeded.json"
_STAGING = ".restoring-"
_PIECE = 1 << 20
_TRIES = 5


@dataclass(frozen=True)
class Contents:
    """What an archive holds: files by their names, and the reason for each thing that was left out."""

    files: set[str]
    left_out: dict[str, str]


def write(stream: BinaryIO) -> None:
    """Write the workspace to `stream`.

    The lab may run meanwhile: a file that changes while it is read is read again, one that is deleted is left out
    or kept as it last was. Links are not followed: what they lead to inside of the work folder is saved under its own
    name, and what is outside of it, such as datasets, is not the workspace's.
    """
    left_out: dict[str, str] = {}
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=stream) as zipped,
        tarfile.open(fileobj=zipped, mode="w|") as tar,
    ):
        for name, path in _paths(left_out):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                for _ in range(_TRIES):  # what is added again replaces what was added before
                    before = path.lstat()
                    if not stat.S_ISREG(before.st_mode):
                        left_out[name] = f"a link to {path.readlink()}" if path.is_symlink() else "not a file"
                        break
                    try:
                        with path.open("rb") as file:
                            tar.addfile(tar.gettarinfo(arcname=name, fileobj=file), _Padded(file))
                    except PermissionError as error:
                        left_out[name] = error.strerror
                        break
                    if _same(path.lstat(), before):
                        break
        content = json.dumps({"left_out": left_out}, indent=1).encode()
        member = tarfile.TarInfo(_LAST)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _paths(left_out: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Files and links of the workspace, with their names in the archive; a folder that cannot be read is `left_out`."""

    def name(path: str | Path) -> str:
        return f"work/{Path(path).relative_to(places.work())}"

    def cannot_read(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # deleted meanwhile
            left_out[name(error.filename)] = error.strerror

    for folder, folders, files in os.walk(places.work(), onerror=cannot_read):
        links = [entry for entry in folders if Path(folder, entry).is_symlink()]
        folders[:] = sorted(entry for entry in folders if not entry.startswith((_STAGING, UNFINISHED)))
        for entry in sorted([*files, *links]):
            if not entry.startswith(UNFINISHED):
                yield name(Path(folder, entry)), Path(folder, entry)
    seeded = places.state() / Path(_SEEDED).name
    if seeded.exists():
        yield _SEEDED, seeded


def _same(now: os.stat_result, before: os.stat_result) -> bool:
    return (now.st_mtime_ns, now.st_size, now.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)


class _Padded:
    """A file that may shrink while it is read: the archive has said its size already, so zeros fill what is gone."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read(size).ljust(size, b"\0")


def verify(stream: BinaryIO) -> Contents:
    """Read an archive to its end and return what it holds. Raises UserError unless every byte is right."""
    with _faults_told():
        return _read(stream)


def restore(stream: BinaryIO) -> tuple[int, Path | None]:
    """Put an archive's files back; how many, and where those are that stood in their place and differed.

    Nothing is touched before the whole archive has arrived and proved right, and nothing is overwritten. Whenever this
    is killed, each file is the old or the new one, and doing it again completes it.
    Raises UserError where the archive is not right; then all is as it was.
    """
    with _alone(), _faults_told():
        for left in places.work().glob(f"{_STAGING}*"):  # of one that was killed
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=_STAGING, dir=places.work(), ignore_cleanup_errors=True) as folder:
            names = sorted(_read(stream, Path(folder)).files)
            return len(names), _put_in_place(Path(folder), names)


def _read(stream: BinaryIO, folder: Path | None = None) -> Contents:
    """Read an archive to its end, putting its files into `folder`. Raises UserError unless every byte is right."""
    files, left_out = set(), None
    with gzip.GzipFile(fileobj=stream) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as tar:
        for member in tar:
            _require_harmless(member)
            if member.name in (_LAST, _LAST_OF_EARLIER_RELEASES):
                left_out = _left_out(tar.extractfile(member).read())
                continue
            files.add(member.name)
            if folder:
                file = folder / member.name
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("wb") as written:
                    shutil.copyfileobj(tar.extractfile(member), written)
                file.chmod(0o600 | member.mode & 0o777)
                os.utime(file, (member.mtime, member.mtime))
        while unzipped.read(_PIECE):  # what tar fills its last block with; after that comes the checksum
            pass
    if left_out is None:
        raise UserError("the backup is incomplete: its end is missing; nothing was changed")
    return Contents(files, left_out)


def _left_out(content: bytes) -> dict[str, str]:
    try:
        return dict(json.loads(content).get("left_out", {}))
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError("the backup is damaged: its end cannot be read; nothing was changed") from error


def _require_harmless(member: tarfile.TarInfo) -> None:
    parts = Path(member.name).parts
    known = member.name in (_LAST, _LAST_OF_EARLIER_RELEASES, _SEEDED) or (parts[:1] == ("work",) and len(parts) > 1)
    if not known or ".." in parts or not member.isreg():
        raise UserError(f"this is no backup of a workspace: it has {member.name!r} in it; nothing was changed")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep other restores away. Raises UserError where one goes on."""
    descriptor = os.open(places.state(), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError("another restore is going on; nothing was changed") from error
    finally:
        os.close(descriptor)


def _put_in_place(staging: Path, names: list[str]) -> Path | None:
    work = places.work()
    started = time.strftime("before-restore-%Y%m%d-%H%M%S")
    # One that was killed within this second may have made a folder of that name.
    others = (work / f"{started}-{number}" for number in itertools.count(2))
    aside = next(folder for folder in itertools.chain([work / started], others) if not folder.exists())
    try:
        for name in names:
            new = staging / name
            if name.startswith("work/"):
                _put(new, work / name.removeprefix("work/"), aside)
            else:  # the state's own file may be on another volume
                with replacing(places.state() / name.removeprefix("state/")) as copy:
                    shutil.copyfile(new, copy)
    except OSError as error:
        raise UserError(
            f"the restore stopped half way: {error.filename}: {error.strerror}; each file is the one before or the one "
            "restored, and doing it again completes it"
        ) from error
    return aside if aside.exists() else None


def _put(new: Path, place: Path, aside: Path) -> None:
    """Put `new` in its place, and keep in `aside` what stood there, or stands where one of its folders is to be."""
    work = aside.parent
    if place.is_file() and not place.is_symlink() and filecmp.cmp(place, new, shallow=False):
        return
    way = [work / above for above in reversed(place.relative_to(work).parents[:-1])]
    in_the_way = next((path for path in way if os.path.lexists(path) and not _is_folder(path)), place)
    if os.path.lexists(in_the_way):
        kept = aside / in_the_way.relative_to(work)
        kept.parent.mkdir(parents=True, exist_ok=True)
        if in_the_way != place or _is_folder(place):
            in_the_way.rename(kept)
        else:  # linked, so that one that is killed has the old file or the new one there
            try:
                os.link(place, kept, follow_symlinks=False)
            except OSError:  # a file system without links
                shutil.copy2(place, kept, follow_symlinks=False)
    place.parent.mkdir(parents=True, exist_ok=True)
    new.replace(place)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


@contextlib.contextmanager
def _faults_told() -> Iterator[None]:
    """Raise UserError for what reading a damaged archive, or writing to a full disk, raises."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's, not the archive's
            raise UserError(f"the work folder cannot take it: {error.strerror}; nothing was changed") from error
        raise UserError(f"this is no backup of a workspace, or a damaged one: {error}; nothing was changed") from error


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
