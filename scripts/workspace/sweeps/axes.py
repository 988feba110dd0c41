"""What a sweep varies: the values of each parameter, and the combinations of them that become runs."""

import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.runs import notebook_parameters
from workspace.runs.notebook import Notebook
from workspace.runs.notebook_parameters import Parameter


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, even on a logarithmic scale if `log`."""

    low: float
    high: float
    log: bool
    whole: bool  # integers only

    def at(self, share: float) -> float | int:
        """The number at `share` (0 to 1) of the way."""
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return round(value) if self.whole else float(f"{value:.6g}")


@dataclass(frozen=True)
class Axis:
    """A parameter with the values to try: some of them, or a range to draw from."""

    name: str
    values: tuple[Any, ...] = ()
    range: Range | None = None


def read(notebook: Notebook, assignments: Iterable[str], file: Mapping[str, object]) -> list[Axis]:
    """The axes of `NAME=V1,V2`, `NAME=a:b:n`, `NAME=log:a:b:n` on the command line and of a YAML file's lines.

    Without n a range is for drawing from. Raises UserError for the first that makes no sense.
    """
    pairs: list[tuple[str, object]] = []
    for text in assignments:
        name, equals, values = text.partition("=")
        if not equals:
            raise UserError(f"{text!r}: write NAME=V1,V2,... or NAME=LOW:HIGH:N", cli.BAD_INPUT)
        pairs.append((name, values))
    named = {name for name, _ in pairs}
    axes: dict[str, Axis] = {}
    for name, values in [*((name, values) for name, values in file.items() if name not in named), *pairs]:
        if name in axes:
            raise UserError(f"parameter {name} is given twice", cli.BAD_INPUT)
        axes[name] = _axis(notebook, name, values)
    return list(axes.values())


def grid(axes: list[Axis]) -> Iterator[dict[str, Any]]:
    """Every combination, the last axis changing fastest. Raises UserError for a range without a number of values."""
    for axis in axes:
        if axis.range:
            raise UserError(
                f"{axis.name}: how many values from {axis.range.low:g} to {axis.range.high:g}? Write "
                f"{axis.name}=LOW:HIGH:N, or draw from it with --method random",
                cli.BAD_INPUT,
            )
    for values in itertools.product(*(axis.values for axis in axes)):
        yield {axis.name: value for axis, value in zip(axes, values, strict=True)}


def draws(axes: list[Axis], count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """`count` different combinations at random, the same ones for the same seed; fewer where there are not so many."""
    chance = random.Random(f"{axes!r}{seed or ''}")  # noqa: S311  (to try things, not to hide them)
    seen: set[str] = set()
    for _ in range(100 * count):
        drawn = {
            axis.name: axis.range.at(chance.random()) if axis.range else chance.choice(axis.values) for axis in axes
        }
        if (key := identity(drawn)) not in seen:
            seen.add(key)
            yield drawn
        if len(seen) == count:
            return


def size(axes: list[Axis]) -> int:
    """How many combinations a grid of them has; a range without a number of values counts as one."""
    return math.prod(len(axis.values) or 1 for axis in axes)


def identity(values: Mapping[str, Any]) -> str:
    """What tells one combination from every other, whatever the order of its names."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=repr).encode()).hexdigest()[:8]


def run_name(values: Mapping[str, Any], varied: Iterable[str]) -> str:
    """A folder's name for a run: what is varied, for people, and the identity, for certainty. Never a path."""
    shown = "_".join(f"{name}-{values[name]}" for name in varied)
    safe = re.sub(r"[^A-Za-z0-9.+-]", "_", shown)[:80].strip(".")
    return f"{safe}_{identity(values)}" if safe else identity(values)


def _axis(notebook: Notebook, name: str, written: object) -> Axis:
    parameter = notebook.parameters.get(name)
    if parameter is None or name == notebook_parameters.OUTPUT_FOLDER:
        notebook_parameters.typed(notebook, [(name, written)])  # refuses it, and says why
        raise AssertionError(name)
    is_number = notebook_parameters.type_of(parameter)[0] in {"int", "float"}
    texts = (
        list(written) if isinstance(written, list) else written.split(",") if isinstance(written, str) else [written]
    )
    values: list[Any] = []
    for text in texts:
        if is_number and isinstance(text, str) and ":" in text:
            spread, count = _range(parameter, text)
            if not count:
                if len(texts) > 1:
                    raise UserError(f"{name}={text}: how many values? Write LOW:HIGH:N", cli.BAD_INPUT)
                return Axis(name, range=spread)
            values += [spread.at(index / (count - 1)) if count > 1 else spread.at(0) for index in range(count)]
        elif isinstance(text, str) and not text.strip():
            raise UserError(f"{name}: a value is missing in {written!r}", cli.BAD_INPUT)
        else:
            values.append(notebook_parameters.value_of(parameter, text.strip() if isinstance(text, str) else text))
    if not values:
        raise UserError(f"{name} has no values to try", cli.BAD_INPUT)
    if doubled := [value for index, value in enumerate(values) if value in values[:index]]:
        raise UserError(f"{name} has {doubled[0]!r} twice", cli.BAD_INPUT)
    return Axis(name, tuple(values))


def _range(parameter: Parameter, text: str) -> tuple[Range, int]:
    """`log:1e-4:1e-1:4` and its kin; the number of values is 0 where none is given. Raises UserError."""
    words = text.split(":")
    log = words[0] == "log"
    numbers = words[log:]
    whole = notebook_parameters.type_of(parameter)[0] == "int"
    if len(numbers) not in {2, 3} or (len(numbers) == 3 and not (numbers[2].isdigit() and int(numbers[2]))):
        raise UserError(f"{parameter.name}={text}: write LOW:HIGH:N or log:LOW:HIGH:N, N above 0", cli.BAD_INPUT)
    low, high = (notebook_parameters.value_of(parameter, number) for number in numbers[:2])
    if not low < high or (log and low <= 0):
        wanted = "above 0 and below HIGH" if log else "below HIGH"
        raise UserError(f"{parameter.name}={text}: LOW must be {wanted}", cli.BAD_INPUT)
    return Range(low, high, log, whole), int(numbers[2]) if len(numbers) == 3 else 0
