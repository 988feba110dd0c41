"""What came out of some runs as report.html, made by the notebook report.ipynb."""

import json
import os
import re
import tempfile
import threading
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.base.terminal import StatusLine
from workspace.runs import folders
from workspace.runs.notebook import Notebook
from workspace.sweeps import ranking
from workspace.sweeps.ranking import Row

REPORT = "report.html"

_NOTEBOOK = Path(__file__).with_name("report.ipynb")
_LAST_LINES = 12
_RENDERED = 200
"""So many executed notebooks are made pages of, the best ones first."""


def compare(names: list[str], output: Path | None, metric: str, mode: str) -> None:
    """Rank the runs called `names` and report them in the folder `output`. Raises UserError for one that cannot be."""
    found = [folders.find(name) for name in names]
    if unfinished := [run.name for run in found if not run.finished]:
        raise UserError(f"{unfinished[0]} has not ended; {places.command('runs')} list shows which have", cli.BAD_INPUT)
    time = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    folder = (output or places.work() / "runs" / f"compare-{time}").absolute()
    folders.require_new(folder)
    folder.mkdir(parents=True)
    rows = ranking.ranked((ranking.row(run, metric) for run in found), mode)
    ranking.write_leaderboard(folder, rows, metric)
    cli.say(str(write(folder, rows, metric, mode, title=f"{len(rows)} runs compared")))


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
            job = execution.Job(Notebook.read(_NOTEBOOK), Path(scratch, "run"), {"table": str(table)})
            made = execution.execute(job, threading.Event())
            if made.status != folders.COMPLETED:
                raise UserError(f"the report's notebook {job.notebook.name} failed: {made.record.error}")
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
