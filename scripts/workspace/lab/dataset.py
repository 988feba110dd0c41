"""What the command `data` does, in the place where the images are."""

from pathlib import Path

from lesson import cifar10

from workspace.base import cli
from workspace.base.cli import UserError


def status(folder: Path) -> int:
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


def fetch(folder: Path) -> int:
    """Bring what is missing or damaged. Raises UserError with what was tried."""
    try:
        cifar10.fetch(folder)
    except cifar10.Unavailable as error:
        raise UserError(str(error)) from None
    return _ready(folder)


def import_archive(folder: Path, file: str) -> int:
    """Bring the images from an archive at hand, `-` being standard input. Raises UserError if it is another file."""
    path = Path("/dev/stdin") if file == "-" else Path(file).resolve()
    try:
        cifar10.fetch(folder, mirrors=[path.as_uri()])
    except cifar10.Unavailable as error:
        name = "standard input" if file == "-" else file
        raise UserError(error.tried[-1].replace(path.as_uri(), name)) from None
    return _ready(folder)


def verify(folder: Path) -> int:
    """Read every byte again. Raises UserError with what is wrong."""
    if wrong := cifar10.verify(folder):
        raise UserError(f"{'; '.join(wrong)}: `data fetch` brings what is missing and repairs what is damaged")
    cli.say(f"CIFAR-10 in {folder} is as it was made: every byte verified.")
    return 0


def clear(folder: Path) -> int:
    """Remove everything of CIFAR-10 from the data folder, and nothing else."""
    cli.say(f"{_mb(cifar10.clear(folder))} freed in {folder}.")
    return 0


def _ready(folder: Path) -> int:
    cli.say(f"CIFAR-10 is ready in {folder}, every byte verified.")
    return 0


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
