"""What a lab has where it runs, in the container or natively: looked at from there, by `doctor` in its terminal."""

import json
import os
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lesson import system
from lesson.system import CGROUPS

from workspace.base import network, places, programs, settings, verdicts
from workspace.base.cli import UserError
from workspace.base.verdicts import Check, Verdict
from workspace.host import causes, gpu
from workspace.host.causes import Cause
from workspace.lab import deaths, preflight

_SHARED = Path("/dev/shm")  # noqa: S108  (looked at, never written to)
_LESSONS_MEMORY = 2 << 30
_METADATA = ("169.254.169.254", 80)
_ANSWERS_WITHIN_S, _ALL_ANSWER_WITHIN_S = 5, 10
_SAMPLE = 256 << 10
_FAST_KB_S = 300

# Asked in the Python that has the packages.
_ASK_IMAGES = """\
import json, pathlib, sys
from lesson import cifar10
print(json.dumps([bool(cifar10.holdings(pathlib.Path(sys.argv[1])).images), list(cifar10.mirrors_to_try())]))
"""
_ASK_PACKAGES = "import json; from workspace.lab import environment; print(json.dumps(environment.misfits()))"


def python() -> Path:
    """The Python that has the lab's packages, if they are installed."""
    return Path(sys.executable) if places.IN_IMAGE else places.PYTHON


def checks() -> list[Check]:
    """Everything that is looked at from where the lab runs."""
    return [
        Check("memory", memory),
        Check("CPUs", cpus),
        Check("shared memory", shared_memory),
        Check("disk", disk),
        Check("folders", folders),
        Check("clock", clock),
        Check("proxy", proxy),
        Check("images", lambda: images(python())),
        Check("metadata", metadata),
        Check("PyTorch", lambda: gpu.in_pytorch(python())),
        Check("%pip", lambda: packages(python())),
    ]


def memory(cgroups: Path = CGROUPS) -> Verdict:
    """How much memory there is to compute with, and whether it ran out before."""
    limit = system.memory_limit(cgroups)
    if limit is None:
        return verdicts.well("no limit but the machine's own")
    gib = f"{limit / 2**30:.3g}"
    if kills := deaths.memory_kills(cgroups):
        text = f"killed {kills} times at the {gib} GiB limit since the start: lower batch_size or raise WORKSPACE_MEM"
        return verdicts.warning("memory-kills", text, kills=kills, gib=gib)
    if limit < _LESSONS_MEMORY:
        text = f"the limit of {gib} GiB is less than the lesson takes at its most: raise WORKSPACE_MEM to 2g"
        return verdicts.warning("memory-small", text, gib=gib)
    return verdicts.well(f"{gib} GiB, the limit", gib=gib)


def cpus(cgroups: Path = CGROUPS) -> Verdict:
    """How many CPUs and threads there are."""
    has = system.cpu_quota(cgroups) or os.cpu_count() or 1
    for folder in (cgroups, cgroups / "pids"):  # versions 2 and 1
        try:
            used, most = int((folder / "pids.current").read_text()), int((folder / "pids.max").read_text())
        except (OSError, ValueError):  # no such file, or "max" (no limit)
            continue
        threads = f"{used} of {most} threads are in use"
        if used > most * 0.9:
            text = f"{threads}: kernels that start now die of it; shut some down, or raise pids_limit"
            return verdicts.warning("threads", text, used=used, most=most)
        return verdicts.well(f"{has:g}; {threads}", cpus=has, used=used, most=most)
    return verdicts.well(f"{has:g}, no limit of threads", cpus=has)


def shared_memory(place: Path = _SHARED) -> Verdict:
    """Whether DataLoader workers can hand batches over."""
    if not place.exists():  # macOS has none, and needs none
        return verdicts.absent("no-shared-memory", "this system does it otherwise")
    size = shutil.disk_usage(place).total
    line = preflight.shared_memory(size)
    return verdicts.warning("shared-memory-small", line, mb=size >> 20) if line else verdicts.well(f"{size >> 20} MB")


def disk() -> Verdict:
    """Whether there is room in the folders."""
    free = {place: shutil.disk_usage(place).free for place in _folders()}
    if not free:
        return verdicts.unseen("no-folders", "there are no folders yet; scripts/start makes them")
    place = min(free, key=free.__getitem__)
    line, gb = preflight.disk(place, free[place]), f"{free[place] / 1e9:.1f}"
    return verdicts.warning("disk-nearly-full", line, gb=gb) if line else verdicts.well(f"{gb} GB are free", gb=gb)


def folders() -> Verdict:
    """Whether this user may write where the work, the datasets and the token are."""
    for place in _folders():
        try:
            preflight.require_writable(place)
        except UserError as error:
            return verdicts.broken("folder-owner", str(error))
    return verdicts.well("can be written to")


def clock() -> Verdict:
    """Whether the time is one at which certificates are valid."""
    line = preflight.clock(time.time(), Path(preflight.__file__).stat().st_mtime)
    return verdicts.warning("clock", line) if line else verdicts.well("is after this release")


def proxy() -> Verdict:
    """Whether the proxies that are set answer from here, and the bundle of authorities can be read."""
    try:
        bundle = network.authorities()
        if bundle:
            ssl.create_default_context(cafile=str(bundle))
    except UserError as error:
        return verdicts.broken("authorities", str(error))
    except (ssl.SSLError, OSError) as error:
        return verdicts.broken("authorities", f"the bundle {bundle} holds no certificates that can be read: {error}")
    named = {name: value for name in ("HTTP_PROXY", "HTTPS_PROXY") if (value := settings.get(name))}
    for name, value in named.items():
        parts = urlsplit(value if "://" in value else f"http://{value}")
        try:
            socket.create_connection((parts.hostname or "", parts.port or 80), _ANSWERS_WITHIN_S).close()
        except (OSError, ValueError) as error:
            own = parts.hostname in ("localhost", "127.0.0.1") and places.IN_IMAGE
            why = (
                "which in a container is the container: name the host's address"
                if own
                else f"which does not answer ({error})"
            )
            return verdicts.broken("proxy", f"{name} names {parts.hostname}:{parts.port or 80}, {why}")
    return verdicts.well(f"{', '.join(named)} answers" if named else "none is set")


def images(python: Path) -> Verdict:
    """Whether CIFAR-10 is there, and else how fast it comes."""
    if not python.exists():
        return verdicts.NOT_INSTALLED
    ready, addresses = _asked(python, _ASK_IMAGES, places.data())
    if ready:
        return verdicts.well("CIFAR-10 is there")
    speeds, said, begun = [], "CIFAR10_MIRRORS names none", time.monotonic()
    for address in addresses:
        if time.monotonic() - begun > _ALL_ANSWER_WITHIN_S:
            break
        try:
            speeds.append(_speed(address))
        except (OSError, ValueError) as error:
            said = str(getattr(error, "reason", error))
        if speeds and speeds[-1] >= _FAST_KB_S:
            break
    data = places.command("data")
    if not speeds:
        cause = causes.find(said)
        why = cause.line() if cause is Cause.CERTIFICATE else said
        text = f"CIFAR-10 is not there, and no mirror answers: {why}. From a stick: {data} import FILE"
        return verdicts.warning(f"mirrors-{cause.kind if cause else 'out-of-reach'}", text)
    best = round(max(speeds))
    comes = f"its 170 MB come at {best} kB/s, in {max(1, 170e3 / best / 60):.0f} min"
    if best < _FAST_KB_S:
        text = f"CIFAR-10 is not there yet, and {comes}: {data} fetch, ahead of a class"
        return verdicts.warning("mirrors-slow", text, kb_s=best)
    text = f"CIFAR-10 is not there yet: {comes}, at the lesson's first start, or now by {data} fetch"
    return verdicts.warning("no-images", text, kb_s=best)


def metadata(address: tuple[str, int] = _METADATA) -> Verdict:
    """Whether a notebook reaches the address at which a cloud hands out the machine's identity."""
    try:
        socket.create_connection(address, 0.3).close()
    except OSError:
        return verdicts.well("the cloud's metadata address is out of reach")
    how = (
        f"on the host, sudo iptables -I DOCKER-USER -d {address[0]} -j DROP" if places.IN_IMAGE else "trust who uses it"
    )
    return verdicts.warning(
        "metadata",
        f"notebooks reach the address where a cloud hands out the machine's identity: give it none, or {how}",
    )


def packages(python: Path) -> Verdict:
    """Whether what pip installed in the lab still fits its Python and its PyTorch."""
    if not python.exists():
        return verdicts.NOT_INSTALLED
    told = _asked(python, _ASK_PACKAGES)
    return verdicts.warning("packages-misfit", "; ".join(told)) if told else verdicts.well("what it installed fits")


def _folders() -> list[Path]:
    return [place for place in (places.work(), places.data(), places.state()) if place.exists()]


def _asked(python: Path, code: str, *arguments: Path) -> Any:  # noqa: ANN401  (what json reads)
    """What `code` prints in the Python that has the packages."""
    environment = os.environ | {"PYTHONPATH": str(places.REPOSITORY / "scripts")}
    asked = programs.ask(python, "-P", "-c", code, *arguments, env=environment)
    asked.check_returncode()
    return json.loads(asked.stdout)


def _speed(address: str) -> float:
    """kB/s at which the beginning of a mirror's file comes. Raises OSError where it does not."""
    bundle = network.authorities()
    context = ssl.create_default_context(cafile=str(bundle) if bundle else None)
    proxies = {name[:-6].lower(): value for name in ("HTTP_PROXY", "HTTPS_PROXY") if (value := settings.get(name))}
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler(proxies or None)
    )
    begun = time.monotonic()
    asked = urllib.request.Request(address, headers={"Range": f"bytes=0-{_SAMPLE - 1}"})  # noqa: S310  (the user's)
    with opener.open(asked, timeout=_ANSWERS_WITHIN_S) as answer:
        size = len(answer.read(_SAMPLE))
    return size / 1000 / (time.monotonic() - begun)
