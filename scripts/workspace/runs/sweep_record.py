"""sweep.json, what a sweep's folder says of the sweep; here, since the command `runs` follows sweeps, too."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.runs import folders, reading

RECORD = "sweep.json"
SCHEMA = 2
"""The version of sweep.json: 1, which did not name itself, had no frozen copy of the notebook beside it."""

_LOCK = ".lock"
_A_GLANCE_S = 1
"""Who only looks whether a sweep is at work holds its lock for a moment."""


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """What a sweep is about, and who made it last."""

    schema: int = SCHEMA
    notebook: str = ""  # where it came from; what runs is the copy in the sweep's folder
    notebook_digest: str = ""  # of the sources of its cells
    modules: dict[str, str] = field(default_factory=dict)  # what lay beside it when the sweep began, with digests
    metric: str = "accuracy"
    mode: str = "max"
    method: str = "grid"
    seed: int = 0  # of the method, not of the notebook
    planned: int = 0  # runs
    started: str = ""  # in UTC, the last time
    host: str = ""
    pid: int | None = None
    error: str | None = None  # why it ended before its time, or what came of its runs, in one line

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record in a sweep's folder; None where the folder is none. Raises UserError for one it cannot read."""
        file = folder / RECORD
        if not file.exists():
            return None
        try:
            return cls(**reading.read_fields(cls(), file))
        except ValueError as error:
            raise UserError(str(error), cli.BAD_INPUT) from error

    def write(self, folder: Path) -> None:
        """Put it into a sweep's folder."""
        with replacing(folder / RECORD) as new:
            new.write_text(json.dumps(asdict(self), indent=2))


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other sweeps out of `folder`, on every machine that shares it. Raises UserError where one is at work."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=_A_GLANCE_S):
            yield
    except Timeout as error:
        raise UserError(f"another sweep is at work in {folder}", cli.BAD_INPUT) from error


def at_work(folder: Path) -> bool:
    """Whether a living process makes the sweep in `folder`, on whichever machine that shares it."""
    return folders.is_held(folder / _LOCK)


def everything() -> list[Path]:
    """The folders of all sweeps in the work folder."""
    return sorted(file.parent for file in folders.top().glob(f"*/{RECORD}"))


def find(name: str) -> Path | None:
    """The folder of the sweep called `name`, or that folder; None where there is no such sweep."""
    for folder in (folders.top() / name, Path(name).absolute()):
        if (folder / RECORD).exists():
            return folder
    return None
