"""Runs and sweeps by clicking: widgets in a notebook's cell, which call what the commands call."""

from pathlib import Path


def show(notebook: str | Path | None = None, metric: str = "accuracy") -> None:
    """A form to rerun `notebook` by, this one unless it is named, above a table of all runs, ranked by `metric`.

    Where nobody watches, as in a run of the notebook itself, only a still of it is shown. The same call brings back
    everything after a restart: there is no state but the runs' folders.
    """
    from workspace.panel import panel  # with its widgets: the commands, which come by here, do without

    panel.show(notebook, metric)
