"""What the server does beyond the stock one: deaths have reasons, the log holds no secret."""

import logging
from collections.abc import Iterator
from typing import Any, ClassVar

from jupyter_client.ioloop import AsyncIOLoopKernelRestarter
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from lesson import system
from tornado.log import LogFormatter

from workspace.lab import deaths, environment


class DiscreetFormatter(LogFormatter):
    """Keeps the token out of the log, where requests that fail are written with their whole address."""

    token: ClassVar[str]

    def format(self, record: logging.LogRecord) -> str:
        """The line, or the lines of a traceback."""
        return super().format(record).replace(self.token, "REDACTED")


class TellingRestarter(AsyncIOLoopKernelRestarter):
    """Finds out why a kernel died, before it is started again, and writes it to the server's log."""

    _watch: deaths.Watch

    def start(self) -> None:
        """Begin to watch the kernel, which has been started."""
        self._watch = deaths.Watch()
        super().start()

    async def poll(self) -> None:
        """Look whether the kernel lives, every few seconds, and start it again if not."""
        if await self.kernel_manager.is_alive():
            self._watch.lives()
        await super().poll()

    def _fire_callbacks(self, event: str) -> None:
        process = getattr(self.kernel_manager.provisioner, "process", None)
        cause = self._watch.cause(process and process.returncode)
        self.kernel_manager.cause_of_death = cause
        self.log.error("workspace: the kernel %s was %s", self.kernel_manager.kernel_id, cause)
        super()._fire_callbacks(event)


class TellingConnection(ZMQChannelsWebsocketConnection):
    """Writes below the cell that runs why the kernel died, and what else somebody in the lab should know."""

    _packages_were_looked_at: ClassVar[bool] = False
    _running_cell: Any = None
    _told_of_gpu: str | None = None

    def handle_outgoing_message(self, stream: str, outgoing_msg: list[Any]) -> None:
        """Pass a kernel's message on, and remember which cell runs."""
        _, (_, header, parent, *_) = self.session.feed_identities(outgoing_msg)
        begins = b'"execute_input"' in bytes(header)
        if begins:
            self._running_cell = bytes(parent)
        super().handle_outgoing_message(stream, outgoing_msg)
        for line in self._news() if begins else ():
            self.write_stderr(f"workspace: {line}", self.session.unpack(self._running_cell))

    def _news(self) -> Iterator[str]:
        if (lost := system.lost()) != self._told_of_gpu:
            self._told_of_gpu = lost
            if lost:
                yield f"{lost}."
        if not TellingConnection._packages_were_looked_at:  # once: after an upgrade the server is another one
            TellingConnection._packages_were_looked_at = True
            yield from environment.misfits()

    def on_kernel_restarted(self) -> None:
        """Say why before the lab is told that a new kernel starts, and forgets which cell ran."""
        cause = getattr(self.kernel_manager, "cause_of_death", None)
        if cause and self._running_cell:
            self.channels["iopub"].flush()
            self.write_stderr(f"The kernel was {cause}.", self.session.unpack(self._running_cell))
        self._running_cell = None
        super().on_kernel_restarted()
