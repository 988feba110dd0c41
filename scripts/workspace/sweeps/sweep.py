"""The command `sweep`: plan the runs, make those that are missing, rank them all, report.

There is no state but the folder: sweep.json says what it is about, beside it stands the notebook as it was when the
sweep began, and each completed run has a folder of its own.
"""

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.base.terminal import StatusLine, duration
from workspace.runs import background, folders, notebook_parameters
from workspace.runs.notebook import Notebook
from workspace.runs.sweep_record import SweepRecord, claimed
from workspace.sweeps import axes as axes_
from workspace.sweeps import ranking, report, tpe
from workspace.sweeps.axes import Axis
from workspace.sweeps.progress import Progress
from workspace.sweeps.ranking import Metric, Row

if TYPE_CHECKING:
    from workspace.runs.execution import Job

REPLACED = "replaced"
"""Where runs go that were made again: nothing is thrown away."""

_MANY = 10_000

_METRICS_NEEDED = (
    f"the notebook must write {folders.METRICS} into the folder that its parameter "
    f'`{notebook_parameters.OUTPUT_FOLDER}: str = "."` names'
)


@dataclass(frozen=True)
class Options:
    """What the command line says, beyond notebook and axes."""

    output: Path | None
    method: str
    count: int | None
    seed: int
    jobs: int | None
    scheduler: str | None
    metric: str
    mode: str | None
    retries: int
    timeout: float | None
    rerun: str
    in_background: bool
    dry_run: bool
    report_only: bool
    yes: bool


def main(notebook: Path, assignments: list[str], file: Path | None, options: Options) -> int:
    """Make the sweep and return the exit code. Raises UserError for bad input, and where nobody is left to work."""
    source = Notebook.read(notebook)
    axes = axes_.read(source, assignments, notebook_parameters.read_file(file) if file else {})
    _check(axes, options)
    if source.takes_whole_machine and (options.jobs or 1) > 1:
        raise UserError(f"-j {options.jobs}: {source.name} takes the whole machine, one run at a time", cli.BAD_INPUT)
    sweep = Sweep(source, axes, options)
    folders.require_without_dots(sweep.folder)
    if options.report_only:
        if not SweepRecord.read(sweep.folder):
            raise UserError(f"{sweep.folder} is not the folder of a sweep", cli.BAD_INPUT)
        return sweep.report()
    folders.require_writable(sweep.folder)
    source.require_kernel()
    if notebook_parameters.OUTPUT_FOLDER not in source.parameters:
        cli.say(f"these runs can be ranked by nothing: {_METRICS_NEEDED}")
    if options.dry_run:
        return sweep.tell_plan()
    if options.in_background:
        cli.say(background.go_on(sweep.make))
        return 0
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
    if options.method == "grid" and options.seed:
        raise UserError(
            "--seed is for --method random and tpe; a notebook's own is varied by -p seed=0,1,2", cli.BAD_INPUT
        )
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
        self._metric = Metric.asked(options.metric, options.mode)
        self.folder = (options.output or self._default_folder()).absolute()
        self._expected: dict[Path, dict[str, Any]] = {}  # the runs that there should be at the end, as far as is known
        self._lost: dict[Path, str] = {}  # why some of them are not there
        self._tries: Counter[Path] = Counter()
        self._progress = Progress(self._metric, self._varied, options.count or axes_.size(axes))
        self._chooser: tpe.Chooser | None = None
        self._record: SweepRecord | None = None
        self._cancel = threading.Event()

    def make(self, begun: Callable[[str], None] | None = None) -> int:
        """Make the runs that are missing; then rank and report. The exit code: 130 after Ctrl-C.

        `begun` is told how to follow it, once it is under way. Raises UserError, and OSError where the disk is full.
        """
        with claimed(self.folder):
            try:
                return self._make(begun)
            except (UserError, OSError) as error:
                self._keep(error)
                raise

    def report(self) -> int:
        """Rank and report what there is: 0, or 1 where there is nothing. Raises UserError where runs failed."""
        rows = ranking.rows(self.folder, self._metric.name)
        found = {row.name for row in rows}
        rows += [self._missing_row(place) for place in self._expected if place.name not in found]
        if not rows:
            cli.say("no run has ended, so there is nothing to report")
            return 1
        entries = ranking.entries(rows, self._metric)
        ranking.write_leaderboard(self.folder, entries, self._metric)
        page = report.write(self.folder, entries, self._metric, title=self.folder.name)
        report.say(entries, self._metric, page)
        failed = [row for row in rows if row.status != folders.COMPLETED]
        if all(row.value is None for row in rows) and len(failed) < len(rows):
            offered = sorted({name for row in rows for name in row.numbers})
            hint = f"they wrote {', '.join(offered[:8])}" if offered else _METRICS_NEEDED
            raise UserError(f"no run wrote the metric {self._metric.name!r}: {hint}; then --report-only with --metric")
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
        if self._options.seed:
            about["seed"] = str(self._options.seed)
        return places.work() / "runs" / f"{name}-sweep-{axes_.identity(about)}"

    def _run_folder(self, values: dict[str, Any]) -> Path:
        return self.folder / axes_.run_name(values, self._varied)

    def _make(self, begun: Callable[[str], None] | None) -> int:
        before = self._read_record()
        if before and not self._notebook.had(before.notebook_digest):  # then all are made again
            for run in ranking.rows(self.folder, self._metric.name):
                self._put_aside(Path(run.folder))
        missing = self._missing()
        first = next(missing, None)
        self._freeze(before)
        if first is None:
            page = self.folder / report.REPORT
            (begun or cli.say)(f"all {self._progress.planned:,} runs are done\n{page}")
            ranked_so = before and (before.metric, before.mode) == (self._metric.name, self._metric.mode)
            return 0 if ranked_so and page.exists() else self.report()
        self._work_off(itertools.chain([first], missing), begun)
        self._tell_if_source_moved_on()
        if self._cancel.is_set():
            self._expected.clear()  # what was not made is no failure
            try:
                self.report()
            except UserError as error:  # runs that failed before
                cli.say(str(error))
            cli.say("stopped; the same command goes on from here")
            return 130
        return self.report()

    def _read_record(self) -> SweepRecord | None:
        """What the folder says of the sweep, None for a new one.

        Raises UserError rather than put runs of two different notebooks side by side, unless all are made again.
        """
        before = SweepRecord.read(self.folder)
        if before and not self._notebook.had(before.notebook_digest) and self._options.rerun != "all":
            copy = self.folder / self._notebook.name
            go_on = f", or go on with the copy that it began with, {copy}" if copy.exists() else ""
            raise UserError(
                f"{self._notebook.name} has changed since this sweep began, and results of two notebooks do not "
                f"compare: name another folder with -o, make all runs again with --rerun all{go_on}",
                cli.BAD_INPUT,
            )
        if not before and any(self.folder.glob(f"*/{folders.RECORD}")):
            raise UserError(f"{self.folder} holds runs that are of no sweep; choose another -o", cli.BAD_INPUT)
        return before

    def _freeze(self, before: SweepRecord | None) -> None:
        """Keep the notebook as it is now beside the runs that are made of it, and say what the sweep is about."""
        copy, source = self.folder / self._notebook.name, self._notebook.path
        if source == copy and before:  # it goes on with its copy: modules and files are found where they were
            source = Path(before.notebook)
            self._notebook = replace(self._notebook, path=source)
        with replacing(copy) as new:
            new.write_text(self._notebook.text, encoding="utf-8")
        self._record = SweepRecord(
            notebook=str(source),
            notebook_digest=self._notebook.digest,
            metric=self._metric.name,
            mode=self._metric.mode,
            method=self._options.method,
            seed=self._options.seed,
            planned=self._progress.planned,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        self._record.write(self.folder)

    def _keep(self, error: Exception) -> None:
        """Write down why it ended: nobody may have been looking."""
        if self._record:
            with contextlib.suppress(OSError):
                replace(self._record, error=str(error)).write(self.folder)

    def _tell_if_source_moved_on(self) -> None:
        try:
            same = Notebook.read(self._notebook.path).digest == self._notebook.digest
        except UserError:
            same = False
        if not same:
            cli.say(
                f"{self._notebook.path} has changed since this sweep began; all its runs are of the copy "
                f"{self.folder / self._notebook.name}"
            )

    def _plan(self) -> Iterable[dict[str, Any]]:
        if self._options.method == "grid":
            return axes_.grid(self._axes)
        return axes_.draws(self._axes, self._options.count or 0, self._options.seed)

    def _missing(self) -> Iterator[dict[str, Any]]:
        """The combinations that are to be made; the runs that are there are noted."""
        again = self._options.rerun == "all"
        if self._options.method == "tpe":
            before = [] if again else ranking.rows(self.folder, self._metric.name)
            self._chooser = tpe.Chooser(self._axes, self._progress.planned, self._metric.mode, self._options.seed)
            completed = [row for row in before if row.status == folders.COMPLETED]
            self._progress.begin(sum(self._chooser.remember(row.parameters, row.value) for row in completed), completed)
            for row in before:
                if row.status != folders.COMPLETED:
                    self._chooser.ask_again(row.parameters)
            return iter(self._chooser)
        self._expected = {self._run_folder(values): values for values in self._plan()}
        missing = [values for place, values in self._expected.items() if again or not _completed(place)]
        self._progress.planned, done = len(self._expected), len(self._expected) - len(missing)
        before = ranking.rows(self.folder, self._metric.name) if missing and done else []
        self._progress.begin(done, [row for row in before if row.status == folders.COMPLETED])
        return iter(missing)

    def _work_off(self, missing: Iterator[dict[str, Any]], begun: Callable[[str], None] | None) -> None:
        """Make the runs of `missing`, until Ctrl-C."""
        from workspace.sweeps import cluster, worker  # Dask and papermill: a sweep with nothing to do is quick

        options, started = self._options, time.monotonic()
        background.cancelled_by(self._cancel, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        workers = (
            cluster.remote(options.scheduler)
            if options.scheduler
            else cluster.local(1 if self._notebook.takes_whole_machine else options.jobs or worker.how_many())
        )

        def waiting(running: int) -> None:
            nonlocal begun
            if begun:
                follow = places.command("runs")
                begun(f"under way in {self.folder}: {follow} list, {follow} stop {self.folder.name}")
                begun = None
            line.show(self._progress.line(running, stopping=self._cancel.is_set()))

        with workers as client, StatusLine() as line:
            cluster.work_off(
                client,
                self._jobs(missing),
                self._cancel,
                ahead=self._chooser is None,
                ended=self._ended,
                waiting=waiting,
            )
        for remains in (folders.Run(state.parent) for state in self.folder.glob(f".*/{folders.STATE}")):
            if remains.status == folders.LOST and _completed(self.folder / remains.name):
                shutil.rmtree(remains.folder, ignore_errors=True)  # given up with its worker, and made by another
        cli.say(f"{self._progress}, in {duration(time.monotonic() - started)}")

    def _jobs(self, missing: Iterator[dict[str, Any]]) -> Iterator["Job"]:
        from workspace.runs.execution import Job

        for values in missing:
            place = self._run_folder(values)
            self._expected[place] = values
            self._put_aside(place)
            yield Job(self._notebook, place, values, timeout_s=self._options.timeout, sweep=self.folder.name)

    def _ended(self, job: "Job", outcome: str) -> "Job | None":
        """Take note of how `job` ended; the job to make in its place, if it is to be tried again."""
        self._tries[job.folder] += 1
        cancelled = self._cancel.is_set()
        if outcome != folders.COMPLETED and not cancelled and self._tries[job.folder] <= self._options.retries:
            self._put_aside(job.folder)
            return job
        row = None
        if job.folder.exists():
            row = ranking.row(folders.Run(job.folder), self._metric.name)
        else:
            self._lost[job.folder] = outcome
        completed = outcome == folders.COMPLETED
        if completed or row or not cancelled:
            self._progress.ended(row, completed=completed)
        if self._chooser:
            self._chooser.tell(job.parameters, row.value if row else None)
        return None

    def _missing_row(self, place: Path) -> Row:
        why = self._lost.get(place, "its folder is not there")
        return Row(place.name, str(place), folders.LOST, None, self._expected[place], None, why, {}, {})

    def _put_aside(self, place: Path) -> None:
        """Make room for a run that is made again: what there was of it is kept among the replaced."""
        remains = [run.folder for run in folders.attempts(place) if run.status == folders.LOST]
        for old in [place, *remains]:
            if old.exists():
                (self.folder / REPLACED).mkdir(exist_ok=True)
                old.rename(self.folder / REPLACED / f"{place.name}-{secrets.token_hex(3)}")


def _completed(place: Path) -> bool:
    return place.exists() and folders.Run(place).status == folders.COMPLETED
