"""Small notebooks, one condition each, and the commands that run them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
from labs import REPOSITORY
from lesson import cifar10, images
from PIL import Image
from workspace.base import programs

PARAMETERS = """\
x: int = 1  # a whole number (0 to 10)
rate: float = 0.1  # a number (1e-6 to 1)
mirror: bool = True  # a switch
mode: str = "fast"  # a word (fast, slow or off)
seed: int = 0
output_folder: str = "."
"""
METRICS = """\
import json
from pathlib import Path

Path(output_folder, "metrics.json").write_text(json.dumps({"accuracy": x * rate, "x": x}))
"""


def notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    """Write a notebook of these code cells, after a parameters cell."""
    content = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    if parameters is not None:
        content.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    content.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(content, path)
    return path


INSTALLING = r"""
import zipfile
with zipfile.ZipFile("mine-{version}-py3-none-any.whl", "w") as wheel:
    wheel.writestr("mine.py", "version = '{version}'")
    metadata = "Metadata-Version: 2.1\nName: mine\nVersion: {version}\n{needs}"
    wheel.writestr("mine-{version}.dist-info/METADATA", metadata)
    wheel.writestr("mine-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("mine-{version}.dist-info/RECORD", "")
%pip install --quiet --no-index --no-deps {{wheel.filename}}
"""


def installing(version: str, needs: str = "") -> str:
    """A cell that makes a package `mine`, so that no network is needed, and installs it."""
    return INSTALLING.format(version=version, needs=needs and f"Requires-Dist: {needs}")


def arguments(name: str, *given: object) -> list[str]:
    return [sys.executable, str(REPOSITORY / "scripts" / name), *map(str, given)]


def environment(work: Path) -> dict[str, str]:
    return os.environ | {"WORKSPACE_WORK": str(work), "PYTHONUNBUFFERED": "1"}


def command(work: Path, name: str, *given: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the workspace whose work folder is `work`, in that folder."""
    return programs.ask(*arguments(name, *given), cwd=work, env=environment(work), timeout=120)


def python(work: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in that folder, where a kernel would be, with the workspace's packages."""
    known = environment(work) | {"PYTHONPATH": str(REPOSITORY / "scripts")}
    return programs.ask(sys.executable, "-c", code, cwd=work, env=known)


def images_of_two_kinds(folder: Path, train: int) -> Path:
    """Make a folder of `train` dark and as many light images to learn from, and 10 of each to test."""
    chance = np.random.default_rng(0)
    for part, count in (("train", train), ("test", 10)):
        for name, level in (("dark", 60), ("light", 180)):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = chance.integers(level - 50, level + 50, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


def drawn_as_cifar10(data: Path, train: int = 1000, test: int = 200) -> Path:
    """Make a data folder with drawn images in the place of CIFAR-10's; a lesson that loads few has little to do."""
    ready = data / "cifar10"
    ready.mkdir(parents=True)
    drawn = images.draw(train, test)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.save(ready / f"{name}.npy", getattr(drawn, name))
    (ready / "digests.json").write_text(json.dumps({"archive": cifar10.SHA256, "arrays": {}}))
    return data


def leaderboard(folder: Path) -> list[dict[str, str]]:
    """The lines of the table of a sweep or a comparison."""
    with (folder / "leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file))
