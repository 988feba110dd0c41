"""Which of some runs is the best: a row for each, the order of the rows, and the table as leaderboard.csv."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workspace.base.files import replacing
from workspace.runs import folders

LEADERBOARD = "leaderboard.csv"


@dataclass(frozen=True)
class Row:
    """A run in a table of runs."""

    name: str
    folder: str
    status: str
    value: float | None  # the metric; None where there is none
    parameters: dict[str, Any]  # those that were set for this run
    seconds: float | None
    error: str | None
    metrics: dict[str, Any]
    curves: dict[str, list[float]] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics that are numbers."""
        return {name: value for name, value in self.metrics.items() if _is_number(value)}


def row(run: folders.Run, metric: str) -> Row:
    """`run` as a row."""
    value = run.metrics.get(metric)
    usable = run.status == folders.COMPLETED and _is_number(value)
    record = run.record
    return Row(
        run.name,
        str(run.folder),
        run.status,
        float(value) if usable else None,
        record.given,
        record.seconds,
        record.error,
        run.metrics,
        run.curves,
    )


def rows(folder: Path, metric: str, mode: str) -> list[Row]:
    """The finished runs in `folder`, the best first; after them those whose metric is no number, then the failed."""
    return ranked((row(folders.Run(file.parent), metric) for file in folder.glob(f"[!.]*/{folders.RECORD}")), mode)


def ranked(unordered: Iterable[Row], mode: str) -> list[Row]:
    """The best first: `mode` is max or min."""

    def key(row: Row) -> tuple[int, float, str]:
        if row.value is None:
            return (2 if row.status == folders.COMPLETED else 3), 0, row.name
        if math.isnan(row.value):
            return 1, 0, row.name
        return 0, -row.value if mode == "max" else row.value, row.name

    return sorted(unordered, key=key)


def better(best: Row | None, new: Row | None, mode: str) -> Row | None:
    """The better one of two rows that may be missing or without a number."""
    candidates = [row for row in (best, new) if row and row.value is not None and not math.isnan(row.value)]
    return ranked(candidates, mode)[0] if candidates else None


def write_leaderboard(folder: Path, rows: list[Row], metric: str) -> Path:
    """The table as a file for spreadsheets: rank, status, metric, parameters, seconds, the other numbers, the error."""
    names = list(dict.fromkeys(name for row in rows for name in row.parameters))
    numbers = sorted({name for row in rows for name in row.numbers} - {metric, *names})
    file = folder / LEADERBOARD
    with replacing(file) as new, new.open("w", newline="") as text:
        table = csv.writer(text)
        table.writerow(["rank", "run", "status", metric, *names, "seconds", *numbers, "error"])
        for rank, row in enumerate(rows, start=1):
            values = [row.parameters.get(name, "") for name in names]
            others = [row.numbers.get(name, "") for name in numbers]
            value = "" if row.value is None else row.value
            table.writerow([rank, row.name, row.status, value, *values, row.seconds, *others, row.error or ""])
    return file


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
