"""The order of runs, what their seeds say of it, and the table for spreadsheets."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from small import leaderboard
from workspace.runs import folders
from workspace.sweeps import ranking
from workspace.sweeps.ranking import Metric, Row

ACCURACY = Metric("accuracy", "max")


def row(name: str, value: float | None = 0.5, status: str = folders.COMPLETED, **parameters: object) -> Row:
    return Row(name, "", status, parameters or {"name": name}, 1.0, None, {"accuracy": value}, {})


def seeds(width: int, *values: float) -> list[Row]:
    return [row(f"{width}-{seed}", value, width=width, seed=seed) for seed, value in enumerate(values)]


def test_runs_on_different_images_are_entries_of_their_own_and_their_order_is_said_to_say_nothing() -> None:
    real, other, drawn = seeds(8, 0.8, 0.81, 0.98)
    both = [replace(one, metrics=one.metrics | {"dataset": "cifar10"}) for one in (real, other)]
    mixed = ranking.entries([*both, replace(drawn, metrics=drawn.metrics | {"dataset": "drawn"})], ACCURACY)
    assert [len(entry.rows) for entry in mixed] == [1, 2]
    assert ranking.certainty(mixed) == "They are of different images (cifar10, drawn), so their order says nothing."
    [same] = ranking.entries(both, ACCURACY)
    assert len(same.rows) == 2


def test_a_folder_whose_images_were_exchanged_makes_no_seed_of_the_runs_before() -> None:
    before, after = (
        replace(one, metrics={"accuracy": 0.5, "dataset": "folder", "dataset_digest": digest})
        for one, digest in zip(seeds(8, 0.8, 0.9), ("1ff3", "77aa"), strict=True)
    )
    assert len(ranking.entries([before, after], ACCURACY)) == 2
    assert len(ranking.entries([before, replace(after, metrics=before.metrics)], ACCURACY)) == 1


def test_a_number_that_is_none_ranks_last_and_failures_after_it() -> None:
    mixed = [row("d", None, folders.FAILED), row("b", math.nan), row("a", 0.1), row("c", None), row("e", 0.9)]
    mixed.append(row("bb", math.inf))
    for mode, order in {"max": ["e", "a", "b", "bb", "c", "d"], "min": ["a", "e", "b", "bb", "c", "d"]}.items():
        assert [entry.name for entry in ranking.entries(mixed, Metric("accuracy", mode))] == order


def test_runs_that_differ_by_their_seed_are_one_entry_and_the_luckiest_seed_wins_nothing() -> None:
    best, other = ranking.entries([*seeds(8, 0.1, 0.9), *seeds(16, 0.6, 0.7)], ACCURACY)
    assert (best.parameters, best.values) == ({"width": 16}, [0.6, 0.7])
    assert str(best) == "0.65 ± 0.071 of 2 seeds"
    assert (other.mean, len(other.rows)) == (0.5, 2)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.60005, 0.59995), "0.6 ± 0.0001"),
        ((0.0, 0.0), "0 ± 0"),
        ((-0.5, 0.5), "0 ± 0.71"),
        ((1e-6, 3e-6), "2e-06 ± 1.4e-06"),
        ((1000, 3000), "2000 ± 1400"),
    ],
)
def test_a_spread_is_shown_as_far_as_its_mean_is(values: tuple, shown: str) -> None:
    [entry] = ranking.entries(seeds(8, *values), ACCURACY)
    assert str(entry) == f"{shown} of 2 seeds"


def test_the_same_seed_again_or_another_notebook_is_an_entry_of_its_own() -> None:
    again = [row("a", seed=1, width=8), row("b", seed=1, width=8), row("c", seed=2, width=8)]
    assert [entry.name for entry in ranking.entries(again, ACCURACY)] == ["a c", "b"]
    another = Row("d", "", folders.COMPLETED, {"seed": 3, "width": 8}, 1.0, None, {}, {}, notebook="other.ipynb")
    assert len(ranking.entries([again[0], another], ACCURACY)) == 2
    edited = [replace(again[0], notebook_digest="a"), replace(again[2], notebook_digest="b")]
    assert len(ranking.entries(edited, ACCURACY)) == 2


def test_a_setting_that_failed_for_one_seed_says_so_and_keeps_the_mean_of_the_others() -> None:
    half = [row("a", 0.4, seed=0, width=8), row("b", None, folders.FAILED, seed=1, width=8)]
    [entry] = ranking.entries(half, ACCURACY)
    assert (entry.mean, entry.status, len(entry.values)) == (0.4, folders.FAILED, 1)


def test_a_difference_as_seeds_make_it_is_none_and_a_larger_one_is() -> None:
    near = ranking.entries([*seeds(8, 0.70, 0.74), *seeds(16, 0.71, 0.75), *seeds(32, 0.1, 0.14)], ACCURACY)
    assert ranking.alike(near) == 1
    assert "cannot be told apart from the next one" in ranking.certainty(near)
    far = ranking.entries([*seeds(8, 0.70, 0.71, 0.72), *seeds(16, 0.90, 0.91, 0.92)], ACCURACY)
    assert ranking.alike(far) == 0
    assert "better than what seeds explain" in ranking.certainty(far)


def test_of_settings_run_once_nobody_says_which_is_better() -> None:
    once = ranking.entries([*seeds(8, 0.1), *seeds(16, 0.9)], ACCURACY)
    assert ranking.alike(once) is None
    assert "-p seed=0,1,2 would show it" in ranking.certainty(once)
    assert ranking.certainty(once[:1]) == ""


@pytest.mark.parametrize("name", ["loss", "test_loss", "valLoss", "Error", "training_seconds"])
def test_less_of_a_loss_an_error_or_seconds_is_better_unless_told_and_that_is_said(name: str) -> None:
    assert Metric.asked(name, None).mode == "min"
    assert f"the lowest {name} is taken for the best" in Metric.asked(name, None).note
    assert Metric.asked(name, "max") == Metric(name, "max")


@pytest.mark.parametrize("name", ["accuracy", "lossless", "imagesPerSecond", "score"])
def test_more_of_anything_else_is_better(name: str) -> None:
    assert Metric.asked(name, None) == Metric(name, "max")


def test_the_table_has_the_mean_the_spread_and_the_seeds_of_each_setting(tmp_path: Path) -> None:
    ordered = ranking.entries([*seeds(8, 0.1, 0.9), *seeds(16, 0.6, 0.6)], ACCURACY)
    ranking.write_leaderboard(tmp_path, ordered, ACCURACY)
    first, second = leaderboard(tmp_path)
    assert (first["width"], first["accuracy"], first["spread"], first["runs"]) == ("16", "0.6", "0.0", "2")
    assert (second["run"], second["seeds"]) == ("8-0 8-1", "0 1")
    assert "seed" not in first


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_like_a_formula_is_none_in_the_table(tmp_path: Path, text: str) -> None:
    rows = [row("a", 0.5, mode=text, rate=-1.5), Row("b", "", folders.FAILED, {text: 1}, 1.0, text, {}, {})]
    ranking.write_leaderboard(tmp_path, ranking.entries(rows, ACCURACY), ACCURACY)
    first, second = leaderboard(tmp_path)
    assert (first["mode"], first["rate"]) == (f"'{text}", "-1.5")
    assert (second["error"], second[f"'{text}"]) == (f"'{text}", "1")
