"""The lesson's labelled images, from one of three sources: CIFAR-10, a folder of one's own, or drawn shapes.

All three arrive in the same form: uint8 arrays (N, 32, 32, 3) with the labels 0, 1, 2 ... in an int64 array (N,). Those
of a folder may have a larger side than 32.
"""

import contextlib
import difflib
import hashlib
import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from lesson import cifar10, machine
from lesson.words import MessageAlone, _

SIDE = 32  # pixels; every image is brought to this square, unless a folder's are asked for at another
TEST_SHARE = 5  # where there is one folder of classes, one image of so many is for testing
LARGEST_PACKED = 256 << 20  # bytes of one file in a zip; a small zip can hold a very large nothing
KEPT = 8  # folders that stay decoded on the disk, the last ones; one that is edited counts anew each time
SHORT_NAMES = {"airplane": "plane", "automobile": "car"}  # as the lesson calls them, where CIFAR-10 comes as a folder


# Half of what Pillow refuses makes it warn; what it refuses we say ourselves.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

Place = Path | zipfile.Path
"""A folder, or one in a zip, which is read as it is: nothing of it is ever unpacked onto the disk."""


class ImagesError(MessageAlone, ValueError):
    """Images that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Images:
    """Labelled images: uint8 arrays (N, side, side, 3), int64 labels (N,) that count through `classes`."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: list[str]
    source: str  # cifar10, folder or drawn
    digest: str  # SHA-256: of CIFAR-10's archive, else of the images and labels themselves
    notice: str = ""  # what the reader must know about them: another source than the one hoped for, files left out


def load(dataset: str = "auto", data_folder: str = "", side: int = SIDE) -> Images:
    """The images of `dataset`: "cifar10", "folder", "drawn" or "auto".

    "auto" takes the folder of one's own where `data_folder` names one, else CIFAR-10, and where that cannot be had it
    draws images and says so in `notice`. `side` is for a folder: the others have 32 pixels. Raises `ImagesError` for a
    folder it cannot use, `cifar10.Unavailable` where "cifar10" was asked for and cannot be had.
    """
    folder = Path(data_folder).expanduser() if data_folder else None
    if dataset == "folder" or (dataset == "auto" and folder):
        if not folder:
            said = _('dataset = "folder" needs data_folder: a folder, or a zip of one, with <class>/ for each class.')
            raise ImagesError(said)
        return load_folder(folder, side)
    if side != SIDE:
        said = _("A side of {side} pixels is for images of your own (data_folder): the others have {usual}.")
        raise ImagesError(said.format(side=side, usual=SIDE))
    if dataset == "drawn":
        return draw()
    try:
        return Images(*cifar10.load(folder), [_(name) for name in cifar10.CLASSES], "cifar10", cifar10.SHA256)
    except cifar10.Unavailable as reason:
        if dataset == "cifar10":
            raise
        return draw(notice=_("CIFAR-10 cannot be had, so these are drawn shapes instead.") + f"\n{reason}")


# --- a folder of one's own --------------------------------------------------------------------------------------------


def load_folder(folder: Path, side: int = SIDE) -> Images:
    """The images of a folder, or of a zip of one, each brought to `side` pixels; any formats, sizes, number of classes.

    In it are train/<class>/* and test/<class>/*, or <class>/* alone: then a fifth of each class is for testing, always
    the same. Files that are no image, or a broken one, are left out and named in `notice`. Decoded images are kept in
    the data folder, so the next run over the same files starts at once. Raises `ImagesError` with the reason.
    """
    root = _opened(folder)
    files, names, said = _parts(root, folder)
    count = sum(len(group) for groups in files.values() for group in groups)
    _require_room(count, side)
    cache = _cache_of([path for part in files.values() for group in part for path in group], side)
    try:
        with np.load(cache, allow_pickle=False) as kept:
            arrays = [kept[name] for name in _ARRAYS]
            left_out = kept["left_out"].tolist()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):  # not there yet, or cut short
        arrays, left_out = _decode_all(files, root, side)
        _keep(cache, arrays, left_out)

    for part, labels in (("train", arrays[1]), ("test", arrays[3])):
        if len(labels) < 2:
            said = _("{folder} has {count} usable images in {part}; at least 2 are needed.")
            raise ImagesError(f"{said.format(folder=folder, count=len(labels), part=part)} {_listed(left_out)}")
    classes = [SHORT_NAMES.get(name, name) for name in names]
    empty = [name for label, name in enumerate(classes) if not (arrays[1] == label).any()]
    if empty:
        where = "" if said else "train/"
        said_so = _("{folder} has no usable image: add some, or take the folder away.").format(folder=where + empty[0])
        raise ImagesError(f"{said_so} {_listed(left_out)}")
    untested = [name for label, name in enumerate(classes) if not (arrays[3] == label).any()]
    lacking = _("No test images of {classes}.").format(classes=", ".join(untested)) if untested else ""
    notices = [said, _listed(left_out), lacking]
    return Images(*arrays, classes, "folder", _digest(arrays, classes), "\n".join(filter(None, notices)))


def decode(picture: str | Place | BinaryIO, side: int = SIDE) -> NDArray[np.uint8]:
    """One image file, by its path or opened, as (side, side, 3): its shorter side brought to that, its middle cut out.

    Any format and colour model that Pillow reads; transparent parts become white, an animation gives its first frame.
    Raises `ImagesError` where the file is none that can be read, and OSError, ValueError or SyntaxError (Pillow's own)
    where it is a broken one.
    """
    with contextlib.ExitStack() as opened:
        if isinstance(picture, str | Path | zipfile.Path):
            place = Path(picture) if isinstance(picture, str) else picture
            picture = opened.enter_context(place.open("rb"))
        try:
            image = opened.enter_context(Image.open(picture))
        except UnidentifiedImageError:
            picture.seek(0)
            raise ImagesError(_unreadable(picture.read(12))) from None
        except Image.DecompressionBombError:
            most = 2 * Image.MAX_IMAGE_PIXELS / 1e6
            raise ImagesError(_("too large: more than {most:.0f} megapixels").format(most=most)) from None
        image.draft("RGB", (2 * side, 2 * side))  # a large JPEG is decoded at a fraction of its size, many times faster
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16 bits a pixel, which convert() would cut off at 255
            upright = Image.fromarray((np.asarray(upright).clip(0, 65535) // 257).astype(np.uint8))
        if upright.has_transparency_data:
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
        return np.asarray(ImageOps.fit(upright.convert("RGB"), (side, side)))


def _unreadable(start: bytes) -> str:
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return _("a HEIC picture; save it as JPEG first")
    return _("no image")


def _opened(folder: Path) -> Place:
    """The place that holds the classes, or train/ and test/. Raises `ImagesError` where there is none."""
    if not folder.exists():
        beside = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        near = difflib.get_close_matches(folder.name, beside, n=1)
        said = _("There is no folder {folder}. Did you mean {near}?") if near else _("There is no folder {folder}.")
        raise ImagesError(said.format(folder=folder, near=folder.with_name(near[0]) if near else ""))
    root: Place = folder
    if folder.is_file():
        try:
            root = zipfile.Path(zipfile.ZipFile(folder))
        except (zipfile.BadZipFile, NotImplementedError, OSError):
            raise ImagesError(_("{folder} is neither a folder nor a whole zip of one.").format(folder=folder)) from None
        packed = root.root.infolist()
        if any(entry.flag_bits & 1 for entry in packed):
            raise ImagesError(_("{folder} is encrypted: make the zip again, without a password.").format(folder=folder))
        large = next((entry for entry in packed if entry.file_size > LARGEST_PACKED), None)
        if large:
            said = _("{file} in {folder} has {size} MB unpacked, more than the {most} MB that are read.")
            size, most = large.file_size >> 20, LARGEST_PACKED >> 20
            raise ImagesError(said.format(file=large.filename, folder=folder, size=size, most=most))
    while len(inside := _visible(root, folders=True)) == 1 and _visible(inside[0], folders=True):
        if inside[0].name in ("train", "test"):
            break
        root = inside[0]  # a folder around it all, as zipping one makes
    return root


def _parts(root: Place, folder: Path) -> tuple[dict[str, list[list[Place]]], list[str], str]:
    """The files for training and for testing by class, the classes' names, and what to say of the split."""
    inside = {place.name: place for place in _visible(root, folders=True)}
    if not inside:
        said = _("{folder} has no folders. Wanted: <class>/*, or train/<class>/* and test/<class>/*.")
        raise ImagesError(said.format(folder=folder))
    if inside.keys() == {"train"}:
        inside = {place.name: place for place in _visible(inside["train"], folders=True)}
    if not {"train", "test"} & inside.keys():
        split = [_split(_visible(place, folders=False)) for place in inside.values()]
        files = {"train": [train for train, _ in split], "test": [test for _, test in split]}
        tested = sum(len(test) for _, test in split)
        said = _("Without a folder test/, {tested} images are kept for testing: one in {share} of each class.")
        return files, list(inside), said.format(tested=tested, share=TEST_SHARE)
    for part in ("train", "test"):
        if part not in inside:
            said = _("{folder} has no folder {part}/. Wanted: train/<class>/* and test/<class>/*.")
            raise ImagesError(said.format(folder=folder, part=part))
    classes = {
        part: {place.name: place for place in _visible(inside[part], folders=True)} for part in ("train", "test")
    }
    unknown = sorted(classes["test"].keys() - classes["train"].keys())
    if unknown:
        said = _("test/{name} has no counterpart train/{name}: a class must be learned to be tested.")
        raise ImagesError(said.format(name=unknown[0]))
    names = list(classes["train"])
    files = {
        part: [_visible(places[name], folders=False) if name in places else [] for name in names]
        for part, places in classes.items()
    }
    return files, names, ""


def _split(files: list[Place]) -> tuple[list[Place], list[Place]]:
    """A class's files for training and for testing: by their names' digests, so the same wherever they lie."""
    mixed = sorted(files, key=lambda file: hashlib.sha256(file.name.encode()).digest())
    tested = max(len(mixed) // TEST_SHARE, int(len(mixed) > 1))
    return mixed[tested:], mixed[:tested]


def _visible(folder: Place, *, folders: bool) -> list[Place]:
    found = (path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))
    return sorted(
        (path for path in found if (path.is_dir() if folders else path.is_file())), key=lambda path: path.name
    )


def _require_room(count: int, side: int) -> None:
    """Raise `ImagesError` where so many images do not fit: the arrays, and the tensors that are made of them."""
    memory = machine.memory()

    def needed(side: int) -> int:
        return 2 * count * side * side * 3

    if needed(side) > memory:
        fitting = [smaller for smaller in (96, 64, SIDE) if smaller < side and needed(smaller) <= memory]
        said = _(
            "{count:,} images of {side} x {side} pixels need {needed:.1f} GB of memory, and there are {memory:.1f}."
        )
        advice = _("Set the side to {side}, or take fewer images.") if fitting else _("Take fewer images.")
        lacking = said.format(count=count, side=side, needed=needed(side) / 1e9, memory=memory / 1e9)
        raise ImagesError(f"{lacking} {advice.format(side=fitting[0] if fitting else '')}")


def _decode_all(files: dict[str, list[list[Place]]], root: Place, side: int) -> tuple[list[NDArray], list[str]]:
    above = len(f"{root}".rstrip("/")) + 1

    def attempt(path: Place) -> NDArray[np.uint8] | str:
        try:
            return decode(path, side)
        except Exception as error:  # Pillow raises many kinds for a broken file; one must not end the other 59,999
            return f"{str(path)[above:]} ({error or type(error).__name__})"

    arrays: list[NDArray] = []
    left_out: list[str] = []
    count = sum(len(group) for groups in files.values() for group in groups)
    # Few at a time: of each, all pixels are in memory for a moment.
    with (
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        tqdm(total=count, desc=_("Reading images"), unit="image", mininterval=0.1 if machine.WATCHED else 10) as bar,
    ):
        for groups in files.values():
            images, labels = np.empty((sum(map(len, groups)), side, side, 3), np.uint8), []
            for label, group in enumerate(groups):
                for result in pool.map(attempt, group):
                    bar.update()
                    if isinstance(result, str):
                        left_out.append(result)
                    else:
                        images[len(labels)] = result
                        labels.append(label)
            arrays += [images[: len(labels)], np.array(labels, np.int64)]
    return arrays, left_out


def _listed(left_out: list[str], most: int = 5) -> str:
    if not left_out:
        return ""
    more = _(" and {count} more").format(count=len(left_out) - most) if len(left_out) > most else ""
    named = ", ".join(left_out[:most]) + more
    return _("Left out, {count} in all: {named}.").format(count=len(left_out), named=named)


def _cache_of(paths: Sequence[Place], side: int) -> Path:
    listing = hashlib.sha256(f"{side}\n".encode())
    for path in paths:
        if isinstance(path, Path):
            about = path.stat()
            listing.update(f"{path.absolute()}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
        else:
            packed = path.root.getinfo(path.at)
            listing.update(f"{path.at}\0{packed.file_size}\0{packed.CRC}\n".encode())
    return cifar10.data_folder() / "decoded" / f"{listing.hexdigest()[:24]}.npz"


def _keep(cache: Path, arrays: list[NDArray], left_out: list[str]) -> None:
    unfinished = cache.with_suffix(f".{os.getpid()}.tmp")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.savez(file, left_out=np.array(left_out, dtype=str), **dict(zip(_ARRAYS, arrays, strict=True)))
        unfinished.replace(cache)
        for old in sorted(cache.parent.iterdir(), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
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
    return Images(*arrays, [_(name) for name in SHAPES], "drawn", _digest(arrays, SHAPES), notice)


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
