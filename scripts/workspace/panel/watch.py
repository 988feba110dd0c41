"""What runs and sweeps there are, looked at again and again: each is read once, and a look at rest costs nearly nil.

A folder whose time of change is the one that it had has the same runs in it, so a thousand ended runs are one question.
"""

import contextlib
import itertools
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workspace.base.cli import UserError
from workspace.runs import folders, sweep_record
from workspace.runs.progress import Progress, TimeLeft
from workspace.runs.sweep_record import SweepRecord
from workspace.sweeps import plans, ranking
from workspace.sweeps.ranking import Row

_SETTLED_S = 2
"""A folder that changed more recently may change again without its time of change telling so."""


@dataclass(frozen=True)
class Ended:
    """A run that is over, as it is kept in memory: without its curves."""

    number: int  # what the page calls it
    inode: int  # of its folder: another run may get the same name
    run: str  # its full name
    row: Row
    record: folders.Record


class Watch:
    """All runs in the work folder. `look` from one thread; the others read what it found."""

    def __init__(self) -> None:
        self.ended: dict[Path, Ended] = {}
        self.under_way: list[dict[str, Any]] = []
        self.sweeps: list[dict[str, Any]] = []  # at work, or ended before their time
        self._numbers = itertools.count(1)
        self._listed: dict[Path, tuple[int, list[tuple[Path, int]]]] = {}
        self._others: list[Path] = []  # folders in runs/ that are no runs: sweeps, and comparisons
        self._relisted = False
        self._lock = threading.Lock()

    def look(self) -> bool:
        """Look what there is; whether anything is other than it was."""
        with self._lock:
            self._relisted = False
            top = folders.top()
            for folder in (top, *self._others):
                self._folders(folder)
            at_rest = not any(one["status"] == folders.RUNNING for one in self.under_way)
            if at_rest and not self._relisted and not any(sweep["at_work"] for sweep in self.sweeps):
                return False
            before = (list(self.ended.values()), self.under_way, self.sweeps)
            self._sort(top)
            return before != (list(self.ended.values()), self.under_way, self.sweeps)

    def by_number(self, number: object) -> Ended | None:
        """The run that the page calls so; None where it is gone."""
        return next((one for one in self.ended.values() if one.number == number), None)

    def _sort(self, top: Path) -> None:
        ended: dict[Path, Ended] = {}
        at_work: list[Path] = []
        self._others = [
            folder for folder, inode in self._folders(top) if not self._is_run(folder, inode, ended, at_work)
        ]
        for above in self._others:
            for folder, inode in self._folders(above):
                self._is_run(folder, inode, ended, at_work)
        self.ended = ended
        running = [run for run in map(folders.Run, at_work) if run.exists]
        self.under_way = sorted(map(_under_way, running), key=lambda one: (one["started"], one["name"]), reverse=True)
        self.sweeps = list(filter(None, map(self._sweep, self._others)))

    def _is_run(self, folder: Path, inode: int, ended: dict[Path, Ended], at_work: list[Path]) -> bool:
        """Put a run's folder where it belongs; whether it is one."""
        known = self.ended.get(folder)
        if known and known.inode == inode:
            ended[folder] = known
        elif folder.name[0] == ".":
            at_work.append(folder)
        else:
            with contextlib.suppress(OSError):  # one that may not be looked into costs no other
                if (folder / folders.RECORD).exists():
                    ended[folder] = self._read(folder, inode)
        return folder in ended or folder.name[0] == "."

    def _folders(self, folder: Path) -> list[tuple[Path, int]]:
        """The folders in it, from memory where nothing has come or gone."""
        known = self._listed.get(folder)
        try:
            changed = folder.stat().st_mtime_ns
            if known and known[0] == changed:
                return known[1]
            with os.scandir(folder) as entries:
                inside = [
                    (Path(entry.path), entry.inode())
                    for entry in entries
                    if (entry.name[0] != "." or folders.HIDDEN.fullmatch(entry.name)) and entry.is_dir()
                ]
        except OSError:  # it is gone, or a share does not answer
            inside, changed = [], 0
        self._relisted |= known is None or known[1] != inside or known[0] != changed
        # Its time is asked for before its content: what comes in between is seen the next time.
        settled = time.time_ns() - changed > _SETTLED_S * 1e9
        self._listed[folder] = (changed if settled else -1, inside)
        return inside

    def _read(self, folder: Path, inode: int) -> Ended:
        run = folders.Run(folder)
        name = folder.name if folder.parent.name == "runs" else f"{folder.parent.name}/{folder.name}"
        return Ended(next(self._numbers), inode, name, replace(ranking.row(run), curves={}), run.record)

    def _sweep(self, folder: Path) -> dict[str, Any] | None:
        """A sweep at work, or one that ended before its time."""
        try:
            record = SweepRecord.read(folder)
            at_work = sweep_record.at_work(folder)
        except (UserError, OSError):
            return None
        runs = [one.row for path, one in self.ended.items() if path.parent == folder]
        done = sum(row.status == folders.COMPLETED for row in runs)
        if not record or (not at_work and done >= record.planned):
            return None
        left = TimeLeft()
        for row in runs:
            if row.seconds:
                left.note(row.seconds)
        running = sum(one["sweep"] == folder.name and one["status"] == folders.RUNNING for one in self.under_way)
        return {
            "name": folder.name,
            "at_work": at_work,
            "done": done,
            "failed": len(runs) - done,
            "planned": record.planned,
            "left": left.told(record.planned - len(runs), running) if at_work else "",
            "error": record.error or "",
            "goes_on": (folder / plans.FILE).exists(),
        }


def _under_way(run: folders.Run) -> dict[str, Any]:
    progress = Progress.of(run)
    given = ", ".join(f"{name} {value}" for name, value in run.record.given.items())
    return {
        "name": run.full_name,
        "status": run.status,
        "notebook": Path(run.record.notebook).name,
        "given": given[:200],
        "sweep": run.record.sweep or "",
        "started": run.record.started,
        "where": progress.where,
        "said": progress.said[:200],
        "share": _share(progress),
        "left": progress.time_left,
    }


def _share(progress: Progress) -> float:
    """How much of the notebook's cells is done, the one at work as far as it says; cells differ, so it is a hint."""
    if not progress.cells:
        return 0
    return round(min(1, (max(0, progress.cell - 1) + progress.share) / progress.cells), 3)
