"""Look after CIFAR-10 in the data folder of the workspace, which may be a folder of this machine or Docker's volume."""

import os
import subprocess
import sys
from pathlib import Path

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.host import engine, native, venv

STANDARD_INPUT = "-"


def main(command: str, file: str | None = None, *, natively: bool = False) -> int:
    """Do `command`, in the container where the images of the container are meant; the exit code."""
    if file and file != STANDARD_INPUT and not Path(file).is_file():
        raise UserError(f"there is no file {file}", cli.BAD_INPUT)
    if not natively and _in_docker():
        return _in_container(command, file)
    venv.enter()
    from workspace.lab import dataset

    folder = places.data()
    try:
        return dataset.import_archive(folder, file) if file else getattr(dataset, command)(folder)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror or error}") from None


def _in_docker() -> bool:
    """Whether the workspace that scripts/start starts here keeps its images in Docker's volume."""
    return not places.IN_IMAGE and not native.running() and engine.find()


def _in_container(command: str, file: str | None) -> int:
    """Run this command in the running workspace, else in a container made for it alone, on the same volume."""
    cli.say("In the workspace's Docker volume (--native: in this machine's own folder):")
    workspace = engine.Workspace()
    image = ["docker", "image", "inspect", workspace.image()]
    if workspace.running():
        # What is set here for this command, on top of what the workspace was started with.
        mirrors = ["--env", "CIFAR10_MIRRORS"] if os.environ.get("CIFAR10_MIRRORS") else []
        how = ["exec", *mirrors]
    else:
        if subprocess.run(image, capture_output=True, check=False).returncode:
            workspace.build()
        how = ["run", "--rm"]
    terminal = [] if sys.stdin.isatty() and sys.stdout.isatty() and not file else ["-T"]
    inside = ["data", command, *([STANDARD_INPUT] if file else [])]
    compose = ["docker", "compose", "--progress", "quiet", *how, *terminal, engine.SERVICE, *inside]
    if file and file != STANDARD_INPUT:
        with Path(file).open("rb") as archive:
            return subprocess.run(compose, cwd=places.REPOSITORY, stdin=archive, check=False).returncode
    return subprocess.run(compose, cwd=places.REPOSITORY, check=False).returncode
