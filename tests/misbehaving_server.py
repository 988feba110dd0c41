"""A real HTTP server on 127.0.0.1 that serves one file in every way in which a mirror can let one down."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

PORTAL = b"<html><body>Please log in to the guest network</body></html>"


@dataclass
class MisbehavingServer:
    """Serves `content`; the first part of a request's path names the behaviour, as in `url("stall")`."""

    content: bytes
    port: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Every request so far: its path and its Range header, which may be empty."""
    at_half: threading.Event = field(default_factory=threading.Event)
    """Set once half of the file has left at `pause`."""
    resume: threading.Event = field(default_factory=threading.Event)
    """Set it and `pause` and `stall` go on."""

    def url(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.port}/{behaviour}/cifar-10-python.tar.gz"

    def asked(self, behaviour: str) -> list[str]:
        """The Range headers of the requests that came for a behaviour."""
        return [range_ for path, range_ in self.requests if path.split("/")[1] == behaviour]

    @contextmanager
    def running(self, certificate: Path | None = None) -> Iterator["MisbehavingServer"]:
        """Serve in a thread, over TLS if there is a file of certificate and key."""
        handler = type("Handler", (_Handler,), {"site": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # clients that hang up are what this is about
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.resume.set()
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    site: ClassVar[MisbehavingServer]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        # A proxy is asked for whole addresses.
        path = "/" + self.path.split("//", 1)[1].split("/", 1)[1] if self.path.startswith("http") else self.path
        self.site.requests.append((path, self.headers.get("Range", "")))
        behaviour = path.split("/")[1]
        if behaviour.isdecimal():
            self.send_error(int(behaviour))
        else:
            _BEHAVIOURS[behaviour](self)

    def start(self, *, ranges: bool = True, size: int | None = None, kind: str = "application/gzip") -> int:
        """Send the head of a proper answer and return where in the file the body is to begin."""
        size = len(self.site.content) if size is None else size
        asked = self.headers.get("Range", "") if ranges else ""
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - begin))
        self.send_header("Content-Type", kind)
        self.end_headers()
        return begin

    def send(self, begin: int, end: int | None = None) -> None:
        self.wfile.write(self.site.content[begin:end])
        self.wfile.flush()


_BEHAVIOURS: dict[str, Callable[[_Handler], None]] = {}


def _behaviour(answer: Callable[[_Handler], None]) -> Callable[[_Handler], None]:
    _BEHAVIOURS[answer.__name__.strip("_").replace("_", "-")] = answer
    return answer


@_behaviour
def _good(handler: _Handler) -> None:
    handler.send(handler.start())


@_behaviour
def _labelled(handler: _Handler) -> None:
    """A file that is compressed, sent by a server that takes this for its own doing."""
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", str(len(handler.site.content)))
    handler.end_headers()
    handler.send(0)


@_behaviour
def _slow(handler: _Handler, kb_per_s: float = 100) -> None:
    begin = handler.start()
    for position in range(begin, len(handler.site.content), 2000):
        handler.send(position, position + 2000)
        time.sleep(2 / kb_per_s)


@_behaviour
def _crawl(handler: _Handler) -> None:
    _slow(handler, 10)


@_behaviour
def _stall(handler: _Handler) -> None:
    """Half of the file, then nothing, and the connection stays open."""
    begin = handler.start()
    handler.send(begin, max(begin, len(handler.site.content) // 2))
    handler.site.resume.wait(30)


@_behaviour
def _silent(handler: _Handler) -> None:
    handler.site.resume.wait(30)


@_behaviour
def _pause(handler: _Handler) -> None:
    """Half of the file, and the rest once the test says so."""
    begin = handler.start()
    half = max(begin, len(handler.site.content) // 2)
    handler.send(begin, half)
    handler.site.at_half.set()
    handler.site.resume.wait(30)
    handler.send(half)


@_behaviour
def _cut(handler: _Handler) -> None:
    """A third of the file, then the connection closes; the next request may ask for the rest."""
    begin = handler.start()
    handler.send(begin, begin + len(handler.site.content) // 3)


@_behaviour
def _cut_stubborn(handler: _Handler) -> None:
    """A third of the file, always the first."""
    handler.start(ranges=False)
    handler.send(0, len(handler.site.content) // 3)


@_behaviour
def _no_ranges(handler: _Handler) -> None:
    handler.start(ranges=False)
    handler.send(0)


@_behaviour
def _wrong_range(handler: _Handler) -> None:
    """Another part than was asked for."""
    size = len(handler.site.content)
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 0-{size - 1}/{size}")
    handler.send_header("Content-Length", str(size))
    handler.end_headers()
    handler.send(0)


@_behaviour
def _redirect(handler: _Handler) -> None:
    handler.send_response(302)
    handler.send_header("Location", handler.site.url("good"))
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@_behaviour
def _loop(handler: _Handler) -> None:
    handler.send_response(302)
    handler.send_header("Location", handler.site.url("loop"))
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@_behaviour
def _portal(handler: _Handler) -> None:
    """The login page of a hotel's network, which answers everything with 200."""
    handler.start(ranges=False, size=len(PORTAL), kind="text/html")
    handler.wfile.write(PORTAL)


@_behaviour
def _portal_unsized(handler: _Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    handler.wfile.write(PORTAL)


@_behaviour
def _flipped(handler: _Handler) -> None:
    """The right length, and one byte wrong in the part that `_cut` sends first."""
    begin = handler.start()
    wrong = bytearray(handler.site.content)
    wrong[len(wrong) // 5] ^= 1
    handler.wfile.write(wrong[begin:])


@_behaviour
def _flipped_cut(handler: _Handler) -> None:
    """As `_flipped`, but only a third of the file, and no more when asked again."""
    handler.start(ranges=False)
    wrong = bytearray(handler.site.content)
    wrong[len(wrong) // 5] ^= 1
    handler.wfile.write(wrong[: len(wrong) // 3])


@_behaviour
def _longer(handler: _Handler) -> None:
    handler.start(ranges=False, size=len(handler.site.content) + 10)
    handler.send(0)
    handler.wfile.write(b"0123456789")
