"""Why the page does not open, found out on the machine of whoever wants to open it.

python3 visitor.py LINK

It is the same as scripts/doctor --of LINK, and one file that needs nothing else: it can be sent to somebody who has no
checkout, and runs in any Python from 3.9 on, in Windows, too.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import ssl
import sys
from collections.abc import Callable
from typing import IO
from urllib.parse import parse_qs, urlsplit

Judge = Callable[[], str]
"""Looks at a layer and says what is well. Raises Trouble where it is not."""

PATIENCE_S = 10
_KERNEL_ANSWERS_WITHIN_S = 60
_TIMEOUT = socket.timeout  # in Python 3.9 a class of its own

_TROUBLES = {  # what is said, and whose move is next
    "name-unknown": (
        "no name server here knows {host}",
        "Your move: is the link typed right, and is there a network? Else the owner's: scripts/start --public-host, "
        "with a name that the world knows, or the address",
    ),
    "timeout": (
        "nothing answers at port {port} within {patience} s: a firewall drops what is sent there, or the machine is "
        "off or has another address",
        "The owner's move: let port {port} in for the visitor's address in the cloud's firewall (on Azure the network "
        "security group). Where no other page opens either, yours: the network here",
    ),
    "refused": (
        "the machine is there, and on port {port} nothing listens to others",
        "The owner's move: scripts/start, where it has ended; where it was started with --bind 127.0.0.1, it is "
        "reached by an SSH tunnel alone",
    ),
    "no-route": (
        "there is no way from here to that address ({said})",
        "Your move: is this machine in the network, such as a VPN, that the other is in? Else the owner's: a firewall "
        "that rejects, such as firewalld, must let port {port} in",
    ),
    "tls-plain": ("port {port} speaks plain http", "Your move: http:// in place of https://"),
    "tls-name": (
        "the certificate is for another name than {host}",
        "The owner's move: scripts/start --tls --public-host {host}",
    ),
    "tls-time": (
        "the certificate is not valid at this time",
        "Your move: is this machine's clock right? Else the owner's: Caddy renews it where ports 80 and 443 are open",
    ),
    "tls-untrusted": (
        "the certificate's authority is not known here, as Caddy's own is not",
        "Your move: ask the owner whether they set it up so; then let the browser go on",
    ),
    "tls-failed": (
        "no encryption is agreed on ({said}), as where Caddy has no certificate for {host}",
        "The owner's move: scripts/start --tls --public-host {host}; `docker compose logs tls` says more",
    ),
    "silent": (
        "the connection is taken and nothing is said within {patience} s: the workspace is paused or stuck",
        "The owner's move: scripts/doctor there, or scripts/stop and scripts/start",
    ),
    "cut-off": (
        "the connection is closed without an answer ({said}): the workspace starts or is gone, or it speaks https",
        "Your move: wait a moment, try https://. Then the owner's: scripts/doctor there",
    ),
    "plain-to-tls": ("port {port} speaks https", "Your move: https:// in place of http://"),
    "behind-proxy": (
        "a proxy answers ({said}), and the workspace behind it does not",
        "The owner's move: scripts/doctor there",
    ),
    "somebody-else": (
        "something else than a workspace answers ({said})",
        "Your move: is it the link's port? In a hotel or a company, sign in to the network first",
    ),
    "token-missing": ("the link has no token", "The owner's move: scripts/link prints the whole link"),
    "token-wrong": (
        "the token is not this workspace's: it was rotated, or is another's",
        "The owner's move: scripts/link prints the link of today",
    ),
    "server-error": ("the server answers {said}", "The owner's move: scripts/doctor there"),
    "no-lock": ("whoever has no token is let in, too", "The owner's move: scripts/stop, at once"),
    "kernel-not-started": ("the server starts no kernel ({said})", "The owner's move: scripts/doctor there"),
    "kernel-silent": (
        "a kernel was started and says nothing",
        "The owner's move: is there memory left? scripts/doctor there",
    ),
    "websocket-cut": (
        "pages come through and websockets do not ({said}): a proxy in between drops their upgrade, so cells "
        "never answer",
        "The owner's move: the proxy in front must pass on the headers Connection and Upgrade (nginx: "
        "proxy_http_version 1.1 and both headers). If it is your network's, yours: https, or an SSH tunnel",
    ),
}


class Trouble(Exception):  # noqa: N818  (reads as what it says)
    """A layer is not as it should be: of which kind, and what to say."""

    def __init__(self, kind: str, **values: object) -> None:
        what, move = _TROUBLES[kind]
        self.kind, self.text = kind, f"{what}. {move}".format(**values, patience=PATIENCE_S)
        self.state = "warning" if kind == "tls-untrusted" else "broken"
        super().__init__(self.text)


class Visit:
    """The way from here to the lab of a link, layer by layer; to `address`, where its name is not to be looked up.

    Raises ValueError where the link is none.
    """

    def __init__(self, link: str, address: str | None = None) -> None:
        parts = urlsplit(link if "://" in link else f"http://{link}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("that is no link such as http://my-machine:8888/?token=...")
        self._tls = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port or (443 if self._tls else 80)
        self._address = address or self._host
        self._token = parse_qs(parts.query).get("token", [""])[0]
        named = [] if address else [("name", self._name)]
        way: list[tuple[str, Judge]] = [("connection", self._connection), ("TLS", self._encryption)]
        lab = [
            ("server", self._server),
            ("token", self._lock),
            ("websocket", self._websocket),
            ("kernel", self._kernel),
        ]
        self.layers: list[tuple[str, Judge]] = [*named, *way, *lab]

    def _trouble(self, kind: str, said: object = "") -> Trouble:
        return Trouble(kind, host=self._host, port=self._port, said=said)

    def _name(self) -> str:
        try:
            found = {entry[4][0] for entry in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)}
        except (OSError, UnicodeError):
            raise self._trouble("name-unknown") from None
        return f"{self._host} is {', '.join(sorted(map(str, found)))}"

    def _connection(self) -> str:
        try:
            self._connect(encrypted=False).close()
        except _TIMEOUT:
            raise self._trouble("timeout") from None
        except ConnectionRefusedError:
            raise self._trouble("refused") from None
        except OSError as error:
            raise self._trouble("no-route", _reason(error)) from None
        return f"port {self._port} is open"

    def _encryption(self) -> str:
        if not self._tls:
            return "none, the link being http: whoever watches the network can read the token"
        try:
            self._connect().close()
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message
            kinds = {"mismatch": "tls-name", "expired": "tls-time", "not yet valid": "tls-time"}
            raise self._trouble(next((kind for word, kind in kinds.items() if word in why), "tls-untrusted")) from None
        except OSError as error:
            plain = any(name in str(error) for name in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER"))
            raise self._trouble("tls-plain" if plain else "tls-failed", _reason(error)) from None
        return "the certificate is trusted here"

    def _server(self) -> str:
        status, body = self._ask("/api")
        if not self._tls and (status == 308 or (status == 400 and b"HTTPS" in body)):  # Caddy at port 80, and at 443
            raise self._trouble("plain-to-tls")
        if status in (502, 503, 504):
            raise self._trouble("behind-proxy", status)
        try:
            return f"Jupyter server {json.loads(body)['version']}"
        except (ValueError, TypeError, KeyError):
            raise self._trouble("somebody-else", status) from None

    def _lock(self) -> str:
        if not self._token:
            raise self._trouble("token-missing")
        status, _ = self._ask("/api/status", token=self._token)
        if status != 200:
            raise self._trouble("token-wrong" if status == 403 else "server-error", status)
        if self._ask("/api/status")[0] == 200:
            raise self._trouble("no-lock")
        return "it is taken, and who has none is not let in"

    def _websocket(self) -> str:
        stream, reader = self._upgrade("/api/events/subscribe")
        reader.close()
        stream.close()
        return "cells' answers come through"

    def _kernel(self) -> str:
        status, body = self._ask("/api/kernels", "POST", self._token)
        if status != 201:
            raise self._trouble("kernel-not-started", status)
        kernel = json.loads(body)["id"]
        header = {"msg_id": "1", "msg_type": "kernel_info_request", "username": "", "session": "", "version": "5.3"}
        asked = {"header": header, "parent_header": {}, "metadata": {}, "content": {}, "channel": "shell"}
        try:
            stream, reader = self._upgrade(f"/api/kernels/{kernel}/channels")
            with stream, reader:
                stream.sendall(_frame(json.dumps(asked).encode()))
                while b"kernel_info_reply" not in _read_frame(reader):
                    pass
        except (OSError, EOFError):
            raise self._trouble("kernel-silent") from None
        finally:
            with contextlib.suppress(Trouble):
                self._ask(f"/api/kernels/{kernel}", "DELETE", self._token)
        return "one was started, answered and ended"

    def _connect(self, *, encrypted: bool = True, verified: bool = True) -> socket.socket:
        plain = socket.create_connection((self._address, self._port), PATIENCE_S)
        if not (self._tls and encrypted):
            return plain
        context = ssl.create_default_context()
        if not verified:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            return context.wrap_socket(plain, server_hostname=self._host)
        except BaseException:
            plain.close()
            raise

    def _ask(self, path: str, method: str = "GET", token: str = "") -> tuple[int, bytes]:
        """A request's status and body; whoever signed the certificate, which was judged before. Raises Trouble."""
        try:
            with contextlib.closing(http.client.HTTPConnection(self._host, self._port)) as connection:
                connection.sock = self._connect(verified=False)
                connection.request(method, path, headers={"Authorization": f"token {token}"} if token else {})
                answer = connection.getresponse()
                return answer.status, answer.read(1 << 20)
        except _TIMEOUT:
            raise self._trouble("silent") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._trouble("cut-off", _reason(error)) from None

    def _upgrade(self, path: str) -> tuple[socket.socket, IO[bytes]]:
        """A websocket, and what to read it by. Raises Trouble where something in between does not let it through."""
        try:
            stream = self._connect(verified=False)
        except OSError as error:
            raise self._trouble("cut-off", _reason(error)) from None
        stream.settimeout(_KERNEL_ANSWERS_WITHIN_S)  # the server waits for the kernel first
        host = f"[{self._host}]" if ":" in self._host else self._host
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{self._port}", f"Authorization: token {self._token}"]
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        reader = stream.makefile("rb")
        try:
            stream.sendall("\r\n".join([*lines, "", ""]).encode())
            said = reader.readline(1000).decode("latin-1").strip() or "closed"
            while reader.readline(10000).strip():
                pass
        except OSError as error:
            said = _reason(error)
        if " 101" not in said:
            reader.close()
            stream.close()
            raise self._trouble("websocket-cut", said)
        return stream, reader


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error or type(error).__name__)


def _frame(payload: bytes) -> bytes:
    """A websocket's text message, masked as a client's must be: https://www.rfc-editor.org/rfc/rfc6455#section-5.2."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    return b"\x81" + bytes([0x80 | 126]) + len(payload).to_bytes(2, "big") + mask + masked


def _read_frame(reader: IO[bytes]) -> bytes:
    """The next message, or a part of one. Raises EOFError where there is none."""
    head = reader.read(2)
    if len(head) < 2 or head[0] & 0x0F == 8:  # closed
        raise EOFError
    size = head[1] & 0x7F
    if size > 125:
        size = int.from_bytes(reader.read(2 if size == 126 else 8), "big")
    return reader.read(size)


def main(arguments: list[str]) -> int:
    """The command line; 0 well, 1 broken, 2 wrong use."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write(__doc__ or "")
        return 2
    try:
        layers = Visit(arguments[0]).layers
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    broken = ""
    for layer, judge in layers:
        state, text = "not looked at", f"because {broken} comes first"
        if not broken:
            try:
                state, text = "ok", judge()
            except Trouble as trouble:
                state, text = trouble.state, trouble.text
                broken = layer if state == "broken" else ""
        print(f"{layer:12} {state}: {text}", flush=True)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
