"""What the server takes under loads that no learner makes alone: memory, descriptors, seconds, before and after.

It starts a server of its own on 127.0.0.1, in folders of its own. What goes on growing misses its bound.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workspace.base import cli, places, programs
from workspace.base.cli import UserError
from workspace.base.programs import wait_until
from workspace.base.terminal import StatusLine
from workspace.bench.measuring import Table, free_port

_STARTS_WITHIN_S = 120
_SETTLES_WITHIN_S = 30
_MOST_MEMORY = 400 << 20  # a cell that prints as fast as it can has messages of many MB on the way
_MOST_MEMORY_LEFT = 150 << 20  # the allocator keeps some of what was freed
_MOST_DESCRIPTORS_LEFT = 20
_UNREAD_S = 20
_HANGING_END_WITHIN_S = 170  # the server's own bound is 150 s


@dataclass
class Lab:
    """The server under load."""

    url: str
    token: str
    process: Any
    log: Path

    async def ask(self, path: str, method: str = "GET", token: str | None = None, **options: Any) -> Any:  # noqa: ANN401
        """A response, whatever its status. `token` in place of the right one."""
        headers = {"Authorization": f"token {token or self.token}"}
        return await self._client.fetch(
            self.url + path,
            method=method,
            headers=headers,
            raise_error=False,
            request_timeout=120,
            connect_timeout=120,
            allow_nonstandard_methods=True,
            **options,
        )

    @property
    def _client(self) -> Any:  # noqa: ANN401
        from tornado.httpclient import AsyncHTTPClient

        return AsyncHTTPClient(max_clients=200)

    async def socket(self, path: str) -> Any:  # noqa: ANN401
        """A WebSocket; it takes one message and no more until it is read."""
        from tornado.httpclient import HTTPRequest
        from tornado.websocket import websocket_connect

        address = self.url.replace("http", "ws", 1) + path
        return await websocket_connect(HTTPRequest(address, headers={"Authorization": f"token {self.token}"}))

    @contextlib.asynccontextmanager
    async def kernel(self, code: str) -> AsyncIterator[Any]:
        """A kernel that runs `code`, by its socket; it is ended afterwards."""
        started = json.loads((await self.ask("/api/kernels", "POST", body="{}")).body)
        channel = await self.socket(f"/api/kernels/{started['id']}/channels")
        header = {"msg_id": str(uuid.uuid4()), "msg_type": "execute_request", "username": "", "session": "s"}
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        await channel.write_message(json.dumps(request))
        try:
            yield channel
        finally:
            channel.close()
            await self.ask(f"/api/kernels/{started['id']}", "DELETE")

    async def run(self, code: str) -> int:
        """Run `code` in a new kernel to its end; how many characters came."""
        arrived = 0
        async with self.kernel(code) as channel:
            while message := await channel.read_message():
                answer = json.loads(message)
                arrived += len(answer["content"].get("text", ""))
                if answer["msg_type"] == "execute_reply":
                    return arrived
        raise UserError("the kernel's socket was closed")


async def kernels(lab: Lab, count: int) -> str:
    """Many kernels at once, each with a cell."""
    await asyncio.gather(*(lab.run("6 * 7") for _ in range(count)))
    return f"{count} kernels at once, each runs a cell"


async def clients(lab: Lab, count: int, each: int = 10) -> str:
    """Many clients, one request after another."""
    seconds = []

    async def client() -> None:
        for _ in range(each):
            begun = time.perf_counter()
            _require(await lab.ask("/api/contents?content=0"), 200)
            seconds.append(time.perf_counter() - begun)

    await asyncio.gather(*(client() for _ in range(count)))
    return f"{count} clients, {each} requests each: median {statistics.median(seconds) * 1000:.0f} ms"


async def hanging(lab: Lab, count: int) -> str:
    """Connections that send nothing, or half of a request."""
    host, port = lab.url.removeprefix("http://").split(":")
    streams = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    for number, (_, writer) in enumerate(streams):
        writer.write(b"GET / HTTP/1.1\r\nHo" * (number % 2))
    begun = time.perf_counter()
    _require(await lab.ask("/api"), 200)
    answered, closing = time.perf_counter() - begun, (reader.read() for reader, _ in streams)
    await asyncio.wait_for(asyncio.gather(*closing), _HANGING_END_WITHIN_S)
    return f"{count} connections that send half a request or none: meanwhile an answer in {answered * 1000:.0f} ms"


async def wrong_tokens(lab: Lab, count: int, at_once: int = 50) -> str:
    """Guesses."""
    before = lab.log.stat().st_size

    async def guess(number: int) -> None:
        for _ in range(number, count, at_once):
            _require(await lab.ask("/api/contents", token=secrets.token_hex(32)), 403)

    await asyncio.gather(*map(guess, range(at_once)))
    return f"{count:,} wrong tokens: {(lab.log.stat().st_size - before) / count:.0f} bytes of log each"


async def unread_terminal(lab: Lab, _: int) -> str:
    """A program that prints without end in a terminal that nobody reads."""
    name = json.loads((await lab.ask("/api/terminals", "POST", body="{}")).body)["name"]
    channel = await lab.socket(f"/terminals/websocket/{name}")
    await channel.write_message(json.dumps(["stdin", "yes\r"]))
    await asyncio.sleep(_UNREAD_S)
    _require(await lab.ask("/api"), 200)
    channel.close()
    await lab.ask(f"/api/terminals/{name}", "DELETE")
    return f"a terminal prints for {_UNREAD_S} s and nobody reads"


async def unread_cell(lab: Lab, _: int, *, absent: bool = False) -> str:
    """A cell that prints without end to a browser that does not read."""
    async with lab.kernel("while True: print('x' * 1000)") as channel:
        if absent:
            channel.close()
        await asyncio.sleep(_UNREAD_S)
        _require(await lab.ask("/api"), 200)
    return f"a cell prints for {_UNREAD_S} s and {'its browser is gone' if absent else 'nobody reads'}"


async def absent_reader(lab: Lab, _: int) -> str:
    """A cell that prints without end while its browser is gone."""
    return await unread_cell(lab, 0, absent=True)


async def lines(lab: Lab, count: int) -> str:
    """Very many lines in one cell."""
    arrived = await lab.run(f"for line in range({count}): print(line)")
    return f"{count:,} lines from one cell: {arrived:,} characters of them arrive"


async def restarts(lab: Lab, count: int) -> str:
    """Kernels, one after the other."""
    for number in range(count):
        await lab.run(str(number))
    return f"{count:,} kernels started and ended, one after the other"


_LOADS: dict[Callable[[Lab, int], Awaitable[str]], int] = {
    kernels: 30,
    clients: 200,
    hanging: 500,
    wrong_tokens: 10_000,
    unread_terminal: 1,
    unread_cell: 1,
    absent_reader: 1,
    lines: 100_000,
    restarts: 200,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--only", choices=[load.__name__ for load in _LOADS], help="this load alone")


def main(options: argparse.Namespace) -> int:
    """Put each load on the server, print what it took, and return 1 where a bound is missed."""
    with tempfile.TemporaryDirectory(prefix="load-") as folder, _server(Path(folder)) as lab:
        return asyncio.run(_measure(lab, options))


async def _measure(lab: Lab, options: argparse.Namespace) -> int:
    table = Table("load", "seconds", "memory before, most, after", "descriptors before, after", "bounds")
    await lab.run("1")  # what is made once is there
    with StatusLine() as line:
        for load, count in _LOADS.items():
            if options.only in (None, load.__name__):
                line.show(f"{load.__name__} ...")
                await _put_on(lab, load, count, table)
    table.show()
    return int(table.missed)


async def _put_on(lab: Lab, load: Callable[[Lab, int], Awaitable[str]], count: int, table: Table) -> None:
    memory, descriptors = _memory(lab), lab.process.num_fds()
    most = memory

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, _memory(lab))
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    begun = time.perf_counter()
    what = await load(lab, count)
    seconds = time.perf_counter() - begun
    while lab.process.num_fds() > descriptors:
        if time.perf_counter() > begun + seconds + _SETTLES_WITHIN_S:
            break
        await asyncio.sleep(0.5)
    watching.cancel()
    left, opened = _memory(lab) - memory, lab.process.num_fds() - descriptors
    table.add(
        what,
        f"{seconds:.1f}",
        f"{memory >> 20}, {most >> 20}, {_memory(lab) >> 20} MB",
        f"{descriptors}, {descriptors + opened}",
        bound=f"{_MOST_MEMORY >> 20} and {_MOST_MEMORY_LEFT >> 20} MB, {_MOST_DESCRIPTORS_LEFT} more",
        kept=most - memory <= _MOST_MEMORY and left <= _MOST_MEMORY_LEFT and opened <= _MOST_DESCRIPTORS_LEFT,
    )


def _memory(lab: Lab) -> int:
    return lab.process.memory_info().rss


def _require(answer: Any, status: int) -> None:  # noqa: ANN401
    if answer.code != status:
        raise UserError(f"{answer.effective_url} answered {answer.code} where {status} was expected: {answer.error}")


@contextlib.contextmanager
def _server(folder: Path) -> Any:  # noqa: ANN401
    """A server in `folder`, on a port of its own, ended afterwards."""
    import psutil

    token, log, port = secrets.token_hex(32), folder / "log", free_port()
    own = {f"WORKSPACE_{name.upper()}": str(folder / name) for name in ("work", "data", "state", "secrets")}
    own |= {"JUPYTER_TOKEN": token, "JUPYTER_RUNTIME_DIR": str(folder / "r"), "JUPYTER_CONFIG_DIR": str(folder / "c")}
    command = [sys.executable, str(places.REPOSITORY / "scripts" / "serve"), "--ip", "127.0.0.1", "--port", str(port)]
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=os.environ | own, stdout=stream, stderr=stream)
    lab = Lab(f"http://127.0.0.1:{port}", token, psutil.Process(process.pid), log)
    try:
        if not wait_until(lambda: _listens(port) or process.poll() is not None, _STARTS_WITHIN_S) or process.poll():
            raise UserError(f"the server did not start: {programs.last_words(log.read_text())}")
        cli.say(f"A server of its own at {lab.url}; this takes about ten minutes.")
        yield lab
    finally:
        process.terminate()
        process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
