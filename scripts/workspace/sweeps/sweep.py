"""The command `sweep`: plan the runs, make those that are missing, rank them all, report.

There is no state but the folder: sweep.json says what it is about, and each completed run has a folder of its own.
"""

import itertools
import math
import secrets
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.terminal import StatusLine, duration
from workspace.runs import folders, notebook_parameters
from workspace.runs.notebook import Notebook
from workspace.runs.sweep_record import SweepRecord, claimed
from workspace.sweeps import axes as axes_
from workspace.sweeps import ranking, report, tpe
from workspace.sweeps.axes import Axis
from workspace.sweeps.ranking import Row

if TYPE_CHECKING:
    from workspace.runs.execution import Job

REPLACED = "replaced"
"""Where runs go that were made again: nothing is thrown away."""

_MANY = 10_000


@dataclass(frozen=True)
class Options:
    """What the command line says, beyond notebook and axes."""

    output: Path | None = None
    method: str = "grid"
    count: int | None = None
    jobs: int | None = None
    scheduler: str | None = None
    metric: str = "accuracy"
    mode: str = "max"
    retries: int = 0
    timeout: float | None = None
    rerun: str = "failed"
    dry_run: bool = False
    report_only: bool = False
    yes: bool = False


def main(notebook: Path, assignments: list[str], file: Path | None, options: Options) -> int:
    """Make the sweep and return the exit code. Raises UserError for bad input, and where nobody is left to work."""
    source = Notebook.read(notebook)
    axes = axes_.read(source, assignments, notebook_parameters.read_file(file) if file else {})
    _check(axes, options)
    if source.takes_whole_machine and (options.jobs or 1) > 1:
        raise UserError(f"-j {options.jobs}: {source.name} takes the whole machine, one run at a time", cli.BAD_INPUT)
    sweep = Sweep(source, axes, options)
    if ".." in sweep.folder.parts:
        raise UserError(f"{sweep.folder}: write the output folder without `..`, absolute if need be", cli.BAD_INPUT)
    if options.report_only:
        if not SweepRecord.read(sweep.folder):
            raise UserError(f"{sweep.folder} is not the folder of a sweep", cli.BAD_INPUT)
        return sweep.report()
    folders.require_writable(sweep.folder)
    if options.dry_run:
        return sweep.tell_plan()
    with claimed(sweep.folder):
        return sweep.make()


def _check(axes: list[Axis], options: Options) -> None:
    if not axes:
        raise UserError("say what to vary: -p NAME=V1,V2,...", cli.BAD_INPUT)
    for name, value in {"-n": options.count, "-j": options.jobs, "--timeout": options.timeout}.items():
        if value is not None and value <= 0:
            raise UserError(f"{name} {value:g}: a number above 0, please", cli.BAD_INPUT)
    if options.method == "tpe":
        tpe.require()
    if options.method != "grid" and not options.count:
        raise UserError(f"--method {options.method} needs -n, how many runs to make", cli.BAD_INPUT)
    if options.method == "grid" and options.count:
        raise UserError("-n is for --method random and tpe; a grid has as many runs as combinations", cli.BAD_INPUT)
    if options.scheduler and options.jobs:
        raise UserError("-j is for this machine; a cluster makes as many runs at once as it has workers", cli.BAD_INPUT)
    many = options.count or axes_.size(axes)
    if many > _MANY and not options.yes:
        raise UserError(f"these are {many:,} runs; add --yes if you mean it", cli.BAD_INPUT)


class Sweep:
    """The runs of `notebook` over `axes`, in one folder: which there are, which are missing, how far they are."""

    def __init__(self, notebook: Notebook, axes: list[Axis], options: Options) -> None:
        self._notebook, self._axes, self._options = notebook, axes, options
        self._varied = [axis.name for axis in axes if axis.range or len(axis.values) > 1]
        self.folder = (options.output or self._default_folder()).absolute()
        self._planned = options.count or axes_.size(axes)
        self._done = self._failed = 0
        self._seconds: list[float] = []
        self._tries: Counter[Path] = Counter()
        self._best: Row | None = None
        self._chooser: tpe.Chooser | None = None
        self._cancel = threading.Event()

    def make(self) -> int:
        """Make the runs that are missing; then rank and report. The exit code: 130 after Ctrl-C."""
        self._require_same_notebook()
        missing = self._missing()
        first = next(missing, None)
        if first is None:
            if (self.folder / report.REPORT).exists():
                cli.say(f"all {self._planned:,} runs are done\n{self.folder / report.REPORT}")
                return 0
            return self.report()
        self._work_off(itertools.chain([first], missing))
        if self._cancel.is_set():
            self.report()
            cli.say("stopped; the same command goes on from here")
            return 130
        return self.report()

    def report(self) -> int:
        """Rank and report what there is: 0, or 1 where there is nothing. Raises UserError where runs failed."""
        metric, mode = self._options.metric, self._options.mode
        rows = ranking.rows(self.folder, metric, mode)
        if not rows:
            cli.say("no run has ended, so there is nothing to report")
            return 1
        ranking.write_leaderboard(self.folder, rows, metric)
        cli.say(str(report.write(self.folder, rows, metric, mode, title=self.folder.name)))
        failed = [row for row in rows if row.status != folders.COMPLETED]
        if all(row.value is None for row in rows) and len(failed) < len(rows):
            offered = sorted({name for row in rows for name in row.numbers})
            hint = (
                f"they wrote {', '.join(offered[:8])}"
                if offered
                else (
                    f"the notebook must write {folders.METRICS} into the folder that its parameter "
                    f'`{notebook_parameters.OUTPUT_FOLDER}: str = "."` names'
                )
            )
            raise UserError(f"no run wrote the metric {metric!r}: {hint}; then --report-only with --metric")
        if failed:
            raise UserError(f"{len(failed)} of {len(rows)} runs failed, the first with: {failed[0].error}")
        return 0

    def tell_plan(self) -> int:
        """Say which runs there would be, and which are there."""
        if self._options.method == "tpe":
            cli.say(f"{self._options.count} runs, chosen by their results as they come, in {self.folder}")
            return 0
        done = total = 0
        for values in self._plan():
            total += 1
            completed = _completed(self._run_folder(values))
            done += completed
            if total <= 20:
                shown = ", ".join(f"{name} {value}" for name, value in values.items())
                cli.say(f"{'done   ' if completed else 'to make'}  {shown}")
        if total > 20:
            cli.say(f"... and {total - 20:,} more")
        cli.say(f"{total:,} runs, {done:,} of them done, in {self.folder}")
        return 0

    def _default_folder(self) -> Path:
        """The same for the same command, so that it resumes."""
        name = self._notebook.path.stem
        about = {"notebook": name, "axes": repr(self._axes), "method": self._options.method}
        return places.work() / "runs" / f"{name}-sweep-{axes_.identity(about)}"

    def _run_folder(self, values: dict[str, Any]) -> Path:
        return self.folder / axes_.run_name(values, self._varied)

    def _require_same_notebook(self) -> None:
        """Refuse to put runs of two different notebooks side by side, unless all are made again."""
        before = SweepRecord.read(self.folder)
        if before and not self._notebook.had(before.notebook_digest) and self._options.rerun != "all":
            raise UserError(
                f"{self._notebook.name} has changed since this sweep began, and results of two notebooks do not "
                "compare: name another folder with -o, or make all runs again with --rerun all",
                cli.BAD_INPUT,
            )
        if not before and any(self.folder.glob(f"*/{folders.RECORD}")):
            raise UserError(f"{self.folder} holds runs that are of no sweep; choose another -o", cli.BAD_INPUT)
        options = self._options
        about = SweepRecord(
            str(self._notebook.path), self._notebook.digest, options.metric, options.mode, options.method
        )
        about.write(self.folder)

    def _plan(self) -> Iterable[dict[str, Any]]:
        axes = self._axes
        return axes_.grid(axes) if self._options.method == "grid" else axes_.draws(axes, self._options.count or 0)

    def _missing(self) -> Iterator[dict[str, Any]]:
        """The combinations that are to be made; how many are there already is noted."""
        again = self._options.rerun == "all"
        if self._options.method == "tpe":
            rows = [] if again else ranking.rows(self.folder, self._options.metric, self._options.mode)
            told = [(row.parameters, row.value) for row in rows if row.value is not None and not math.isnan(row.value)]
            self._chooser = tpe.Chooser(self._axes, self._planned, self._options.mode, told)
            self._done = len(told)
            return iter(self._chooser)
        plan = list(self._plan())
        missing = [values for values in plan if again or not _completed(self._run_folder(values))]
        self._planned, self._done = len(plan), len(plan) - len(missing)
        return iter(missing)

    def _work_off(self, missing: Iterator[dict[str, Any]]) -> None:
        """Make the runs of `missing`, until Ctrl-C."""
        from workspace.sweeps import cluster, worker  # Dask and papermill: a sweep with nothing to do is quick

        options, begun = self._options, time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self._cancel.set())
        workers = (
            cluster.remote(options.scheduler)
            if options.scheduler
            else cluster.local(1 if self._notebook.takes_whole_machine else options.jobs or worker.how_many())
        )
        with workers as client, StatusLine() as line:
            cluster.work_off(
                client,
                self._jobs(missing),
                self._cancel,
                ahead=self._chooser is None,
                ended=self._ended,
                waiting=lambda running: line.show(self._status(running)),
            )
        for remains in (folders.Run(state.parent) for state in self.folder.glob(f".*/{folders.STATE}")):
            if remains.status == folders.LOST and _completed(self.folder / remains.name):
                shutil.rmtree(remains.folder, ignore_errors=True)  # given up with its worker, and made by another
        cli.say(f"{self._summary()}, in {duration(time.monotonic() - begun)}")

    def _jobs(self, missing: Iterator[dict[str, Any]]) -> Iterator["Job"]:
        from workspace.runs.execution import Job

        for values in missing:
            place = self._run_folder(values)
            self._put_aside(place)
            yield Job(self._notebook, place, values, timeout_s=self._options.timeout, sweep=self.folder.name)

    def _ended(self, job: "Job", outcome: str) -> "Job | None":
        """Take note of how `job` ended; the job to make in its place, if it is to be tried again."""
        row = ranking.row(folders.Run(job.folder), self._options.metric) if job.folder.exists() else None
        self._tries[job.folder] += 1
        cancelled = self._cancel.is_set()
        if outcome != folders.COMPLETED and not cancelled and self._tries[job.folder] <= self._options.retries:
            self._put_aside(job.folder)
            return job
        if outcome == folders.COMPLETED:
            self._done += 1
        elif row or not cancelled:
            self._failed += 1
        if row and row.seconds:
            self._seconds.append(row.seconds)
        self._best = ranking.better(self._best, row, self._options.mode)
        if self._chooser:
            self._chooser.tell(job.parameters, row.value if row else None)
        return None

    def _put_aside(self, place: Path) -> None:
        """Make room for a run that is made again: what there was of it is kept among the replaced."""
        remains = [run.folder for run in folders.attempts(place) if run.status == folders.LOST]
        for old in [place, *remains]:
            if old.exists():
                (self.folder / REPLACED).mkdir(exist_ok=True)
                old.rename(self.folder / REPLACED / f"{place.name}-{secrets.token_hex(3)}")

    def _status(self, running: int) -> str:
        """One line: done, running, failed, the best so far, time left."""
        words = [self._summary(), f"{running} running"]
        if self._best:
            values = ", ".join(f"{name} {self._best.parameters.get(name)}" for name in self._varied)
            words.append(f"best {self._options.metric} {self._best.value:.4g} ({values})")
        if self._cancel.is_set():
            return " · ".join(["stopping", *words])
        left = self._planned - self._done - self._failed
        if self._seconds and running:
            words.append(f"about {duration(sum(self._seconds) / len(self._seconds) * left / running)} left")
        return " · ".join(words)

    def _summary(self) -> str:
        return f"{self._done:,} of {self._planned:,} done" + (f", {self._failed:,} failed" if self._failed else "")


def _completed(place: Path) -> bool:
    return place.exists() and folders.Run(place).status == folders.COMPLETED
