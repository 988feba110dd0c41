"""report.html: what it shows, and that nothing odd costs more than its own place."""

import base64
import json
import re
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from small import METRICS, command, leaderboard, notebook
from workspace.base.cli import UserError
from workspace.runs import folders
from workspace.runs.folders import Record
from workspace.runs.sweep_record import SweepRecord
from workspace.sweeps import ranking, report
from workspace.sweeps.execution import Progress
from workspace.sweeps.ranking import Metric


def made(folder: Path, metrics: dict, curves: dict | None = None, **parameters: object) -> None:
    """A run as a sweep leaves it."""
    folder.mkdir(parents=True)
    record = Record(status=folders.COMPLETED, notebook="x.ipynb", parameters=parameters, given=parameters, seconds=1.5)
    record.write(folder / folders.RECORD)
    (folder / folders.METRICS).write_text(json.dumps(metrics))
    if curves:
        (folder / folders.CURVES).write_text(json.dumps(curves))


def page_of(folder: Path, metric: Metric) -> str:
    rows = [ranking.row(folders.Run(path)) for path in sorted(folder.iterdir())]
    return report.write(folder, ranking.entries(rows, metric), metric, "odd").read_text()


ACCURACY = Metric("accuracy", "max")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of runs with values that are not what a picture needs."""
    folder = tmp_path_factory.mktemp("odd")
    made(
        folder / "a",
        {"accuracy": 0.5, "accuracy_cat": 0.1},
        {"loss": [1, 0.5], "epochs": [1], "_hidden": [0.1, None]},
        **{"$x^$": [1, 2]},
    )
    made(folder / "b", {"accuracy": 0.6, "accuracy_cat": [1]}, {"loss": "none"}, **{"$x^$": [3]})
    made(folder / "c", {"accuracy": [0.7], "note": {"a": 1}}, None, **{"$x^$": None})
    made(folder / "d", {"other": 1}, {"loss": [0.5, 0.4]}, **{"$x^$": "<b>bold</b>", "_y": 10**400})
    made(folder / "e", {"accuracy": 10**400}, None, **{"$x^$": {"lr": 0.1}})
    return page_of(folder, ACCURACY)


def test_an_odd_value_costs_neither_the_report_nor_a_part_of_it(odd: str) -> None:
    assert "cannot be shown" not in odd
    parts = ["The runs", "What each parameter does", "How they learned", "Class by class", "What it costs"]
    assert [part for part in parts if f"<h2>{part}</h2>" not in odd] == []


def test_what_cannot_be_shown_is_named(odd: str) -> None:
    assert odd.count("no number") == 2
    assert odd.count("not written") == 1
    assert "Not shown where it is no list of numbers: loss, _hidden." in odd
    assert "&lt;b&gt;bold&lt;/b&gt;" in odd


def test_a_part_that_fails_is_named_in_its_place_and_the_others_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "runs/a", {"accuracy": 0.5}, x=1)
    made(tmp_path / "runs/b", {"accuracy": 0.6}, x=2)
    monkeypatch.delattr(Axes, "scatter")
    page = page_of(tmp_path / "runs", ACCURACY)
    assert "This part cannot be shown: AttributeError" in page
    assert "<h2>What it costs</h2>" in page


def test_a_report_opens_on_an_answer_is_small_and_tells_its_pictures_in_words(tmp_path: Path) -> None:
    """200 runs of three parameters; the seeds of a setting are alike."""
    for number in range(200):
        rate, width, seed = number % 10, number // 10 % 10, number // 100
        value = 0.5 + rate / 50 + width / 100 + seed / 1000
        curves = {"loss": [1 / step for step in range(1, 41)]}
        values = {"rate": rate, "width": width, "mode": "ab"[width % 2], "seed": seed}
        made(tmp_path / f"r{number:03}", {"accuracy": value, "accuracy_cat": value}, curves, **values)
    page = page_of(tmp_path, ACCURACY)
    assert len(page) <= 1e6
    assert "0.7705 ± 0.0007 of 2 seeds</span> accuracy, with rate 9, width 9, mode b" in page
    assert "<b>By how much?</b> 0.01 ahead of the next (rate 9, width 8, mode a), 0.14 ahead of the middle" in page
    assert "<b>More than luck?</b> The best is better than what seeds explain (95 %)." in page
    assert "<b>What does it cost?</b> 1.5 s a run; none is faster." in page
    assert "<h2>What goes together</h2>" in page
    told = re.findall(r"<img[^>]*?alt=['\"]([^'\"]+)", page)
    assert len(told) == len(re.findall(r"<img", page)) == 5
    assert "A line for each of 100 settings through its parameters. The best: rate 9, width 9, mode b." in told
    assert "cannot be shown" not in page


def test_one_run_alone_leads_nobody_and_two_parameters_need_no_picture_of_more(tmp_path: Path) -> None:
    made(tmp_path / "one/a", {"accuracy": 0.5}, x=1, y=1)
    assert "By how much" not in page_of(tmp_path / "one", ACCURACY)
    for name, accuracy in {"a": 0.5, "b": 0.4}.items():
        made(tmp_path / "two" / name, {"accuracy": accuracy}, x=accuracy, y=1)
    page = page_of(tmp_path / "two", ACCURACY)
    assert "0.1 ahead of the next (x 0.4)" in page
    assert "What goes together" not in page


def test_eight_parameters_get_two_rows_of_pictures(tmp_path: Path) -> None:
    for number in range(3):
        made(tmp_path / f"run{number}", {"accuracy": number / 10}, **{f"p{axis}": number * axis for axis in range(9)})
    page = page_of(tmp_path, ACCURACY)
    pictures = [base64.b64decode(data).decode() for data in re.findall(r"data:image/svg\+xml;base64,([^'\"]+)", page)]
    heights = [
        float(height) for picture in pictures for height in re.findall(r'<svg[^>]*? height="([\d.]+)pt"', picture)
    ]
    assert max(heights) > 390, "two rows of 2.8 inches, 72 points each"


def test_curves_of_which_none_can_be_drawn_are_named(tmp_path: Path) -> None:
    made(tmp_path / "a", {"accuracy": 0.5}, {"loss": "none"}, x=1)
    page = page_of(tmp_path, ACCURACY)
    assert "Not shown where it is no list of numbers: loss." in page
    assert "cannot be shown" not in page


def test_where_less_is_better_the_report_says_so(tmp_path: Path) -> None:
    made(tmp_path / "a", {"loss": 0.5}, x=1)
    made(tmp_path / "b", {"loss": 0.2}, x=2)
    page = page_of(tmp_path, Metric.asked("loss", None))
    assert "Down and to the left is good: a lower loss in less time." in page
    assert "By loss, the lowest first." in page
    assert "0.2</span> loss, with x 2" in page


def test_seeds_are_one_line_and_the_report_says_what_they_tell(tmp_path: Path) -> None:
    for seed in (0, 1):
        made(tmp_path / f"a{seed}", {"accuracy": 0.5 + seed / 10}, width=8, seed=seed)
        made(tmp_path / f"b{seed}", {"accuracy": 0.5 + seed / 5}, width=16, seed=seed)
    page = page_of(tmp_path, ACCURACY)
    assert "0.6 ± 0.14 of 2 seeds</span> accuracy, with width 16" in page
    assert "The best cannot be told apart from the next one" in page
    assert "4 runs of 2 settings" in page


def test_a_setting_of_which_one_seed_wrote_no_metric_says_so(tmp_path: Path) -> None:
    made(tmp_path / "a", {"accuracy": 0.1}, seed=0)
    made(tmp_path / "b", {"other": 0.1}, seed=1)
    assert page_of(tmp_path, ACCURACY).count("1 of 2 without it") == 1


DRAWN = """
import json
from pathlib import Path

Path(output_folder, "metrics.json").write_text(json.dumps({"accuracy": x / 10, "dataset": "drawn", "notice": "no net"}))
"""


def test_an_accuracy_on_drawn_shapes_says_so_in_table_report_and_status_line(tmp_path: Path) -> None:
    notebook(tmp_path / "draws.ipynb", DRAWN)
    done = command(tmp_path, "sweep", "draws.ipynb", "-p", "x=1,2", "-o", "out")
    said = "on drawn shapes"
    assert f"best accuracy 0.2 {said}\n" in done.stdout
    assert [row["caveat"] for row in leaderboard(tmp_path / "out")] == [said] * 2
    assert (tmp_path / "out/report.html").read_text().count(said) == 3
    progress = Progress(ACCURACY, ["x"], 3, 2, ranking.rows(tmp_path / "out"))
    assert progress.line(1, stopping=False) == f"2 of 3 done · 1 running · best accuracy 0.2 {said} (x 2)"


def test_an_accuracy_on_photographs_has_no_caveat(tmp_path: Path) -> None:
    notebook(tmp_path / "real.ipynb", DRAWN.replace("drawn", "cifar10"))
    done = command(tmp_path, "sweep", "real.ipynb", "-p", "x=1,2", "-o", "out")
    assert "drawn" not in done.stdout
    assert "caveat" not in leaderboard(tmp_path / "out")[0]


def test_compared_runs_show_their_names_their_notebooks_and_their_defaults(tmp_path: Path) -> None:
    notebook(tmp_path / "one.ipynb", METRICS)
    notebook(
        tmp_path / "the second.ipynb", METRICS, parameters='x: int = 3\nrate: float = 0.2\noutput_folder: str = "."'
    )
    assert command(tmp_path, "sweep", "one.ipynb", "-p", "x=1,2", "-o", "runs/s").returncode == 0
    assert command(tmp_path, "run", "the second.ipynb", "-o", "runs/alone").returncode == 0
    [swept] = (tmp_path / "runs/s").glob("x-2*")
    done = command(tmp_path, "compare", swept, "alone", "-o", "compared")
    assert done.returncode == 0, done.stderr
    once = "Each was run once, so nobody can say what of the differences is luck."
    assert done.stdout.splitlines() == ["best accuracy 0.6", once, str(tmp_path / "compared/report.html")]
    page = (tmp_path / "compared/report.html").read_text()
    assert f">s/{swept.name}</a>" in page
    assert ">alone</a>" in page
    assert page.count("<td>one.ipynb</td>") == page.count("<td>the second.ipynb</td>") == 1
    table = leaderboard(tmp_path / "compared")
    assert [(row["run"], row["x"], row["rate"]) for row in table] == [
        ("alone", "3", "0.2"),
        (f"s/{swept.name}", "2", "0.1"),
    ]


@pytest.mark.parametrize(("names", "compared"), [(["s"], 2), (["s", "alone"], 3), (["empty"], None)])
def test_a_sweep_is_compared_with_all_its_runs(tmp_path: Path, names: list[str], compared: int | None) -> None:
    for folder in ("s/x-1_a", "s/x-2_b", "alone"):
        made(tmp_path / "runs" / folder, {"accuracy": 0.5}, x=1)
    for folder in ("s", "empty"):
        (tmp_path / "runs" / folder).mkdir(exist_ok=True)
        SweepRecord().write(tmp_path / "runs" / folder)
    done = command(tmp_path, "compare", *names, "-o", "compared")
    assert (done.returncode == 0) == (compared is not None), done.stderr
    assert compared or done.stderr == "compare: no run of the sweep empty has ended\n"
    assert not compared or f"{compared} runs compared" in (tmp_path / "compared/report.html").read_text()


def test_a_comparison_goes_beside_a_taken_name_that_it_was_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "compare-now"
    taken.mkdir()
    monkeypatch.setattr(folders, "default_folder", lambda _: taken)
    assert report._new_folder(None) == tmp_path / "compare-now-2"
    with pytest.raises(UserError, match="exists already"):
        report._new_folder(taken)


def test_a_run_that_does_not_exist_cannot_be_compared(tmp_path: Path) -> None:
    done = command(tmp_path, "compare", "nothing-like-it")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
