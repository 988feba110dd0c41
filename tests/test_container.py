"""The workspace in Docker, started by scripts/start from a copy of the repository."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from labs import REPOSITORY, Container, Lab, free_port, without_caches
from workspace.base.places import LESSON
from workspace.base.programs import ask


def test_container_is_healthy(container: Container) -> None:
    [line] = container.command("docker", "compose", "ps", "--format", "json").stdout.splitlines()
    assert json.loads(line)["State"] == "running"
    assert container.healthy()


def test_health_is_asked_every_second_while_the_lab_begins(container: Container) -> None:
    checks = container.command(
        "sh", "-c", "docker inspect --format '{{json .Config.Healthcheck}}' $(docker compose ps -q)"
    )
    assert json.loads(checks.stdout)["StartInterval"] == 1e9


def test_lesson_is_seeded_at_the_root_for_whoever_has_the_token(container_lab: Lab) -> None:
    assert container_lab.get(f"/api/contents/{LESSON}").status_code == 403
    assert container_lab.get(f"/api/contents/{LESSON}", container_lab.token).json()["type"] == "notebook"


def test_kernel_runs_torch(container_lab: Lab) -> None:
    assert container_lab.run("import torch, torchvision; print(torch.ones(2, 3).sum().item())") == "6.0\n"


def test_run_from_a_notebook_s_cell_names_the_image_that_made_it(container: Container, container_lab: Lab) -> None:
    small = "-p dataset drawn -p train_images 640 -p epochs 1"
    said = container_lab.run(f"!run {LESSON} {small} -o /workspace/runs/cell", timeout_s=300)
    assert "completed in" in said, said
    record = json.loads(container.inside("cat", "/workspace/runs/cell/run.json").stdout)
    wheels = container.inside("python", "-c", "import torch; print('cuda' if torch.version.cuda else 'cpu')").stdout
    assert re.fullmatch(rf"{wheels.strip()}-[0-9a-f]{{12}}", record["image"])
    refused = container_lab.run(f"!run {LESSON} -p epochs 0 -o /workspace/runs/none", timeout_s=300)
    assert "Allowed: 0.001 to 1000" in refused
    assert container.inside("ls", "/workspace/runs").stdout == "cell\n"
    container.inside("rm", "-r", "/workspace/runs")


def test_nobody_is_root_and_nobody_can_become_root(container: Container) -> None:
    assert container.inside("id", "-u").stdout == "1000\n"
    capabilities = container.inside("sh", "-c", "grep -E 'Cap(Eff|Bnd)|NoNewPrivs' /proc/1/status").stdout.split()
    assert capabilities == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]
    assert container.inside("find", "/", "-xdev", "-perm", "/6000", "-type", "f").stdout == ""


def test_image_is_read_only_and_the_work_folder_is_not(container: Container) -> None:
    assert "Read-only" in container.inside("touch", "/opt/workspace/x").stderr
    assert container.inside("touch", "/workspace/x").returncode == 0
    assert container.inside("rm", "/workspace/x").returncode == 0


def test_no_build_tools_are_left_in_the_image(container: Container) -> None:
    left = container.inside("sh", "-c", "command -v as ld make uv curl wget sudo; ls -d /usr/bin/*gcc* /usr/lib/gcc")
    assert left.stdout == ""
    told = container.inside("gcc", "--version")  # what has a compiler's name tells that there is none
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (127, "", 1)


def test_shared_memory_is_large_enough_for_data_loader_workers(container: Container) -> None:
    assert int(container.inside("stat", "-f", "-c", "%b", "/dev/shm").stdout) * 4096 == 1024**3  # noqa: S108


def test_log_of_ordinary_work_holds_no_token_and_no_error(fresh: Container) -> None:
    lab = fresh.start()
    assert lab.get(f"/lab?token={lab.token}").status_code == 200
    assert lab.run("print(1)") == "1\n"
    log = fresh.command("docker", "compose", "logs").stdout
    assert "workspace: starting" in log
    assert lab.token not in log
    assert "Traceback" not in log
    assert "[E " not in log


def test_link_from_inside_the_container_is_the_same(container: Container, container_lab: Lab) -> None:
    inside = container.inside("lab-link").stdout.strip()
    assert inside.endswith(f"/?token={container_lab.token}")


def test_started_twice_prints_the_same_link(container: Container, container_lab: Lab) -> None:
    again = container.command("scripts/start")
    assert again.stdout.splitlines() == ["The workspace is running already.", container_lab.link]


def test_second_start_waits_for_the_first_and_another_learners_changes_nothing(fresh: Container) -> None:
    def start(workspace: Container) -> subprocess.Popen[str]:
        environment = {"COMPOSE_PROJECT_NAME": workspace.project, "WORKSPACE_PORT": str(workspace.port)}
        return subprocess.Popen(
            ["scripts/start"], cwd=workspace.checkout, env=os.environ | environment, stdout=subprocess.PIPE, text=True
        )

    def container_and_image() -> str:
        named = fresh.command("docker", "compose", "config", "--images", "workspace").stdout.strip()
        described = fresh.command("docker", "image", "inspect", "--format", "{{.Id}}", named)
        assert described.returncode == 0, described.stderr
        return fresh.command("docker", "compose", "ps", "--quiet").stdout + described.stdout

    links = {starting.communicate(timeout=600)[0].splitlines()[-1] for starting in [start(fresh), start(fresh)]}
    assert len(links) == 1
    assert links.pop().startswith("http")
    before = container_and_image()
    other = Container(fresh.checkout, f"{fresh.project}-other", free_port())
    try:
        other.start()
    finally:
        other.remove()
    assert fresh.command("scripts/start").returncode == 0
    assert container_and_image() == before


def test_workspace_of_another_checkout_is_neither_stopped_nor_taken_for_this_ones(
    container: Container, tmp_path: Path
) -> None:
    other = Container(tmp_path / "other", container.project, container.port)
    shutil.copytree(container.checkout, other.checkout, symlinks=True)
    for arguments in (["scripts/stop"], ["scripts/start"], ["scripts/token", "rotate"]):
        refused = other.command(*arguments)
        assert refused.returncode == 1
        assert f"runs from another checkout, {container.checkout}" in refused.stderr
    assert container.healthy()


def test_container_made_for_one_command_is_not_taken_for_the_workspace(fresh: Container) -> None:
    run = ["docker", "compose", "run", "--rm", "--detach", "--no-deps", "workspace", "sleep", "600"]
    once = fresh.command(*run).stdout.strip()
    try:
        assert fresh.command("scripts/link").returncode == 1
        assert fresh.start().get("/api").ok
    finally:
        fresh.command("docker", "rm", "--force", once)


def test_paused_container_is_said_to_be_paused(fresh: Container) -> None:
    fresh.start()
    assert fresh.command("docker", "compose", "pause").returncode == 0
    try:
        for script in ("scripts/start", "scripts/link", "scripts/stop"):
            refused = fresh.command(script)
            assert refused.returncode == 1
            assert f"`docker unpause {fresh.project}-workspace-1` lets it go on" in refused.stderr
    finally:
        fresh.command("docker", "compose", "unpause")


def test_another_port_is_refused_while_it_runs(container: Container) -> None:
    refused = container.command("scripts/start", "--port", str(free_port()))
    assert refused.returncode == 1
    assert "scripts/stop first" in refused.stderr


def test_edits_and_token_survive_recreation(fresh: Container) -> None:
    lab = fresh.start()
    edit = {"type": "file", "format": "text", "content": "print('mine')"}
    helper = "/api/contents/train_ddp.py"
    assert lab.request("PUT", helper, lab.token, json=edit).status_code == 200
    stopped = fresh.command("scripts/stop")
    assert f"notebooks and runs: volume {fresh.project}_work" in stopped.stdout
    again = fresh.start("--reset-lesson")
    assert again.token == lab.token
    assert again.get(helper, again.token).json()["content"] == "print('mine')"
    assert "def " in again.get("/api/contents/train_ddp.original.py", again.token).json()["content"]


def test_running_cell_gets_to_its_finally_when_stopped(fresh: Container) -> None:
    lab = fresh.start()
    kernel = lab.request("POST", "/api/kernels", lab.token, json={}).json()["id"]
    cell = (
        "import pathlib, time\n"
        "try:\n  pathlib.Path('/workspace/started').touch(); time.sleep(600)\n"
        "finally:\n  time.sleep(5); pathlib.Path('/workspace/finished').touch()"
    )
    lab.send(kernel, cell)
    lab.wait_for_file("started")
    assert fresh.command("scripts/stop").returncode == 0
    again = fresh.start()
    assert again.get("/api/contents/finished", again.token).status_code == 200


def test_token_file_is_refused_while_unreadable_then_used_and_stays_out_of_inspect(
    fresh: Container, tmp_path: Path
) -> None:
    token = "0123456789abcdef" * 3
    (tmp_path / "token").write_text(token)
    (tmp_path / "token").chmod(0o600)
    refused = fresh.command("scripts/start", WORKSPACE_SECRETS=str(tmp_path))
    assert "cannot be read by uid 1000" in refused.stderr
    os.chown(tmp_path, 1000, 1000)
    os.chown(tmp_path / "token", 1000, 1000)
    lab = fresh.start(WORKSPACE_SECRETS=str(tmp_path))
    assert lab.token == token
    inspected = fresh.command("sh", "-c", "docker inspect $(docker compose ps -q)")
    assert inspected.returncode == 0
    assert token not in inspected.stdout


def test_bad_token_starts_nothing_and_says_why(fresh: Container) -> None:
    refused = fresh.command("scripts/start", JUPYTER_TOKEN="changeme")  # noqa: S106  (bad on purpose)
    assert refused.returncode == 1
    assert "the access token in JUPYTER_TOKEN has 8 characters" in refused.stderr
    assert fresh.command("docker", "compose", "ps", "--all", "--quiet").stdout == ""


def test_folder_owned_by_root_starts_nothing_and_says_what_to_do(fresh: Container, tmp_path: Path) -> None:
    refused = fresh.command("scripts/start", WORKSPACE_DIR=str(tmp_path))
    assert refused.returncode == 1
    assert "chown -R 1000:1000" in refused.stderr
    assert fresh.command("docker", "compose", "ps", "--all", "--quiet").stdout == ""


def test_folder_of_the_right_owner_gets_the_lesson(fresh: Container, tmp_path: Path) -> None:
    os.chown(tmp_path, 1000, 1000)
    fresh.start(WORKSPACE_DIR=str(tmp_path))
    assert (tmp_path / LESSON).stat().st_uid == 1000


def test_folder_of_another_user_is_worked_in_as_that_user(fresh: Container, tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 1234)
    try:
        lab = fresh.start(WORKSPACE_UID="1234", WORKSPACE_DIR=str(tmp_path))
        assert (tmp_path / LESSON).stat().st_uid == 1234
        assert lab.run("import os; print(os.getuid(), os.access('/data', os.W_OK))") == "1234 True\n"
    finally:
        assert fresh.command("docker", "compose", "build").returncode == 0  # the image's tag is everybody's


def test_clone_made_with_a_strict_umask_starts(fresh: Container) -> None:
    secrets = fresh.checkout / "docker/secrets"
    secrets.chmod(0o700)
    fresh.start()
    assert secrets.stat().st_mode & 0o777 == 0o700
    fresh.command("scripts/stop")
    (secrets / "token").write_text("0123456789abcdef" * 3)
    try:
        assert "cannot be read by uid 1000" in fresh.command("scripts/start").stderr
    finally:
        (secrets / "token").unlink()
        secrets.chmod(0o755)  # the checkout is for all tests


def test_proxy_of_the_machine_is_not_asked_for_the_lab_itself(fresh: Container) -> None:
    lab = fresh.start(HTTP_PROXY="http://proxy.invalid:3128")
    assert lab.run("import os; print(os.environ['HTTP_PROXY'])") == "http://proxy.invalid:3128\n"
    assert fresh.healthy()


def test_port_in_use_starts_nothing_and_names_the_next_one(fresh: Container) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", fresh.port))
        taken.listen()
        refused = fresh.command("scripts/start")
    assert refused.returncode == 1
    assert f"port {fresh.port} is taken" in refused.stderr
    assert f"--port {fresh.port + 1}" in refused.stderr
    assert fresh.command("docker", "compose", "ps", "--all", "--quiet").stdout == ""


def test_gpu_without_a_gpu_starts_nothing_and_says_what_is_missing(fresh: Container) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    refused = fresh.command("scripts/start", "--gpu")
    assert refused.returncode == 1
    assert "Docker cannot reach a GPU" in refused.stderr
    assert fresh.command("docker", "compose", "ps", "--all", "--quiet").stdout == ""


def test_base_image_out_of_reach_is_named_with_the_ways_on(fresh: Container) -> None:
    refused = fresh.command("scripts/start", WORKSPACE_BASE_IMAGE="no.invalid/x")
    assert "base image cannot be fetched" in refused.stdout + refused.stderr
    assert "--native" in refused.stdout + refused.stderr


def test_engine_without_permission_is_named(engine: None) -> None:  # noqa: ARG001
    if os.getuid() != 0:
        pytest.skip("only root can act for a user without permission")
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        without_caches(REPOSITORY / "scripts", f"{folder}/scripts")
        refused = ask("/usr/bin/python3", f"{folder}/scripts/start", user=65534)
    assert refused.returncode == 1
    assert "usermod -aG docker" in refused.stderr
