"""A form made of a notebook's own parameters, and what is asked for by what stands in its fields."""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lesson.parameters import Computed, Parameter

from workspace.base.cli import UserError
from workspace.base.terminal import duration
from workspace.runs import folders, notebook_parameters
from workspace.runs.notebook import Notebook
from workspace.runs.notebook_parameters import OUTPUT_FOLDER
from workspace.sweeps import plans
from workspace.sweeps.plans import Axis
from workspace.sweeps.ranking import Row

_RECKONED, _REMEMBERED = 100, 50
"""So many combinations, and so many of the latest runs, are looked at to reckon the time of all."""


def fields(notebook: Notebook) -> list[dict[str, Any]]:
    """What to show for each parameter, in the notebook's order; without the one that a run sets itself."""
    return [
        {
            "name": parameter.name,
            "type": "" if parameter.type == "Any" else parameter.type,
            "help": parameter.help,
            "choices": _choices(parameter),
            "default": text(parameter.default),
            "several": _may_be_several(parameter),
        }
        for parameter in notebook.parameters.values()
        if parameter.name != OUTPUT_FOLDER
    ]


def text(value: object) -> str:
    """A value as it is typed into a field."""
    if isinstance(value, Computed):
        return ""  # the notebook computes it
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _choices(parameter: Parameter) -> list[str]:
    kind, optional = notebook_parameters.type_of(parameter)
    if kind == "bool" and not optional:
        return ["true", "false"]
    return list(parameter.choices or ()) if kind == "str" else []


def _may_be_several(parameter: Parameter) -> bool:
    """Whether a comma stands between two values: in free text, and in a list, it is a part of one."""
    return notebook_parameters.type_of(parameter)[0] in {"int", "float", "bool"} or bool(_choices(parameter))


@dataclass(frozen=True)
class Asked:
    """What the fields ask for: a run, or a sweep where any has several values; or what is wrong, by field."""

    axes: list[Axis] = field(default_factory=list)  # of the fields that do not hold their default
    texts: dict[str, str] = field(default_factory=dict)  # what stands in those
    wrong: dict[str, str] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)  # the names of those in which a comma is a part of the value

    @property
    def runs(self) -> int:
        """How many there would be."""
        return plans.size(self.axes)

    @property
    def is_sweep(self) -> bool:
        """Whether they are several."""
        return self.runs > 1

    @property
    def as_file(self) -> dict[str, Any]:
        """Names and values as the commands read them from a file."""
        if not self.is_sweep:
            return dict(self.texts)
        return {name: [text] if name in self.whole else text for name, text in self.texts.items()}


def read(notebook: Notebook, texts: Mapping[str, str]) -> Asked:
    """What the `texts` in the fields ask for, refused in the words of the commands."""
    asked = Asked()
    in_order = [name for name in notebook.parameters if name in texts]  # in whichever they were typed
    for name in dict.fromkeys([*in_order, *texts]):
        written = texts[name]
        parameter = notebook.parameters.get(name)
        if parameter and written.strip() == text(parameter.default).strip():
            continue
        try:
            if parameter and _may_be_several(parameter) and ("," in written or ":" in written):
                axes = plans.axes_of(notebook, [f"{name}={written}"], {})
                next(plans.grid(axes))  # refuses a range without a number of values
            else:
                typed = notebook_parameters.typed(notebook, [(name, written)])
                axes = [Axis(name, (typed[name],))]
                asked.whole.append(name)
        except UserError as error:
            asked.wrong[name] = str(error)
        else:
            asked.axes.extend(axes)
            asked.texts[name] = written
    return asked


def time(notebook: Notebook, asked: Asked, rows: Iterable[Row], at_once: int) -> str:
    """How long the runs will take, in words, by those that were made before."""
    known = [row for row in rows if row.seconds and row.status == folders.COMPLETED and row.notebook == notebook.name]
    known = known[-_REMEMBERED:]
    if not known:
        return "time unknown: no run of it has ended yet"
    combinations = list(itertools.islice(plans.grid(asked.axes), _RECKONED)) if asked.axes else [{}]
    reckoned = sum(_nearest(notebook_parameters.effective(notebook, values), known) for values in combinations)
    each = reckoned / len(combinations)
    return f"about {duration(each * math.ceil(asked.runs / at_once))}"


def _nearest(wanted: Mapping[str, Any], known: list[Row]) -> float:
    """The seconds of the run that had the most of the `wanted` values; of the numbers that differ, the closest."""

    def distance(row: Row) -> float:
        return sum(_apart(value, row.parameters.get(name)) for name, value in wanted.items())

    return min(known, key=distance).seconds or 0


def _apart(one: object, other: object) -> float:
    if one == other:
        return 0
    if isinstance(one, int | float) and isinstance(other, int | float) and one > 0 and other > 0:
        return min(1, abs(math.log(one / other)) / 5)
    return 1
