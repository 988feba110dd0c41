"""How long a start takes: to the first answer to who has the token, and to a kernel that has answered.

Beside it stands a bare `jupyter lab` of the same image, by `docker run`, the image being there. CPU seconds are those
of the server, of the kernel, and of the command that starts.
"""

import argparse
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.programs import wait_until
from workspace.bench.measuring import Clock, Table, free_port
from workspace.host import compose, engine

_TOKEN = secrets.token_hex(32)
_BARE = ["--no-browser", f"--IdentityProvider.token={_TOKEN}"]
_NO_SETTINGS = {"JUPYTER_NO_CONFIG": "1", "JUPYTER_PATH": ""}
"""Neither the workspace's settings nor its kernel, which starts in an environment of the user's own."""
_WITHIN_S = 300

Start = Callable[[int, Path], AbstractContextManager[Callable[[], float]]]
"""Starts a server on a port, with an empty folder at hand; gives what tells the CPU seconds that it has used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--rounds", metavar="N", type=int, default=3, help="starts of each kind, by turns (default 3)")


def main(options: argparse.Namespace) -> None:
    """Start each kind by turns and print the table."""
    if options.rounds < 1:
        raise UserError("--rounds must be at least 1", cli.BAD_INPUT)
    engine.require()
    measured: dict[str, list[tuple[float, ...]]] = {name: [] for name in _KINDS}
    for _ in range(options.rounds):
        for name, start in _KINDS.items():
            measured[name].append(_measure(start))
            cli.say(f"{name}: {measured[name][-1][1]:.1f} s")
    table = Table(f"medians of {options.rounds}", "first answer, s", "a kernel's answer, s", "CPU seconds")
    for name, rows in measured.items():
        table.add(name, *(f"{sorted(column)[len(column) // 2]:.1f}" for column in zip(*rows, strict=True)))
    table.show()


def _measure(start: Start) -> tuple[float, float, float]:
    """Seconds to the first answer and to a kernel's, and CPU seconds in all."""
    with tempfile.TemporaryDirectory(prefix="bench-start-", ignore_cleanup_errors=True) as folder:
        port, clock, begun = free_port(), Clock(), time.perf_counter()
        with start(port, Path(folder)) as cpu_seconds:
            if not wait_until(lambda: _answers(port), _WITHIN_S, every_s=0.02):
                raise UserError(f"the server does not answer within {_WITHIN_S} s")
            first = time.perf_counter() - begun
            _run_in_a_kernel(port)
            return first, time.perf_counter() - begun, cpu_seconds() + clock.look().cpu


def _answers(port: int) -> bool:
    import requests

    headers = {"Authorization": f"token {_TOKEN}"}
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"http://127.0.0.1:{port}/api/contents", headers=headers, timeout=10).ok
    return False


def _run_in_a_kernel(port: int) -> None:
    """Start a kernel and wait until it has executed a line."""
    import requests
    import websocket

    token = f"token {_TOKEN}"
    kernels = f"127.0.0.1:{port}/api/kernels"
    made = requests.post(f"http://{kernels}", json={}, headers={"Authorization": token}, timeout=_WITHIN_S).json()
    address = f"ws://{kernels}/{made['id']}/channels"
    header = {"msg_id": "1", "msg_type": "execute_request", "username": "", "session": "1", "version": "5.3"}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": {"code": "1"}, "channel": "shell"}
    with contextlib.closing(
        websocket.create_connection(address, _WITHIN_S, header={"Authorization": token})
    ) as channel:
        channel.send(json.dumps(message))
        while json.loads(channel.recv())["msg_type"] != "execute_reply":
            pass


def _scripts_start(port: int, folder: Path, **variables: str) -> Path:
    """Run `scripts/start` from a copy of this checkout, which is returned. Raises UserError where it fails."""
    left_out = shutil.ignore_patterns(".venv", ".workspace", "work", ".git", "__pycache__")
    copy = Path(shutil.copytree(places.REPOSITORY, folder / "copy", ignore=left_out))
    (copy / ".venv").symlink_to(places.REPOSITORY / ".venv")
    command = [sys.executable, str(copy / "scripts/start"), f"--port={port}", "--bind=127.0.0.1"]
    environment = os.environ | {"JUPYTER_TOKEN": _TOKEN} | variables
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(done.stderr.strip())
    return copy


def _docker(*arguments: str, folder: Path | None = None, **environment: str) -> str:
    """What `docker` prints. Raises UserError where it fails."""
    done = subprocess.run(
        ["docker", *arguments], cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


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
    """As a compose project of its own."""
    project = {"COMPOSE_PROJECT_NAME": f"bench-start-{port}"}
    try:
        copy = _scripts_start(port, folder, **project)
        container = _docker("compose", "ps", "--quiet", "workspace", folder=copy, **project)
        yield lambda: _cpu_seconds_in(container)
    finally:
        _docker("compose", "down", "--volumes", folder=places.REPOSITORY, **project)


_KINDS: dict[str, Start] = {
    "`docker run`, a bare `jupyter lab`": _container(
        "jupyter", "lab", *_BARE, "--ip=0.0.0.0", "--port=8888", **_NO_SETTINGS
    ),
    "`docker run`, this workspace": _container(JUPYTER_TOKEN=_TOKEN),
    "`scripts/start`": _start_in_docker,
}
