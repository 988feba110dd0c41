"""The commands that a terminal of the lab finds on its PATH, last and under names that the system does not have."""

import argparse
from pathlib import Path

from workspace.base import cli, places

_SCRIPTS = {"compare": "compare", "data": "data", "lab-link": "link", "run": "run", "runs": "runs", "sweep": "sweep"}


def make(folder: Path) -> None:
    """Put a link to each command into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, script in _SCRIPTS.items():
        link, target = folder / name, places.REPOSITORY / "scripts" / script
        if not link.exists() or link.resolve() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)


def main(options: argparse.Namespace) -> None:
    """Make them while the image is built."""
    make(options.folder)


if __name__ == "__main__":
    cli.run(__doc__, main, lambda parser: parser.add_argument("folder", type=Path))
