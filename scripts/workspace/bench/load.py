"""What the server takes under loads that no learner makes alone: memory, descriptors, seconds, before and after.

It starts a server of its own on 127.0.0.1, in folders of its own. What goes on growing misses its bound.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import os
import secrets
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workspace.base import cli, programs
from workspace.base.cli import UserError
from workspace.base.programs import wait_until
from workspace.base.terminal import StatusLine
from workspace.bench.measuring import Table, free_port, script

_STARTS_WITHIN_S = 120
_SETTLES_WITHIN_S = 30
_MOST_MEMORY = 400 << 20  # a cell that prints as fast as it can has messages of many MB on the way
_MOST_MEMORY_LEFT = 150 << 20  # the allocator keeps some of what was freed
_MOST_DESCRIPTORS_LEFT = 20
_HANGING_END_WITHIN_S = 170  # the server's own bound is 150 s


@dataclass(frozen=True)
class Lab:
    """A server, as its visitors see it."""

    url: str
    token: str

    async def ask(self, path: str, method: str = "GET", token: str | None = None, **options: Any) -> Any:  # noqa: ANN401
        """A response, whatever its status. `token` in place of the right one. Raises OSError where none comes."""
        from tornado.httpclient import AsyncHTTPClient, HTTPError

        options |= {"raise_error": False, "allow_nonstandard_methods": True}
        options |= {"connect_timeout": 120, "request_timeout": 120, "method": method}
        headers = {"Authorization": f"token {token or self.token}"}
        try:
            return await AsyncHTTPClient(max_clients=200).fetch(self.url + path, headers=headers, **options)
        except HTTPError as error:
            raise OSError(str(error)) from error

    async def socket(self, path: str) -> Any:  # noqa: ANN401
        """A WebSocket; it takes one message and no more until it is read."""
        from tornado.httpclient import HTTPRequest
        from tornado.websocket import websocket_connect

        address = self.url.replace("http", "ws", 1) + path
        return await websocket_connect(HTTPRequest(address, headers={"Authorization": f"token {self.token}"}))

    @contextlib.asynccontextmanager
    async def kernel(self, code: str) -> AsyncIterator[Any]:
        """A kernel that runs `code`, by its socket; it is ended afterwards."""
        from jupyter_client.jsonutil import json_default
        from jupyter_client.session import Session

        started = json.loads((await self.ask("/api/kernels", "POST", body="{}")).body)
        channel = await self.socket(f"/api/kernels/{started['id']}/channels")
        request = Session().msg("execute_request", {"code": code}) | {"channel": "shell"}
        await channel.write_message(json.dumps(request, default=json_default))
        try:
            yield channel
        finally:
            channel.close()
            await self.ask(f"/api/kernels/{started['id']}", "DELETE")

    async def run(self, code: str) -> int:
        """Run `code` in a new kernel to its end; how many characters came."""
        async with self.kernel(code) as channel:
            return await read(channel)


async def read(channel: Any) -> int:  # noqa: ANN401
    """Read a kernel's socket until its cell has ended; how many characters came."""
    arrived = 0
    while message := await channel.read_message():
        answer = json.loads(message)
        arrived += len(answer["content"].get("text", ""))
        if answer["msg_type"] == "execute_reply":
            return arrived
    raise UserError("the kernel's socket was closed")


@dataclass(frozen=True)
class Loaded(Lab):
    """The server under load, and what is looked at of it."""

    process: Any
    log: Path


async def _kernels(lab: Lab, count: int) -> str:
    await asyncio.gather(*(lab.run("6 * 7") for _ in range(count)))
    return f"{count} kernels at once, each runs a cell"


async def _clients(lab: Lab, count: int, each: int = 10) -> str:
    seconds = []

    async def client() -> None:
        for _ in range(each):
            begun = time.perf_counter()
            _require(await lab.ask("/api/contents?content=0"), 200)
            seconds.append(time.perf_counter() - begun)

    await asyncio.gather(*(client() for _ in range(count)))
    return f"{count} clients, {each} requests each: median {statistics.median(seconds) * 1000:.0f} ms"


async def _hanging(lab: Lab, count: int) -> str:
    host, port = lab.url.removeprefix("http://").split(":")
    streams = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    for number, (_, writer) in enumerate(streams):
        writer.write(b"GET / HTTP/1.1\r\nHo" * (number % 2))
    begun = time.perf_counter()
    _require(await lab.ask("/api"), 200)
    answered, closing = time.perf_counter() - begun, (reader.read() for reader, _ in streams)
    await asyncio.wait_for(asyncio.gather(*closing), _HANGING_END_WITHIN_S)
    return f"{count} connections that send half a request or none: meanwhile an answer in {answered * 1000:.0f} ms"


async def _wrong_tokens(lab: Loaded, count: int, at_once: int = 50) -> str:
    before = lab.log.stat().st_size

    async def guess(number: int) -> None:
        for _ in range(number, count, at_once):
            _require(await lab.ask("/api/contents", token=secrets.token_hex(32)), 403)

    await asyncio.gather(*map(guess, range(at_once)))
    return f"{count:,} wrong tokens: {(lab.log.stat().st_size - before) / count:.0f} bytes of log each"


async def _unread_terminal(lab: Lab, seconds: int) -> str:
    name = json.loads((await lab.ask("/api/terminals", "POST", body="{}")).body)["name"]
    channel = await lab.socket(f"/terminals/websocket/{name}")
    await channel.write_message(json.dumps(["stdin", "yes\r"]))
    await asyncio.sleep(seconds)
    _require(await lab.ask("/api"), 200)
    channel.close()
    await lab.ask(f"/api/terminals/{name}", "DELETE")
    return f"a terminal prints for {seconds} s and nobody reads"


async def _unread_cell(lab: Lab, seconds: int, *, absent: bool = False) -> str:
    async with lab.kernel("while True: print('x' * 1000)") as channel:
        if absent:
            channel.close()
        await asyncio.sleep(seconds)
        _require(await lab.ask("/api"), 200)
    return f"a cell prints for {seconds} s and {'its browser is gone' if absent else 'nobody reads'}"


async def _lines(lab: Lab, count: int) -> str:
    arrived = await lab.run(f"for line in range({count}): print(line)")
    return f"{count:,} lines from one cell: {arrived:,} characters of them arrive"


async def _restarts(lab: Lab, count: int) -> str:
    for number in range(count):
        await lab.run(str(number))
    return f"{count:,} kernels started and ended, one after the other"


Load = Callable[[Loaded, int], Awaitable[str]]
"""Puts itself on the server, so many times or for so many seconds, and says what it was."""

_LOADS: dict[str, tuple[Load, int]] = {
    "kernels": (_kernels, 30),
    "clients": (_clients, 200),
    "hanging": (_hanging, 500),
    "wrong_tokens": (_wrong_tokens, 10_000),
    "unread_terminal": (_unread_terminal, 20),
    "unread_cell": (_unread_cell, 20),
    "absent_reader": (functools.partial(_unread_cell, absent=True), 20),
    "lines": (_lines, 100_000),
    "restarts": (_restarts, 200),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--only", choices=_LOADS, help="this load alone")


def main(options: argparse.Namespace) -> int:
    """Put each load on the server, print what it took, and return 1 where a bound is missed."""
    with tempfile.TemporaryDirectory(prefix="load-") as folder, _server(Path(folder)) as lab:
        table = asyncio.run(_measure(lab, [options.only] if options.only else list(_LOADS)))
    table.show()
    return int(table.missed)


async def _measure(lab: Loaded, names: list[str]) -> Table:
    table = Table("load", "seconds", "memory before, most, after", "descriptors before, after", "bounds")
    await lab.run("1")  # what is made once is there
    with StatusLine() as line:
        for name in names:
            line.show(f"{name} ...")
            await _put_on(lab, *_LOADS[name], table)
    return table


async def _put_on(lab: Loaded, load: Load, count: int, table: Table) -> None:
    before, descriptors = _memory(lab), lab.process.num_fds()
    most = before

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, _memory(lab))
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    begun = time.perf_counter()
    what = await load(lab, count)
    seconds = time.perf_counter() - begun

    def is_left() -> tuple[int, int]:
        return _memory(lab), lab.process.num_fds() - descriptors

    after, opened = is_left()
    while opened > 0 or after - before > _MOST_MEMORY_LEFT:
        if time.perf_counter() > begun + seconds + _SETTLES_WITHIN_S:
            break
        await asyncio.sleep(0.5)
        after, opened = is_left()
    watching.cancel()
    kept = most - before <= _MOST_MEMORY and after - before <= _MOST_MEMORY_LEFT and opened <= _MOST_DESCRIPTORS_LEFT
    table.add(
        what,
        f"{seconds:.1f}",
        f"{before >> 20}, {most >> 20}, {after >> 20} MB",
        f"{descriptors}, {descriptors + opened}",
        bound=f"{_MOST_MEMORY >> 20} and {_MOST_MEMORY_LEFT >> 20} MB, {_MOST_DESCRIPTORS_LEFT} more",
        kept=kept,
    )


def _memory(lab: Loaded) -> int:
    return lab.process.memory_info().rss


def _require(answer: Any, status: int) -> None:  # noqa: ANN401
    if answer.code != status:
        raise UserError(f"{answer.effective_url} answered {answer.code} where {status} was expected: {answer.error}")


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[Loaded]:
    """A server in `folder`, on a port of its own, ended afterwards."""
    import psutil

    token, log, port = secrets.token_hex(32), folder / "log", free_port()
    own = {f"WORKSPACE_{name.upper()}": str(folder / name) for name in ("work", "data", "state", "secrets")}
    own |= {"JUPYTER_TOKEN": token, "JUPYTER_RUNTIME_DIR": str(folder / "r"), "JUPYTER_CONFIG_DIR": str(folder / "c")}
    command = [*script("serve"), "--ip", "127.0.0.1", "--port", str(port)]
    with log.open("w") as stream:
        process = psutil.Popen(command, env=os.environ | own, stdout=stream, stderr=subprocess.STDOUT)
    try:
        if not wait_until(lambda: _listens(port) or process.poll() is not None, _STARTS_WITHIN_S) or process.poll():
            raise UserError(f"the server did not start: {programs.last_words(log.read_text())}")
        lab = Loaded(f"http://127.0.0.1:{port}", token, process, log)
        cli.say(f"A server of its own at {lab.url}; this takes about ten minutes.")
        yield lab
    finally:
        process.terminate()
        process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
