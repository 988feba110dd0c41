"""The lesson's accuracy, seconds and memory beside those of the tutorial that it descends from, by turns.

The lesson's side runs the cells of the notebook itself. Each training is a process of its own.
"""

import argparse
import contextlib
import io
import linecache
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from workspace.base import cli
from workspace.base.places import DELIVERED, LESSON
from workspace.bench.measuring import Clock, Cost, Table, images_argument, medians, number_option


@dataclass(frozen=True)
class Result:
    """What one training and one test pass gave and took; `memory` is the most that was used, in MB."""

    accuracy: float
    train: Cost
    test: Cost
    memory: float


def lesson(folder: str, seed: int, lenet: bool = False, **parameters: float) -> Result:
    """The lesson's training and test pass, with `parameters` in place of its defaults.

    With `lenet`, the tutorial's network is trained in place of the lesson's, on what it is trained on there, with its
    loss and its optimiser, SGD; from the lesson come batches that are cut from memory, mixed precision, and a rate
    that rises and falls.
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
    linecache.cache["parameters"] = (0, None, cells["parameters"].splitlines(True), "parameters")  # checked in `load`
    ids = ["load", "first-guesses", "why-tensors", "device", "split", "tensors", "normalise", "augment", "network"]
    ids += ["build", "optimizer", "train", "predict", "batches"]
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in [*ids, *(["lenet"] if lenet else [])]:
            exec(cells[cell], space)  # noqa: S102
        if lenet:
            _feed_lenet(space)
        clock = Clock()
        exec(cells["run"], space)  # noqa: S102
        train = clock.look()
        test_images, test_labels = space["tensors"](space["data"].test_images, space["data"].test_labels, slice(None))
        scores = space["predict"](space["net"], test_images)
        test = clock.look()
    accuracy = (scores.argmax(1) == test_labels).float().mean().item()
    return Result(accuracy, train, test, machine.peak_memory())


def _feed_lenet(space: dict[str, Any]) -> None:
    import torch

    def predict(net: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([net(prepare(batch)) for batch in images.split(500)])

    def prepare(images: torch.Tensor) -> torch.Tensor:
        return (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5

    def sgd(parameters: Any, lr: float, **_: float) -> torch.optim.Optimizer:  # noqa: ANN401
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

    space |= {
        "new_network": lambda: space["lenet"].to(memory_format=torch.channels_last),
        "loss_function": torch.nn.CrossEntropyLoss(),
        "prepare": prepare,
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
    return Result(right / len(data.test_labels), train, clock.look(), machine.peak_memory())


_TUTORIAL = "the tutorial, two epochs"
RECIPES: dict[str, Callable[[str, int], Result]] = {
    _TUTORIAL: tutorial,
    "its network and loss, batches of 96 from memory, two epochs": partial(
        lesson, lenet=True, epochs=2.0, batch_size=96, learning_rate=0.05
    ),
    "the lesson, 0.35 epochs": partial(lesson, epochs=0.35),
    "the lesson, seven epochs, as delivered": lesson,
    "the lesson, 21 epochs in batches of 512": partial(lesson, epochs=21.0, batch_size=512, learning_rate=0.04),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options of `bench lesson`."""
    images_argument(parser)
    number_option(parser, "--seeds", "trainings of each kind", 3)


def main(options: argparse.Namespace) -> None:
    """Train each recipe with each seed, by turns, and print the table."""
    folder = str(options.folder or "")
    results: dict[str, list[Result]] = {name: [] for name in RECIPES}
    spawn = multiprocessing.get_context("spawn")
    for seed in range(options.seeds):
        for name, recipe in RECIPES.items():
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                made = process.submit(recipe, folder, seed).result()
            results[name].append(made)
            cli.say(f"seed {seed}, {name}: {made.accuracy:.1%} after {made.train.seconds:.1f} s")
    _table(results).show()


def _table(results: dict[str, list[Result]]) -> Table:
    seeds = len(results[_TUTORIAL])
    table = Table(
        f"medians of {seeds} seeds",
        "accuracy (lowest)",
        "training, s (CPU s)",
        "beside the tutorial (CPU)",
        "testing, s (CPU s)",
        "memory, MB",
    )
    for name, made in results.items():
        accuracies = [result.accuracy for result in made]
        pairs = [(result.train, base.train) for result, base in zip(made, results[_TUTORIAL], strict=True)]
        train, test = medians(result.train for result in made), medians(result.test for result in made)
        table.add(
            name,
            f"{statistics.median(accuracies):.1%} ({min(accuracies):.1%})",
            f"{train.seconds:.1f} ({train.cpu:.1f})",
            f"{statistics.median(ours.seconds / base.seconds for ours, base in pairs):.2f} "
            f"({statistics.median(ours.cpu / base.cpu for ours, base in pairs):.2f})",
            f"{test.seconds:.2f} ({test.cpu:.2f})",
            f"{statistics.median(result.memory for result in made):.0f}",
        )
    return table
