"""The lesson's labelled images, from one of three sources: CIFAR-10, a folder of one's own, or drawn shapes.

All three arrive in the same form: uint8 arrays (N, 32, 32, 3) with the labels 0, 1, 2 ... in an int64 array (N,).
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from lesson import cifar10

SIDE = 32  # pixels; every image is brought to this square
SHORT_NAMES = {"airplane": "plane", "automobile": "car"}  # as the lesson calls them, where CIFAR-10 comes as a folder


class ImagesError(ValueError):
    """Images that cannot be used; the message says which and why."""

    def _render_traceback_(self) -> list[str]:
        """Show the message alone in the notebook: the reader's next step is in it, and not in our source."""
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True)
class Images:
    """Labelled images: uint8 arrays (N, 32, 32, 3), int64 labels (N,) that count through `classes`."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: list[str]
    source: str  # cifar10, folder or drawn
    digest: str  # SHA-256: of CIFAR-10's archive, else of the images and labels themselves
    notice: str = ""  # what the reader must know about them: another source than the one hoped for, files left out


def load(dataset: str = "auto", data_folder: str = "") -> Images:
    """The images of `dataset`: "cifar10", "folder", "drawn" or "auto".

    "auto" takes the folder of one's own where `data_folder` names one, else CIFAR-10, and where that cannot be had it
    draws images and says so in `notice`. Raises `ImagesError` for a folder it cannot use, `cifar10.Unavailable` where
    "cifar10" was asked for and cannot be had.
    """
    folder = Path(data_folder).expanduser() if data_folder else None
    if dataset == "folder" or (dataset == "auto" and folder):
        if not folder:
            raise ImagesError(
                'dataset = "folder" needs data_folder: the folder that holds train/<class>/ and test/<class>/.'
            )
        return load_folder(folder)
    if dataset == "drawn":
        return draw()
    try:
        return Images(*cifar10.load(folder), list(cifar10.CLASSES), "cifar10", cifar10.SHA256)
    except cifar10.Unavailable as reason:
        if dataset == "cifar10":
            raise
        return draw(notice=f"CIFAR-10 cannot be had, so these are drawn shapes instead.\n{reason}")


# --- a folder of one's own --------------------------------------------------------------------------------------------


def load_folder(folder: Path) -> Images:
    """The images of `folder`/train/<class>/* and `folder`/test/<class>/*, any formats, sizes and number of classes.

    Files that are no image, or a broken one, are left out and named in `notice`. Decoded images are kept in the data
    folder, so the next run over the same files starts at once. Raises `ImagesError` with the reason.
    """
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise ImagesError(f"{folder} has no folder {part}/. Wanted: train/<class>/* and test/<class>/*.")
    names = [_visible(folder / part, Path.is_dir) for part in ("train", "test")]
    unknown = sorted({path.name for path in names[1]} - {path.name for path in names[0]})
    if unknown:
        raise ImagesError(
            f"test/{unknown[0]} has no counterpart train/{unknown[0]}: a class must be learned to be tested."
        )

    files = {
        part: [(_visible(folder / part / path.name, Path.is_file)) for path in names[0]] for part in ("train", "test")
    }
    cache = _cache_of([path for part in files.values() for group in part for path in group])
    try:
        with np.load(cache, allow_pickle=False) as kept:
            arrays = [kept[name] for name in ("train_images", "train_labels", "test_images", "test_labels")]
            left_out = kept["left_out"].tolist()
    except (OSError, KeyError, ValueError, BadZipFile):  # not there yet, or cut short
        arrays, left_out = _decode_all(files, folder)
        _keep(cache, arrays, left_out)

    for part, labels in (("train", arrays[1]), ("test", arrays[3])):
        if len(labels) < 2:
            raise ImagesError(
                f"{folder}/{part} has {len(labels)} usable images; at least 2 are needed. {_listed(left_out)}"
            )
    classes = [SHORT_NAMES.get(path.name, path.name) for path in names[0]]
    empty = [name for label, name in enumerate(classes) if not (arrays[1] == label).any()]
    if empty:
        raise ImagesError(
            f"train/{empty[0]} has no usable image: add some, or take the folder away. {_listed(left_out)}"
        )
    untested = [name for label, name in enumerate(classes) if not (arrays[3] == label).any()]
    notices = [_listed(left_out), f"No test images of {', '.join(untested)}." if untested else ""]
    return Images(*arrays, classes, "folder", _digest(arrays, classes), "\n".join(filter(None, notices)))


def decode(picture: Path | BinaryIO) -> NDArray[np.uint8]:
    """One image file, by its path or opened, as (32, 32, 3): its shorter side brought to 32 pixels, its middle cut out.

    Any format and colour model that Pillow reads; transparent parts become white, an animation gives its first frame.
    Raises OSError, ValueError or SyntaxError (Pillow's own) where the file is no image or a broken one.
    """
    with Image.open(picture) as image:
        image.draft("RGB", (2 * SIDE, 2 * SIDE))  # a large JPEG is decoded at a fraction of its size, many times faster
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16 bits a pixel, which convert() would cut off at 255
            upright = Image.fromarray((np.asarray(upright).clip(0, 65535) // 257).astype(np.uint8))
        if upright.has_transparency_data:
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
        return np.asarray(ImageOps.fit(upright.convert("RGB"), (SIDE, SIDE)))


def _visible(folder: Path, kind: Callable[[Path], bool]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and kind(path))


def _decode_all(files: dict[str, list[list[Path]]], folder: Path) -> tuple[list[NDArray], list[str]]:
    def attempt(path: Path) -> NDArray[np.uint8] | str:
        try:
            return decode(path)
        except Exception as error:  # Pillow raises many kinds for a broken file; one must not end the other 59,999
            return f"{path.relative_to(folder)} ({_reason(error)})"

    arrays: list[NDArray] = []
    left_out: list[str] = []
    count = sum(len(group) for groups in files.values() for group in groups)
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=count, desc="Reading images", unit="image") as bar:
        for groups in files.values():
            images, labels = [], []
            for label, group in enumerate(groups):
                for result in pool.map(attempt, group):
                    bar.update()
                    if isinstance(result, str):
                        left_out.append(result)
                    else:
                        images.append(result)
                        labels.append(label)
            arrays += [np.array(images, np.uint8).reshape(-1, SIDE, SIDE, 3), np.array(labels, np.int64)]
    return arrays, left_out


def _reason(error: Exception) -> str:
    return "no image" if type(error).__name__ == "UnidentifiedImageError" else str(error) or type(error).__name__


def _listed(left_out: list[str], most: int = 5) -> str:
    if not left_out:
        return ""
    more = f" and {len(left_out) - most} more" if len(left_out) > most else ""
    return f"Left out, {len(left_out)} in all: {', '.join(left_out[:most])}{more}."


def _cache_of(paths: Iterable[Path]) -> Path:
    listing = hashlib.sha256()
    for path in paths:
        about = path.stat()
        listing.update(f"{path.absolute()}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return cifar10.data_folder() / "decoded" / f"{listing.hexdigest()[:24]}.npz"


def _keep(cache: Path, arrays: list[NDArray], left_out: list[str]) -> None:
    unfinished = cache.with_suffix(f".{os.getpid()}.tmp")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            named = dict(zip(("train_images", "train_labels", "test_images", "test_labels"), arrays, strict=True))
            np.savez(file, left_out=np.array(left_out, dtype=str), **named)
        unfinished.replace(cache)
    except OSError:  # no room or no permission: the next run decodes again
        with contextlib.suppress(OSError):
            unfinished.unlink()


def _digest(arrays: Iterable[NDArray], classes: Iterable[str]) -> str:
    digest = hashlib.sha256("\0".join(classes).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# --- drawn shapes -----------------------------------------------------------------------------------------------------


def _star(u: NDArray, v: NDArray) -> NDArray:
    turn = np.arctan2(v, u) * 5 / (2 * np.pi)
    return 0.45 + 0.55 * np.abs(2 * (turn - np.floor(turn)) - 1) ** 1.5 - np.hypot(u, v)


# Each is positive inside the shape, for coordinates u, v from -1 to 1.
SHAPES: dict[str, Callable[[NDArray, NDArray], NDArray]] = {
    "circle": lambda u, v: 0.85 - np.hypot(u, v),
    "ring": lambda u, v: 0.22 - np.abs(np.hypot(u, v) - 0.72),
    "moon": lambda u, v: np.minimum(0.95 - np.hypot(u, v), np.hypot(u - 0.45, v) - 0.75),
    "square": lambda u, v: 0.75 - np.maximum(np.abs(u), np.abs(v)),
    "triangle": lambda u, v: 0.5 - np.maximum(v, np.abs(u) * 0.866 - v / 2),
    "star": _star,
    "cross": lambda u, v: np.maximum(
        np.minimum(0.28 - np.abs(u), 0.95 - np.abs(v)), np.minimum(0.28 - np.abs(v), 0.95 - np.abs(u))
    ),
    "heart": lambda u, v: 0.7 - np.hypot(u * 0.85, v * 0.9 - 0.1 + 0.6 * np.sqrt(np.abs(u))),
    "bar": lambda u, v: np.minimum(0.3 - np.abs(v), 0.95 - np.abs(u)),
    "pair": lambda u, v: 0.38 - np.hypot(np.abs(u) - 0.5, v),
}


def draw(train: int = 50_000, test: int = 10_000, notice: str = "") -> Images:
    """As many images of ten kinds of shapes, each kind equally often, the same on every call.

    Place, size, turn, colours and noise differ from image to image; a share of them is hard to tell, even by eye.
    """
    arrays: list[NDArray] = []
    for seed, count in ((0, train), (1, test)):
        labels = np.random.default_rng(seed).permutation(np.arange(count) % len(SHAPES))
        chunks = [_draw(labels[start : start + 1000], (seed, start)) for start in range(0, count, 1000)]
        arrays += [np.concatenate(chunks), labels.astype(np.int64)]
    return Images(*arrays, list(SHAPES), "drawn", _digest(arrays, SHAPES), notice)


def _draw(labels: NDArray, seed: tuple[int, int]) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    count = len(labels)
    x, y, angle, noise = random.uniform([-0.3, -0.3, -0.5, 4], [0.3, 0.3, 0.5, 40], (count, 4)).T.astype(np.float32)
    size = random.uniform(0.35, 0.75, count).astype(np.float32)
    ground, ink = random.uniform(0, 255, (2, count, 1, 1, 3)).astype(np.float32)

    axis = np.linspace(-1, 1, SIDE, dtype=np.float32)
    across, down = (axis - x[:, None]) / size[:, None], (axis - y[:, None]) / size[:, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    u = cos * across[:, None, :] + sin * down[:, :, None]
    v = cos * down[:, :, None] - sin * across[:, None, :]

    inside = np.empty((count, SIDE, SIDE), np.float32)
    for label, shape in enumerate(SHAPES.values()):
        chosen = labels == label
        inside[chosen] = shape(u[chosen], v[chosen])
    inside = np.clip(inside * size[:, None, None] * SIDE / 2 + 0.5, 0, 1)[..., None]  # soft edges, a pixel wide
    grain = random.standard_normal((count, SIDE, SIDE, 3), np.float32) * noise[:, None, None, None]
    return np.clip(ground + (ink - ground) * inside + grain, 0, 255).astype(np.uint8)
