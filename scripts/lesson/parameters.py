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

from lesson.words import MessageAlone, _


class ParameterError(MessageAlone, ValueError):
    """A value that makes no sense; its message says which, and what is allowed."""


ANY = "Any"
"""The type of a parameter that says nothing of it."""


class Computed(str):
    """The source of a default that is no plain value: only who executes it knows more."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The source as it stands there."""
        return str(self)


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
        allowed = (
            self.help[self.help.rindex("(") + 1 : -1]
            if self.limits or self.choices
            else _("any {type}").format(type=self.type)
        )
        right = isinstance(value, fits) and (self.type == "bool" or not isinstance(value, bool))
        if right and isinstance(value, float):
            right = math.isfinite(value)
        if right and self.limits:
            right = self.limits[0] <= value <= self.limits[1]
        if right and self.choices:
            right = value in self.choices
        if not right:
            said = _("{name} = {value!r} makes no sense here. Allowed: {allowed} ({type}).")
            raise ParameterError(said.format(name=self.name, value=value, allowed=allowed, type=self.type))


def read(source: str) -> dict[str, Parameter]:
    """The parameters of a cell, by name, in its order. Nothing in it is executed.

    Plain `epochs = 3` is understood, too, and the `# type: float` of a comment; magics are passed over. Raises
    SyntaxError where `source` is no Python.
    """
    source, tree = _parsed(source)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {
        token.start[0]: token.string.lstrip("# ").rstrip() for token in tokens if token.type == tokenize.COMMENT
    }
    found = {}
    for line in tree.body:
        if not isinstance(line, ast.Assign | ast.AnnAssign) or line.value is None:
            continue
        targets = [line.target] if isinstance(line, ast.AnnAssign) else line.targets
        comment = comments.get(line.end_lineno) or comments.get(line.lineno) or ""
        type_comment = re.match(r"type:\s*(\S+)\s*", comment)
        comment = comment[type_comment.end() :] if type_comment else comment
        for target in targets:
            for name in (node.id for node in ast.walk(target) if isinstance(node, ast.Name)):
                default = _value(line.value) if isinstance(target, ast.Name) else Computed(ast.unparse(line.value))
                if isinstance(line, ast.AnnAssign):
                    kind = ast.unparse(line.annotation)
                elif type_comment:
                    kind = type_comment[1]
                else:
                    kind = ANY if default is None or isinstance(default, Computed) else type(default).__name__
                found[name] = Parameter(name, kind, default, comment)
    return found


def _parsed(source: str) -> tuple[str, ast.Module]:
    """The source and its tree; where Python cannot read it, without the lines that are for IPython alone."""
    try:
        return source, ast.parse(source)
    except SyntaxError:
        source = re.sub(r"(?m)^\s*(?:[%!?]|\w+\s*=\s*[%!]).*$|^.*\w\?+\s*$", "", source)
        return source, ast.parse(source)


def _value(node: ast.expr) -> object:
    """The plain value that is written there, or its source."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        source = ast.unparse(node)
        special = re.fullmatch(r"float\('([-+]?(?:inf|nan))'\)", source)
        return float(special[1]) if special else Computed(source)


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
    raise ParameterError(_("Run the cell with the settings first."))


def _holds_parameters(source: str) -> bool:
    try:
        lines = ast.parse(source).body
    except SyntaxError:
        return False
    return bool(lines) and all(isinstance(line, ast.AnnAssign) for line in lines)
