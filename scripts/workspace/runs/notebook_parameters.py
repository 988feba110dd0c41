"""Values for a notebook's parameters, from the command line or a file, checked before anything starts.

How a parameters cell states names, types and limits is read in one place, lesson/parameters.py, which the lesson uses
as well.
"""

import ast
import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from lesson import parameters
from lesson.parameters import Parameter

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.runs.notebook import Notebook

OUTPUT_FOLDER = "output_folder"
"""The parameter that a run sets itself: its own folder, where the notebook writes metrics.json and its files."""

_SIMPLE = {"int", "float", "str", "bool"}
_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def typed(notebook: Notebook, pairs: Iterable[tuple[str, object]]) -> dict[str, Any]:
    """Names and values as the notebook wants them, each value of its parameter's type.

    Raises UserError for the first that is unknown, named twice, of another type or outside its limits.
    """
    known = notebook.parameters
    values: dict[str, Any] = {}
    for name, value in pairs:
        if not known:
            raise UserError(
                f"{notebook.name} has no parameters: no cell of it is tagged `parameters`. In the lab: select the "
                "cell, Property Inspector (the gears at the right), Cell Tags, add `parameters`",
                cli.BAD_INPUT,
            )
        if name == OUTPUT_FOLDER:
            raise UserError(f"{name} is set by the run; say where results go with -o", cli.BAD_INPUT)
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise UserError(f"{notebook.name} has no parameter {name!r}; {hint}", cli.BAD_INPUT)
        if name in values:
            raise UserError(f"parameter {name} is given twice", cli.BAD_INPUT)
        values[name] = value_of(known[name], value)
    return values


def value_of(parameter: Parameter, value: object) -> object:
    """`value`, as the command line or a YAML file gives it, as a value of `parameter`. Raises UserError if it is none.

    Text is read as the parameter's type says, whatever it looks like: `false` is a switch for a bool, `1e-3` a number
    for a float, and both are words for a str.
    """
    kind, optional = type_of(parameter)
    if optional and (value is None or value in {"None", "none", "null"}):
        return None
    value = _converted(kind, value)
    try:
        if kind in _SIMPLE:
            if kind == "float" and isinstance(value, float) and math.isnan(value):
                raise parameters.ParameterError(f"{parameter.name} = nan makes no sense here. Allowed: numbers.")
            replace(parameter, type=kind).check(value)
        elif type(value).__name__ != kind:
            raise parameters.ParameterError(f"{parameter.name} = {value!r} makes no sense here. Allowed: a {kind}.")
    except parameters.ParameterError as error:
        hint = (
            " In YAML, quote words that look like something else."
            if kind == "str" and not isinstance(value, str)
            else ""
        )
        raise UserError(f"{error}{hint}", cli.BAD_INPUT) from error
    return value


def type_of(parameter: Parameter) -> tuple[str, bool]:
    """The name of the type to hold, such as `list` for `list[int] | None`, and whether None is allowed, too."""
    name = re.sub(r"\s*\|\s*None$|^Optional\[(.*)\]$", r"\1", parameter.type)
    base = name.split("[")[0]
    if base not in _SIMPLE | {"list", "tuple", "dict", "set"}:
        base = type(parameter.default).__name__
    return base, name != parameter.type or parameter.default is None


def read_file(file: Path) -> dict[str, Any]:
    """The names and values of a YAML (or JSON) file. Raises UserError where it is something else."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506  (a safe loader)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}", cli.BAD_INPUT) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a YAML file of parameters: {_one_line(error)}", cli.BAD_INPUT) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{file} must hold lines such as `epochs: 3`", cli.BAD_INPUT)
    return content


def describe(notebook: Notebook) -> str:
    """What `--help-notebook` shows: a line for each parameter."""
    known = notebook.parameters
    if not known:
        return f"{notebook.name} has no parameters."
    heads = [f"{p.name}: {p.type} = {p.default!r}" for p in known.values()]
    wide = max(map(len, heads))
    return "\n".join(
        f"  {head:{wide}}  {'set by the run' if p.name == OUTPUT_FOLDER else p.help}"
        for head, p in zip(heads, known.values(), strict=True)
    )


def _converted(kind: str, value: object) -> object:
    """`value` as a `kind` where it can be read as one, else as it was, for the check to refuse."""
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str) or kind == "str":
        return value
    try:
        if kind == "bool":
            return _SWITCH[value.lower()]
        return {"int": int, "float": float}.get(kind, ast.literal_eval)(value)
    except (ValueError, SyntaxError, KeyError):
        return value


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key given twice, of which stock YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        if doubled := {str(key) for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"{', '.join(sorted(doubled))} is given twice")
        return super().construct_mapping(node, deep)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
