"""The plan of a sweep: what it varies, the combinations of values that become runs, and all of it as a file.

A sweep's folder keeps the file that would make the sweep again, in the words of the command's options:

notebook: lesson.ipynb              where that is from the file
parameters:
  learning_rate: log:0.001:0.1:4    what -p takes
  width: [8, 16]
  epochs: 1
metric: loss                        and method, count, seed, jobs, scheduler, mode, retries, timeout
"""

import difflib
import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.runs import notebook_parameters, reading
from workspace.runs.folders import COMPLETED
from workspace.runs.notebook import Notebook
from workspace.runs.notebook_parameters import Parameter
from workspace.sweeps.ranking import Row

FILE = "plan.yml"
"""What it is called in a sweep's folder."""


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


def axes_of(notebook: Notebook, assignments: Iterable[str], file: Mapping[str, object]) -> list[Axis]:
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


@dataclass(frozen=True)
class Options:
    """What the command line says, beyond notebook and axes."""

    output: Path | None = None
    method: str = "grid"
    count: int | None = None
    seed: int = 0
    jobs: int | None = None
    scheduler: str | None = None
    metric: str = "accuracy"
    mode: str | None = None
    retries: int = 0
    timeout: int | float | None = None  # seconds
    rerun: str = "failed"
    in_background: bool = False
    dry_run: bool = False
    report_only: bool = False
    yes: bool = False


_SETTINGS = ("method", "count", "seed", "jobs", "scheduler", "metric", "mode", "retries", "timeout")
"""Those of the options that a plan may hold."""
_CHOICES = {"method": ("grid", "random", "tpe"), "mode": ("max", "min")}
_KINDS = get_type_hints(Options) | {"notebook": str, "parameters": dict}
_KNOWN = ("notebook", "parameters", *_SETTINGS)


class Plan:
    """Runs that are known before the first is made: all of a grid, or those drawn at random."""

    known_ahead = True

    def __init__(self, axes: list[Axis], combinations: Iterable[dict[str, Any]]) -> None:
        self.varied = [axis.name for axis in axes if axis.range or len(axis.values) > 1]
        self.runs = {self.name(values): values for values in combinations}  # as far as they are known
        self._done: set[str] = set()

    @property
    def total(self) -> int:
        """How many runs there should be at the end."""
        return len(self.runs)

    def name(self, values: Mapping[str, Any]) -> str:
        """The name of a run's folder."""
        return run_name(values, self.varied)

    def remember(self, row: Row) -> bool:
        """Take note of a run of an earlier time; whether it is one of these, and done."""
        done = row.name in self.runs and row.status == COMPLETED
        if done:
            self._done.add(row.name)
        return done

    def missing(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The runs to make, name and values."""
        return ((name, values) for name, values in self.runs.items() if name not in self._done)

    def tell(self, values: Mapping[str, Any], metric: float | None) -> None:
        """What a run gave; None where it failed. Here the others do not depend on it."""


def is_plan(file: Path) -> bool:
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
        if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
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
    with replacing(folder / FILE) as new:
        new.write_text(yaml.safe_dump(reading.plain(content), sort_keys=False, allow_unicode=True))


def _written(axis: Axis) -> object:
    if axis.range:
        return f"{'log:' if axis.range.log else ''}{axis.range.low!r}:{axis.range.high!r}"
    return list(axis.values)
