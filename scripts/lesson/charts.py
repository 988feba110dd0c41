"""The lesson's pictures: on a ground of their own, so that they read the same on light and dark pages.

Each tells in words, too, what it shows: as the picture's alternative text, and where only text can be shown.
"""

import html
import io
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import anywidget
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import traitlets
from IPython.display import display
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lesson.machine import WATCHED
from lesson.words import MessageAlone, _

GROUND, INK, BLUE, ORANGE, RED = "#ffffff", "#333333", "#1f66b5", "#a85400", "#bb2d2d"
"""Each colour at least 4.5:1 on the ground."""
WIDTH = 5.6  # inches at 100 pixels: what fits beside the lab's file browser in a window 900 pixels wide
COLUMNS = 6
LARGEST_PICTURE = 60 * 10**6  # bytes; a message of more than 64 MiB closes the kernel's websocket

Batch = TypeVar("Batch")

plt.rcParams.update(
    {
        "figure.facecolor": GROUND,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.titlesize": 10,
        "grid.color": INK,
        "grid.alpha": 0.2,
        "text.color": INK,
        "legend.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "font.size": 10,
        "svg.fonttype": "none",  # type is type, a tenth of the size of its outlines
        "svg.hashsalt": "lesson",  # the same picture, the same text
    }
)


class Interrupted(MessageAlone, KeyboardInterrupt):
    """The training was stopped by the reader; the message says where, and what to do next."""


def notice(text: str) -> None:
    """Show what the reader must not miss, as a box in the browser and as plain text elsewhere; nothing if empty."""
    if not text:
        return
    box = "border: 3px solid #e08a1e; border-radius: 6px; padding: 0.8em 1em; font-size: 115%; white-space: pre-wrap"
    shown = f'<div role="alert" style="{box}">⚠️ {html.escape(text)}</div>'
    display({"text/html": shown, "text/plain": _("NOTICE: {text}").format(text=text)}, raw=True)


def pictures(images: NDArray[np.uint8], captions: Sequence[str], right: Sequence[bool] | None = None) -> None:
    """Images (N, side, side, 3) in rows of six, a caption under each; with `right`, marked blue ✓ or red ✗.

    A caption may have several lines. Without images nothing is shown.
    """
    if len(images) == 0:
        return
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    lines = 1 + max(caption.count("\n") for caption in captions)
    size = (WIDTH * columns / COLUMNS, (0.9 + 0.2 * lines) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, w_pad=0.05)
    for axis in axes.flat:
        axis.axis("off")
    for index, (axis, image, caption) in enumerate(zip(axes.flat, images, captions, strict=False)):
        axis.imshow(image, interpolation="none")
        colour, mark = (INK, "") if right is None else (BLUE, "✓ ") if right[index] else (RED, "✗ ")
        below = {"xy": (0.5, 0), "xytext": (0, -3), "xycoords": "axes fraction", "textcoords": "offset points"}
        axis.annotate(mark + caption, **below, ha="center", va="top", fontsize=9, color=colour)
    marks = [""] * len(images) if right is None else [_("right: ") if one else _("wrong: ") for one in right]
    told = [mark + caption.replace("\n", " ") for mark, caption in zip(marks, captions, strict=False)]
    counted = _("{count} images in rows of {columns}.").format(count=len(images), columns=columns)
    _show(figure, f"{counted} {'; '.join(filter(None, told))}")


class Curves:
    """Loss and accuracy as curves that draw themselves while training goes on, with a line that says how far it is.

    In the browser both move; where nobody watches, a line is printed now and then and the curves are drawn at the end.
    As a context it says in one line where an interrupted training stopped; `follow` then goes on from there.
    """

    def __init__(self, steps_per_epoch: float) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.due = False
        self.steps = self.step = 0
        self.at: list[float] = []  # passes over the training images
        self.loss: list[float] = []
        self.accuracy: list[float] = []

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say where an interrupted training stopped."""
        if isinstance(error, KeyboardInterrupt):
            said = _(
                "Stopped at step {step:,} of {steps:,}. Run this cell again: it starts anew, "
                "or goes on from here with go_on = True."
            )
            raise Interrupted(said.format(step=self.step, steps=self.steps)) from None

    @property
    def epochs(self) -> float:
        """Passes over the training images in all."""
        return self.steps / self.steps_per_epoch

    def follow(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """Yield the batches one by one, from where it stopped; `due` says whether it is time to `add` a point."""
        self.steps = len(batches)
        every = max(20, self.steps // 20)  # often enough to watch, seldom enough not to slow the training down
        canvas, line = (display({"text/plain": ""}, raw=True, display_id=True) if WATCHED else None for _ in range(2))
        begun_at, began = self.step, time.monotonic()
        said = began
        for self.step, batch in enumerate(batches[begun_at:], start=begun_at + 1):
            self.due = (self.steps - self.step) % every == 0
            yield batch
            if self.due and canvas:
                canvas.update(_picture(*self._draw()), raw=True)
            now = time.monotonic()
            if line and (now - said > 1 or self.step == self.steps):
                said = now
                left = (now - began) / (self.step - begun_at) * (self.steps - self.step)
                far = _("Training: {share:.0%}, step {step:,} of {steps:,}, about {seconds:.0f} s left")
                end = _("Training: {share:.0%}, step {step:,} of {steps:,}, done in {seconds:.0f} s")
                share, seconds = self.step / self.steps, left or now - began
                told = (far if left else end).format(share=share, step=self.step, steps=self.steps, seconds=seconds)
                line.update({"text/plain": told}, raw=True)
        if not canvas:
            self.show()

    def add(self, loss: float, accuracy: float) -> None:
        """Add a point: the loss of the latest batch, and the accuracy (0 to 1) on images kept aside."""
        self.at.append(self.step / self.steps_per_epoch)
        self.loss.append(loss)
        self.accuracy.append(accuracy)
        if not WATCHED and len(self.at) % 2 == 0:
            said = _("epoch {at:.2f} of {epochs:.3g}: loss {loss:.2f}, accuracy {accuracy:.0%}")
            print(said.format(at=self.at[-1], epochs=self.epochs, loss=loss, accuracy=accuracy), flush=True)

    def show(self) -> None:
        """The curves as far as they have come."""
        _show(*self._draw())

    def _draw(self) -> tuple[Figure, str]:
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.4), layout="constrained")
        percent = [100 * value for value in self.accuracy]
        for axis, values, colour, title in (
            (axes[0], self.loss, ORANGE, _("loss: lower is better")),
            (axes[1], percent, BLUE, _("accuracy on validation, in %")),
        ):
            axis.plot(self.at, values, color=colour, marker=".")
            axis.set(title=title, xlabel=_("epochs"), xlim=(0, self.epochs))
            axis.grid(True)
        axes[1].set_ylim(0, 100)
        if not self.at:
            return figure, _("Two empty charts, of loss and accuracy: the training has not come to its first point.")
        told = _(
            "Two curves over {at:.3g} of {epochs:.3g} epochs. Loss: from {loss[0]:.2f} to {loss[1]:.2f}. "
            "Accuracy on the validation images: from {percent[0]:.0f} % to {percent[1]:.0f} %."
        )
        loss, percent = (self.loss[0], self.loss[-1]), (percent[0], percent[-1])
        return figure, told.format(at=self.at[-1], epochs=self.epochs, loss=loss, percent=percent)


def class_bars(classes: Sequence[str], accuracies: Sequence[float], overall: float) -> None:
    """Accuracy (0 to 1) of each class as a bar, best first, with the overall accuracy as a line."""
    order = np.argsort(accuracies)
    figure, axis = plt.subplots(figsize=(WIDTH, 0.8 + 0.26 * len(order)), layout="constrained")
    axis.barh([classes[index] for index in order], [100 * accuracies[index] for index in order], color=BLUE)
    axis.axvline(100 * overall, color=ORANGE, linestyle="--", label=_("all classes"))
    axis.set(xlim=(0, 100), xlabel=_("accuracy in %"))
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1))
    told = ", ".join(f"{classes[index]} {accuracies[index]:.0%}" for index in order[::-1])
    said = _("Accuracy of each class as a bar: {told}. A line marks all classes together: {overall:.0%}.")
    _show(figure, said.format(told=told, overall=overall))


def confusion(counts: NDArray[np.int64], classes: Sequence[str]) -> None:
    """How often (row: what it is) was taken for (column: the prediction), counts (C, C), as shares of each row."""
    shares = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = min(WIDTH, max(3.5, 0.46 * len(classes) + 1.2))
    figure, axis = plt.subplots(figsize=(side, side), layout="constrained")
    strength = np.sqrt(shares / 100)[..., None]  # the root: small shares are seen, too
    fill = strength * to_rgb(BLUE) + (1 - strength) * to_rgb(GROUND)
    axis.imshow(fill, interpolation="none")
    if len(classes) <= 20:
        for (row, column), share in np.ndenumerate(shares):
            colour = max("black", "white", key=lambda ink: contrast(to_rgb(ink), fill[row, column]))
            axis.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=9)
    axis.set_yticks(range(len(classes)), classes)
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axis.set(xlabel=_("taken for"), ylabel=_("it is"), title=_("each class, in %"))
    others = np.where(np.eye(len(classes), dtype=bool), 0, shares)
    most = np.dstack(np.unravel_index(np.argsort(others, axis=None)[::-1][:5], others.shape))[0]
    one = _("{it_is} for {taken_for} {share:.0f} %")
    told = ", ".join(
        one.format(it_is=classes[a], taken_for=classes[b], share=others[a, b]) for a, b in most if others[a, b]
    )
    said = _("Confusion matrix of {count} classes. Most often taken: {told}.")
    _show(figure, said.format(count=len(classes), told=told or _("nothing for another class")))


def guess(image: NDArray[np.uint8], classes: Sequence[str], shares: Sequence[float], most: int = 5) -> None:
    """An image (side, side, 3) beside its most likely classes, `shares` being one probability a class."""
    best = np.argsort(shares)[::-1][:most][::-1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2), width_ratios=(1, 2), layout="constrained")
    left.imshow(image, interpolation="none")
    left.axis("off")
    right.barh([classes[index] for index in best], [100 * shares[index] for index in best], color=BLUE)
    right.set(xlim=(0, 100), xlabel=_("how sure, in %"))
    told = ", ".join(f"{classes[index]} {shares[index]:.0%}" for index in best[::-1])
    _show(figure, _("An image, and how sure the network is: {told}.").format(told=told))


def looked(images: NDArray[np.uint8], drops: NDArray[np.float32], captions: Sequence[str]) -> None:
    """Images (N, side, side, 3), and below each how much its share fell (N, places, places) where it was covered."""
    figure, axes = plt.subplots(2, len(images), figsize=(WIDTH, 2.6), squeeze=False, layout="constrained")
    told = []
    for (above, below), image, drop, caption in zip(axes.T, images, drops, captions, strict=True):
        above.imshow(image, interpolation="none")
        above.set_title(caption, fontsize=9)
        below.imshow(drop.clip(0), cmap="Blues", interpolation="none", vmin=0, vmax=max(0.01, drop.max()))
        row, column = np.unravel_index(drop.argmax(), drop.shape)
        third = [
            (_("top"), _("middle"), _("bottom"))[3 * row // len(drop)],
            (_("left"), _("centre"), _("right"))[3 * column // len(drop)],
        ]
        one, where, points = caption.replace("\n", " "), " ".join(third), 100 * drop.max()
        told.append(_("{one}: most at the {where}, by {points:.0f} points").format(one=one, where=where, points=points))
        above.axis("off")
        below.axis("off")
    said = _("{count} images, and where covering them lowers the share of the class. {told}.")
    _show(figure, said.format(count=len(images), told="; ".join(told)))


class _Chooser(anywidget.AnyWidget):
    """A button for one file, which comes as a message: its name, its size, and its bytes where they are not too many.

    ipywidgets' own button sends whatever is chosen, and a message that the server does not take ends in silence.
    """

    _esm = """
        export default { render({ model, el }) {
            const input = Object.assign(document.createElement("input"), { type: "file", accept: "image/*" });
            const button = Object.assign(document.createElement("button"), { textContent: model.get("text") });
            button.className = "jupyter-widgets jupyter-button";
            button.style.width = "fit-content";
            button.onclick = () => input.click();
            input.onchange = async () => {
                const file = input.files[0];
                const bytes = file.size > model.get("most") ? [] : [await file.arrayBuffer()];
                model.send({ name: file.name, size: file.size }, undefined, bytes);
                input.value = "";  // the same file may be chosen again
            };
            el.append(button);
        } };
    """
    text = traitlets.Unicode().tag(sync=True)
    most = traitlets.Int(LARGEST_PICTURE).tag(sync=True)


def upload(use: Callable[[io.BytesIO], None]) -> None:
    """A button that takes a picture from the reader's computer and calls `use` on it, below the button."""
    most = LARGEST_PICTURE // 10**6
    chooser, below = _Chooser(text=_("Choose a picture, up to {most} MB").format(most=most)), ipywidgets.Output()

    def chosen(_widget: _Chooser, file: dict, buffers: list[memoryview]) -> None:
        below.clear_output()  # at once: while a new picture is looked at, no answer of an older one stands there
        with below:
            if not buffers:
                said = _("{name} has {size:.0f} MB, more than the {most} that fit. Save it smaller, or as JPEG.")
                print(said.format(name=file["name"], size=file["size"] / 1e6, most=most))
                return
            try:
                use(io.BytesIO(buffers[0]))
            except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a broken image, and ours
                why = error or type(error).__name__
                print(_("{name} cannot be read as a picture: {why}.").format(name=file["name"], why=why))

    chooser.on_msg(chosen)
    display(ipywidgets.VBox([chooser, below]))


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """How well one colour reads on another, 1 to 21, by WCAG 2: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    lights = []
    for colour in (one, other):
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in colour]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(lights) / min(lights)


def _picture(figure: Figure, told: str) -> dict[str, str]:
    """The figure as SVG, which stays sharp at any size, and what it tells in words."""
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    width = round(100 * figure.get_figwidth())
    plt.close(figure)
    source = "data:image/svg+xml," + quote(picture.getvalue(), safe=" /:;=,+()'")
    return {
        "text/html": f'<img width="{width}" alt="{html.escape(told)}" src="{html.escape(source)}">',
        "text/plain": told,
    }


def _show(figure: Figure, told: str) -> None:
    """Show the figure at once, as a picture, and not again at the end of the cell."""
    display(_picture(figure, told), raw=True)
