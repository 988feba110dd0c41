"""One large file of known size and SHA-256, brought from whichever of its mirrors works, and is fast enough.

A transfer that breaks off goes on where it stopped, at the next call and at another mirror too, and the file appears
under its name only when all of it is verified.

Environment variables:
    HTTP_PROXY, HTTPS_PROXY, NO_PROXY   as everywhere
    WORKSPACE_CA_BUNDLE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE   certificates to trust instead of the usual
                     ones; the first of them that names a file with something in it counts
"""

import contextlib
import hashlib
import os
import re
import socket
import ssl
import stat
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests
import urllib3
from tqdm.auto import tqdm

from lesson.words import _


@dataclass(frozen=True)
class Archive:
    """Which content is the right one: its SHA-256 in hexadecimal and its size in bytes."""

    sha256: str
    size: int


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
    """Where all are slow, the fastest goes on, if not slower than this: CIFAR-10 then takes an hour and a half."""


USUAL = Limits()


class _SourceError(Exception):
    """Why a mirror is given up, in a few words."""


class _BrokenOffError(_SourceError):
    """The transfer ended early; to ask again may help."""


class _TooSlowError(_SourceError):
    def __init__(self, speed: float) -> None:
        super().__init__(_("too slow at {speed:.0f} kB/s").format(speed=speed))
        self.speed = speed


class NoMirrorError(Exception):
    """No mirror could bring the file; `tried` says of each what went wrong."""

    def __init__(self, tried: Sequence[str]) -> None:
        super().__init__(tried)
        self.tried = tried


def bring(target: Path, archive: Archive, mirrors: Sequence[str], limits: Limits) -> None:
    """Make `target` the verified archive: it may be there already, else the mirrors are tried.

    A mirror is an http, https or file address; file:///dev/stdin reads from standard input. Raises NoMirrorError.
    """
    tried: dict[str, str] = {}
    if target.exists():
        if sha256(target) == archive.sha256:
            return
        tried[str(target)] = _("not the archive: its SHA-256 is wrong; a good one will replace it")
        say(f"{target}: {tried[str(target)]}")
    part = part_of(target)
    speeds: dict[str, float] = {}

    def turns() -> Iterator[tuple[str, float]]:
        yield from ((mirror, limits.speed) for mirror in mirrors)
        # None was fast; so the slow ones once more, the fastest first.
        yield from ((mirror, limits.least_speed) for mirror in sorted(speeds, key=speeds.__getitem__, reverse=True))

    failed = ""
    for mirror, least_speed in turns():
        if failed:
            again = _("no mirror is fast, going on with {mirror}").format(mirror=_shown(mirror))
            other = _("trying the next")
            say(f"{failed}; {again if mirror in speeds else other}")
        started = time.monotonic()
        try:
            _complete(part, mirror, archive, least_speed, limits)
        except _SourceError as failure:
            tried[_shown(mirror)] = str(failure)
            failed = f"{_host(mirror)}: {failure}"  # not all of the address: where all fail, `tried` lists them
            if isinstance(failure, _TooSlowError) and mirror not in speeds:
                speeds[mirror] = failure.speed
            continue
        part.replace(target)
        seconds = time.monotonic() - started
        done = _("{name}: {size} from {mirror} in {seconds:.0f} s; the SHA-256 is right.")
        say(done.format(name=target.name, size=megabytes(archive.size), mirror=_shown(mirror), seconds=seconds))
        return
    raise NoMirrorError([f"{source}: {outcome}" for source, outcome in tried.items()])


def _complete(part: Path, mirror: str, archive: Archive, least_speed: float, limits: Limits) -> None:
    """Fill `part` up to the whole archive and verify it. Raises _SourceError, and keeps what arrived."""
    in_one_piece = False
    while (had := size_of(part)) < archive.size:
        try:
            in_one_piece = _receive(part, mirror, archive.size, least_speed, limits) == 0
        except _BrokenOffError:
            if mirror.startswith("file:"):
                part.unlink()  # a pipe that ends early brought another file, not the beginning of this one
                raise
            # The same mirror again, as long as that brings the end nearer.
            if size_of(part) - had < archive.size / 100:
                raise
    if sha256(part) == archive.sha256:
        return
    part.unlink()
    if in_one_piece:
        raise _SourceError(_("not the archive: its SHA-256 is wrong"))
    # The fault may lie in what was there before: this mirror gets a fair chance.
    _complete(part, mirror, archive, least_speed, limits)


def _receive(part: Path, mirror: str, size: int, least_speed: float, limits: Limits) -> int:
    """Fill `part` up to `size` bytes by one request to the mirror; return where that began. Raises _SourceError."""
    with contextlib.ExitStack() as opened:
        stream, begin = _ask(mirror, size_of(part), size, limits, opened)
        # In place: a mirror that cannot resume starts over, and what lies beyond its next break stays.
        file = opened.enter_context(part.open("r+b" if part.exists() else "x+b"))
        position = file.seek(begin)
        bar = opened.enter_context(_progress_bar(part.stem, mirror, position, size))
        since, received = time.monotonic(), 0
        while position < size:
            try:
                chunk = stream.read1(min(2**18, size - position))
                why = "" if chunk else _("cut off")
            except (urllib3.exceptions.HTTPError, OSError) as error:
                why = _in_words(error, limits)
            if why:
                said = _("{why} at {position} of {size}")
                raise _BrokenOffError(said.format(why=why, position=megabytes(position), size=megabytes(size)))
            if position == 0 and not b"\x1f\x8b".startswith(chunk[:2]):
                raise _SourceError(_("answered something that is not the archive (a login page?)"))
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
    kind, rest = mirror.partition("://")[::2]
    if kind == "file":
        return _open(Path(urllib.request.url2pathname(rest)), offset, size, opened)
    if kind not in ("http", "https"):
        raise _SourceError(_("not an address: it must begin with http://, https:// or file:///"))
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
                verify=ca_bundle() or True,
            )
        )
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _SourceError(_in_words(error, limits)) from None
    length = answer.headers.get("Content-Length", "")
    if answer.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if not found or int(found[1]) != offset or found[2] not in ("*", str(size)):
            raise _SourceError(_("answered another part of another file"))
    elif answer.status_code != 200:
        raise _SourceError(f"HTTP {answer.status_code} {answer.reason}")
    elif length.isdecimal() and int(length) != size:
        said = _("answered {length:,} bytes of {kind} instead of the archive (a login page?)")
        raise _SourceError(said.format(length=int(length), kind=answer.headers.get("Content-Type", "?")))
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
        said = _("not the archive: {found:,} bytes instead of {size:,}")
        raise _SourceError(said.format(found=found.st_size, size=size))
    return file, file.seek(offset)


def _shown(mirror: str) -> str:
    """The address without what may be secret in it: user, password, query."""
    return re.sub(r"(?<=://)[^/]*@|[?#].*", "", mirror)


def _host(mirror: str) -> str:
    """The address's host alone; the whole of a file's."""
    return re.sub(r"^https?://([^/:]+).*", r"\1", _shown(mirror))


def ca_bundle() -> str | None:
    """The file of certificates to trust instead of the usual ones; an empty one, as /dev/null is, stands for none."""
    for variable in ("WORKSPACE_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        file = os.environ.get(variable)
        if file and size_of(Path(file)):
            return file
    return None


def _in_words(error: BaseException, limits: Limits) -> str:
    """What went wrong on the network, in a few words."""
    chain = list(_causes(error))

    def any_of(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    if any_of(requests.exceptions.InvalidURL):
        return _("not an address")
    if any_of(requests.TooManyRedirects):
        return _("redirects in a circle")
    if any_of(requests.exceptions.ProxyError, urllib3.exceptions.ProxyError):
        return _("the proxy (HTTP_PROXY, HTTPS_PROXY) could not be used")
    if any_of(requests.exceptions.SSLError, urllib3.exceptions.SSLError, ssl.SSLError):
        return _("its certificate is not trusted (behind a proxy that inspects TLS: WORKSPACE_CA_BUNDLE)")
    if any_of(urllib3.exceptions.NameResolutionError, socket.gaierror):
        return _("no such host (no DNS, or no network)")
    if any_of(ConnectionRefusedError):
        return _("connection refused")
    if any_of(urllib3.exceptions.ReadTimeoutError, requests.ReadTimeout):
        return _("timeout: silent for {seconds:g} s").format(seconds=limits.silence)
    if any_of(requests.ConnectTimeout, TimeoutError):
        return _("timeout: no connection within {seconds:g} s").format(seconds=limits.connect)
    if any_of(urllib3.exceptions.ProtocolError):
        return _("cut off")
    return _("no connection ({kind})").format(kind=type(error).__name__)


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


def _progress_bar(name: str, mirror: str, position: int, size: int) -> "tqdm[Any]":
    # Neither a terminal nor a notebook: a log, which needs a line now and then, and none for what is done at once.
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(
        desc=_("{name} from {source}").format(name=name, source=urlsplit(mirror).hostname or _("a file")),
        initial=position,
        total=size,
        unit="B",
        unit_scale=True,
        leave=False,
        mininterval=0.2 if watched else 10,
        delay=0 if watched else 10,
    )


# --- Files ---


def part_of(target: Path) -> Path:
    """Where a file grows until it is whole and verified."""
    return target.with_name(f"{target.name}.part")


def sha256(path: Path) -> str:
    """The digest of what is in a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(path: Path) -> int:
    """A file's size in bytes, 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def say(line: str) -> None:
    """Print a line beside a progress bar, at once."""
    tqdm.write(line)
    sys.stdout.flush()


def megabytes(size: int) -> str:
    """So many bytes in words."""
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
