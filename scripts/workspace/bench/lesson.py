"""The lesson's accuracy, seconds and memory beside those of the tutorial that it descends from, by turns.

The lesson's side runs the cells of the notebook itself. Each training is a process of its own. Beside the seconds stand
CPU seconds (of all threads and workers), which other programs on the machine change less.
"""

import argparse
import contextlib
import io
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.base.places import DELIVERED, LESSON


@dataclass(frozen=True)
class Result:
    """What one training and one test pass gave and took: shares, seconds, CPU seconds and megabytes."""

    accuracy: float
    train: float
    train_cpu: float
    test: float
    test_cpu: float
    memory: float


class Clock:
    """Seconds, and CPU seconds of this process and of its ended children, from one look to the next."""

    def __init__(self) -> None:
        self._last = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in usages)

    def look(self) -> tuple[float, float]:
        """Both, since the last look."""
        last, self._last = self._last, self._now()
        return self._last[0] - last[0], self._last[1] - last[1]


def lesson(folder: str, seed: int, lenet: bool = False, **parameters: float) -> Result:
    """The lesson's training and mirrored test pass, with `parameters` in place of its defaults.

    With `lenet`, the tutorial's network and its optimiser, SGD, are trained in place of the lesson's: only how they are
    fed, in larger batches and at a rate that rises and falls, is the lesson's.
    """
    import nbformat

    cells = {cell.id: cell.source for cell in nbformat.read(DELIVERED / LESSON, as_version=4).cells}
    space: dict[str, Any] = {}
    exec(cells["parameters"], space)  # noqa: S102 (the lesson's own cells are what is to be measured)
    from lesson import charts, images, machine
    from lesson import parameters as convention

    space |= {
        "machine": machine,
        "parameters": convention,
        "charts": charts,
        "images": images,
        "seed": seed,
        "data_folder": folder,
        **parameters,
    }
    space["dataset"] = "folder" if folder else "cifar10"
    ids = ["device", "why-tensors", "load", "split", "tensors", "normalise", "augment", "network", "build"]
    ids += ["train", "predict", "batches"]
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in [*ids, *(["lenet"] if lenet else [])]:
            exec(cells[cell], space)  # noqa: S102
        if lenet:
            _feed_lenet(space)
        clock = Clock()
        exec(cells["run"], space)  # noqa: S102
        train = clock.look()
        scores = space["predict"](space["net"], space["test_images"])
        test = clock.look()
    accuracy = (scores.argmax(1) == space["test_labels"]).float().mean().item()
    return Result(accuracy, *train, *test, machine.peak_memory())


def _feed_lenet(space: dict[str, Any]) -> None:
    import torch

    def predict(net: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([net(space["prepare"](batch)) for batch in images.split(500)])

    def sgd(parameters: Any, lr: float, **_: float) -> torch.optim.Optimizer:  # noqa: ANN401
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

    space |= {
        "net": space["lenet"].to(memory_format=torch.channels_last),
        "augment": lambda images: images,
        "predict": predict,
    }
    torch.optim.AdamW = sgd  # in this process alone, which ends with this training


def tutorial(folder: str, seed: int) -> Result:
    """What "Training a classifier" does: https://pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html.

    Two passes over the images, read one by one as PIL images by two workers, four a batch, SGD at .001.
    """
    import torch
    from lesson import images, machine  # machine before torch
    from PIL import Image
    from torch import nn
    from torchvision import transforms

    class Photographs(torch.utils.data.Dataset):
        def __init__(self, pixels: Any, labels: Any) -> None:  # noqa: ANN401
            self.pixels, self.labels = pixels, labels.tolist()
            self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]

    torch.manual_seed(seed)
    data = images.load("folder" if folder else "cifar10", folder)
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        nn.Sequential(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        nn.Linear(84, len(data.classes)),
    )
    load = partial(torch.utils.data.DataLoader, batch_size=4, num_workers=2, multiprocessing_context="fork")
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    clock = Clock()
    for _ in range(2):
        for inputs, labels in load(Photographs(data.train_images, data.train_labels), shuffle=True):
            optimizer.zero_grad()
            criterion(net(inputs), labels).backward()
            optimizer.step()
    train = clock.look()
    right = 0
    with torch.no_grad():
        for inputs, labels in load(Photographs(data.test_images, data.test_labels)):
            right += (net(inputs).argmax(1) == labels).sum().item()
    return Result(right / len(data.test_labels), *train, *clock.look(), machine.peak_memory())


RECIPES = {
    "the tutorial, two epochs": tutorial,
    "lesson, as delivered": lesson,
    "lesson, as soon as it beats the tutorial": partial(lesson, epochs=0.35),
    "lesson, within the tutorial's time": partial(lesson, epochs=10.0),
    "the tutorial's network, fed like the lesson's": partial(
        lesson, lenet=True, epochs=2.0, batch_size=96, learning_rate=0.05
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options of `bench lesson`."""
    parser.add_argument(
        "folder", nargs="?", type=Path, help="images in train/<class>/ and test/<class>/ (default: CIFAR-10)"
    )
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="trainings of each kind (default 3)")


def main(options: argparse.Namespace) -> None:
    """Train each recipe with each seed, by turns, and print the table."""
    if options.seeds < 1:
        raise UserError("--seeds must be at least 1", cli.BAD_INPUT)
    if options.folder and not options.folder.is_dir():
        raise UserError(f"there is no folder {options.folder}", cli.BAD_INPUT)
    folder = str(options.folder.absolute()) if options.folder else ""
    results: dict[str, list[Result]] = {name: [] for name in RECIPES}
    spawn = multiprocessing.get_context("spawn")
    for seed in range(options.seeds):
        for name, recipe in RECIPES.items():
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                results[name].append(process.submit(recipe, folder, seed).result())
            cli.say(f"seed {seed}, {name}: {_row(results[name][-1])}")
    cli.say("")
    cli.say(
        f"{'medians of ' + str(options.seeds):46} accuracy (lowest)  train CPU      s       test CPU      s   peak MB"
    )
    for name, measured in results.items():
        middle = Result(**{key: statistics.median(asdict(one)[key] for one in measured) for key in asdict(measured[0])})
        lowest = min(one.accuracy for one in measured)
        base = results["the tutorial, two epochs"]
        share = statistics.median(one.train / other.train for one, other in zip(measured, base, strict=True))
        cli.say(f"{name:46} {_row(middle)}  lowest {100 * lowest:.1f} %, {share:.3f} of the tutorial's time")


def _row(result: Result) -> str:
    return (
        f"{100 * result.accuracy:5.1f} %  train {result.train:6.1f} s ({result.train_cpu:6.1f} CPU-s)  "
        f"test {result.test:5.2f} s ({result.test_cpu:5.2f} CPU-s)  {result.memory:5.0f} MB"
    )
