"""JSON files that somebody else wrote, a notebook or another version of the workspace: read with care."""

import json
import os
import stat
from dataclasses import fields
from pathlib import Path
from typing import Any

_MOST_BYTES = 10_000_000


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
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as content:  # no pipe blocks
        found = os.fstat(content.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        if found.st_size > _MOST_BYTES:
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
