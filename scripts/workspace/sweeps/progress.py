"""How far a sweep is, as one line that says what is done, what is the best so far, and when it will end."""

import time
from collections.abc import Iterable

from workspace.base.terminal import duration
from workspace.sweeps import ranking
from workspace.sweeps.ranking import Entry, Metric, Row


class Progress:
    """How many of the planned runs are done and failed, and which is the best by `metric`; `varied`: parameters."""

    def __init__(self, metric: Metric, varied: list[str], planned: int) -> None:
        self.planned = planned
        self._metric, self._varied = metric, varied
        self._done = self._failed = 0
        self._rows: list[Row] = []
        self._best: Entry | None = None
        self._time_left = TimeLeft()

    def begin(self, done: int, rows: Iterable[Row] = ()) -> None:
        """So many were done before; these are theirs, as far as they are read."""
        self._done = done
        self._rows = list(rows)
        self._rank()

    def ended(self, row: Row | None, *, completed: bool) -> None:
        """One more has ended; it left no row where nothing is left of it."""
        self._done += completed
        self._failed += not completed
        if row:
            self._rows.append(row)
            self._rank()
            if row.seconds:
                self._time_left.note(row.seconds)

    def line(self, running: int, *, stopping: bool) -> str:
        """Done, running, failed, the best so far, time left."""
        words = ["stopping"] if stopping else []
        words += [str(self), f"{running} running"]
        if self._best:
            shown = [name for name in self._varied if name in self._best.parameters]
            values = ", ".join(f"{name} {self._best.parameters[name]}" for name in shown)
            told = " ".join(filter(None, [str(self._best), self._best.caveat]))
            words.append(f"best {self._metric.name} {told}{f' ({values})' if values else ''}")
        left = self.planned - self._done - self._failed
        if not stopping and (told := self._time_left.told(left, running)):
            words.append(told)
        return " · ".join(words)

    def __str__(self) -> str:
        """As in `3 of 8 done, 1 failed`."""
        return f"{self._done:,} of {self.planned:,} done" + (f", {self._failed:,} failed" if self._failed else "")

    def _rank(self) -> None:
        ordered = ranking.entries(self._rows, self._metric)
        self._best = ordered[0] if ordered and ordered[0].ranks else None


class TimeLeft:
    """When a sweep will end, reckoned anew whenever a run ends, and counted down in between."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._left = 0
        self._end = 0.0

    def note(self, seconds: float) -> None:
        """A run took so long."""
        self._seconds.append(seconds)

    def told(self, left: int, running: int, now: float | None = None) -> str:
        """In words, for `left` runs of which some are `running`; empty where nothing is known."""
        if not self._seconds or not running:
            return ""
        now = time.monotonic() if now is None else now
        if left != self._left:
            each = sum(self._seconds) / len(self._seconds)
            # When one ends, those beside it are half done on average.
            self._left, self._end = left, now + each * max(1, left - (running - 1) / 2) / running
        rest = self._end - now
        return f"about {duration(rest)} left" if rest > 0 else "longer than expected"
