"""What measurements share: costs, tables of them, and what they are made with.

A table is printed as Markdown, so that the README's tables are the command's own lines.
"""

import argparse
import os
import resource
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workspace.base import cli, places, programs
from workspace.base.cli import UserError


class Cost(NamedTuple):
    """Seconds on the clock, and CPU seconds of all processes, which other programs on the machine change less."""

    seconds: float
    cpu: float


class Clock:
    """Costs of this process and of its ended children, from one look to the next."""

    def __init__(self) -> None:
        self._last = self._now()

    @staticmethod
    def _now() -> Cost:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return Cost(time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in usages))

    def look(self) -> Cost:
        """Since the last look."""
        last, self._last = self._last, self._now()
        return Cost(self._last.seconds - last.seconds, self._last.cpu - last.cpu)


def output(*command: str | Path, codes: Sequence[int] = (), **options: Any) -> str:  # noqa: ANN401
    """What a program prints. Raises UserError where it ends with another exit code than 0 or `codes`."""
    done = programs.ask(*command, **options)
    if done.returncode not in (0, *codes):
        raise UserError(f"{' '.join(map(str, command[:3]))} ... failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def cost(command: Sequence[str], folder: Path, environment: Mapping[str, str] = os.environ, *codes: int) -> Cost:
    """What `command` took, run in `folder`. Raises UserError where it ends with another exit code than 0 or `codes`."""
    clock = Clock()
    output(*command, codes=codes, cwd=folder, env=environment)
    return clock.look()


def medians(costs: Iterable[Cost]) -> Cost:
    """The middle of the seconds, and of the CPU seconds."""
    return Cost(*map(statistics.median, zip(*costs, strict=True)))


def each(few: Cost, many: Cost, count: int) -> Cost:
    """What each of the `count` did that `many` has beyond `few`."""
    return Cost((many.seconds - few.seconds) / count, (many.cpu - few.cpu) / count)


def free_port() -> int:
    """A port of this machine that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def script(name: str, checkout: Path = places.REPOSITORY) -> list[str]:
    """The command line of one of the workspace's commands, in this Python."""
    return [sys.executable, str(checkout / "scripts" / name)]


def copy_of_checkout(folder: Path) -> Path:
    """Make `folder` a copy of the repository to start workspaces from: with its packages, and nobody's work."""
    left_out = shutil.ignore_patterns(".venv", ".workspace", "work", ".git", "__pycache__", ".*_cache", ".ipynb_*")
    shutil.copytree(places.REPOSITORY, folder, ignore=left_out, dirs_exist_ok=True)
    (folder / ".venv").symlink_to(places.REPOSITORY / ".venv")
    return folder


def number_option(parser: argparse.ArgumentParser, name: str, what: str, default: int, least: int = 1) -> None:
    """Define an option that takes a whole number, `least` or more."""

    def read(text: str) -> int:
        if not (text.isdecimal() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"must be a whole number, at least {least}")
        return int(text)

    parser.add_argument(name, metavar="N", type=read, default=default, help=f"{what} (default {default})")


def images_argument(parser: argparse.ArgumentParser) -> None:
    """Define the argument that takes a folder of images."""

    def read(text: str) -> Path:
        if not Path(text).is_dir():
            raise argparse.ArgumentTypeError(f"there is no folder {text}")
        return Path(text).absolute()

    what = "images in train/<class>/ and test/<class>/ (default: CIFAR-10)"
    parser.add_argument("folder", nargs="?", type=read, help=what)


class Table:
    """Rows under headings; a row may have a bound, and `missed` says whether any is not kept."""

    def __init__(self, *headings: str) -> None:
        self._rows = [headings]
        self.missed = False

    def add(self, *cells: str, bound: str = "", kept: bool = True) -> None:
        """Add a row. `bound` is its last cell, marked where it is not kept."""
        self.missed |= not kept
        self._rows.append((*cells, *([bound if kept else f"**{bound}: missed**"] if bound else [])))

    def show(self) -> None:
        """Print it."""
        headings, *rows = [(*row, *[""] * (len(self._rows[0]) - len(row))) for row in self._rows]
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        cli.say("")
        for row in (headings, ["-" * width for width in widths], *rows):
            cli.say(f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |")
