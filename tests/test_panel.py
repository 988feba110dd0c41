"""The panel: what its form asks for and refuses, what its table finds, and what it does to runs."""

import html
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from labs import wait_until
from small import METRICS, PARAMETERS, command, environment, notebook, python
from workspace.base.cli import UserError
from workspace.lab import contents
from workspace.panel import form, panel, still
from workspace.panel.panel import Panel
from workspace.panel.watch import Watch
from workspace.runs import folders, reading, sweep_record
from workspace.runs.folders import Record
from workspace.runs.notebook import Notebook
from workspace.runs.progress import Progress
from workspace.runs.sweep_record import SweepRecord
from workspace.sweeps import plans
from workspace.sweeps.plans import Axis
from workspace.sweeps.ranking import Metric

ACCURACY = Metric("accuracy", "max")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder with a notebook in it, and none of a browser."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    notebook(tmp_path / "good.ipynb", METRICS)
    return tmp_path


@pytest.fixture
def good(work: Path) -> Notebook:
    return Notebook.read(work / "good.ipynb")


def made(work: Path, name: str, status: str = folders.COMPLETED, accuracy: float = 0.5, **parameters: object) -> Path:
    """A run as it is left behind."""
    folder = work / "runs" / name
    folder.mkdir(parents=True)
    (folder / folders.METRICS).write_text(json.dumps({"accuracy": accuracy}))
    record = Record(
        status=status, notebook=str(work / "good.ipynb"), parameters=parameters, given=parameters, seconds=60
    )
    record.write(folder / folders.RECORD)
    return folder


class Heard(list):
    """What a page was told."""

    def all(self, what: str) -> list:
        return [news[what] for news in self if what in news]


@pytest.fixture
def opened(work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Panel, Heard]]]:  # noqa: ARG001
    """Opens a panel, and what its page is told from then on."""
    panels = []
    monkeypatch.setattr(panel, "_EVERY_S", 0.05)

    def open_(source: Notebook | None = None) -> tuple[Panel, Heard]:
        watch, heard = Watch(), Heard()
        watch.look()
        made_ = Panel(watch, source, ACCURACY)
        made_.send = heard.append
        panels.append(made_)
        return made_, heard

    yield open_
    for one in panels:
        one.end()


def ask(page: Panel, **wish: object) -> None:
    """What the browser sends."""
    page._hear(page, wish, [])


# --- the form ---


def test_a_field_is_made_of_each_parameter_with_its_comment_choices_and_default(good: Notebook) -> None:
    fields = {field["name"]: field for field in form.fields(good)}
    assert list(fields) == ["x", "rate", "mirror", "mode", "seed"], "the run sets its folder itself"
    assert fields["rate"] == {
        "name": "rate",
        "type": "float",
        "help": "a number (1e-6 to 1)",
        "choices": [],
        "default": "0.1",
        "several": True,
    }
    assert fields["mirror"]["choices"] == ["true", "false"]
    assert (fields["mode"]["choices"], fields["mode"]["default"]) == (["fast", "slow", "off"], "fast")


@pytest.mark.parametrize(
    ("name", "written"), [("x", "77"), ("x", "1.5"), ("x", ""), ("rate", "high"), ("mode", "faster"), ("nope", "1")]
)
def test_a_value_is_refused_in_the_words_of_the_command(work: Path, good: Notebook, name: str, written: str) -> None:
    asked = form.read(good, {name: written, "seed": "3"})
    refused = command(work, "run", "good.ipynb", "-p", name, written)
    assert refused.returncode == 2
    assert refused.stderr == f"run: {asked.wrong[name]}\n"
    assert asked.texts == {"seed": "3"}


@pytest.mark.parametrize(
    ("texts", "runs", "axes"),
    [
        ({}, 1, {}),
        ({"x": "1", "rate": " 0.1"}, 1, {}),  # the defaults
        ({"x": "2"}, 1, {"x": (2,)}),
        ({"x": "2, 3", "seed": "0:2:3"}, 6, {"x": (2, 3), "seed": (0, 1, 2)}),
        ({"mirror": "true, false", "mode": "off"}, 2, {"mirror": (True, False), "mode": ("off",)}),
    ],
)
def test_several_values_make_a_sweep_of_all_combinations(good: Notebook, texts: dict, runs: int, axes: dict) -> None:
    asked = form.read(good, texts)
    assert (asked.wrong, asked.runs, asked.is_sweep) == ({}, runs, runs > 1)
    assert {axis.name: axis.values for axis in asked.axes} == axes


@pytest.mark.parametrize(
    ("written", "said"), [("1,", "a value is missing"), ("1:5", "how many values"), ("2,2", "x has 2 twice")]
)
def test_several_values_that_make_no_sense_are_refused_as_the_sweep_refuses_them(
    good: Notebook, written: str, said: str
) -> None:
    assert said in form.read(good, {"x": written}).wrong["x"]


def test_a_comma_in_free_text_or_in_a_list_is_a_part_of_the_value(work: Path) -> None:
    parameters = 'where: str = ""\nsizes: list = [1, 2]\n' + PARAMETERS
    source = Notebook.read(notebook(work / "text.ipynb", METRICS, parameters=parameters))
    asked = form.read(source, {"where": "a, b", "sizes": "[3, 4]", "x": "1,2"})
    assert {axis.name: axis.values for axis in asked.axes} == {"where": ("a, b",), "sizes": ([3, 4],), "x": (1, 2)}
    assert asked.as_file == {"where": ["a, b"], "sizes": ["[3, 4]"], "x": "1,2"}


def test_the_time_is_reckoned_by_the_runs_that_are_most_like_those_asked_for(work: Path, good: Notebook) -> None:
    watch = Watch()
    assert "no run of it has ended" in form.time(good, form.read(good, {}), [], 1)
    made(work, "small", x=1, rate=0.1)
    made(work, "large", x=10, rate=0.1)
    watch.look()
    rows = [replace(one.row, seconds={"small": 10, "large": 100}[one.run]) for one in watch.ended.values()]
    assert form.time(good, form.read(good, {"x": "9"}), rows, 1) == "about 1 min 40 s"
    assert form.time(good, form.read(good, {"x": "9", "seed": "0,1,2,3"}), rows, 2) == "about 3 min 20 s"
    assert form.time(good, form.read(good, {"x": "2"}), rows, 1) == "about 10 s"


# --- runs, by clicking ---


def test_a_run_is_started_as_the_command_starts_it_and_watched_to_its_end(
    work: Path, good: Notebook, opened: Callable[..., tuple[Panel, Heard]]
) -> None:
    page, heard = opened(good)
    ask(page, do="start", values={"x": "3", "mode": "-"})
    wait_until(lambda: heard.all("started"))
    assert heard.all("started") == [False], "a value is refused, and nothing starts"
    assert "mode" in heard.all("checked")[0]["wrong"]
    ask(page, do="start", values={"x": "3", "rate": "0.2"})
    ended = wait_until(lambda: [run for runs in heard.all("runs") for run in runs["changed"].values()])
    assert (ended[0]["status"], ended[0]["parameters"]["x"]) == ("completed", 3)
    [record] = work.glob("runs/good-*/run.json")
    assert json.loads(record.read_text())["given"] == {"x": 3, "rate": 0.2}
    entry = heard.all("runs")[-1]["entries"][0]
    assert entry["shown"] == "0.6"


def test_a_sweep_is_started_with_the_metric_chosen(
    work: Path, good: Notebook, opened: Callable[..., tuple[Panel, Heard]]
) -> None:
    page, heard = opened(good)
    ask(page, do="metric", metric="x")
    ask(page, do="check", values={"x": "1,2"}, number=1)
    assert heard.all("checked")[-1]["runs"] == 2
    ask(page, do="start", values={"x": "1,2"})
    [record] = wait_until(lambda: list(work.glob("runs/good-sweep-*/sweep.json")))
    wait_until(lambda: len(list(record.parent.glob("*/run.json"))) == 2)
    assert json.loads(record.read_text())["metric"] == "x"
    # Its report is written last.
    wait_until(lambda: (record.parent / "report.html").exists())


def test_the_same_values_come_back_into_the_form(
    work: Path, good: Notebook, opened: Callable[..., tuple[Panel, Heard]]
) -> None:
    made(work, "one", x=4, mirror=False, mode="off", gone=1)
    page, heard = opened(None)
    [one] = page._watch.ended.values()
    ask(page, do="reuse", number=one.number)
    told = heard.all("form")[-1]
    assert (told["notebook"], told["values"]) == (good.name, {"x": "4", "mirror": "false", "mode": "off"})


def test_runs_are_removed_and_taken_back(work: Path, opened: Callable[..., tuple[Panel, Heard]]) -> None:
    folder = made(work, "one", x=1)
    made(work, "two", x=2)
    page, heard = opened()
    number = next(one.number for one in page._watch.ended.values() if one.run == "one")
    ask(page, do="remove", numbers=[number])
    wait_until(lambda: {"done": "removed one", "undo": 1} in heard.all("said"))
    assert not folder.exists()
    assert [entry["runs"] for entry in heard.all("runs")[-1]["entries"]] != [[number]]
    ask(page, do="take_back", count=1)
    wait_until(lambda: {"done": "1 taken back"} in heard.all("said"))
    assert folder.exists()
    ask(page, do="remove", numbers=[number + 99])
    wait_until(lambda: {"wrong": "a run that was chosen is not there any more"} in heard.all("said"))


def test_a_sweep_that_ended_before_its_time_goes_on_or_is_removed(
    work: Path, good: Notebook, opened: Callable[..., tuple[Panel, Heard]]
) -> None:
    folder = work / "runs/s"
    folder.mkdir(parents=True)
    shutil.copy(good.path, folder)
    SweepRecord(planned=1, notebook=str(good.path), notebook_digest=good.digest).write(folder)
    plans.write(folder, good.name, [Axis("x", (2,))], {})
    page, heard = opened()
    assert [(sweep["name"], sweep["goes_on"]) for sweep in page._watch.sweeps] == [("s", True)]
    ask(page, do="go_on", name="s")
    wait_until(lambda: list(folder.glob("*/run.json")) or [said for said in heard.all("said") if "wrong" in said])
    assert [json.loads(file.read_text())["given"] for file in folder.glob("*/run.json")] == [{"x": 2}], heard.all(
        "said"
    )
    wait_until(lambda: not sweep_record.at_work(folder))
    ask(page, do="discard", name="s")
    wait_until(lambda: not folder.exists())
    ask(page, do="discard", name="s")
    wait_until(lambda: any("no run" in said.get("wrong", "") for said in heard.all("said")))


def test_two_panels_at_once_are_told_the_same(work: Path, opened: Callable[..., tuple[Panel, Heard]]) -> None:
    (_, one), (_, other) = opened(), opened()
    made(work, "new", x=1)
    for heard in (one, other):
        wait_until(lambda: [run for runs in heard.all("runs") for run in runs["changed"].values()])  # noqa: B023


def test_a_clock_that_was_set_back_makes_no_time_less_than_none(tmp_path: Path) -> None:
    (tmp_path / folders.PROGRESS).write_text('{"cell": 2, "cells": 3, "cell_begun": 99999999999}')
    (tmp_path / folders.LOG).write_text("step 1 of 2\n")
    progress = Progress.of(folders.Run(tmp_path))
    assert progress.seconds_in_cell < 60
    assert progress.where == "cell 2 of 3"
    assert progress.time_left.endswith(" s left in this cell")
    (tmp_path / folders.PROGRESS).write_text('{"cell": "x", "cells": null')
    assert Progress.of(folders.Run(tmp_path)).where == "starting the kernel"


def test_a_folder_that_became_read_only_is_told_and_nothing_is_lost(
    work: Path, opened: Callable[..., tuple[Panel, Heard]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(work, "one", x=1)
    page, heard = opened()
    [one] = page._watch.ended.values()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)  # root may write anywhere
    ask(page, do="remove", numbers=[one.number])
    told = wait_until(lambda: heard.all("said"))
    assert told[0]["wrong"].endswith("runs/one cannot be removed: Read-only file system")
    assert page._watch.by_number(one.number)


def test_where_no_run_can_be_kept_that_is_told_and_the_form_is_ready_again(
    work: Path, good: Notebook, opened: Callable[..., tuple[Panel, Heard]]
) -> None:
    (work / "runs").touch()  # root may write into any folder, and this is none
    page, heard = opened(good)
    ask(page, do="start", values={"x": "3"})
    [said] = wait_until(lambda: heard.all("said"))
    assert f"{work}/runs" in said["wrong"]
    assert "\n" not in said["wrong"]
    assert heard.all("started") == [False]


def test_what_is_left_of_a_run_that_was_killed_is_removed_and_taken_back(
    work: Path, opened: Callable[..., tuple[Panel, Heard]]
) -> None:
    with folders.working(work / "runs/dead", Record(notebook="a.ipynb")):
        page, heard = opened()
        ask(page, do="discard", name="dead")
        wait_until(lambda: any("dead is running" in said.get("wrong", "") for said in heard.all("said")))
    wait_until(lambda: [run["status"] for run in page._watch.under_way] == ["lost"])
    ask(page, do="discard", name="dead")
    wait_until(lambda: not page._watch.under_way)
    ask(page, do="take_back")
    wait_until(lambda: page._watch.under_way)


# --- what the table finds ---


def test_what_comes_while_the_clock_is_wrong_is_found(work: Path) -> None:
    watch, ahead = Watch(), (time.time() + 3600,) * 2
    for number in range(1, 3):
        made(work, f"run{number}", x=number)
        os.utime(work / "runs", ahead)
        assert watch.look()
        assert len(watch.ended) == number


def test_runs_of_others_appear_while_they_are_at_work_and_go_when_they_are_removed(work: Path) -> None:
    watch = Watch()
    assert not watch.look()
    latest = Record(notebook="a.ipynb", started="2999-01-01T00:00:00+00:00")
    with folders.working(work / "runs/busy", latest) as (at, _):
        progress = Progress(cells=9)
        progress.begin_cell(at)
        (at / folders.LOG).write_text("epoch 1 of 4\x1b[31m red\r\nepoch 2 of 4: \x1b]0;title\x07<b>\n")
        assert watch.look()
        [shown] = watch.under_way
        assert (shown["where"], shown["said"], shown["status"]) == ("cell 1 of 9", "epoch 2 of 4: <b>", "running")
        assert shown["left"].startswith("about ")
    assert watch.look()
    assert watch.under_way[0]["status"] == "lost", "its process is gone"
    folder = made(work, "done", x=1)
    assert watch.look()
    assert [one.run for one in watch.ended.values()] == ["done"]
    folders.Run(folder).folder.rename(work / "away")
    wait_until(watch.look)
    assert not watch.ended


def test_another_run_of_the_same_name_takes_the_place_of_the_first(work: Path) -> None:
    watch = Watch()
    folder = made(work, "s/x-1", accuracy=0.1, x=1)
    watch.look()
    folder.rename(work / "replaced")
    made(work, "s/x-1", accuracy=0.9, x=1)
    wait_until(watch.look)
    assert [one.row.numbers["accuracy"] for one in watch.ended.values()] == [0.9]


def test_a_look_at_rest_reads_nothing(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        made(work, f"s/x-{number}", x=number)
    for folder in (work / "runs", work / "runs/s"):
        os.utime(folder, (time.time() - 60,) * 2)
    watch = Watch()
    assert watch.look()
    monkeypatch.setattr(os, "scandir", lambda _: pytest.fail("a folder is listed again"))
    monkeypatch.setattr(Watch, "_read", lambda *_: pytest.fail("a run is read again"))
    assert not watch.look()


def test_a_sweep_shows_how_far_it_is_and_that_it_ended_before_its_time(work: Path) -> None:
    made(work, "s/x-1", x=1)
    made(work, "s/x-2", status=folders.FAILED, x=2)
    SweepRecord(planned=4, error="the disk is full").write(work / "runs/s")
    watch = Watch()
    watch.look()
    [sweep] = watch.sweeps
    shown = {name: sweep[name] for name in ("name", "done", "failed", "planned", "at_work", "error")}
    expected = {"name": "s", "done": 1, "failed": 1, "planned": 4, "at_work": False, "error": "the disk is full"}
    assert shown == expected


def test_seeds_are_one_row_with_mean_and_spread(work: Path, opened: Callable[..., tuple[Panel, Heard]]) -> None:
    for seed in range(3):
        made(work, f"run{seed}", accuracy=0.5 + seed / 10, x=1, seed=seed)
    made(work, "other", accuracy=0.1, x=2, seed=0)
    page, _ = opened()
    entries = page._runs()["entries"]
    assert [(len(entry["runs"]), entry["shown"]) for entry in entries] == [(3, "0.6 ± 0.1 of 3 seeds"), (1, "0.1")]


def test_what_no_other_language_can_read_costs_no_row(work: Path, opened: Callable[..., tuple[Panel, Heard]]) -> None:
    made(work, "nan", accuracy=float("nan"), x=float("inf"), y=10**400)
    (work / "runs/damaged").mkdir()
    (work / "runs/damaged/run.json").write_text('{"status": 7')
    page, heard = opened()
    ask(page, do="hello", serial=-1)
    told = json.dumps(heard.all("runs")[-1], allow_nan=False)
    assert '"unreadable"' in told
    assert len(heard.all("runs")[-1]["entries"]) == 2


# --- a log ---


def test_a_log_is_shown_as_text_of_a_modest_size_whatever_it_holds(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(
        b"\x1b[1;31mred\x1b[0m \x07\x1b]8;;http://x\x1b\\link\x00\n" + b"10%|#\r90%|##\r\n" + b"\xff<script>\n"
    )
    assert reading.end_of_log(log) == "red link\n90%|##\n\ufffd<script>\n"
    log.write_text("a" * 10_000_000)
    assert len(reading.end_of_log(log)) == reading.LONGEST + 2
    log.unlink()
    os.mkfifo(log)
    assert reading.end_of_log(log) == ""
    assert reading.last_lines(tmp_path / "none", 3) == []


def test_a_log_is_told_as_it_grows_until_it_is_closed(work: Path, opened: Callable[..., tuple[Panel, Heard]]) -> None:
    log = made(work, "one", x=1) / folders.LOG
    page, heard = opened()
    ask(page, do="log", run="one")
    assert heard.all("log") == [""]
    log.write_text("first\n")
    wait_until(lambda: heard.all("log")[-1] == "first\n")
    ask(page, do="log", run=None)
    assert page._log is None


# --- a still ---


def test_a_still_is_a_table_that_runs_nothing(work: Path, good: Notebook) -> None:
    for number in range(9):
        made(work, f"<script>{number}", x=number)
    watch = Watch()
    watch.look()
    shown = still.of(watch, good, "accuracy")
    assert "<script>" not in shown["text/html"]
    assert html.escape("<script>8") in shown["text/html"]
    assert "and 1 more" in shown["text/html"]
    assert "Rerun good.ipynb with other settings (9 runs had ended" in shown["text/plain"]
    assert "no run yet" in still.of(Watch(), None, "accuracy")["text/plain"]


def test_where_nobody_watches_a_still_is_all_and_no_widget_is_made(work: Path) -> None:
    cell = "from workspace import panel\npanel.show()"
    done = command(work, "run", notebook(work / "shows.ipynb", cell), "-o", "runs/shown")
    assert done.returncode == 0, done.stderr
    executed = json.loads((work / "runs/shown/shows.ipynb").read_text())
    [output] = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    assert sorted(output["data"]) == ["text/html", "text/plain"]


def test_what_is_saved_of_a_widget_with_a_still_is_the_still() -> None:
    def saved(**data: str) -> list[str]:
        cells = [{"cell_type": "code", "outputs": [{"data": data}]}, {"cell_type": "markdown"}]
        contents._keep_stills({"type": "notebook", "content": {"cells": cells}})
        return list(cells[0]["outputs"][0]["data"])

    view = {contents._WIDGET: "..."}
    assert saved(**view, **{"text/html": "", "text/plain": ""}) == ["text/html", "text/plain"]
    assert saved(**view, **{"text/plain": ""}) == [contents._WIDGET, "text/plain"], "it has nothing else to show"
    contents._keep_stills({"type": "file", "content": "text"})


def test_a_notebook_that_is_not_there_is_one_line(work: Path) -> None:
    code = "from workspace import panel\npanel.show('none.ipynb')"
    done = python(work, code)
    assert done.stderr.splitlines()[-1].endswith("UserError: there is no none.ipynb here")
    assert UserError("a line")._render_traceback_() == ["a line"]
