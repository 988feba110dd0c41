"""How fast CIFAR-10 is there at the second start, and what memory it takes: our loader beside torchvision's.

torchvision reads and hashes every file at each start. Ours was verified when it was fetched, and is mapped, not read:
so it is measured as it comes, and with every byte verified again.
"""

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
from workspace.bench.measuring import Table, number_option

# Each imports what a lesson needs anyway, prints its seconds without that, and keeps the images until told to end.
_START = """
import json, pathlib, sys, time, torchvision
from lesson import cifar10
folder, archive = pathlib.Path(sys.argv[1]), cifar10.Archive(sys.argv[2], int(sys.argv[3]))
start = time.perf_counter()
"""
_OURS = """
train, _, test, _ = cifar10.load(folder, archive=archive, mirrors=[])
"""
_VERIFIED = """
assert not cifar10.verify(folder, archive=archive)
"""
_TORCHVISION = """
train, test = CIFAR10(folder, train=True).data, CIFAR10(folder, train=False).data
"""
# It insists on the digests of the real files, so it is told those of the archive at hand.
_ITS_DIGESTS = """
import hashlib
def md5(name):
    return hashlib.md5((folder / "cifar-10-batches-py" / name).read_bytes(), usedforsecurity=False).hexdigest()
class CIFAR10(torchvision.datasets.CIFAR10):
    train_list = [[name, md5(name)] for name, _ in torchvision.datasets.CIFAR10.train_list]
    test_list = [[name, md5(name)] for name, _ in torchvision.datasets.CIFAR10.test_list]
    meta = torchvision.datasets.CIFAR10.meta | {"md5": md5("batches.meta")}
start = time.perf_counter()
"""
_READ = """
ready = time.perf_counter() - start
assert len(train) + len(test) == 60_000
pixels = int(train.sum()) + int(test.sum())
seconds = ready, time.perf_counter() - start
"""
_END = """
print(json.dumps(seconds), flush=True)
sys.stdin.read()
"""
_NOTHING = "no images"
_LOADERS = {
    _NOTHING: "seconds = 0, 0",
    "this workspace": _OURS + _READ,
    "this workspace, every byte verified": _VERIFIED + _OURS + _READ,
    "torchvision, which verifies at each start": _ITS_DIGESTS + _TORCHVISION + _READ,
}
_FETCH = """
cifar10.fetch(folder, archive=archive, mirrors=[sys.argv[4]])
print(f"First start, from a file: {time.perf_counter() - start:.1f} s to copy, verify and unpack.")
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options of `bench data`."""
    parser.add_argument("--archive", metavar="FILE", type=Path, help="cifar-10-python.tar.gz (default: made of noise)")
    number_option(parser, "--rounds", "starts of each loader, by turns", 5)
    number_option(parser, "--processes", "processes that read at once", 10, least=2)


def main(options: argparse.Namespace) -> None:
    """Print the table."""
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
    subprocess.run([sys.executable, "-c", _START + _FETCH, *arguments, archive.resolve().as_uri()], check=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")

    seconds: dict[str, list[list[float]]] = {name: [] for name in _LOADERS}
    for _ in range(rounds):
        for name in _LOADERS:
            seconds[name].append(_run_together(name, arguments, 1)[0])
    alone, together = (
        {name: _run_together(name, arguments, count)[1] for name in _LOADERS} for count in (1, processes)
    )
    table = Table(
        "", "ready after, s", "every pixel read after, s", "memory, MB", f"memory of {processes} processes, MB"
    )
    for name in _LOADERS:
        if name != _NOTHING:
            spreads = (_spread(times) for times in zip(*seconds[name], strict=True))
            table.add(name, *spreads, *(f"{memory[name] - memory[_NOTHING]:.0f}" for memory in (alone, together)))
    table.show()
    cli.say(
        f"\nMedians (least to most) of {rounds} starts, by turns. Memory is what processes without images do not have,"
    )
    cli.say("pages that several share counted once (PSS).")


def _run_together(name: str, arguments: Sequence[str], count: int) -> tuple[list[float], float]:
    """Run a loader in so many processes at once; return one's seconds and the memory of all, in MB."""
    import psutil

    command = [sys.executable, "-c", _START + _LOADERS[name] + _END, *arguments]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
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


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
