"""Other programs: asked, waited for, followed while they work, and understood where they fail."""

import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from workspace.base import cli, places
from workspace.base.terminal import StatusLine

Value = TypeVar("Value")


NOT_THERE = 127
"""What `ask` returns for a program that this machine has not, as a shell does."""


def ask(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
    """Run a program and return what it said, as text, and how it ended; `options` are those of subprocess.run.

    One that is not there says nothing and fails with NOT_THERE, unless `check` is asked for.
    """
    try:
        return subprocess.run(command, **{"capture_output": True, "text": True, "check": False} | options)
    except (FileNotFoundError, PermissionError):  # the latter where the PATH has a folder that is closed to this user
        if options.get("check"):
            raise
        return subprocess.CompletedProcess(command, NOT_THERE, "", "")


def wait_until(condition: Callable[[], Value], timeout_s: float, *, every_s: float = 0.1) -> Value:
    """Ask `condition` every `every_s` seconds until it is true, for `timeout_s` at most; what it said last."""
    give_up = time.monotonic() + timeout_s
    while not (said := condition()) and time.monotonic() <= give_up:
        time.sleep(every_s)
    return said


def last_words(said: str) -> str:
    """Why a program failed that `said` this: the refusal of a command of ours if there is one, else the last line."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", said)  # Compose erases lines even where there is no terminal
    lines = [line.strip() for line in plain.splitlines() if line.strip()] or ["it gave no reason"]
    refusals = [line for line in lines if line.startswith(("serve:", "workspace: refusing"))]
    return re.sub(r"^(serve|\w+\.py): ", "", (refusals or lines)[-1])


def follow(
    command: list[str | Path], environment: Mapping[str, str], log: Path, doing: str, where: Callable[[str], str | None]
) -> bool:
    """Run `command`, keep what it says in `log` and show `where` it is by each line of that; whether it succeeded."""
    log.parent.mkdir(exist_ok=True, mode=0o700)
    begun = time.monotonic()
    with (
        log.open("w") as file,
        StatusLine() as line,
        subprocess.Popen(
            command,
            cwd=places.REPOSITORY,
            env=environment,
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        for said in process.stdout or ():
            file.write(said)
            if note := re.match(r"#\d+ \d+\.\d+ workspace: (.*)", said):
                line.clear()
                cli.say(note[1])
            elif at := where(said):
                line.show(f"{doing}, {time.monotonic() - begun:3.0f} s: {at[:80]}")
    return process.returncode == 0
