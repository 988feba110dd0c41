"""What the image is made of: the list of its packages, in CycloneDX, and the stamp that tells it from other images."""

import argparse
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.utils import canonicalize_name

from workspace.base import cli, places


def bill() -> dict[str, Any]:
    """Debian's and Python's packages as a CycloneDX document, the same whenever it is made. Needs Debian."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "name": "pytorch-workspace", "version": places.version()},
        },
        "components": sorted([*_debian(), *_python()], key=lambda component: component["purl"]),
    }


def stamp() -> str:
    """Which wheels, and a digest of whatever went in, such as cpu-1f0c8a2b9d3e: each run notes it.

    That is the workspace's own files, the bill among them; the digests of every file of every Python package, which
    differ where another index has another build of the same version; and the user.
    """
    records = [found.locate_file(record) for found in importlib.metadata.distributions() for record in _record(found)]
    own = [path for path in places.REPOSITORY.rglob("*") if path.is_file() and path.name != "image-stamp"]
    whole = hashlib.sha256()
    for file in sorted({*map(Path, records), *own, Path("/etc/passwd")}):
        whole.update(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file}\n".encode())
    wheels = "cpu" if "+cpu" in importlib.metadata.version("torch") else "cuda"
    return f"{wheels}-{whole.hexdigest()[:12]}"


def _record(found: importlib.metadata.Distribution) -> list[importlib.metadata.PackagePath]:
    return [file for file in found.files or () if file.match("*.dist-info/RECORD")]


def _debian() -> list[dict[str, Any]]:
    release = platform.freedesktop_os_release()
    distribution = f"{release['ID']}-{release['VERSION_ID']}"
    shown = "${Package}\t${Version}\t${Architecture}\t${source:Package}\n"
    told = subprocess.run(
        ["dpkg-query", "--show", "--showformat", shown], capture_output=True, text=True, check=True
    ).stdout
    return [
        _component(
            name,
            version,
            f"deb/{release['ID']}/{name}",
            f"?arch={architecture}&distro={distribution}&upstream={source}",
        )
        for name, version, architecture, source in map(str.split, told.splitlines())
    ]


def _python() -> list[dict[str, Any]]:
    found = []
    for package in importlib.metadata.distributions():
        component = _component(package.name, package.version, f"pypi/{canonicalize_name(package.name)}")
        if licence := package.metadata.get("License-Expression"):
            component["licenses"] = [{"expression": licence}]
        found.append(component)
    return found


def _component(name: str, version: str, kind: str, qualifiers: str = "") -> dict[str, Any]:
    purl = f"pkg:{kind}@{quote(version, safe='.~-:')}{qualifiers}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main(options: argparse.Namespace) -> None:
    """Write both while the image is built."""
    options.bill.write_text(json.dumps(bill(), indent=1) + "\n")
    options.stamp.write_text(stamp() + "\n")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bill", type=Path)
    parser.add_argument("stamp", type=Path)


if __name__ == "__main__":
    cli.run(__doc__, main, _arguments)
