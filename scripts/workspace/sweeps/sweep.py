"""The command `sweep`: make the runs of a plan that are missing, rank them all, report.

There is no state but the folder: sweep.json says what it is about, beside it stands the notebook as it was when the
sweep began, and each completed run has a folder of its own.
"""

import contextlib
import hashlib
import importlib.util
import itertools
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.runs import background, folders, notebook_parameters, sweep_record, warm
from workspace.runs.notebook import Notebook
from workspace.runs.sweep_record import RECORD, SweepRecord, claimed
from workspace.sweeps import plans, ranking, report
from workspace.sweeps.plans import Axis, Options, Plan
from workspace.sweeps.ranking import Metric, Row

_MANY = 10_000

_METRICS_NEEDED = (
    f"the notebook must write {folders.METRICS} into the folder that its parameter "
    f'`{notebook_parameters.OUTPUT_FOLDER}: str = "."` names'
)


def main(
    asked: Path | None, assignments: list[str], file: Path | None, again: Path | None, given: dict[str, Any]
) -> int:
    """Make the sweep and return the exit code. Raises UserError for bad input, and where nobody is left to work.

    `asked` is a notebook, or a plan; `again`, the folder of a sweep to repeat. What is `given` goes before a plan.
    """
    if (asked is None) == (again is None):
        raise UserError("say what to run: a notebook, a plan, or --again with the folder of a sweep", cli.BAD_INPUT)
    planned: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    if again:
        source, planned, settings = _again(again)
    elif plans.is_plan(asked):
        place, planned, settings = plans.read(asked)
        source = Notebook.read(place)
        if (asked.parent / RECORD).exists() and asked.name == plans.FILE:  # it goes on with that sweep
            settings["output"] = asked.absolute().parent
    else:
        source = Notebook.read(asked)
    options = Options(**settings | {name: value for name, value in given.items() if value is not None})
    axes = plans.axes_of(source, assignments, planned | (notebook_parameters.read_file(file) if file else {}))
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


def _again(folder: Path) -> tuple[Notebook, dict[str, Any], dict[str, Any]]:
    """The notebook as the sweep in `folder` froze it, its parameters and settings. Raises UserError for another one."""
    found = sweep_record.find(str(folder))
    record = SweepRecord.read(found) if found else None
    if not found or not record:
        raise UserError(f"{folder} is not the folder of a sweep", cli.BAD_INPUT)
    if not (found / plans.FILE).exists():
        raise UserError(f"{folder} keeps no plan: an older workspace made it", cli.BAD_INPUT)
    copy, planned, settings = plans.read(found / plans.FILE)
    settings["output"] = next(place for place in folders.beside(found) if not place.exists())
    return replace(Notebook.read(copy), path=Path(record.notebook)), planned, settings


def _check(axes: list[Axis], options: Options) -> None:
    if not axes:
        raise UserError("say what to vary: -p NAME=V1,V2,...", cli.BAD_INPUT)
    for name, value in {"-n": options.count, "-j": options.jobs, "--timeout": options.timeout}.items():
        if value is not None and value <= 0:
            raise UserError(f"{name} {value:g}: a number above 0, please", cli.BAD_INPUT)
    if options.method == "tpe" and importlib.util.find_spec("optuna") is None:
        raise UserError(
            "--method tpe needs Optuna, an extra: `.venv/bin/uv pip install --python .venv optuna`; for the image "
            "add the line `optuna` to docker/requirements.in and run scripts/lock",
            cli.BAD_INPUT,
        )
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
    many = options.count or plans.size(axes)
    if many > _MANY and not options.yes:
        raise UserError(f"these are {many:,} runs; add --yes if you mean it", cli.BAD_INPUT)


class Sweep:
    """The runs of `notebook` over `axes`, in one folder."""

    def __init__(self, notebook: Notebook, axes: list[Axis], options: Options) -> None:
        self._notebook, self._axes, self._options = notebook, axes, options
        self._metric = Metric.asked(options.metric, options.mode)
        self.folder = (options.output or self._default_folder()).absolute()
        self._record: SweepRecord | None = None

    def _default_folder(self) -> Path:
        """The same for the same command, so that it resumes."""
        name = self._notebook.path.stem
        about = {"notebook": name, "axes": repr(self._axes), "method": self._options.method}
        if self._options.seed:
            about["seed"] = str(self._options.seed)
        return folders.top() / f"{name}-sweep-{plans.identity(about)}"

    def _plan(self) -> Plan:
        """Its plan. Raises UserError for axes that the method cannot take."""
        count, seed = self._options.count or 0, self._options.seed
        match self._options.method:
            case "grid":
                return Plan(self._axes, plans.grid(self._axes))
            case "random":
                return Plan(self._axes, plans.draws(self._axes, count, seed))
        from workspace.sweeps import tpe  # Optuna, an extra

        return tpe.Chosen(self._axes, count, self._metric, seed)

    def tell_plan(self) -> int:
        """Say which runs there would be, and which are there."""
        plan = self._plan()
        if not plan.known_ahead:
            cli.say(f"{plan.total} runs, chosen by their results as they come, in {self.folder}")
            return 0
        done = {name for name in plan.runs if folders.is_completed(self.folder / name)}
        for name, values in itertools.islice(plan.runs.items(), 20):
            shown = ", ".join(f"{parameter} {value}" for parameter, value in values.items())
            cli.say(f"{'done   ' if name in done else 'to make'}  {shown}")
        if plan.total > 20:
            cli.say(f"... and {plan.total - 20:,} more")
        cli.say(f"{plan.total:,} runs, {len(done):,} of them done, in {self.folder}")
        return 0

    def make(self, begun: Callable[[str], None] | None = None) -> int:
        """Make the runs that are missing; then rank and report. The exit code: 130 after Ctrl-C.

        `begun` is told how to follow it, once it is under way. Raises UserError, and OSError where the disk is full.
        """
        with claimed(self.folder):
            try:
                return self._make(self._plan(), begun)
            except (UserError, OSError) as error:
                self._keep(error)
                raise

    def _make(self, plan: Plan, begun: Callable[[str], None] | None) -> int:
        before = self._read_record()
        if before and not self._notebook.had(before.notebook_digest):  # then all are made again
            for run in ranking.rows(self.folder):
                folders.put_aside(Path(run.folder))
        again = self._options.rerun == "all"
        is_done = plan.known_ahead and not again and all(folders.is_completed(self.folder / name) for name in plan.runs)
        there = [] if again or is_done else ranking.rows(self.folder)  # these read far more
        done = sum(map(plan.remember, there))
        missing = iter(()) if is_done else plan.missing()
        first = next(missing, None)
        self._freeze(plan, before)
        if first is None:
            page = self.folder / report.REPORT
            (begun or cli.say)(f"all {plan.total:,} runs are done\n{page}")
            ranked_so = before and (before.metric, before.mode) == (self._metric.name, self._metric.mode)
            return 0 if ranked_so and page.exists() else self.report(plan)
        warm.prepare(self._notebook.kernel)
        with cli.importing():
            from workspace.sweeps.execution import Execution, Progress  # papermill: a sweep with nothing to do is quick

        completed = [row for row in there if row.status == folders.COMPLETED]
        progress = Progress(self._metric, plan.varied, plan.total, done, completed)
        execution = Execution(self._notebook, self.folder, plan, self._metric, self._options, progress)
        execution.work_off(itertools.chain([first], missing), begun)
        self._tell_if_source_moved_on()
        if not execution.cancelled:
            return self.report(plan, execution.lost)
        try:
            self.report()
        except UserError as error:  # runs that failed before
            cli.say(str(error))
        cli.say("stopped; the same command goes on from here")
        return 130

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

    def _freeze(self, plan: Plan, before: SweepRecord | None) -> None:
        """Keep the notebook as it is now beside the runs that are made of it, and say what the sweep is about."""
        copy, source = self.folder / self._notebook.name, self._notebook.path
        if source == copy and before:  # it goes on with its copy: modules and files are found where they were
            source = Path(before.notebook)
            self._notebook = replace(self._notebook, path=source)
        with replacing(copy) as new:
            new.write_text(self._notebook.text, encoding="utf-8")
        plans.write(self.folder, copy.name, self._axes, asdict(self._options))
        self._record = SweepRecord(
            notebook=str(source),
            notebook_digest=self._notebook.digest,
            modules=before.modules if before and self._options.rerun != "all" else _modules(source.parent),
            metric=self._metric.name,
            mode=self._metric.mode,
            method=self._options.method,
            seed=self._options.seed,
            planned=plan.total,
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
        now = _modules(self._notebook.path.parent)
        if changed := [name for name, digest in self._record.modules.items() if now.get(name) != digest]:
            cli.say(f"changed since this sweep began: {', '.join(changed)}; runs that import it may not compare")

    def report(self, plan: Plan | None = None, lost: dict[str, str] | None = None) -> int:
        """Rank and report what there is, and what of the `plan` is missing; `lost` says why, by the runs' names.

        The exit code: 0, or 1 where there is nothing. Raises UserError where runs failed.
        """
        rows = ranking.rows(self.folder)
        found = {row.name for row in rows}
        for name, values in plan.runs.items() if plan else ():
            if name not in found:
                why = (lost or {}).get(name, "its folder is not there")
                rows.append(Row(name, str(self.folder / name), folders.LOST, values, None, why, {}, {}))
        if not rows:
            cli.say("no run has ended, so there is nothing to report")
            return 1
        entries = ranking.entries(rows, self._metric)
        ranking.write_leaderboard(self.folder, entries, self._metric)
        page = report.write(self.folder, entries, self._metric, title=self.folder.name)
        report.say(entries, self._metric, page)
        failed = [row for row in rows if row.status != folders.COMPLETED]
        if all(row.value(self._metric.name) is None for row in rows) and len(failed) < len(rows):
            offered = sorted({name for row in rows for name in row.numbers})
            hint = f"they wrote {', '.join(offered[:8])}" if offered else _METRICS_NEEDED
            raise UserError(f"no run wrote the metric {self._metric.name!r}: {hint}; then --report-only with --metric")
        if failed:
            raise UserError(f"{len(failed)} of {len(rows)} runs failed, the first with: {failed[0].error}")
        return 0


def _modules(folder: Path) -> dict[str, str]:
    """The Python files that a notebook in `folder` may import, with what tells each from its other versions."""
    files = (file for file in sorted(folder.glob("*.py")) if file.is_file() and os.access(file, os.R_OK))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files}
