"""Put the delivered notebooks into the user's folder: what is missing is added, what was edited is never touched."""

import hashlib
import json
import shutil
from pathlib import Path

from workspace.base import places
from workspace.base.files import replacing


def seed() -> list[str]:
    """Bring the work folder up to date with the delivered files and return a line for each that was left as it is.

    A file is replaced only if it still is, byte for byte, what an earlier start put there; what that was is remembered
    in the state folder. So a new release reaches everybody who did not edit the lesson, and nobody loses an edit.
    """
    record = places.state() / "seeded.json"
    seeded: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    kept = []
    for pristine in _delivered():
        copy = places.work() / pristine.name
        digest = _digest(pristine)
        if copy.exists() and _digest(copy) not in (digest, seeded.get(pristine.name)):
            if digest != seeded.get(pristine.name):
                kept.append(f"{copy.name} was edited and is left as it is; a newer one has come with this release")
            continue
        if not copy.exists() or _digest(copy) != digest:
            _copy(pristine, copy)
        seeded[pristine.name] = digest
    if left := _left_over(seeded):
        kept.append(
            f"{', '.join(left)} came with an older release, and the notebooks of this one do without: delete what no "
            "notebook of yours imports"
        )
    with replacing(record) as new:
        new.write_text(json.dumps(seeded, indent=1))
    return kept


def _left_over(seeded: dict[str, str]) -> list[str]:
    """Take from `seeded` what is delivered no more, and return those that still lie in the work folder."""
    gone = seeded.keys() - {pristine.name for pristine in _delivered()}
    return sorted(name for name in gone if seeded.pop(name) and (places.work() / name).exists())


def put_back() -> list[Path]:
    """Put the delivered lesson beside the user's own and return what was written; nothing is overwritten."""
    written = []
    for pristine in _delivered():
        copy = places.work() / pristine.name
        if copy.exists() and _digest(copy) == _digest(pristine):
            continue
        number = 0
        while copy.exists():
            number += 1
            copy = places.work() / f"{pristine.stem}.original{number if number > 1 else ''}{pristine.suffix}"
        _copy(pristine, copy)
        written.append(copy)
    return written


def _delivered() -> list[Path]:
    return sorted(path for path in places.DELIVERED.iterdir() if path.suffix in {".ipynb", ".py"})


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _copy(pristine: Path, copy: Path) -> None:
    with replacing(copy) as new:
        shutil.copyfile(pristine, new)


if __name__ == "__main__":
    for path in put_back():
        print(path.name)
