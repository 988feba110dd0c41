"""The command `runs`: what runs there are, what they say, how to end them."""

import json
import shlex
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from workspace.base import cli, places, settings
from workspace.base.cli import UserError
from workspace.base.terminal import duration
from workspace.host import locate, start
from workspace.runs import ending, folders, reading, sweep_record
from workspace.runs.sweep_record import SweepRecord


def list_runs(*, as_json: bool) -> int:
    """All runs, the latest last, and the sweeps with how far they are."""
    known = folders.everything()
    if as_json:
        runs = [_as_json(run) for run in known]
        everything = {"runs": runs, "sweeps": [_sweep_as_json(folder) for folder in sweep_record.everything()]}
        numbers = json.loads(json.dumps(everything), parse_constant=lambda _: None)  # other languages know no NaN
        cli.say(json.dumps(numbers))
        return 0
    if locate.was_in_docker() and not settings.get("WORKSPACE_DIR"):
        cli.say("The workspace was started in Docker; its runs: docker compose exec workspace runs list")
    if not known and not sweep_record.everything():
        cli.say(f"There are no runs in {folders.top()}.")
        return 0
    rows = [("RUN", "STATUS", "STARTED (UTC)", "TIME", "ACCURACY", "PARAMETERS")]
    for run in known:
        accuracy = "" if run.accuracy is None else f"{run.accuracy:.4f}"
        rows.append(
            (
                run.full_name,
                run.status,
                _minute(run.record.started),
                "" if run.record.seconds is None else duration(run.record.seconds),
                " ".join(filter(None, [accuracy, run.caveat])),
                ", ".join(f"{name} {value}" for name, value in run.record.given.items()),
            )
        )
    _say_table(rows)
    if sweeps := sweep_record.everything():
        cli.say("")
        _say_table([("SWEEP", "STATUS", "STARTED (UTC)", "RUNS"), *(_sweep_line(folder, known) for folder in sweeps)])
    return 0


def _sweep_line(folder: Path, known: list[folders.Run]) -> tuple[str, ...]:
    try:
        sweep = SweepRecord.read(folder) or SweepRecord()
    except UserError:
        return folder.name, folders.UNREADABLE, "", ""
    statuses = Counter(run.status for run in known if run.finished and run.folder.parent == folder)
    done = statuses[folders.COMPLETED]
    failed = statuses.total() - done
    at_work = sweep_record.at_work(folder)
    status = folders.RUNNING if at_work else folders.COMPLETED if done >= sweep.planned else "not finished"
    of = f" of {sweep.planned}" if sweep.planned else ""  # an older workspace did not say
    ended = f"{done}{of} done" + (f", {failed} failed" if failed else "")
    return folder.name, status, _minute(sweep.started), ": ".join(filter(None, [ended, sweep.error]))


def _as_json(run: folders.Run) -> dict[str, object]:
    about = {"name": run.full_name, "folder": str(run.folder)} | asdict(run.record) | {"status": run.status}
    return reading.plain(about | {"caveat": run.caveat, "metrics": run.metrics})


def _sweep_as_json(folder: Path) -> dict[str, object]:
    about = {"name": folder.name, "folder": str(folder), "at_work": sweep_record.at_work(folder)}
    try:
        return about | asdict(SweepRecord.read(folder) or SweepRecord())
    except UserError as error:
        return about | {"error": str(error)}


def _minute(started: str) -> str:
    return started[:19].replace("T", " ")


def _say_table(rows: list[tuple[str, ...]]) -> None:
    wide = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    for row in rows:
        cli.say("  ".join([*(text.ljust(width) for text, width in zip(row, wide, strict=False)), row[-1]]).rstrip())


def show(run: str | None) -> int:
    """All about one run, or one sweep."""
    if run and (sweep := sweep_record.find(run)):
        name, status, _, ended = _sweep_line(sweep, folders.everything())
        cli.say(f"{sweep}: {status}, {ended}\nits runs: {places.command('runs')} show {name}/RUN")
        _say_fields(_sweep_as_json(sweep))
        return 0
    found = folders.find(run)
    cli.say(f"{found.folder}: {found.status}")
    if found.caveat:
        cli.say(f"caveat: {found.caveat}")
    _say_fields(asdict(found.record) | {"metrics": found.metrics})
    return 0


def _say_fields(fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if value in (None, "", {}):
            continue
        if isinstance(value, dict):
            cli.say(f"{name}:")
            for inner, content in value.items():
                cli.say(f"  {inner}: {content}")
        elif name != "status":
            cli.say(f"{name}: {value}")


def tail(run: str | None) -> int:
    """What its notebook prints, as it goes on."""
    found = folders.find(run)
    over = found.finished
    with (found.folder / folders.LOG).open() as log:
        while True:
            print(log.read(), end="", flush=True)
            if over:
                break
            time.sleep(0.2)
            over = not folders.is_at_work(found)
    ended = folders.find(str(found.folder.with_name(found.name)))
    cli.say(f"-- {ended.status}{': ' + ended.record.error if ended.record.error else ''}")
    return 0 if ended.status == folders.COMPLETED else 1


def remove(runs: list[str], *, yes: bool) -> int:
    """Put runs, or a sweep, where they can be taken back from, if the answer is yes."""
    for name in runs:
        found, called = ending.removable(name)
        if not yes and not _agreed(f"Remove {called}? [y/N] "):
            cli.say("kept")
            continue
        ending.remove(found)
        cli.say(f"removed; this takes it back: {places.command('runs')} restore {shlex.quote(found.full_name)}")
    return 0


def restore(run: str | None) -> int:
    """Take back a run or a sweep that was removed, the latest of that name."""
    cli.say(str(ending.take_back(ending.find_removed(run))))
    return 0


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError("nobody can be asked here; --yes removes without asking", cli.BAD_INPUT)
    return input(question).strip().lower() in {"y", "yes"}


def stop(run: str | None) -> int:
    """End one run, or a sweep; what there is of it is kept."""
    cli.say(ending.stop(run))
    return 0


def open_run(run: str | None) -> int:
    """A link to its notebook in the running lab."""
    found = folders.find(run)
    if not found.finished:
        follow = places.command("runs")
        name = found.full_name
        raise UserError(f"{name} has not ended: {found.status}; {follow} tail {name} shows it")
    if not found.folder.is_relative_to(places.work()):
        raise UserError(f"{found.folder} is not in the lab's folder, {places.work()}")
    link = urlsplit(start.link())
    path = quote(str(found.notebook.relative_to(places.work())))
    cli.say(urlunsplit(link._replace(path=f"/lab/tree/{path}")))
    return 0


COMMANDS = {
    "list": list_runs,
    "show": show,
    "tail": tail,
    "stop": stop,
    "open": open_run,
    "rm": remove,
    "restore": restore,
}
