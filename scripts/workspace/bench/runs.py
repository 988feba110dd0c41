"""What a run and a sweep cost beside the papermill command, by turns, with small notebooks that only sleep.

Overhead is what a run takes beyond the notebook's own time. Beside the seconds stand CPU seconds, of the kernel, too,
which other programs on the machine change less. The papermill command is measured as `pip install papermill` gives it,
and as it is here, where docker/overrides.txt leaves out what makes it slow.
"""

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from workspace.base import cli, places
from workspace.host import venv
from workspace.runs import folders
from workspace.runs.notebook import Notebook

_PACKAGES = ("distributed", "dask", "cloudpickle", "importlib-metadata", "lazy-importer", "locket", "msgpack")
_PACKAGES += ("partd", "tblib", "toolz", "zict", "zipp")
_STOCK, _HERE, _RUN = "papermill as released", "papermill as it is here", "scripts/run"
_LEFT_OUT = "left-out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--rounds", type=int, default=3, help="how often the overheads are measured (default 3)")


def main(options: argparse.Namespace) -> None:
    """Measure, and print each number beside what it should be."""
    with tempfile.TemporaryDirectory(prefix="bench-runs-") as name:
        work = Path(name)
        _notebook(work / "nothing.ipynb", "pass")
        _notebook(work / "sleeps.ipynb", "import time\ntime.sleep(2)")
        _notebook(work / "endless.ipynb", "while True:\n    pass")
        _notebook(
            work / "deaf.ipynb", "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass"
        )
        left_out = [
            str(venv.installer().uv),
            "pip",
            "install",
            "--quiet",
            "--compile-bytecode",
            "--target",
            str(work / _LEFT_OUT),
        ]
        subprocess.run([*left_out, "rfc3987-syntax", "isoduration"], check=True)
        _overhead(work, options.rounds)
        _eight(work)
        _resume(work)
        _timeout(work)
    megabytes = sum(map(_size, _PACKAGES)) / 1e6
    cli.say(f"packages that sweeps add to the image: {megabytes:.1f} MB (at most 20)")


def _overhead(work: Path, rounds: int) -> None:
    papermill = [*_papermill(), "nothing.ipynb", "out.ipynb"]
    taken: dict[str, list[tuple[float, float]]] = {_STOCK: [], _HERE: [], _RUN: []}
    for _ in range(rounds):
        taken[_STOCK].append(_timed(work, papermill, stock=True))
        taken[_HERE].append(_timed(work, papermill))
        taken[_RUN].append(_timed(work, [*_command("run"), "nothing.ipynb"]))
    for name, times in taken.items():
        cli.say(f"one empty notebook by {name:21} {_middle(times, 0):5.1f} s {_middle(times, 1):6.2f} CPU-s")
    few, many = (_timed(work, [*_command("sweep"), "nothing.ipynb", "-p", f"x=1:{n}:{n}", "-j", "1"]) for n in (2, 10))
    wall, cpu = ((many[index] - few[index]) / 8 for index in (0, 1))
    cli.say(
        f"one more empty run in a sweep              {wall:5.1f} s {cpu:6.2f} CPU-s (report and page of it included)"
    )
    ours = {_RUN: (_middle(taken[_RUN], 0), _middle(taken[_RUN], 1)), "a run of a sweep": (wall, cpu)}
    for base in (_STOCK, _HERE):
        plain, plain_cpu = (_middle(taken[base], index) for index in (0, 1))
        for name, (seconds, cpu_seconds) in ours.items():
            shares = f"{seconds / plain:.0%} of the seconds of {base}, {cpu_seconds / plain_cpu:.0%} of its CPU-s"
            cli.say(f"{name}: {shares} (at most 40 %)")


def _eight(work: Path) -> None:
    begun = time.time()
    command = [*_command("sweep"), "sleeps.ipynb", "-p", "x=1:8:8", "-j", "2", "-o", "eight"]
    total, _ = _timed(work, command)
    series = {
        name: sum(_timed(work, [*_papermill(), "sleeps.ipynb", "out.ipynb"], stock=name == _STOCK)[0] for _ in range(8))
        for name in (_STOCK, _HERE)
    }
    ends = {file: file.stat().st_mtime for file in work.glob("eight/*/run.json")}
    seconds = {file: folders.Record.read(file).seconds or 0 for file in ends}
    first, last = min(ends[file] - seconds[file] for file in ends), max(ends.values())
    used = sum(seconds.values()) / (2 * (last - first))
    cli.say(f"eight runs of 2 s: the sweep at -j 2 {last - begun:.1f} s, with the report {total:.1f} s")
    for name, took in series.items():
        cli.say(f"{name} in series {took:.1f} s, {took / (last - begun):.1f} times as long (at least 3)")
    cli.say(f"first run started {first - begun:.1f} s after the command (at most 2); workers used {used:.1%} (97 %)")


def _resume(work: Path) -> None:
    command = [*_command("sweep"), "nothing.ipynb", "-p", "x=1:1000:1000", "-o", "many", "--dry-run"]
    from workspace.sweeps import axes

    folder = work / "many"
    folder.mkdir()
    digest = Notebook.read(work / "nothing.ipynb").digest
    (folder / "sweep.json").write_text(json.dumps({"notebook_digest": digest}))
    (folder / "report.html").touch()
    for x in range(1, 1001):
        made = folder / axes.run_name({"x": x}, ["x"])
        made.mkdir()
        folders.Record(status=folders.COMPLETED, given={"x": x}).write(made / folders.RECORD)
    bare = min(_timed(work, [*command[:2], "--help"])[0] for _ in range(3))
    taken = min(_timed(work, command[:-1])[0] for _ in range(3))
    cli.say(f"resume of 1,000 completed runs: {taken:.2f} s (at most 0.5), {bare:.2f} s of it to start Python")


def _timeout(work: Path) -> None:
    for notebook, cell in {"endless": "an endless cell", "deaf": "one that ignores the interrupt"}.items():
        late = []
        for number in range(3):
            folder = f"late-{notebook}-{number}"
            _timed(work, [*_command("run"), f"{notebook}.ipynb", "--timeout", "4", "-o", folder], fails=True)
            late.append((folders.Record.read(work / folder / folders.RECORD).seconds or 0) - 4)
        shown = ", ".join(f"{seconds:.2f}" for seconds in late)
        cli.say(f"a timeout of 4 s ended {cell} {shown} s late (at most 1)")


def _notebook(path: Path, cell: str) -> None:
    import nbformat

    content = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    tags = {"tags": ["parameters"]}
    content.cells = [nbformat.v4.new_code_cell("x: int = 0", metadata=tags), nbformat.v4.new_code_cell(cell)]
    content.metadata["language_info"] = {"name": "python"}
    nbformat.write(content, path)


def _command(name: str) -> list[str]:
    return [sys.executable, str(places.REPOSITORY / "scripts" / name)]


def _papermill() -> list[str]:
    return [sys.executable, "-m", "papermill", "--log-level", "ERROR", "--no-progress-bar"]


def _timed(work: Path, command: list[str], *, fails: bool = False, stock: bool = False) -> tuple[float, float]:
    """Seconds and CPU seconds of `command`, which must succeed unless it `fails`; `stock`: with what is left out."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"WORKSPACE_WORK": str(work)} | ({"PYTHONPATH": str(work / _LEFT_OUT)} if stock else {})
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    # No run writes an accuracy here, which a sweep reports as its failure.
    if done.returncode and not fails and "no run wrote the metric" not in done.stderr:
        raise cli.UserError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _middle(times: Iterable[tuple[float, float]], index: int) -> float:
    return statistics.median(time[index] for time in times)


def _size(package: str) -> int:
    files = importlib.metadata.files(package) or []
    return sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).exists())
