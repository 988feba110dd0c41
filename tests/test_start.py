"""scripts/start, link and stop: what they refuse, and the workspace without Docker."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labs import REPOSITORY, Lab, SmallDisk, command, free_port, wait_until, without_caches
from stand_ins import fake_docker
from workspace.base import network, programs
from workspace.base.cli import UserError
from workspace.host import causes, compose, start


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', "NVIDIA Container Toolkit"),
        ("unknown or invalid runtime name: nvidia", "NVIDIA Container Toolkit"),
        ("Bind for 0.0.0.0:8888 failed: port is already allocated", "scripts/start --port 8889"),
        ("listen tcp4 192.0.2.1:8888: bind: cannot assign requested address", "hostname -I"),
        ("Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", "WORKSPACE_CPUS"),
        ("cause: torch==2.15.0 has no wheels with a matching platform tag (e.g., `musllinux_1_2`)", "glibc 2.28"),
        ("dockerfile parse error on line 112: unknown flag: start-interval", "Docker Engine 25"),
        ('Conflict. The container name "/x-workspace-1" is already in use', "another checkout"),
        ("write /var/lib/docker/tmp/x: no space left on device", "disk is full"),
        ("debian:trixie-slim: failed to resolve source metadata for docker.io/library/debian", "WORKSPACE_BASE_IMAGE"),
        ("#12 error: Request failed: https://download.pytorch.org/whl/cpu/torch/", "WORKSPACE_TORCH_INDEX"),
        ("#12 cause: Failed to fetch: https://mirror.example/simple/torch/", "WORKSPACE_TORCH_INDEX"),
        ("#12 cause: Failed to fetch: https://mirror.example/x/\nRUN uv pip $TORCH_INDEX", "a package index cannot"),
        ("invalid peer certificate: UnknownIssuer", "WORKSPACE_CA_BUNDLE"),
        ("something\nError: something else went wrong\nmore", "something else went wrong"),
        ("", "no reason"),
    ],
)
def test_what_docker_says_becomes_a_cause_and_a_next_step(said: str, told: str) -> None:
    assert told in causes.explain(said, 8888)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--port", "99999"], "--port 99999 is not a port"),
        (["--port", "x"], "invalid int value"),
        (["--bind", "everywhere"], "--bind everywhere is not an IPv4 address"),
        (["--bind", "::1"], "--bind ::1 is not an IPv4 address"),
        (["--public-host", "http://vm/"], "is not a host name"),
        (["--gpus"], "unrecognized arguments: --gpus"),
    ],
)
def test_bad_argument_is_refused_in_one_line(checkout: Path, arguments: list[str], complaint: str) -> None:
    refused = command(checkout, "scripts/start", *arguments)
    assert refused.returncode == 2
    assert complaint in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_the_tunnel_that_is_advised_leads_to_the_port_that_is_open(capsys: pytest.CaptureFixture) -> None:
    start._warn_if_public("192.0.2.7", 8801)
    assert "ssh -L 8801:localhost:8801" in capsys.readouterr().out
    start._warn_if_public("127.0.0.1", 8801)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("docker", "told"),
    [('[ "$1" = version ]', "is missing"), ('[ "$1" = version ] && echo 26.1.5 || echo 2.17.3', "is 2.17.3")],
)
def test_compose_that_is_missing_or_too_old_is_named_with_its_packages(
    checkout: Path, tmp_path: Path, docker: str, told: str
) -> None:
    refused = command(checkout, "scripts/start", **fake_docker(tmp_path, docker))
    assert refused.returncode == 1
    assert f"Docker Compose {told} and 2.24 or newer is needed: install docker-compose-v2 (Ubuntu)" in refused.stderr


@pytest.fixture
def without_engine(checkout: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A machine whose Docker engine does not answer, and a free port."""
    environment = fake_docker(tmp_path, "echo Cannot connect to the Docker daemon >&2; exit 1")
    yield environment | {"WORKSPACE_PORT": str(free_port()), "WORKSPACE_BIND": "127.0.0.1"}
    command(checkout, "scripts/stop", **environment)


def test_without_an_engine_the_same_lab_is_served_natively(checkout: Path, without_engine: dict[str, str]) -> None:
    started = command(checkout, "scripts/start", **without_engine)
    assert started.returncode == 0, started.stderr
    assert "No Docker engine answers" in started.stdout
    lab = Lab(started.stdout.splitlines()[-1])
    assert lab.get("/api/contents").status_code == 403
    assert lab.get("/api/contents/first_pytorch_classifier.ipynb", lab.token).status_code == 200
    assert lab.run("import torch; print(torch.ones(2).sum().item())") == "2.0\n"
    assert command(checkout, "scripts/link", **without_engine).stdout.strip() == lab.link
    again = command(checkout, "scripts/start", **without_engine)
    assert again.stdout.splitlines()[-1] == lab.link
    stopped = command(checkout, "scripts/stop", **without_engine)
    assert str(checkout / "work") in stopped.stdout
    assert (checkout / "work/first_pytorch_classifier.ipynb").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act for somebody else")
@pytest.mark.parametrize("name", ["start", "run", "token"])
def test_folder_that_may_not_be_written_to_is_one_line(name: str) -> None:
    arguments = {"start": ["--native"], "run": ["x.ipynb"], "token": ["rotate"]}[name]
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are its user's alone
        Path(folder).chmod(0o755)
        for part in ("scripts", "docker"):
            without_caches(REPOSITORY / part, f"{folder}/{part}")
        started = ["/usr/bin/python3", f"{folder}/scripts/{name}", *arguments]
        refused = programs.ask(*started, env={"PATH": "/nowhere"}, user=65534)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "Permission denied" in refused.stderr or "no workspace is running" in refused.stderr


@pytest.mark.parametrize("free_kb", [0, 1200])
def test_disk_that_is_full_is_one_line(small_disk: SmallDisk, free_kb: int) -> None:
    disk = small_disk("size=3m")
    for part in ("scripts", "docker"):
        without_caches(REPOSITORY / part, disk / part)
    (disk / "fill").write_bytes(bytes(shutil.disk_usage(disk).free - (free_kb << 10)))
    refused = programs.ask("/usr/bin/python3", "-B", disk / "scripts/start", "--native", env={"PATH": "/nowhere"})
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "No space left" in refused.stderr or "the disk is full" in refused.stderr


def test_folder_with_spaces_and_quotes_serves_a_lab_whose_pip_works(checkout: Path, tmp_path: Path) -> None:
    clone = tmp_path / 'a folder\'s "name" $x'
    shutil.copytree(checkout, clone, symlinks=True, ignore=shutil.ignore_patterns(".workspace", "work"))
    here = {"WORKSPACE_PORT": str(free_port()), "WORKSPACE_BIND": "127.0.0.1"}
    try:
        started = command(clone, "scripts/start", "--native", **here)
        assert started.returncode == 0, started.stderr
        said = Lab(started.stdout.splitlines()[-1]).run("!command -v pip; pip --version")
    finally:
        command(clone, "scripts/stop", **here)
    assert str(clone / ".workspace/state/kernels") in said
    assert "(python 3." in said


def test_folder_with_a_colon_is_refused_in_one_line(checkout: Path, tmp_path: Path) -> None:
    shutil.copytree(checkout / "scripts", tmp_path / "a:b/scripts")
    refused = command(tmp_path / "a:b", "scripts/start")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "may have a colon" in refused.stderr


def test_clone_in_windows_keeps_the_ends_of_lines_that_linux_needs(tmp_path: Path) -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this copy is no clone")
    clone = ["git", "clone", "--quiet", "--config", "core.autocrlf=true", REPOSITORY, tmp_path / "clone"]
    subprocess.run(clone, check=True)
    kept = ["scripts/start", "docker/Dockerfile", "docker/healthcheck.py", "docker/requirements.lock"]
    assert [name for name in kept if b"\r" in (tmp_path / "clone" / name).read_bytes()] == []


def test_machines_own_authorities_are_used_without_asking_and_the_setting_goes_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("machines.pem", "mine.pem", "secret.pem"):
        (tmp_path / name).write_text("a certificate")
    (tmp_path / "secret.pem").chmod(0o600)
    monkeypatch.delenv("WORKSPACE_CA_BUNDLE", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "secret.pem"))  # the container's user could not read it
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "machines.pem"))
    assert network.authorities() == tmp_path / "machines.pem"
    monkeypatch.setenv("WORKSPACE_CA_BUNDLE", str(tmp_path / "mine.pem"))
    assert network.environment()["PIP_CERT"] == str(tmp_path / "mine.pem")
    monkeypatch.setenv("WORKSPACE_CA_BUNDLE", "/dev/null")
    assert network.authorities() is None
    monkeypatch.setenv("WORKSPACE_CA_BUNDLE", "nowhere.pem")
    with pytest.raises(UserError, match="which is not there"):
        network.authorities()


@pytest.mark.parametrize(
    ("system", "line"), [("ID=ubuntu\nID_LIKE=debian\n", "mmdebstrap --variant"), ("ID=fedora\n", "")]
)
def test_base_image_out_of_reach_comes_with_the_line_that_makes_one_on_debian(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, line: str
) -> None:
    (tmp_path / "os-release").write_text(system)
    monkeypatch.setattr(causes, "_OS_RELEASE", tmp_path / "os-release")
    told = causes.explain("failed to resolve source metadata for docker.io/library/debian")
    assert line in told
    assert ("docker import - debian:trixie-slim" in told) == bool(line)


def test_what_the_build_decides_is_said_and_the_rest_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = "#5 [2/9] RUN uv\\n#5 0.3 downloading\\n#5 0.4 workspace: the larger one is taken.\\n"
    assert programs.follow(["printf", output], os.environ, tmp_path / "log", "Building", compose.build_step)
    assert capsys.readouterr().out == "the larger one is taken.\n"
    assert "downloading" in (tmp_path / "log").read_text()


def test_settings_in_dotenv_count_without_an_engine_too(checkout: Path, without_engine: dict[str, str]) -> None:
    token = "0123456789abcdef" * 3
    settings = {
        "JUPYTER_TOKEN": token,
        "CIFAR10_MIRRORS": "http://mirror.invalid/x",
        "HTTP_PROXY": "http://proxy.invalid",
    }
    (checkout / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    try:
        started = command(checkout, "scripts/start", **without_engine)
        assert started.returncode == 0, started.stderr
        lab = Lab(started.stdout.splitlines()[-1])
        assert lab.token == token
        seen = lab.run(
            "import os; print(os.environ['CIFAR10_MIRRORS'], os.environ['HTTP_PROXY'], 'JUPYTER_TOKEN' in os.environ)"
        )
        assert seen == "http://mirror.invalid/x http://proxy.invalid False\n"
        assert command(checkout, "scripts/stop", **without_engine).returncode == 0
        (checkout / ".env").write_text("JUPYTER_TOKEN=\n")
        refused = command(checkout, "scripts/start", **without_engine)
        assert "the access token in JUPYTER_TOKEN is empty" in refused.stderr
    finally:
        (checkout / ".env").unlink()


def test_native_start_on_a_taken_port_leaves_nothing_running(checkout: Path, without_engine: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(without_engine["WORKSPACE_PORT"])))
        taken.listen()
        refused = command(checkout, "scripts/start", **without_engine)
    assert refused.returncode == 1
    assert "is taken by" in refused.stderr
    assert command(checkout, "scripts/link", **without_engine).returncode == 1


def test_address_of_another_machine_is_named(checkout: Path, without_engine: dict[str, str]) -> None:
    refused = command(checkout, "scripts/start", "--bind", "192.0.2.1", **without_engine)
    assert refused.returncode == 1
    assert "hostname -I" in refused.stderr


def test_nothing_to_stop_and_nothing_to_link_say_so(checkout: Path, without_engine: dict[str, str]) -> None:
    for script in ("scripts/stop", "scripts/link"):
        refused = command(checkout, script, **without_engine)
        assert refused.returncode == 1
        assert "no workspace is running" in refused.stderr


def test_record_of_a_server_that_is_gone_is_not_believed(checkout: Path, without_engine: dict[str, str]) -> None:
    record = {
        "pid": os.getpid(),
        "port": int(without_engine["WORKSPACE_PORT"]),
        "bind": "127.0.0.1",
        "public_host": "x",
    }
    (checkout / ".workspace").mkdir(exist_ok=True)
    (checkout / ".workspace/server.json").write_text(json.dumps(record))
    assert "no workspace is running" in command(checkout, "scripts/link", **without_engine).stderr


@pytest.fixture
def server(checkout: Path, without_engine: dict[str, str]) -> dict[str, Any]:
    """The record of a native server that runs."""
    started = command(checkout, "scripts/start", **without_engine)
    assert started.returncode == 0, started.stderr
    return json.loads((checkout / ".workspace/server.json").read_text())


def test_second_native_start_waits_for_the_first_and_finds_its_server(
    checkout: Path, without_engine: dict[str, str]
) -> None:
    start = ["scripts/start"]
    first, second = (
        subprocess.Popen(start, cwd=checkout, env=os.environ | without_engine, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    said = [process.communicate(timeout=120)[0].splitlines() for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert said[0][-1] == said[1][-1]
    assert {True, False} == {any("waiting for it" in line for line in lines) for lines in said}
    assert command(checkout, "scripts/stop", **without_engine).returncode == 0
    assert command(checkout, "scripts/link", **without_engine).returncode == 1


def test_server_that_was_stopped_by_a_signal_is_said_to_be_there_and_can_be_ended(
    checkout: Path, without_engine: dict[str, str], server: dict[str, Any]
) -> None:
    os.kill(server["pid"], signal.SIGSTOP)
    for script in ("scripts/link", "scripts/start"):
        refused = command(checkout, script, **without_engine)
        assert refused.returncode == 1
        assert f"`kill -CONT {server['pid']}`" in refused.stderr
    assert command(checkout, "scripts/stop", **without_engine).returncode == 0
    wait_until(lambda: not Path(f"/proc/{server['pid']}").exists())


@pytest.mark.parametrize("script", ["link", "stop", "start", "token"])
def test_record_that_was_cut_short_is_one_line_as_long_as_the_server_lives(
    checkout: Path, without_engine: dict[str, str], server: dict[str, Any], script: str
) -> None:
    record = checkout / ".workspace/server.json"
    whole = record.read_text()
    try:
        for length, hint in ((20, f"kill {server['pid']}"), (10, "kill (see `ps`)")):  # 10: within the number
            os.truncate(record, length)
            arguments = ["rotate"] if script == "token" else []
            refused = command(checkout, f"scripts/{script}", *arguments, **without_engine)
            assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
            assert hint in refused.stderr
    finally:  # without it no command could stop the server
        record.write_text(whole)
    assert command(checkout, "scripts/link", **without_engine).returncode == 0


def test_server_that_was_killed_is_gone_although_its_kernel_lives_on(
    checkout: Path, without_engine: dict[str, str], server: dict[str, Any]
) -> None:
    lab = Lab(command(checkout, "scripts/link", **without_engine).stdout.strip())
    kernel = lab.request("POST", "/api/kernels", lab.token, json={}).json()["id"]
    lab.send(kernel, "import time; time.sleep(30)")
    os.kill(server["pid"], signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{server['pid']}").exists())
    refused = command(checkout, "scripts/link", **without_engine)
    assert "no workspace is running" in refused.stderr
    (checkout / ".workspace/server.json").write_text("{")
    assert "no workspace is running" in command(checkout, "scripts/link", **without_engine).stderr
