"""Run folders: a run works in a hidden folder and appears under its name only when all that is in it is final.

runs/lesson-20261123-231500/           run.json (written last), metrics.json, lesson.ipynb, log.txt, its own files
runs/.lesson-20261123-231500.0f3a9c/   the same while it runs, with state.json and
                                       progress.json; a lock on state.json says that its process lives
"""

import contextlib
import difflib
import errno
import fcntl
import glob
import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.runs import reading

TRASH = ".trash"
"""Where runs go that are removed, beside the others."""
REPLACED = "replaced"
"""Where those of a sweep go that are made again: nothing is thrown away."""

RECORD, STATE, PROGRESS, LOG = "run.json", "state.json", "progress.json", "log.txt"
METRICS, CURVES = "metrics.json", "curves.json"

COMPLETED, FAILED, TIMED_OUT, STOPPED = "completed", "failed", "timed out", "stopped"
"""How a run ended; each stands in its run.json."""
RUNNING, LOST = "running", "lost"
"""What there is in place of a run.json: a process at work, or the remains of one that was killed."""
UNREADABLE = "unreadable"
"""There is a run.json, damaged or of a newer workspace; the record's `error` says which."""

HIDDEN = re.compile(r"\.(.+)\.[0-9a-f]{6}")
"""What a run's folder is called while it works."""

_CLAIM = "000000"
"""The end of a hidden folder's name where that folder alone may become the result; elsewhere it is random."""

SCHEMA = 2
"""The version of run.json: 1, which did not name itself, had no `schema`, `pid` or `notebook_digest` of sources."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What run.json says of a run that has ended, and state.json, as far as it is known, of one that goes on."""

    schema: int = SCHEMA
    status: str = RUNNING
    error: str | None = None  # why it did not complete, in one line
    notebook: str = ""  # the notebook that was run
    notebook_digest: str | None = None  # of the sources of its cells
    parameters: dict[str, Any] = field(default_factory=dict)  # all of them, as the kernel held them
    given: dict[str, Any] = field(default_factory=dict)  # those that were set; the others had the notebook's default
    sweep: str | None = None  # the sweep that it belongs to
    seed: int | None = None
    started: str = ""  # in UTC, such as 2026-11-23T23:15:00+00:00
    seconds: float | None = None
    host: str = ""
    pid: int | None = None  # of the process that made it
    threads: int | None = None
    device: str | None = None
    dataset_digest: str | None = None
    image: str | None = None  # the stamp of the workspace's image; None: it ran natively
    versions: dict[str, str] = field(default_factory=dict)  # of Python and the packages that matter

    @classmethod
    def read(cls, file: Path) -> "Record":
        """The record in `file`, of this version or an older one; anything else is `unreadable`, and says why."""
        try:
            return cls(**reading.read_fields(cls(), file))
        except ValueError as error:
            return cls(status=UNREADABLE, error=str(error))

    def is_of_the_same_job_as(self, other: "Record") -> bool:
        """Whether one of the two is as good as the other: both are the same run of one sweep."""
        mine, others = ((it.sweep, it.notebook_digest, reading.plain(it.given)) for it in (self, other))
        return bool(self.sweep) and mine == others

    def text(self) -> str:
        """It as JSON."""
        return json.dumps(reading.plain(asdict(self)), indent=2) + "\n"

    def write(self, file: Path) -> None:
        """Write it, so that it is on the disk when this returns. Raises OSError where the disk does not take it."""
        with replacing(file) as new:
            new.write_text(self.text())


@dataclass(frozen=True)
class Run:
    """A run folder, finished or not."""

    folder: Path

    @property
    def name(self) -> str:
        """What it is called, finished or not."""
        at_work = HIDDEN.fullmatch(self.folder.name)
        return at_work[1] if at_work else self.folder.name

    @property
    def full_name(self) -> str:
        """What tells it from every other run: RUN, or SWEEP/RUN; its folder, where that is outside of runs/."""
        folder = self.folder.absolute().with_name(self.name)
        return str(folder.relative_to(top()) if folder.is_relative_to(top()) else folder)

    @property
    def finished(self) -> bool:
        """Whether its folder has been published."""
        return not HIDDEN.fullmatch(self.folder.name)

    @property
    def notebook(self) -> Path:
        """The executed notebook; as far as it came, where the run did not complete."""
        return self.folder / Path(self.record.notebook).name

    @cached_property
    def record(self) -> Record:
        """Its run.json, or where that is still missing what is known of it from the start."""
        ended = self.folder / RECORD
        return Record.read(ended if ended.exists() else self.folder / STATE)

    @property
    def exists(self) -> bool:
        """Whether there is such a run at all."""
        return (self.folder / RECORD).exists() or (self.folder / STATE).exists()

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What the notebook wrote to metrics.json; empty where it wrote none that can be read."""
        return self._metrics[0]

    @cached_property
    def curves(self) -> dict[str, Any]:
        """What the notebook wrote to curves.json, a list for each quantity; empty where it wrote none."""
        return reading.read_or_complain(self.folder / CURVES)[0]

    @property
    def accuracy(self) -> float | None:
        """What its notebook calls that, if it is a number. Show it with the `caveat`."""
        value = self.metrics.get("accuracy")
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    @property
    def caveat(self) -> str:
        """What must be said beside its numbers, or nothing: that the images were a substitute, or cannot be read."""
        return "on drawn shapes" if self.metrics.get("dataset") == "drawn" else self._metrics[1]

    @cached_property
    def _metrics(self) -> tuple[dict[str, Any], str]:
        return reading.read_or_complain(self.folder / METRICS)

    @cached_property
    def status(self) -> str:
        """Completed, failed, timed out, stopped, running, lost or unreadable."""
        if self.finished:
            return self.record.status
        return RUNNING if is_held(self.folder / STATE) else LOST


def default_folder(name: str) -> Path:
    """Where what is called `name` goes unless it is told: runs/NAME-TIME in the work folder."""
    return top() / f"{name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


def top() -> Path:
    """Where runs and sweeps are, unless they were told another place."""
    return places.work() / "runs"


def everything() -> list[Run]:
    """All runs in the work folder, those of sweeps included, finished or not; the latest last."""
    files = (file for above in ("*", "*/*") for name in (RECORD, STATE) for file in top().glob(f"{above}/{name}"))
    found = {file.parent for file in files if TRASH not in file.parts}
    return sorted(map(Run, found), key=lambda run: (run.record.started, run.full_name))


def any_at_work() -> bool:
    """Whether any run is at work in the work folder's runs, on whichever machine that shares it."""
    return any(is_held(state) for run in (".*", "*/.*") for state in top().glob(f"{run}/{STATE}"))


def find(name: str | None) -> Run:
    """The run called `name`, RUN or SWEEP/RUN (or that folder, or the only one whose name begins so); None: the latest.

    Raises UserError where there is none, or more than one.
    """
    if name and Path(name).name != name:
        found = [Run(Path(name)), *attempts(Path(name))]
        if known := [run for run in found if run.exists]:
            return known[0]
    known = everything()
    if not known:
        raise UserError(f"there are no runs yet; {places.command('run')} makes one", cli.BAD_INPUT)
    if name is None:
        return known[-1]
    called = [(run, (run.full_name, run.name)) for run in known]
    same = [run for run, names in called if name in names]
    same = same or [run for run, names in called if any(one.startswith(name) for one in names)]
    if len(same) == 1:
        return same[0]
    if same:
        raise UserError(f"{name} may be {', '.join(run.full_name for run in same[:5])}; write all of it", cli.BAD_INPUT)
    near = difflib.get_close_matches(name, sorted({one for _, names in called for one in names}), 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"{places.command('runs')} list shows what there is"
    raise UserError(f"there is no run {name}; {hint}", cli.BAD_INPUT)


def attempts(folder: Path) -> list[Run]:
    """What works, or was at work, on a run that is to be published as `folder`."""
    found = map(Run, folder.parent.glob(f".{glob.escape(folder.name)}.*"))
    return [run for run in found if not run.finished and run.name == folder.name]


def place(wanted: Path | None, name: str) -> Path:
    """Where a result goes: to `wanted`, else to the default folder of `name`, or `beside` that where it is taken.

    Raises UserError where `wanted` is taken, or the place cannot be written to.
    """
    folder = (wanted or default_folder(name)).absolute()
    if wanted:
        require_without_dots(folder)
        if HIDDEN.fullmatch(folder.name):
            raise UserError(f"{folder}: names like this one are for runs at work; choose another -o", cli.BAD_INPUT)
        if folder.exists():
            raise UserError(f"{folder} exists already, and no result is overwritten: choose another -o", cli.BAD_INPUT)
        if any(attempt.status == RUNNING for attempt in attempts(folder)):
            raise UserError(f"{folder} is being made by another run: choose another -o", cli.BAD_INPUT)
    require_writable(folder)
    return folder


def beside(folder: Path) -> Iterator[Path]:
    """The folder and those that may stand in for it where it is taken: NAME, NAME-2, NAME-3 ..."""
    yield folder
    for number in itertools.count(2):
        yield folder.with_name(f"{folder.name}-{number}")


def require_without_dots(folder: Path) -> None:
    """Raise UserError where `folder` climbs: what it means would depend on the links on its way."""
    if ".." in folder.parts:
        raise UserError(f"{folder}: write the output folder without `..`, absolute if need be", cli.BAD_INPUT)


def require_writable(folder: Path) -> None:
    """Raise UserError unless `folder` can be written to, or made."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{nearest} cannot be written to, so {folder} cannot be made", cli.BAD_INPUT)


def is_completed(folder: Path) -> bool:
    """Whether a run was published as `folder`, and completed."""
    return folder.exists() and Run(folder).status == COMPLETED


def put_aside(folder: Path) -> None:
    """Make room for a run that is made again: what there was of it is kept among the replaced."""
    for old in [folder, *(run.folder for run in attempts(folder) if run.status == LOST)]:
        if old.exists():
            replaced = folder.parent / REPLACED
            replaced.mkdir(exist_ok=True)
            old.rename(replaced / f"{folder.name}-{secrets.token_hex(3)}")


def is_at_work(run: Run) -> bool:
    """Whether a living process makes the run, asked anew."""
    return Run(run.folder).status == RUNNING


def is_held(file: Path) -> bool:
    """Whether a living process holds `file`, on whichever machine that shares the folder."""
    try:
        with file.open() as held:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def working(folder: Path, record: Record, *, or_beside: bool = False) -> Iterator[tuple[Path, Path]]:
    """A hidden folder to make a run in, and the folder that `publish` will make of it; alive until the block ends.

    Nobody else gets the same folder, which is NAME-2, NAME-3 ... `or_beside` it where it is taken. Only the runs of one
    sweep may be made twice at once: a worker that was given up may still be at work. Raises UserError where the folder
    is taken, or the disk does not take it.
    """
    hidden = _hidden(folder)
    try:
        hidden.mkdir(parents=True)
        new = hidden / f"{STATE}.new"
        with new.open("w") as state:
            state.write(record.text())
            state.flush()
            fcntl.flock(state, fcntl.LOCK_EX)
            new.rename(hidden / STATE)  # which nobody has seen without a lock
            if not record.sweep:
                hidden, folder = _claim(hidden, beside(folder) if or_beside else [folder])
            yield hidden, folder
    except OSError as error:
        raise UserError(f"{error.filename or hidden} cannot be written: {error.strerror}") from error


def publish(hidden: Path, folder: Path, record: Record) -> Path:
    """Make the hidden folder the result: write run.json last, then rename it. Where it is found from then on.

    That is `folder`, unless something else stands there by now: then beside it, for no result is thrown away. Only of a
    sweep's run that was made twice, the first one stays. Raises OSError where the disk does not take it.
    """
    record.write(hidden / RECORD)
    for place in beside(folder):
        try:
            hidden.rename(place)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
            if record.is_of_the_same_job_as(Run(place).record):
                shutil.rmtree(hidden, ignore_errors=True)
                return place
        else:
            (place / STATE).unlink()
            return place
    raise AssertionError("there is always a next name")


def _hidden(folder: Path, end: str | None = None) -> Path:
    return folder.with_name(f".{folder.name}.{end or secrets.token_hex(3)}")


def _claim(hidden: Path, wanted: Iterable[Path]) -> tuple[Path, Path]:
    """Take the first of the `wanted` folders that is free, by the name that only one hidden folder can have.

    A folder that is renamed brings its lock along: whoever finds the name taken sees whether its owner lives.
    """
    for folder in wanted:
        claimed = _hidden(folder, _CLAIM)
        while not folder.exists():
            try:
                hidden.rename(claimed)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                if not _put_aside(claimed):
                    break
            else:
                if not folder.exists():  # a run that ended just now
                    return claimed, folder
                hidden = claimed.rename(hidden)
    shutil.rmtree(hidden)
    raise UserError(f"{folder} is taken by another run: choose another -o", cli.BAD_INPUT)


def _put_aside(remains: Path) -> bool:
    """Give the remains of a killed run a name of their own; whether there is nothing at their place any more."""
    state = remains / STATE
    try:
        with state.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(held.fileno()), state.stat()):  # and not of another run since
                remains.rename(remains.with_suffix(f".{secrets.token_hex(3)}"))
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return not remains.exists()
    return True
