"""The kernel of a run: started beside others without a race for ports, used as soon as it answers, ended on time.

Jupyter's own parts are made for one notebook that somebody watches; those here, for many short ones that nobody does.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from queue import Empty
from typing import Any, TextIO

import zmq
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import LocalProvisioner
from jupyter_core.paths import jupyter_path

from workspace.base.programs import wait_until
from workspace.lab import deaths
from workspace.runs import folders, warm

_OF_IPYKERNEL = [
    "--HistoryManager.hist_file=:memory:",
    # Prints wait for who reads them (ZMQ_XPUB_NODROP, 69); ipykernel drops all beyond 1000.
    "--IPKernelApp.exec_lines=(lambda out: out.schedule(lambda: out.socket.set(69, 1)))"
    "(get_ipython().kernel.iopub_socket.io_thread)",
]

_FINALLY_S = {folders.STOPPED: 5, folders.TIMED_OUT: 0.6}
"""What a cell gets between KeyboardInterrupt and the end: a limit in time is one to the second."""

_ENDS_WITHIN_S = 5
"""What a kernel that is asked to end gets for what it does at its exit."""


class InstalledKernels(KernelSpecManager):
    """The kernels that there are, but for those in IPython's own folder, as before 2015: IPython's import is saved."""

    def __init__(self) -> None:
        super().__init__(kernel_dirs=jupyter_path("kernels"))

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernel of this name. Raises NoSuchKernel."""
        # The stock method looks through all packages for ways to start a kernel elsewhere, of which none is used here.
        folder = self.find_kernel_specs().get(kernel_name.lower())
        if folder is None:
            raise NoSuchKernel(kernel_name)
        return KernelSpec.from_resource_dir(folder)


class Kernel:
    """A run's kernel, with all that it starts itself.

    It listens on files: TCP ports are raced for by kernels that start at the same time. What it prints arrives as
    output. What it says before and after its life as a kernel goes to `beside`, where ipykernel repeats what its child
    processes print.
    """

    def __init__(self, name: str, folder: Path, environment: dict[str, str], beside: TextIO) -> None:
        self.busy = False  # whether a cell runs
        self._sockets = Path(tempfile.mkdtemp(prefix="run-"))  # short: a socket's path may have 107 characters
        self.manager = KernelManager(
            kernel_name=name,
            kernel_spec_manager=InstalledKernels(),
            client_factory=_Client,
            connection_file=str(self._sockets / "kernel.json"),
            transport="ipc",
            ip=str(self._sockets / "socket"),
        )
        environment = warm.environment() | environment
        self._options = {"cwd": str(folder), "env": environment, "stdout": beside, "stderr": beside}
        self._process: subprocess.Popen | warm.Forked | None = None
        self._deaths = deaths.Watch()

    def start(self) -> None:
        """Start it. Raises OSError where its program cannot be started."""
        manager = self.manager
        manager.provisioner = _Provisioner(kernel_id="", kernel_spec=manager.kernel_spec, parent=manager)
        manager.start_kernel(extra_arguments=_OF_IPYKERNEL if manager.ipykernel else [], **self._options)
        self._process = manager.provisioner.process

    @property
    def lives(self) -> bool:
        """Whether it has started and not ended."""
        return self._process is not None and self._process.poll() is None

    def send(self, number: int) -> None:
        """Send a signal to the process and to all that it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)  # Jupyter gives each kernel a session of its own

    def note(self) -> None:
        """Note that it lives, if it does."""
        if self.lives:
            self._deaths.lives()

    def end(self) -> None:
        """Let it end, and kill it if it does not, with whatever the notebook has left behind."""
        if self.lives:
            if self.busy:
                self.send(signal.SIGINT)
            # Asked to end over the control channel, ipykernel 7.4 deadlocks in one case of ten, for three seconds: the
            # channel's thread reports to another that has gone. The shell channel has no thread of its own.
            session, shell = self.manager.session, self.manager.connect_shell()
            session.send(shell, session.msg("shutdown_request", content={"restart": False}))
            wait_until(lambda: not self.lives, _ENDS_WITHIN_S, every_s=0.002)  # a short run is little but such waits
            shell.close(linger=0)
        self.send(signal.SIGKILL)
        self.manager.cleanup_resources()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def cause_of_death(self) -> str:
        """Why it ended, as far as anybody can say."""
        return self._deaths.cause(self._process.returncode if self._process else None)


class Watchdog:
    """Ends the kernel when its time is over or the run is cancelled; `verdict` then says so."""

    def __init__(self, timeout_s: float | None, cancel: threading.Event, kernel: Kernel) -> None:
        self.verdict: tuple[str, str] | None = None
        self._timeout_s, self._cancel, self._kernel = timeout_s, cancel, kernel
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """The run has ended by itself, or after the watchdog's doing."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        give_up = time.monotonic() + (self._timeout_s or float("inf"))
        note_at = time.monotonic()
        while not self._over.wait(0.05):
            if time.monotonic() >= note_at:
                self._kernel.note()
                note_at += 1
            if self._cancel.is_set():
                self.verdict = folders.STOPPED, "stopped before its end"
            elif time.monotonic() >= give_up:
                self.verdict = folders.TIMED_OUT, f"longer than the {self._timeout_s:g} s it was given"
            if self.verdict and self._kernel.lives:
                self._kernel.send(signal.SIGINT)
                if not self._over.wait(_FINALLY_S[self.verdict[0]]):
                    self._kernel.send(signal.SIGKILL)
                return


class _Provisioner(LocalProvisioner):
    """Has its kernel forked by a process that has imported already, where that can be."""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> KernelConnectionInfo:  # noqa: ANN401
        process = warm.take(self.parent.kernel_name, cmd, options["env"], options["cwd"], options["stdout"])
        if process is None:
            return await super().launch_kernel(cmd, **options)
        self.process, self.pid, self.pgid, self.cwd = process, process.pid, process.pid, Path(options["cwd"])
        return self.connection_info


class _Shell(AsyncZMQSocketChannel):
    """Hears what comes while it speaks.

    The stock channel sends past asyncio's socket. ZeroMQ signals what arrives in that moment to the one that sends, and
    who waits by asyncio is never told: a cell that has ended seems to run for ever, as those with widgets do, whose
    output is sent back to the kernel. To ask for the socket's events afterwards tells it, too:
    https://libzmq.readthedocs.io/en/latest/zmq_getsockopt.html (ZMQ_FD)
    """

    def send(self, msg: dict[str, Any]) -> None:
        super().send(msg)
        self.socket.get(zmq.EVENTS)


class _Client(AsyncKernelClient):
    """Is ready as soon as the kernel answers and is heard; the stock one first listens in vain for 0.2 s."""

    def __init__(self, **traits: object) -> None:
        super().__init__(**traits)
        self.shell_channel_class = _Shell
        self.context.setsockopt(zmq.RECONNECT_IVL, 2)  # tries in vain until the kernel has made its sockets
        self.context.setsockopt(zmq.RCVHWM, 0)  # what a cell prints faster than it is read waits, and is not dropped

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        give_up = time.monotonic() + (timeout or float("inf"))
        while not await self._answers():
            if not await self.is_alive():
                raise RuntimeError("Kernel died before replying to kernel_info")
            if time.monotonic() > give_up:
                raise RuntimeError(f"Kernel didn't respond in {timeout:g} seconds")

    async def _answers(self) -> bool:
        question = self.kernel_info()
        try:
            while (await self.shell_channel.get_msg(timeout=1))["parent_header"].get("msg_id") != question:
                pass
            await self.iopub_channel.get_msg(timeout=0.2)  # anything shows that this channel is connected, too
        except Empty:
            return False
        return True
