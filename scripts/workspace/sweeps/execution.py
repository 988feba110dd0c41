"""Making the runs of a sweep: on workers of this process or of a cluster, each as often as it takes."""

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workspace.base import cli, places
from workspace.base.terminal import StatusLine, duration
from workspace.runs import background, folders
from workspace.runs.execution import Job
from workspace.runs.notebook import Notebook
from workspace.sweeps import cluster, ranking, report, worker
from workspace.sweeps.plan import Options, Plan
from workspace.sweeps.progress import Progress
from workspace.sweeps.ranking import Metric

_PREPARES_REPORT_AFTER_S = 1
"""Later than the first kernels start, which should not have to share the CPUs with it."""


class Execution:
    """Makes runs of `notebook` in `folder`, tells the `plan` and the `progress` how each ended."""

    def __init__(
        self,
        notebook: Notebook,
        folder: Path,
        plan: Plan,
        metric: Metric,
        options: Options,
        progress: Progress,
    ) -> None:
        self.lost: dict[str, str] = {}  # why there is nothing of some runs, by their names
        self._notebook, self._folder, self._plan, self._metric = notebook, folder, plan, metric
        self._options, self._progress = options, progress
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
            line.show(self._progress.line(running, stopping=self.cancelled))

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
        cli.say(f"{self._progress}, in {duration(time.monotonic() - started)}")

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
            self._progress.ended(row, completed=completed)
        self._plan.tell(job.parameters, row.value if row else None)
        return None
