"""A training that prints nothing is no idleness; a lab where nothing works is idle."""

import http.server
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from labs import Container, Lab, NativeServer
from stand_ins import serving
from workspace.base.cli import UserError
from workspace.cloud import idle
from workspace.host.compose import Workspace
from workspace.lab import idle as idle_lab
from workspace.runs import activity
from workspace.runs.folders import Record, working


def marks(*states: str) -> bool:
    """Whether a server is marked as active whose kernels are in these states."""
    kernels = SimpleNamespace(list_kernels=lambda: [{"execution_state": state} for state in states])
    app = SimpleNamespace(kernel_manager=kernels, web_app=SimpleNamespace(settings={}))
    activity.mark(app)
    return [name for name in app.web_app.settings if name.endswith("_last_activity")] != []


@pytest.mark.usefixtures("folders")
def test_kernel_that_computes_is_activity_and_one_that_waits_is_none() -> None:
    assert marks("idle", "busy")
    assert not marks("idle", "starting")
    assert not marks()


@pytest.mark.parametrize("folder", ["runs/lesson", "runs/sweep/lr=0.1"])
def test_run_is_activity_as_long_as_it_is_at_work(folders: Path, folder: str) -> None:
    with working(folders / "work" / folder, Record()) as (hidden, _):
        assert marks()
    assert hidden.exists()  # as a killed run leaves it
    assert not marks()


def last_activity(lab: Lab) -> tuple[str, str]:
    status = lab.get("/api/status", lab.token).json()
    return status["started"], status["last_activity"]


def test_server_with_a_silent_run_says_so_and_one_without_does_not(
    native_server: NativeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with native_server.running() as lab:
        started, last = last_activity(lab)
        assert last == started
    monkeypatch.setenv("WORKSPACE_WORK", str(native_server.folder / "work"))
    run = native_server.folder / "work/runs/lesson"
    with working(run, Record()), native_server.running() as lab:
        started, last = last_activity(lab)
        assert last > started


def test_browser_that_is_connected_is_no_idleness() -> None:
    status = {"connections": 0, "last_activity": "1970-01-01T00:01:40.000000Z"}
    assert idle_lab.seconds(status, now=160) == 60
    assert idle_lab.seconds(status | {"connections": 1}, now=160) == 0


def test_container_tells_for_how_long_it_is_idle(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", container.project)
    idle_s = Workspace().idle_s()
    assert idle_s is not None
    assert idle_s >= 0
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", f"{container.project}-none")
    assert Workspace().idle_s() is None


class Azure(http.server.HTTPServer):
    """A VM's metadata and the one of Azure's interfaces that a VM with that identity may use."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.identity = True
        self.deallocated: list[str] = []


class Answering(http.server.BaseHTTPRequestHandler):
    server: Azure

    def do_GET(self) -> None:
        lent = self.path.startswith("/metadata/identity")
        asked_well = self.headers["Metadata"] == "true" and (self.server.identity or not lent)
        self.send_response(200 if asked_well else 400)
        self.end_headers()
        self.wfile.write(b'{"access_token": "lent"}' if lent else b"/subscriptions/1/vm")

    def do_POST(self) -> None:
        if self.headers["Authorization"] == "Bearer lent":
            self.server.deallocated.append(self.path)
        self.send_response(202)
        self.end_headers()


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    server = Azure()
    with serving(server) as here:
        monkeypatch.setattr(idle, "_METADATA", f"{here}/metadata")
        monkeypatch.setattr(idle, "_AZURE", here)
        monkeypatch.setattr(idle, "_LAST_ACTIVE", tmp_path / "active")
        yield server


def lab_is_idle_for(monkeypatch: pytest.MonkeyPatch, seconds: float | None) -> None:
    monkeypatch.setattr(Workspace, "idle_s", lambda _: seconds)


def test_vm_is_deallocated_after_an_idle_hour_and_not_before(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    lab_is_idle_for(monkeypatch, 3500)
    idle.main(60)
    assert azure.deallocated == []
    lab_is_idle_for(monkeypatch, 3700)
    idle.main(60)
    assert azure.deallocated == ["/subscriptions/1/vm/deallocate?api-version=2024-07-01"]


def test_lab_that_was_stopped_is_idle_since_its_last_activity(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    lab_is_idle_for(monkeypatch, None)
    idle.main(60)  # the first look after a boot
    assert azure.deallocated == []
    lab_is_idle_for(monkeypatch, 3500)
    idle.main(60)
    lab_is_idle_for(monkeypatch, None)
    idle.main(58)
    assert len(azure.deallocated) == 1


def test_vm_without_the_identity_is_told_what_to_do(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    azure.identity = False
    lab_is_idle_for(monkeypatch, 3700)
    with pytest.raises(UserError, match=r"Azure does not deallocate this VM.*scripts/azure stop does"):
        idle.main(60)
    assert azure.deallocated == []
