"""What a GPU does for the workspace: the lesson, a sweep, several devices, and the container that is hardened.

Ends in minutes, with one table. What could not be tried stands in it, with the reason. Exit code 1 where something
fails, or where the same seed gives other numbers.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.bench.measuring import Table, cost, free_port, images_argument, script
from workspace.host import compose, engine
from workspace.host import gpu as gpu_layers

SEVERAL_DEVICES = "several_devices.ipynb"
LARGER = {"width": 64, "epochs": 20.0}
"""The lesson's parameters that go towards what CIFAR-10 allows, in a minute of a GPU."""
SHARE = 256
"""The images of each batch that one of several devices gets."""

_FIRST, _SWEEP, _SEVERAL = "lesson", "sweep", "several"
"""Folders of what is compared with one another."""


class NotHereError(UserError):
    """What this machine lacks for a part."""


@dataclass(frozen=True)
class Bench:
    """In which folder, on which images, and where it computes; without a GPU the same code runs on the `cpu`."""

    work: Path
    folder: Path | None
    cards: int = 1
    device: str = "cuda"
    less: Mapping[str, object] = field(default_factory=dict)  # parameters that make the lesson shorter

    @property
    def images(self) -> dict[str, object]:
        """The parameters that name the images."""
        return {"dataset": "folder", "data_folder": self.folder} if self.folder else {}

    @property
    def lesson(self) -> dict[str, object]:
        """The parameters of every run of the lesson."""
        return self.images | {"device": self.device} | self.less

    def run(self, notebook: str, name: str, parameters: Mapping[str, object]) -> dict[str, Any]:
        """Run a delivered notebook into the folder `name`; what its metrics.json says. Raises UserError if it fails."""
        cost(_script("run", notebook, "-o", self.work / name, *_options(parameters)), self.work)
        return json.loads((self.work / name / "metrics.json").read_text())


Rows = Iterator[tuple[str, str, bool | None]]
"""What was measured, the result, and whether it is as it must be, where it must."""


def lesson(bench: Bench) -> Rows:
    """As delivered: how good, how fast, the memory, and what its section on GPUs says."""
    metrics = bench.run(places.LESSON, _FIRST, bench.lesson)
    yield "the lesson, as delivered", _told(metrics), None
    gpu = f"{metrics['peak_gpu_memory_mb']:,} MB of the GPU's, " if "peak_gpu_memory_mb" in metrics else ""
    yield "the most memory it took", f"{gpu}{metrics['peak_memory_mb']:,} MB of the machine's", None
    for line in _printed(bench.work / _FIRST / places.LESSON, "gpu").splitlines():
        what, of_speeds, numbers = line.partition(": ")
        if of_speeds:
            yield what, numbers, None


def larger(bench: Bench) -> Rows:
    """The lesson with other parameters alone, towards what CIFAR-10 allows."""
    metrics = bench.run(places.LESSON, "larger", bench.lesson | LARGER)
    yield f"the lesson, {', '.join(f'{name} {value:g}' for name, value in LARGER.items())}", _told(metrics), None


def sweep(bench: Bench) -> Rows:
    """Two runs for each GPU, one at a time on each; the first is the lesson's once more."""
    runs = 2 * bench.cards
    axes = bench.lesson | {"seed": ",".join(map(str, range(runs)))}
    values = [word for name, value in axes.items() for word in ("-p", f"{name}={value}")]
    seconds = cost(_script("sweep", places.LESSON, "-o", bench.work / _SWEEP, *values), bench.work).seconds
    made = {file.parent: json.loads(file.read_text()) for file in (bench.work / _SWEEP).glob("[!.]*/run.json")}
    together = sum(record["seconds"] for record in made.values())
    yield f"a sweep of {runs} runs", f"{seconds:.0f} s; one by one they take {together:.0f} s", None
    if (first := bench.work / _FIRST / "metrics.json").exists():
        [again] = (folder for folder, record in made.items() if record["seed"] == 0)
        one, other = (_results(json.loads(file.read_text())) for file in (first, again / "metrics.json"))
        differ = [name for name in one if one[name] != other.get(name)]
        told = f"other numbers: {', '.join(differ)}" if differ else "the same numbers, to the last digit"
        yield "the same seed once more", told, not differ


def several_devices(bench: Bench) -> Rows:
    """One network on all GPUs; on the CPU where there is one GPU only, or none."""
    processes = max(2, bench.cards)
    given = {"processes": processes, "batch_size": SHARE * processes, "train_images": 0}
    metrics = bench.run(SEVERAL_DEVICES, _SEVERAL, bench.images | given)
    [kept] = (bench.work / _SEVERAL).glob("**/processes-1/metrics.json")
    alone = json.loads(kept.read_text())
    how = "by NCCL" if metrics["device"] == "cuda" else "by gloo (NCCL not tried: there are not two GPUs)"
    told = f"{metrics['images_per_second']:,.0f} images/s on {metrics['device']}, {how}; "
    told += f"one process: {alone['images_per_second']:,.0f}; weights apart by {metrics['weights_apart']:.0e}"
    yield f"{processes} processes train one network", told, None


def container(bench: Bench) -> Rows:
    """The workspace in Docker, hardened as delivered, and the lesson run in it."""
    try:
        engine.require()
        asked = gpu_layers.require() if bench.device == "cuda" else {}
    except UserError as lack:
        raise NotHereError(str(lack)) from lack
    port = str(free_port())
    own = {"COMPOSE_PROJECT_NAME": f"bench-gpu-{port}", "WORKSPACE_PORT": port, "WORKSPACE_BIND": "127.0.0.1"}
    workspace = compose.Workspace(gpu=bench.device == "cuda", variables=engine.memory_limit() | own | asked)
    workspace.provide_image_unless_there()

    def inside(*command: str) -> str:
        done = workspace.run("-T", compose.SERVICE, *command, variables=[], capture_output=True, text=True)
        if done.returncode:
            raise UserError(done.stderr)
        return done.stdout

    images: dict[str, object] = {"dataset": "drawn"}
    try:
        workspace.up()
        if bench.folder:
            if workspace.compose("--progress=quiet", "cp", str(bench.folder), f"{compose.SERVICE}:/workspace/images"):
                raise UserError(f"{bench.folder} could not be copied into the container")
            images = {"dataset": "folder", "data_folder": "images"}
        options = _options(bench.lesson | images | {"epochs": 1.0})
        inside("run", places.LESSON, "-o", "/workspace/made", *options)
        metrics = json.loads(inside("cat", "/workspace/made/metrics.json"))
        user = inside("id", "-u").strip()
    finally:
        workspace.compose("--progress=quiet", "down", "--volumes")
    yield f"the hardened container (read-only, uid {user}), one epoch", _told(metrics), None


PARTS: dict[str, Callable[[Bench], Rows]] = {
    "the lesson": lesson,
    "a larger network": larger,
    "a sweep": sweep,
    "several devices": several_devices,
    "the hardened container": container,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options of `bench gpu`."""
    images_argument(parser)


def main(options: argparse.Namespace) -> int:
    """Try each part and print the table; 1 where one fails. Raises UserError where there is no GPU to be used."""
    cards = _cards()
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as work:
        table = measure(Bench(Path(work), options.folder, len(cards)), cards)
    table.show()
    return int(table.missed)


def measure(bench: Bench, cards: list[str]) -> Table:
    """The table of all parts on these cards, each `name, driver`; where one fails the others are tried all the same."""
    import torch

    table = Table("", f"torch {torch.__version__}, {os.cpu_count()} CPUs, {'; '.join(cards)}")
    for name, part in PARTS.items():
        cli.say(f"{name} ...")
        try:
            for what, result, right in part(bench):
                table.add(what, result if right is not False else f"**{result}**", kept=right is not False)
        except NotHereError as lack:
            table.add(name, f"not tried: {_line(lack)}")
        except UserError as error:
            table.add(name, f"**failed: {_line(error)}**", kept=False)
    return table


def _cards() -> list[str]:
    """Each GPU's name and driver. Raises UserError where PyTorch can use none, with the reason."""
    import torch
    from lesson import machine

    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    except (OSError, subprocess.CalledProcessError):
        raise UserError("nothing was measured: there is no NVIDIA GPU here that `nvidia-smi` shows") from None
    if torch.version.cuda is None:
        raise UserError("nothing was measured: PyTorch's wheels here are the CPU's; WORKSPACE_WHEELS=cuda changes that")
    if not torch.cuda.is_available():
        raise UserError(
            f"nothing was measured: PyTorch cannot use {'; '.join(listed)}: CUDA {torch.version.cuda} needs a driver "
            "of version 580 or newer"
        )
    if not machine.gpu_works():  # which says why
        raise UserError("nothing was measured")
    return [f"{name} (driver {driver})" for name, _, driver in (line.partition(", ") for line in listed)]


def _told(metrics: dict[str, Any]) -> str:
    substitute = " on drawn shapes" if metrics["dataset"] == "drawn" else ""
    return (
        f"{metrics['test_accuracy']:.1%}{substitute} after {metrics['train_seconds']:.1f} s of training on "
        f"{metrics['device']}, {metrics['images_per_second']:,.0f} images/s"
    )


def _results(metrics: dict[str, Any]) -> dict[str, Any]:
    """What the same seed must give again; not what the clock says."""
    return {name: value for name, value in metrics.items() if name.startswith(("accuracy", "test_accuracy", "loss"))}


def _printed(notebook: Path, cell: str) -> str:
    """What a cell of an executed notebook printed."""
    import nbformat

    outputs = next(one.outputs for one in nbformat.read(notebook, as_version=4).cells if one.id == cell)
    return "".join(output.text for output in outputs if output.output_type == "stream")


def _script(name: str, notebook: str, *words: object) -> list[str]:
    return [*script(name), str(places.DELIVERED / notebook), *map(str, words)]


def _options(parameters: Mapping[str, object]) -> list[str]:
    return [word for name, value in parameters.items() for word in ("-p", name, str(value))]


def _line(error: UserError) -> str:
    """The last line of what is said, fit for a table's cell."""
    return str(error).strip().splitlines()[-1].replace("|", "\\|")
