"""The lesson's pictures. Each reads well on light and dark pages: clear ground, middle grey for text and lines."""

import html
import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, Image, display
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm.auto import tqdm

GREY, BLUE, ORANGE, RED = "#8a8a8a", "#3b8ee0", "#e08a1e", "#e0524d"  # each at least 3:1 on white and on near-black

# A Jupyter server sets this for its kernels. A run by papermill or nbval nobody watches: it draws once, at the end.
WATCHED = "JPY_SESSION_NAME" in os.environ

Batch = TypeVar("Batch")

plt.rcParams.update(
    {
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.labelcolor": GREY,
        "axes.titlecolor": GREY,
        "axes.titlesize": 10,
        "axes.grid": False,
        "grid.color": GREY,
        "grid.alpha": 0.25,
        "text.color": GREY,
        "legend.labelcolor": GREY,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "font.size": 10,
    }
)


def notice(text: str) -> None:
    """Show what the reader must not miss, as a box in the browser and as plain text elsewhere; nothing if empty."""
    if not text:
        return
    box = "border: 3px solid #e08a1e; border-radius: 6px; padding: 0.8em 1em; font-size: 115%; white-space: pre-wrap"
    shown = HTML(f'<div role="alert" style="{box}">⚠️ {html.escape(text)}</div>')
    display({"text/html": shown.data, "text/plain": f"NOTICE: {text}"}, raw=True)


def pictures(images: NDArray[np.uint8], captions: Sequence[str], right: Sequence[bool] | None = None) -> None:
    """Images (N, 32, 32, 3) in rows of eight, a caption under each; with `right`, marked blue ✓ or red ✗.

    A caption may have several lines. Without images nothing is shown.
    """
    if len(images) == 0:
        return
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    lines = 1 + max(caption.count("\n") for caption in captions)
    size = (1.15 * columns, (1.15 + 0.18 * lines) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, w_pad=0.05)
    for axis in axes.flat:
        axis.axis("off")
    for index, (axis, image, caption) in enumerate(zip(axes.flat, images, captions, strict=False)):
        axis.imshow(image)
        colour, mark = (GREY, "") if right is None else (BLUE, "✓ ") if right[index] else (RED, "✗ ")
        below = {"xy": (0.5, 0), "xytext": (0, -3), "xycoords": "axes fraction", "textcoords": "offset points"}
        axis.annotate(mark + caption, **below, ha="center", va="top", fontsize=8.5, color=colour)
    _show(figure)


class Curves:
    """A bar with the time left, and loss and accuracy as curves that draw themselves while training goes on.

    In the browser both move; where nobody watches, a line is printed now and then and the curves are drawn at the end.
    """

    def __init__(self, steps_per_epoch: float) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.due = False
        self.steps = self.step = 0
        self.at: list[float] = []  # passes over the training images
        self.loss: list[float] = []
        self.accuracy: list[float] = []

    @property
    def epochs(self) -> float:
        """Passes over the training images in all."""
        return self.steps / self.steps_per_epoch

    def follow(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """Yield the batches one by one; `due` then says whether it is time to `add` a point."""
        self.steps = len(batches)
        every = max(20, self.steps // 20)  # often enough to watch, seldom enough not to slow the training down
        canvas = display(HTML(""), display_id=True) if WATCHED else None
        with tqdm(batches, desc="Training", unit="batch", disable=not WATCHED) as bar:
            for self.step, batch in enumerate(bar, start=1):
                self.due = (self.steps - self.step) % every == 0
                yield batch
                if self.due and canvas:
                    canvas.update(_png(self._draw()))
        if not canvas:
            _show(self._draw())

    def add(self, loss: float, accuracy: float) -> None:
        """Add a point: the loss of the latest batch, and the accuracy (0 to 1) on images kept aside."""
        self.at.append(self.step / self.steps_per_epoch)
        self.loss.append(loss)
        self.accuracy.append(accuracy)
        if not WATCHED and len(self.at) % 2 == 0:
            print(f"epoch {self.at[-1]:.2f} of {self.epochs:.3g}: loss {loss:.2f}, accuracy {accuracy:.0%}", flush=True)

    def _draw(self) -> Figure:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
        for axis, values, colour, title in (
            (left, self.loss, ORANGE, "loss: lower is better"),
            (right, [100 * value for value in self.accuracy], BLUE, "accuracy on the images kept aside, in %"),
        ):
            axis.plot(self.at, values, color=colour, marker=".")
            axis.set(title=title, xlabel="epochs", xlim=(0, self.epochs))
            axis.grid(True)
        right.set_ylim(0, 100)
        return figure


def class_bars(classes: Sequence[str], accuracies: Sequence[float], overall: float) -> None:
    """Accuracy (0 to 1) of each class as a bar, best first, with the overall accuracy as a line."""
    order = np.argsort(accuracies)
    figure, axis = plt.subplots(figsize=(7, 0.8 + 0.26 * len(order)), layout="constrained")
    axis.barh([classes[index] for index in order], [100 * accuracies[index] for index in order], color=BLUE)
    axis.axvline(100 * overall, color=ORANGE, linestyle="--", label="all classes")
    axis.set(xlim=(0, 100), xlabel="accuracy in %")
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1))
    _show(figure)


def confusion(counts: NDArray[np.int64], classes: Sequence[str]) -> None:
    """How often (row: what it is) was taken for (column: the prediction), counts (C, C), as shares of each row."""
    shares = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = max(3.5, 0.52 * len(classes) + 1)
    figure, axis = plt.subplots(figsize=(side + 0.4, side), layout="constrained")
    ink = np.full((*shares.shape, 4), to_rgba(BLUE))
    ink[..., 3] = shares / 100  # as clear as the page where there is nothing
    axis.imshow(ink)
    if len(classes) <= 20:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 55 else GREY
            axis.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axis.set_yticks(range(len(classes)), classes)
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axis.set(xlabel="taken for", ylabel="it is", title="each class, in %")
    _show(figure)


def guess(image: NDArray[np.uint8], classes: Sequence[str], shares: Sequence[float], most: int = 5) -> None:
    """An image (32, 32, 3) beside its most likely classes, `shares` being one probability a class."""
    best = np.argsort(shares)[::-1][:most][::-1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(6, 2), width_ratios=(1, 2), layout="constrained")
    left.imshow(image)
    left.axis("off")
    right.barh([classes[index] for index in best], [100 * shares[index] for index in best], color=BLUE)
    right.set(xlim=(0, 100), xlabel="how sure, in %")
    _show(figure)


def upload(use: Callable[[io.BytesIO], None]) -> None:
    """A button that takes pictures from the reader's computer and calls `use` on each, below the button."""
    button = ipywidgets.FileUpload(
        accept="image/*", multiple=True, description="Choose a picture", layout={"width": "fit-content"}
    )
    below = ipywidgets.Output()

    def chosen(change: dict) -> None:
        if not change["new"]:
            return
        below.clear_output()  # at once: while a new picture is looked at, no answer of an older one stands there
        with below:
            for file in change["new"]:
                try:
                    use(io.BytesIO(file["content"]))
                except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a broken image, and ours
                    print(f"{file['name']} cannot be read as a picture: {error or type(error).__name__}.")
        button.value = ()  # the same file may be chosen again, and nothing of it is kept

    button.observe(chosen, names="value")
    display(ipywidgets.VBox([button, below]))


def _png(figure: Figure) -> Image:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    plt.close(figure)
    return Image(picture.getvalue())


def _show(figure: Figure) -> None:
    """Show the figure at once, as a picture, and not again at the end of the cell."""
    display(_png(figure))
