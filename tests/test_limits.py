"""What strangers, slow readers and long logs may cost the server."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import psutil
import pytest
from labs import REPOSITORY, Lab, NativeServer, wait_until
from tornado.httpserver import HTTPServer
from tornado.web import Application
from workspace.lab import limits


def put(lab: Lab, megabytes: int, **headers: str) -> tuple[int, str]:
    """Send a body of so many MB, as a browser does: to its end, whatever the server says meanwhile."""
    connection = http.client.HTTPConnection(urlsplit(lab.url).netloc, timeout=60)
    connection.putrequest("PUT", "/api/contents/large.txt")
    for name, value in {"Content-Length": str(megabytes << 20), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    with contextlib.suppress(ConnectionError):
        for _ in range(megabytes):
            connection.send(b" " * (1 << 20))
    try:
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except ConnectionError:
        return 0, "connection closed"


def test_large_file_of_somebody_signed_in_is_saved(native_lab: Lab) -> None:
    large = {"type": "file", "format": "text", "content": "x" * (80 << 20)}
    assert native_lab.request("PUT", "/api/contents/large.txt", native_lab.token, json=large).status_code == 201
    signed_in = native_lab.cookies()
    address = f"/api/contents/large.txt?_xsrf={signed_in['_xsrf']}"
    assert native_lab.request("PUT", address, json=large, cookies=signed_in).status_code == 200


def test_large_body_of_a_stranger_is_refused_unread(native_lab: Lab) -> None:
    assert put(native_lab, 2)[0] in (0, 400)
    assert put(native_lab, 2, Authorization=f"token {'f' * 64}")[0] in (0, 400)


def test_file_over_the_limit_is_refused_with_what_happened_and_how_to_go_on(native_lab: Lab) -> None:
    status, told = put(native_lab, (limits.LARGEST_SAVE >> 20) + 1, Authorization=f"token {native_lab.token}")
    message = json.loads(told)["message"]
    assert status == 413
    assert "It has 513 MB, and the server takes 512 MB at most (LARGEST_SAVE)" in message
    assert "NOT saved" in message
    assert "Clear Outputs" in message


def test_picture_of_many_megabytes_reaches_its_kernel(native_lab: Lab) -> None:
    assert native_lab.run(f"print(len('{'x' * 30_000_000}'))") == "30000000\n"


# --- connections on which nothing comes ---


@contextlib.asynccontextmanager
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server whose bounds are a fifth of a second."""
    monkeypatch.setattr(limits, "_NEXT_REQUEST_WITHIN_S", 0.2)
    monkeypatch.setattr(limits, "_STRANGERS_SEND_WITHIN_S", 0.2)
    application = Application([])
    server = HTTPServer(application)
    limits.guard(SimpleNamespace(http_server=server, web_app=application))
    server.listen(0, "127.0.0.1")
    [socket] = server._sockets.values()
    reader, writer = await asyncio.open_connection(*socket.getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.stop()


POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost", POST + b"123"])
def test_connection_on_which_no_whole_request_comes_is_closed(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    async def wait() -> bytes:
        async with served(monkeypatch) as (reader, writer):
            writer.write(sent)
            return await asyncio.wait_for(reader.read(), 30)

    assert asyncio.run(wait()) == b""


def test_connection_with_a_whole_request_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> bytes:
        async with served(monkeypatch) as (reader, writer):
            writer.write(POST + b"1234")
            return await asyncio.wait_for(reader.readline(), 30)

    assert asyncio.run(ask()).startswith(b"HTTP/1.1 404")


# --- terminals whose reader does not read ---

PRINT_AND_COUNT = (
    "python -c \"import sys; n = 0\nwhile True: n += sys.stdout.write('x' * 65535 + chr(10)); "
    "sys.stdout.flush(); open('printed', 'w').write(str(n))\"\r"
)


def test_program_in_a_terminal_waits_for_its_reader_and_goes_on(native_server: NativeServer) -> None:
    def printed() -> int:
        with contextlib.suppress(OSError, ValueError):
            return int((native_server.folder / "work/printed").read_text())
        return 0

    def stands() -> int:
        before = printed()
        time.sleep(1)
        return before if before == printed() else 0

    with native_server.running() as lab:
        name = lab.request("POST", "/api/terminals", lab.token).json()["name"]
        channel = lab.socket(f"/terminals/websocket/{name}", lab.token)
        channel.send(json.dumps(["stdin", PRINT_AND_COUNT]))
        stood = wait_until(stands)
        assert stood < 32 << 20  # what the sockets between take
        assert lab.get("/api").ok
        while printed() == stood:
            channel.recv()
        channel.close()


class _Stream:
    closed = False

    def write(self, _: bytes) -> asyncio.Future:
        return asyncio.get_running_loop().create_future()

    def close(self) -> None:
        self.closed = True


def test_reader_that_takes_nothing_for_long_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_SLOWEST_READER_S", 0.05)
    stream = _Stream()
    asyncio.run(limits._let_go_unless_it_reads(SimpleNamespace(ws_connection=SimpleNamespace(stream=stream))))
    assert stream.closed


# --- kernels whose browser is away ---


def test_what_a_kernel_says_while_no_browser_listens_is_kept_up_to_a_bound_and_its_end_is(
    native_server: NativeServer,
) -> None:
    noisy = "import time\nfor n in range(80): print('x' * 1_000_000, flush=True); time.sleep(0.03)\n"
    noisy += "print('the end'); open('said', 'w')"
    with native_server.running() as lab:
        kernel = lab.request("POST", "/api/kernels", lab.token, json={"name": "python3"}).json()["id"]
        lab.send(kernel, noisy, session="away").close()
        lab.wait_for_file("said")
        wait_until(lambda: lab.get(f"/api/kernels/{kernel}", lab.token).json()["execution_state"] == "idle")
        channel = lab.send(kernel, "6 * 7", session="away")
        arrived = ""
        while "'text/plain': '42'" not in arrived:
            arrived += str(json.loads(channel.recv())["content"])
    assert "the end" in arrived
    replayed = re.search(r"Replaying (\d+) buffered", (native_server.folder / "server.log").read_text())
    assert replayed
    assert int(replayed[1]) < 40  # of the 80 and more: 16 MB


def test_last_messages_are_kept_and_the_first_go() -> None:
    kept = limits._BoundedBuffer()
    for number in range(40):
        kept.append(("iopub", [b"header", bytes([number]) * (1 << 20)]))
    assert [message[1][1][0] for message in kept] == list(range(25, 40))


def test_load_is_measured_and_a_load_that_is_unknown_refused() -> None:
    def bench(load: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, REPOSITORY / "scripts/bench", "load", "--only", load]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    measured = bench("lines")
    assert measured.returncode == 0, measured.stderr
    assert re.search(r"\| 100,000 lines from one cell: \S+ characters of them arrive +\| \d+", measured.stdout)
    assert bench("nothing").returncode == 2


# --- the log ---


def test_long_log_keeps_its_last_part_and_is_written_on_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_LONGEST_LOG", 1000)
    monkeypatch.setattr(limits, "_LOG_KEPT", 100)
    file = tmp_path / "log"
    with file.open("w") as log:
        log.write("first\n" + "line\n" * 300 + "last\n")
        log.flush()
        limits.shorten_log(log.fileno())
        os.write(log.fileno(), b"next\n")
    lines = file.read_text().splitlines()
    assert lines[0] == "[the log was long; its beginning is gone]"
    assert lines[-2:] == ["last", "next"]
    assert set(lines[1:-2]) == {"line"}


def test_short_log_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with file.open("w") as log:
        log.write("first\n")
        log.flush()
        limits.shorten_log(log.fileno())
    assert file.read_text() == "first\n"


# --- memory ---


@pytest.mark.skipif(sys.platform != "linux", reason="other systems give it back by themselves")
def test_memory_that_a_load_took_is_given_back() -> None:
    taken = [bytes(900) for _ in range(200_000)]
    held, last = psutil.Process().memory_info().rss, taken[-1]
    del taken
    assert psutil.Process().memory_info().rss > held - (50 << 20), "glibc gives it back by itself"
    limits.give_back_memory()
    assert psutil.Process().memory_info().rss < held - (100 << 20)
    assert last
