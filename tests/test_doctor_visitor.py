"""Why a page does not open, told on the visitor's machine: each failure apart from the others, and from a well lab."""

import ast
import contextlib
import http.server
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from labs import REPOSITORY, Lab, command, free_port
from stand_ins import serving
from workspace.base.programs import ask
from workspace.host import visitor

ALL = ["name", "connection", "TLS", "server", "token", "websocket", "kernel"]


def kinds(link: str) -> list[str]:
    """Of each layer, what is found; the layers after the first broken one are not looked at."""
    found = []
    for layer, judge in visitor.Visit(link).layers:
        assert layer == ALL[len(found)]
        kind, text, state = judged(judge)
        assert ("move: " in text) == (kind != "well")
        found.append(kind)
        if state == "broken":
            break
    return found


def judged(judge: visitor.Judge) -> tuple[str, str, str]:
    try:
        return "well", judge(), "ok"
    except visitor.Trouble as trouble:
        return trouble.kind, trouble.text, trouble.state


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Somebody who takes connections at the port, and does with each what `answer` says."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken, _ = server.accept()
                    threading.Thread(target=handle, args=(taken,), daemon=True).start()

        def handle(taken: socket.socket) -> None:
            with contextlib.suppress(OSError), taken:
                answer(tls.wrap_socket(taken, server_side=True) if tls else taken)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def saying(status: str, body: str = "", header: str = "X: y") -> Callable[[socket.socket], None]:
    """Whatever is asked, it says this."""

    def answer(taken: socket.socket) -> None:
        taken.recv(65536)
        taken.sendall(f"HTTP/1.1 {status}\r\n{header}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    return answer


def passing_on(port: int, *, upgrades: bool) -> Callable[[socket.socket], None]:
    """A proxy before the lab, which leaves the header Upgrade out or not."""

    def answer(taken: socket.socket) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += taken.recv(65536)
        if not upgrades:
            asked = asked.replace(b"Upgrade: websocket\r\n", b"")
        with socket.create_connection(("127.0.0.1", port)) as lab:
            lab.sendall(asked)
            back = threading.Thread(target=copy, args=(taken, lab), daemon=True)
            back.start()
            copy(lab, taken)

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while some := source.recv(65536):
                target.sendall(some)
            target.shutdown(socket.SHUT_WR)

    return answer


def test_well_lab_is_well_in_every_layer(native_lab: Lab) -> None:
    before = native_lab.get("/api/kernels", native_lab.token).json()
    assert kinds(native_lab.link) == ["well"] * len(ALL)
    assert native_lab.get("/api/kernels", native_lab.token).json() == before  # the one that was tried is gone


def test_well_lab_behind_a_proxy_that_passes_upgrades_on_is_well(native_lab: Lab) -> None:
    lab = int(native_lab.url.rpartition(":")[2])
    with listening(passing_on(lab, upgrades=True)) as port:
        assert kinds(f"http://127.0.0.1:{port}/?token={native_lab.token}") == ["well"] * len(ALL)


def test_websocket_that_a_proxy_cuts_is_named(native_lab: Lab) -> None:
    lab = int(native_lab.url.rpartition(":")[2])
    with listening(passing_on(lab, upgrades=False)) as port:
        assert kinds(f"http://127.0.0.1:{port}/?token={native_lab.token}") == ["well"] * 5 + ["websocket-cut"]


def test_wrong_token_and_none_are_told_apart(native_lab: Lab) -> None:
    assert kinds(f"{native_lab.url}/?token=wrong")[-1] == "token-wrong"
    assert kinds(native_lab.url)[-1] == "token-missing"


def test_name_that_nobody_knows() -> None:
    assert kinds("http://nowhere.invalid:8888/?token=x") == ["name-unknown"]


def test_port_on_which_nothing_listens_is_refused() -> None:
    assert kinds(f"http://127.0.0.1:{free_port()}/?token=x")[-1] == "refused"


def test_firewall_that_drops_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitor, "PATIENCE_S", 1)
    with socket.socket() as full:  # who takes no more connections does not answer, like a firewall that drops
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        try:
            assert kinds(f"http://127.0.0.1:{port}/?token=x")[-1] == "timeout"
        finally:
            for each in waiting:
                each.close()


def test_network_that_is_not_this_machines_has_no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(visitor.socket, "create_connection", connect)
    assert kinds("http://127.0.0.1:1/?token=x")[-1] == "no-route"


def test_server_that_stands_still_is_silent_until_it_goes_on(native_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitor, "PATIENCE_S", 1)
    port = native_lab.url.rpartition(":")[2]
    said = ask("ss", "-ltnpH", f"sport = :{port}", check=True).stdout
    pid = int(said.rpartition("pid=")[2].partition(",")[0])
    os.kill(pid, signal.SIGSTOP)
    try:
        assert kinds(native_lab.link)[-1] == "silent"
    finally:
        os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    assert kinds(native_lab.link)[-1] == "well"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (saying("502 Bad Gateway"), "behind-proxy"),
        (saying("200 OK", "<html>Welcome to our hotel</html>"), "somebody-else"),
        (saying("404 Not Found", '{"message": "not here"}'), "somebody-else"),
        (saying("308 Permanent Redirect", header="Location: https://lab/api"), "plain-to-tls"),
        (saying("400 Bad Request", "Client sent an HTTP request to an HTTPS server."), "plain-to-tls"),
        (saying("200 OK", '{"version": "2.21"}'), "no-lock"),
        (lambda taken: None, "cut-off"),  # noqa: ARG005
    ],
)
def test_what_answers_in_place_of_a_lab_is_told(answer: Callable[[socket.socket], None], kind: str) -> None:
    with listening(answer) as port:
        assert kinds(f"http://127.0.0.1:{port}/?token=x")[-1] == kind


@pytest.mark.parametrize(("status", "kind"), [("500 Internal Server Error", "server-error"), ("200 OK", "no-lock")])
def test_server_that_fails_with_the_right_token_is_told(status: str, kind: str) -> None:
    def answer(taken: socket.socket) -> None:
        asked = taken.recv(65536, socket.MSG_PEEK)
        saying("200 OK" if asked.startswith(b"GET /api HTTP") else status, '{"version": "2.21"}')(taken)

    with listening(answer) as port:
        assert kinds(f"http://127.0.0.1:{port}/?token=x")[-1] == kind


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and certificates that it gave: for `localhost`, for another name, and one that has expired."""
    if not shutil.which("openssl"):
        pytest.skip("certificates are made by openssl")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    usual = ["-newkey", "rsa:2048", "-nodes"]
    openssl("req", "-x509", *usual, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-days", "2")
    for name, host, days in (
        ("localhost", "localhost", "2"),
        ("other", "other.example", "2"),
        ("old", "localhost", "-1"),
    ):
        openssl("req", *usual, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={host}")
        (folder / "names").write_text(f"subjectAltName=DNS:{host}")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", days, "-extfile", "names"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return folder


@pytest.mark.parametrize(
    ("name", "trusted", "kind"),
    [
        ("localhost", True, "well"),
        ("localhost", False, "tls-untrusted"),
        ("other", True, "tls-name"),
        ("old", True, "tls-time"),
        (None, True, "tls-plain"),
    ],
)
def test_certificates_are_told_apart(
    native_lab: Lab, certificates: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, *, trusted: bool, kind: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem") if trusted else os.devnull)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if name else None
    if tls:
        tls.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    lab = int(native_lab.url.rpartition(":")[2])
    with listening(saying("400 Bad Request") if tls is None else passing_on(lab, upgrades=True), tls) as port:
        found = kinds(f"https://localhost:{port}/?token={native_lab.token}")
    assert found[2] == kind
    assert len(found) == (len(ALL) if kind in ("well", "tls-untrusted") else 3)


def test_server_that_agrees_on_no_encryption_is_told() -> None:
    none = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # which has no certificate
    with listening(saying("200 OK"), none) as port:
        assert kinds(f"https://127.0.0.1:{port}/?token=x")[-1] == "tls-failed"


@contextlib.contextmanager
def lab_whose_kernels(status: int) -> Iterator[str]:
    """A server that is like a lab's, up to its kernels."""

    class Kernels(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if "Upgrade" in self.headers:
                self.send_response(101)
                self.end_headers()
                self.close_connection = True
            elif self.path == "/api/status" and "Authorization" not in self.headers:
                self.say(403, b"{}")
            else:
                self.say(200, b'{"version": "2.21"}')

        def do_POST(self) -> None:
            self.say(status, b'{"id": "1"}')

        def do_DELETE(self) -> None:
            self.say(204, b"")

        def say(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kernels)) as address:
        yield address


@pytest.mark.parametrize(("status", "kind"), [(500, "kernel-not-started"), (201, "kernel-silent")])
def test_kernel_that_does_not_come_or_says_nothing(status: int, kind: str) -> None:
    with lab_whose_kernels(status) as address:
        assert kinds(f"{address}/?token=x") == ["well"] * 6 + [kind]


def test_the_one_file_needs_no_checkout_and_no_new_python(native_lab: Lab, tmp_path: Path) -> None:
    alone = shutil.copy(REPOSITORY / "scripts/workspace/host/visitor.py", tmp_path)
    ast.parse(Path(alone).read_text(), feature_version=(3, 9))
    for link, code, last in (
        (native_lab.link, 0, "ended"),
        (native_lab.url, 1, "not looked at: because token comes first"),
    ):
        done = ask(sys.executable, "-I", alone, link)
        assert done.returncode == code, done.stderr
        assert done.stdout.strip().endswith(last)
    for wrong in ([], ["ftp://x"], ["--help"]):
        done = ask(sys.executable, "-I", alone, *wrong)
        assert (done.returncode, done.stdout) == (2, "")


def test_doctor_of_a_link_says_the_same_and_keeps_the_token_to_itself(native_lab: Lab, checkout: Path) -> None:
    well = command(checkout, "scripts/doctor", "--of", native_lab.link)
    assert (well.returncode, well.stderr) == (0, "")
    assert well.stdout.splitlines()[-1].startswith("Nothing of 7 needs you")
    ill = command(checkout, "scripts/doctor", "--of", f"{native_lab.url}/?token=wrong")
    assert ill.returncode == 1
    assert "x token" in ill.stdout
    assert "scripts/link prints the link of today" in ill.stdout
    assert "because token comes first" in ill.stdout
    for link in (native_lab.link, f"{native_lab.url}/?token=wrong"):
        report = command(checkout, "scripts/doctor", "--json", "--of", link).stdout
        assert native_lab.token not in report
        assert "127.0.0.1" not in report
        assert '"layer": "kernel"' in report
    refused = command(checkout, "scripts/doctor", "--of", "ftp://x")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
