"""Look after CIFAR-10 in the data folder of the workspace, which may be a folder of this machine or Docker's volume."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from workspace import cli, engine, native, places, venv
from workspace.cli import UserError

STANDARD_INPUT = "-"


def status(cifar10: ModuleType, folder: Path) -> int:
    """Say what is in the data folder; 0 if the images are there, 1 if not."""
    found = cifar10.holdings(folder)
    cli.say(f"Data folder: {folder}")
    cli.say(f"Images:      {f'ready, {_mb(found.images)}' if found.images else 'not there'}")
    if found.archive:
        cli.say(f"Archive:     {_mb(found.archive)}, kept to repair the images from and to hand on")
    if found.partial:
        cli.say(
            f"Download:    {_mb(found.partial)} of {_mb(cifar10.SIZE)} have arrived; `data fetch` goes on from there"
        )
    if not found.images:
        cli.say("Mirrors:     " + ("\n             ".join(cifar10.mirrors_to_try()) or "none (CIFAR10_MIRRORS)"))
    return 0 if found.images else 1


def fetch(cifar10: ModuleType, folder: Path) -> int:
    """Bring what is missing or damaged. Raises UserError with what was tried."""
    try:
        cifar10.fetch(folder)
    except cifar10.Unavailable as error:
        raise UserError(str(error)) from None
    cli.say(f"CIFAR-10 is ready in {folder}, every byte verified.")
    return 0


def take(cifar10: ModuleType, folder: Path, file: str) -> int:
    """Bring the images from an archive at hand, `-` for standard input. Raises UserError if it is another file."""
    path = Path("/dev/stdin") if file == STANDARD_INPUT else Path(file).resolve()
    try:
        cifar10.fetch(folder, mirrors=[path.as_uri()])
    except cifar10.Unavailable as error:
        name = "standard input" if file == STANDARD_INPUT else file
        raise UserError(error.tried[-1].replace(path.as_uri(), name)) from None
    cli.say(f"CIFAR-10 is ready in {folder}, every byte verified.")
    return 0


def verify(cifar10: ModuleType, folder: Path) -> int:
    """Read every byte again. Raises UserError with what is wrong."""
    if wrong := cifar10.verify(folder):
        raise UserError(f"{'; '.join(wrong)}: `data fetch` brings what is missing and repairs what is damaged")
    cli.say(f"CIFAR-10 in {folder} is as it was made: every byte verified.")
    return 0


def clear(cifar10: ModuleType, folder: Path) -> int:
    """Remove everything of CIFAR-10 from the data folder, and nothing else."""
    cli.say(f"{_mb(cifar10.clear(folder))} freed in {folder}.")
    return 0


def main(description: str) -> int:
    """Read the command line and do what it says, in the container where the images of the container are meant."""
    parser = cli.parser(description)
    parser.add_argument(
        "--native", action="store_true", help="the folder of this machine, whether or not it has Docker"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, does in _COMMANDS.items():
        commands.add_parser(name, help=(does.__doc__ or "").partition(".")[0])
    taking = commands.add_parser("import", help="Bring the images from an archive at hand")
    taking.add_argument("file", metavar="FILE", help="cifar-10-python.tar.gz, or - for standard input")
    options = parser.parse_args()
    importing = options.command == "import"
    if importing and options.file != STANDARD_INPUT and not Path(options.file).is_file():
        raise UserError(f"there is no file {options.file}", cli.BAD_INPUT)
    if not options.native and _in_docker():
        return _in_container(options.command, options.file if importing else None)
    venv.enter()
    cifar10 = _loader()
    folder = places.data()
    try:
        return take(cifar10, folder, options.file) if importing else _COMMANDS[options.command](cifar10, folder)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror or error}") from None


_COMMANDS: dict[str, Callable[[ModuleType, Path], int]] = {
    "status": status,
    "fetch": fetch,
    "verify": verify,
    "clear": clear,
}


def _loader() -> ModuleType:
    """The lesson's own module: lesson and command share one loader."""
    sys.path.insert(0, str(places.PRISTINE))
    import cifar10

    return cifar10


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


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
