"""What a notebook printed, as text that can be shown: notebooks print what they like, and as much of it."""

import os
import re
import stat
from pathlib import Path

LONGEST = 2_000
"""So many letters of a line are shown."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
"""Colours, cursors, titles and links: https://en.wikipedia.org/wiki/ANSI_escape_code"""
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # but for tab and newline
_MOST_BYTES = 32_000


def end(log: Path) -> str:
    """The end of a log of any size, in whole lines where there are any; empty where there is none that can be read."""
    try:
        with os.fdopen(os.open(log, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # no pipe blocks
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return ""
            begin = max(0, file.seek(0, os.SEEK_END) - _MOST_BYTES)
            file.seek(begin)
            read = file.read(_MOST_BYTES)
    except OSError:
        return ""
    return plain(read[read.find(b"\n") + 1 if begin else 0 :].decode(errors="replace"))


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines that say something."""
    return [line for line in end(log).splitlines() if line.strip()][-count:]


def plain(text: str) -> str:
    """`text` without what only a terminal understands; of a line that was written over, what stood there last."""
    lines = _ESCAPES.sub("", text).replace("\r\n", "\n").split("\n")
    shown = (_UNSEEN.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in lines)
    return "\n".join(line if len(line) <= LONGEST else f"{line[:LONGEST]} …" for line in shown)
