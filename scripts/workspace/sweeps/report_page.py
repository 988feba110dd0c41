"""What a report shows of some runs: answers to what its reader asks, a table, and pictures, told in words, too."""

import base64
import io
import math
import os
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import matplotlib.backends.backend_svg
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from workspace.runs import folders, reading
from workspace.sweeps import ranking
from workspace.sweeps.ranking import Entry, Metric, Row

_TEMPLATE = Path(__file__).with_name("report.html")
_LISTED = 200
"""So many rows has the table at most."""
_DRAWN = 12
"""So many entries are in a picture of curves or classes, the best first."""
_LAST_LINES = 12
_BLUE, _ORANGE = "#3b8ee0", "#e08a1e"
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",  # the page may be dark
    "figure.facecolor": "none",
    "grid.alpha": 0.25,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may have a $ in it
}


@dataclass(frozen=True)
class Part:
    """A part of the report: a picture and what it tells to who cannot see it, or why it cannot be shown."""

    title: str
    explanation: str
    svg: str = ""
    told: str = ""
    error: str = ""

    @classmethod
    def drawn(cls, title: str, explanation: str, draw: Callable[[], tuple[Figure, str]]) -> "Part":
        """The part with the picture that `draw` makes. What it cannot draw costs no other part."""
        try:
            figure, told = draw()
            file = io.BytesIO()
            figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
        except Exception as error:  # values are what notebooks like
            return cls(title, explanation, error=f"{type(error).__name__}: {error}")
        return cls(title, explanation, base64.b64encode(file.getvalue()).decode(), told)


class Page:
    """The page about `entries`, in their order by `metric`, to be put into `folder`."""

    def __init__(self, folder: Path, entries: list[Entry], metric: Metric) -> None:
        self._folder, self._entries, self._metric = folder, entries, metric
        self._good = [entry for entry in entries if entry.ranks]
        self._names = list(dict.fromkeys(name for entry in entries for name in entry.parameters))

    def html(self, title: str, *, named: bool) -> str:
        """One file that needs no network. `named`: what tells the runs apart is their names."""
        template = jinja2.Template(_TEMPLATE.read_text(), autoescape=True, trim_blocks=True)
        rows = [row for entry in self._entries for row in entry.rows]
        failed = sum(row.status != folders.COMPLETED for row in rows)
        with mpl.rc_context(_STYLE), warnings.catch_warnings(action="ignore"):  # of letters that a font lacks
            parts = list(self._parts())
        runs = (
            f"{len(rows)} runs of {len(self._entries)} settings"
            if len(self._entries) < len(rows)
            else f"{len(rows)} runs"
        )
        minutes = sum(row.seconds or 0 for row in rows) / 60
        return template.render(
            title=title,
            named=named,
            metric=self._metric,
            entries=self._entries,
            good=self._good,
            varied=self._varied,
            common=[name for name in self._names if name not in self._varied],
            several_notebooks=len({entry.rows[0].notebook for entry in self._entries} - {""}) > 1,
            answers=list(self._answers()),
            summary=f"{runs}, {failed} of them failed; {minutes:.1f} minutes of running in all.",
            failed=failed,
            listed=_LISTED,
            parts=parts,
            label=self._label,
            setting=_setting,
            shown=self._shown,
            note=_note,
            seed=lambda entry, row: f"seed {row.parameters[ranking.SEED]}" if len(entry.rows) > 1 else "",
            link=self._link,
            last_lines=lambda row: "\n".join(reading.last_lines(Path(row.folder, folders.LOG), _LAST_LINES)),
        )

    @cached_property
    def _varied(self) -> list[str]:
        """The parameters that tell entries apart."""
        return [n for n in self._names if len({repr(entry.parameters.get(n, ...)) for entry in self._entries}) > 1]

    def _label(self, entry: Entry) -> str:
        """What tells an entry from the others, short."""
        told = self._varied if entry.parameters else []
        return ", ".join(f"{name} {_setting(entry, name)}" for name in told) or entry.rows[0].name

    def _in_picture(self, entry: Entry) -> str:
        return _cut(f"{self._entries.index(entry) + 1}. {self._label(entry)}", 60)

    def _shown(self, entry: Entry) -> str:
        """Its metric, or what there is in its place."""
        if entry.mean is not None:
            return str(entry).partition(" of ")[0] if entry.ranks else "not a number"
        if entry.status != folders.COMPLETED:
            return entry.status
        return "no number" if self._metric.name in entry.rows[0].metrics else "not written"

    def _link(self, row: Row) -> str:
        notebook = folders.Run(Path(row.folder)).notebook
        page = notebook.with_suffix(".html")
        return os.path.relpath(page if page.exists() else notebook, self._folder)

    def _answers(self) -> Iterator[tuple[str, str]]:
        """What somebody asks who opens a report."""
        if not self._good:
            return
        best, *others = self._good
        if others:
            ahead = f"{abs(best.mean - others[0].mean):.3g} ahead of the next ({self._label(others[0])})"
            middle = self._good[len(self._good) // 2].mean
            further = f", {abs(best.mean - middle):.3g} ahead of the middle of all" if len(self._good) > 3 else ""
            yield "By how much?", f"{ahead}{further}."
        yield "More than luck?", ranking.certainty(self._entries)
        if best.seconds is None:
            return
        cost = f"{best.seconds:.1f} s a run"
        faster = [entry for entry in others if entry.seconds is not None and entry.seconds < best.seconds]
        if faster:
            other = f"{faster[0].seconds:.1f} s and gets {self._shown(faster[0])}"
            yield "What does it cost?", f"{cost}; the best that is faster takes {other} ({self._label(faster[0])})."
        elif others:
            yield "What does it cost?", f"{cost}; none is faster."

    def _parts(self) -> Iterator[Part]:
        metric, good = self._metric.name, self._good
        if good and self._varied:
            explanation = f"Every point is a run: its {metric} against one parameter."
            yield Part.drawn("What each parameter does", explanation, self._draw_parameters)
        if len(good) > 2 and len(self._varied) > 2:
            explanation = "Every line is a setting, from value to value to its result at the right. The best is orange."
            yield Part.drawn("What goes together", explanation, self._draw_together)
        yield from self._curves()
        classes = list(dict.fromkeys(n for entry in good for n in entry.numbers if n.startswith("accuracy_")))
        if classes:
            explanation = "In percent, the best at the top. A column of low numbers is a class that is hard for all."
            yield Part.drawn("Class by class", explanation, lambda: self._draw_classes(classes))
        if sum(entry.seconds is not None for entry in good) > 1:
            way, wanted = ("Up", "higher") if self._metric.mode == "max" else ("Down", "lower")
            explanation = f"{way} and to the left is good: a {wanted} {metric} in less time."
            yield Part.drawn("What it costs", explanation, self._draw_costs)

    def _draw_parameters(self) -> tuple[Figure, str]:
        figure, axes = _figures(len(self._varied), 2.8)
        for axis, name in zip(axes, self._varied, strict=True):
            self._draw_parameter(axis, name)
        axes[0].set_ylabel(self._metric.name[:40])
        told = "; ".join(f"{name}: best with {_setting(self._good[0], name)}" for name in self._varied)
        return figure, f"{self._metric.name} against each parameter. {told}."

    def _draw_parameter(self, axis: Axes, name: str) -> None:
        values, kinds, numbers = self._values(name)
        at = kinds if numbers else range(len(kinds))
        place = dict(zip(kinds, at, strict=True))
        rows = list(zip(self._good, values, strict=True))
        points = [(place[kind], value) for entry, kind in rows for value in entry.values]
        axis.scatter(*zip(*points, strict=True), color=_BLUE, alpha=0.6, s=22)
        if 1 < len(kinds) < len(points):
            means = [statistics.fmean(entry.mean for entry, value in rows if value == kind) for kind in kinds]
            axis.plot(at, means, color=_ORANGE, label="mean")
            axis.legend(frameon=False, fontsize=8)
        if numbers and _wants_log(kinds):
            axis.set_xscale("log")
        if numbers and len(kinds) <= 6:
            axis.set_xticks(kinds, [f"{kind:.4g}" for kind in kinds], fontsize=8)
            axis.minorticks_off()
        if not numbers:
            turned = 0 if len(kinds) < 5 else 60
            axis.set_xticks(at, [kind[:14] for kind in kinds], fontsize=8, rotation=turned)
        axis.set_xlabel(name[:40])

    def _values(self, name: str) -> tuple[list[Any], list[Any], bool]:
        """A parameter's value in each entry, all values in order, and whether they are numbers; else they are words."""
        numbers = all(_is_number(entry.parameters.get(name)) for entry in self._good)
        values = [entry.parameters[name] if numbers else _setting(entry, name) for entry in self._good]
        return values, sorted(set(values)), numbers

    def _scale(self, name: str) -> tuple[list[float], list[float], list[str]]:
        """Where each entry crosses the axis of a parameter, 0 to 1, and what stands beside the axis."""
        values, kinds, numbers = self._values(name)
        along = kinds.index if not numbers else math.log if _wants_log(kinds) else float
        low, high = along(kinds[0]), along(kinds[-1])
        ticks = kinds if not numbers or len(kinds) <= 6 else [kinds[0], kinds[-1]]
        at, heights = ([(along(value) - low) / ((high - low) or 1) for value in some] for some in (values, ticks))
        return at, heights, [f"{tick:.4g}" if numbers else tick for tick in ticks]

    def _draw_together(self) -> tuple[Figure, str]:
        names = self._varied[:7]
        results = [entry.mean for entry in self._good]
        low, high = min(results), max(results)
        shares = [(value - low) / ((high - low) or 1) for value in results]
        scales = [*map(self._scale, names), (shares, [0, 1], [f"{low:.4g}", f"{high:.4g}"])]
        figure = Figure(figsize=(10.6, 3.4), layout="constrained")
        axis = figure.subplots()
        for place in reversed(range(len(results))):
            line = [crossings[place] for crossings, _, _ in scales]
            colour = mpl.colormaps["viridis"](0.9 * (1 - place / len(results)))
            look = {"color": colour, "linewidth": 1, "alpha": 0.55}
            axis.plot(line, **(look if place else {"color": _ORANGE, "linewidth": 2.5}))
        for at, (_, heights, texts) in enumerate(scales):
            axis.axvline(at, color="#888888", linewidth=1)
            for height, text in zip(heights, texts, strict=True):
                axis.annotate(text[:14], (at, height), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axis.set_xticks(range(len(scales)), [name[:20] for name in [*names, self._metric.name]])
        axis.set_yticks([])
        axis.grid(False)
        axis.spines[:].set_visible(False)
        best = self._label(self._good[0])
        return figure, f"A line for each of {len(results)} settings through its parameters. The best: {best}."

    def _curves(self) -> Iterator[Part]:
        """The curves of the trainings over one another, where the notebook wrote any: a list for each quantity."""
        curved = [(entry, row.curves) for entry in self._good[:_DRAWN] for row in entry.rows if row.curves]
        names = list(dict.fromkeys(name for _, curve in curved for name in curve if name != "epochs"))
        odd = [name for name in names if not all(_is_curve(curve.get(name, [0])) for _, curve in curved)]
        plotted = [name for name in names if any(_is_curve(curve.get(name)) for _, curve in curved)]
        left_out = f" Not shown where it is no list of numbers: {', '.join(odd)}." if odd else ""
        explanation = f"The best first, one line for each run.{left_out}"
        if plotted:
            yield Part.drawn("How they learned", explanation, lambda: self._draw_curves(curved, plotted))
        elif names:
            yield Part("How they learned", explanation)

    def _draw_curves(self, curved: list[tuple[Entry, dict[str, Any]]], plotted: list[str]) -> tuple[Figure, str]:
        shown = self._good[:_DRAWN]
        colours = mpl.colormaps["viridis"]([0.9 * place / max(1, len(shown) - 1) for place in range(len(shown))])
        figure, axes = _figures(len(plotted), 3)
        for axis, name in zip(axes, plotted, strict=True):
            axis.set(xlabel="epochs", ylabel=name[:40])
            for entry, curve in curved:
                if _is_curve(values := curve.get(name)):
                    epochs = curve.get("epochs")
                    fits = _is_curve(epochs) and len(epochs) == len(values)
                    axis.plot(epochs if fits else range(len(values)), values, color=colours[shown.index(entry)])
        lines = [
            Line2D([], [], color=one, label=self._in_picture(entry)) for one, entry in zip(colours, shown, strict=True)
        ]
        figure.legend(handles=lines, loc="outside lower left", ncols=2, fontsize=8, frameon=False)
        first = {name: values for name, values in curved[0][1].items() if name in plotted and _is_curve(values)}
        ends = "; ".join(f"{name} of the best ends at {_short(values[-1])}" for name, values in first.items())
        return figure, f"Curves of {len(curved)} runs over one another. {ends}."

    def _draw_classes(self, classes: list[str]) -> tuple[Figure, str]:
        shown = self._good[:_DRAWN]
        names = [name.removeprefix("accuracy_") for name in classes]
        shares = [[100 * entry.numbers.get(name, math.nan) for name in classes] for entry in shown]
        figure = Figure(figsize=(10.6, 0.8 + 0.36 * len(shares)), layout="constrained")
        axis = figure.subplots()
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        axis.grid(False)
        for y, line in enumerate(shares):
            for x, share in enumerate(line):
                text = f"{share:.0f}" if math.isfinite(share) else ""
                axis.text(x, y, text, ha="center", va="center", color="white" if share > 70 else "#0b1a28")
        axis.set_xticks(range(len(names)), [name[:14] for name in names])
        axis.set_yticks(range(len(shares)), map(self._in_picture, shown))
        told = ", ".join(f"{name} {value:.0f}" for name, value in zip(names, shares[0], strict=True))
        return figure, f"Accuracy of each class in percent, of {len(shares)} settings. Of the best: {told}."

    def _draw_costs(self) -> tuple[Figure, str]:
        timed = [entry for entry in self._good if entry.seconds is not None]
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axis = figure.subplots()
        for entry in timed:
            axis.errorbar(entry.seconds, entry.mean, entry.spread, fmt="o", color=_BLUE, alpha=0.7)
        place = (timed[0].seconds, timed[0].mean)
        axis.annotate(self._in_picture(timed[0]), place, (6, -4), textcoords="offset points", fontsize=8)
        axis.set(xlabel="seconds", ylabel=self._metric.name[:40])
        axis.set_xlim(left=0)
        return figure, f"{self._metric.name} against seconds. The best takes {timed[0].seconds:.1f} s."


def _figures(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """`count` pictures side by side, four in a row, and none stretched over an empty row."""
    columns = min(count, 4)
    rows = math.ceil(count / columns)
    width = max(4.2, 10.6 * columns / 4) if columns > 1 else 4.8
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axis in grid.flat[count:]:
        axis.set_visible(False)
    return figure, list(grid.flat[:count])


def _note(entry: Entry) -> str:
    """What must be known of its number: how many of its runs have none, and its caveat."""
    failed = sum(row.status != folders.COMPLETED for row in entry.rows)
    without = {"failed": failed, "without it": len(entry.rows) - len(entry.values) - failed}
    partly = [f"{count} of {len(entry.rows)} {what}" for what, count in without.items() if count and entry.values]
    return ", ".join(filter(None, [*partly, entry.caveat]))


def _setting(entry: Entry, name: str) -> str:
    return _short(entry.parameters[name]) if name in entry.parameters else "-"


def _short(value: object) -> str:
    return _cut(f"{value:.6g}" if isinstance(value, float) else str(value), 40)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wants_log(kinds: list[float]) -> bool:
    """Whether the numbers, from the least to the most, lie too far apart for an even scale."""
    return kinds[0] > 0 and kinds[-1] >= 8 * kinds[0]


def _is_curve(values: object) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, int | float) for value in values)
