"""The command `runs`: what runs there are, what they say, how to end them."""

import json
import os
import shlex
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from workspace.base import cli, places, settings
from workspace.base.cli import UserError
from workspace.base.terminal import duration
from workspace.base.waiting import wait_until
from workspace.host import locate, start
from workspace.runs import folders, json_files, sweep_record
from workspace.runs.sweep_record import SweepRecord

_ENDS_WITHIN_S = 30


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
        cli.say(f"There are no runs in {places.work() / 'runs'}.")
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
    return json_files.plain(about | {"caveat": run.caveat, "metrics": run.metrics})


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
            over = not _works(found)
    ended = folders.find(str(found.folder.with_name(found.name)))
    cli.say(f"-- {ended.status}{': ' + ended.record.error if ended.record.error else ''}")
    return 0 if ended.status == folders.COMPLETED else 1


def remove(runs: list[str], *, yes: bool) -> int:
    """Put runs, or a sweep, where they can be taken back from, if the answer is yes."""
    for name in runs:
        sweep = sweep_record.find(name)
        found = folders.Run(sweep) if sweep else folders.find(name)
        if sweep_record.at_work(sweep) if sweep else found.status == folders.RUNNING:
            raise UserError(f"{name} is running; {places.command('runs')} stop {name} ends it", cli.BAD_INPUT)
        called = f"the sweep {found.name} with all its runs" if sweep else f"{found.full_name} ({found.status})"
        if not yes and not _agreed(f"Remove {called}? [y/N] "):
            cli.say("kept")
            continue
        place = folders.remove(found)
        cli.say(f"removed; this takes it back: mv {shlex.quote(str(place))} {shlex.quote(str(found.folder))}")
    return 0


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError("nobody can be asked here; --yes removes without asking", cli.BAD_INPUT)
    return input(question).strip().lower() in {"y", "yes"}


def stop(run: str | None) -> int:
    """End one run, or a sweep; what there is of it is kept."""
    if run and (sweep := sweep_record.find(run)):
        return _stop_sweep(sweep)
    found = folders.find(run)
    if found.status != folders.RUNNING:
        raise UserError(f"{found.full_name} is not running: {found.status}", cli.BAD_INPUT)
    if found.record.sweep:
        raise UserError(
            f"{found.full_name} belongs to a sweep; {places.command('runs')} stop {found.record.sweep} stops that"
        )
    _end(found.full_name, found.record.host, found.record.pid, lambda: not _works(found))
    cli.say(f"stopped; what there is of it is in {found.folder.with_name(found.name)}")
    return 0


def _stop_sweep(folder: Path) -> int:
    sweep = SweepRecord.read(folder)
    if not sweep or not sweep_record.at_work(folder):
        raise UserError(f"the sweep {folder.name} is not at work", cli.BAD_INPUT)
    _end(folder.name, sweep.host, sweep.pid, lambda: not sweep_record.at_work(folder))
    cli.say(f"stopped; what is done is kept in {folder}, and the same command goes on from there")
    return 0


def _end(name: str, host: str, pid: int | None, ended: Callable[[], bool]) -> None:
    if host != socket.gethostname():
        raise UserError(f"{name} runs on {host or 'another machine'}; stop it there")
    if not pid:
        raise UserError(f"{name} does not say which process makes it")
    os.kill(pid, signal.SIGTERM)
    if not wait_until(ended, _ENDS_WITHIN_S):
        raise UserError(f"{name} does not end; `kill -9 {pid}` ends it at once")


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


def _works(run: folders.Run) -> bool:
    return folders.Run(run.folder).status == folders.RUNNING


COMMANDS = {"list": list_runs, "show": show, "tail": tail, "stop": stop, "open": open_run, "rm": remove}
