import hashlib
import json
from pathlib import Path

import pytest
from workspace.base import places
from workspace.lab import seed


@pytest.fixture(autouse=True)
def delivered(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folders / "delivered").mkdir()
    monkeypatch.setattr(places, "DELIVERED", folders / "delivered")
    (folders / "delivered/lesson.ipynb").write_text("first release")


def test_missing_lesson_is_seeded(folders: Path) -> None:
    seed.seed()
    assert (folders / "work/lesson.ipynb").read_text() == "first release"


def test_unedited_lesson_follows_a_new_release(folders: Path) -> None:
    seed.seed()
    (folders / "delivered/lesson.ipynb").write_text("second release")
    assert seed.seed() == []
    assert (folders / "work/lesson.ipynb").read_text() == "second release"


def _notebook(source: str, outputs: tuple[str, ...] = (), **metadata: str) -> str:
    return json.dumps({"cells": [{"source": source, "outputs": outputs}], "metadata": metadata})


def test_lesson_that_was_only_opened_follows_a_new_release_and_one_that_was_run_keeps_its_results(
    folders: Path,
) -> None:
    delivered, mine = folders / "delivered/lesson.ipynb", folders / "work/lesson.ipynb"
    delivered.write_text(_notebook("first"))
    seed.seed()
    mine.write_text(opened := _notebook("first", version="3.13"))  # as the lab saves it
    assert seed.seed() == []
    assert mine.read_text() == opened
    assert seed.put_back() == []
    delivered.write_text(_notebook("second"))
    assert seed.seed() == []
    assert mine.read_text() == _notebook("second")
    mine.write_text(run := _notebook("second", outputs=("81 %",)))
    delivered.write_text(_notebook("third"))
    [line] = seed.seed()
    assert line.startswith("lesson.ipynb was edited or run and is left as it is")
    assert mine.read_text() == run


def test_what_an_earlier_release_remembered_of_all_that_is_in_a_file_counts(folders: Path) -> None:
    old = _notebook("of an earlier release")
    (folders / "work/lesson.ipynb").write_text(old)
    (folders / "state/seeded.json").write_text(json.dumps({"lesson.ipynb": hashlib.sha256(old.encode()).hexdigest()}))
    (folders / "delivered/lesson.ipynb").write_text(_notebook("new"))
    assert seed.seed() == []
    assert (folders / "work/lesson.ipynb").read_text() == _notebook("new")


def test_edited_lesson_is_never_touched_and_a_new_release_is_announced(folders: Path) -> None:
    seed.seed()
    (folders / "work/lesson.ipynb").write_text("my edit")
    assert seed.seed() == []
    (folders / "delivered/lesson.ipynb").write_text("second release")
    [line] = seed.seed()
    assert "lesson.ipynb was edited or run" in line
    assert (folders / "work/lesson.ipynb").read_text() == "my edit"


def test_file_of_the_same_name_that_was_never_seeded_is_not_touched(folders: Path) -> None:
    (folders / "work/lesson.ipynb").write_text("somebody's own")
    seed.seed()
    assert (folders / "work/lesson.ipynb").read_text() == "somebody's own"


def test_putting_the_lesson_back_leaves_the_edited_one_and_earlier_copies(folders: Path) -> None:
    (folders / "work/lesson.ipynb").write_text("my edit")
    (folders / "work/lesson.original.ipynb").write_text("another of mine")
    assert [path.name for path in seed.put_back()] == ["lesson.original2.ipynb"]
    assert (folders / "work/lesson.ipynb").read_text() == "my edit"
    assert (folders / "work/lesson.original.ipynb").read_text() == "another of mine"
    assert (folders / "work/lesson.original2.ipynb").read_text() == "first release"


def test_putting_back_an_unedited_lesson_writes_nothing() -> None:
    seed.seed()
    assert seed.put_back() == []


def test_what_is_delivered_no_more_stays_and_is_said_once(folders: Path) -> None:
    (folders / "delivered/charts.py").write_text("an older release's module")
    seed.seed()
    (folders / "delivered/charts.py").unlink()
    [line] = seed.seed()
    assert line.startswith("charts.py came with an older release")
    assert (folders / "work/charts.py").exists()
    assert seed.seed() == []
