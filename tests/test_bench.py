"""scripts/bench: its tables, and that a bound which is missed is said and ends in exit code 1."""

import sys
from pathlib import Path

import pytest
from small import command
from workspace.base.cli import UserError
from workspace.bench import image, runs
from workspace.bench.measuring import Cost, Table, cost


def test_a_table_is_markdown_whose_columns_stand_below_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("", "seconds")
    table.add("a run", "1.0")
    table.show()
    assert capsys.readouterr().out == "\n|       | seconds |\n| ----- | ------- |\n| a run | 1.0     |\n"


@pytest.mark.parametrize(("kept", "shown"), [(True, "| at most 2 |"), (False, "| **at most 2: missed** |")])
def test_a_bound_that_is_missed_is_marked(capsys: pytest.CaptureFixture[str], kept: bool, shown: str) -> None:
    table = Table("", "seconds", "bound")
    table.add("a run", "1.0", bound="at most 2", kept=kept)
    table.show()
    assert shown in capsys.readouterr().out
    assert table.missed is not kept


@pytest.mark.parametrize(("seconds", "cpu", "missed"), [(0.8, 1.9, False), (0.9, 1.9, True), (0.8, 2.1, True)])
def test_a_run_is_bound_to_a_share_of_papermills(seconds: float, cpu: float, missed: bool) -> None:
    fresh, ours = runs._FRESH, runs._OURS
    table = runs.compared({(runs._ALONE, fresh): Cost(2.0, 3.0), (runs._ALONE, ours): Cost(seconds, cpu)})
    assert table.missed is missed


def test_what_notebooks_take_themselves_is_in_no_share() -> None:
    fresh, ours = runs._FRESH, runs._OURS
    eight = {(runs._PAIRS, fresh): Cost(18.0, 9.0), (runs._PAIRS, ours): Cost(12.0, 9.0)}
    assert not runs.compared(eight).missed
    assert runs.compared(eight | {(runs._PAIRS, ours): Cost(12.1, 9.0)}).missed


def test_cost_is_seconds_and_cpu_seconds_of_the_command(tmp_path: Path) -> None:
    taken = cost([sys.executable, "-c", "import time\ntime.sleep(0.3)\nsum(range(3_000_000))"], tmp_path)
    assert taken.seconds >= 0.3
    assert 0 < taken.cpu < taken.seconds


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such luck"):
        cost([sys.executable, "-c", "raise SystemExit('no such luck')"], tmp_path)


def test_a_package_counts_for_what_alone_needs_it() -> None:
    packages = {"a": (1, ["b", "c"]), "b": (1, []), "c": (1, ["d"]), "d": (1, ["c"]), "e": (1, ["b"])}
    assert image._needed(packages, {"a", "e"}) - image._needed(packages, {"e"}) == {"a", "c", "d"}


def test_a_missed_bound_is_exit_code_1(tmp_path: Path) -> None:
    weighed = command(tmp_path, "bench", "image", "--native", "--most", 1)
    assert weighed.stdout.startswith("\n| packages"), weighed.stderr
    assert "| torch " in weighed.stdout
    assert weighed.returncode == ("missed" in weighed.stdout)


def test_bad_arguments_are_one_line(tmp_path: Path) -> None:
    for subject in (["runs", "--rounds", "0"], ["start", "--rounds", "0"], ["lesson", "--seeds", "0"], ["nothing"]):
        refused = command(tmp_path, "bench", *subject)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
