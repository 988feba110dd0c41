"""The doctor where the workspace is: each verdict by a layer that is ill, beside the same layer well."""

import http.server
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from labs import REPOSITORY, Container, Lab, SmallDisk, command, free_port, without_caches
from stand_ins import fake_docker, program, serving
from workspace.base import terminal, verdicts
from workspace.base.cli import UserError
from workspace.base.programs import ask
from workspace.base.verdicts import Check, State, Verdict
from workspace.host import doctor, engine, inside, locate, machine, native
from workspace.host.compose import Workspace

DOCKER = shutil.which("docker")
STOPPED = "Cannot connect to the Docker daemon at unix:///nowhere.sock. Is the docker daemon running?"


def report(checkout: Path, *arguments: str, **environment: str) -> dict[str, tuple[str, str]]:
    """State and kind of each layer, as `--json` has them."""
    done = command(checkout, "scripts/doctor", "--json", *arguments, **environment)
    assert [line for line in done.stderr.splitlines() if "still looking" not in line] == []  # a busy machine is slow
    assert "check-failed" not in done.stdout
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
    monkeypatch.setattr(terminal, "_SHOWN_AFTER_S", 0.05)
    shown = threading.Event()
    monkeypatch.setattr(terminal.StatusLine, "show", lambda _, text: (print(text), shown.set()))
    found = look(
        Check("the layer", lambda: verdicts.well("yes") if shown.wait(60) else verdicts.broken("x", "no line"))
    )
    assert found["the layer"].state is State.WELL
    assert "the layer: still looking, 0 s" in capsys.readouterr().out


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
        ('[ "$1" = version ] && echo 5.4.2 || echo podman version 5.4.2', "podman"),
    ],
)
def test_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docker: str, kind: str) -> None:
    monkeypatch.setenv("PATH", fake_docker(tmp_path, docker)["PATH"])
    monkeypatch.setattr(engine, "_ANSWERS_WITHIN_S", 1 if kind == "engine-silent" else 60)
    verdict = engine.look()
    assert verdict.kind == kind
    assert (verdict.state is State.WELL) == (kind == "well")


def test_docker_of_the_snap_is_told_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, kind in ((tmp_path / "bin", "well"), (tmp_path / "snap/bin", "engine-snap")):
        folder.mkdir(parents=True)
        monkeypatch.setenv("PATH", fake_docker(folder, "echo 28.4.0")["PATH"])
        assert engine.look().kind == kind


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


def test_machine_without_docker_lacks_nothing_unless_the_workspace_was_in_it(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("env", "python3"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    last = checkout / ".workspace/started-in"
    last.parent.mkdir(exist_ok=True)
    try:
        last.write_text("native")
        found = report(checkout, PATH=str(tmp_path))
        assert found["engine"] == ("none", "no-docker")
        assert found["Compose"] == ("not looked at", "not-looked-at")
    finally:
        last.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(locate, "_last", lambda: locate.DOCKER)
    assert (doctor.Host().engine().state, doctor.Host().engine().kind) == (State.BROKEN, "no-docker")


def test_engine_that_is_stopped_and_one_that_may_not_be_used(engine: None, checkout: Path) -> None:  # noqa: ARG001
    found = report(checkout, DOCKER_HOST="unix:///nowhere.sock")
    assert found["engine"] == ("broken", "engine-unreachable")
    assert found["limits"] == found["workspace"] == ("not looked at", "not-looked-at")
    if os.getuid():
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        for part in ("scripts", "docker", "docker-compose.yml"):
            copy = without_caches if (REPOSITORY / part).is_dir() else shutil.copy
            copy(REPOSITORY / part, f"{folder}/{part}")
        doctor = ["/usr/bin/python3", "-B", f"{folder}/scripts/doctor", "--json"]
        told = ask(*doctor, user=65534)
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


def test_settings_that_compose_does_not_take(settings: pytest.MonkeyPatch) -> None:
    assert doctor.Host().settings().kind == "well"
    settings.setenv("WORKSPACE_PORT", "many")
    assert doctor.Host().settings().kind == "settings"


def test_public_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(bind: str, name: str | None) -> str:
        monkeypatch.setenv("WORKSPACE_PUBLIC_HOST", name or "")
        return doctor.Host(running=native.Server(1, 8888, bind, "x")).public_name().kind

    assert told("127.0.0.1", None) == "well"
    assert told("127.0.0.1", "localhost") == "well"
    assert told("192.0.2.7", None) == "well"
    assert told("192.0.2.7", "nowhere.invalid") == "public-name"


def engine_that_has(folder: Path, *containers: dict[str, Any]) -> str:
    """A PATH on which `docker` is that of an engine with these containers of the workspace's project."""
    (folder / "described").write_text(json.dumps(containers))
    script = f"""case " $* " in
    *" config "*) exec {DOCKER} "$@" ;;
    *" ps "*) echo {" ".join("1" for _ in containers)} ;;
    *" inspect "*) cat {folder}/described ;;
    *" logs "*) echo 'workspace: refusing to start: no token was settled' ;;
    *" version "*) echo 26.1.5 ;;
    esac"""
    return fake_docker(folder, script)["PATH"]


def container(service: str, status: str, ports: tuple[int, ...] = (), **environment: str) -> dict[str, Any]:
    """A container as `docker inspect` describes it."""
    labels = {
        f"com.docker.compose.{name}": value for name, value in {"service": service, "project.working_dir": "/x"}.items()
    }
    return {
        "Name": f"/x-{service}-1",
        "State": {"Status": status},
        "RestartCount": 0,
        "Config": {"Labels": labels, "Env": [f"{name}={value}" for name, value in environment.items()]},
        "HostConfig": {
            "PortBindings": {f"{port}/tcp": [{"HostIp": "192.0.2.7", "HostPort": str(port)}] for port in ports},
            "DeviceRequests": None,
        },
        "Mounts": [{"Destination": "/run/workspace-secrets", "Source": "/dev/null"}],
    }


@pytest.mark.parametrize(
    ("containers", "kind"),
    [
        ([container("workspace", "exited")], "ended"),
        ([container("tls", "restarting"), container("workspace", "created")], "ended"),
        ([container("certificates", "exited")], "not-running"),  # of a cluster: when they are made it ends
        ([], "not-running"),
    ],
)
def test_workspace_that_does_not_stay_up_is_told_by_what_it_said_last(
    settings: pytest.MonkeyPatch, tmp_path: Path, containers: list[dict[str, Any]], kind: str
) -> None:
    settings.setattr(native, "running", lambda: None)
    settings.setenv("PATH", engine_that_has(tmp_path, *containers))
    verdict = doctor.Host(has_engine=True).find()
    assert verdict.kind == kind
    assert ("no token was settled" in verdict.text) == (kind == "ended")


def test_workspace_that_runs_is_found_at_the_port_it_was_started_with(
    settings: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lab = container("workspace", "running", WORKSPACE_PORT="443", WORKSPACE_TLS="1")
    caddy = container("tls", "running", ports=(8080, 443))  # WORKSPACE_HTTP_PORT, where 80 is taken
    settings.setenv("PATH", engine_that_has(tmp_path, caddy, lab))
    running = Workspace().running()
    assert running
    assert (running.bind, running.port, running.tls, running.gpu) == ("192.0.2.7", 443, True, False)
    plain = container("workspace", "running", ports=(8888,), WORKSPACE_PORT="8801")
    settings.setenv("PATH", engine_that_has(tmp_path, container("tls", "exited", ports=(80, 443)), plain))
    running = Workspace().running()
    assert running
    assert (running.bind, running.port, running.tls) == ("192.0.2.7", 8801, False)


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


def test_port_of_an_engine_without_root(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings.setenv("WORKSPACE_PORT", "887")
    settings.setattr(machine, "_FIRST_PORT", tmp_path / "ip_unprivileged_port_start")
    assert machine.port(Workspace()).kind == "well"
    engine.info()["SecurityOptions"] = ["name=seccomp,profile=builtin", "name=rootless"]
    assert machine.port(Workspace()).kind == "rootless-port"
    (tmp_path / "ip_unprivileged_port_start").write_text("80\n")
    assert machine.port(Workspace()).kind == "well"


def test_ports_of_tls(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("WORKSPACE_HTTP_PORT", str(free_port()))
    settings.setenv("WORKSPACE_PORT", str(free_port()))
    assert machine.port(Workspace(tls=True)).kind == "well"
    with socket.create_server(("127.0.0.1", int(os.environ["WORKSPACE_HTTP_PORT"]))):
        assert machine.port(Workspace(tls=True)).kind == "http-port"
    with socket.create_server(("127.0.0.1", int(os.environ["WORKSPACE_PORT"]))):
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


def test_engines_disk(small_disk: SmallDisk) -> None:
    disk = small_disk("size=80m")
    assert machine.room(disk, built=True).kind == "well"
    assert machine.room(disk, built=False).kind == "disk-nearly-full"
    (disk / "fill").write_bytes(bytes(20 << 20))
    assert machine.room(disk, built=True).kind == "disk-full"
    assert machine.room(disk / "nowhere", built=True).state is State.UNSEEN


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
    program(tmp_path / "firewall-cmd", "echo running" if running else "echo not running")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert machine.firewall(bind, 8888, in_docker=in_docker, root=tmp_path).kind == kind


def test_start_names_what_the_machine_lacks_before_anything_is_built(settings: pytest.MonkeyPatch) -> None:
    machine.require(Workspace())
    with socket.create_server(("127.0.0.1", Workspace().port())), pytest.raises(UserError, match="is taken by"):
        machine.require(Workspace())
    settings.setenv("WORKSPACE_CPUS", "64")
    with pytest.raises(UserError, match="WORKSPACE_CPUS is more than this machine has"):
        machine.require(Workspace())


# What a lab has where it runs.


def cgroups(folder: Path, **files: str) -> Path:
    """Control groups of version 2, as a container sees them; a name's second `_` stands for a dot."""
    for name, content in files.items():
        (folder / name.replace("_", ".", 1)).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"memory_max": "max\n"}, "well"),
        ({"memory_max": "4294967296\n", "memory_events": "oom 0\noom_kill 0\n"}, "well"),
        ({"memory_max": "4294967296\n", "memory_events": "oom 3\noom_kill 2\n"}, "memory-kills"),
        ({"memory_max": "1073741824\n", "memory_events": "oom 0\noom_kill 0\n"}, "memory-small"),
    ],
)
def test_memory(tmp_path: Path, files: dict[str, str], kind: str) -> None:
    assert inside.memory(cgroups(tmp_path, **files)).kind == kind


@pytest.mark.parametrize(
    ("files", "kind", "told"),
    [
        ({"cpu_max": "150000 100000\n", "pids_current": "12\n", "pids_max": "1024\n"}, "well", "1.5; 12 of 1024"),
        ({"cpu_max": "max 100000\n", "pids_current": "12\n", "pids_max": "max\n"}, "well", "no limit of threads"),
        ({"pids_current": "1000\n", "pids_max": "1024\n"}, "threads", "1000 of 1024"),
    ],
)
def test_cpus_and_threads(tmp_path: Path, files: dict[str, str], kind: str, told: str) -> None:
    verdict = inside.cpus(cgroups(tmp_path, **files))
    assert verdict.kind == kind
    assert told in verdict.text


def test_shared_memory(small_disk: SmallDisk) -> None:
    disk = small_disk("size=80m")
    assert inside.shared_memory(disk).kind == "shared-memory-small"
    assert inside.shared_memory(disk / "nowhere").state is State.ABSENT
    assert inside.shared_memory(small_disk("size=300m")).kind == "well"


def test_disk_of_the_folders(small_disk: SmallDisk, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKSPACE_DATA", str(small_disk("size=80m")))
    assert inside.disk().kind == "disk-nearly-full"
    monkeypatch.setattr(inside.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 0, 1 << 39))
    assert inside.disk().kind == "well"
    for name in ("work", "data", "state"):
        monkeypatch.setenv(f"WORKSPACE_{name.upper()}", str(folders / "nowhere"))
    assert inside.disk().state is State.UNSEEN


def test_folders_that_cannot_be_written_to(folders: Path) -> None:
    assert inside.folders().kind == "well"
    if os.getuid():
        return
    (folders / "state").rmdir()
    (folders / "state").write_text("no folder")  # root may write to every one there is
    assert inside.folders().kind == "folder-owner"


def test_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert inside.clock().kind == "well"
    monkeypatch.setattr(inside.time, "time", lambda: 86400.0)
    assert inside.clock().kind == "clock"


def test_proxy_and_authorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "WORKSPACE_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    assert inside.proxy().kind == "well"
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://name:secret@127.0.0.1:{server.getsockname()[1]}")
        verdict = inside.proxy()
        assert (verdict.kind, verdict.text) == ("well", "HTTPS_PROXY answers")
    verdict = inside.proxy()
    assert verdict.kind == "proxy"
    assert "secret" not in verdict.text
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("WORKSPACE_CA_BUNDLE", str(tmp_path / "ca.pem"))
    assert inside.proxy().kind == "authorities"
    monkeypatch.setenv("WORKSPACE_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
    assert inside.proxy().kind == "authorities"


class Mirror(http.server.BaseHTTPRequestHandler):
    """A server that has the beginning of an archive, and of which more is not asked."""

    def do_GET(self) -> None:
        assert self.headers["Range"] == "bytes=0-262143"
        self.send_response(206 if self.path == "/archive" else 404)
        self.end_headers()
        self.wfile.write(bytes(256 << 10))


@pytest.mark.usefixtures("folders")
def test_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    python = Path(sys.executable)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)) as mirror:
        for path, fast_enough, kind in (
            ("archive", 0.001, "no-images"),
            ("archive", 1e9, "mirrors-slow"),
            ("nothing", 1e9, "mirrors-out-of-reach"),
        ):
            monkeypatch.setattr(inside, "_FAST_KB_S", fast_enough)
            monkeypatch.setenv("CIFAR10_MIRRORS", f"{mirror}/{path}")
            assert inside.images(python).kind == kind
    monkeypatch.setenv("CIFAR10_MIRRORS", "none")
    assert inside.images(python).kind == "mirrors-out-of-reach"
    assert inside.images(Path("/nowhere/python")).state is State.UNSEEN


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize(("trusted", "kind"), [(False, "mirrors-certificate"), (True, "no-images")])
def test_mirror_whose_certificate_is_not_trusted_here_is_told_with_the_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, trusted: bool, kind: str
) -> None:
    if not shutil.which("openssl"):
        pytest.skip("certificates are made by openssl")
    made = ["-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "own.pem", "-days", "2"]
    named = ["-subj", "/CN=mirror", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(["openssl", "req", "-x509", *made, *named], cwd=tmp_path, check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "own.pem", tmp_path / "key")
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setattr(inside, "_FAST_KB_S", 0.001)
    if trusted:
        monkeypatch.setenv("WORKSPACE_CA_BUNDLE", str(tmp_path / "own.pem"))
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror), tls) as mirror:
        monkeypatch.setenv("CIFAR10_MIRRORS", f"{mirror}/archive")
        verdict = inside.images(Path(sys.executable))
    assert verdict.kind == kind
    assert trusted or "WORKSPACE_CA_BUNDLE" in verdict.text


def test_images_that_are_there_need_no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "_asked", lambda *_: (True, ["http://mirror.invalid/x"]))
    assert inside.images(Path(sys.executable)).kind == "well"


def test_metadata_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert inside.metadata(server.getsockname()).kind == "metadata"
        address = server.getsockname()
    assert inside.metadata(address).kind == "well"


# A workspace that runs.


def layers(told: str) -> dict[str, str]:
    return {each["layer"]: each["kind"] for each in json.loads(told)["layers"]}


def test_running_workspace_is_seen_through_to_a_kernel_from_outside_and_inside(
    container: Container, container_lab: Lab
) -> None:
    outside = container.command("scripts/doctor", "--json")
    assert outside.returncode == 0, container.command("scripts/doctor").stdout
    found = layers(outside.stdout)
    well = ["engine", "Compose", "port", "workspace", "server", "token", "websocket", "kernel", "folders", "clock"]
    assert {found[layer] for layer in well} == {"well"}
    assert {"memory", "PyTorch", "images", "metadata"} <= set(found)
    inside_ = container.inside("doctor", "--json")
    assert json.loads(inside_.stdout)["seen_from"] == "container"
    assert set(layers(inside_.stdout)) < set(found)
    for told in (outside.stdout, inside_.stdout):
        assert not re.search(r"\d+\.\d+\.\d+\.\d+", told)
        for secret in (container_lab.token, container.project, str(container.checkout)):
            assert secret not in told


def test_native_workspace_is_seen_through_and_what_docker_alone_needs_is_not_asked(
    checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    here = {"WORKSPACE_PORT": str(free_port()), "WORKSPACE_BIND": "127.0.0.1", "WORKSPACE_DIR": str(tmp_path / "work")}
    here |= {"DOCKER_HOST": "unix:///nowhere.sock"}
    started = command(checkout, "scripts/start", "--native", **here)
    assert started.returncode == 0, started.stderr
    try:
        found = report(checkout, **here)
    finally:
        command(checkout, "scripts/stop", **here)
        (checkout / ".workspace/started-in").unlink()
    assert found["engine"] == ("none", "engine-unreachable")
    assert found["port"] == ("ok", "well")
    assert found["kernel"] == ("ok", "well")
    assert found["folders"] == ("ok", "well")


def test_workspace_that_is_paused_is_told(container: Container) -> None:
    name = f"{container.project}-workspace-1"
    container.command("docker", "pause", name)
    try:
        found = layers(container.command("scripts/doctor", "--json").stdout)
    finally:
        container.command("docker", "unpause", name)
    assert (found["workspace"], found["server"]) == ("paused", "not-running")
