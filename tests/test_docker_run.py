"""The image by itself: `docker run`, without Compose and without the commands of a checkout."""

import contextlib
import subprocess
from collections.abc import Iterator

import pytest
from labs import IMAGE, Container, Lab, free_port, wait_until
from workspace.base.programs import ask

VOLUMES = [f"--volume=workspace-test-plain_{name}:/{name}" for name in ("workspace", "data", "state")]


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return ask("docker", *arguments, timeout=120)


@contextlib.contextmanager
def plain(*options: str) -> Iterator[tuple[str, int]]:
    """A container that answers, by its name, and the port it is published at."""
    port = free_port()
    started = docker("run", "--detach", f"--publish=127.0.0.1:{port}:8888", *options, IMAGE)
    assert started.returncode == 0, started.stderr
    name = started.stdout.strip()[:12]
    try:
        wait_until(lambda: docker("exec", name, "python", "/opt/workspace/docker/healthcheck.py").returncode == 0)
        yield name, port
    finally:
        docker("stop", name)
        docker("rm", name)  # `run --rm` does so later, and holds the volumes until then


def test_plain_container_names_the_command_for_its_link_and_what_would_be_lost(container: Container) -> None:
    del container  # built the image
    with plain() as (name, port):
        log = docker("logs", name).stdout
        assert f"the link with its token: docker exec {name} lab-link" in log
        assert "nothing is mounted at /workspace and /state: your work is lost with this container" in log
        assert "scripts/" not in log
        told = docker("exec", name, "lab-link")
        assert told.stderr == "In place of 8888 goes the port that -p published.\n"
        lab = Lab(told.stdout.strip().replace(":8888/", f":{port}/"))
        assert lab.get("/api/contents", lab.token).status_code == 200


def test_plain_container_with_volumes_warns_of_nothing_and_reaps_orphans(container: Container) -> None:
    del container
    try:
        with plain(*VOLUMES) as (name, _):
            assert "is lost with this container" not in docker("logs", name).stdout
            docker("exec", name, "sh", "-c", "(sleep 3 &)")
            sleeping = ["exec", name, "sh", "-c", "grep -l '^Name:.sleep' /proc/[0-9]*/status"]
            assert docker(*sleeping).stdout != ""
            wait_until(lambda: docker(*sleeping).stdout == "")  # one that nobody waits for stays, as a zombie
    finally:
        docker("volume", "rm", *(volume.split("=")[1].split(":")[0] for volume in VOLUMES))


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--user=0", IMAGE], 78, "the lab does not run as root: leave out --user"),
        (["--user=1234", IMAGE], 78, "/workspace is the image's and uid 1234 cannot write to it: leave out --user"),
        ([IMAGE, "lab-link"], 1, "no lab runs in this container; ask the one where it does"),
    ],
)
def test_plain_container_that_cannot_serve_says_why_in_one_true_line(
    container: Container, options: list[str], code: int, told: str
) -> None:
    del container
    refused = docker("run", "--rm", *options)
    assert refused.returncode == code, refused.stderr
    assert told in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_image_has_what_one_types_next(container: Container) -> None:
    for tool in (["git", "--version"], ["unzip", "-v"], ["less", "--version"]):
        assert container.inside(*tool).returncode == 0, tool
