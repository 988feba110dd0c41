"""The kernel of a run: started beside others without a race for ports, used as soon as it answers, ended on time.

papermill and what it stands on are made for one notebook that somebody watches. For many short ones that nobody does,
the parts here take the place of theirs, in an engine that papermill knows by the name ENGINE.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from queue import Empty
from typing import Any, TextIO

import zmq
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from lesson.parameters import Computed
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from papermill.log import logger
from papermill.translators import PythonTranslator, papermill_translators

from workspace.lab import deaths
from workspace.runs import folders, reading, warm
from workspace.runs.notebook import installed_kernels

ENGINE = LANGUAGE = "workspace"

_WAITS_TO_BE_READ = (
    "--IPKernelApp.exec_lines=(lambda out: out.schedule(lambda: out.socket.set(69, 1)))"
    "(get_ipython().kernel.iopub_socket.io_thread)"
)
"""Lets a kernel's prints wait for who reads them (ZMQ_XPUB_NODROP, 69); ipykernel drops all beyond 1000."""

_FINALLY_S = {folders.STOPPED: 5, folders.TIMED_OUT: 0.6}
"""What a cell gets between KeyboardInterrupt and the end: a limit in time is one to the second."""

_ENDS_WITHIN_S = 5
"""What a kernel that is asked to end gets for what it does at its exit."""


class Kernel:
    """The process of a run's kernel, from when it starts, with all that it starts itself."""

    def __init__(self) -> None:
        self.busy = False  # whether a cell runs
        self._process: subprocess.Popen | warm.Forked | None = None
        self._deaths = deaths.Watch()

    def started(self, process: subprocess.Popen | warm.Forked) -> None:
        """Take note of the process."""
        self._process = process

    @property
    def has_started(self) -> bool:
        """Whether there is a process yet."""
        return self._process is not None

    def send(self, number: int) -> None:
        """Send a signal to the process and to all that it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)  # Jupyter gives each kernel a session of its own

    def note(self) -> None:
        """Note that it lives, if it does."""
        if self._process is not None and self._process.poll() is None:
            self._deaths.lives()

    def end(self) -> None:
        """Kill it, with whatever the notebook has left behind."""
        self.send(signal.SIGKILL)

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
            if self.verdict and self._kernel.has_started:
                self._kernel.send(signal.SIGINT)
                if not self._over.wait(_FINALLY_S[self.verdict[0]]):
                    self._kernel.send(signal.SIGKILL)
                return


def manager(sockets: Path, environment: dict[str, str], beside: TextIO, kernel: Kernel) -> type[AsyncKernelManager]:
    """Kernels that listen on files in `sockets`: TCP ports are raced for by kernels that start at the same time.

    What they print arrives as output. What they say before and after their life as kernels goes to `beside`; there
    ipykernel repeats what their child processes print.
    """

    class Manager(AsyncKernelManager):
        def __init__(self, **traits: object) -> None:
            super().__init__(**traits, kernel_spec_manager=installed_kernels())
            self.client_factory = _Client
            self.connection_file = str(sockets / "kernel.json")
            self.transport = "ipc"
            self.ip = str(sockets / "socket")

        async def start_kernel(self, *, extra_arguments: Iterable[str] = (), **options: object) -> None:
            self.provisioner = _Provisioner(kernel_id="", kernel_spec=self.kernel_spec, parent=self)
            options |= {"env": warm.environment() | environment, "stdout": beside, "stderr": beside}
            extra = [*extra_arguments, *([_WAITS_TO_BE_READ] if self.ipykernel else [])]
            await super().start_kernel(extra_arguments=extra, **options)
            kernel.started(self.provisioner.process)

        async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:  # noqa: ARG002
            # The stock method interrupts a kernel first, at work or not: one between two cells complains of that.
            if kernel.busy:
                kernel.send(signal.SIGINT)
            # Asked to end over the control channel, ipykernel 7.4 deadlocks in one case of ten, for three seconds: the
            # channel's thread reports to another that has gone. The shell channel has no thread of its own.
            shell = self.connect_shell()
            self.session.send(shell, self.session.msg("shutdown_request", content={"restart": False}))
            give_up = time.monotonic() + _ENDS_WITHIN_S
            while await self.is_alive() and time.monotonic() < give_up:
                await asyncio.sleep(0.002)  # a short run consists of little else than such waits
            kernel.end()
            shell.close(linger=0)
            await self.cleanup_resources()

    return Manager


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


class NotebookClient(PapermillNotebookClient):
    """Notices at once that its kernel has died, where the stock one looks once a second."""

    async def _async_poll_kernel_alive(self) -> None:
        with contextlib.suppress(DeadKernelError):
            while True:
                await asyncio.sleep(0.05)
                await self._async_check_alive()
        self.task_poll_for_reply.cancel()


class _Engine(Engine):
    """papermill's own engine, with the client above."""

    @classmethod
    def execute_notebook(
        cls, nb: NotebookNode, kernel_name: str, *, source: str, input_path: object, **options: object
    ) -> NotebookNode:
        """Run it; `source` is where it came from, which is written into it."""
        # papermill has put the notebook itself there, and among the parameters perhaps what JSON cannot hold.
        del input_path
        about = nb.metadata.papermill
        about |= {"input_path": source, "parameters": reading.plain(about.get("parameters", {}))}
        return super().execute_notebook(nb, kernel_name, **options)

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, *, start_timeout: int, **options: object
    ) -> None:
        """Let the client run it, whose `options` are."""
        client = NotebookClient(nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, log=logger, **options)
        client.execute()


class _Literals(PythonTranslator):
    """Writes each value as Python reads it; papermill's own makes strings of tuples, sets and a dict's keys."""

    @classmethod
    def translate(cls, val: object) -> str:
        match val:
            case Computed():
                return str(val)
            case tuple():
                return f"({''.join(f'{cls.translate(item)}, ' for item in val).strip()})"
            case set():
                return f"{{{', '.join(map(cls.translate, val))}}}" if val else "set()"
            case dict():
                return f"{{{', '.join(f'{cls.translate(key)}: {cls.translate(item)}' for key, item in val.items())}}}"
            case bytes() | complex():
                return repr(val)
        return super().translate(val)


papermill_engines.register(ENGINE, _Engine)
papermill_translators.register(LANGUAGE, _Literals)
