"""The doctor where the workspace is: each verdict by a layer that is ill, beside the same layer well."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labs import REPOSITORY, command, free_port
from test_start import fake_docker
from workspace.base import verdicts
from workspace.base.cli import UserError
from workspace.base.verdicts import Check, State, Verdict
from workspace.host import engine, machine
from workspace.host.compose import Workspace

STOPPED = "Cannot connect to the Docker daemon at unix:///nowhere.sock. Is the docker daemon running?"


def report(checkout: Path, *arguments: str, **environment: str) -> dict[str, tuple[str, str]]:
    """State and kind of each layer, as `--json` has them."""
    done = command(checkout, "scripts/doctor", "--json", *arguments, **environment)
    assert done.stderr == ""
    found = {each["layer"]: (each["state"], each["kind"]) for each in json.loads(done.stdout)["layers"]}
    assert done.returncode == int("broken" in [state for state, _ in found.values()])
    return found


def look(*checks: Check) -> dict[str, Verdict]:
    return {finding.layer: finding.verdict for finding in verdicts.examine(checks)}


# How it looks at all.


def test_a_look_that_crashes_harms_no_other_and_is_no_illness() -> None:
    def crash() -> Verdict:
        raise KeyError("x")

    found = look(Check("a", crash), Check("b", lambda: verdicts.well("yes"), ("a",)))
    assert (found["a"].state, found["a"].kind) == (State.WARNING, "check-failed")
    assert "KeyError" in found["a"].text
    assert found["b"].state is State.WELL


@pytest.mark.parametrize(
    ("first", "seen"),
    [
        (verdicts.well("x"), True),
        (verdicts.warning("x", "x"), True),
        (verdicts.broken("x", "x"), False),
        (verdicts.absent("x", "x"), False),
        (verdicts.unseen("x", "x"), False),
    ],
)
def test_what_stands_on_a_broken_layer_is_not_looked_at_and_says_why(first: Verdict, *, seen: bool) -> None:
    asked = []
    found = look(
        Check("first", lambda: first),
        Check("second", lambda: asked.append(1) or verdicts.well("yes"), ("first",)),
        Check("third", lambda: verdicts.well("yes"), ("second",)),
    )
    assert bool(asked) == seen
    assert ("because first" in found["second"].text) != seen
    assert ("because second" in found["third"].text) != seen


def test_a_look_that_takes_long_shows_that_it_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verdicts, "_SHOWS_THAT_IT_WORKS_AFTER_S", 0.05)
    monkeypatch.setattr(verdicts.terminal.sys.stderr, "isatty", lambda: True, raising=False)
    shown = threading.Event()
    monkeypatch.setattr(verdicts.terminal.StatusLine, "show", lambda _, text: (print(text), shown.set()))
    assert verdicts.watched(lambda: shown.wait(60), "the layer")
    assert "the layer: still looking" in capsys.readouterr().out


def test_a_report_holds_no_name_address_or_token() -> None:
    facts = {"version": "580.65.06", "mb": 64, "gib": "1.5", "host": "vm", "address": "192.0.2.7", "token": "5" * 64}
    told = Verdict(State.BROKEN, "the host vm at 192.0.2.7", "x", facts).public()
    assert told == {"state": "broken", "kind": "x", "facts": {"version": "580.65.06", "mb": 64, "gib": "1.5"}}


@pytest.mark.parametrize("arguments", [["--of"], ["--off"], ["x"]])
def test_wrong_use_is_one_line(checkout: Path, arguments: list[str]) -> None:
    refused = command(checkout, "scripts/doctor", *arguments)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


# The engine.


@pytest.mark.parametrize(
    ("docker", "kind"),
    [
        ('[ "$1" = version ] && echo 26.1.5', "well"),
        ("echo 24.0.7", "engine-old"),
        (f"echo {STOPPED} >&2; exit 1", "engine-unreachable"),
        ("echo 'permission denied while trying to connect to the Docker daemon' >&2; exit 1", "engine-permission"),
        ("exec sleep 60", "engine-silent"),
    ],
)
def test_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docker: str, kind: str) -> None:
    monkeypatch.setenv("PATH", fake_docker(tmp_path, docker)["PATH"])
    monkeypatch.setattr(engine, "_ANSWERS_WITHIN_S", 1 if kind == "engine-silent" else 60)
    verdict = engine.look()
    assert verdict.kind == kind
    assert (verdict.state is State.WELL) == (kind == "well")


def test_where_the_engine_is_looked_for_is_said_where_it_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(docker: str) -> str:
        monkeypatch.setenv("PATH", fake_docker(tmp_path, docker)["PATH"])
        return engine.look().text

    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert "systemctl start docker" in told(f'[ "$1" = context ] && echo default || {{ echo {STOPPED} >&2; exit 1; }}')
    assert "the context colima says" in told(f'[ "$1" = context ] && echo colima || {{ echo {STOPPED} >&2; exit 1; }}')
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    assert "DOCKER_HOST says" in told(f"echo {STOPPED} >&2; exit 1")


@pytest.mark.parametrize(
    ("docker", "kind"), [("echo 2.24.0", "well"), ("echo v2.23.3", "compose"), ("exit 1", "compose")]
)
def test_compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docker: str, kind: str) -> None:
    monkeypatch.setenv("PATH", fake_docker(tmp_path, docker)["PATH"])
    assert engine.look_at_compose().kind == kind


def test_machine_without_docker_lacks_nothing_unless_the_workspace_was_in_it(checkout: Path, tmp_path: Path) -> None:
    for program in ("env", "python3"):
        (tmp_path / program).symlink_to(f"/usr/bin/{program}")
    last = checkout / ".workspace/started-in"
    last.parent.mkdir(exist_ok=True)
    try:
        last.write_text("native")
        found = report(checkout, PATH=str(tmp_path))
        assert found["engine"] == ("none", "no-docker")
        assert found["Compose"] == ("not looked at", "not-looked-at")
        last.write_text("docker")
        assert report(checkout, PATH=str(tmp_path))["engine"] == ("broken", "no-docker")
    finally:
        last.unlink()


def test_engine_that_is_stopped_and_one_that_may_not_be_used(engine: None, checkout: Path) -> None:  # noqa: ARG001
    found = report(checkout, DOCKER_HOST="unix:///nowhere.sock")
    assert found["engine"] == ("broken", "engine-unreachable")
    assert found["port"] == ("not looked at", "not-looked-at")
    if os.getuid():
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        for part in ("scripts", "docker", "docker-compose.yml"):
            copy = shutil.copytree if (REPOSITORY / part).is_dir() else shutil.copy
            copy(REPOSITORY / part, f"{folder}/{part}")
        doctor = ["/usr/bin/python3", "-B", f"{folder}/scripts/doctor", "--json"]
        told = subprocess.run(doctor, user=65534, capture_output=True, text=True, check=False)
    assert json.loads(told.stdout)["layers"][0]["kind"] == "engine-permission"


# What a workspace in Docker needs of the machine.


@pytest.fixture
def settings(compose_command: None, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:  # noqa: ARG001
    """Settings for a workspace in Docker, and an engine that need not be there: what it says of itself is told."""
    monkeypatch.setenv("WORKSPACE_BIND", "127.0.0.1")
    monkeypatch.setenv("WORKSPACE_PORT", str(free_port()))
    told: dict[str, Any] = {"NCPU": 2, "MemTotal": 8 << 30, "Warnings": None, "SecurityOptions": None}
    monkeypatch.setattr(engine, "info", lambda: told)
    return monkeypatch


def test_limits(settings: pytest.MonkeyPatch) -> None:
    assert machine.cpus(Workspace()).kind == "well"
    settings.setenv("WORKSPACE_CPUS", "2")
    assert machine.cpus(Workspace()).kind == "well"
    settings.setenv("WORKSPACE_CPUS", "2.5")
    assert machine.cpus(Workspace()).kind == "cpus"
    settings.delenv("WORKSPACE_CPUS")
    engine.info()["Warnings"] = ["WARNING: bridge-nf-call-iptables is disabled"]
    assert machine.cpus(Workspace()).kind == "well"
    engine.info()["Warnings"] += ["WARNING: No swap limit support"]
    assert machine.cpus(Workspace()).kind == "engine-limits"


def test_work_folder(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert machine.folder(Workspace()).kind == "well"  # a volume
    settings.setenv("WORKSPACE_DIR", str(tmp_path / "mine"))
    assert machine.folder(Workspace()).kind == "folder-missing"
    (tmp_path / "mine").mkdir(mode=0o755)
    settings.setenv("WORKSPACE_UID", str(os.getuid()))
    assert machine.folder(Workspace()).kind == "well"
    settings.setenv("WORKSPACE_UID", "12345")
    verdict = machine.folder(Workspace())
    assert verdict.kind == "folder-owner"
    assert f"sudo chown -R 12345:12345 {tmp_path / 'mine'}" in verdict.text
    (tmp_path / "mine").chmod(0o777)
    assert machine.folder(Workspace()).kind == "well"
    (tmp_path / "mine").chmod(0o755)
    engine.info()["SecurityOptions"] = ["name=rootless"]
    assert machine.folder(Workspace()).state is State.UNSEEN


def test_port(settings: pytest.MonkeyPatch) -> None:
    assert machine.port(Workspace()).kind == "well"
    with socket.create_server(("127.0.0.1", Workspace().port())):
        verdict = machine.port(Workspace())
    assert verdict.kind == "port"
    assert f"(process {os.getpid()})" in verdict.text or "another program" in verdict.text
    assert f"--port {Workspace().port() + 1}" in verdict.text
    settings.setenv("WORKSPACE_BIND", "192.0.2.1")
    assert machine.port(Workspace()).kind == "address"


def test_ports_of_tls(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("WORKSPACE_HTTP_PORT", str(free_port()))
    settings.setenv("WORKSPACE_HTTPS_PORT", str(free_port()))
    assert machine.port(Workspace(tls=True)).kind == "well"
    with socket.create_server(("127.0.0.1", int(os.environ["WORKSPACE_HTTP_PORT"]))):
        assert machine.port(Workspace(tls=True)).kind == "http-port"
    with socket.create_server(("127.0.0.1", int(os.environ["WORKSPACE_HTTPS_PORT"]))):
        assert machine.port(Workspace(tls=True)).kind == "port"


def test_port_that_a_container_has_is_told_by_its_name_and_our_own_is_no_trouble(
    settings: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workspace = Workspace()
    project, port = workspace.project, workspace.port()
    with socket.create_server(("127.0.0.1", port)):
        for owner, kind in ((project, "well"), ("another", "port")):
            listed = {"Names": "another-workspace-1", "Labels": f"x=y,com.docker.compose.project={owner}"}
            script = f"[ \"$1\" = ps ] && echo '{json.dumps(listed)}'"
            settings.setenv("PATH", fake_docker(tmp_path, script)["PATH"])
            verdict = machine.port(workspace)
            assert verdict.kind == kind
    assert "taken by the container another-workspace-1" in verdict.text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes."""
    if (
        os.getuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", tmp_path], check=False).returncode
    ):
        pytest.skip("this machine makes no small disk")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_engines_disk(small_disk: Path) -> None:
    assert machine.room(small_disk, built=True).kind == "well"
    assert machine.room(small_disk, built=False).kind == "disk-nearly-full"
    (small_disk / "fill").write_bytes(bytes(20 << 20))
    assert machine.room(small_disk, built=True).kind == "disk-full"
    assert machine.room(small_disk / "nowhere", built=True).state is State.UNSEEN


@pytest.mark.parametrize(
    ("files", "running", "bind", "in_docker", "kind"),
    [
        ({}, False, "0.0.0.0", True, "well"),  # noqa: S104
        ({"etc/ufw/ufw.conf": "ENABLED=no\n"}, False, "0.0.0.0", True, "well"),  # noqa: S104
        ({"etc/ufw/ufw.conf": "LOGLEVEL=low\nENABLED=yes\n"}, False, "0.0.0.0", True, "firewall-passed"),  # noqa: S104
        ({"etc/ufw/ufw.conf": "ENABLED=yes\n"}, False, "0.0.0.0", False, "firewall-closed"),  # noqa: S104
        ({"etc/ufw/ufw.conf": "ENABLED=yes\n"}, False, "127.0.0.1", True, "well"),
        ({}, True, "192.0.2.1", False, "firewall-closed"),
    ],
)
def test_firewall(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    bind: str,
    kind: str,
    *,
    running: bool,
    in_docker: bool,
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "firewall-cmd").write_text("#!/bin/sh\necho " + ("running" if running else "not running"))
    (tmp_path / "firewall-cmd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert machine.firewall(bind, 8888, in_docker=in_docker, root=tmp_path).kind == kind


def test_start_names_what_the_machine_lacks_before_anything_is_built(settings: pytest.MonkeyPatch) -> None:
    machine.require(Workspace())
    with socket.create_server(("127.0.0.1", Workspace().port())), pytest.raises(UserError, match="is taken by"):
        machine.require(Workspace())
    settings.setenv("WORKSPACE_CPUS", "64")
    with pytest.raises(UserError, match="WORKSPACE_CPUS is more than this machine has"):
        machine.require(Workspace())
