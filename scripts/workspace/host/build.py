"""Building the image, with a line that shows how far it is."""

import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from workspace.base import cli, places
from workspace.base.terminal import StatusLine


def build(command: list[str], environment: Mapping[str, str], log: Path) -> bool:
    """Run `command`, a build with BuildKit's plain output, which is kept in `log`; whether it succeeded."""
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
                line.show(f"Building, {time.monotonic() - begun:3.0f} s: {at[:80]}")
    return process.returncode == 0


def where(said: str) -> str | None:
    """Where the build is, by a line of its output: `#12 [3/9] RUN ...` begins a step, `#12 0.7 ...` is what it says."""
    if step := re.match(r"#\d+ \[.*?(\d+/\d+)\] (?:RUN )?(.*)", said):
        command = re.sub(r"--mount=\S+\s+|if .*? fi\s+&& |export .*?\s+&& |cd \S+\s+&& ", "", step[2])
        return f"{step[1]} {command}"
    output = re.match(r"#\d+ (?:\d+\.\d+ (.*)|exporting layers$)", said)
    return (output[1] or "writing the image") if output else None
