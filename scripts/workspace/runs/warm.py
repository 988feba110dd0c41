"""Kernels that start before they are needed: while a command still imports, or the run before has not ended.

A short run takes most of its time for that start. The process has done what is the same for every kernel, and waits for
what is not: its folder, its environment, where its output goes.
"""

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from workspace.base import places

_WAITS_S = 60
"""So long a process waits; where runs take longer, what a start takes is no matter."""

_HERE = Path(__file__).parent
_spares: list["_Spare"] = []
_lock = threading.Lock()


def environment() -> dict[str, str]:
    """What a kernel that nobody watches has in its environment, at least."""
    inherited = {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"}
    # What such a kernel does without is found there first.
    inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_HERE / "headless"), os.environ.get("PYTHONPATH")]))
    return inherited


def prepare(kernel: str | None) -> None:
    """Start a process that may become the `kernel` of a run, if that is the workspace's own."""
    first = os.environ.get("JUPYTER_PATH", "").partition(os.pathsep)[0]  # where Jupyter looks for kernels
    # A relative path means another folder to a process that starts elsewhere.
    absolute = all(map(os.path.isabs, os.environ.get("PYTHONPATH", "/").split(os.pathsep)))
    if kernel in ("python3", "python") and first == str(places.KERNELS) and absolute:
        with _lock, contextlib.suppress(OSError):  # it is no more than a help
            _spares.append(_Spare())


def take(command: Sequence[str], variables: Mapping[str, str], folder: str, output: IO[str]) -> subprocess.Popen | None:
    """A process that becomes the kernel of `command`, as if it had been started so; None where there is none."""
    with _lock:
        spare = _spares.pop(0) if _spares else None
    return spare and spare.become(command, variables, folder, output)


class _Spare:
    """A process that waits."""

    def __init__(self) -> None:
        place = places.KERNELS / "kernels" / "python3"
        argv = json.loads((place / "kernel.json").read_text())["argv"]
        self._begins = [sys.executable, *(word.replace("{resource_dir}", str(place)) for word in argv[1:5])]
        self._environment = environment()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._orders, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*self._begins[:3], str(_HERE / "warm_kernel.py")],
                env=self._environment | {"JPY_PARENT_PID": str(os.getpid())},  # read by ipykernel's import
                stdin=theirs,
                stdout=self._said,
                stderr=self._said,
                start_new_session=True,
            )
        self._timer = threading.Timer(_WAITS_S, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def become(
        self, command: Sequence[str], variables: Mapping[str, str], folder: str, output: IO[str]
    ) -> subprocess.Popen | None:
        """Give the process its orders; None where it is none that could be this kernel."""
        self._timer.cancel()
        differing = {name: value for name, value in variables.items() if self._environment.get(name) != value}
        is_another = list(command[:5]) != self._begins or not variables.keys() >= self._environment.keys()
        if is_another or self._process.poll() is not None or os.fstat(self._said.fileno()).st_size:
            self.end()
            return None
        order = {"arguments": command[5:], "folder": folder, "environment": differing}
        try:
            socket.send_fds(self._orders, [json.dumps(order).encode() + b"\n"], [output.fileno()])
        except OSError:  # it has just died
            self.end()
            return None
        self._orders.close()
        self._said.close()
        return self._process

    def _give_up(self) -> None:
        with _lock:
            if self not in _spares:
                return
            _spares.remove(self)
        self.end()

    def end(self) -> None:
        """Let it go."""
        self._timer.cancel()
        with self._orders, self._said:
            self._process.kill()
            self._process.wait()


@atexit.register
def _end_all() -> None:
    while _spares:
        _spares.pop().end()
