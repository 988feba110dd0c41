"""scripts/run --background and scripts/runs: following runs and ending them."""

import json
import os
import shlex
from pathlib import Path

import pytest
from labs import REPOSITORY, wait_until
from small import command, notebook
from workspace.host import locate
from workspace.runs import folders, runs_command
from workspace.runs.sweep_record import SweepRecord


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with one run that was started in the background and stopped by name."""
    folder = tmp_path_factory.mktemp("work")
    endless = notebook(folder / "endless.ipynb", "print('at it')\nwhile True: pass")
    started = command(folder, "run", endless, "-p", "x", 2, "-o", "runs/long", "--background")
    assert started.returncode == 0, started.stderr
    assert "running as long" in started.stdout
    state = json.loads(next(folder.glob("runs/.long.*/state.json")).read_text())
    assert os.getsid(state["pid"]) != os.getsid(0), "it must survive this terminal"
    wait_until(lambda: [log for log in folder.glob("runs/.long.*/log.txt") if log.read_text()])
    assert "running" in command(folder, "runs", "list").stdout
    stopped = command(folder, "runs", "stop", "long")
    assert stopped.returncode == 0, stopped.stderr
    return folder


def test_a_run_stopped_by_name_is_kept_as_stopped(work: Path) -> None:
    assert json.loads((work / "runs/long/run.json").read_text())["status"] == "stopped"
    assert not list(work.glob("runs/.long*"))


def test_the_list_names_status_and_parameters(work: Path) -> None:
    line = command(work, "runs", "list").stdout.splitlines()[-1]
    assert line.startswith("long  stopped")
    assert line.endswith("x 2")


def test_a_list_without_runs_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORKSPACE_WORK", str(tmp_path))
    monkeypatch.delenv("WORKSPACE_DIR", raising=False)
    monkeypatch.setattr(locate, "_LAST", tmp_path / "started-in")
    assert runs_command.list_runs(as_json=False) == 0
    assert capsys.readouterr().out == f"There are no runs in {tmp_path}/runs.\n"
    (tmp_path / "started-in").write_text(locate.DOCKER)
    runs_command.list_runs(as_json=False)
    assert "docker compose exec workspace runs list" in capsys.readouterr().out


def test_tail_prints_what_the_notebook_printed_and_how_it_ended(work: Path) -> None:
    done = command(work, "runs", "tail", "lo")
    assert done.stdout.startswith("at it\n")
    assert done.stdout.endswith("-- stopped: stopped before its end\n")
    assert done.returncode == 1


def test_show_names_the_parameters_with_their_defaults(work: Path) -> None:
    shown = command(work, "runs", "show").stdout
    assert "  rate: 0.1\n" in shown
    assert "host: " in shown


def test_a_run_that_has_ended_cannot_be_stopped(work: Path) -> None:
    done = command(work, "runs", "stop", "long")
    assert done.returncode == 2
    assert done.stderr == "runs: long is not running: stopped\n"


def test_a_run_that_does_not_exist_gets_the_nearest_name(work: Path) -> None:
    done = command(work, "runs", "show", "lnog")
    assert done.returncode == 2
    assert "did you mean long?" in done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"schema": 3, "status": "completed"}', "newer workspace (schema 3; this one reads 2): update the workspace"),
        ('{"status": 7}', "is damaged: status is 7"),
        ('{"status": "comp', "is damaged"),
        ("[]", "holds no object"),
    ],
)
def test_a_record_that_cannot_be_read_is_listed_as_that_and_says_why(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "runs/odd").mkdir(parents=True)
    (tmp_path / "runs/odd/run.json").write_text(content)
    assert "odd  unreadable" in command(tmp_path, "runs", "list").stdout
    assert said in command(tmp_path, "runs", "show", "odd").stdout


def test_a_record_of_an_older_workspace_is_read(tmp_path: Path) -> None:
    (tmp_path / "runs/old").mkdir(parents=True)
    (tmp_path / "runs/old/run.json").write_text('{"status": "failed", "given": {"x": 2}, "seconds": 5, "of_old": 1}')
    line = command(tmp_path, "runs", "list").stdout.splitlines()[-1]
    assert line.split() == ["old", "failed", "5", "s", "x", "2"]


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    record = folders.Record(status="completed", given={"x": 1}, versions={"python": "3.12"}, seconds=1.5)
    record.write(tmp_path / "run.json")
    assert folders.Record.read(tmp_path / "run.json") == record


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A work folder with a run of each of two sweeps, of the same name, and one more."""
    for folder in ("one/x-1", "two/x-1", "alone"):
        (tmp_path / "runs" / folder).mkdir(parents=True)
        sweep = Path(folder).parent.name or None
        folders.Record(status="completed", sweep=sweep, given={"x": 1}).write(tmp_path / "runs" / folder / "run.json")
    return tmp_path


def test_runs_of_one_second_are_listed_by_their_names(tmp_path: Path) -> None:
    for name in "cabd":
        (tmp_path / "runs" / name).mkdir(parents=True)
        folders.Record(status="completed").write(tmp_path / "runs" / name / "run.json")
    listed = command(tmp_path, "runs", "list").stdout.splitlines()[1:]
    assert [line.split()[0] for line in listed] == ["a", "b", "c", "d"]


def test_runs_of_sweeps_are_told_apart_by_the_sweep(several: Path) -> None:
    listed = command(several, "runs", "list").stdout
    assert "one/x-1  " in listed
    assert "two/x-1  " in listed
    refused = command(several, "runs", "show", "x-1")
    assert refused.stderr == "runs: x-1 may be one/x-1, two/x-1; write all of it\n"
    assert "sweep: two\n" in command(several, "runs", "show", "two/x-1").stdout
    assert "sweep: one\n" in command(several, "runs", "show", "one/").stdout
    assert "did you mean one/x-1?" in command(several, "runs", "show", "one/x-2").stderr


def test_a_sweep_is_shown_as_one(several: Path) -> None:
    SweepRecord(notebook="lesson.ipynb", planned=2).write(several / "runs/one")
    said = command(several, "runs", "show", "one").stdout
    assert f"{several}/runs/one: not finished, 1 of 2 done\nits runs: scripts/runs show one/RUN\n" in said
    assert "notebook: lesson.ipynb\n" in said
    assert command(several, "runs", "show", "two").stderr == ""  # no sweep, but what begins so is one run


def test_the_list_for_programs_holds_all_that_is_known(several: Path) -> None:
    (several / "runs/alone/metrics.json").write_text('{"accuracy": NaN, "dataset": "drawn"}')
    listed = json.loads(command(several, "runs", "list", "--json").stdout, parse_constant=pytest.fail)
    assert sorted(run["name"] for run in listed["runs"]) == ["alone", "one/x-1", "two/x-1"]
    [alone] = [run for run in listed["runs"] if run["name"] == "alone"]
    assert (alone["status"], alone["given"], alone["caveat"]) == ("completed", {"x": 1}, "on drawn shapes")
    assert alone["metrics"]["accuracy"] is None


def test_a_run_that_is_removed_can_be_taken_back(several: Path) -> None:
    asked = command(several, "runs", "rm", "alone")
    assert (asked.returncode, "--yes" in asked.stderr) == (2, True)
    done = command(several, "runs", "rm", "alone", "two/x-1", "--yes")
    assert done.returncode == 0, done.stderr
    assert "alone" not in (listed := command(several, "runs", "list").stdout)
    assert "two/x-1" not in listed
    for line in done.stdout.splitlines():
        taken_back = command(several, "runs", *shlex.split(line.partition("takes it back: ")[2])[1:])
        assert taken_back.returncode == 0, taken_back.stderr
    assert command(several, "runs", "list").stdout.count("completed") == 3


def test_what_was_removed_last_is_taken_back_first_and_over_nothing(several: Path) -> None:
    refused = command(several, "runs", "restore")
    assert (refused.returncode, refused.stderr) == (2, f"runs: nothing was removed in {several}/runs\n")
    assert command(several, "runs", "rm", "alone", "one/x-1", "--yes").returncode == 0
    assert command(several, "runs", "restore", "two").stderr.startswith("runs: no two was removed; the latest")
    (several / "runs/one/x-1").mkdir()
    assert "runs/one/x-1 is there again" in command(several, "runs", "restore", "one/x-1").stderr
    (several / "runs/one/x-1").rmdir()
    assert command(several, "runs", "restore").stdout == f"{several}/runs/one/x-1\n"
    assert command(several, "runs", "restore").stdout == f"{several}/runs/alone\n"


def test_a_run_at_work_is_not_removed(several: Path) -> None:
    with folders.working(several / "runs/busy", folders.Record()):
        done = command(several, "runs", "rm", "busy", "--yes")
        assert (done.returncode, "busy is running" in done.stderr) == (2, True)
    assert command(several, "runs", "rm", "busy", "--yes").returncode == 0


def test_the_remains_of_a_killed_run_are_listed_as_lost(tmp_path: Path) -> None:
    remains = tmp_path / "runs/.gone.123abc"
    remains.mkdir(parents=True)
    (remains / "state.json").write_text('{"notebook": "a.ipynb", "started": "2026-01-01T00:00:00"}')
    assert "gone  lost" in command(tmp_path, "runs", "list").stdout


def test_hint_names_a_command_as_it_is_called_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "; scripts/run makes one" in command(tmp_path, "runs", "show").stderr
    monkeypatch.setenv("PATH", f"{REPOSITORY / 'scripts'}:{os.environ['PATH']}")  # as in the lab's terminals
    assert "; run makes one" in command(tmp_path, "runs", "show").stderr
