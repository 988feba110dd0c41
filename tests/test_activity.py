"""A training that prints nothing is no idleness; a lab where nothing works is idle."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from labs import Lab, NativeServer
from workspace.runs import activity, claims, folders


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKSPACE_WORK", str(tmp_path))
    return tmp_path


def marks(*states: str) -> bool:
    """Whether a server is marked as active whose kernels are in these states."""
    kernels = SimpleNamespace(list_kernels=lambda: [{"execution_state": state} for state in states])
    app = SimpleNamespace(kernel_manager=kernels, web_app=SimpleNamespace(settings={}))
    activity.mark(app)
    return [name for name in app.web_app.settings if name.endswith("_last_activity")] != []


@pytest.mark.usefixtures("work")
def test_kernel_that_computes_is_activity_and_one_that_waits_is_none() -> None:
    assert marks("idle", "busy")
    assert not marks("idle", "starting")
    assert not marks()


@pytest.mark.parametrize("folder", ["runs/lesson", "runs/sweep/lr=0.1"])
def test_run_is_activity_as_long_as_it_is_at_work(work: Path, folder: str) -> None:
    with claims.working(work / folder, folders.Record()) as (hidden, _):
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
    with claims.working(run, folders.Record()), native_server.running() as lab:
        started, last = last_activity(lab)
        assert last > started
