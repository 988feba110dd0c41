"""How long a start takes: to the first answer to who has the token, and to a kernel that has answered.

Beside it stands a bare `jupyter lab` of the same image, by `docker run`, the image being there. CPU seconds are those
of the server, of the kernel, and of the command that starts.
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.programs import wait_until
from workspace.bench.load import Lab, read
from workspace.bench.measuring import Clock, Cost, Table, copy_of_checkout, free_port, number_option, output, script
from workspace.host import compose, engine

_TOKEN = secrets.token_hex(32)
_BARE = f"jupyter lab --no-browser --ip=0.0.0.0 --port=8888 --IdentityProvider.token={_TOKEN}".split()
_NO_SETTINGS = {"JUPYTER_NO_CONFIG": "1", "JUPYTER_PATH": ""}
"""Neither the workspace's settings nor its kernel, which starts in an environment of the user's own."""
_WITHIN_S = 300

Start = Callable[[int, Path], AbstractContextManager[Callable[[], float]]]
"""Starts a server on a port, with an empty folder at hand; gives what tells the CPU seconds that it has used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    number_option(parser, "--rounds", "starts of each kind, by turns", 3)


def main(options: argparse.Namespace) -> None:
    """Start each kind by turns and print the table."""
    import jupyter_client.session  # noqa: F401  (what asks is there before the clock runs)
    import tornado.simple_httpclient  # noqa: F401

    engine.require()
    measured: dict[str, list[tuple[float, ...]]] = {name: [] for name in _KINDS}
    for _ in range(options.rounds):
        for name, start in _KINDS.items():
            measured[name].append(_measure(start))
            cli.say(f"{name}: {measured[name][-1][1]:.1f} s")
    table = Table(f"medians of {options.rounds}", "first answer, s", "a kernel's answer, s", "CPU seconds")
    for name, rows in measured.items():
        table.add(name, *(f"{statistics.median(column):.1f}" for column in zip(*rows, strict=True)))
    table.show()


def _measure(start: Start) -> tuple[float, float, float]:
    """Seconds to the first answer and to a kernel's, and CPU seconds in all."""
    with tempfile.TemporaryDirectory(prefix="bench-start-", ignore_cleanup_errors=True) as folder:
        port = free_port()
        lab, clock = Lab(f"http://127.0.0.1:{port}", _TOKEN), Clock()
        with start(port, Path(folder)) as cpu_seconds:
            if not wait_until(lambda: asyncio.run(_answers(lab)), _WITHIN_S, every_s=0.02):
                raise UserError(f"the server does not answer within {_WITHIN_S} s")
            first = clock.look()
            kernel = asyncio.run(_kernel(lab, clock))
            return first.seconds, first.seconds + kernel.seconds, cpu_seconds() + first.cpu + kernel.cpu


async def _answers(lab: Lab) -> bool:
    with contextlib.suppress(OSError):
        return (await lab.ask("/api/contents")).code == 200
    return False


async def _kernel(lab: Lab, clock: Clock) -> Cost:
    """What it took until a kernel has executed a line; not what its end takes."""
    async with lab.kernel("1") as channel:
        await read(channel)
        return clock.look()


def _docker(*arguments: str, **options: object) -> str:
    """What `docker` prints. Raises UserError where it fails."""
    return output("docker", *arguments, **options).strip()


def _cpu_seconds_in(container: str) -> float:
    """As the control group counts them: version 2 in microseconds, after a word, version 1 in nanoseconds."""
    files = "cat /sys/fs/cgroup/cpu.stat 2>/dev/null || cat /sys/fs/cgroup/cpuacct/cpuacct.usage"
    words = _docker("exec", container, "sh", "-c", files).split()
    return int(words[1]) / 1e6 if len(words) > 1 else int(words[0]) / 1e9


def _container(*command: str, **environment: str) -> Start:
    @contextlib.contextmanager
    def start(port: int, folder: Path) -> Iterator[Callable[[], float]]:  # noqa: ARG001
        variables = [f"--env={name}={value}" for name, value in environment.items()]
        image = compose.Workspace().image()
        container = _docker("run", "--detach", f"--publish=127.0.0.1:{port}:8888", *variables, image, *command)
        try:
            yield lambda: _cpu_seconds_in(container)
        finally:
            _docker("rm", "--force", "--volumes", container)

    return start


@contextlib.contextmanager
def _start_in_docker(port: int, folder: Path) -> Iterator[Callable[[], float]]:
    """By `scripts/start` in a copy of this checkout, as a compose project of its own."""
    environment = os.environ | {"COMPOSE_PROJECT_NAME": f"bench-start-{port}", "JUPYTER_TOKEN": _TOKEN}
    try:
        copy = copy_of_checkout(folder / "copy")
        output(*script("start", copy), f"--port={port}", "--bind=127.0.0.1", cwd=copy, env=environment)
        container = _docker("compose", "ps", "--quiet", "workspace", cwd=copy, env=environment)
        yield lambda: _cpu_seconds_in(container)
    finally:
        _docker("compose", "down", "--volumes", cwd=places.REPOSITORY, env=environment)


_KINDS: dict[str, Start] = {
    "`docker run`, a bare `jupyter lab`": _container(*_BARE, **_NO_SETTINGS),
    "`docker run`, this workspace": _container(JUPYTER_TOKEN=_TOKEN),
    "`scripts/start`": _start_in_docker,
}
