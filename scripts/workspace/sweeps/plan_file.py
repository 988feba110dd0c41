"""A sweep as a file, in the words of the command's options; a sweep's folder keeps the one that would make it again.

notebook: lesson.ipynb              where that is from the file
parameters:
  learning_rate: log:0.001:0.1:4    what -p takes
  width: [8, 16]
  epochs: 1
metric: loss                        and method, count, seed, jobs, scheduler, mode, retries, timeout
"""

import difflib
from pathlib import Path
from typing import Any

import yaml

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.runs import json_files, notebook_parameters
from workspace.sweeps.axes import Axis

NAME = "plan.yml"
"""What it is called in a sweep's folder."""

_SETTINGS: dict[str, type | tuple[type, ...]] = {
    "method": str,
    "count": int,
    "seed": int,
    "jobs": int,
    "scheduler": str,
    "metric": str,
    "mode": str,
    "retries": int,
    "timeout": (int, float),
}
_CHOICES = {"method": ("grid", "random", "tpe"), "mode": ("max", "min")}
_KNOWN = ("notebook", "parameters", *_SETTINGS)


def is_one(file: Path) -> bool:
    """Whether the command is given a plan in place of a notebook."""
    return file.suffix in {".yml", ".yaml"}


def read(file: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The notebook, the parameters and the other settings of a plan. Raises UserError for the first that is wrong."""
    settings = notebook_parameters.read_file(file)
    for name, value in settings.items():
        if name not in _KNOWN:
            near = difflib.get_close_matches(name, _KNOWN, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"it may have {', '.join(_KNOWN)}"
            raise UserError(f"{file} has {name!r}, which no plan has; {hint}", cli.BAD_INPUT)
        kind = {"notebook": str, "parameters": dict, **_SETTINGS}[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{file}: {name} is {value!r}", cli.BAD_INPUT)
        if value not in (allowed := _CHOICES.get(name, (value,))):
            raise UserError(f"{file}: {name} is {value!r}; there are {', '.join(allowed)}", cli.BAD_INPUT)
    if "notebook" not in settings:
        raise UserError(f"{file} names no notebook: `notebook: NAME.ipynb`", cli.BAD_INPUT)
    return file.parent / settings.pop("notebook"), settings.pop("parameters", {}), settings


def write(folder: Path, notebook: str, axes: list[Axis], settings: dict[str, Any]) -> None:
    """Keep the plan in a sweep's folder; of the `settings`, those that are given."""
    known = {name: settings[name] for name in _SETTINGS if settings.get(name)}
    content = {"notebook": notebook, "parameters": {axis.name: _written(axis) for axis in axes}} | known
    with replacing(folder / NAME) as new:
        new.write_text(yaml.safe_dump(json_files.plain(content), sort_keys=False, allow_unicode=True))


def _written(axis: Axis) -> object:
    if axis.range:
        return f"{'log:' if axis.range.log else ''}{axis.range.low!r}:{axis.range.high!r}"
    return list(axis.values)
