"""What came out of some runs as report.html, with a page of each executed notebook that it links to."""

import contextlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.base.terminal import StatusLine
from workspace.runs import folders, sweep_record
from workspace.sweeps import ranking
from workspace.sweeps.ranking import Entry, Metric

if TYPE_CHECKING:
    from nbconvert import HTMLExporter

REPORT = "report.html"
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
    rows = [replace(ranking.row(run), name=run.full_name) for run in found]
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
    """Make report.html in `folder`: one file that needs no network. Raises OSError where the disk does not take it.

    `named`: what tells the runs apart is their names.
    """
    rows = [row for entry in entries for row in entry.rows]
    with StatusLine() as line:
        for number, row in enumerate(rows[:_RENDERED], start=1):
            line.show(f"pages of the executed notebooks: {number} of {min(len(rows), _RENDERED)}")
            _render(folders.Run(Path(row.folder)))
        line.show("the report")
        from workspace.sweeps import report_page  # matplotlib: not for those who only want the table

        with replacing(folder / REPORT) as new:
            new.write_text(report_page.Page(folder, entries, metric).html(title, named=named))
    return folder / REPORT


def prepare() -> None:
    """Import what reports are made with, and what makes pages of notebooks, while there is time."""
    import nbformat

    from workspace.sweeps import report_page  # noqa: F401

    _exporter().from_notebook_node(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("pass")]))


def _render(run: folders.Run) -> None:
    """Make a page of the executed notebook, once; where that cannot be, the report's link leads to the notebook."""
    page = run.notebook.with_suffix(".html")
    if run.notebook.is_file() and not page.exists():
        try:
            _page(run.notebook, page, run.name)
        except OSError:  # a full disk is no fault of the notebook's
            raise
        except Exception as error:  # a notebook holds what it likes, and nbconvert raises what it likes
            cli.say(f"{run.name}: no page can be made of its notebook: {error}".splitlines()[0])


def _page(notebook: Path, page: Path, title: str) -> None:
    """Write `notebook` as one HTML file that loads nothing from anywhere."""
    import nbformat

    content = nbformat.read(notebook, as_version=4)
    content.metadata.pop("widgets", None)  # they need a script from the network
    content.metadata["title"] = title
    body, _ = _exporter().from_notebook_node(content)
    with replacing(page) as new:
        new.write_text(body)


@cache
def _exporter() -> "HTMLExporter":
    """One for all pages: it takes longer to make than a page."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(embed_images=True)
    exporter.mathjax_url = exporter.require_js_url = exporter.jquery_url = ""
    exporter.mermaid_js_url = exporter.mermaid_layout_elk_js_url = exporter.jupyter_widgets_base_url = ""
    return exporter
