"""Programs and servers in place of those that cannot be had on demand."""

import contextlib
import http.server
import os
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path


def program(file: Path, script: str) -> None:
    """Make the file a program that does this."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def fake_docker(folder: Path, script: str) -> dict[str, str]:
    """An environment in which `docker` is this script."""
    program(folder / "docker", script)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@contextlib.contextmanager
def serving(server: http.server.HTTPServer, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a server on this machine, which serves as long as the block lasts, and logs nothing."""
    server.RequestHandlerClass.log_message = lambda *_: None
    with server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{server.server_port}"
        server.shutdown()
