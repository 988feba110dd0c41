"""The command `runs`: what runs there are, what they say, how to end them."""

import os
import signal
import socket
import time
from dataclasses import asdict
from urllib.parse import quote, urlsplit, urlunsplit

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.terminal import duration
from workspace.base.waiting import wait_until
from workspace.host import start
from workspace.runs import folders

_ENDS_WITHIN_S = 30


def list_runs() -> int:
    """All runs, the latest last."""
    rows = [("RUN", "STATUS", "STARTED (UTC)", "TIME", "ACCURACY", "PARAMETERS")]
    for run in folders.everything():
        accuracy = "" if run.accuracy is None else f"{run.accuracy:.4f}"
        rows.append(
            (
                run.name,
                run.status,
                run.record.started[:19].replace("T", " "),
                "" if run.record.seconds is None else duration(run.record.seconds),
                " ".join(filter(None, [accuracy, run.caveat])),
                ", ".join(f"{name} {value}" for name, value in run.record.given.items()),
            )
        )
    wide = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cli.say("  ".join([*(text.ljust(width) for text, width in zip(row, wide, strict=False)), row[-1]]).rstrip())
    return 0


def show(run: str | None) -> int:
    """All about one run."""
    found = folders.find(run)
    cli.say(f"{found.folder}: {found.status}")
    if found.caveat:
        cli.say(f"caveat: {found.caveat}")
    for name, value in (asdict(found.record) | {"metrics": found.metrics}).items():
        if value in (None, "", {}):
            continue
        if isinstance(value, dict):
            cli.say(f"{name}:")
            for inner, content in value.items():
                cli.say(f"  {inner}: {content}")
        elif name != "status":
            cli.say(f"{name}: {value}")
    return 0


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


def stop(run: str | None) -> int:
    """End one run; what there is of it is kept."""
    found = folders.find(run)
    if found.status != folders.RUNNING:
        raise UserError(f"{found.name} is not running: {found.status}", cli.BAD_INPUT)
    if found.record.host != socket.gethostname():
        raise UserError(f"{found.name} runs on {found.record.host}; stop it there")
    if found.record.sweep:
        raise UserError(f"{found.name} belongs to a sweep; Ctrl-C at the sweep stops it")
    if not found.record.pid:
        raise UserError(f"{found.name}: {found.record.error}")
    os.kill(found.record.pid, signal.SIGTERM)
    if not wait_until(lambda: not _works(found), _ENDS_WITHIN_S):
        raise UserError(f"{found.name} does not end; `kill -9 {found.record.pid}` ends it at once")
    cli.say(f"stopped; what there is of it is in {found.folder.with_name(found.name)}")
    return 0


def open_run(run: str | None) -> int:
    """A link to its notebook in the running lab."""
    found = folders.find(run)
    if not found.finished:
        follow = places.command("runs")
        raise UserError(f"{found.name} has not ended: {found.status}; {follow} tail {found.name} shows it")
    if not found.folder.is_relative_to(places.work()):
        raise UserError(f"{found.folder} is not in the lab's folder, {places.work()}")
    link = urlsplit(start.link())
    path = quote(str(found.notebook.relative_to(places.work())))
    cli.say(urlunsplit(link._replace(path=f"/lab/tree/{path}")))
    return 0


def _works(run: folders.Run) -> bool:
    return folders.Run(run.folder).status == folders.RUNNING


COMMANDS = {"list": list_runs, "show": show, "tail": tail, "stop": stop, "open": open_run}
