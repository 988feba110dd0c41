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
    try:
        return look_after(places.data(), command, file)
    except OSError as error:
        raise UserError(f"{error.filename or places.data()}: {error.strerror or error}") from None


def look_after(folder: Path, command: str, file: str | None = None) -> int:
    """Do `command` in this data folder; the exit code. Needs the packages. Raises UserError with what was tried."""
    from lesson import cifar10

    if command == "status":
        found = cifar10.holdings(folder)
        cli.say(f"Data folder: {folder}")
        cli.say(f"Images:      {f'ready, {_mb(found.images)}' if found.images else 'not there'}")
        if found.archive:
            cli.say(f"Archive:     {_mb(found.archive)}, kept to repair the images from and to hand on")
        if found.partial:
            whole = _mb(cifar10.SIZE)
            cli.say(f"Download:    {_mb(found.partial)} of {whole} have arrived; `data fetch` goes on from there")
        if not found.images:
            cli.say("Mirrors:     " + ("\n             ".join(cifar10.mirrors_to_try()) or "none (CIFAR10_MIRRORS)"))
        return 0 if found.images else 1
    if command == "clear":
        cli.say(f"{_mb(cifar10.clear(folder))} freed in {folder}.")
    elif command == "verify":
        if wrong := cifar10.verify(folder):
            raise UserError(f"{'; '.join(wrong)}: `data fetch` brings what is missing and repairs what is damaged")
        cli.say(f"CIFAR-10 in {folder} is as it was made: every byte verified.")
    else:
        stream = Path("/dev/stdin") if file == STANDARD_INPUT else Path(file).resolve() if file else None
        try:
            cifar10.fetch(folder, mirrors=[stream.as_uri()] if stream else None)
        except cifar10.Unavailable as error:
            if not stream:
                raise UserError(str(error)) from None
            name = "standard input" if file == STANDARD_INPUT else file
            raise UserError(error.tried[-1].replace(stream.as_uri(), name)) from None
        cli.say(f"CIFAR-10 is ready in {folder}, every byte verified.")
    return 0


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


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
