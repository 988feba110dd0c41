"""Small notebooks, one condition each, and the commands that run them."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import nbformat
from labs import REPOSITORY

PARAMETERS = """\
x: int = 1  # a whole number (0 to 10)
rate: float = 0.1  # a number (1e-6 to 1)
mirror: bool = True  # a switch
mode: str = "fast"  # a word (fast, slow or off)
seed: int = 0
output_folder: str = "."
"""
METRICS = """\
import json
from pathlib import Path

Path(output_folder, "metrics.json").write_text(json.dumps({"accuracy": x * rate, "x": x}))
"""


def notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    """Write a notebook of these code cells, after a parameters cell."""
    content = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    if parameters is not None:
        content.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    content.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(content, path)
    return path


def arguments(name: str, *given: object) -> list[str]:
    return [sys.executable, str(REPOSITORY / "scripts" / name), *map(str, given)]


def environment(work: Path) -> dict[str, str]:
    return os.environ | {"WORKSPACE_WORK": str(work), "PYTHONUNBUFFERED": "1"}


def command(work: Path, name: str, *given: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the workspace whose work folder is `work`, in that folder."""
    return subprocess.run(
        arguments(name, *given),
        cwd=work,
        env=environment(work),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def leaderboard(folder: Path) -> list[dict[str, str]]:
    """The lines of the table of a sweep or a comparison."""
    with (folder / "leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file))
