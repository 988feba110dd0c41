"""Values for a notebook's parameters, from the command line or a file, checked before anything starts.

How a parameters cell states names, types and limits is read in one place, lesson/parameters.py, which the lesson uses
as well.
"""

import ast
import contextlib
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import yaml
from lesson import parameters
from lesson.parameters import Parameter

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.runs.notebook import Notebook

OUTPUT_FOLDER = "output_folder"
"""The parameter that a run sets itself: its own folder, where the notebook writes metrics.json and its files."""

_SIMPLE = {"int", "float", "str", "bool"}
_CONTAINERS = {"list", "tuple", "dict", "set"}
_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Raw(str):
    """Text that stays text, whatever it looks like."""

    __slots__ = ()


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


def effective(notebook: Notebook, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the kernel will hold where these values are set; without what the notebook computes, and its folder."""
    known = {name: parameter.default for name, parameter in notebook.parameters.items()}
    held = {name: value for name, value in known.items() if not isinstance(value, parameters.Computed)} | dict(values)
    held.pop(OUTPUT_FOLDER, None)
    return held


def value_of(parameter: Parameter, value: object) -> object:
    """`value`, as the command line or a YAML file gives it, as a value of `parameter`. Raises UserError if it is none.

    Text is read as the parameter's type says, whatever it looks like: `false` is a switch for a bool, `1e-3` a number
    for a float, and both are words for a str. Where the type is not known, it is read as papermill reads it.
    """
    kind, optional = type_of(parameter)
    if isinstance(value, Raw):
        value, kind = str(value), kind or "str"
    elif optional and (value is None or value in ("None", "none", "null")):
        return None
    elif isinstance(value, str):
        value = _read(kind, value)
    if not kind:
        return value
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind in ("tuple", "set") and isinstance(value, list):
        with contextlib.suppress(TypeError):  # a set of lists cannot be
            value = {"tuple": tuple, "set": set}[kind](value)  # YAML has nothing else for them
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
    """The name of the type to hold, such as `list` for `list[int] | None`, and whether None is allowed, too.

    The name is empty where anything goes: nothing is said of the type, or several are allowed.
    """
    default = parameter.default
    kinds = _kinds(ast.parse(parameter.type, mode="eval").body)
    optional = "None" in kinds or default is None
    kinds -= {"None"}
    if len(kinds) == 1 and not kinds <= _SIMPLE | _CONTAINERS | {parameters.ANY} and default is not None:
        kinds = {type(default).__name__}  # such as a str for a Literal or a Path
    [kind] = kinds if len(kinds) == 1 else [""]
    return kind if kind in _SIMPLE | _CONTAINERS else "", optional


def _kinds(annotation: ast.expr) -> set[str]:
    """The names of the types that an annotation allows, `None` among them."""
    match annotation:
        case ast.BinOp(op=ast.BitOr()):
            return _kinds(annotation.left) | _kinds(annotation.right)
        case ast.Constant(value=str(text)):
            return _kinds(ast.parse(text, mode="eval").body)
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name)) if name in ("Optional", "Union"):
            inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
            return set().union(*map(_kinds, inner)) | ({"None"} if name == "Optional" else set())
        case ast.Subscript():
            return _kinds(annotation.value)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return {name.lower() if name in ("List", "Tuple", "Dict", "Set") else name}
    return {ast.unparse(annotation)}


def read_file(file: Path) -> dict[str, Any]:
    """The names and values of a YAML (or JSON) file. Raises UserError where it is something else."""
    try:
        return read_yaml(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}", cli.BAD_INPUT) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text: {error}", cli.BAD_INPUT) from error


def read_yaml(text: str, source: str = "-y") -> dict[str, Any]:
    """The names and values that `text` holds, which is from `source`. Raises UserError where it is something else."""
    try:
        content = yaml.load(text, _UniqueKeys)  # noqa: S506  (a safe loader)
    except yaml.YAMLError as error:
        raise UserError(
            f"{source} holds no parameters as YAML: {' '.join(str(error).split())}", cli.BAD_INPUT
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{source} must hold lines such as `epochs: 3`", cli.BAD_INPUT)
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


def _read(kind: str, text: str) -> object:
    """`text` as a `kind` where it can be read as one, else as it was, for the check to refuse."""
    if kind == "str":
        return text
    try:
        if kind == "bool":
            return _SWITCH[text.lower()]
        if kind in _CONTAINERS:
            return ast.literal_eval(text)
        if kind:
            return {"int": int, "float": float}[kind](text)
    except (ValueError, TypeError, SyntaxError, KeyError, MemoryError, RecursionError):
        return text
    if text in ("True", "False"):
        return text == "True"
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key given twice, of which stock YAML keeps the last, and leaves dates as words, like papermill."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value if key.value != "<<"]
        if doubled := {str(key) for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"{', '.join(sorted(doubled))} is given twice")
        return super().construct_mapping(node, deep)
