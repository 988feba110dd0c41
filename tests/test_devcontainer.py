"""The dev container, made by the reference command line from npm on the real engine, as editors make it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import IMAGE, Container, Lab, command, wait_until
from stand_ins import fake_docker
from workspace.base.programs import ask

CLI = "@devcontainers/cli@0.89.0"
FILES = ("docker-compose.yml", ".devcontainer/compose.yml", ".devcontainer/host.yml")
# Whether a GPU is handed over is tried by an empty container; what the engine says in earnest is kept: the command
# line does not show it.
ENGINE_WITH_GPU = """\
case "$*" in
"run --rm --gpus="*) echo 'exec: "nothing": executable file not found in $PATH' >&2; exit 127 ;;
*" up -d workspace") exec {docker} "$@" 2>"${{0%/*}}/said" ;;
*) exec {docker} "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def devcontainer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command `devcontainer`."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed here")
    folder = tmp_path_factory.mktemp("npm")
    if ask("npm", "install", "--silent", "--no-audit", "--prefix", folder, CLI).returncode:
        pytest.skip("npm's registry cannot be reached from here")
    return str(folder / "node_modules" / ".bin" / "devcontainer")


@pytest.fixture
def named(container: Container) -> Iterator[str]:
    """The image by another name: so the dev container builds nothing."""
    name = f"workspace-test-devcontainer:{os.getpid()}"
    container.command("docker", "tag", IMAGE, name)
    yield name
    container.command("docker", "image", "rm", name)


@pytest.fixture
def engine_with_gpu(tmp_path: Path) -> dict[str, str]:
    """Variables with which the engine seems to hand over a GPU, when it is asked whether it does."""
    return fake_docker(tmp_path / "bin", ENGINE_WITH_GPU.format(docker=shutil.which("docker")))


def overlay(checkout: Path, **environment: str) -> dict:
    """The service as Compose reads it when the dev container's own command has run."""
    written = command(checkout, "python3", "-m", "workspace.host.devcontainer", PYTHONPATH="scripts", **environment)
    assert written.returncode == 0, written.stderr
    files = [argument for file in FILES for argument in ("-f", file)]
    told = command(checkout, "docker", "compose", *files, "config", "--format", "json", **environment)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)["services"]["workspace"]


def test_dev_container_has_a_gpu_and_its_wheels_where_the_engine_hands_one_over(
    engine: None,  # noqa: ARG001
    checkout: Path,
    engine_with_gpu: dict[str, str],
) -> None:
    without = overlay(checkout)
    assert without["image"] == IMAGE
    assert "deploy" not in without or not without["deploy"].get("resources")
    there = overlay(checkout, **engine_with_gpu)
    assert (there["image"], there["build"]["args"]["WHEELS"]) == ("pytorch-workspace:cuda", "cuda")
    assert there["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert {mount["target"] for mount in there["volumes"]} >= {"/home/learner", "/workspace", "/state"}


def test_dev_container_goes_on_serving_tells_its_link_and_keeps_its_home(
    fresh: Container, devcontainer: str, named: str, tmp_path: Path
) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = fresh.command(devcontainer, *arguments, WORKSPACE_IMAGE=named, TMPDIR=str(tmp_path))
        assert done.returncode == 0, done.stderr
        return done

    up = ("up", "--workspace-folder", ".")
    try:
        first = json.loads(run(*up).stdout.splitlines()[-1])
        assert first["outcome"] == "success"
        assert first["remoteWorkspaceFolder"] == "/workspace"
        wait_until(fresh.healthy)
        told = run(
            "exec", "--workspace-folder", ".", "sh", "-c", "touch ~/kept && lab-link && command -v python && id -un"
        )
        link, python, user = told.stdout.splitlines()
        assert (python, user) == ("/opt/venv/bin/python", "learner")
        lab = Lab(link)
        assert lab.get("/api/contents", lab.token).ok
        again = json.loads(run(*up, "--remove-existing-container").stdout.splitlines()[-1])
        assert again["containerId"] != first["containerId"]
        wait_until(fresh.healthy)
        assert fresh.inside("ls", "/home/learner/kept").returncode == 0
        assert fresh.inside("touch", "/opt/x").returncode != 0  # hardened as ever
        assert fresh.command("docker", "compose", "exec", "-T", "workspace", "lab-link").stdout.strip() == link
    finally:
        fresh.command("docker", "compose", *("-f", FILES[0], "-f", FILES[1]), "down", "--volumes")


def test_dev_container_asks_the_engine_for_the_gpu_that_was_found(
    fresh: Container, devcontainer: str, named: str, engine_with_gpu: dict[str, str], tmp_path: Path
) -> None:
    up = (devcontainer, "up", "--workspace-folder", ".")
    refused = fresh.command(*up, WORKSPACE_IMAGE=named, TMPDIR=str(tmp_path), **engine_with_gpu)
    try:
        assert refused.returncode != 0
        said = (tmp_path / "bin" / "said").read_text()
        assert "could not select device driver" in said  # since there is none, really
    finally:
        fresh.command("docker", "compose", *("-f", FILES[0], "-f", FILES[1]), "down", "--volumes")
