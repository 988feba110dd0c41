"""What came out of some runs: the table as leaderboard.csv, and report.html, made by the notebook report.ipynb."""

import csv
import json
import math
import os
import re
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.base.terminal import StatusLine
from workspace.runs import folders

REPORT, LEADERBOARD = "report.html", "leaderboard.csv"

_NOTEBOOK = Path(__file__).with_name("report.ipynb")
_LAST_LINES = 12
_RENDERED = 200
"""So many executed notebooks are made pages of, the best ones first."""


@dataclass(frozen=True)
class Row:
    """A run in a table of runs."""

    name: str
    folder: str
    status: str
    value: float | None  # the metric; None where there is none
    given: dict[str, Any]  # the parameters that it was given
    seconds: float | None
    error: str | None
    metrics: dict[str, Any]
    curves: dict[str, list[float]] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics that are numbers."""
        return {name: value for name, value in self.metrics.items() if _is_number(value)}


def row(run: folders.Run, metric: str) -> Row:
    """`run` as a row."""
    value = run.metrics.get(metric)
    usable = run.status == folders.COMPLETED and _is_number(value)
    record = run.record
    return Row(
        run.name,
        str(run.folder),
        run.status,
        float(value) if usable else None,
        record.get("given", {}),
        record.get("seconds"),
        record.get("error"),
        run.metrics,
        run.curves,
    )


def rows(folder: Path, metric: str, mode: str) -> list[Row]:
    """The finished runs in `folder`, the best first; after them those whose metric is no number, then the failed."""
    return ranked((row(folders.Run(file.parent), metric) for file in folder.glob(f"[!.]*/{folders.RECORD}")), mode)


def ranked(unordered: Iterable[Row], mode: str) -> list[Row]:
    """The best first: `mode` is max or min."""

    def key(row: Row) -> tuple[int, float, str]:
        if row.value is None:
            return (2 if row.status == folders.COMPLETED else 3), 0, row.name
        if math.isnan(row.value):
            return 1, 0, row.name
        return 0, -row.value if mode == "max" else row.value, row.name

    return sorted(unordered, key=key)


def better(best: Row | None, new: Row | None, mode: str) -> Row | None:
    """The better one of two rows that may be missing or without a number."""
    candidates = [row for row in (best, new) if row and row.value is not None and not math.isnan(row.value)]
    return ranked(candidates, mode)[0] if candidates else None


def compare(names: list[str], output: Path | None, metric: str, mode: str) -> None:
    """Rank the runs called `names` and report them in the folder `output`. Raises UserError for one that cannot be."""
    found = [folders.find(name) for name in names]
    if unfinished := [run.name for run in found if not run.finished]:
        raise UserError(f"{unfinished[0]} has not ended; {places.command('runs')} list shows which have", cli.BAD_INPUT)
    time = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    folder = (output or places.work() / "runs" / f"compare-{time}").absolute()
    folders.require_new(folder)
    folder.mkdir(parents=True)
    rows = ranked((row(run, metric) for run in found), mode)
    write_leaderboard(folder, rows, metric)
    cli.say(str(write(folder, rows, metric, mode, title=f"{len(rows)} runs compared")))


def write_leaderboard(folder: Path, rows: list[Row], metric: str) -> Path:
    """The table as a file for spreadsheets: rank, status, metric, parameters, seconds, the other numbers, the error."""
    names = list(dict.fromkeys(name for row in rows for name in row.given))
    numbers = sorted({name for row in rows for name in row.numbers} - {metric, *names})
    file = folder / LEADERBOARD
    with replacing(file) as new, new.open("w", newline="") as text:
        table = csv.writer(text)
        table.writerow(["rank", "run", "status", metric, *names, "seconds", *numbers, "error"])
        for rank, row in enumerate(rows, start=1):
            given = [row.given.get(name, "") for name in names]
            others = [row.numbers.get(name, "") for name in numbers]
            value = "" if row.value is None else row.value
            table.writerow([rank, row.name, row.status, value, *given, row.seconds, *others, row.error or ""])
    return file


def write(folder: Path, rows: list[Row], metric: str, mode: str, title: str) -> Path:
    """Make report.html in `folder`: one file that needs no network. Raises UserError where the notebook fails."""
    from workspace.runs import execution  # papermill: not for those who only want the table

    with StatusLine() as line:
        for number, made in enumerate(rows[:_RENDERED], start=1):
            line.show(f"pages of the executed notebooks: {number} of {min(len(rows), _RENDERED)}")
            _render(folders.Run(Path(made.folder)))
        line.show("the report")
        with tempfile.TemporaryDirectory(prefix="report-") as scratch:
            table = Path(scratch, "runs.json")
            content = {"title": title, "metric": metric, "mode": mode, "runs": [_page_row(folder, row) for row in rows]}
            table.write_text(json.dumps(content))
            job = execution.Job(_NOTEBOOK, Path(scratch, "run"), {"table": str(table)})
            made = execution.run(job, threading.Event())
            if made.status != folders.COMPLETED:
                raise UserError(f"the report's notebook {job.notebook} failed: {made.record['error']}")
            return _page(made.notebook, folder / REPORT, title, with_code=False)


def _page_row(folder: Path, row: Row) -> dict[str, Any]:
    run = folders.Run(Path(row.folder))
    page = run.notebook.with_suffix(".html")
    log = run.folder / folders.LOG
    lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:] if row.error and log.exists() else []
    link = os.path.relpath(page if page.exists() else run.notebook, folder)
    last = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(lines))
    return asdict(row) | {"link": link, "last_lines": last}


def _render(run: folders.Run) -> None:
    """Make a page of the executed notebook, once."""
    page = run.notebook.with_suffix(".html")
    if run.notebook.exists() and not page.exists():
        _page(run.notebook, page, run.name, with_code=True)


def _page(notebook: Path, page: Path, title: str, *, with_code: bool) -> Path:
    """Write `notebook` as one HTML file that loads nothing from anywhere."""
    import nbformat
    from nbconvert import HTMLExporter

    content = nbformat.read(notebook, as_version=4)
    content.metadata.pop("widgets", None)  # they need a script from the network
    exporter = HTMLExporter(embed_images=True, exclude_input=not with_code, exclude_markdown=not with_code)
    exporter.exclude_output_prompt = not with_code
    exporter.mathjax_url = exporter.require_js_url = exporter.jquery_url = ""
    exporter.mermaid_js_url = exporter.mermaid_layout_elk_js_url = exporter.jupyter_widgets_base_url = ""
    content.metadata["title"] = title
    body, _ = exporter.from_notebook_node(content)
    with replacing(page) as new:
        new.write_text(body)
    return page


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
