"""What came out of some runs as report.html, made by the notebook report.ipynb."""

import contextlib
import json
import os
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.base.terminal import StatusLine
from workspace.runs import folders, logs, sweep_record
from workspace.runs.notebook import Notebook
from workspace.sweeps import ranking
from workspace.sweeps.ranking import Entry, Metric, Row

REPORT = "report.html"

NOTEBOOK = Path(__file__).with_name("report.ipynb")
_LAST_LINES = 12
_RENDERED = 200
"""So many executed notebooks are made pages of, the best ones first."""


def compare(names: list[str], output: Path | None, metric: Metric) -> None:
    """Rank the runs called `names`, and those of sweeps called so, and report them in the folder `output`.

    Raises UserError for one that cannot be.
    """
    found: list[folders.Run] = []
    for name in names:
        sweep = sweep_record.find(name)
        ended = ranking.ended(sweep) if sweep else []
        if sweep and not ended:
            raise UserError(f"no run of the sweep {name} has ended", cli.BAD_INPUT)
        found += ended or [folders.find(name)]
    if unfinished := [run.name for run in found if not run.finished]:
        raise UserError(f"{unfinished[0]} has not ended; {places.command('runs')} list shows which have", cli.BAD_INPUT)
    folder = _new_folder(output)
    rows = [replace(ranking.row(run, metric.name), name=run.full_name) for run in found]
    entries = ranking.entries(rows, metric)
    ranking.write_leaderboard(folder, entries, metric)
    page = write(folder, entries, metric, f"{len(rows)} runs compared", named=True)
    say(entries, metric, page)


def _new_folder(wanted: Path | None) -> Path:
    """Make the folder `wanted`, or one that nobody else has. Raises UserError where it is taken or cannot be made."""
    place = folders.place(wanted, "compare")
    if wanted:
        place.mkdir(parents=True)
        return place
    for folder in folders.beside(place):  # two comparisons may begin in the same second
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("there is always a next name")


def say(entries: list[Entry], metric: Metric, page: Path) -> None:
    """Say where the report is, and what must be known with it."""
    best = f"best {metric.name} {entries[0]} {entries[0].caveat}".rstrip() if entries[0].ranks else ""
    for line in filter(None, [best, metric.note, ranking.certainty(entries), str(page)]):
        cli.say(line)


def write(folder: Path, entries: list[Entry], metric: Metric, title: str, *, named: bool = False) -> Path:
    """Make report.html in `folder`: one file that needs no network. Raises UserError where the notebook fails.

    `named`: what tells the runs apart is their names.
    """
    from workspace.runs import execution  # papermill: not for those who only want the table

    rows = [row for entry in entries for row in entry.rows]
    with StatusLine() as line:
        for number, row in enumerate(rows[:_RENDERED], start=1):
            line.show(f"pages of the executed notebooks: {number} of {min(len(rows), _RENDERED)}")
            _render(folders.Run(Path(row.folder)))
        line.show("the report")
        content = {
            "title": title,
            "metric": metric.name,
            "mode": metric.mode,
            "order": str(metric),
            "best": str(entries[0]),
            "caveat": entries[0].caveat,
            "certainty": ranking.certainty(entries),
            "named": named,
            "entries": [_shown(folder, entry, metric) for entry in entries],
        }
        with tempfile.TemporaryDirectory(prefix="report-") as scratch:
            table = Path(scratch, "runs.json")
            table.write_text(json.dumps(content, default=repr))
            job = execution.Job(Notebook.read(NOTEBOOK), Path(scratch, "run"), {"table": str(table)})
            made = execution.execute(job, threading.Event())
            if made.status != folders.COMPLETED:
                raise UserError(f"the report's notebook {job.notebook.name} failed: {made.record.error}")
            return _page(made.notebook, folder / REPORT, title, with_code=False)


def _shown(folder: Path, entry: Entry, metric: Metric) -> dict[str, Any]:
    """An entry as the report's notebook takes it."""
    if entry.mean is not None:
        shown = str(entry).partition(" of ")[0] if entry.ranks else "not a number"
    elif entry.status != folders.COMPLETED:
        shown = entry.status
    else:
        shown = "no number" if metric.name in entry.rows[0].metrics else "not written"
    failed = sum(row.status != folders.COMPLETED for row in entry.rows)
    without = {"failed": failed, "without it": len(entry.rows) - len(entry.values) - failed}
    partly = [f"{count} of {len(entry.rows)} {what}" for what, count in without.items() if count and entry.values]
    return {
        "shown": shown,
        "note": ", ".join(filter(None, [*partly, entry.caveat])),
        "ranks": entry.ranks,
        "value": entry.mean,
        "values": entry.values,
        "spread": entry.spread,
        "parameters": entry.parameters,
        "metrics": entry.numbers,
        "seconds": entry.seconds,
        "notebook": entry.rows[0].notebook,
        "runs": [_shown_run(folder, row, entry) for row in entry.rows],
    }


def _shown_run(folder: Path, row: Row, entry: Entry) -> dict[str, Any]:
    run = folders.Run(Path(row.folder))
    page = run.notebook.with_suffix(".html")
    return {
        "name": row.name,
        "seed": f"seed {row.parameters[ranking.SEED]}" if len(entry.rows) > 1 else "",
        "status": row.status,
        "seconds": row.seconds,
        "error": row.error,
        "curves": row.curves,
        "link": os.path.relpath(page if page.exists() else run.notebook, folder),
        "last_lines": "\n".join(logs.last_lines(run.folder / folders.LOG, _LAST_LINES)) if row.error else "",
    }


def _render(run: folders.Run) -> None:
    """Make a page of the executed notebook, once; where that cannot be, the report's link leads to the notebook."""
    page = run.notebook.with_suffix(".html")
    if run.notebook.is_file() and not page.exists():
        try:
            _page(run.notebook, page, run.name, with_code=True)
        except OSError:  # a full disk is no fault of the notebook's
            raise
        except Exception as error:  # a notebook holds what it likes, and nbconvert raises what it likes
            cli.say(f"{run.name}: no page can be made of its notebook: {error}".splitlines()[0])


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
