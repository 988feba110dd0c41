"""scripts/run: what it takes, what it refuses, and what a run leaves."""

import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sysconfig
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import papermill
import psutil
import pytest
from jupyter_client.channels import AsyncZMQSocketChannel
from labs import wait_until
from small import METRICS, PARAMETERS, arguments, command, environment, notebook
from workspace.base import places
from workspace.base.cli import UserError
from workspace.lab import environment as kernels_environment
from workspace.runs import cells, execution, folders, kernels, notebook_parameters, warm
from workspace.runs.notebook import Notebook
from workspace.runs.progress import Progress


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return notebook(tmp_path / "good.ipynb", "print('mode is', mode)", METRICS)


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def typed(file: Path, *given: tuple[str, object]) -> dict:
    return notebook_parameters.typed(Notebook.read(file), given)


def kernels_in(folder: Path) -> list[str]:
    """The processes that work in `folder`, where a run's kernel does."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder and b"kernel" in (process / "cmdline").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found


def test_a_run_leaves_one_folder_that_says_all_about_it(tmp_path: Path, good: Path) -> None:
    done = command(tmp_path, "run", good, "-p", "x", 4, "-p", "mirror", "false", "-p", "mode", "off", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "accuracy 0.4" in done.stdout
    folder = tmp_path / "out"
    assert sorted(file.name for file in folder.iterdir()) == ["good.ipynb", "log.txt", "metrics.json", "run.json"]
    run = record(folder)
    assert (run["status"], run["error"], run["seed"]) == ("completed", None, 0)
    assert run["parameters"] == {"x": 4, "rate": 0.1, "mirror": False, "mode": "off", "seed": 0}
    assert run["versions"].keys() >= {"python", "torch", "papermill"}
    assert (folder / "log.txt").read_text() == "mode is off\n"
    assert f'output_folder = "{folder}"' in json.dumps(json.loads((folder / "good.ipynb").read_text())).replace(
        '\\"', '"'
    )


def test_a_run_without_o_goes_to_runs_in_the_work_folder(tmp_path: Path, good: Path) -> None:
    done = command(tmp_path, "run", good, "--dry-run")
    assert f"{tmp_path}/runs/good-" in done.stdout
    assert not list(tmp_path.glob("runs/*"))


def test_a_cell_that_raises_fails_the_run_and_says_why(tmp_path: Path) -> None:
    bad = notebook(tmp_path / "bad.ipynb", "print('before')", "raise ValueError('no good')", "print('after')")
    done = command(tmp_path, "run", bad, "-o", "out")
    assert done.returncode == 1
    assert done.stderr.startswith("run: failed after")
    assert "ValueError: no good" in done.stderr
    assert record(tmp_path / "out")["status"] == "failed"
    assert "before" in (tmp_path / "out/log.txt").read_text()
    assert "after" not in (tmp_path / "out/log.txt").read_text()


def test_a_kernel_that_dies_is_a_failure_not_a_success(tmp_path: Path) -> None:
    dying = notebook(tmp_path / "dying.ipynb", "import os; os.kill(os.getpid(), 9)")
    done = command(tmp_path, "run", dying, "-o", "out")
    assert done.returncode == 1
    assert "the kernel died in cell 3" in done.stderr
    assert record(tmp_path / "out")["status"] == "failed"


@pytest.mark.parametrize("first", ["", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"])
def test_a_run_out_of_time_ends_on_time_and_leaves_no_kernel(tmp_path: Path, first: str) -> None:
    endless = notebook(tmp_path / "endless.ipynb", first + "while True: pass")
    done = command(tmp_path, "run", endless, "-o", "out", "--timeout", 3)
    assert done.returncode == 1
    assert record(tmp_path / "out")["status"] == "timed out"
    assert 3 <= record(tmp_path / "out")["seconds"] < 6  # exactly: scripts/bench runs
    assert not kernels_in(tmp_path)


def test_ctrl_c_stops_the_run_lets_its_cell_sweep_up_and_leaves_no_kernel(tmp_path: Path) -> None:
    endless = notebook(
        tmp_path / "endless.ipynb", "try:\n    print('at it')\n    while True: pass\nfinally:\n    print('swept')"
    )
    run = subprocess.Popen(arguments("run", endless, "-o", "out"), cwd=tmp_path, env=environment(tmp_path))
    wait_until(lambda: "at it" in "".join(log.read_text() for log in tmp_path.glob(".out.*/log.txt")))
    assert kernels_in(tmp_path)
    run.send_signal(signal.SIGINT)
    assert run.wait(30) == 130
    assert record(tmp_path / "out")["status"] == "stopped"
    assert "swept" in (tmp_path / "out/log.txt").read_text()
    assert not kernels_in(tmp_path)


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("epoch 1.5 of 5: loss 1.34, accuracy 59%", "about 1 min 10 s left in this cell"),
        ("step 300/400", "about 10 s left in this cell"),
        ("Training:  25%|##5       | 1/4", "about 1 min 30 s left in this cell"),
        ("Accuracy of plane : 81 %", ""),
        ("epoch 0 of 5", ""),
    ],
)
def test_time_left_is_told_where_the_notebook_says_how_far_it_is(said: str, left: str) -> None:
    progress = Progress()
    progress.cell, progress.cells, progress.said = 3, 9, said
    progress.cell_begun -= 30
    assert str(progress).endswith(left or " · 0 s")


def test_runs_that_start_at_once_get_a_folder_each_and_none_loses_its_result(tmp_path: Path, good: Path) -> None:
    read = Notebook.read(good)
    jobs = [execution.Job(read, tmp_path / "runs/same", {"x": x}, or_beside=True) for x in range(3)]
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda job: execution.execute(job, threading.Event()), jobs))
    assert sorted(run.name for run in made) == ["same", "same-2", "same-3"]
    assert [run.metrics["x"] for run in made] == [0, 1, 2]


@pytest.mark.parametrize(("words", "code"), [([], 0), (["-o", "runs/good-taken"], 2)])
def test_a_run_goes_beside_a_taken_name_that_it_was_not_told(
    tmp_path: Path, good: Path, words: list[str], code: int
) -> None:
    now = datetime.now().astimezone()
    names = {f"good-{now + timedelta(seconds=later):%Y%m%d-%H%M%S}" for later in range(60)} | {"good-taken"}
    for name in names:
        (tmp_path / "runs" / name).mkdir(parents=True)
    done = command(tmp_path, "run", good, *words)
    assert done.returncode == code, done.stderr
    made = {file.parent.name for file in tmp_path.glob("runs/*/run.json")}
    assert len(made) == (code == 0)
    assert made <= {f"{name}-2" for name in names}


def test_of_two_runs_into_one_folder_the_second_is_refused_before_its_kernel_starts(tmp_path: Path) -> None:
    waits = notebook(tmp_path / "waits.ipynb", "open('begun', 'a').write('.')\nimport os", METRICS)
    lines = [arguments("run", waits, "-p", "x", x, "-o", "out") for x in (1, 2)]
    runs = [subprocess.Popen(line, cwd=tmp_path, env=environment(tmp_path)) for line in lines]
    codes = [run.wait(60) for run in runs]
    assert sorted(codes) == [0, 2]
    assert (tmp_path / "begun").read_text() == "."
    assert record(tmp_path / "out")["given"]["x"] == codes.index(0) + 1
    assert not list(tmp_path.glob(".out*"))


def test_a_result_whose_place_was_taken_meanwhile_is_kept_beside_it(tmp_path: Path) -> None:
    rude = notebook(tmp_path / "rude.ipynb", "import os\nos.mkdir('out')\nopen('out/mine', 'w')")
    done = command(tmp_path, "run", rude, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"{tmp_path}/out-2\n")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize(("x", "kept"), [(1, ["out"]), (2, ["out", "out-2"])])
def test_only_the_same_run_of_a_sweep_is_not_kept_twice(tmp_path: Path, x: int, kept: list[str]) -> None:
    records = [folders.Record(sweep="sweep", notebook_digest="same", given={"x": given}) for given in (1, x)]
    with ExitStack() as stack:
        at_work = [stack.enter_context(folders.working(tmp_path / "out", record)) for record in records]
        for (hidden, folder), record in zip(at_work, records, strict=True):
            folders.publish(hidden, folder, record)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == kept


def test_a_pipe_in_place_of_the_log_does_not_hold_the_run(tmp_path: Path) -> None:
    replaces = "import os\nlog = output_folder + '/log.txt'\nos.remove(log)\nos.mkfifo(log)"
    done = command(tmp_path, "run", notebook(tmp_path / "a.ipynb", replaces), "-o", "out")
    assert done.returncode == 0, done.stderr


DRAWN = """\
import json
from pathlib import Path

Path(output_folder, "metrics.json").write_text(json.dumps({"accuracy": 0.9579, "dataset": DATASET}))
"""


@pytest.mark.parametrize(("dataset", "said"), [("drawn", "0.9579 on drawn shapes"), ("cifar10", "0.9579")])
def test_an_accuracy_on_a_substitute_is_nowhere_shown_without_saying_so(
    tmp_path: Path, dataset: str, said: str
) -> None:
    made = command(tmp_path, "run", notebook(tmp_path / "a.ipynb", f"DATASET = '{dataset}'", DRAWN), "-o", "runs/a")
    assert f": accuracy {said}\n" in made.stdout
    assert f"  {said}" in command(tmp_path, "runs", "list").stdout
    caveat = "caveat: on drawn shapes" in command(tmp_path, "runs", "show").stdout
    assert caveat == (dataset == "drawn") == ("drawn" in made.stdout)


@pytest.mark.parametrize(
    ("makes", "said"),
    [
        ("os.mkfifo(path)", "it is no regular file"),
        ("os.symlink('/dev/zero', path)", "it is no regular file"),
        ("os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 10 ** 10)", "it is larger than 10 MB"),
        ("open(path, 'w').write('[' * 100_000)", "it is nested too deeply"),
    ],
)
def test_metrics_that_are_none_are_left_out_and_named(tmp_path: Path, makes: str, said: str) -> None:
    odd = notebook(tmp_path / "odd.ipynb", f"import os\npath = output_folder + '/metrics.json'\n{makes}")
    done = command(tmp_path, "run", odd, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert f"metrics.json cannot be read: {said}\n" in done.stdout


WIDGETS = """\
from ipywidgets import interact

def several(x):
    for i in range(20):
        print(x, i, flush=True)

interact(several, x=3)
"""


@pytest.mark.parametrize("channel", [kernels._Shell, AsyncZMQSocketChannel])
def test_cells_with_widgets_do_not_stall_and_no_cell_that_takes_its_limit_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: type
) -> None:
    monkeypatch.setattr(kernels, "_Shell", channel)  # the stock one stalls in one cell of ten
    job = execution.Job(Notebook.read(notebook(tmp_path / "widgets.ipynb", *[WIDGETS] * 30)), tmp_path / "out")
    made = execution.execute(replace(job, cell_timeout_s=3), threading.Event())
    taken = [cell["metadata"]["papermill"]["duration"] or 0 for cell in json.loads(made.notebook.read_text())["cells"]]
    assert made.status == ("completed" if max(taken) < 3 else "timed out")
    assert channel is AsyncZMQSocketChannel or max(taken) < 3


def test_output_that_does_not_end_is_called_that_not_a_limit_of_0_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "_OUTPUT_WITHIN_S", 0)
    job = execution.Job(Notebook.read(notebook(tmp_path / "prints.ipynb", "print('x' * 10_000_000)")), tmp_path / "out")
    made = execution.execute(job, threading.Event())
    assert (made.status, "its output has not" in (made.record.error or "")) == ("failed", True)


def test_what_is_printed_while_nobody_reads_arrives(tmp_path: Path) -> None:
    cell = "import os\nprint('at it')\nwhile not os.path.exists('go'): pass\nfor i in range(9000): print(i, flush=True)"
    prints = notebook(tmp_path / "prints.ipynb", cell)
    run = subprocess.Popen(arguments("run", prints, "-o", "out"), cwd=tmp_path, env=environment(tmp_path))
    wait_until(lambda: "at it" in "".join(log.read_text() for log in tmp_path.glob(".out.*/log.txt")))
    [kernel] = map(psutil.Process, map(int, kernels_in(tmp_path)))
    run.send_signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    wait_until(lambda: kernel.cpu_percent(0.5) == 0)  # it waits, or has printed all
    run.send_signal(signal.SIGCONT)
    assert run.wait(60) == 0
    assert (tmp_path / "out/log.txt").read_text().split() == ["at", "it", *map(str, range(9000))]


def test_the_threads_in_run_json_are_those_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Dask sets it for several workers of one machine
    shows = Notebook.read(notebook(tmp_path / "shows.ipynb", "import os; print(os.environ['OMP_NUM_THREADS'])"))
    made = execution.execute(
        execution.Job(shows, tmp_path / "out", environment={"OMP_NUM_THREADS": "3"}), threading.Event()
    )
    assert (made.folder / "log.txt").read_text() == "3\n"
    assert made.record.threads == 3


def test_a_kernel_that_has_done_its_work_is_asked_to_end_not_interrupted(tmp_path: Path) -> None:
    listens = "import signal; signal.signal(signal.SIGINT, lambda *_: open('interrupted', 'w'))"
    done = command(tmp_path, "run", notebook(tmp_path / "listens.ipynb", listens), "-o", "out")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "interrupted").exists()
    assert (tmp_path / "out/log.txt").read_text() == ""


def test_a_run_goes_on_when_the_terminal_closes_under_nohup(tmp_path: Path) -> None:
    waits = notebook(tmp_path / "waits.ipynb", "import os\nprint('at it')\nwhile not os.path.exists('go'): pass")
    line = ["nohup", *arguments("run", waits, "-o", "out")]
    run = subprocess.Popen(line, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL)
    wait_until(lambda: "at it" in "".join(log.read_text() for log in tmp_path.glob(".out.*/log.txt")))
    run.send_signal(signal.SIGHUP)
    (tmp_path / "go").touch()
    assert run.wait(60) == 0
    assert record(tmp_path / "out")["status"] == "completed"


def test_what_runs_is_the_notebook_as_it_was_read(tmp_path: Path) -> None:
    read = Notebook.read(notebook(tmp_path / "edited.ipynb", "print('first')"))
    notebook(tmp_path / "edited.ipynb", "print('second')")
    made = execution.execute(execution.Job(read, tmp_path / "out"), threading.Event())
    assert (made.status, (made.folder / "log.txt").read_text()) == ("completed", "first\n")


def test_outputs_that_are_cleared_make_no_other_notebook(tmp_path: Path, good: Path) -> None:
    command(tmp_path, "run", notebook(tmp_path / "same.ipynb", "print(1)", parameters=None), "-o", "out")
    executed, plain = Notebook.read(tmp_path / "out/same.ipynb"), Notebook.read(tmp_path / "same.ipynb")
    assert executed.text != plain.text
    assert executed.digest == plain.digest == record(tmp_path / "out")["notebook_digest"]
    assert Notebook.read(good).digest != plain.digest


@pytest.mark.parametrize("ours", [cells.NotebookClient])
def test_a_private_method_that_is_replaced_is_still_called_by_its_library(ours: type) -> None:
    theirs = "".join(inspect.getsource(base) for base in ours.__mro__[1:] if base is not object)
    replaced = [name for name, what in vars(ours).items() if name.startswith("_") and inspect.isfunction(what)]
    assert replaced
    for name in replaced:
        assert f"self.{name}(" in theirs, f"{name} has no effect any more"


def test_a_killed_run_leaves_no_result_and_no_kernel_and_its_place_can_be_taken(tmp_path: Path, good: Path) -> None:
    endless = notebook(tmp_path / "endless.ipynb", "print('at it')\nwhile True: pass")
    run = subprocess.Popen(arguments("run", endless, "-o", "out"), cwd=tmp_path, env=environment(tmp_path))
    wait_until(lambda: "at it" in "".join(log.read_text() for log in tmp_path.glob(".out.*/log.txt")))
    run.kill()
    run.wait()
    assert not (tmp_path / "out").exists()
    wait_until(lambda: not kernels_in(tmp_path))
    assert command(tmp_path, "run", good, "-o", "out").returncode == 0
    assert record(tmp_path / "out")["notebook"] == str(good)


def test_a_run_finds_what_pip_installed_in_the_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKSPACE_STATE", str(tmp_path / "state"))
    greets = notebook(tmp_path / "greets.ipynb", "import greeting")
    without = command(tmp_path, "run", greets, "-o", "without")
    assert "No module named 'greeting'" in without.stderr
    place = sysconfig.get_path("purelib", scheme="venv", vars={"base": str(kernels_environment.make())})
    Path(place, "greeting.py").touch()
    done = command(tmp_path, "run", greets, "-o", "with")
    assert done.returncode == 0, done.stderr


def test_a_notebook_without_parameters_runs_as_it_is(tmp_path: Path) -> None:
    plain = notebook(tmp_path / "plain {1}.ipynb", "print(6 * 7)", parameters=None)
    done = command(tmp_path, "run", plain, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/log.txt").read_text() == "42\n"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["-p", "xx", "1"], "did you mean x?"),
        (["-p", "x=1;import os", "1"], "has no parameter"),
        (["-p", "x", "11"], "Allowed: 0 to 10"),
        (["-p", "x", "2.5"], "Allowed: 0 to 10 (int)"),
        (["-p", "rate", "nan"], "rate = nan"),
        (["-p", "mirror", "maybe"], "mirror = 'maybe'"),
        (["-p", "mode", "-faster"], "Allowed: fast, slow or off"),
        (["-p", "x", "1", "-p", "x", "2"], "given twice"),
        (["-p", "output_folder", "x"], "-o"),
        (["-f", "missing.yaml"], "No such file"),
        (["-o", "../elsewhere"], "without `..`"),
        (["-o", "taken"], "exists already"),
        (["-y", "x: ["], "-y holds no parameters"),
        (["-y", "x: 11"], "Allowed: 0 to 10"),
        (["-r", "x", "2"], "x = '2' makes no sense"),
        (["-p", "x", "1", "-r", "x", "2"], "given twice"),
        (["good.ipynb"], "good.ipynb is no notebook that a run has made"),
        (["taken"], "taken is no name for a copy"),
        (["--timeout", "0"], "leaves no time"),
        (["-k", "julia"], "kernel 'julia' is not installed"),
        (["--cwd", "nowhere"], "no folder nowhere"),
    ],
)
def test_bad_input_gets_one_line_and_starts_nothing(
    tmp_path: Path, good: Path, given: list[str], complaint: str
) -> None:
    (tmp_path / "taken").mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = command(tmp_path, "run", good, *given)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "there is no"),
        ("{", "is not a notebook"),
        ('{"cells": 1}', "is not a notebook"),
        ('{"cells": [{}]}', "broken notebook"),
        ("[]", "is not a notebook"),
    ],
)
def test_what_is_no_notebook_is_refused(tmp_path: Path, content: str | None, complaint: str) -> None:
    file = tmp_path / "broken.ipynb"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=complaint) as refused:
        Notebook.read(file)
    assert refused.value.exit_code == 2


def test_a_parameters_cell_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    bad = Notebook.read(notebook(tmp_path / "a.ipynb", parameters="x: int = = 1"))
    with pytest.raises(UserError, match=r"parameters cell .* cannot be read"):
        _ = bad.parameters


def test_parameters_for_a_notebook_without_any_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tagged `parameters`"):
        typed(notebook(tmp_path / "a.ipynb", parameters=None), ("x", "1"))


@pytest.mark.parametrize(
    ("line", "given", "expected"),
    [
        ("v: int = 1", "1_000", 1000),
        ("v: float = 1", "1e-3", 0.001),
        ("v: float = 1", 2, 2.0),
        ("v: bool = True", "off", False),
        ("v: str = ''", "1e-3", "1e-3"),
        ("v: str | None = None", "none", None),
        ("v: float | None = None", "0.5", 0.5),
        ("v: list[int] = [1]", "[2, 3]", [2, 3]),
        ("v = 3  # no type given", "4", 4),
        ("é = 1; v = False", "yes", True),
        ("v = 3  # type: float", "4", 4.0),
        ("v: tuple = (1, 2)", "(32, 32)", (32, 32)),
        ("v: tuple[int, int] = (1, 2)", [32, 32], (32, 32)),
        ("v: set = {1}", [2, 3], {2, 3}),
        ("v: Optional[List[int]] = None", "[1]", [1]),
        ("v: Optional[int] = 3", "None", None),
        ("v: 'int' = 3", "4", 4),
        ("v: Literal['a', 'b'] = 'a'", "1", "1"),
        ("v = None", "hello", "hello"),  # and what papermill makes of it
        ("v = None", "5", 5),
        ("v = None", "1e-3", 0.001),
        ("v = None", "False", False),
        ("v = None", "None", None),
        ("v = None", [1], [1]),
        ("v: int | str = 1", "five", "five"),
        ("v = 2 * 3", "7", 7),
        ("v = None", notebook_parameters.Raw("5"), "5"),
        ("%matplotlib inline\ne = v = 5", "6", 6),
    ],
)
def test_a_value_becomes_what_the_parameter_is(tmp_path: Path, line: str, given: object, expected: object) -> None:
    value = typed(notebook(tmp_path / "a.ipynb", parameters=line), ("v", given))["v"]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("v: int = 1", "1.0"),
        ("v: int = 1", True),
        ("v: bool = True", 1),
        ("v: str = ''", 5),
        ("v: float = 1", None),
        ("v: float = 1", "nan"),
        ("v: list[int] = [1]", "(2, 3)"),
        ("v = 3", "three"),
        ("v = 3  # type: float", "three"),
        ("v: tuple = (1, 2)", "32"),
        ("v: dict = {}", "{[1]: 2}"),
        ("v: set = {1}", [[2], [3]]),
        ("v: list = []", "-" * 20_000 + "1"),
        ("v: int = 1", notebook_parameters.Raw("5")),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path: Path, line: str, given: object) -> None:
    with pytest.raises(UserError, match="makes no sense"):
        typed(notebook(tmp_path / "a.ipynb", parameters=line), ("v", given))


HELD = """\
import json
from pathlib import Path

held = {name: repr(globals()[name]) for name in ("size", "msg", "rate", "options", "steps", "odd")}
Path(output_folder, "metrics.json").write_text(json.dumps(held))
"""
SIZES = """\
size: tuple = (1, 2)
msg = None
rate = 1  # type: float
options: dict = {}
steps: set = {1}
odd = 2 * 3
output_folder = "."
"""


def test_the_kernel_holds_what_was_meant_and_run_json_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("options: {1: [2026-11-23, (a)], b: !!set {x}}\nsteps: [4]\n")
    sizes = notebook(tmp_path / "sizes.ipynb", HELD, parameters=SIZES)
    given = ["-p", "size", "(32, 32)", "-p", "msg", 'é "x"', "-p", "rate", "-1e-3", "-f", file]
    done = command(tmp_path, "run", sizes, *given, "-o", "out")
    assert done.returncode == 0, done.stderr
    held = json.loads((tmp_path / "out/metrics.json").read_text())
    assert (held["size"], held["msg"], held["rate"], held["steps"]) == ("(32, 32)", repr('é "x"'), "-0.001", "{4}")
    assert (held["options"], held["odd"]) == ("{1: ['2026-11-23', '(a)'], 'b': {'x'}}", "6")
    said = record(tmp_path / "out")["parameters"]
    assert said == {
        "size": [32, 32],  # JSON has no tuples
        "msg": 'é "x"',
        "rate": -0.001,
        "options": {"1": ["2026-11-23", "(a)"], "b": ["x"]},
        "steps": [4],
    }


def test_what_was_injected_before_is_the_default_and_stays(tmp_path: Path, good: Path) -> None:
    assert command(tmp_path, "run", good, "-p", "x", 9, "-p", "rate", 0.5, "-o", "first").returncode == 0
    again = command(tmp_path, "run", "first/good.ipynb", "-p", "rate", 0.25, "-o", "second")
    assert again.returncode == 0, again.stderr
    again = record(tmp_path / "second")
    assert (again["parameters"]["x"], again["parameters"]["rate"], again["given"]) == (9, 0.25, {"rate": 0.25})
    assert json.loads((tmp_path / "second/metrics.json").read_text()) == {"accuracy": 2.25, "x": 9}


PAPERMILLS = Path(papermill.__file__).parent / "tests/notebooks"
REFUSED = {
    "complex_parameters.ipynb": "cannot be read: invalid syntax",
    "blank-vscode.ipynb": "names no kernel",
    "notimplemented_translator.ipynb": "written in R",
}
NEED_MORE_THAN_IS_HERE = {"binder.ipynb", "test_logging.ipynb", "keyboard_interrupt.ipynb"}


@pytest.mark.parametrize("file", sorted(PAPERMILLS.rglob("*.ipynb")), ids=lambda file: file.stem)
def test_what_papermill_runs_runs_here_and_what_fails_there_fails_here(tmp_path: Path, file: Path) -> None:
    if file.name in NEED_MORE_THAN_IS_HERE:
        pytest.skip("needs packages, a checkout of papermill, or a minute")
    hasty = re.sub(r"time\.sleep\([\d.]+\)", "time.sleep(0.01)", file.read_text())
    (tmp_path / file.name).write_text(hasty)
    try:
        papermill.execute_notebook(str(tmp_path / file.name), None, progress_bar=False)
        completes = True
    except Exception:
        completes = False
    done = command(tmp_path, "run", file.name, "-o", "out")
    assert (done.returncode == 0) == completes, done.stderr
    assert (REFUSED[file.name] in done.stderr) if done.returncode == 2 else file.name not in REFUSED
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "metadata", [None, {"kernelspec": None}, {"kernelspec": {"name": "python3", "language": "Python"}}]
)
def test_a_notebook_with_odd_metadata_runs(tmp_path: Path, metadata: dict | None) -> None:
    cell = {"cell_type": "code", "source": ["print(6 * 7)"], "metadata": None, "outputs": [], "execution_count": None}
    content = {"cells": [cell], "metadata": metadata, "nbformat": 4, "nbformat_minor": 4}
    (tmp_path / "odd.ipynb").write_text(json.dumps(content))
    done = command(tmp_path, "run", "odd.ipynb", "-k", "python3", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/log.txt").read_text() == "42\n"


def test_a_magic_that_does_not_exist_fails_with_its_words(tmp_path: Path) -> None:
    done = command(tmp_path, "run", notebook(tmp_path / "a.ipynb", "print('x')", "%nosuch"), "-o", "out")
    assert (done.returncode, "Line magic function `%nosuch` not found. (in cell" in done.stderr) == (1, True)


@pytest.fixture
def run_in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], folders.Run]:
    """Runs a notebook in this process, which has the workspace's kernels, as the commands have."""
    monkeypatch.setenv("JUPYTER_PATH", str(places.KERNELS))

    def run(file: Path, folder: str) -> folders.Run:
        job = execution.Job(Notebook.read(file), tmp_path / folder, environment={"OMP_NUM_THREADS": "3"})
        return execution.execute(job, threading.Event())

    return run


WHERE_A_KERNEL_IS = """
import gc, os, pathlib, signal, sys
pathlib.Path("started-as").write_bytes(pathlib.Path("/proc/self/cmdline").read_bytes())
print(sys.argv[0], sys.argv[3:], sys.path, sys.flags, os.getcwd(), __name__, gc.isenabled(), sep="\\n")
print(os.getsid(0) == os.getpid(), os.getppid() == int(os.environ.pop("JPY_PARENT_PID")))
print(os.read(0, 1), signal.getsignal(signal.SIGINT))
os.environ.pop("PYDEVD_USE_FRAME_EVAL", None)  # a debugger sets it, which those that are forked do without
print(sorted(os.environ.items()))
"""


def test_a_kernel_that_was_started_ahead_is_like_every_other(
    tmp_path: Path, run_in_process: Callable[[Path, str], folders.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = notebook(tmp_path / "a.ipynb", WHERE_A_KERNEL_IS)

    def told(output: str, *, ahead: bool) -> str:
        made = run_in_process(asking, output)
        assert made.status == folders.COMPLETED, made.record.error
        assert (b"warm_kernel" in (tmp_path / "started-as").read_bytes()) == ahead
        return (made.folder / folders.LOG).read_text()

    first, second = told("first", ahead=True), told("of-the-same-process", ahead=True)
    monkeypatch.setattr(warm, "take", lambda *_: None)
    assert first == second == told("by-itself", ahead=False)


def test_a_kernel_started_ahead_that_died_or_waited_too_long_is_not_missed(
    good: Path, run_in_process: Callable[[Path, str], folders.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "_forker", None)
    warm.prepare("another kernel")
    with monkeypatch.context() as relative:
        relative.setenv("PYTHONPATH", "modules")
        warm.prepare("python3")
    assert warm._forker is None
    with monkeypatch.context() as hasty:
        hasty.setattr(warm, "_WAITS_S", 0)
        warm.prepare("python3")
    wait_until(lambda: warm._forker.has_ended)
    assert run_in_process(good, "one").status == folders.COMPLETED
    warm._forker._process.kill()
    assert run_in_process(good, "another").status == folders.COMPLETED


def test_a_kernel_started_ahead_that_ends_at_once_is_seen_to_have_ended() -> None:
    told, tells = socket.socketpair()
    with tells:
        tells.sendall(b"7\n256\n")  # its process id, and before anybody has read that, its status
        ended = warm.Forked(told)
        assert (ended.pid, ended.poll()) == (7, 1)


def test_a_pipe_in_place_of_a_runs_own_notebook_holds_nothing_up(tmp_path: Path) -> None:
    replaces = (
        "import os\nplace = output_folder + '/a.ipynb'\nos.path.exists(place) and os.remove(place)\nos.mkfifo(place)"
    )
    done = command(tmp_path, "run", notebook(tmp_path / "a.ipynb", replaces, METRICS), "-o", "out")
    assert (done.returncode, (tmp_path / "out/a.ipynb").is_file()) == (0, True), done.stderr


def test_what_a_child_process_prints_is_logged_once(tmp_path: Path) -> None:
    child = notebook(tmp_path / "a.ipynb", "import subprocess\n_ = subprocess.run(['echo', 'child'])")
    assert command(tmp_path, "run", child, "-o", "out").returncode == 0
    assert (tmp_path / "out/log.txt").read_text() == "child\n"


def test_why_a_kernel_cannot_start_is_in_the_log(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ipykernel_launcher.py").write_text("raise SystemExit('not today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = command(tmp_path, "run", good, "-o", "out")
    assert "failed after" in done.stderr
    assert "the kernel died at its start" in done.stderr
    assert "not today" in (tmp_path / "out/log.txt").read_text()


@pytest.mark.parametrize(("folder", "code"), [(".hid", 0), (".hid.0abcde", 2)])
def test_a_folder_whose_name_begins_with_a_dot_is_one_like_others(
    tmp_path: Path, good: Path, folder: str, code: int
) -> None:
    done = command(tmp_path, "run", good, "-o", folder)
    assert done.returncode == code, done.stderr
    assert ("completed" in done.stdout) == (code == 0) == (tmp_path / folder / "run.json").exists()


def test_the_words_of_papermill_mean_here_what_they_mean_there(tmp_path: Path, good: Path) -> None:
    (tmp_path / "values.yaml").write_text("x: 1\nrate: 0.25\nmode: slow\n")
    words = ["OUT/out.ipynb", "-f", "values.yaml", "-y", "{x: 2, seed: 3}", "-p", "x", 4, "-r", "mode", "off"]
    for _ in range(2):  # an older copy is replaced, as there
        done = command(tmp_path, "run", good, *words)
        assert done.returncode == 0, done.stderr
    executed = Notebook.read(tmp_path / "OUT/out.ipynb")
    held = {name: parameter.default for name, parameter in executed.parameters.items() if name != "output_folder"}
    assert held == {"x": 4, "rate": 0.25, "mirror": True, "mode": "off", "seed": 3}
    assert len(list(tmp_path.glob("runs/good-*/run.json"))) == 2


def test_a_value_may_begin_with_a_dash_as_papermills_may(tmp_path: Path) -> None:
    words = notebook(tmp_path / "words.ipynb", parameters='word: str = "a"\nother: str = "b"')
    done = command(tmp_path, "run", words, "-p", "word", "-v", "-r", "other", "--x y", "--dry-run")
    assert done.stdout.splitlines()[:2] == ["word = '-v'", "other = '--x y'"], done.stderr


def test_a_failed_runs_notebook_is_copied_too(tmp_path: Path) -> None:
    bad = notebook(tmp_path / "bad.ipynb", "raise ValueError('no good')")
    assert command(tmp_path, "run", bad, "out.ipynb").returncode == 1
    assert "no good" in (tmp_path / "out.ipynb").read_text()


def test_a_file_of_parameters_means_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("rate: 1e-3\nmirror: false\nmode: 'off'\n")  # stock YAML reads a string, False and False
    values = typed(notebook(tmp_path / "a.ipynb"), *notebook_parameters.read_file(file).items())
    assert values == {"rate": 0.001, "mirror": False, "mode": "off"}
    file.write_text("v: {<<: {a: 1, b: 1}, b: 2}\n")
    assert notebook_parameters.read_file(file) == {"v": {"a": 1, "b": 2}}


@pytest.mark.parametrize("text", ["x: 1\nx: 2", "- 1", "x: [", "1: 2"])
def test_a_file_that_is_no_list_of_parameters_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"values\.yaml"):
        notebook_parameters.read_file(file)


def test_help_notebook_lists_every_parameter(tmp_path: Path, good: Path) -> None:
    done = command(tmp_path, "run", good, "--help-notebook")
    assert done.returncode == 0
    for line in PARAMETERS.splitlines():
        assert line.split(":")[0] in done.stdout
    assert "(1e-6 to 1)" in done.stdout


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, good: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "cannot be written to" in command(tmp_path, "run", good, "-o", "closed/out").stderr
