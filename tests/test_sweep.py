"""scripts/sweep: what it varies, what it refuses, what it keeps, and what it makes again."""

import csv
import importlib.metadata
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from labs import REPOSITORY, free_port, wait_until
from small import METRICS, arguments, command, environment, notebook
from workspace.base.cli import UserError
from workspace.runs import folders
from workspace.runs.notebook import Notebook
from workspace.sweeps import axes, ranking


def read_axes(tmp_path: Path, *given: str, file: dict | None = None) -> dict[str, tuple]:
    small = notebook(tmp_path / "small.ipynb")
    return {axis.name: axis.values for axis in axes.read(Notebook.read(small), given, file or {})}


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("x=1,2,3", (1, 2, 3)),
        ("rate=1e-3,0.01", (0.001, 0.01)),
        ("rate=0.1:0.5:3", (0.1, 0.3, 0.5)),
        ("rate=log:1e-3:1e-1:3", (0.001, 0.01, 0.1)),
        ("x=2:10:5", (2, 4, 6, 8, 10)),
        ("x=log:1:8:4", (1, 2, 4, 8)),
        ("mirror=yes,no", (True, False)),
        ("mode=off", ("off",)),
    ],
)
def test_an_axis_has_values_of_its_parameters_type(tmp_path: Path, given: str, values: tuple) -> None:
    assert read_axes(tmp_path, given) == {given.split("=")[0]: values}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["x"], "write NAME=V1,V2"),
        (["x="], "a value is missing"),
        (["x=1,,2"], "a value is missing"),
        (["x=1", "x=2"], "x is given twice"),
        (["x=1,2,1"], "x has 1 twice"),
        (["rate=0.1,1e-1"], "rate has 0.1 twice"),
        (["x=1:3:9"], "twice"),
        (["x=1,11"], "Allowed: 0 to 10"),
        (["rat=1"], "did you mean rate"),
        (["output_folder=../x"], "-o"),
        (["rate=0.5:0.1:3"], "LOW must be below HIGH"),
        (["x=log:0:8:3"], "above 0"),
        (["rate=0.1:0.5:0"], "N above 0"),
        (["rate=0.1:nan:3"], "nan"),
        (["mode=fast,../x"], "Allowed: fast, slow or off"),
    ],
)
def test_an_axis_that_makes_no_sense_is_refused(tmp_path: Path, given: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)) as refused:
        read_axes(tmp_path, *given)
    assert refused.value.exit_code == 2


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    file = {"x": [1, 2], "rate": "log:1e-2:1e-1:2", "mirror": False}
    assert read_axes(tmp_path, "x=5", file=file) == {"rate": (0.01, 0.1), "mirror": (False,), "x": (5,)}


def test_draws_are_the_same_each_time_and_all_different() -> None:
    some = [axes.Axis("x", range=axes.Range(1, 100, log=True, whole=True)), axes.Axis("y", (1, 2))]
    drawn = list(axes.draws(some, 20))
    assert drawn == list(axes.draws(some, 20))
    assert len({axes.identity(values) for values in drawn}) == 20
    assert all(1 <= values["x"] <= 100 for values in drawn)


def test_a_grid_of_a_range_without_a_number_is_refused() -> None:
    with pytest.raises(UserError, match="how many values"):
        list(axes.grid([axes.Axis("x", range=axes.Range(1, 2, log=False, whole=False))]))


@pytest.mark.parametrize("value", ["../../etc", "/etc/passwd", ".", "", "a" * 500, "é\n\0"])
def test_a_runs_name_is_never_a_path(value: str) -> None:
    name = axes.run_name({"data": value}, ["data"])
    assert Path(name).name == name
    assert not name.startswith(".")
    assert len(name) < 100


def test_a_number_that_is_none_ranks_last_and_failures_after_it() -> None:
    def row(name: str, value: float | None, status: str = folders.COMPLETED) -> ranking.Row:
        return ranking.Row(name, "", status, value, {}, 1.0, None, {})

    mixed = [row("d", None, folders.FAILED), row("b", math.nan), row("a", 0.1), row("c", None), row("e", 0.9)]
    assert [row.name for row in ranking.ranked(mixed, "max")] == ["e", "a", "b", "c", "d"]
    assert [row.name for row in ranking.ranked(mixed, "min")] == ["a", "e", "b", "c", "d"]


SOMETIMES = """\
from pathlib import Path

if x == 3 and not Path("mended").exists():
    raise ValueError("three is too many")
if x == 2:
    rate = float("nan")
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A sweep of four runs, of which one fails and one writes NaN."""
    work = tmp_path_factory.mktemp("work")
    notebook(work / "some.ipynb", SOMETIMES, METRICS)
    return work, command(work, "sweep", "some.ipynb", "-p", "x=1,2,3,4", "-p", "rate=0.1", "-j", 2, "-o", "out")


def leaderboard(folder: Path) -> list[dict[str, str]]:
    with (folder / "leaderboard.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_sweep_with_a_failure_is_reported_and_exits_with_1(swept: tuple) -> None:
    work, done = swept
    assert done.returncode == 1, done.stderr
    assert "1 of 4 runs failed, the first with: ValueError: three is too many" in done.stderr
    table = leaderboard(work / "out")
    assert [row["x"] for row in table] == ["4", "1", "2", "3"]
    assert [row["accuracy"] for row in table] == ["0.4", "0.1", "nan", ""]
    assert [row["status"] for row in table] == ["completed"] * 3 + ["failed"]


def test_the_report_is_one_file_that_needs_no_network(swept: tuple) -> None:
    page = (swept[0] / "out/report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//[^"'> ]+""", page)
    assert "three is too many" in page
    assert "not a number" in page
    for link in re.findall(r"href='([^']+\.html)'", page):
        assert (swept[0] / "out" / link).exists()


def test_the_same_command_makes_only_what_failed_again(swept: tuple) -> None:
    work, _ = swept
    before = {file: file.stat().st_mtime_ns for file in work.glob("out/*/run.json")}
    (work / "mended").touch()
    done = command(work, "sweep", "some.ipynb", "-p", "x=1,2,3,4", "-p", "rate=0.1", "-j", 2, "-o", "out")
    assert done.returncode == 0, done.stderr
    after = {file: file.stat().st_mtime_ns for file in work.glob("out/*/run.json")}
    changed = [json.loads(file.read_text())["given"]["x"] for file in after if after[file] != before.get(file)]
    assert changed == [3]
    assert len(list((work / "out/replaced").iterdir())) == 1
    assert leaderboard(work / "out")[1]["x"] == "3"
    again = command(work, "sweep", "some.ipynb", "-p", "x=1,2,3,4", "-p", "rate=0.1", "-j", 2, "-o", "out")
    assert "all 4 runs are done" in again.stdout
    assert again.returncode == 0


def test_a_changed_notebook_is_refused_with_the_way_on(tmp_path: Path) -> None:
    small = notebook(tmp_path / "small.ipynb", METRICS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sweep.json").write_text(json.dumps({"notebook_digest": "of another"}))
    done = command(tmp_path, "sweep", small, "-p", "x=1,2", "-o", "out")
    assert done.returncode == 2
    assert "--rerun all" in done.stderr


def kernels_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if "ipykernel_launcher" in " ".join(child.cmdline())]


def test_ctrl_c_keeps_what_is_done_opens_no_door_and_leaves_nobody_behind(tmp_path: Path) -> None:
    endless = "if x == 1:\n    while True: pass"
    notebook(tmp_path / "endless.ipynb", endless, METRICS)
    given = ["endless.ipynb", "-p", "x=0,1", "-j", "1", "-o", "out"]
    sweep = subprocess.Popen(arguments("sweep", *given), cwd=tmp_path, env=environment(tmp_path))
    process = psutil.Process(sweep.pid)
    wait_until(lambda: list(tmp_path.glob("out/x-0*/run.json")) and list(tmp_path.glob("out/.x-1*/log.txt")))
    wait_until(lambda: kernels_of(process))
    open_to = {
        connection.laddr.ip
        for one in [process, *process.children(recursive=True)]
        for connection in one.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert open_to <= {"127.0.0.1", "::1"}
    locked = command(tmp_path, "sweep", *given)
    assert (locked.returncode, "another sweep is at work" in locked.stderr) == (2, True)
    kernels = kernels_of(process)
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(60) == 130
    assert not any(kernel.is_running() for kernel in kernels)
    assert [row["x"] for row in leaderboard(tmp_path / "out")] == ["0"]
    assert not list(tmp_path.glob("out/.x-1*"))


def test_a_killed_sweep_leaves_nobody_behind_and_the_same_command_goes_on(tmp_path: Path) -> None:
    notebook(tmp_path / "waits.ipynb", "import os\nwhile x == 1 and not os.path.exists('go'): pass", METRICS)
    given = ["waits.ipynb", "-p", "x=0,1", "-j", "1", "-o", "out"]
    sweep = subprocess.Popen(arguments("sweep", *given), cwd=tmp_path, env=environment(tmp_path))
    process = psutil.Process(sweep.pid)
    wait_until(lambda: list(tmp_path.glob("out/x-0*/run.json")) and list(tmp_path.glob("out/.x-1*/log.txt")))
    wait_until(lambda: kernels_of(process))
    begun = process.children(recursive=True)
    sweep.kill()
    assert sweep.wait(60) == -signal.SIGKILL
    wait_until(lambda: not any(child.is_running() for child in begun))
    made = {file: file.stat().st_mtime_ns for file in tmp_path.glob("out/x-*/run.json")}
    assert [file.parent.name[:3] for file in made] == ["x-0"]
    (tmp_path / "go").touch()
    again = command(tmp_path, "sweep", *given)
    assert again.returncode == 0, again.stderr
    assert [row["x"] for row in leaderboard(tmp_path / "out")] == ["1", "0"]
    assert all(file.stat().st_mtime_ns == when for file, when in made.items())
    assert not list(tmp_path.glob("out/.x-1*"))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([], "say what to vary"),
        (["-p", "x=0:10:11", "-p", "rate=log:1e-6:1:2000"], "22,000 runs; add --yes"),
        (["-p", "x=1", "--method", "random"], "needs -n"),
        (["-p", "x=1", "-n", "3"], "-n is for"),
        (["-p", "x=1", "-j", "0"], "above 0"),
        (["-p", "x=1", "-o", "../out"], "without `..`"),
        (["-p", "x=1", "-o", "elsewhere", "--report-only"], "not the folder of a sweep"),
        (["-p", "x=1", "--scheduler", "localhost:8786"], "tcp://HOST"),
        (["-p", "x=1", "--scheduler", "tcp://h:1", "-j", "2"], "-j is for this machine"),
    ],
)
def test_bad_input_gets_one_line_and_starts_nothing(tmp_path: Path, given: list[str], complaint: str) -> None:
    small = notebook(tmp_path / "small.ipynb", METRICS)
    done = command(tmp_path, "sweep", small, *given)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("**/run.json"))


PEAK = """\
import json
from pathlib import Path

result = {"accuracy": 1 - (rate - 0.7) ** 2 - (x - 6) ** 2 / 100}
Path(output_folder, "metrics.json").write_text(json.dumps(result))
"""


def test_tpe_finds_the_peak_and_goes_on_from_the_runs_that_are_there(tmp_path: Path) -> None:
    notebook(tmp_path / "peak.ipynb", PEAK)
    given = ["peak.ipynb", "-p", "rate=1e-6:1", "-p", "x=0:10", "--method", "tpe", "-j", 2, "-o", "out"]
    begun = command(tmp_path, "sweep", *given, "-n", 4)
    assert begun.returncode == 0, begun.stderr
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("out/*/run.json")}
    assert len(before) == 4
    done = command(tmp_path, "sweep", *given, "-n", 24)
    assert done.returncode == 0, done.stderr
    assert "24 of 24 done" in done.stdout
    after = {file: file.stat().st_mtime_ns for file in tmp_path.glob("out/*/run.json")}
    assert len(after) == 24
    assert before.items() <= after.items()
    assert float(leaderboard(tmp_path / "out")[0]["accuracy"]) > 0.95


def test_tpe_without_optuna_gets_one_line_and_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['optuna'] = None\n")  # as if it were not there
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    small = notebook(tmp_path / "small.ipynb", METRICS)
    done = command(tmp_path, "sweep", small, "-p", "x=1", "-n", "3", "--method", "tpe")
    assert done.returncode == 2
    assert "tpe needs Optuna" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("**/run.json"))


def test_a_metric_that_nobody_wrote_is_named_with_those_that_were(tmp_path: Path) -> None:
    notebook(tmp_path / "small.ipynb", METRICS)
    done = command(tmp_path, "sweep", "small.ipynb", "-p", "x=1", "--metric", "acuracy")
    assert done.returncode == 1
    assert "no run wrote the metric 'acuracy': they wrote accuracy, x" in done.stderr


def test_no_scheduler_is_exit_code_3_and_nothing_is_lost(tmp_path: Path) -> None:
    notebook(tmp_path / "small.ipynb", METRICS)
    done = command(tmp_path, "sweep", "small.ipynb", "-p", "x=1", "--scheduler", "tcp://127.0.0.1:9")
    assert done.returncode == 3
    assert "no scheduler answers at tcp://127.0.0.1:9" in done.stderr


@pytest.fixture
def worker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a scheduler with a worker, which has the version of torch that the test names."""
    another = tmp_path / "packages" / f"torch-{request.param}.dist-info"
    another.mkdir(parents=True)
    (another / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {request.param}\n")
    known = os.environ | {"PYTHONPATH": f"{REPOSITORY / 'scripts'}:{another.parent}"}
    dask, port = [sys.executable, "-m", "dask"], free_port()
    address = f"tcp://127.0.0.1:{port}"
    line = ["--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
    commands = [
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
        [*dask, "worker", address, *line],
    ]
    members = [subprocess.Popen(one, env=known, stderr=subprocess.DEVNULL) for one in commands]
    yield address
    for member in reversed(members):
        member.terminate()
        member.wait(60)


SAME = importlib.metadata.version("torch")


@pytest.mark.parametrize("worker", ["1.0", SAME], indirect=True)
def test_workers_that_differ_from_this_machine_are_refused(
    tmp_path: Path, worker: str, request: pytest.FixtureRequest
) -> None:
    notebook(tmp_path / "small.ipynb", METRICS)
    done = command(tmp_path, "sweep", "small.ipynb", "-p", "x=1", "-o", "out", "--scheduler", worker)
    if request.node.callspec.params["worker"] == SAME:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2, done.stderr
    assert f"has torch 1.0 in place of {SAME}: use one image everywhere" in done.stderr
    assert not list(tmp_path.glob("out/x-*"))


def test_any_runs_can_be_compared(swept: tuple) -> None:
    work, _ = swept
    some = [str(folder) for folder in sorted(work.glob("out/x-[14]_*"))]
    done = command(work, "compare", *some, "-o", "compared")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(work / "compared/report.html")
    assert [row["x"] for row in leaderboard(work / "compared")] == ["4", "1"]


def test_a_run_that_does_not_exist_cannot_be_compared(swept: tuple) -> None:
    done = command(swept[0], "compare", "nothing-like-it")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
