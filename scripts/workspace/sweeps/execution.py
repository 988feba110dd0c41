"""Making the runs of a sweep: on workers of this process or of a cluster, each as often as it takes."""

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from workspace.base import cli, places
from workspace.base.terminal import StatusLine, duration
from workspace.runs import background, folders
from workspace.runs.execution import Job
from workspace.runs.notebook import Notebook
from workspace.runs.progress import TimeLeft
from workspace.sweeps import cluster, ranking, report, worker
from workspace.sweeps.plans import Options, Plan
from workspace.sweeps.ranking import Entry, Metric, Row

_PREPARES_REPORT_AFTER_S = 1
"""Later than the first kernels start, which should not have to share the CPUs with it."""


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


class Execution:
    """Makes runs of `notebook` in `folder`, tells the `plan` and its `progress` how each ended."""

    def __init__(
        self,
        notebook: Notebook,
        folder: Path,
        plan: Plan,
        metric: Metric,
        options: Options,
    ) -> None:
        self.lost: dict[str, str] = {}  # why there is nothing of some runs, by their names
        self._notebook, self._folder, self._plan, self._metric = notebook, folder, plan, metric
        self.progress = Progress(metric, plan.varied, plan.total)
        self._options = options
        self._tries: Counter[Path] = Counter()
        self._cancel = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether somebody pressed Ctrl-C, or ended it in another way."""
        return self._cancel.is_set()

    def work_off(self, missing: Iterator[tuple[str, dict[str, Any]]], begun: Callable[[str], None] | None) -> None:
        """Make the `missing` runs, until Ctrl-C; `begun` is told once how to follow that. Raises UserError."""
        options, started = self._options, time.monotonic()
        background.cancelled_by(self._cancel, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        workers = (
            cluster.remote(options.scheduler)
            if options.scheduler
            else cluster.local(1 if self._notebook.takes_whole_machine else options.jobs or worker.how_many())
        )

        ahead = threading.Timer(_PREPARES_REPORT_AFTER_S, report.prepare)
        ahead.daemon = True

        def waiting(running: int) -> None:
            nonlocal begun
            if begun:
                follow = places.command("runs")
                begun(f"under way in {self._folder}: {follow} list, {follow} stop {self._folder.name}")
                begun = None
            line.show(self.progress.line(running, stopping=self.cancelled))

        with workers as client, StatusLine() as line:
            ahead.start()
            cluster.work_off(
                client,
                self._jobs(missing),
                self._cancel,
                ahead=self._plan.known_ahead,
                ended=self._ended,
                waiting=waiting,
            )
        ahead.cancel()
        for remains in (folders.Run(state.parent) for state in self._folder.glob(f".*/{folders.STATE}")):
            if remains.status == folders.LOST and folders.is_completed(self._folder / remains.name):
                shutil.rmtree(remains.folder, ignore_errors=True)  # given up with its worker, and made by another
        cli.say(f"{self.progress}, in {duration(time.monotonic() - started)}")

    def _jobs(self, missing: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[Job]:
        for name, values in missing:
            folder = self._folder / name
            folders.put_aside(folder)
            yield Job(self._notebook, folder, values, timeout_s=self._options.timeout, sweep=self._folder.name)

    def _ended(self, job: Job, outcome: str) -> Job | None:
        """Take note of how `job` ended; the job to make in its place, if it is to be tried again."""
        self._tries[job.folder] += 1
        completed = outcome == folders.COMPLETED
        if not completed and not self.cancelled and self._tries[job.folder] <= self._options.retries:
            folders.put_aside(job.folder)
            return job
        row = None
        if job.folder.exists():
            row = ranking.row(folders.Run(job.folder), self._metric.name)
        else:
            self.lost[job.folder.name] = outcome
        if completed or row or not self.cancelled:
            self.progress.ended(row, completed=completed)
        self._plan.tell(job.parameters, row.value if row else None)
        return None
