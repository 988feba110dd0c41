"""The lesson, run as papermill and nbval run it, on every source of images."""

import ast
import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import torch
from labs import without_caches
from lesson import cifar10, images, words
from nbformat import NotebookNode
from numpy.typing import NDArray
from papermill.exceptions import PapermillExecutionError
from PIL import Image
from small import drawn_as_cifar10
from torch.nn import functional
from workspace.bench import cifar10_format
from workspace.lab import translation

LESSON = Path(__file__).resolve().parents[1] / "notebooks" / "first_pytorch_classifier.ipynb"
SMALL = {"train_images": 640, "epochs": 1.0, "first_steps": 10}
DELIVERED = nbformat.read(LESSON, as_version=4)
CODE, TEXT = ([cell for cell in DELIVERED.cells if cell.cell_type == kind] for kind in ("code", "markdown"))
COMPARED = {"why-tensors", "why-gradients", "why-dynamic", "split", "build", "save", "lenet"}
"""The cells whose committed outputs must come out again, whatever was trained."""


@pytest.fixture(autouse=True)
def nothing_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder for each test, and no mirrors."""
    monkeypatch.setenv("WORKSPACE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CIFAR10_MIRRORS", "none")


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder with the lesson, as a user has it."""
    shutil.copy(LESSON, tmp_path)
    return tmp_path


def run(folder: Path, **parameters: object) -> NotebookNode:
    return papermill.execute_notebook(
        str(folder / LESSON.name),
        str(folder / "done.ipynb"),
        parameters={"output_folder": str(folder / "run"), **SMALL, **parameters},
        cwd=str(folder),
        progress_bar=False,
        start_timeout=180,
    )


def text_of(notebook: NotebookNode, cell_id: str) -> str:
    cell = next(cell for cell in notebook.cells if cell.id == cell_id)
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def names_easiest_and_hardest(notebook: NotebookNode, metrics: dict) -> bool:
    """Whether the two that the lesson names are those of the highest and of the lowest accuracy."""
    best, hardest = re.search(r"Easiest: (.+)\. Hardest: (.+)\.", text_of(notebook, "classes")).groups()
    shares = {name.removeprefix("test_accuracy_"): metrics[name] for name in metrics if "test_accuracy_" in name}
    return (shares[best], shares[hardest]) == (max(shares.values()), min(shares.values()))


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "run" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def fallback(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NotebookNode]:
    """The lesson as it runs where CIFAR-10 cannot be had, trained long enough to learn a little."""
    folder = tmp_path_factory.mktemp("fallback")
    shutil.copy(LESSON, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKSPACE_DATA", str(folder / "data"))
        patch.setenv("CIFAR10_MIRRORS", "none")
        return folder, run(folder, train_images=5000, epochs=5.0)


def test_drawn_images_stand_in_for_cifar10_with_a_notice_nobody_can_miss(fallback: tuple[Path, NotebookNode]) -> None:
    folder, notebook = fallback
    assert metrics_of(folder)["dataset"] == "drawn"
    assert "no mirror to ask" in metrics_of(folder)["notice"]
    assert "NOTICE: CIFAR-10 cannot be had" in text_of(notebook, "load")


def test_it_learns_and_says_how_well_overall_and_for_each_class(fallback: tuple[Path, NotebookNode]) -> None:
    folder, notebook = fallback
    overall = re.search(
        r"^Accuracy of the network on the 10000 test images: (\d+) %$", text_of(notebook, "accuracy"), re.MULTILINE
    )
    per_class = re.findall(r"^Accuracy of (\w+) : (\d+) %$", text_of(notebook, "classes"), re.MULTILINE)
    metrics = metrics_of(folder)
    assert names_easiest_and_hardest(notebook, metrics)
    assert int(overall[1]) > 40
    assert int(overall[1]) == round(100 * metrics["test_accuracy"])
    assert [name for name, _ in per_class] == list(images.SHAPES)
    assert all(round(100 * metrics[f"test_accuracy_{name}"]) == int(share) for name, share in per_class)


@torch.inference_mode()
def answers(
    weights: dict[str, torch.Tensor], pixels: NDArray[np.uint8], learned_from: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """What the lesson's network with these weights takes the images for, without a line of the notebook."""
    learned_from = torch.from_numpy(learned_from).float()
    mean, spread = learned_from.mean((0, 1, 2)), learned_from.std((0, 1, 2))

    def scores(pixels: torch.Tensor) -> torch.Tensor:
        signal = ((pixels - mean) / spread).permute(0, 3, 1, 2)
        signal = functional.conv2d(signal, weights["stem.0.weight"], weights["stem.0.bias"], stride=2, padding=1)
        for block, pool in (("small", 2), ("middle", 2), ("large", 1)):
            norm = [weights[f"{block}.2.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
            signal = functional.conv2d(functional.gelu(signal), weights[f"{block}.0.weight"], padding=1)
            signal = functional.batch_norm(functional.max_pool2d(signal, pool), *norm)
        return functional.linear(functional.gelu(signal).amax((2, 3)), weights["decide.weight"], weights["decide.bias"])

    corners = torch.from_numpy(pixels[:, :28, :28]), torch.from_numpy(pixels[:, 4:, 4:])
    return sum(scores(corner) + scores(corner.flip(2)) for corner in corners).argmax(1).numpy()


def test_accuracies_come_out_again_from_the_saved_weights(fallback: tuple[Path, NotebookNode]) -> None:
    data, metrics = images.draw(), metrics_of(fallback[0])
    order = np.random.default_rng(0).permutation(len(data.train_images))
    kept_aside, learned_from = order[:5001], data.train_images[order[5001:10001]]
    weights = torch.load(fallback[0] / "run/weights.pt", weights_only=True)
    right = answers(weights, data.test_images, learned_from) == data.test_labels
    # Two in a thousand: what another order of adding up may change.
    assert metrics["test_accuracy"] == pytest.approx(right.mean(), abs=0.002)
    right_aside = answers(weights, data.train_images[kept_aside], learned_from) == data.train_labels[kept_aside]
    assert metrics["accuracy"] == pytest.approx(right_aside.mean(), abs=0.002)
    for label, name in enumerate(data.classes):
        assert metrics[f"test_accuracy_{name}"] == pytest.approx(right[data.test_labels == label].mean(), abs=0.002)
        of_this_class = right_aside[data.train_labels[kept_aside] == label]
        assert metrics[f"accuracy_{name}"] == pytest.approx(of_this_class.mean(), abs=0.02)


def test_metrics_are_flat_and_complete(fallback: tuple[Path, NotebookNode]) -> None:
    metrics = metrics_of(fallback[0])
    assert all(isinstance(value, str | int | float) for value in metrics.values())
    wanted = "accuracy test_accuracy loss_train loss_validation loss_test train_seconds test_seconds images_per_second"
    assert {
        *wanted.split(),
        "parameters",
        "device",
        "threads",
        "seed",
        "dataset",
        "dataset_digest",
        "torch",
        "python",
    } <= metrics.keys()


def test_the_course_of_the_training_is_kept_for_comparison(fallback: tuple[Path, NotebookNode]) -> None:
    curves = json.loads((fallback[0] / "run" / "curves.json").read_text())
    assert set(curves) == {"epochs", "loss", "accuracy"}
    assert len(curves["epochs"]) == len(curves["loss"]) == len(curves["accuracy"]) > 1


def test_a_folder_of_images_of_one_s_own_runs_through_at_a_larger_side(beside: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 9), ("test", 3)):
        for name, size in (("cat", (40, 30)), ("dog", (20, 90)), ("my goldfish", (32, 32))):
            (beside / "pets" / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (*size, 3), np.uint8)
                Image.fromarray(pixels).save(beside / "pets" / part / name / f"{index}.png")
    notebook = run(beside, data_folder="pets", side=64, epochs=2.0)
    assert "(1, 16, 28, 28)" in text_of(notebook, "build")  # at 32 pixels it is half of that
    assert "Accuracy of my goldfish : " in text_of(notebook, "classes")
    assert metrics_of(beside)["dataset"] == "folder"
    assert names_easiest_and_hardest(notebook, metrics_of(beside))


def test_cifar10_is_fetched_in_its_own_format_and_learned(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = images.draw(train=5000, test=1000)
    archive = beside / "archive.tar.gz"
    both = [
        np.concatenate(pair)
        for pair in ((drawn.train_images, drawn.test_images), (drawn.train_labels, drawn.test_labels))
    ]
    cifar10_format.write(archive, *both)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    # A package beside the notebook goes before the installed one.
    without_caches(Path(cifar10.__file__).parent, beside / "lesson")
    loader = (beside / "lesson/cifar10.py").read_text()
    for real, made in ((cifar10.SHA256, digest), ("SIZE = 170_498_071", f"SIZE = {archive.stat().st_size}")):
        assert loader.count(real) == 1
        loader = loader.replace(real, made)
    (beside / "lesson/cifar10.py").write_text(loader)
    monkeypatch.setenv("CIFAR10_MIRRORS", archive.as_uri())
    notebook = run(beside, dataset="cifar10", epochs=4.0, train_images=0)
    metrics = metrics_of(beside)
    assert (metrics["dataset"], metrics["dataset_digest"]) == ("cifar10", digest)
    assert metrics["test_accuracy"] > 0.2
    assert "Accuracy of truck : " in text_of(notebook, "classes")
    assert names_easiest_and_hardest(notebook, metrics)


def test_each_language_runs_headless_and_computes_the_same(beside: Path) -> None:
    drawn_as_cifar10(beside / "data")

    def numbers(language: str) -> tuple[float, ...]:
        (beside / LESSON.name).write_bytes(translation.content(LESSON, language))
        notebook, said, metrics = run(beside), words.catalogue(language), metrics_of(beside)
        assert said["Starting anew, from random parameters."] in text_of(notebook, "run")
        assert f"test_accuracy_{said['dog']}" in metrics
        return tuple(metrics[name] for name in ("loss_train", "loss_test", "accuracy"))

    first, *others = map(numbers, words.languages())
    assert others == [first] * (len(words.languages()) - 1)


@pytest.fixture
def small_copy(beside: Path) -> Path:
    """The lesson with its committed outputs and small parameters, ready to be compared with a run on drawn images."""
    parameters = {"output_folder": str(beside / "run"), **SMALL}
    drawn_as_cifar10(beside / "data", 50_000, 10_000)
    papermill.execute_notebook(
        str(LESSON), str(beside / "copy.ipynb"), parameters=parameters, prepare_only=True, progress_bar=False
    )
    return beside / "copy.ipynb"


def nbval(notebook: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "--nbval-cell-timeout=300", "-q"]
    return subprocess.run([*command, notebook.name], cwd=notebook.parent, capture_output=True, text=True, check=False)


def test_committed_outputs_are_what_the_cells_show_and_a_changed_one_is_noticed(small_copy: Path) -> None:
    notebook = nbformat.read(small_copy, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.id == "lenet")
    cell.outputs[0].text = cell.outputs[0].text.replace("62,006", "62,007")
    nbformat.write(notebook, small_copy)
    result = nbval(small_copy)
    assert "62,007" in result.stdout
    assert re.search(r"\b1 failed, \d+ passed", result.stdout), result.stdout


def test_compared_cells_have_outputs_and_counts() -> None:
    shown = {cell.id for cell in CODE if cell.outputs and "nbval-ignore-output" not in cell.metadata.get("tags", [])}
    assert shown == COMPARED
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))


def test_the_notebook_is_small_and_keeps_no_errors_no_dead_widgets_and_no_bars_on_their_way() -> None:
    assert LESSON.stat().st_size < 800_000
    assert "widgets" not in DELIVERED.metadata
    outputs = [output for cell in CODE for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if "\r" in output.get("text", "")]
    assert not [output for output in outputs if any("widget" in kind for kind in output.get("data", {}))]


def test_cells_are_short_and_each_is_introduced() -> None:
    assert {cell.id: cell.source.count("\n") + 1 for cell in CODE if cell.source.count("\n") >= 25} == {}
    assert [b.id for a, b in itertools.pairwise(DELIVERED.cells) if a.cell_type == b.cell_type == "code"] == []


def test_within_ten_cells_images_blind_guesses_a_training_and_better_guesses() -> None:
    code = [cell.id for cell in DELIVERED.cells[:10] if cell.cell_type == "code"]
    assert code == ["parameters", "load", "first-guesses", "first-train", "first-again"]
    before, after = (text_of(DELIVERED, cell_id).count("right: ") for cell_id in ("first-guesses", "first-again"))
    assert after > before


def test_the_test_images_are_looked_at_once_at_the_end() -> None:
    uses = {cell.id: re.findall(r"test_images(?!\.shape|\.dtype)|test_labels", cell.source) for cell in DELIVERED.cells}
    predicted = [cell.id for cell in DELIVERED.cells if "predict(net, test_images" in cell.source]
    assert predicted == ["accuracy"]
    assert [cell_id for cell_id, used in uses.items() if used] == ["accuracy", "classes", "results"]


EXPLAINED = {
    "network": "nn.",
    "optimizer": "optim",
    "loss": "loss",
    "batch": ".choice(learn_from",
    "np": "np.",
    "lesson": "from lesson import charts",
    "argmax": "argmax",
    "lr": "lr=",
    "parameters": "first.parameters",
    "gradients": ".grad",
    "requires_grad": "requires_grad",
    "mps": '"mps"',
    "to(device)": ".to(device)",
    "view": ".view(",
    "Conv2d": "class Net",
    "padding": "padding=",
    "bias": "outputs, 3, padding=1, bias",
    "Module": "nn.Module",
    "numel": "numel",
    "OneCycleLR": "OneCycleLR",
    "state_dict": "state_dict",
    "ToTensor": "ToTensor",
    "momentum": "momentum=0",
    "validation": "kept aside for validation",
    "augmentation": "def augment",
    "overfitting": "def augment",
    "convolution": "class Net",
    "channels": "class Net",
    "BatchNorm2d": "BatchNorm2d",
    "GELU": "GELU",
    "MaxPool2d": "nn.MaxPool2d",
    "channels_last": "channels_last",
    "cross-entropy": "CrossEntropyLoss",
    "label smoothing": "label_smoothing",
    "AdamW": "AdamW",
    "weight decay": "weight_decay",
    "learning rate": "lr=learning_rate",
    "schedule": "schedule",
    "hyperparameters": "OneCycleLR",
    "epoch": "steps_per_epoch",
    "inference_mode": "inference_mode",
    "accuracy": "share_right(net, aside",
    "confusion matrix": "charts.confusion",
    "softmax": ".softmax",
    "occlusion": "share_lost",
    "chance": "chance =",
    "weights_only": "weights_only",
    "DataLoader": "DataLoader",
    "SGD": "SGD",
}
"""Words of the trade, and what stands for each in the code; the word's sentence comes first."""


def test_each_word_of_the_trade_is_explained_no_later_than_code_uses_it() -> None:
    def first(cells: list[NotebookNode], pattern: str) -> int:
        found = (cell for cell in cells if re.search(pattern, cell.source, re.IGNORECASE))
        return next(map(DELIVERED.cells.index, found), 1000)

    used = {word: first(CODE, re.escape(code)) for word, code in EXPLAINED.items()}
    assert [word for word in used if first(TEXT, f"[*`]{re.escape(word)}") > used[word]] == []
    assert [word for word in used if used[word] == 1000] == []


def test_each_section_has_something_to_predict_with_its_answer() -> None:
    text = "\n".join(cell.source for cell in TEXT)
    sections = re.split(r"(?m)^## (?=\d+\. )", text)[1:]
    assert len(sections) == 12
    assert [
        s.partition("\n")[0] for s in sections if not re.search(r"(?s)\*\*Predict.*<summary>Answers?</summary>", s)
    ] == []


def test_exercises_are_commands_as_they_work_in_the_lab() -> None:
    text = next(cell.source for cell in TEXT if "### Exercises" in cell.source)
    exercises = re.findall(r"(?m)^\d\. .*`(.*)`$", text)
    assert len(exercises) == len(re.findall(r"(?m)^\d\. ", text.partition("<summary>Answers</summary>")[2])) == 6
    assert [line for line in exercises if not line.startswith(f"run {LESSON.name} -p ")] == []


def test_a_setting_that_makes_no_sense_is_refused_with_what_is_allowed(beside: Path) -> None:
    with pytest.raises(PapermillExecutionError) as refused:
        run(beside, epochs=-1)
    assert "epochs = -1 makes no sense here. Allowed: 0.001 to 1000" in str(refused.value)
    outputs = itertools.chain(*(cell.get("outputs", []) for cell in nbformat.read(beside / "done.ipynb", 4).cells))
    [shown] = [output.traceback for output in outputs if output.output_type == "error"]
    assert shown == [refused.value.evalue]  # and no line of the package's source
    assert not (beside / "run").exists()


def test_every_parameter_is_annotated_and_explained() -> None:
    source = next(cell.source for cell in CODE if "parameters" in cell.metadata.get("tags", []))
    assert all(isinstance(line, ast.AnnAssign) for line in ast.parse(source).body)
    assert all("  # " in line for line in source.splitlines())
