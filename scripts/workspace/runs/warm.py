"""Kernels without the wait for their imports, which take most of a short run's time.

A process imports what every kernel imports, while the command still imports itself, and forks a kernel for each run.
What is not the same for every kernel comes with its order: its folder, its environment, where its output goes.
"""

import atexit
import contextlib
import json
import os
import select
import signal
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
_ANSWERS_WITHIN_S = 60
"""So long its imports may take, and a fork; then the kernel is started without it."""

_spares: list["_Forker"] = []
_lock = threading.Lock()


def environment() -> dict[str, str]:
    """What a kernel that nobody watches has in its environment, at least."""
    return {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"}


def prepare(kernel: str | None) -> None:
    """Start a process that may fork the `kernel` of a run, if that is the workspace's own."""
    with _lock:  # its time may be over before it is among them
        if forker := _forker_of(kernel):
            _spares.append(forker)


def take(
    kernel: str, command: Sequence[str], variables: Mapping[str, str], folder: str, output: IO[str]
) -> "Forked | None":
    """The `kernel` of `command`, as if it had been started so; None where it cannot be forked."""
    with _lock:
        spare = _spares.pop(0) if _spares else None
    forker = spare or _forker_of(kernel)
    return forker and forker.fork(command, variables, folder, output)


def _forker_of(kernel: str | None) -> "_Forker | None":
    first = os.environ.get("JUPYTER_PATH", "").partition(os.pathsep)[0]  # where Jupyter looks for kernels
    # A relative path means another folder to a process that starts elsewhere.
    absolute = all(map(os.path.isabs, os.environ.get("PYTHONPATH", "/").split(os.pathsep)))
    if kernel in ("python3", "python") and first == str(places.KERNELS) and absolute:
        with contextlib.suppress(OSError):  # it is no more than a help
            return _Forker()
    return None


class _Forker:
    """A process that forks kernels, one after the other."""

    def __init__(self) -> None:
        place = places.KERNELS / "kernels" / "python3"
        argv = json.loads((place / "kernel.json").read_text())["argv"]
        self._begins = [sys.executable, *(word.replace("{resource_dir}", str(place)) for word in argv[1:5])]
        self._environment = environment()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(_ANSWERS_WITHIN_S)
        self._told = self.socket.makefile("rb", buffering=0)  # `select` sees what has not been read
        with theirs:
            self._process = subprocess.Popen(
                [*self._begins[:3], str(Path(__file__).with_name("warm_kernel.py"))],
                cwd="/",
                env=self._environment,
                stdin=theirs,
                stdout=self._said,
                stderr=self._said,
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        self._timer = threading.Timer(_WAITS_S, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def _give_up(self) -> None:
        with _lock:
            if self not in _spares:
                return
            _spares.remove(self)
        self.end()

    def fork(
        self, command: Sequence[str], variables: Mapping[str, str], folder: str, output: IO[str]
    ) -> "Forked | None":
        """Let it fork a kernel; None where that could not be this one, or the process has died or complained."""
        self._timer.cancel()
        differing = {name: value for name, value in variables.items() if self._environment.get(name) != value}
        is_this_one = list(command[:5]) == self._begins and variables.keys() >= self._environment.keys()
        order = {"arguments": command[5:], "folder": folder, "environment": differing}
        with contextlib.suppress(OSError):  # it has just died, or does not answer
            if is_this_one and self.read() == "ready" and not os.fstat(self._said.fileno()).st_size:
                socket.send_fds(self.socket, [json.dumps(order).encode() + b"\n"], [output.fileno()])
                if pid := self.read():
                    return Forked(self, int(pid))
        self.end()
        return None

    def read(self) -> str:
        """The next line that it says, without its end; empty where it has died."""
        return self._told.readline().decode().rstrip()

    def is_free_again(self) -> None:
        """Its kernel has ended: the next run may have it."""
        with _lock:
            _spares.append(self)
        self._wait()

    def end(self) -> None:
        """Let it go."""
        self._timer.cancel()
        with self.socket, self._told, self._said:
            self._process.kill()
            self._process.wait()


class Forked:
    """A kernel's process, to be used as a Popen by those who did not start it."""

    stdin = stdout = stderr = None

    def __init__(self, forker: _Forker, pid: int) -> None:
        self.pid, self.returncode = pid, None
        self._forker, self._lock = forker, threading.Lock()

    def poll(self) -> int | None:
        """Its exit code, as a Popen has it; None while it lives."""
        with self._lock:
            if self.returncode is None and select.select([self._forker.socket], [], [], 0)[0]:
                if status := self._forker.read():
                    self.returncode = os.waitstatus_to_exitcode(int(status))
                    self._forker.is_free_again()
                else:  # the forker was killed, and its kernel ends with it
                    self.returncode = -signal.SIGKILL
                    self._forker.end()
        return self.returncode

    def wait(self) -> int:
        """The same, once it has ended."""
        while self.poll() is None:
            select.select([self._forker.socket], [], [])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it lives."""
        if self.poll() is None:
            os.kill(self.pid, number)


@atexit.register
def _end_all() -> None:
    while _spares:
        _spares.pop().end()
