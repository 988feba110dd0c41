"""scripts/bench gpu: its parts run on the CPU here, and a machine without a GPU that serves is told why."""

import json
from pathlib import Path

import pytest
import torch
from lesson import machine
from small import command, images_of_two_kinds
from stand_ins import program
from workspace.base.cli import UserError
from workspace.bench import gpu
from workspace.host import engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few images of two kinds, light and dark."""
    return images_of_two_kinds(tmp_path_factory.mktemp("bench") / "images", 80)


def test_it_measures_lesson_and_sweep_whose_numbers_are_the_seeds_and_says_what_it_could_not_try(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        raise engine.UnreachableError("the Docker engine cannot be reached: it is stopped")

    monkeypatch.setattr(engine, "require", stopped)
    # The one is the lesson with other parameters, the other is run in tests/test_train_ddp.py.
    for part in ("a larger network", "several devices"):
        monkeypatch.delitem(gpu.PARTS, part)
    bench = gpu.Bench(tmp_path, folder, device="cpu", less={"first_steps": 2, "epochs": 4.0})
    table = gpu.measure(bench, ["a card (driver 580)"])
    capsys.readouterr()
    table.show()
    shown = capsys.readouterr().out
    assert f"torch {torch.__version__}" in shown.splitlines()[1]
    assert "a card (driver 580)" in shown.splitlines()[1]
    rows = {cells[1].strip(): cells[2].strip() for line in shown.splitlines()[3:] if (cells := line.split("|"))}
    assert not table.missed, rows
    assert "of training on cpu" in rows["the lesson, as delivered"]
    assert rows["the most memory it took"].endswith("MB of the machine's")
    assert "one by one they take" in rows["a sweep of 2 runs"]
    assert rows["the same seed once more"] == "the same numbers, to the last digit"
    of_seeds = [gpu._results(json.loads(file.read_text())) for file in tmp_path.glob("sweep/[!.]*/metrics.json")]
    assert of_seeds[0] != of_seeds[1]
    assert rows["the hardened container"] == "not tried: the Docker engine cannot be reached: it is stopped"


def test_a_part_that_fails_is_told_and_keeps_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: gpu.Bench) -> gpu.Rows:
        yield "half of it", "done", None
        raise UserError("first line\nrun: failed after 3 s: | no")

    def differs(_: gpu.Bench) -> gpu.Rows:
        yield "the same seed", "other numbers: accuracy", False

    monkeypatch.setattr(gpu, "PARTS", {"the first": fails, "the second": differs})
    table = gpu.measure(gpu.Bench(tmp_path, None), [])
    table.show()
    shown = capsys.readouterr().out
    assert table.missed
    assert "half of it" in shown
    assert r"**failed: run: failed after 3 s: \| no**" in shown
    assert "**other numbers: accuracy**" in shown


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A machine whose nvidia-smi does this."""
    program(folder / "bin/nvidia-smi", script)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")


def test_without_a_card_it_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "echo 'NVIDIA-SMI has failed'; exit 9")
    refused = command(tmp_path, "bench", "gpu")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "no NVIDIA GPU here" in refused.stderr


@pytest.mark.parametrize(
    ("cuda", "available", "works", "told"),
    [(None, False, False, "WORKSPACE_WHEELS=cuda"), ("13.2", False, False, "version 580"), ("13.2", True, False, "")],
)
def test_a_card_that_cannot_be_used_is_told_why(
    cuda: str | None, available: bool, works: bool, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, monkeypatch, "echo 'Tesla V100, 470.1'")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(machine, "gpu_works", lambda: works)
    with pytest.raises(UserError, match=f"nothing was measured.*{told}"):
        gpu._cards()


def test_each_card_is_named_with_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "printf 'NVIDIA L4, 580.65.06\\nNVIDIA T4, 580.65.06\\n'")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(machine, "gpu_works", lambda: True)
    assert gpu._cards() == ["NVIDIA L4 (driver 580.65.06)", "NVIDIA T4 (driver 580.65.06)"]
