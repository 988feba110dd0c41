"""The lesson's images: folders as people have them, shapes that are always the same, and the choice between sources."""

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lesson import cifar10, images
from numpy.typing import NDArray
from PIL import Image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def plain(mode: str = "RGB", size: tuple[int, int] = (40, 30), colour: object = RED) -> Image.Image:
    return Image.new(mode, size, colour)


def rotated_by_its_camera() -> bytes:
    """20 x 40 pixels, red above white, stored as 40 x 20 with the note to turn it."""
    upright = plain(size=(20, 40), colour=WHITE)
    upright.paste(RED, (0, 0, 20, 20))
    orientation = Image.Exif()
    orientation[0x0112] = 8
    return encoded(upright.transpose(Image.Transpose.ROTATE_270), format="PNG", exif=orientation)


IMAGES = {
    "photo.jpg": encoded(plain(size=(64, 48)), format="JPEG"),
    "grey.jpg": encoded(plain("L", colour=128), format="JPEG"),
    "print.jpg": encoded(plain("CMYK", colour=(0, 255, 255, 0)), format="JPEG"),
    "deep.png": encoded(Image.fromarray(np.full((30, 40), 32896, np.uint16)), format="PNG"),
    "clear.png": encoded(plain("RGBA", colour=(0, 0, 0, 0)), format="PNG"),
    "palette.png": encoded(plain().convert("P"), format="PNG"),
    "bilevel.png": encoded(plain("1", colour=1), format="PNG"),
    "moving.gif": encoded(plain(), format="GIF", save_all=True, append_images=[plain(colour=WHITE)]),
    "dot.png": encoded(plain(size=(1, 1)), format="PNG"),
    "thin.png": encoded(plain(size=(500, 1)), format="PNG"),
    "large.jpg": encoded(plain(size=(4000, 3000)), format="JPEG"),
    "modern.webp": encoded(plain(), format="WEBP"),
}
BROKEN = {
    "notes.txt": b"buy milk",
    "cut.jpg": encoded(Image.effect_noise((64, 64), 90), format="JPEG")[:900],
    "empty.png": b"",
    "cut.png": encoded(Image.effect_noise((64, 64), 90), format="PNG")[:900],
}
EXPECTED = {
    "grey.jpg": (128, 128, 128),
    "deep.png": (128, 128, 128),
    "clear.png": WHITE,
    "bilevel.png": WHITE,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKSPACE_DATA", str(tmp_path / "data"))


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def two_classes() -> dict[str, bytes]:
    return {
        f"{part}/{name}/{index}.png": encoded(plain(colour=colour), format="PNG")
        for part in ("train", "test")
        for name, colour in (("cat", RED), ("dog", WHITE))
        for index in range(2)
    }


@pytest.mark.parametrize("name", IMAGES)
def test_every_kind_of_image_becomes_32_by_32_in_colour(tmp_path: Path, name: str) -> None:
    pixels = images.decode(fill(tmp_path, {name: IMAGES[name]}) / name)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    assert np.abs(pixels.astype(int) - EXPECTED.get(name, RED)).max() <= 3


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_whole_image_is_left_out_and_named(tmp_path: Path, name: str) -> None:
    loaded = images.load_folder(fill(tmp_path, two_classes() | {f"train/cat/{name}": BROKEN[name]}))
    assert len(loaded.train_images) == 4
    assert f"Left out, 1 in all: {Path('train/cat', name)} (" in loaded.notice


def test_the_middle_of_a_long_image_is_kept() -> None:
    wide = plain(size=(300, 100), colour=WHITE)
    wide.paste(RED, (100, 0, 200, 100))
    assert (images.decode(io.BytesIO(encoded(wide, format="PNG"))) == RED).all(axis=2).mean() > 0.9


def test_a_photo_is_turned_as_its_camera_noted() -> None:
    pixels = images.decode(io.BytesIO(rotated_by_its_camera()))
    assert (pixels[:14] == RED).all()
    assert (pixels[18:] == WHITE).all()


def test_an_image_of_the_right_size_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert np.array_equal(images.decode(io.BytesIO(encoded(Image.fromarray(pixels), format="PNG"))), pixels)


files_of_a_class = st.lists(st.sampled_from([*IMAGES, *BROKEN]), max_size=4, unique=True)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ragged=st.dictionaries(st.sampled_from(["a", "b c", "ü", "d"]), st.tuples(files_of_a_class, files_of_a_class)))
def test_a_ragged_folder_loads_all_its_images_or_says_what_is_missing(
    tmp_path_factory: pytest.TempPathFactory, ragged: dict[str, tuple[list[str], list[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("ragged")
    for index, part in enumerate(("train", "test")):
        (folder / part).mkdir()
        for name, files in ragged.items():
            (folder / part / name).mkdir()
            fill(folder / part / name, {file: (IMAGES | BROKEN)[file] for file in files[index]})
    usable = {name: [sum(file in IMAGES for file in part) for part in parts] for name, parts in ragged.items()}
    enough = all(sum(counts[part] for counts in usable.values()) >= 2 for part in (0, 1))
    if not enough or any(train == 0 for train, _ in usable.values()):
        with pytest.raises(images.ImagesError, match=r"usable image"):
            images.load_folder(folder)
        return
    loaded = images.load_folder(folder)
    assert loaded.classes == sorted(ragged)
    for labels, pixels, part in (
        (loaded.train_labels, loaded.train_images, 0),
        (loaded.test_labels, loaded.test_images, 1),
    ):
        assert [int((labels == label).sum()) for label in range(len(ragged))] == [
            usable[name][part] for name in loaded.classes
        ]
        assert pixels.shape == (len(labels), 32, 32, 3)
    broken = sum(file in BROKEN for parts in ragged.values() for part in parts for file in part)
    assert (f"Left out, {broken} in all" in loaded.notice) == (broken > 0)


def test_one_class_is_enough(tmp_path: Path) -> None:
    files = {name: content for name, content in two_classes().items() if "/cat/" in name}
    assert images.load_folder(fill(tmp_path, files)).classes == ["cat"]


def test_a_class_without_test_images_is_learned_and_said(tmp_path: Path) -> None:
    loaded = images.load_folder(fill(tmp_path, two_classes() | {"train/bird/1.png": IMAGES["dot.png"]}))
    assert loaded.classes == ["bird", "cat", "dog"]
    assert "No test images of bird" in loaded.notice


def part(name: str) -> dict[str, bytes]:
    return {file: content for file, content in two_classes().items() if file.startswith(name)}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (part("test/"), "no folder train/"),
        (part("train/") | {"tset/cat/0.png": IMAGES["dot.png"]}, "no folder test/"),  # and tset is no class
        (two_classes() | {"test/bird/1.png": IMAGES["dot.png"]}, "test/bird has no counterpart train/bird"),
        (two_classes() | {"train/bird/.DS_Store": b"x"}, "train/bird has no usable image"),
    ],
)
def test_a_folder_that_lacks_a_part_or_images_is_refused_by_name(
    tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    with pytest.raises(images.ImagesError, match=reason):
        images.load_folder(fill(tmp_path, files))


# --- one folder of classes, zips, larger sides ------------------------------------------------------------------------


def classes(above: str = "", count: int = 10) -> dict[str, bytes]:
    """Two classes without train/ and test/, every image of a brightness of its own."""
    return {
        f"{above}{name}/{index}.png": encoded(plain(size=(100, 100), colour=(base + index,) * 3), format="PNG")
        for name, base in (("cat", 0), ("dog", 100))
        for index in range(count)
    }


def packed(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def brightnesses(pixels: NDArray[np.uint8]) -> set[int]:
    return set(pixels[:, 0, 0, 0].tolist())


@pytest.mark.parametrize("above", ["", "train/"])
def test_of_one_folder_of_classes_a_fifth_of_each_is_kept_for_testing_and_always_the_same(
    tmp_path: Path, above: str
) -> None:
    first = images.load_folder(fill(tmp_path / "here", classes(above)))
    again = images.load_folder(fill(tmp_path / "elsewhere", classes(above)))
    assert np.bincount(first.test_labels).tolist() == [2, 2]
    assert np.bincount(first.train_labels).tolist() == [8, 8]
    assert not brightnesses(first.train_images) & brightnesses(first.test_images)
    assert first.digest == again.digest
    assert first.notice == "Without a folder test/, 4 images are kept for testing: one in 5 of each class."


def test_a_folder_with_its_own_test_images_is_not_split(tmp_path: Path) -> None:
    assert images.load_folder(fill(tmp_path, two_classes())).notice == ""


@pytest.mark.parametrize("above", ["", "pets/"])
def test_a_zip_holds_the_same_images_as_its_folder_and_nothing_is_unpacked(tmp_path: Path, above: str) -> None:
    folder = images.load_folder(fill(tmp_path / "pets", classes()))
    resource_forks = {"__MACOSX/._cat": b"x", f"{above}cat/._0.png": b"x"}
    zipped = images.load_folder(packed(tmp_path / "pets.zip", classes(above) | resource_forks))
    assert zipped.digest == folder.digest
    assert zipped.notice == folder.notice
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "pets", "pets.zip"]


def test_an_entry_that_climbs_and_one_that_is_a_link_write_and_read_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(plain(colour=(255, 0, 255)), format="PNG"))
    zipped = packed(tmp_path / "hostile.zip", classes() | {"../../climbed/1.png": IMAGES["dot.png"]})
    link = zipfile.ZipInfo("cat/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(zipped, "a") as archive:
        archive.writestr(link, str(secret))
    loaded = images.load_folder(zipped)
    assert "cat/link.png (no image)" in loaded.notice
    assert not (brightnesses(loaded.train_images) | brightnesses(loaded.test_images)) & {255}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "hostile.zip", "secret.png"]


def test_a_zip_that_unpacks_to_very_much_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGEST_PACKED", 1 << 20)
    bomb = packed(tmp_path / "bomb.zip", classes() | {"cat/large.png": bytes(3 << 20)})
    assert bomb.stat().st_size < 20_000
    with pytest.raises(images.ImagesError, match=r"cat/large\.png in .* has 3 MB unpacked"):
        images.load_folder(bomb)


def test_a_file_that_is_no_zip_and_one_with_a_password_are_refused(tmp_path: Path) -> None:
    with pytest.raises(images.ImagesError, match="neither a folder nor a whole zip"):
        images.load_folder(fill(tmp_path, {"pets.zip": b"PK" * 500}) / "pets.zip")
    locked = bytearray(packed(tmp_path / "locked.zip", classes()).read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    with pytest.raises(images.ImagesError, match="encrypted"):
        images.load_folder(tmp_path / "locked.zip")


def test_a_misspelt_folder_is_said_to_be_missing_with_the_one_that_is_near(tmp_path: Path) -> None:
    fill(tmp_path / "my_images", two_classes())
    with pytest.raises(images.ImagesError, match=r"no folder .*my_imges\. Did you mean .*/my_images\?$"):
        images.load_folder(tmp_path / "my_imges")
    with pytest.raises(images.ImagesError, match=r"no folder .*elsewhere\.$"):
        images.load_folder(tmp_path / "elsewhere")


@pytest.mark.parametrize("side", [32, 64, 96, 128])
def test_a_folder_comes_at_the_side_asked_for_and_is_kept_apart_from_other_sides(tmp_path: Path, side: int) -> None:
    fill(tmp_path, two_classes())
    images.load_folder(tmp_path, 48)
    loaded = images.load("auto", str(tmp_path), side)
    assert loaded.train_images.shape == (4, side, side, 3)
    assert loaded.test_images.shape == (4, side, side, 3)


@pytest.mark.parametrize("dataset", ["auto", "cifar10", "drawn"])
def test_a_larger_side_is_refused_for_images_that_have_32_pixels(dataset: str) -> None:
    with pytest.raises(images.ImagesError, match="A side of 64 pixels is for images of your own"):
        images.load(dataset, side=64)


def test_images_that_do_not_fit_into_memory_are_refused_before_any_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, two_classes())
    monkeypatch.setattr(images.machine, "memory", lambda: 2 * 8 * 64 * 64 * 3)
    monkeypatch.setattr(images, "decode", lambda *_: pytest.fail("read"))
    with pytest.raises(images.ImagesError, match=r"8 images of 128 x 128 pixels need .* Set the side to 64"):
        images.load_folder(tmp_path, 128)
    monkeypatch.undo()
    assert len(images.load_folder(tmp_path, 64).train_images) == 4


def png_of(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return start + struct.pack(">I", 9) + b"IDAT" + bytes(9)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png_of(20_000, 20_000), "too large: more than 179 megapixels"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "a HEIC picture; save it as JPEG first"),
        (b"buy milk", "no image"),
    ],
)
def test_a_picture_that_cannot_be_read_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(images.ImagesError) as refused:
        images.decode(io.BytesIO(content))
    assert str(refused.value) == reason


def test_hidden_files_and_folders_do_not_count(tmp_path: Path) -> None:
    hidden = {"train/.DS_Store": b"x", "train/cat/._0.png": b"x", "train/.ipynb_checkpoints/0.png": b"x"}
    loaded = images.load_folder(fill(tmp_path, two_classes() | hidden))
    assert (loaded.classes, loaded.notice) == (["cat", "dog"], "")


def test_the_second_run_over_the_same_files_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, two_classes() | {"train/cat/notes.txt": b""})
    first = images.load_folder(tmp_path)
    monkeypatch.setattr(images, "decode", lambda *_: pytest.fail("decoded again"))
    second = images.load_folder(tmp_path)
    assert np.array_equal(first.train_images, second.train_images)
    assert (first.notice, first.digest) == (second.notice, second.digest)


def test_a_changed_image_is_decoded_again_and_changes_the_digest(tmp_path: Path) -> None:
    first = images.load_folder(fill(tmp_path, two_classes()))
    changed = tmp_path / "train/cat/0.png"
    changed.write_bytes(encoded(plain(colour=(0, 0, 255)), format="PNG"))
    os.utime(changed, ns=(1, 1))
    second = images.load_folder(tmp_path)
    assert tuple(second.train_images[0, 0, 0]) == (0, 0, 255)
    assert first.digest != second.digest


def test_a_folder_that_is_edited_for_ever_fills_no_disk(tmp_path: Path) -> None:
    fill(tmp_path, two_classes())
    kept = tmp_path / "data" / "decoded"
    for edit in range(images.KEPT + 2):
        os.utime(tmp_path / "train/cat/0.png", ns=(edit, edit))
        images.load_folder(tmp_path)
        [latest] = {file for file in kept.iterdir() if file.stat().st_mtime_ns > edit + 1}
        os.utime(latest, ns=(edit, edit + 1))
    assert sorted(file.stat().st_mtime_ns for file in kept.iterdir()) == list(range(3, images.KEPT + 3))


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    first = images.load_folder(fill(tmp_path, two_classes()))
    for cache in (tmp_path / "data" / "decoded").iterdir():
        cache.write_bytes(cache.read_bytes()[:500])
    assert np.array_equal(images.load_folder(tmp_path).train_images, first.train_images)


def test_a_data_folder_that_cannot_be_written_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in the way").write_text("")
    monkeypatch.setenv("WORKSPACE_DATA", str(tmp_path / "in the way"))
    assert len(images.load_folder(fill(tmp_path, two_classes())).train_images) == 4


# --- drawn shapes and the choice --------------------------------------------------------------------------------------


def test_drawn_shapes_are_the_same_on_every_call_and_every_kind_is_as_frequent() -> None:
    first, second = images.draw(train=200, test=50), images.draw(train=200, test=50)
    assert first.digest == second.digest
    assert np.bincount(first.train_labels).tolist() == [20] * 10
    assert not np.array_equal(first.train_images[:50], first.test_images)


def test_drawn_shapes_of_one_kind_differ_from_one_another() -> None:
    drawn = images.draw(train=200, test=50)
    circles = drawn.train_images[drawn.train_labels == drawn.classes.index("circle")]
    assert len(np.unique(circles.reshape(len(circles), -1), axis=0)) == len(circles)


def unavailable(_: Path | None = None) -> tuple[NDArray, ...]:
    raise cifar10.Unavailable(Path("data"), ["mirror: HTTP 503"])


def test_auto_draws_where_cifar10_cannot_be_had_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "load", unavailable)
    monkeypatch.setattr(images, "draw", lambda notice: notice)
    notice = images.load("auto")
    assert "drawn shapes instead" in notice
    assert "mirror: HTTP 503" in notice


def test_cifar10_asked_for_by_name_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "load", unavailable)
    with pytest.raises(cifar10.Unavailable):
        images.load("cifar10")


def test_auto_takes_a_folder_of_one_s_own(tmp_path: Path) -> None:
    assert images.load("auto", str(fill(tmp_path, two_classes()))).source == "folder"


def test_a_folder_must_be_named() -> None:
    with pytest.raises(images.ImagesError, match="needs data_folder"):
        images.load("folder")
