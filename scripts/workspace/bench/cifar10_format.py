"""Archives in CIFAR-10's own format, from any images: for the tests and the benchmark, which have the real one nowhere.

The format is described at https://www.cs.toronto.edu/~kriz/cifar.html: a tar of six batches, pickled by Python 2.
"""

import gzip
import io
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FOLDER = "cifar-10-batches-py"
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def random_images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise: images uint8 (count, 32, 32, 3) and labels int64 (count,) from 0 to 9."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 32, 32, 3), np.uint8), random.integers(0, 10, count)


def write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write an archive of images uint8 (6 N, 32, 32, 3) and labels (6 N,), a sixth in each batch.

    The same images give the same bytes, so the archive has a digest.
    """
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for name, content in members(images, labels):
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def members(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """The files of the archive: their names and contents."""
    yield "batches.meta", _pickle({b"label_names": [name.encode() for name in _CLASSES]})
    for name, part, labels_of_part in zip(BATCHES, np.split(images, 6), np.split(labels, 6), strict=True):
        yield (
            name,
            _pickle(
                {
                    b"batch_label": name.encode(),
                    b"labels": labels_of_part.tolist(),
                    b"data": part.transpose(0, 3, 1, 2).reshape(len(part), 3072),
                    b"filenames": [b"image.png"] * len(part),
                }
            ),
        )


def _pickle(value: object) -> bytes:
    """What Python 2 and the NumPy of 2009 would have written; Python 3 writes bytes and arrays otherwise."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: object) -> bytes:
    if isinstance(value, dict):
        return b"}(" + b"".join(_opcodes(key) + _opcodes(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_opcodes, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, np.ndarray):
        shape = b"".join(map(_opcodes, value.shape))
        dtype = b"cnumpy\ndtype\n" + _opcodes(b"u1") + b"K\x00K\x01\x87R(K\x03" + _opcodes(b"|") + b"NNN"
        dtype += _opcodes(-1) * 2 + b"K\x00tb"
        empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _opcodes(b"b") + b"\x87R"
        return empty + b"(K\x01(" + shape + b"t" + dtype + b"\x89" + _opcodes(value.tobytes()) + b"tb"
    raise TypeError(f"nothing in CIFAR-10 is a {type(value).__name__}")
