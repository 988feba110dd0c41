"""What a notebook's parameters may be, read from its own parameters cell, so that each limit is written once.

A parameter is one line: `epochs: float = 3.5  # passes over the training images (0.01 to 100)`. The comment ends with
what is allowed, in brackets: `(LOW to HIGH)` for numbers, `(this, that or other)` for words; text without brackets
means that anything goes. The same comment is what `--help-notebook` shows.
"""

import ast
import io
import linecache
import math
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class ParameterError(ValueError):
    """A value that makes no sense; its message says which, and what is allowed."""

    def _render_traceback_(self) -> list[str]:
        """Show the message alone in the notebook: the reader's next step is in it, and not in our source."""
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell."""

    name: str
    type: str
    default: Any
    help: str

    @property
    def limits(self) -> tuple[float, float] | None:
        """The lowest and the highest number allowed, if the comment names them."""
        number = r"([-+]?[\d_.]+(?:e[-+]?\d+)?)"
        found = re.search(rf"\({number} to {number}\)$", self.help)
        return (float(found[1]), float(found[2])) if found else None

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The words allowed, if the comment names them."""
        found = re.search(r"\(([\w, ]+ or \w+)\)$", self.help)
        return tuple(re.split(r", | or ", found[1])) if found else None

    def check(self, value: object) -> None:
        """Raise `ParameterError` unless `value` has the parameter's type and is one of the values allowed."""
        fits = {"int": int, "float": (int, float), "str": str, "bool": bool}[self.type]
        allowed = self.help[self.help.rindex("(") + 1 : -1] if self.limits or self.choices else f"any {self.type}"
        right = isinstance(value, fits) and (self.type == "bool" or not isinstance(value, bool))
        if right and isinstance(value, float):
            right = math.isfinite(value)
        if right and self.limits:
            right = self.limits[0] <= value <= self.limits[1]
        if right and self.choices:
            right = value in self.choices
        if not right:
            raise ParameterError(f"{self.name} = {value!r} makes no sense here. Allowed: {allowed} ({self.type}).")


def read(source: str) -> dict[str, Parameter]:
    """The parameters of a cell, by name, in its order. Nothing in it is executed.

    Raises SyntaxError where `source` is no Python, ValueError where a default is not a plain value.
    """
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {
        token.start[0]: token.string.lstrip("# ").rstrip() for token in tokens if token.type == tokenize.COMMENT
    }
    return {
        line.target.id: Parameter(
            line.target.id, ast.unparse(line.annotation), ast.literal_eval(line.value), comments.get(line.lineno, "")
        )
        for line in ast.parse(source).body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None
    }


def check(values: Mapping[str, object]) -> None:
    """Refuse the first of `values` (a notebook's `globals()`) that the parameters cell run last does not allow.

    That cell is the one made of nothing but annotated assignments. Raises `ParameterError`.
    """
    # For tracebacks, Python keeps the source of every cell that was run here; a cell's own lines are nowhere else.
    sources = ["".join(entry[2]) for entry in linecache.cache.values() if len(entry) == 4]
    for source in reversed(sources):
        if _holds_parameters(source):
            for name, parameter in read(source).items():
                parameter.check(values[name])
            return
    raise ParameterError("Run the cell with the parameters first.")


def _holds_parameters(source: str) -> bool:
    try:
        lines = ast.parse(source).body
    except SyntaxError:
        return False
    return bool(lines) and all(isinstance(line, ast.AnnAssign) for line in lines)
