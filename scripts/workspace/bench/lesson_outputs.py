"""Make the lesson's committed outputs again: run it, and keep what its cells show in the notebook itself."""

import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from workspace.base import cli
from workspace.base.places import DELIVERED, LESSON

WIDGETS = ("application/vnd.jupyter.widget-view+json",)  # dead without a kernel: a button nobody can press


def run(notebook: NotebookNode, parameters: dict[str, Any]) -> None:
    """Run `notebook` beside its modules with `parameters`; its cells then hold what they showed.

    Raises nbclient's CellExecutionError for a cell that fails.
    """
    position = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(position + 1, nbformat.v4.new_code_cell(source))
    client = NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(DELIVERED)}})
    client.on_cell_executed = lambda cell_index, **_: cli.say(f"cell {cell_index + 1} of {len(notebook.cells)}")
    try:
        client.execute()
    finally:
        del notebook.cells[position + 1]


def tidy(notebook: NotebookNode) -> None:
    """Count the cells from 1 and drop what differs from run to run or means nothing without a kernel."""
    notebook.metadata = {
        key: notebook.metadata[key] for key in ("kernelspec", "language_info") if key in notebook.metadata
    }
    notebook.metadata["language_info"] = {"name": "python"}
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        cell.metadata.pop("execution", None)
        cell.execution_count = count
        cell.outputs = [output for output in cell.outputs if not _is_passing(output)]


def _is_passing(output: NotebookNode) -> bool:
    """Whether it meant something only while the cell ran: a widget, a bar that moved."""
    return any(kind in output.get("data", {}) for kind in WIDGETS) or "\r" in output.get("text", "")


def make(folder: Path | None) -> None:
    """Run the lesson on CIFAR-10, or on the images in `folder`, and keep its outputs. Raises UserError if it fails."""
    notebook = nbformat.read(DELIVERED / LESSON, as_version=4)
    with tempfile.TemporaryDirectory() as output:
        os.environ["WORKSPACE_WORK"] = output  # nobody's runs are shown in what is delivered
        source = {"dataset": "folder", "data_folder": str(folder)} if folder else {"dataset": "cifar10"}
        try:
            run(notebook, source | {"output_folder": output})
        except CellExecutionError as error:
            raise cli.UserError(
                f"the lesson fails, its outputs stay as they were: {error.ename}: {error.evalue}"
            ) from None
    tidy(notebook)
    nbformat.write(notebook, DELIVERED / LESSON)
    cli.say(f"{LESSON}: {(DELIVERED / LESSON).stat().st_size / 1e3:.0f} kB")
