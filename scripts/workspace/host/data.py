"""Look after CIFAR-10 in the data folder of the workspace, which may be a folder of this machine or Docker's volume."""

import contextlib
import os
import sys
from pathlib import Path

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.host import compose, locate, venv
from workspace.host.compose import Workspace

STANDARD_INPUT = "-"


def main(command: str, file: str | None = None, *, natively: bool = False) -> int:
    """Do `command`, in the container where the images of the container are meant; the exit code."""
    if file and file != STANDARD_INPUT and not Path(file).is_file():
        raise UserError(f"there is no file {file}", cli.BAD_INPUT)
    workspace = locate.in_docker(natively=natively, may_be_new=command in ("fetch", "import"))
    if workspace:
        return _in_container(workspace, command, file)
    venv.enter()
    from workspace.lab import dataset

    folder = places.data()
    try:
        return dataset.import_archive(folder, file) if file else getattr(dataset, command)(folder)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror or error}") from None


def _in_container(workspace: Workspace, command: str, file: str | None) -> int:
    """Run this command in the running workspace, else in a container made for it alone, on the same volume."""
    cli.say(f"In the Docker volume of the workspace {workspace.project} (--native: in this machine's own folder):")
    workspace.provide_image_unless_there()
    terminal = [] if sys.stdin.isatty() and sys.stdout.isatty() and not file else ["-T"]
    inside = [*terminal, compose.SERVICE, "data", command, *([STANDARD_INPUT] if file else [])]
    # What is set here for this command, on top of what the workspace was started with.
    variables = ["CIFAR10_MIRRORS"] if os.environ.get("CIFAR10_MIRRORS") else []
    with Path(file).open("rb") if file and file != STANDARD_INPUT else contextlib.nullcontext() as archive:
        return workspace.run(*inside, variables=variables, stdin=archive).returncode
