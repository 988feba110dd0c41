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
from workspace.host import venv
from workspace.lab import environment as lab

_WAITS_S = 60
"""So long the process waits for an order; where runs take longer, what a start takes is no matter."""
_ANSWERS_WITHIN_S = 60
"""So long its imports may take, and a fork; then the kernel is started without it."""

_forker: "_Forker | None" = None
_lock = threading.Lock()


def environment() -> dict[str, str]:
    """What a kernel that nobody watches has in its environment, at least."""
    return {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"}


def prepare(kernel: str | None) -> None:
    """Start the process that may fork the `kernel` of a run, if that is the workspace's own."""
    with _lock:
        _forker_of(kernel)


def take(
    kernel: str, command: Sequence[str], variables: Mapping[str, str], folder: str, output: IO[str]
) -> "Forked | None":
    """The `kernel` of `command`, as if it had been started so; None where it cannot be forked."""
    with _lock:
        forker = _forker_of(kernel)
        return forker and forker.fork(command, variables, folder, output)


def _forker_of(kernel: str | None) -> "_Forker | None":
    """The process that forks such kernels, a new one where there is none any more."""
    global _forker
    first = os.environ.get("JUPYTER_PATH", "").partition(os.pathsep)[0]  # where Jupyter looks for kernels
    # A relative path means another folder to a process that starts elsewhere.
    absolute = all(map(os.path.isabs, os.environ.get("PYTHONPATH", "/").split(os.pathsep)))
    if kernel not in ("python3", "python") or first != str(places.KERNELS) or not absolute:
        return None
    if not _forker or _forker.has_ended:
        with contextlib.suppress(OSError):  # it is no more than a help
            _forker = _Forker()
    return _forker


class _Forker:
    """A process that forks kernels, until nothing has been asked of it for long."""

    def __init__(self) -> None:
        place = places.KERNELS / "kernels" / "python3"
        argv = json.loads((place / "kernel.json").read_text())["argv"]
        self._begins = [sys.executable, *(word.replace("{resource_dir}", str(place)) for word in argv[1:5])]
        self._environment = environment()
        self._orders, theirs = socket.socketpair()
        # Where it complains, its kernels would have.
        with theirs, tempfile.TemporaryFile() as said:
            self._process = subprocess.Popen(
                ["python", str(Path(__file__).with_name("warm_kernel.py")), str(_WAITS_S)],
                cwd="/",
                env=self._environment | venv.variables() | lab.variables(),
                stdin=theirs,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        lab.let_go_first(self._process.pid)

    @property
    def has_ended(self) -> bool:
        """Whether it takes no more orders."""
        return self._process.poll() is not None

    def fork(
        self, command: Sequence[str], variables: Mapping[str, str], folder: str, output: IO[str]
    ) -> "Forked | None":
        """Let it fork a kernel; None where that could not be this one, or the process has died or complained."""
        differing = {name: value for name, value in variables.items() if self._environment.get(name) != value}
        if list(command[:5]) != self._begins or not variables.keys() >= self._environment.keys():
            return None
        order = {"arguments": command[5:], "folder": folder, "environment": differing}
        told, tells = socket.socketpair()
        with contextlib.suppress(OSError):  # it has just ended, or does not answer
            with tells:
                socket.send_fds(self._orders, [b" "], [output.fileno(), tells.fileno()])
            self._orders.sendall(json.dumps(order).encode() + b"\n")
            told.settimeout(_ANSWERS_WITHIN_S)
            return Forked(told)
        told.close()
        return None

    def end(self) -> None:
        """End it, and so its kernels."""
        self._process.kill()
        self._process.wait()


class Forked:
    """A kernel's process, to be used as a Popen by those who did not start it. Raises OSError where there is none."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told.makefile("rb", buffering=0)  # `select` sees what has not been read
        told.close()  # when the file is, too
        if not (pid := self._told.readline()):
            raise BrokenPipeError
        self.pid, self.returncode = int(pid), None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Its exit code, as a Popen has it; None while it lives."""
        with self._lock:
            if self.returncode is None and select.select([self._told], [], [], 0)[0]:
                status = self._told.readline()  # none where the forker was killed: its kernels end with it
                self.returncode = os.waitstatus_to_exitcode(int(status)) if status else -signal.SIGKILL
                self._told.close()
        return self.returncode


@atexit.register
def _end() -> None:
    if _forker:
        _forker.end()
