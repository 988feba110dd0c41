"""sweep.json, what a sweep's folder says of the sweep; here, since the command `runs` follows sweeps, too."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.base.files import replacing

RECORD = "sweep.json"
_LOCK = ".lock"


@dataclass(frozen=True)
class SweepRecord:
    """What a sweep is about."""

    notebook: str = ""
    notebook_digest: str = ""
    metric: str = "accuracy"
    mode: str = "max"
    method: str = "grid"

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record in a sweep's folder; None where the folder is none. Raises UserError for a damaged one."""
        file = folder / RECORD
        try:
            content = json.loads(file.read_text())
            return cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} is damaged: {error}; choose another -o", cli.BAD_INPUT) from error

    def write(self, folder: Path) -> None:
        """Put it into a sweep's folder."""
        with replacing(folder / RECORD) as new:
            new.write_text(json.dumps(asdict(self), indent=2))


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other sweeps out of `folder`, on every machine that shares it. Raises UserError where one is at work."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, blocking=False):
            yield
    except Timeout as error:
        raise UserError(f"another sweep is at work in {folder}", cli.BAD_INPUT) from error
