"""What a saved notebook shows of a panel: a table that needs neither a kernel nor a script."""

import html
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from workspace.base.terminal import duration
from workspace.panel.watch import Watch
from workspace.runs.notebook import Notebook

_ROWS = 8
_CELL = "padding: .25em .9em .25em 0; text-align: left; vertical-align: top"


def of(watch: Watch, notebook: Notebook | None, metric: str) -> dict[str, Any]:
    """The latest runs, as a page and as text."""
    latest = sorted(watch.ended.values(), key=lambda one: (one.record.started, one.run), reverse=True)
    what = f"Rerun {notebook.name if notebook else 'this notebook'} with other settings"
    under_way = f", {len(watch.under_way)} under way" if watch.under_way else ""
    when = f"{datetime.now().astimezone():%Y-%m-%d %H:%M}"
    how_many = f"{len(latest)} runs had ended{under_way} on {when}" if latest or under_way else "no run yet"
    title, hint = f"{what} ({how_many}).", "Run this cell to use it."
    rows = []
    for one in latest[:_ROWS]:
        value = one.row.numbers.get(metric)
        given = ", ".join(f"{name} {value}" for name, value in one.record.given.items())
        seconds = "" if one.row.seconds is None else duration(one.row.seconds)
        rows.append((one.row.status, "" if value is None else f"{value:.4g}", seconds, given[:120], one.run))
    heads = ("status", metric, "time", "set", "run")
    lines = ["  ".join(row) for row in rows]
    cells = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    table = f"<table><tr>{_cells('th', heads)}</tr>{cells}</table>" if rows else ""
    more = f"<p>and {len(latest) - _ROWS} more</p>" if len(latest) > _ROWS else ""
    return {
        "text/html": f"<div><p><b>{html.escape(title)}</b> {hint}</p>{table}{more}</div>",
        "text/plain": "\n".join([f"{title} {hint}", *lines]),
    }


def _cells(kind: str, texts: Iterable[str]) -> str:
    return "".join(f"<{kind} style='{_CELL}'>{html.escape(text)}</{kind}>" for text in texts)
