"""A notebook's parameters, checked before anything starts: names, types and limits come from its parameters cell.

How a parameters cell states them is read in one place, lesson/parameters.py, which the lesson uses as well.
"""

import ast
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from lesson import parameters
from lesson.parameters import Parameter

from workspace.base import cli
from workspace.base.cli import UserError

OUTPUT_FOLDER = "output_folder"
"""The parameter that a run sets itself: its own folder, where the notebook writes metrics.json and its files."""

_SIMPLE = {"int", "float", "str", "bool"}
_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def of_notebook(notebook: Path) -> dict[str, Parameter]:
    """The parameters of `notebook` by name, in their order; none where no cell is tagged `parameters`.

    Raises UserError where it is no Python notebook or its parameters cell cannot be read.
    """
    content = _content(notebook)
    language = content.get("metadata", {}).get("kernelspec", {}).get("language", "python")
    if language != "python":
        raise UserError(f"{notebook} is written in {language}; only Python notebooks can be run", cli.BAD_INPUT)
    for cell in content["cells"]:
        if cell["cell_type"] == "code" and "parameters" in cell.get("metadata", {}).get("tags", []):
            try:
                return parameters.read(_annotated("".join(cell["source"])))
            except (SyntaxError, ValueError) as error:
                raise UserError(
                    f"the parameters cell of {notebook} cannot be read: {error}. "
                    "Write one `name: type = value` a line, each value plain",
                    cli.BAD_INPUT,
                ) from error
    return {}


def typed(notebook: Path, known: Mapping[str, Parameter], given: Iterable[tuple[str, object]]) -> dict[str, Any]:
    """The `given` names and values as the notebook wants them, each value of its parameter's type.

    Raises UserError for the first that is unknown, given twice, of another type or outside its limits.
    """
    values: dict[str, Any] = {}
    for name, value in given:
        if not known:
            raise UserError(
                f"{notebook} has no parameters: no cell of it is tagged `parameters`. In the lab: select the cell, "
                "Property Inspector (the gears at the right), Cell Tags, add `parameters`",
                cli.BAD_INPUT,
            )
        if name == OUTPUT_FOLDER:
            raise UserError(f"{name} is set by the run; say where results go with -o", cli.BAD_INPUT)
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise UserError(f"{notebook} has no parameter {name!r}; {hint}", cli.BAD_INPUT)
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


def describe(notebook: Path, known: Mapping[str, Parameter]) -> str:
    """What `--help-notebook` shows: a line for each parameter."""
    if not known:
        return f"{notebook} has no parameters."
    heads = [f"{p.name}: {p.type} = {p.default!r}" for p in known.values()]
    wide = max(map(len, heads))
    return "\n".join(
        f"  {head:{wide}}  {'set by the run' if p.name == OUTPUT_FOLDER else p.help}"
        for head, p in zip(heads, known.values(), strict=True)
    )


def _content(notebook: Path) -> dict[str, Any]:
    """The notebook's JSON. Raises UserError where it is missing or broken."""
    try:
        content = json.loads(notebook.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no {notebook} here", cli.BAD_INPUT) from error
    except OSError as error:
        raise UserError(f"{notebook} cannot be read: {error.strerror}", cli.BAD_INPUT) from error
    except ValueError as error:
        raise UserError(f"{notebook} is not a notebook: {_one_line(error)}", cli.BAD_INPUT) from error
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise UserError(f"{notebook} is not a notebook of format 4: it has no list of cells", cli.BAD_INPUT)
    if not all(isinstance(cell, dict) and {"cell_type", "source"} <= cell.keys() for cell in content["cells"]):
        raise UserError(f"{notebook} is a broken notebook: a cell has no type or no source", cli.BAD_INPUT)
    return content


def _annotated(source: str) -> str:
    """Write each plain `epochs = 3` as `epochs: int = 3`, so that older notebooks are understood, too."""
    lines = source.encode().splitlines()  # ast counts bytes
    for statement in reversed(ast.parse(source).body):  # from the end, so that positions stay true
        if isinstance(statement, ast.Assign) and isinstance(target := statement.targets[0], ast.Name):
            try:
                kind = type(ast.literal_eval(statement.value)).__name__
            except ValueError:
                continue  # computed from something, so not for anybody to set
            line = lines[target.lineno - 1]
            lines[target.lineno - 1] = (
                line[: target.end_col_offset] + f": {kind}".encode() + line[target.end_col_offset :]
            )
    return b"\n".join(lines).decode()


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
