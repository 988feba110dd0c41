"""Which of some runs is the best: their entries in order, how sure that order is, and the table as leaderboard.csv.

Runs that differ by their seed alone are one entry, which has their mean: the luckiest seed wins nothing.
"""

import csv
import itertools
import json
import math
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from workspace.base.files import replacing
from workspace.runs.folders import COMPLETED, RECORD, UNREADABLE, Run

LEADERBOARD = "leaderboard.csv"
SEED = "seed"
"""The parameter that changes nothing but luck."""

_MINIMISED = {"loss", "error", "seconds"}
_STUDENT_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Student's t for 1, 2 ... degrees of freedom, 95 % two-sided."""
_RUN_NAME = re.compile(r"(.*_)?[0-9a-f]{8}")


@dataclass(frozen=True)
class Metric:
    """What runs are ranked by: a number out of their metrics.json, of which the most (`max`) or the least is best."""

    name: str
    mode: str
    note: str = ""  # what to say of a mode that nobody asked for

    @classmethod
    def asked(cls, name: str, mode: str | None) -> "Metric":
        """The metric called `name`; without a `mode`, losses, errors and seconds are minimised."""
        words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}  # of val_loss, and of valLoss
        if mode or not _MINIMISED & words:
            return cls(name, mode or "max")
        return cls(name, "min", f"the lowest {name} is taken for the best; --mode max turns that round")

    def __str__(self) -> str:
        """As in `loss, the lowest first`."""
        return f"{self.name}, the {'highest' if self.mode == 'max' else 'lowest'} first"


@dataclass(frozen=True)
class Row:
    """A run in a table of runs."""

    name: str
    folder: str
    status: str
    parameters: dict[str, Any]  # all of them, those that were set first
    seconds: float | None
    error: str | None
    metrics: dict[str, Any]
    curves: dict[str, Any]
    notebook: str = ""
    notebook_digest: str | None = None  # None among the runs of a sweep, which are of one notebook
    caveat: str = ""  # what must be said beside its numbers

    def value(self, metric: str) -> float | None:
        """The number that it wrote as that metric; None where it wrote none, or did not complete."""
        number = _number(self.metrics.get(metric)) if self.status == COMPLETED else None
        return None if number is None else float(number)

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics that are numbers."""
        return {name: number for name, value in self.metrics.items() if (number := _number(value)) is not None}

    @cached_property
    def setting(self) -> str:
        """What it has in common with the runs that differ from it by their seed alone."""
        others = {name: value for name, value in self.parameters.items() if name != SEED}
        # Drawn, where others of the same setting had CIFAR-10; or a folder whose files were others then.
        images = [self.metrics.get("dataset"), self.metrics.get("dataset_digest")]
        return json.dumps([self.notebook, self.notebook_digest, others, images], sort_keys=True, default=repr)


@dataclass(frozen=True)
class Entry:
    """Runs of one setting, which differ by their seed at most: a line of a table."""

    rows: tuple[Row, ...]
    metric: str

    @cached_property
    def values(self) -> list[float]:
        """The metric of each run that wrote it."""
        return [value for row in self.rows if (value := row.value(self.metric)) is not None]

    @cached_property
    def mean(self) -> float | None:
        """Of the values; not a number where one of them is none, None where there are no values."""
        if not self.values:
            return None
        return statistics.fmean(self.values) if all(map(math.isfinite, self.values)) else math.nan

    @property
    def ranks(self) -> bool:
        """Whether it has a number to be ranked by."""
        return self.mean is not None and math.isfinite(self.mean)

    @cached_property
    def spread(self) -> float | None:
        """The values' standard deviation; None where fewer than two numbers tell nothing of it."""
        return statistics.stdev(self.values) if len(self.values) > 1 and self.ranks else None

    @property
    def status(self) -> str:
        """Completed, or what became of the first run that did not."""
        return next((row.status for row in self.rows if row.status != COMPLETED), COMPLETED)

    @property
    def caveat(self) -> str:
        """What must be said beside its numbers, as of images that were a substitute."""
        return next((row.caveat for row in self.rows if row.caveat), "")

    @property
    def name(self) -> str:
        """The names of its runs."""
        return " ".join(row.name for row in self.rows)

    @property
    def seconds(self) -> float | None:
        """What one of its runs took, on average."""
        taken = [row.seconds for row in self.rows if row.seconds is not None]
        return round(statistics.fmean(taken), 2) if taken else None

    @property
    def numbers(self) -> dict[str, float]:
        """The means of the metrics that are numbers."""
        names = dict.fromkeys(name for row in self.rows for name in row.numbers)
        found = {name: [row.numbers[name] for row in self.rows if name in row.numbers] for name in names}
        return {name: _short(statistics.fmean(values)) if values[1:] else values[0] for name, values in found.items()}

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of its runs, without the seed where there are several."""
        return {name: value for name, value in self.rows[0].parameters.items() if name != SEED or len(self.rows) == 1}

    def __str__(self) -> str:
        """The mean as people read it, such as `0.812 ± 0.004 of 3 seeds`; show it with the caveat."""
        if self.mean is None:
            return ""
        several = f" of {len(self.values)} seeds" if len(self.values) > 1 else ""
        if self.spread is None:
            return f"{self.mean:.4g}{several}"
        last = 3 - math.floor(math.log10(abs(self.mean))) if self.mean else 4  # the place of the mean's last digit
        spread = float(f"{round(self.spread, last):.2g}")
        return f"{self.mean:.4g} ± {spread:.6g}{several}"


def row(run: Run) -> Row:
    """`run` as a row."""
    record = run.record
    defaults = {name: value for name, value in record.parameters.items() if name not in record.given}
    return Row(
        name=run.name,
        folder=str(run.folder),
        status=run.status,
        parameters=record.given | defaults,
        seconds=record.seconds,
        error=record.error if run.status != UNREADABLE or (run.folder / RECORD).exists() else f"there is no {RECORD}",
        metrics=run.metrics,
        curves=run.curves,
        notebook=Path(record.notebook).name,
        notebook_digest=record.notebook_digest,
        caveat=run.caveat,
    )


def ended(folder: Path) -> list[Run]:
    """The runs in the folder of a sweep that have ended, those whose folder is damaged among them."""
    found = (path for path in folder.iterdir() if (path / RECORD).exists() or _RUN_NAME.fullmatch(path.name))
    return [Run(path) for path in sorted(found) if not path.name.startswith(".") and path.is_dir()]


def rows(folder: Path) -> list[Row]:
    """Those as rows; a sweep is of one notebook, whichever version of the workspace began it."""
    return [replace(row(run), notebook_digest=None) for run in ended(folder)]


def entries(runs: Iterable[Row], metric: Metric) -> list[Entry]:
    """The runs by setting, the best first; after them those whose metric is no number, then those that failed."""
    settings: dict[tuple[str, int], dict[str, Row]] = {}
    for one in runs:
        seed = repr(one.parameters.get(SEED))
        for repeat in itertools.count():  # the same seed again is no other luck: an entry of its own
            if seed not in settings.setdefault((one.setting, repeat), {}):
                settings[one.setting, repeat][seed] = one
                break
    found = [Entry(tuple(sorted(one.values(), key=lambda row: row.name)), metric.name) for one in settings.values()]

    def key(entry: Entry) -> tuple[int, float, str]:
        if entry.mean is None:
            return (2 if entry.status == COMPLETED else 3), 0, entry.name
        if not math.isfinite(entry.mean):
            return 1, 0, entry.name
        return 0, -entry.mean if metric.mode == "max" else entry.mean, entry.name

    return sorted(found, key=key)


def alike(ordered: list[Entry]) -> int | None:
    """How many entries after the best cannot be told from it; None where nothing was run twice, so nobody can say.

    The seeds' spread is pooled over all entries; two means differ if Student's t says so at 95 %.
    """
    ranking = [entry for entry in ordered if entry.ranks]
    freedom = sum(len(entry.values) - 1 for entry in ranking)
    if not freedom:
        return None
    squares = sum((entry.spread or 0) ** 2 * (len(entry.values) - 1) for entry in ranking)
    student = _STUDENT_95[freedom - 1] if freedom <= len(_STUDENT_95) else 1.96 + 2.7 / freedom
    best, *others = ranking

    def is_alike(entry: Entry) -> bool:
        error = math.sqrt(squares / freedom * (1 / len(best.values) + 1 / len(entry.values)))
        return abs(best.mean - entry.mean) <= student * error

    return sum(map(is_alike, others))


def certainty(ordered: list[Entry]) -> str:
    """What the seeds say of the order, in a sentence; empty where there is nothing to tell apart."""
    ranking = [entry for entry in ordered if entry.ranks]
    if len(ranking) < 2:
        return ""
    images = {str(row.metrics.get("dataset")) for entry in ranking for row in entry.rows}
    if len(images) > 1:
        return f"They are of different images ({', '.join(sorted(images))}), so their order says nothing."
    number = alike(ordered)
    if number is None:
        hint = "; -p seed=0,1,2 would show it" if SEED in ranking[0].parameters else ""
        return f"Each was run once, so nobody can say what of the differences is luck{hint}."
    if number:
        others = "the next one" if number == 1 else f"{number} others"
        return f"The best cannot be told apart from {others}: seeds make such differences, too."
    return "The best is better than what seeds explain (95 %)."


def write_leaderboard(folder: Path, ordered: list[Entry], metric: Metric) -> None:
    """The table as a file for spreadsheets: rank, status, metric, parameters, seconds, the other numbers, the error."""
    several = any(len(entry.rows) > 1 for entry in ordered)
    names = list(dict.fromkeys(name for entry in ordered for name in entry.parameters if not several or name != SEED))
    numbers = sorted({name for entry in ordered for name in entry.numbers} - {metric.name, *names})
    spread = ["spread", "runs", "seeds"] if several else []
    caveat = ["caveat"] if any(entry.caveat for entry in ordered) else []
    heads = ["rank", "run", "status", metric.name, *spread, *names, "seconds", *numbers, *caveat, "error"]
    lines: list[list[object]] = [heads]
    for rank, entry in enumerate(ordered, start=1):
        seeds = " ".join(str(row.parameters.get(SEED, "")) for row in entry.rows)
        values = [rank, entry.name, entry.status, _short(entry.mean) if entry.values[1:] else entry.mean]
        values += [_short(entry.spread), len(entry.values), seeds] if several else []
        values += [entry.parameters.get(name) for name in names]
        values += [entry.seconds, *(entry.numbers.get(name) for name in numbers)]
        values += [entry.caveat] if caveat else []
        lines.append([*values, next((row.error for row in entry.rows if row.error), None)])
    write_table(folder / LEADERBOARD, lines)


def write_table(file: Path, lines: list[list[object]]) -> None:
    """Write a file for spreadsheets. Text that begins like a formula, which they would reckon, is shown as it is."""

    def harmless(cell: object) -> object:
        if cell is None:
            return ""
        return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell

    with replacing(file) as new, new.open("w", newline="") as text:
        csv.writer(text).writerows(map(harmless, line) for line in lines)


def _short(number: float | None) -> float | None:
    """A reckoned number without the digits that nobody measured."""
    return None if number is None else float(f"{number:.6g}")


def _number(value: object) -> float | int | None:
    """`value` if it is a number, of a size that can be reckoned with."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if isinstance(value, float) or abs(value) < 10**300 else None
