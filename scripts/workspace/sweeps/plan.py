"""The plan of a sweep: its runs, each a combination of values and the name of a folder, whatever becomes of them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workspace.runs.folders import COMPLETED
from workspace.sweeps import axes as axes_
from workspace.sweeps.axes import Axis
from workspace.sweeps.ranking import Row


@dataclass(frozen=True)
class Options:
    """What the command line says, beyond notebook and axes."""

    output: Path | None = None
    method: str = "grid"
    count: int | None = None
    seed: int = 0
    jobs: int | None = None
    scheduler: str | None = None
    metric: str = "accuracy"
    mode: str | None = None
    retries: int = 0
    timeout: float | None = None
    rerun: str = "failed"
    in_background: bool = False
    dry_run: bool = False
    report_only: bool = False
    yes: bool = False


class Plan:
    """Runs that are known before the first is made: all of a grid, or those drawn at random."""

    known_ahead = True

    def __init__(self, axes: list[Axis], combinations: Iterable[dict[str, Any]]) -> None:
        self.varied = [axis.name for axis in axes if axis.range or len(axis.values) > 1]
        self.runs = {self.name(values): values for values in combinations}  # as far as they are known
        self._done: set[str] = set()

    @property
    def total(self) -> int:
        """How many runs there should be at the end."""
        return len(self.runs)

    def name(self, values: Mapping[str, Any]) -> str:
        """The name of a run's folder."""
        return axes_.run_name(values, self.varied)

    def remember(self, row: Row) -> bool:
        """Take note of a run of an earlier time; whether it is one of these, and done."""
        done = row.name in self.runs and row.status == COMPLETED
        if done:
            self._done.add(row.name)
        return done

    def missing(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The runs to make, name and values."""
        return ((name, values) for name, values in self.runs.items() if name not in self._done)

    def tell(self, values: Mapping[str, Any], metric: float | None) -> None:
        """What a run gave; None where it failed. Here the others do not depend on it."""
