"""scripts/sweep: what it varies, what it refuses, what it keeps, and what it makes again."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
from labs import REPOSITORY, SmallDisk, free_port, wait_until
from small import METRICS, arguments, command, environment, leaderboard, notebook
from workspace.base.cli import UserError
from workspace.runs.notebook import Notebook
from workspace.runs.progress import TimeLeft
from workspace.sweeps import plans


def read_axes(tmp_path: Path, *given: str, file: dict | None = None) -> dict[str, tuple]:
    small = notebook(tmp_path / "small.ipynb")
    return {axis.name: axis.values for axis in plans.axes_of(Notebook.read(small), given, file or {})}


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


@pytest.mark.parametrize(("kernel", "said"), [({}, "names no kernel"), ({"name": "nope"}, "'nope' is not installed")])
def test_a_notebook_whose_kernel_is_not_there_is_refused(tmp_path: Path, kernel: dict, said: str) -> None:
    small = notebook(tmp_path / "small.ipynb", METRICS)
    small.write_text(json.dumps(json.loads(small.read_text()) | {"metadata": {"kernelspec": kernel}}))
    done = command(tmp_path, "sweep", small, "-p", "x=1,2", "-o", "out")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    file = {"x": [1, 2], "rate": "log:1e-2:1e-1:2", "mirror": False}
    assert read_axes(tmp_path, "x=5", file=file) == {"rate": (0.01, 0.1), "mirror": (False,), "x": (5,)}


def test_draws_are_the_same_each_time_and_all_different() -> None:
    some = [plans.Axis("x", range=plans.Range(1, 100, log=True, whole=True)), plans.Axis("y", (1, 2))]
    drawn = list(plans.draws(some, 20))
    assert drawn == list(plans.draws(some, 20))
    assert len({plans.identity(values) for values in drawn}) == 20
    assert all(1 <= values["x"] <= 100 for values in drawn)


def test_another_seed_draws_others() -> None:
    some = [plans.Axis("x", range=plans.Range(1, 100, log=True, whole=True))]
    first, second = (list(plans.draws(some, 5, seed)) for seed in (0, 1))
    assert first != second
    assert first == list(plans.draws(some, 5))


def test_a_grid_of_a_range_without_a_number_is_refused() -> None:
    with pytest.raises(UserError, match="how many values"):
        list(plans.grid([plans.Axis("x", range=plans.Range(1, 2, log=False, whole=False))]))


@pytest.mark.parametrize("value", ["../../etc", "/etc/passwd", ".", "", "a" * 500, "é\n\0"])
def test_a_runs_name_is_never_a_path(value: str) -> None:
    name = plans.run_name({"data": value}, ["data"])
    assert Path(name).name == name
    assert not name.startswith(".")
    assert len(name) < 100


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
    for link in re.findall(r'href="([^"]+\.html)"', page):
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


WAITS = "import os\nwhile x and not os.path.exists('go'): pass"


SOURCE = """\
from pathlib import Path

source = Path("edits.ipynb")
if x == 1:
    source.write_text(source.read_text().replace("first", "second"))
    Path("mine.py").write_text("second")
print("first")
"""


def test_a_notebook_edited_while_it_is_swept_mixes_nothing_and_that_is_said(tmp_path: Path) -> None:
    notebook(tmp_path / "edits.ipynb", SOURCE, METRICS)
    for module in ("mine.py", "other.py"):
        (tmp_path / module).write_text("first")
    given = ["edits.ipynb", "-p", "x=1,2,3", "-j", 1, "-o", "out"]
    done = command(tmp_path, "sweep", *given)
    assert done.returncode == 0, done.stderr
    assert "edits.ipynb has changed since this sweep began; all its runs are of the copy" in done.stdout
    modules = "changed since this sweep began: mine.py; "
    assert modules in done.stdout
    assert {log.read_text() for log in tmp_path.glob("out/x-*/log.txt")} == {"first\n"}
    refused = command(tmp_path, "sweep", *given)
    assert (refused.returncode, "--rerun all" in refused.stderr) == (2, True)
    more = command(tmp_path, "sweep", "out/edits.ipynb", *given[1:2], "x=1,2,3,4", *given[3:])  # the copy
    assert more.returncode == 0, more.stderr
    assert modules in more.stdout, "they are told from those of the first runs"
    assert (tmp_path / "out").joinpath("sweep.json").read_text().count(str(tmp_path / "edits.ipynb")) == 1
    assert len(list(tmp_path.glob("out/x-*/run.json"))) == 4


def test_an_interrupted_rerun_of_another_notebook_leaves_no_run_of_the_old_one(tmp_path: Path) -> None:
    notebook(tmp_path / "old.ipynb", METRICS)
    given = ["old.ipynb", "-p", "x=0,1,2,3", "-j", "1", "-o", "out"]
    assert command(tmp_path, "sweep", *given).returncode == 0
    notebook(tmp_path / "old.ipynb", WAITS, METRICS)
    line = arguments("sweep", *given, "--rerun", "all")
    sweep = subprocess.Popen(line, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL)
    wait_until(lambda: list(tmp_path.glob("out/.x-1*/log.txt")))
    sweep.terminate()
    assert sweep.wait(60) == 130
    assert [row["x"] for row in leaderboard(tmp_path / "out")] == ["0"]
    assert len(list(tmp_path.glob("out/replaced/*/run.json"))) == 4


def test_a_sweep_that_is_done_is_ranked_anew_by_another_metric(tmp_path: Path) -> None:
    notebook(tmp_path / "small.ipynb", METRICS.replace('"x": x', '"x": x, "loss": x'))
    given = ["small.ipynb", "-p", "x=1,2", "-o", "out"]
    assert command(tmp_path, "sweep", *given).returncode == 0
    assert [row["x"] for row in leaderboard(tmp_path / "out")] == ["2", "1"]
    assert command(tmp_path, "sweep", *given, "--metric", "loss").returncode == 0
    assert [row["loss"] for row in leaderboard(tmp_path / "out")] == ["1.0", "2.0"]
    page = tmp_path / "out/report.html"
    made = page.stat().st_mtime_ns
    assert "all 2 runs are done" in command(tmp_path, "sweep", *given, "--metric", "loss", "--background").stdout
    assert page.stat().st_mtime_ns == made


def test_outputs_that_are_cleared_or_made_are_no_change(swept: tuple) -> None:
    work, _ = swept
    executed = next(work.glob("out/x-1*/some.ipynb"))
    source = Notebook.read(work / "some.ipynb").content
    with_outputs = nbformat.from_dict(source)
    with_outputs.cells[1].outputs = nbformat.read(executed, 4).cells[2].outputs
    with_outputs.cells[1].execution_count = 7
    nbformat.write(with_outputs, work / "some.ipynb")
    done = command(work, "sweep", "some.ipynb", "-p", "x=1,2,3,4", "-p", "rate=0.1", "-o", "out", "--dry-run")
    again = command(work, "sweep", "some.ipynb", "-p", "x=1,2,4", "-p", "rate=0.1", "-o", "out")
    assert (done.returncode, again.returncode) == (0, 0), again.stderr


def test_a_sweep_of_an_older_workspace_goes_on(tmp_path: Path) -> None:
    small = notebook(tmp_path / "small.ipynb", METRICS)
    old = tmp_path / "out" / plans.run_name({"x": 1, "seed": 0}, ["x", "seed"])
    old.mkdir(parents=True)
    digest = hashlib.sha256(small.read_bytes()).hexdigest()[:16]  # of the whole file, in those days
    values = {"x": 1, "seed": 0}
    everything = {"rate": 0.1, "mirror": True, "mode": "fast"} | values
    run = {"status": "completed", "notebook": str(small), "notebook_digest": digest, "given": values}
    (old / "run.json").write_text(json.dumps(run | {"parameters": everything}))
    (old / "metrics.json").write_text('{"accuracy": 0.3}')
    (tmp_path / "out/sweep.json").write_text(json.dumps({"notebook": str(small), "notebook_digest": digest}))
    done = command(tmp_path, "sweep", small, "-p", "x=1,2", "-p", "seed=0,1", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out/replaced").exists()
    assert [(row["x"], row["runs"], row["accuracy"]) for row in leaderboard(tmp_path / "out")] == [
        ("1", "2", "0.2"),
        ("2", "2", "0.2"),
    ]


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ('{"schema": 3}', "is of a newer workspace (schema 3; this one reads 2)"),
        ('{"schema":', "is damaged"),
        ("[]", "is damaged"),
        ('{"planned": "many"}', "is damaged: planned is 'many'"),
        ('{"notebook_digest": "of another"}', "--rerun all"),
    ],
)
def test_a_sweep_of_another_notebook_or_workspace_is_refused(tmp_path: Path, record: str, complaint: str) -> None:
    small = notebook(tmp_path / "small.ipynb", METRICS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sweep.json").write_text(record)
    done = command(tmp_path, "sweep", small, "-p", "x=1,2", "-o", "out")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert complaint in done.stderr


def test_a_run_that_is_damaged_or_gone_is_a_failure_wherever_runs_are_shown(tmp_path: Path) -> None:
    harm = """
import shutil
from pathlib import Path

if x == 2:  # made last, with -j 1
    [first], [second] = Path("out").glob("x-0_*"), Path("out").glob("x-1_*")
    (first / "run.json").write_text("{")
    shutil.rmtree(second)
"""
    notebook(tmp_path / "harms.ipynb", harm, METRICS)
    given = ["harms.ipynb", "-p", "x=0,1,2", "-j", 1, "-o", "out"]
    done = command(tmp_path, "sweep", *given)
    assert done.returncode == 1, done.stdout
    assert "2 of 3 runs failed" in done.stderr
    assert [row["status"] for row in leaderboard(tmp_path / "out")] == ["completed", "unreadable", "lost"]
    page = (tmp_path / "out/report.html").read_text()
    assert "its folder is not there" in page
    assert "run.json is damaged" in page
    notebook(tmp_path / "out/harms.ipynb", METRICS)
    resumed = command(tmp_path, "sweep", *given[:1], "-p", "x=0,1", "-o", "out")
    assert resumed.returncode == 0, resumed.stderr
    assert [row["status"] for row in leaderboard(tmp_path / "out")] == ["completed"] * 3


def test_a_full_disk_is_told_in_one_line_and_what_is_done_is_kept(tmp_path: Path, small_disk: SmallDisk) -> None:
    out = small_disk("size=4m") / "out"
    line = ["sweep", notebook(tmp_path / "small.ipynb", METRICS), "-o", out, "-p"]
    assert command(tmp_path, *line, "x=1,2").returncode == 0
    full = out.parent / "full"
    with contextlib.suppress(OSError), full.open("wb", buffering=0) as filling:
        while filling.write(b"0" * 4096):
            pass
    done = command(tmp_path, *line, "x=1,2,3")
    assert done.returncode == 1
    assert re.fullmatch(rf"sweep: {out}/\S+: No space left on device\n", done.stderr)
    full.unlink()
    assert "3 runs, 2 of them done" in command(tmp_path, *line, "x=1,2,3", "--dry-run").stdout


def test_a_report_that_the_disk_does_not_take_is_told_in_one_line(tmp_path: Path, small_disk: SmallDisk) -> None:
    disk = small_disk("size=400k")
    notebook(tmp_path / "small.ipynb", METRICS)
    assert command(tmp_path, "sweep", "small.ipynb", "-p", "x=1,2", "-o", disk / "out").returncode == 1
    runs = [str(file.parent) for file in disk.glob("out/*/run.json")]
    for line in (
        ["sweep", "small.ipynb", "-p", "x=1,2", "-o", disk / "out", "--report-only"],
        ["compare", *runs, "-o", disk / "c"],
    ):
        done = command(tmp_path, *line)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "No space left on device" in done.stderr


def test_a_folder_with_runs_of_no_sweep_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    small = notebook(tmp_path / "small.ipynb", METRICS)
    (tmp_path / "out/mine").mkdir(parents=True)
    (tmp_path / "out/mine/run.json").write_text("{}")
    refused = command(tmp_path, "sweep", small, "-p", "x=1", "-o", "out")
    assert (refused.returncode, "holds runs that are of no sweep" in refused.stderr) == (2, True)
    assert [file.name for file in (tmp_path / "out").iterdir() if file.name != ".lock"] == ["mine"]


def kernels_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if "kernel" in " ".join(child.cmdline())]


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


def test_a_sweep_goes_on_when_the_terminal_closes_under_nohup(tmp_path: Path) -> None:
    notebook(tmp_path / "waits.ipynb", WAITS, METRICS)
    line = ["nohup", *arguments("sweep", "waits.ipynb", "-p", "x=1", "-o", "out")]
    sweep = subprocess.Popen(line, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL)
    wait_until(lambda: list(tmp_path.glob("out/.*/log.txt")))
    sweep.send_signal(signal.SIGHUP)
    (tmp_path / "go").touch()
    assert sweep.wait(60) == 0
    assert len(leaderboard(tmp_path / "out")) == 1


def test_without_nohup_a_closed_terminal_ends_the_sweep_in_order(tmp_path: Path) -> None:
    notebook(tmp_path / "waits.ipynb", WAITS, METRICS)
    line = arguments("sweep", "waits.ipynb", "-p", "x=1", "-o", "out")
    sweep = subprocess.Popen(line, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL)
    wait_until(lambda: list(tmp_path.glob("out/.*/log.txt")))
    sweep.send_signal(signal.SIGHUP)
    assert sweep.wait(60) == 130
    assert not list(tmp_path.glob("out/.x*"))


def test_a_sweep_in_the_background_is_listed_with_its_progress_and_stopped_by_its_name(tmp_path: Path) -> None:
    notebook(tmp_path / "waits.ipynb", WAITS, METRICS)
    given = ["waits.ipynb", "-p", "x=0,1", "-j", 1, "-o", "runs/long"]
    begun = command(tmp_path, "sweep", *given, "--background")
    assert begun.returncode == 0, begun.stderr
    assert "runs stop long" in begun.stdout
    wait_until(lambda: list(tmp_path.glob("runs/long/x-0*/run.json")) and list(tmp_path.glob("runs/long/.x-1*")))
    again = command(tmp_path, "sweep", *given, "--background")
    assert (again.returncode, "another sweep is at work" in again.stderr) == (2, True)
    assert re.search(r"long +running +.* 1 of 2 done", command(tmp_path, "runs", "list").stdout)
    stopped = command(tmp_path, "runs", "stop", "long")
    assert stopped.returncode == 0, stopped.stderr
    assert re.search(r"long +not finished +.* 1 of 2 done", command(tmp_path, "runs", "list").stdout)
    assert not list(tmp_path.glob("runs/long/.x*"))
    assert "not at work" in command(tmp_path, "runs", "stop", "long").stderr


def test_why_a_sweep_in_the_background_failed_is_in_the_list(tmp_path: Path) -> None:
    notebook(tmp_path / "fails.ipynb", "raise ValueError('no luck')")
    begun = command(tmp_path, "sweep", "fails.ipynb", "-p", "x=1", "-o", "runs/bad", "--background")
    assert begun.returncode == 0, begun.stderr
    listed = wait_until(lambda: re.search("^bad .*no luck.*", command(tmp_path, "runs", "list").stdout, re.MULTILINE))
    assert "0 of 1 done, 1 failed: 1 of 1 runs failed, the first with: ValueError: no luck" in listed.group()


def test_time_left_counts_down_while_the_last_run_goes_on() -> None:
    left = TimeLeft()
    assert left.told(3, 1, now=0) == ""
    left.note(10)
    assert [left.told(2, 1, now=now) for now in (0, 5)] == ["about 20 s left", "about 15 s left"]
    assert [left.told(1, 1, now=now) for now in (10, 16, 21)] == [
        "about 10 s left",
        "about 4 s left",
        "longer than expected",
    ]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([], "say what to vary"),
        (["-p", "x=0:10:11", "-p", "rate=log:1e-6:1:2000"], "22,000 runs; add --yes"),
        (["-p", "x=1", "--method", "random"], "needs -n"),
        (["-p", "x=1", "-n", "3"], "-n is for"),
        (["-p", "x=1", "--seed", "3"], "--seed is for"),
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


FAILS_LATER = """\
from pathlib import Path

with open("made", "a") as made:
    print(rate, file=made)
if len(Path("made").read_text().split()) > 1 and not Path("mended").exists():
    raise ValueError("not yet")
"""


def test_tpe_makes_what_failed_again_before_anything_new(tmp_path: Path) -> None:
    notebook(tmp_path / "peak.ipynb", FAILS_LATER, PEAK)
    given = ["peak.ipynb", "-p", "rate=1e-6:1", "--method", "tpe", "-j", 1, "-n", 3, "-o", "out"]
    assert command(tmp_path, "sweep", *given).returncode == 1
    (tmp_path / "mended").touch()
    assert command(tmp_path, "sweep", *given).returncode == 0
    made = (tmp_path / "made").read_text().split()
    assert sorted(made[1:3]) == sorted(made[3:])
    assert [row["status"] for row in leaderboard(tmp_path / "out")] == ["completed"] * 3


def test_tpe_draws_others_with_another_seed(tmp_path: Path) -> None:
    notebook(tmp_path / "peak.ipynb", PEAK)
    for seed in (0, 1):
        given = ["-p", "rate=1e-6:1", "--method", "tpe", "-j", 1, "-n", 2, "--seed", seed, "-o", f"out{seed}"]
        assert command(tmp_path, "sweep", "peak.ipynb", *given).returncode == 0
    drawn = [{row["rate"] for row in leaderboard(tmp_path / f"out{seed}")} for seed in (0, 1)]
    assert not drawn[0] & drawn[1]


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


@pytest.mark.parametrize("parameters", ["x: int = 0", "x: int = 0\noutput_folder: str = '.'"])
def test_a_notebook_that_can_write_no_metric_is_named_before_its_runs(tmp_path: Path, parameters: str) -> None:
    notebook(tmp_path / "small.ipynb", "print(x)", parameters=parameters)
    planned = command(tmp_path, "sweep", "small.ipynb", "-p", "x=1,2", "--dry-run").stdout
    assert planned.startswith("these runs can be ranked by nothing") == ("output_folder" not in parameters)


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


# --- a plan ---


def test_a_plan_in_a_file_makes_what_the_options_make_which_go_before_it(tmp_path: Path) -> None:
    notebook(tmp_path / "good.ipynb", METRICS)
    plan = "notebook: good.ipynb\nparameters:\n  x: [1, 2]\n  rate: 0.1:0.3:3\n  mode: slow\nmetric: x\nseed: 0\n"
    (tmp_path / "my.yml").write_text(plan)
    by_file = command(tmp_path, "sweep", "my.yml", "--dry-run").stdout
    by_words = command(
        tmp_path, "sweep", "good.ipynb", "-p", "x=1,2", "-p", "rate=0.1:0.3:3", "-p", "mode=slow", "--dry-run"
    ).stdout
    assert by_file == by_words
    assert "6 runs, 0 of them done" in by_file
    assert "3 runs, 0 of them done" in command(tmp_path, "sweep", "my.yml", "-p", "x=3", "--dry-run").stdout


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("parameters: {x: 1}", "names no notebook"),
        ("notebook: good.ipynb\nparametres: {x: 1}", "did you mean parameters?"),
        ("notebook: good.ipynb\nparameters: {x: 99}", "x = 99 makes no sense here"),
        ("notebook: good.ipynb\nparameters: {x: 1}\nmethod: guess", "there are grid, random, tpe"),
        ("notebook: good.ipynb\nparameters: {x: 1}\nretries: many", "retries is 'many'"),
        ("notebook: none.ipynb\nparameters: {x: 1}", "none.ipynb"),
        ("- 1", "must hold lines such as"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_in_one_line(tmp_path: Path, plan: str, said: str) -> None:
    notebook(tmp_path / "good.ipynb", METRICS)
    (tmp_path / "my.yml").write_text(plan)
    done = command(tmp_path, "sweep", "my.yml")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_sweep_keeps_the_plan_that_made_it_goes_on_by_it_and_is_repeated_by_it(tmp_path: Path) -> None:
    good = notebook(tmp_path / "good.ipynb", METRICS)
    done = command(tmp_path, "sweep", "good.ipynb", "-p", "x=1,2", "--metric", "x", "-o", "runs/s")
    assert done.returncode == 0, done.stderr
    kept = (tmp_path / "runs/s/plan.yml").read_text()
    assert kept == "notebook: good.ipynb\nparameters:\n  x:\n  - 1\n  - 2\nmethod: grid\nmetric: x\n"
    notebook(good, "raise ValueError('edited since')")
    assert "all 2 runs are done" in command(tmp_path, "sweep", "runs/s/plan.yml").stdout
    again = command(tmp_path, "sweep", "--again", "s")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "runs/s-2/plan.yml").read_text() == kept
    assert [row["x"] for row in leaderboard(tmp_path / "runs/s-2")] == ["2", "1"]
    record = json.loads((tmp_path / "runs/s-2/sweep.json").read_text())
    assert (record["notebook"], record["metric"]) == (str(good), "x")


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "say what to run"), (["--again", "nothing"], "is not the folder"), (["good.ipynb", "--again", "s"], "say")],
)
def test_a_repeat_of_nothing_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    notebook(tmp_path / "good.ipynb", METRICS)
    done = command(tmp_path, "sweep", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
