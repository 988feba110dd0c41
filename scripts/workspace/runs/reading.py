"""Files that somebody else wrote, a notebook or another version of the workspace: read with care."""

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

_MOST_BYTES = 10_000_000
_MOST_OF_A_LOG = 32_000
LONGEST = 2_000
"""So many letters of a line are shown."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
"""Colours, cursors, titles and links: https://en.wikipedia.org/wiki/ANSI_escape_code"""
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # but for tab and newline


@contextlib.contextmanager
def _regular(file: Path) -> Iterator[BinaryIO]:
    """The file, opened to be read. Raises OSError or ValueError where it is none, or a pipe, which would block."""
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise ValueError("it is no regular file")
        yield opened


def read_fields(defaults: Any, file: Path) -> dict[str, Any]:  # noqa: ANN401  (a dataclass)
    """What a JSON file holds of the fields of the dataclass `defaults`, `schema` among them.

    Raises ValueError where it is damaged, where a field has another type than there, or the schema is newer.
    """
    try:
        content = {"schema": 1} | _read(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    known = {item.name: content[item.name] for item in fields(defaults) if item.name in content}
    for name, value in known.items():
        expected = getattr(defaults, name)
        if expected is not None and not isinstance(value, type(expected)):
            raise ValueError(f"{file} is damaged: {name} is {value!r}")
    if known["schema"] > defaults.schema:
        raise ValueError(
            f"{file} is of a newer workspace (schema {known['schema']}; this one reads {defaults.schema}): "
            "update the workspace"
        )
    return known


def _read(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises OSError or ValueError where there is none.

    Notebooks write what they like: only a regular file of a modest size is read.
    """
    with _regular(file) as content:
        if os.fstat(content.fileno()).st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES // 1_000_000} MB")
        try:
            held = json.loads(content.read(_MOST_BYTES))
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
    if not isinstance(held, dict):
        raise ValueError("it holds no object")
    return held


def plain(value: object) -> object:
    """A value as JSON can hold it: a tuple or a set as a list, and what it has no form for as Python writes it."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | None) else repr(value)


def read_or_complain(file: Path) -> tuple[dict[str, Any], str]:
    """The object in a JSON file, or an empty one and what is wrong; that there is no such file is not wrong."""
    try:
        return _read(file), ""
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError) as error:
        return {}, f"{file.name} cannot be read: {error}"


def end_of_log(log: Path) -> str:
    """The end of a log of any size, in whole lines where there are any; empty where there is none that can be read."""
    try:
        with _regular(log) as file:
            begin = max(0, file.seek(0, os.SEEK_END) - _MOST_OF_A_LOG)
            file.seek(begin)
            read = file.read(_MOST_OF_A_LOG)
    except (OSError, ValueError):
        return ""
    return shown(read[read.find(b"\n") + 1 if begin else 0 :].decode(errors="replace"))


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines that say something."""
    return [line for line in end_of_log(log).splitlines() if line.strip()][-count:]


def shown(text: str) -> str:
    """`text` without what only a terminal understands; of a line that was written over, what stood there last."""
    lines = _ESCAPES.sub("", text).replace("\r\n", "\n").split("\n")
    shown = (_UNSEEN.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in lines)
    return "\n".join(line if len(line) <= LONGEST else f"{line[:LONGEST]} …" for line in shown)
