"""How fast CIFAR-10 is there at the second start, and what memory it takes: our loader beside torchvision's."""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from workspace.base import cli
from workspace.base.cli import UserError

# Each imports what a lesson needs anyway, prints its seconds without that, and keeps the images until told to end.
_START = """
import json, sys, time, torchvision
from lesson import cifar10
folder, sha256, size = sys.argv[1:]
"""
_END = """
print(json.dumps(seconds), flush=True)
sys.stdin.read()
"""
_OURS = """
import pathlib
archive = cifar10.Archive(sha256, int(size))
start = time.perf_counter()
train, _, test, _ = cifar10.load(pathlib.Path(folder), archive=archive, mirrors=[])
seconds = {"ready": time.perf_counter() - start}
assert len(train) + len(test) == 60_000
pixels = int(train.sum()) + int(test.sum())
seconds["every pixel read"] = time.perf_counter() - start
"""
_TORCHVISION = """
import hashlib, pathlib
def md5(name):
    return hashlib.md5((pathlib.Path(folder) / "cifar-10-batches-py" / name).read_bytes(), usedforsecurity=False)
class CIFAR10(torchvision.datasets.CIFAR10):  # it insists on the digests of the real files
    train_list = [[name, md5(name).hexdigest()] for name, _ in torchvision.datasets.CIFAR10.train_list]
    test_list = [[name, md5(name).hexdigest()] for name, _ in torchvision.datasets.CIFAR10.test_list]
    meta = torchvision.datasets.CIFAR10.meta | {"md5": md5("batches.meta").hexdigest()}
start = time.perf_counter()
train, test = CIFAR10(folder, train=True).data, CIFAR10(folder, train=False).data
seconds = {"ready": time.perf_counter() - start}
assert len(train) + len(test) == 60_000
pixels = int(train.sum()) + int(test.sum())
seconds["every pixel read"] = time.perf_counter() - start
"""
_LOADERS = {"this workspace": _OURS, "torchvision": _TORCHVISION}
_NONE = "seconds = {}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options of `bench data`."""
    parser.add_argument("--archive", metavar="FILE", type=Path, help="cifar-10-python.tar.gz (default: made of noise)")
    parser.add_argument(
        "--rounds", metavar="N", type=int, default=5, help="starts of each loader, by turns (default 5)"
    )
    parser.add_argument(
        "--processes", metavar="N", type=int, default=10, help="processes that read at once (default 10)"
    )


def main(options: argparse.Namespace) -> None:
    """Print the table."""
    if options.rounds < 1 or options.processes < 2:
        raise UserError("--rounds must be at least 1 and --processes at least 2", cli.BAD_INPUT)
    if options.archive and not options.archive.is_file():
        raise UserError(f"there is no file {options.archive}", cli.BAD_INPUT)
    with tempfile.TemporaryDirectory(prefix="bench-data-") as folder:
        _compare(Path(folder), options.archive, options.rounds, options.processes)


def _compare(folder: Path, archive: Path | None, rounds: int, processes: int) -> None:
    from workspace.bench import cifar10_format

    if archive is None:
        archive = folder / "noise.tar.gz"
        cli.say("Making an archive of 60,000 images of noise ...")
        cifar10_format.write(archive, *cifar10_format.random_images(60_000))
    with archive.open("rb") as file:
        arguments = [str(folder), hashlib.file_digest(file, "sha256").hexdigest(), str(archive.stat().st_size)]

    first = """
import pathlib, sys, time
from lesson import cifar10
folder, sha256, size, archive = sys.argv[1:]
start = time.perf_counter()
archive_is = cifar10.Archive(sha256, int(size))
cifar10.fetch(pathlib.Path(folder), archive=archive_is, mirrors=[pathlib.Path(archive).resolve().as_uri()])
print(f"First start, from a file: {time.perf_counter() - start:.1f} s to copy, verify and unpack.")
"""
    subprocess.run(_command(first, [*arguments, str(archive)]), check=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")

    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in _LOADERS}
    for _ in range(rounds):
        for name, code in _LOADERS.items():
            seconds[name].append(_run_together(code, arguments, 1)[0])
    cli.say(f"\nSecond start, seconds, median (least to most) of {rounds}, by turns:")
    for name, measured in seconds.items():
        cells = (f"{what} {_spread([times[what] for times in measured])}" for what in measured[0])
        cli.say(f"  {name:<15} {'   '.join(cells)}")

    cli.say("\nMemory, all processes together, shared pages counted once (PSS):")
    for name, code in {"no images": _NONE, **_LOADERS}.items():
        one, many = (_run_together(code, arguments, count)[1] for count in (1, processes))
        each = (many - one) / (processes - 1)
        cli.say(f"  {name:<15} 1: {one:5.0f} MB   {processes}: {many:6.0f} MB   each further one: {each:4.0f} MB")


def _run_together(code: str, arguments: Sequence[str], count: int) -> tuple[dict[str, float], float]:
    """Run a loader in so many processes at once; return one's seconds and the memory of all, in MB."""
    import psutil

    running = [
        subprocess.Popen(
            _command(_START + code + _END, arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        lines = [process.stdout.readline() for process in running if process.stdout]
        if not all(lines):
            raise UserError("a loader failed; the lines above say why")
        memory = sum(psutil.Process(process.pid).memory_full_info().pss for process in running)
    finally:
        for process in running:
            process.communicate()
    return json.loads(lines[0]), memory / 1e6


def _command(code: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
