"""The command `sweep`: plan the runs, make those that are missing, rank them all, report.

There is no state but the folder: sweep.json says what it is about, and each completed run has a folder of its own.
"""

import contextlib
import fcntl
import itertools
import json
import math
import secrets
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.base.terminal import StatusLine, duration
from workspace.runs import folders, notebook_parameters
from workspace.sweeps import axes as axes_
from workspace.sweeps import report, tpe
from workspace.sweeps.axes import Axis

if TYPE_CHECKING:
    from workspace.runs.execution import Job

ABOUT = "sweep.json"
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


@dataclass
class _Tally:
    """How far the sweep is."""

    planned: int
    ended: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    tries: Counter[Path] = field(default_factory=Counter)
    best: report.Row | None = None
    varied: tuple[str, ...] = ()


def main(notebook: Path, given: list[str], file: Path | None, options: Options) -> int:
    """Make the sweep and return the exit code. Raises UserError for bad input, and where nobody is left to work."""
    known = notebook_parameters.of_notebook(notebook)
    axes = axes_.read(notebook, known, given, notebook_parameters.read_file(file) if file else {})
    _check(axes, options)
    folder = (options.output or _default_folder(notebook, axes, options)).absolute()
    if ".." in folder.parts:
        raise UserError(f"{folder}: write the output folder without `..`, absolute if need be", cli.BAD_INPUT)
    if options.report_only:
        if not (folder / ABOUT).exists():
            raise UserError(f"{folder} is not the folder of a sweep", cli.BAD_INPUT)
        return _report(folder, options)
    folders.require_writable(folder)
    if options.dry_run:
        return _tell_plan(folder, axes, options)
    with _claimed(folder):
        _require_same_notebook(folder, notebook, options)
        return _make(folder, notebook.absolute(), axes, options)


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


def _default_folder(notebook: Path, axes: list[Axis], options: Options) -> Path:
    """The same for the same command, so that it resumes."""
    about = {"notebook": notebook.stem, "axes": repr(axes), "method": options.method}
    return places.work() / "runs" / f"{notebook.stem}-sweep-{axes_.identity(about)}"


def _plan(axes: list[Axis], options: Options) -> Iterable[dict[str, Any]]:
    return axes_.grid(axes) if options.method == "grid" else axes_.draws(axes, options.count or 0)


def _run_folder(folder: Path, axes: list[Axis], values: dict[str, Any]) -> Path:
    return folder / axes_.run_name(values, _varied(axes))


def _varied(axes: list[Axis]) -> list[str]:
    return [axis.name for axis in axes if axis.range or len(axis.values) > 1]


def _tell_plan(folder: Path, axes: list[Axis], options: Options) -> int:
    if options.method == "tpe":
        cli.say(f"{options.count} runs, chosen by their results as they come, in {folder}")
        return 0
    done = total = 0
    for values in _plan(axes, options):
        total += 1
        completed = _completed(_run_folder(folder, axes, values))
        done += completed
        if total <= 20:
            shown = ", ".join(f"{name} {value}" for name, value in values.items())
            cli.say(f"{'done   ' if completed else 'to make'}  {shown}")
    if total > 20:
        cli.say(f"... and {total - 20:,} more")
    cli.say(f"{total:,} runs, {done:,} of them done, in {folder}")
    return 0


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Keep other sweeps out of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another sweep is at work in {folder}", cli.BAD_INPUT) from error
        yield


def _require_same_notebook(folder: Path, notebook: Path, options: Options) -> None:
    """Refuse to put runs of two different notebooks side by side, unless all are made again."""
    about_file = folder / ABOUT
    digest = folders.digest(notebook.read_bytes())
    about = {"notebook": str(notebook.absolute()), "notebook_digest": digest}
    about |= {"metric": options.metric, "mode": options.mode, "method": options.method}
    if about_file.exists():
        before = json.loads(about_file.read_text())
        if before["notebook_digest"] != digest and options.rerun != "all":
            raise UserError(
                f"{notebook} has changed since this sweep began, and results of two notebooks do not compare: name "
                "another folder with -o, or make all runs again with --rerun all",
                cli.BAD_INPUT,
            )
    elif any(folder.glob(f"*/{folders.RECORD}")):
        raise UserError(f"{folder} holds runs that are of no sweep; choose another -o", cli.BAD_INPUT)
    with replacing(about_file) as new:
        new.write_text(json.dumps(about, indent=2))


def _make(folder: Path, notebook: Path, axes: list[Axis], options: Options) -> int:
    """Make the runs that are missing; then rank and report. The exit code."""
    tally = _Tally(options.count or axes_.size(axes), varied=tuple(_varied(axes)))
    chooser = None
    if options.method == "tpe":
        rows = [] if options.rerun == "all" else report.rows(folder, options.metric, options.mode)
        told = [(row.given, row.value) for row in rows if row.value is not None and not math.isnan(row.value)]
        chooser = tpe.Chooser(axes, options.count or 0, options.mode, told)
        tally.ended[folders.COMPLETED] = len(told)
        plan: Iterable[dict[str, Any]] = chooser
    else:
        plan = list(_plan(axes, options))
        tally.planned = len(plan)
    todo = (
        values for values in plan if options.rerun == "all" or chooser or not _count_done(tally, folder, axes, values)
    )
    first = next(todo, None)
    if first is None:
        if (folder / report.REPORT).exists() and not tally.ended[folders.FAILED]:
            cli.say(f"all {tally.planned:,} runs are done\n{folder / report.REPORT}")
            return 0
        return _report(folder, options)
    code = _work_off(folder, notebook, axes, options, tally, itertools.chain([first], todo), chooser)
    return code or _report(folder, options)


def _work_off(
    folder: Path,
    notebook: Path,
    axes: list[Axis],
    options: Options,
    tally: _Tally,
    todo: Iterator[dict[str, Any]],
    chooser: tpe.Chooser | None,
) -> int:
    """Make the runs of `todo`; 0, or 130 after Ctrl-C, when all that is done has been kept and reported."""
    from workspace.runs import execution  # they import Dask and papermill: a sweep with nothing to do is quick
    from workspace.sweeps import cluster  # they import Dask and papermill: a sweep with nothing to do is quick

    cancel = threading.Event()
    begun = time.monotonic()
    slots = options.jobs or cluster.default_jobs()

    def jobs() -> Iterator["Job"]:
        for values in todo:
            place = _run_folder(folder, axes, values)
            _put_aside(folder, place)
            yield execution.Job(notebook, place, values, timeout_s=options.timeout, sweep=folder.name)

    def ended(job: "Job", outcome: str) -> "Job | None":
        row = report.row(folders.Run(job.folder), options.metric) if job.folder.exists() else None
        tally.tries[job.folder] += 1
        if outcome != folders.COMPLETED and not cancel.is_set() and tally.tries[job.folder] <= options.retries:
            _put_aside(folder, job.folder)
            return job
        tally.ended[outcome if outcome == folders.COMPLETED else folders.FAILED] += not cancel.is_set() or bool(row)
        if row and row.seconds:
            tally.seconds.append(row.seconds)
        tally.best = report.better(tally.best, row, options.mode)
        if chooser:
            chooser.tell(job.parameters, row.value if row else None)
        return None

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: cancel.set())
    with (
        cluster.remote(options.scheduler, folder) if options.scheduler else cluster.local(slots) as client,
        StatusLine() as line,
    ):
        cluster.work_off(
            client,
            jobs(),
            cancel,
            ahead=chooser is None,
            ended=ended,
            waiting=lambda running: line.show(_status(tally, running, options, stopping=cancel.is_set())),
        )
    for remains in (folders.Run(state.parent) for state in folder.glob(f".*/{folders.STATE}")):
        if remains.status == folders.LOST and _completed(folder / remains.name):
            shutil.rmtree(remains.folder, ignore_errors=True)  # given up with its worker, and made by another
    cli.say(f"{_summary(tally)}, in {duration(time.monotonic() - begun)}")
    if cancel.is_set():
        _report(folder, options)
        cli.say("stopped; the same command goes on from here")
        return 130
    return 0


def _status(tally: _Tally, running: int, options: Options, *, stopping: bool) -> str:
    """One line: done, running, failed, the best so far, time left."""
    words = [_summary(tally), f"{running} running"]
    if tally.best:
        values = ", ".join(f"{name} {tally.best.given.get(name)}" for name in tally.varied)
        words.append(f"best {options.metric} {tally.best.value:.4g} ({values})")
    left = tally.planned - tally.ended.total()
    if tally.seconds and running and not stopping:
        words.append(f"about {duration(sum(tally.seconds) / len(tally.seconds) * left / running)} left")
    return " · ".join(["stopping", *words] if stopping else words)


def _summary(tally: _Tally) -> str:
    failed = tally.ended[folders.FAILED]
    return f"{tally.ended[folders.COMPLETED]:,} of {tally.planned:,} done" + (f", {failed:,} failed" if failed else "")


def _report(folder: Path, options: Options) -> int:
    """Rank and report what there is: 0, or 1 where runs failed or none wrote the metric."""
    rows = report.rows(folder, options.metric, options.mode)
    if not rows:
        cli.say("no run has ended, so there is nothing to report")
        return 1
    report.write_leaderboard(folder, rows, options.metric)
    cli.say(str(report.write(folder, rows, options.metric, options.mode, title=folder.name)))
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
        raise UserError(f"no run wrote the metric {options.metric!r}: {hint}; then --report-only with --metric")
    if failed:
        raise UserError(f"{len(failed)} of {len(rows)} runs failed, the first with: {failed[0].error}")
    return 0


def _completed(place: Path) -> bool:
    return place.exists() and folders.Run(place).status == folders.COMPLETED


def _put_aside(folder: Path, place: Path) -> None:
    """Make room for a run that is made again: what there was of it is kept among the replaced."""
    remains = [run.folder for run in folders.attempts(place) if run.status == folders.LOST]
    for old in [place, *remains]:
        if old.exists():
            (folder / REPLACED).mkdir(exist_ok=True)
            old.rename(folder / REPLACED / f"{place.name}-{secrets.token_hex(3)}")


def _count_done(tally: _Tally, folder: Path, axes: list[Axis], values: dict[str, Any]) -> bool:
    done = _completed(_run_folder(folder, axes, values))
    tally.ended[folders.COMPLETED] += done
    return done
