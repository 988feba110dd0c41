"""What the image weighs: its layers, and the packages in it; without Docker, the packages of `.venv`.

The packages' own tests do not count: the image leaves them out. Exit code 1 where what sweeps alone need is larger
than its bound.
"""

import argparse
import json
import re
import sys

from workspace.base import places
from workspace.bench.measuring import Table, number_option, output
from workspace.host import compose, engine

_SWEEPS = "distributed"
_SWEEPS_MB = 20
_LIST = """
import importlib.metadata as metadata, importlib.util as util, json, re
def on_disk(file):
    place = file.locate()
    both = [place, util.cache_from_source(place)] if place.suffix == ".py" else [place]
    return sum(path.stat().st_size for path in map(type(place), both) if path.is_file())
def name_of(text):
    return re.sub("[-_.]+", "-", re.match("[A-Za-z0-9._-]+", text)[0]).lower()
told = {}
for package in metadata.distributions():
    needed = [name_of(line) for line in package.requires or () if "extra ==" not in line]
    files = [file for file in package.files or () if "tests" not in file.parts]
    told[name_of(package.metadata["Name"])] = sum(map(on_disk, files)), needed
print(json.dumps(told))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    number_option(parser, "--most", "packages named one by one", 12)
    parser.add_argument("--native", action="store_true", help="without Docker, also where an engine answers")


def main(options: argparse.Namespace) -> int:
    """Print the tables; 1 where the bound is missed."""
    image = None
    if not options.native:
        try:
            engine.require()
            image = compose.Workspace().image()
        except engine.UnreachableError:
            pass
    if image:
        _layers(image).show()
    packages = _packages(image)
    table = Table("packages", "MB", "bound")
    largest = sorted(packages, key=lambda name: -packages[name][0])
    for name in largest[: options.most]:
        table.add(name, f"{packages[name][0] / 1e6:.1f}")
    rest = largest[options.most :]
    table.add(f"{len(rest)} others", f"{sum(packages[name][0] for name in rest) / 1e6:.1f}")
    added = _needed(packages, _wanted()) - _needed(packages, _wanted() - {_SWEEPS})
    megabytes = sum(packages[name][0] for name in added) / 1e6
    table.add(
        "of all these, for sweeps alone",
        f"{megabytes:.1f}",
        bound=f"at most {_SWEEPS_MB}",
        kept=megabytes <= _SWEEPS_MB,
    )
    table.show()
    return int(table.missed)


def _layers(image: str) -> Table:
    told = output("docker", "history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", image)
    table = Table(f"layers of {image}", "MB")
    for line in reversed(told.splitlines()):
        size, _, made_by = line.partition("\t")
        if int(size) >= 100_000:
            words = re.sub(
                r"\|\d+ .*?(?=/bin/sh -c)|/bin/sh -c|--mount=\S+|# buildkit|export [^&]*&&|if .*? fi +&&", "", made_by
            )
            table.add(" ".join(words.split())[:70].replace("|", "/") or "the base image", f"{int(size) / 1e6:.1f}")
    return table


def _packages(image: str | None) -> dict[str, tuple[int, list[str]]]:
    """The packages by name: bytes on the disk, compiled files included, and what each needs."""
    command = ["docker", "run", "--rm", image, "python"] if image else [sys.executable]
    return json.loads(output(*command, "-c", _LIST))


def _wanted() -> set[str]:
    """What the workspace asks for itself."""
    lines = [line for file in ("requirements.in", "torch.in") for line in (places.REPOSITORY / "docker" / file).open()]
    return {found[0] for line in lines if (found := re.match(r"[a-z0-9-]+", line))}


def _needed(packages: dict[str, tuple[int, list[str]]], wanted: set[str]) -> set[str]:
    """Those of the packages that are `wanted`, or needed by one that is."""
    found: set[str] = set()
    waiting = wanted & packages.keys()
    while waiting:
        found |= waiting
        waiting = {need for name in waiting for need in packages[name][1]} & packages.keys() - found
    return found
