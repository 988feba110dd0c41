"""A line that shows how far a program is that takes long, such as a build."""

import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from workspace.base import cli, places
from workspace.base.terminal import StatusLine


def run(
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


def build_step(said: str) -> str | None:
    """Where a build is: BuildKit begins a step with `#12 [3/9] RUN ...`, and goes on with `#12 0.7 what it says`."""
    if step := re.match(r"#\d+ \[.*?(\d+/\d+)\] (?:RUN )?(.*)", said):
        command = re.sub(r"--mount=\S+\s+|if .*? fi\s+&& |export .*?\s+&& |cd \S+\s+&& ", "", step[2])
        return f"{step[1]} {command}"
    output = re.match(r"#\d+ (?:\d+\.\d+ (.*)|exporting layers$)", said)
    return (output[1] or "writing the image") if output else None
