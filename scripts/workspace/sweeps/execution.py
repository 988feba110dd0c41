"""Making the runs of a sweep: on workers of this process or of a cluster, each as often as it takes."""

import contextlib
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workspace.base import cli, places
from workspace.base.terminal import StatusLine, duration
from workspace.runs import background, folders
from workspace.runs.execution import Job
from workspace.runs.notebook import Notebook
from workspace.runs.progress import TimeLeft
from workspace.sweeps import local, ranking, report
from workspace.sweeps.plans import Options, Plan
from workspace.sweeps.ranking import Metric, Row

if TYPE_CHECKING:
    from workspace.sweeps import cluster

    Workers = local.Workers | cluster.Workers

_PREPARES_REPORT_AFTER_S = 1
"""Later than the first kernels start, which should not have to share the CPUs with it."""
_LOOKS_EVERY_S = 0.05


class Progress:
    """How many of the planned runs are done and failed, and which is the best by `metric`.

    Before this, `done` of them were; `rows` are the runs that there were, `varied` names what tells them apart.
    """

    def __init__(self, metric: Metric, varied: list[str], planned: int, done: int, rows: list[Row]) -> None:
        self._metric, self._varied, self._planned = metric, varied, planned
        self._done, self._failed = done, 0
        self._rows = rows
        self._time_left = TimeLeft()
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
        left = self._planned - self._done - self._failed
        if not stopping and (told := self._time_left.told(left, running)):
            words.append(told)
        return " · ".join(words)

    def __str__(self) -> str:
        """As in `3 of 8 done, 1 failed`."""
        return f"{self._done:,} of {self._planned:,} done" + (f", {self._failed:,} failed" if self._failed else "")

    def _rank(self) -> None:
        ordered = ranking.entries(self._rows, self._metric)
        self._best = ordered[0] if ordered and ordered[0].ranks else None


class Execution:
    """Makes runs of `notebook` in `folder`, tells the `plan` and its `progress` how each ended."""

    def __init__(
        self, notebook: Notebook, folder: Path, plan: Plan, metric: Metric, options: Options, progress: Progress
    ) -> None:
        self.lost: dict[str, str] = {}  # why there is nothing of some runs, by their names
        self._notebook, self._folder, self._plan, self._metric = notebook, folder, plan, metric
        self._options, self._progress = options, progress
        self._again: list[Job] = []  # to be tried again
        self._tries: Counter[Path] = Counter()
        self._cancel = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether somebody pressed Ctrl-C, or ended it in another way."""
        return self._cancel.is_set()

    def work_off(self, missing: Iterator[tuple[str, dict[str, Any]]], begun: Callable[[str], None] | None) -> None:
        """Make the `missing` runs, until Ctrl-C; `begun` is told once how to follow that. Raises UserError."""
        started = time.monotonic()
        background.cancelled_by(self._cancel, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        preparing = threading.Timer(_PREPARES_REPORT_AFTER_S, report.prepare)
        preparing.daemon = True
        with self._workers() as workers, StatusLine() as line:
            preparing.start()
            if begun:
                follow = places.command("runs")
                begun(f"under way in {self._folder}: {follow} list, {follow} stop {self._folder.name}")
            for running in self._work_off(workers, missing):
                line.show(self._progress.line(running, stopping=self.cancelled))
        preparing.cancel()
        for remains in (folders.Run(state.parent) for state in self._folder.glob(f".*/{folders.STATE}")):
            if remains.status == folders.LOST and folders.is_completed(self._folder / remains.name):
                shutil.rmtree(remains.folder, ignore_errors=True)  # given up with its worker, and made by another
        cli.say(f"{self._progress}, in {duration(time.monotonic() - started)}")

    def _workers(self) -> contextlib.AbstractContextManager["Workers"]:
        if self._options.scheduler:
            with cli.importing():
                from workspace.sweeps import cluster  # Dask, which a sweep of this machine does without

            return cluster.workers(self._options.scheduler)
        alone = self._notebook.takes_whole_machine
        return local.Workers(1 if alone else self._options.jobs or local.how_many(), self._cancel)

    def _work_off(self, workers: "Workers", missing: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[int]:
        """Let the `workers` make each run; how many are at work, some times a second."""
        under_way: dict[Any, Job] = {}  # by their futures
        while True:
            for future in [future for future in under_way if future.done()]:
                self._ended(under_way.pop(future), workers.outcome(future))
            count = workers.count()
            # Work is kept in store at the workers, unless each run is chosen by how others ended.
            room = 2 * count if self._plan.known_ahead else count
            while not self.cancelled and len(under_way) < room and (job := self._next_job(missing)):
                under_way[workers.submit(job)] = job
            if not under_way and (self.cancelled or room):
                return
            if self.cancelled:
                workers.stop()
            yield min(len(under_way), count)
            time.sleep(_LOOKS_EVERY_S)

    def _next_job(self, missing: Iterator[tuple[str, dict[str, Any]]]) -> Job | None:
        """The next run to make, those to be tried again first; None where none is left for now."""
        if self._again:
            return self._again.pop()
        for name, values in missing:
            folder = self._folder / name
            folders.put_aside(folder)
            return Job(self._notebook, folder, values, timeout_s=self._options.timeout, sweep=self._folder.name)
        return None

    def _ended(self, job: Job, outcome: str) -> None:
        """Take note of how `job` ended, which may be tried again."""
        self._tries[job.folder] += 1
        completed = outcome == folders.COMPLETED
        if not completed and not self.cancelled and self._tries[job.folder] <= self._options.retries:
            folders.put_aside(job.folder)
            self._again.append(job)
            return
        row = None
        if job.folder.exists():
            row = ranking.row(folders.Run(job.folder))
        else:
            self.lost[job.folder.name] = outcome
        if completed or row or not self.cancelled:
            self._progress.ended(row, completed=completed)
        self._plan.tell(job.parameters, row.value(self._metric.name) if row else None)
