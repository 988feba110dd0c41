"""The lesson of the previous release, which somebody has edited and keeps, beside the code of today."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import papermill
import pytest
from labs import REPOSITORY
from small import drawn_as_cifar10
from workspace.base.places import LESSON
from workspace.lab import seed

PREVIOUS = "57e2241"
"""The last commit of the previous release, whose modules lay beside its lesson."""
MODULES = ("charts", "cifar10", "images", "machine", "parameters")


def released(name: str) -> bytes:
    command = ["git", "show", f"{PREVIOUS}:notebooks/{name}"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    if shown.returncode:
        pytest.skip("the history of the repository is not here")
    return shown.stdout


@pytest.fixture
def work(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder as the previous release left it, its lesson edited."""
    monkeypatch.setenv("CIFAR10_MIRRORS", "none")
    drawn_as_cifar10(folders / "data")
    work, delivered = folders / "work", (LESSON, *(f"{module}.py" for module in MODULES))
    for name in delivered:
        (work / name).write_bytes(released(name))
    edited = nbformat.read(work / LESSON, as_version=4)
    edited.cells[0].source += "\n\nMy own words."
    nbformat.write(edited, work / LESSON)
    (folders / "state/seeded.json").write_text(json.dumps(dict.fromkeys(delivered, "0")))
    return work


def accuracy_of_a_small_run(work: Path) -> float:
    parameters = {"dataset": "cifar10", "train_images": 640, "epochs": 1.0, "output_folder": str(work / "run")}
    done = work / "done.ipynb"
    lesson = str(work / LESSON)
    papermill.execute_notebook(lesson, str(done), parameters, cwd=str(work), progress_bar=False, start_timeout=180)
    return json.loads((work / "run/metrics.json").read_text())["accuracy"]


def test_it_goes_on_beside_its_own_modules_which_are_announced_once(work: Path) -> None:
    said = "\n".join(seed.seed())
    assert f"{LESSON} was edited or run and is left as it is" in said
    assert "charts.py, cifar10.py, images.py, machine.py, parameters.py came with an older release" in said
    assert "older release" not in "\n".join(seed.seed())
    assert accuracy_of_a_small_run(work) >= 0


def test_todays_package_has_all_that_it_calls(work: Path) -> None:
    lesson = nbformat.read(work / LESSON, as_version=4)
    for cell in lesson.cells:
        cell.source = re.sub(rf"(?m)^import ({'|'.join(MODULES)})$", r"from lesson import \1", cell.source)
    nbformat.write(lesson, work / LESSON)
    for module in MODULES:
        (work / f"{module}.py").unlink()
    assert accuracy_of_a_small_run(work) >= 0


def test_old_modules_beside_todays_lesson_do_no_harm(work: Path) -> None:
    shutil.copy(REPOSITORY / "notebooks" / LESSON, work / LESSON)
    for module in MODULES:
        (work / f"{module}.py").write_text("raise AssertionError('an old module was imported')")
    assert accuracy_of_a_small_run(work) >= 0
