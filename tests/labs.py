"""A lab to talk to, natively or in a container, and waiting for conditions in place of seconds."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import nbformat
import requests
import websocket
from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session
from workspace.base import programs
from workspace.bench.measuring import free_port as free_port

REPOSITORY = Path(__file__).resolve().parents[1]

IMAGE = os.environ.get("WORKSPACE_IMAGE") or "pytorch-workspace:cpu"
"""What is tested: built here, unless another is named, as when a release is tested as it was built."""


def wait_until(condition: Callable[[], object], timeout_s: float = 60) -> object:
    """Wait until `condition()` is true and return its value; fail after `timeout_s`."""
    value = programs.wait_until(condition, timeout_s)
    assert value, f"still waiting after {timeout_s} s"
    return value


SmallDisk = Callable[[str], Path]
"""Mounts a file system with options such as `size=4m`, or changes those of the one that is mounted; where it is."""


THEME = "/lab/api/settings/@jupyterlab/apputils-extension:themes"
TABS = "/lab/api/workspaces/default"
"""Where the lab keeps a setting, and which tabs are open."""


def execute(channel: websocket.WebSocket, code: str) -> None:
    """Have a kernel run `code`, as a cell."""
    request = Session().msg("execute_request", {"code": code}) | {"channel": "shell"}
    channel.send(json.dumps(request, default=json_default))


def printed(channel: websocket.WebSocket) -> str:
    """What a cell prints until it has ended. Fails if it raises."""
    said = ""
    while True:
        answer = json.loads(channel.recv())
        if answer["parent_header"].get("msg_type") != "execute_request":
            continue
        if answer["msg_type"] == "stream":
            said += answer["content"]["text"]
        if answer["msg_type"] == "execute_reply":
            assert answer["content"]["status"] == "ok", answer["content"]
        if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
            return said


@dataclass(frozen=True)
class Lab:
    """A running lab, seen from outside."""

    link: str

    @property
    def url(self) -> str:
        parts = urlsplit(self.link)
        return f"http://127.0.0.1:{parts.port}"

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.link).query)["token"][0]

    def get(self, path: str, token: str | None = None) -> requests.Response:
        return self.request("GET", path, token)

    def request(self, method: str, path: str, token: str | None = None, **options: object) -> requests.Response:
        headers = {"Authorization": f"token {token}"} if token else {}
        return requests.request(method, self.url + path, headers=headers, timeout=30, allow_redirects=False, **options)

    def socket(self, path: str, token: str | None = None, **options: object) -> websocket.WebSocket:
        header = [f"Authorization: token {token}"] if token else []
        address = f"ws{self.url.removeprefix('http')}{path}"
        return websocket.create_connection(address, **{"header": header, "timeout": 60} | options)

    def cookies(self) -> dict[str, str]:
        """What a browser has after the link was opened."""
        return self.get(f"/lab?token={self.token}").cookies.get_dict()

    def run(self, code: str, timeout_s: float = 60) -> str:
        """Run `code` in a new kernel, as the browser does, and return what it prints. Fails if the code raises."""
        kernel = self.request("POST", "/api/kernels", self.token, json={"name": "python3"}).json()["id"]
        with contextlib.closing(self.send(kernel, code, timeout_s)) as channel:
            said = printed(channel)
        self.request("DELETE", f"/api/kernels/{kernel}", self.token)
        return said

    def send(self, kernel: str, code: str, timeout_s: float = 60, session: str = "") -> websocket.WebSocket:
        """Send `code` to a kernel; the answers come over the socket that is returned, or a later one of `session`."""
        channel = self.socket(f"/api/kernels/{kernel}/channels?session_id={session}", self.token, timeout=timeout_s)
        execute(channel, code)
        return channel

    def in_terminal(self, name: str, line: str, until: str, timeout_s: float = 60) -> str:
        """Type a line into a terminal; what it shows up to and with `until`."""
        shown = ""
        with contextlib.closing(self.socket(f"/terminals/websocket/{name}", self.token, timeout=timeout_s)) as channel:
            channel.send(json.dumps(["stdin", line + "\r"]))
            while until not in shown:
                kind, *rest = json.loads(channel.recv())
                shown += rest[0] if kind == "stdout" else ""
        return shown

    def save_notebook(self, name: str, code: str) -> None:
        """Save a notebook of one code cell in the work folder."""
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
        content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)], metadata=kernel)
        saved = self.request("PUT", f"/api/contents/{name}", self.token, json={"type": "notebook", "content": content})
        assert saved.ok, saved.text

    def wait_for_file(self, name: str) -> None:
        """Wait until the work folder has a file of this name."""
        wait_until(lambda: self.get(f"/api/contents/{name}?content=0", self.token).status_code == 200)


def without_caches(source: Path, target: str | Path) -> Path:
    """Copy a folder of the repository, in which other tests' commands write bytecode meanwhile."""
    return shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


def command(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of the checkout's commands as a person would."""
    return programs.ask(*arguments, cwd=checkout, env=os.environ | environment, timeout=1500)


@dataclass(frozen=True)
class NativeServer:
    """`scripts/serve` in folders of its own."""

    folder: Path
    port: int

    @property
    def runtime(self) -> Path:
        """Where its sockets are, whose paths may have 107 characters: pytest's folders are too deep."""
        return Path(f"/tmp/workspace-test-{self.port}")  # noqa: S108

    def environment(self, **more: str) -> dict[str, str]:
        places = {f"WORKSPACE_{name.upper()}": str(self.folder / name) for name in ("work", "data", "state", "secrets")}
        places |= {"JUPYTER_RUNTIME_DIR": str(self.runtime), "JUPYTER_CONFIG_DIR": str(self.folder / "jupyter")}
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER_", "WORKSPACE_"))}
        return clean | places | more

    def command(self) -> list[str]:
        return [sys.executable, str(REPOSITORY / "scripts/serve"), "--ip", "127.0.0.1", "--port", str(self.port)]

    def refusal(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Start where a refusal is expected, and return how it ended."""
        try:
            return programs.ask(*self.command(), env=self.environment(**environment), timeout=60)
        finally:
            shutil.rmtree(self.runtime, ignore_errors=True)

    @contextlib.contextmanager
    def process(self, **environment: str) -> Iterator[tuple[Lab, subprocess.Popen]]:
        """The lab and its process, which may be killed: what it then leaves stays."""
        log = self.folder / "server.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                self.command(), env=self.environment(**environment), stdout=stream, stderr=stream
            )
        try:
            lab = Lab(f"http://127.0.0.1:{self.port}/?token=none")
            wait_until(lambda: process.poll() is not None or _answers(lab))
            assert process.poll() is None, log.read_text()
            yield Lab(lab.link.replace("none", (self.runtime / "token").read_text())), process
        finally:
            process.terminate()
            process.wait(60)

    @contextlib.contextmanager
    def running(self, **environment: str) -> Iterator[Lab]:
        try:
            with self.process(**environment) as (lab, _):
                yield lab
        finally:
            shutil.rmtree(self.runtime, ignore_errors=True)


def _answers(lab: Lab) -> bool:
    with contextlib.suppress(requests.ConnectionError):
        return lab.get("/api").ok
    return False


@dataclass(frozen=True)
class Container:
    """A workspace in Docker, started by scripts/start from the checkout, in a compose project of its own."""

    checkout: Path
    project: str
    port: int

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return command(
            self.checkout,
            *arguments,
            COMPOSE_PROJECT_NAME=self.project,
            WORKSPACE_PORT=str(self.port),
            WORKSPACE_BIND="127.0.0.1",
            **environment,
        )

    def inside(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.command("docker", "compose", "exec", "-T", "workspace", *arguments)

    def start(self, *arguments: str, **environment: str) -> Lab:
        started = self.command("scripts/start", *arguments, **environment)
        assert started.returncode == 0, started.stdout + started.stderr
        assert "could not be brought up to date" not in started.stdout, started.stdout
        return Lab(started.stdout.splitlines()[-1])

    def healthy(self) -> bool:
        """Whether the server in the container answers."""
        return self.inside("python", "/opt/workspace/docker/healthcheck.py").returncode == 0

    def remove(self) -> None:
        self.command("docker", "compose", "down", "--volumes", "--timeout", "30")
        # The image that the next build took the tag from; compose builds have their own project's label.
        for project in (self.project, "pytorch-workspace"):
            label = f"label=com.docker.compose.project={project}"
            self.command("docker", "image", "prune", "--force", "--filter", label)
