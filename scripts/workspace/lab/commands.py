"""The commands that a terminal of the lab finds on its PATH, last and under names that the system does not have."""

import argparse
from pathlib import Path

from workspace.base import cli, places

_SCRIPTS = {name: name for name in ("compare", "data", "doctor", "run", "runs", "sweep")} | {"lab-link": "link"}

_NO_COMPILER = (
    "workspace: this image has no compiler, which torch.compile and packages without a wheel need; "
    "WORKSPACE_COMPILER=1 scripts/start builds it with one, 250 MB larger"
)


def make(folder: Path) -> None:
    """Put a link to each command into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, script in _SCRIPTS.items():
        link, target = folder / name, places.REPOSITORY / "scripts" / script
        if not link.exists() or link.resolve() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)


def make_pip(folder: Path) -> None:
    """Have `pip`, typed in the image, install where the lab's pip does: the server's own packages are read-only."""
    pip = folder / "pip"
    pip.write_text(f'#!/bin/sh\nexec {places.REPOSITORY}/scripts/environment python -m pip "$@"\n')
    pip.chmod(0o755)


def make_compilers(folder: Path) -> None:
    """Have the names of compilers, where none is installed, tell why and what to do: torch.compile calls them."""
    for name in ("c++", "cc", "g++", "gcc"):
        compiler = folder / name
        compiler.write_text(f"#!/bin/sh\necho '{_NO_COMPILER}' >&2\nexit 127\n")
        compiler.chmod(0o755)


def main(options: argparse.Namespace) -> None:
    """Make them while the image is built."""
    make(options.folder)
    make_pip(options.folder)
    make_compilers(options.folder)


if __name__ == "__main__":
    cli.run(__doc__, main, lambda parser: parser.add_argument("folder", type=Path))
