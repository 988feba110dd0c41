"""The lesson's pictures for those who see little, or nothing: contrast, size of type, what is told in words."""

import html
import itertools
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from lesson import charts
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

CLASSES = ["cat", "dog", "my goldfish"]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
READ = 448 / (100 * charts.WIDTH)  # of its size: in a window 900 pixels wide, the file browser open, it gets 448 pixels
SMALLEST = 10  # pixels


def curves() -> None:
    drawn = charts.Curves(10)
    for _ in drawn.follow(range(40)):
        if drawn.due:
            drawn.add(2 / drawn.step, drawn.step / 50)


PICTURES: dict[str, tuple[Callable[[], None], list[str]]] = {
    "pictures": (
        lambda: charts.pictures(IMAGES, ["cat", "dog,\nnot cat", "my goldfish"], [True, False, True]),
        ["3 images", "right: cat", "wrong: dog, not cat"],
    ),
    "curves": (curves, ["Loss: from 0.10 to 0.05", "from 40 % to 80 %", "of 4 epochs"]),
    "class_bars": (lambda: charts.class_bars(CLASSES, [0.2, 0.5, 0.9], 0.53), ["my goldfish 90%, dog 50%", "53%"]),
    "confusion": (
        lambda: charts.confusion(np.array([[90, 9, 1], [30, 70, 0], [0, 0, 100]]), CLASSES),
        ["dog for cat 30 %, cat for dog 9 %"],
    ),
    "guess": (lambda: charts.guess(IMAGES[0], CLASSES, [0.2, 0.1, 0.7]), ["my goldfish 70%, cat 20%"]),
    "looked": (
        lambda: charts.looked(IMAGES[:2], np.eye(7)[None, :2].repeat(2, 0)[:, [0, 1, 0, 0, 0, 0, 1]], ["cat", "dog"]),
        ["cat: most at the top left, by 100 points"],
    ),
}


@pytest.fixture
def kept() -> Iterator[list[Figure]]:
    """The figures that are drawn, which stay open until the test has looked at them."""
    figures = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts.plt, "close", figures.append)
        yield figures
    charts.plt.close("all")


@pytest.fixture(params=PICTURES)
def shown(
    request: pytest.FixtureRequest, kept: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> tuple[Figure, dict, list[str]]:
    """A picture's figure, what is displayed of it, and the words that belong into it."""
    displayed = []
    monkeypatch.setattr(charts, "display", lambda data, **_: displayed.append(data))
    draw, words = PICTURES[request.param]
    draw()
    return kept[-1], displayed[-1], words


Shown = tuple[Figure, dict, list[str]]


def test_each_picture_tells_in_words_what_it_shows(shown: Shown) -> None:
    _, displayed, words = shown
    told = html.unescape(re.search(r'alt="([^"]*)"', displayed["text/html"])[1])
    assert [word for word in words if word not in told] == []
    assert displayed["text/plain"] == told


def test_each_picture_is_sharp_at_any_size_and_fits_a_narrow_window(shown: Shown) -> None:
    figure, displayed, _ = shown
    width = int(re.search(r'width="(\d+)"', displayed["text/html"])[1])
    assert width == round(100 * figure.get_figwidth()) <= 640
    source = html.unescape(re.search(r'src="data:image/svg\+xml,([^"]*)"', displayed["text/html"])[1])
    assert ElementTree.fromstring(unquote(source)).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 (we have just made it)


def texts(figure: Figure) -> list[Text]:
    figure.canvas.draw()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def test_type_is_large_enough_in_a_narrow_window(shown: Shown) -> None:
    sizes = {text.get_text(): text.get_fontsize() * 100 / 72 * READ for text in texts(shown[0])}
    assert sizes
    assert {text: size for text, size in sizes.items() if size < SMALLEST} == {}


def test_type_stands_out_from_its_ground(shown: Shown) -> None:
    figure = shown[0]
    assert to_rgb(figure.get_facecolor()) == to_rgb(charts.GROUND), "it must bring its ground along, for dark pages"
    faint = {}
    for text in texts(figure):
        ground = to_rgb(charts.GROUND)
        fill = next((image.get_array() for axis in figure.axes for image in axis.get_images()), None)
        if text.axes and re.fullmatch(r"\d+", text.get_text()) and text in text.axes.texts:  # in the confusion matrix
            column, row = map(int, text.get_position())
            ground = fill[row, column]
        contrast = charts.contrast(to_rgb(text.get_color()), ground)
        if contrast < 4.5:
            faint[text.get_text()] = contrast
    assert faint == {}


def test_contrast_is_what_the_standard_computes() -> None:
    assert charts.contrast(to_rgb("white"), to_rgb("black")) == pytest.approx(21)
    assert charts.contrast(to_rgb("#777777"), to_rgb("white")) == pytest.approx(4.48, abs=0.01)


def test_a_twentieth_of_a_class_is_seen_in_the_confusion_matrix(kept: list[Figure]) -> None:
    charts.confusion(np.array([[95, 5], [0, 100]]), CLASSES[:2])
    fill = kept[0].axes[0].get_images()[0].get_array()
    assert charts.contrast(fill[0, 1], fill[1, 0]) > 1.2


def test_an_interrupted_training_says_in_one_line_where_it_stopped_and_goes_on_from_there() -> None:
    drawn = charts.Curves(10)

    def until(stop: int) -> None:
        with drawn:
            for _ in drawn.follow(range(40)):
                if drawn.step == stop:
                    raise KeyboardInterrupt

    with pytest.raises(charts.Interrupted) as stopped:
        until(15)
    said = stopped.value._render_traceback_()
    assert len(said) == 1
    assert "Stopped at step 15 of 40." in said[0]
    assert "go_on = True" in said[0]
    assert list(itertools.islice(drawn.follow(range(40)), 2)) == [15, 16]


def test_another_error_in_training_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), charts.Curves(10):
        raise ZeroDivisionError
