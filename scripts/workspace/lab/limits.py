"""What a stranger, a slow reader or a long log may cost the server, where the stock one sets no bound."""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import stat
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from jupyter_server_terminals.terminalmanager import TerminalManager
from tornado import httputil
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, stream_request_body

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp
    from terminado.management import PtyWithClients

LARGEST_SAVE = 512 << 20
"""Bytes of a request of somebody who is signed in, as in the stock server. The server holds some four times as much."""

LARGEST_MESSAGE = 64 << 20
"""Bytes of what a browser sends to a kernel at once, such as a picture; past the stock 10 MB the connection closes."""

_STRANGERS_LARGEST = 1 << 20
_STRANGERS_SEND_WITHIN_S = 60
_NEXT_REQUEST_WITHIN_S = 150  # longer than browsers and Caddy (two minutes) keep a connection that they do not use
_SLOWEST_READER_S = 60
_MOST_KEPT_FOR_BROWSER = 16 << 20
_LONGEST_LOG, _LOG_KEPT = 10 << 20, 1 << 20
_TIDIED_EVERY_S = 10


def guard(app: "ServerApp") -> None:
    """Set the bounds, once the server is made."""
    server = app.http_server
    server.conn_params.header_timeout = _NEXT_REQUEST_WITHIN_S
    server.conn_params.body_timeout = _STRANGERS_SEND_WITHIN_S
    server.conn_params.max_body_size = _STRANGERS_LARGEST
    server.request_callback = _BodyLimits(app.web_app)
    PeriodicCallback(shorten_log, _TIDIED_EVERY_S * 1000).start()
    PeriodicCallback(give_back_memory, _TIDIED_EVERY_S * 1000).start()


class _BodyLimits(httputil.HTTPServerConnectionDelegate):
    """Asks who it is that sends a large body before the body is read; the stock server asks afterwards."""

    def __init__(self, application: Any) -> None:  # noqa: ANN401  (the server's, or a test's)
        self._application = application

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> "_LimitedRequest":
        delegate = self._application.start_request(server_conn, request_conn)
        return _LimitedRequest(self._application, delegate, request_conn)

    def on_close(self, server_conn: object) -> None:
        self._application.on_close(server_conn)


class _LimitedRequest(httputil.HTTPMessageDelegate):
    def __init__(self, application: Any, delegate: httputil.HTTPMessageDelegate, connection: Any) -> None:  # noqa: ANN401
        self._application, self._delegate, self._connection = application, delegate, connection

    async def headers_received(self, start_line: httputil.RequestStartLine, headers: httputil.HTTPHeaders) -> None:
        announced = headers.get("Content-Length", "0")
        size = int(announced) if announced.isdecimal() else 0
        if size > _STRANGERS_LARGEST or "Transfer-Encoding" in headers:
            request = httputil.HTTPServerRequest(connection=self._connection, start_line=start_line, headers=headers)
            handler = JupyterHandler(self._application, request)
            if await handler.identity_provider.get_user(handler):
                self._connection.set_body_timeout(None)
                self._connection.set_max_body_size(max(size, LARGEST_SAVE))
                if size > LARGEST_SAVE:
                    self._delegate = self._application.get_handler_delegate(request, _TooLargeHandler)
        done = self._delegate.headers_received(start_line, headers)
        if done is not None:
            await done

    def data_received(self, chunk: bytes) -> Any:  # noqa: ANN401
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()


@stream_request_body
class _TooLargeHandler(APIHandler):
    """Lets a body that is too large arrive, keeping none of it: browsers hear no answer while they send."""

    def data_received(self, chunk: bytes) -> None:
        pass

    def put(self) -> None:
        size, most = int(self.request.headers["Content-Length"]) >> 20, LARGEST_SAVE >> 20
        raise HTTPError(
            413,
            f"It has {size} MB, and the server takes {most} MB at most (LARGEST_SAVE). It is NOT saved, and stands in "
            "this tab alone. Clear what fills it, with Edit, Clear Outputs of All Cells, and save again.",
        )

    post = patch = put


class FlowControlledTerminals(TerminalManager):
    """Reads from a terminal's program only as fast as the browser takes it, as ssh does.

    The stock manager keeps in memory whatever was not sent yet. A browser that takes nothing for a minute is let go.
    """

    def pty_read(self, fd: int, events: Any = None) -> None:  # noqa: ANN401
        """Send on what there is to read, and read no more before it has gone out."""
        super().pty_read(fd, events)
        terminal = self.ptys_by_fd.get(fd)
        if terminal and any(_stream(client).writing() for client in terminal.clients if _stream(client)):
            IOLoop.current().remove_handler(fd)
            IOLoop.current().add_callback(self._read_on, fd, terminal)

    async def _read_on(self, fd: int, terminal: "PtyWithClients") -> None:
        await asyncio.gather(*map(_let_go_unless_it_reads, terminal.clients))
        if self.ptys_by_fd.get(fd) is terminal:
            IOLoop.current().add_handler(fd, self.pty_read, IOLoop.READ)


async def _let_go_unless_it_reads(client: Any) -> None:  # noqa: ANN401
    if stream := _stream(client):
        try:
            await asyncio.wait_for(stream.write(b""), _SLOWEST_READER_S)  # done when all before it is
        except TimeoutError:
            stream.close()
        except StreamClosedError:
            pass


def _stream(client: Any) -> Any:  # noqa: ANN401
    """The connection of a browser to a terminal, None once it is closed."""
    return client.ws_connection and client.ws_connection.stream


class BoundedBufferKernels(AsyncMappingKernelManager):
    """Keeps what kernels say while no browser listens, but no more than the last of it: the stock manager keeps all."""

    def start_buffering(self, kernel_id: str, session_key: str, channels: dict[str, Any]) -> None:
        """Keep messages from now on until a browser is back."""
        super().start_buffering(kernel_id, session_key, channels)
        if kernel_id in self._kernel_buffers:
            self._kernel_buffers[kernel_id]["buffer"] = _BoundedBuffer()


class _BoundedBuffer(deque):
    """The last messages, of so many bytes in all; how a cell ended is among them."""

    _size = 0

    def append(self, message: tuple[str, list[Any]]) -> None:
        super().append(message)
        self._size += _bytes(message)
        while self._size > _MOST_KEPT_FOR_BROWSER:
            self._size -= _bytes(self.popleft())


def _bytes(message: tuple[str, list[Any]]) -> int:
    return sum(map(len, message[1]))


def give_back_memory() -> None:
    """Let the system have what a load took and has freed: glibc keeps it, where anything is left above it."""
    with contextlib.suppress(AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def shorten_log(descriptor: int | None = None) -> None:
    """Where the log is a plain file, as natively, keep its last part once it is too long; Docker bounds its own."""
    descriptor = sys.stderr.fileno() if descriptor is None else descriptor
    log = os.fstat(descriptor)
    if not stat.S_ISREG(log.st_mode) or log.st_size <= _LONGEST_LOG:
        return
    kept = b"\n"
    with contextlib.suppress(OSError), Path(f"/dev/fd/{descriptor}").open("rb") as file:
        file.seek(log.st_size - _LOG_KEPT)
        kept = file.read()
    # Kernels write there, too: from now on all do so at its end, wherever that is.
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, b"[the log was long; its beginning is gone]\n" + kept.partition(b"\n")[2])
