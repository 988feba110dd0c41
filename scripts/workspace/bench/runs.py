"""What a run and a sweep cost beside papermill: like beside like, by turns, with notebooks that do nothing or sleep.

papermill is measured as `pip install papermill ipykernel` gives it, in an environment made for this, and in the
workspace's own, from which docker/overrides.txt leaves out what makes it slow. What counts is what a run takes beyond
its notebook's own time. Exit code 1 where a bound is missed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from workspace.base import cli, network
from workspace.base.cli import UserError
from workspace.bench.measuring import Cost, Table, cost, each, medians, number_option, script
from workspace.host import installer

_NOTEBOOKS = {
    "nothing": "pass",
    "sleeps": "import time\ntime.sleep(2)",
    "endless": "while True:\n    pass",
    "deaf": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass",
}
_PARAMETERS = 'x: int = 0\noutput_folder: str = "."'
_METRICS = "import json, pathlib\npathlib.Path(output_folder, 'metrics.json').write_text(json.dumps({'accuracy': x}))"

_FRESH, _HERE, _OURS = "papermill, freshly installed", "papermill, as it is here", "this workspace"
_ALONE, _MORE, _PAIRS = (
    "a run in a process of its own",
    "one more run of many in one process",
    "eight runs of 2 s in pairs",
)
_JOBS = {_ALONE: 0, _MORE: 0, _PAIRS: 8}
"""What is compared, and the seconds that the notebooks themselves take of it."""
_LOOP = """
import sys, papermill
for number in range(int(sys.argv[1])):
    papermill.execute_notebook("nothing.ipynb", f"out-{number}.ipynb", progress_bar=False)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    number_option(parser, "--rounds", "how often each is measured", 3)


def main(options: argparse.Namespace) -> int:
    """Measure, and print each number beside its bound; 1 where one is missed."""
    with tempfile.TemporaryDirectory(prefix="bench-runs-") as name:
        work = Path(name)
        os.environ["WORKSPACE_WORK"] = str(work)
        for notebook, cell in _NOTEBOOKS.items():
            _write_notebook(work / f"{notebook}.ipynb", _PARAMETERS, cell, _METRICS)
        fresh = _fresh(work / "fresh")
        sides = {_FRESH: _papermill(work, fresh), _HERE: _papermill(work, sys.executable), _OURS: _workspace(work)}
        costs: dict[tuple[str, str], list[Cost]] = {(job, side): [] for job in _JOBS for side in sides}
        for number in range(options.rounds):
            for job, side in costs:
                costs[job, side].append(sides[side][job]())
                cli.say(f"round {number + 1}, {job}, {side}: {costs[job, side][-1].seconds:.2f} s")
        tables = compared({key: medians(measured) for key, measured in costs.items()}), _promises(work, fresh)
    for table in tables:
        table.show()
    return int(any(table.missed for table in tables))


def compared(costs: dict[tuple[str, str], Cost]) -> Table:
    """The table of each job's cost on each side; ours is bound to 40 % of papermill's, and alone to 2 CPU seconds."""
    table = Table("", "", "seconds", "CPU seconds", "beside papermill", "bound")
    for (job, side), (seconds, cpu) in costs.items():
        share = (seconds - _JOBS[job]) / (costs[job, _FRESH].seconds - _JOBS[job])
        cells = job, side, f"{seconds:.2f}", f"{cpu:.2f}", f"{share:.0%}"
        if side != _OURS:
            table.add(*cells)
        elif job == _ALONE:
            table.add(*cells, bound="at most 40 %, 2 CPU seconds", kept=share <= 0.4 and cpu <= 2)
        else:
            table.add(*cells, bound="at most 40 %", kept=share <= 0.4)
    return table


def _fresh(folder: Path) -> str:
    """The Python of a new environment with papermill and what it asks for. Raises UserError without a network."""
    uv, python = str(installer.uv()), str(folder / "bin/python")
    wanted = [f"papermill=={version('papermill')}", "ipykernel"]
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *wanted],
    ):
        if subprocess.run(command, env=os.environ | network.environment(), check=False).returncode:
            raise UserError("there is nothing to compare with: papermill could not be installed, see above")
    return python


def _papermill(work: Path, python: str) -> dict[str, Callable[[], Cost]]:
    # JUPYTER_PATH leads to the workspace's kernel, which starts in the workspace's environment.
    environment = os.environ | ({} if python == sys.executable else {"JUPYTER_PATH": ""})

    def took(*words: str) -> Cost:
        return cost(words, work, environment)

    return {
        _ALONE: lambda: took(*_command(python), "nothing.ipynb", "out.ipynb"),
        _MORE: lambda: each(took(python, "-c", _LOOP, "2"), took(python, "-c", _LOOP, "10"), 8),
        _PAIRS: lambda: took(*_eight(python, at_once=2)),
    }


def _command(python: str) -> list[str]:
    return [python, "-m", "papermill", "--log-level", "ERROR", "--no-progress-bar"]


def _eight(python: str, at_once: int) -> list[str]:
    xargs = ["xargs", "-P", str(at_once), "-I", "N", *_command(python), "sleeps.ipynb", "out-N.ipynb"]
    return ["sh", "-c", 'seq 8 | "$@"', "sh", *xargs]


def _workspace(work: Path) -> dict[str, Callable[[], Cost]]:
    """The same by scripts/run and scripts/sweep, whose report is made, too."""
    return {
        _ALONE: lambda: cost([*script("run"), "nothing.ipynb"], work),
        _MORE: lambda: each(_sweep(work, "nothing", 2, 1), _sweep(work, "nothing", 10, 1), 8),
        _PAIRS: lambda: _sweep(work, "sleeps", 8, 2),
    }


def _sweep(work: Path, notebook: str, runs: int, at_once: int) -> Cost:
    """A sweep of so many runs, in a folder of its own."""
    folder = tempfile.mkdtemp(prefix=f"{notebook}-", dir=work)
    axis = f"x=1:{runs}:{runs}"
    return cost([*script("sweep"), f"{notebook}.ipynb", "-p", axis, "-j", str(at_once), "-o", folder], work)


def _promises(work: Path, fresh: str) -> Table:
    """What else is promised, each beside its bound."""
    table = Table("", "", "bound")
    begun = time.time()
    pairs = _sweep(work, "sleeps", 8, 2).seconds
    records = sorted(work.glob("sleeps-*/*/run.json"), key=lambda file: file.stat().st_mtime)[-8:]
    seconds = [json.loads(file.read_text())["seconds"] for file in records]
    ends = [file.stat().st_mtime for file in records]
    first = min(end - took for end, took in zip(ends, seconds, strict=True))
    used = sum(seconds) / (2 * (max(ends) - first))
    first -= begun
    series = cost(_eight(fresh, at_once=1), work, os.environ | {"JUPYTER_PATH": ""}).seconds / pairs
    resumed = _resume(work)
    table.add("papermill in series takes", f"{series:.1f} times as long", bound="at least 3", kept=series >= 3)
    table.add("a sweep's first run starts after", f"{first:.2f} s", bound="at most 2 s", kept=first <= 2)
    table.add("its workers are at work", f"{used:.1%}", bound="at least 97 %", kept=used >= 0.97)
    table.add("1,000 runs are found done in", f"{resumed:.2f} s", bound="at most 0.5 s", kept=resumed <= 0.5)
    for notebook, cell in {"endless": "an endless cell", "deaf": "one that ignores the interrupt"}.items():
        late = max(_late(work, notebook) for _ in range(3))
        table.add(f"a time limit ends {cell} late by", f"{late:.2f} s", bound="at most 1 s", kept=late <= 1)
    return table


def _resume(work: Path) -> float:
    from workspace.sweeps import plans

    sweep = [*script("sweep"), "nothing.ipynb", "-o", "many", "-p"]
    cost([*sweep, "x=1"], work)
    [made] = (file.parent for file in work.glob("many/*/run.json"))
    for x in range(1, 1001):
        shutil.copytree(made, work / "many" / plans.run_name({"x": x}, ["x"]), dirs_exist_ok=True)
    return min(cost([*sweep, "x=1:1000:1000"], work).seconds for _ in range(3))


def _late(work: Path, notebook: str) -> float:
    folder = Path(tempfile.mkdtemp(prefix="late-", dir=work), "run")
    cost([*script("run"), f"{notebook}.ipynb", "--timeout", "4", "-o", str(folder)], work, os.environ, 1)
    return json.loads((folder / "run.json").read_text())["seconds"] - 4


def _write_notebook(path: Path, *cells: str) -> None:
    """A notebook of these cells, the first of which holds the parameters."""
    import nbformat

    content = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    content.metadata["language_info"] = {"name": "python"}
    content.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    content.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(content, path)
