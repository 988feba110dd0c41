"""Which workspace a command means: none is invented, and an engine that does not answer is not an absent workspace."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import command
from stand_ins import fake_docker

CANNOT = "Cannot connect to the Docker daemon at unix:///nowhere.sock. Is the docker daemon running?"
COMMANDS = [
    ["scripts/link"],
    ["scripts/stop"],
    ["scripts/token", "rotate"],
    ["scripts/data", "status"],
    ["scripts/backup", "saved.tar.gz"],
]


@pytest.fixture
def last(checkout: Path) -> Iterator[Path]:
    """The record of where the workspace was started last, which is none."""
    record = checkout / ".workspace/started-in"
    record.unlink(missing_ok=True)
    record.parent.mkdir(exist_ok=True)
    yield record
    record.unlink(missing_ok=True)
    (checkout / "saved.tar.gz").unlink(missing_ok=True)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_engine_that_does_not_answer_is_said_in_place_of_no_workspace(
    checkout: Path, tmp_path: Path, last: Path, arguments: list[str]
) -> None:
    environment = fake_docker(tmp_path, f"echo {CANNOT} >&2; exit 1")
    refused = command(checkout, *arguments, **environment)
    assert refused.returncode == 1
    assert CANNOT in refused.stderr
    assert refused.stderr.count("\n") == 1
    last.write_text("native")
    assert CANNOT not in command(checkout, *arguments, **environment).stderr


def without_docker(folder: Path) -> dict[str, str]:
    """An environment such as cron's, whose PATH has no docker."""
    for program in ("env", "python3"):
        (folder / program).symlink_to(f"/usr/bin/{program}")
    return {"PATH": str(folder)}


@pytest.mark.parametrize("arguments", COMMANDS)
def test_path_without_docker_is_said_where_the_workspace_was_started_in_docker(
    checkout: Path, tmp_path: Path, last: Path, arguments: list[str]
) -> None:
    last.write_text("docker")
    refused = command(checkout, *arguments, **without_docker(tmp_path))
    assert refused.returncode == 1
    assert "there is no command `docker` on the PATH" in refused.stderr


def test_start_does_not_begin_a_second_workspace_where_the_first_is_in_docker(
    checkout: Path, tmp_path: Path, last: Path
) -> None:
    last.write_text("docker")
    refused = command(checkout, "scripts/start", **without_docker(tmp_path))
    assert refused.returncode == 1
    assert "the workspace was started in Docker, and the Docker engine cannot be reached" in refused.stderr


@pytest.mark.parametrize("arguments", COMMANDS)
def test_mistyped_project_is_named_with_those_that_exist_and_makes_nothing(
    engine: None,  # noqa: ARG001
    checkout: Path,
    last: Path,  # noqa: ARG001
    arguments: list[str],
) -> None:
    refused = command(checkout, *arguments, COMPOSE_PROJECT_NAME="mistyped")
    assert refused.returncode == 1
    assert "workspace mistyped (COMPOSE_PROJECT_NAME) in the Docker engine, which has" in refused.stderr
    volumes = command(checkout, "docker", "volume", "ls", "--quiet", "--filter", "name=mistyped")
    assert volumes.stdout == ""
