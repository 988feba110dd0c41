"""Put the delivered notebooks into the user's folder: what is missing is added, what was edited is never touched."""

import contextlib
import hashlib
import json
from pathlib import Path

from workspace.base import places
from workspace.base.files import replacing


def seed() -> list[str]:
    """Bring the work folder up to date with the delivered files and return a line for each that was left as it is.

    A file is replaced only if it still holds what an earlier start put there; what that was is remembered in the state
    folder. So a new release reaches everybody who did not edit or run the lesson, and nobody loses an edit or a result.
    """
    record = places.state() / "seeded.json"
    seeded: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    kept = []
    delivered = _delivered()
    for name, content in delivered.items():
        copy = places.work() / name
        digest = _digest(content)
        there = copy.read_bytes() if copy.exists() else None
        held = None if there is None else _digest(there)
        if there is not None and not {held, hashlib.sha256(there).hexdigest()} & {digest, seeded.get(name)}:
            if digest != seeded.get(name):
                kept.append(f"{name} was edited or run and is left as it is; a newer one has come with this release")
            continue
        if held != digest:
            _write(content, copy)
        seeded[name] = digest
    if left := _left_over(seeded, delivered):
        kept.append(
            f"{', '.join(left)} came with an older release, and the notebooks of this one do without: delete what no "
            "notebook of yours imports"
        )
    with replacing(record) as new:
        new.write_text(json.dumps(seeded, indent=1))
    return kept


def _left_over(seeded: dict[str, str], delivered: dict[str, bytes]) -> list[str]:
    """Take from `seeded` what is delivered no more, and return those that still lie in the work folder."""
    gone = seeded.keys() - delivered.keys()
    return sorted(name for name in gone if seeded.pop(name) and (places.work() / name).exists())


def put_back() -> list[Path]:
    """Put the delivered lesson beside the user's own and return what was written; nothing is overwritten."""
    written = []
    for name, content in _delivered().items():
        copy = pristine = places.work() / name
        if copy.exists() and _digest(copy.read_bytes()) == _digest(content):
            continue
        number = 0
        while copy.exists():
            number += 1
            copy = pristine.with_stem(f"{pristine.stem}.original{number if number > 1 else ''}")
        _write(content, copy)
        written.append(copy)
    return written


def _delivered() -> dict[str, bytes]:
    """What is delivered, in the user's language: each file's name and content."""
    from workspace.lab import translation  # needs packages, which the machine's own Python has not

    files = sorted(path for path in places.DELIVERED.iterdir() if path.suffix in {".ipynb", ".py"})
    return {file.name: translation.content(file, translation.language()) for file in files}


def _digest(content: bytes) -> str:
    """Of a notebook's cells: the lab writes the kernel's version beside them as soon as it is opened.

    Earlier releases remembered a digest of all that is in a file.
    """
    with contextlib.suppress(ValueError, KeyError, TypeError):  # no notebook
        content = json.dumps(json.loads(content)["cells"], sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def _write(content: bytes, copy: Path) -> None:
    with replacing(copy) as new:
        new.write_bytes(content)


if __name__ == "__main__":
    for path in put_back():
        print(path.name)
