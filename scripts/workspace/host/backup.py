"""Back the workspace up into one file, and restore it from there, in Docker or natively."""

import contextlib
import os
import secrets
import sys
from pathlib import Path

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.host import locate
from workspace.lab import archive


def backup(file: Path, *, natively: bool = False) -> None:
    """Write the workspace to `file`, read it back, and say how large it is.

    Raises UserError where that fails, and then there is no file; or where something had to be left out, which it names.
    """
    if file.exists():
        raise UserError(f"{file} is there already; name another", cli.BAD_INPUT)
    part = file.with_name(f"{file.name}.{secrets.token_hex(3)}.part")
    try:
        # What notebooks print may be private.
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            if workspace := locate.in_docker(natively=natively):
                source = f"workspace {workspace.project} in Docker"
                try:
                    print(workspace.archive("write", stdout=stream), end="", file=sys.stderr)
                except UserError as error:  # Docker's client knows the file by this name alone
                    raise UserError(str(error).replace("/dev/stdout", str(file))) from error
            else:
                source = str(places.work())
                if not places.work().is_dir():
                    raise UserError(f"there is no workspace on this machine: no folder {source}")
                archive.write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        with part.open("rb") as stream:
            held = archive.verify(stream)
        if file.exists():
            raise UserError(f"{file} has been made by another backup meanwhile; name another", cli.BAD_INPUT)
        part.replace(file)
    except OSError as error:
        raise UserError(f"{error.filename or file}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    cli.say(f"{file}: {len(held.files):,} files of {source}, {file.stat().st_size / 1e6:.1f} MB, every byte verified.")
    if held.left_out:
        names = ", ".join(f"{name} ({why})" for name, why in sorted(held.left_out.items()))
        raise UserError(f"{file} has everything but what had to be left out: {names}")


def restore(file: Path, *, natively: bool = False) -> None:
    """Put the files of a backup back, and say so. Raises UserError where it is not right; then nothing was changed."""
    try:
        with file.open("rb") as stream:
            archive.verify(stream)
            stream.seek(0)
            if workspace := locate.in_docker(natively=natively, may_be_new=True):
                if not workspace.exists():
                    cli.say(f"There is no workspace {workspace.project} in Docker yet: this makes it.")
                print(workspace.archive("restore", stdin=stream, stdout=sys.stdout), end="", file=sys.stderr)
            else:
                for folder in (places.work(), places.state()):
                    folder.mkdir(parents=True, exist_ok=True)
                archive.tell(*archive.restore(stream))
    except OSError as error:
        raise UserError(f"{error.filename or file}: {error.strerror}", cli.BAD_INPUT) from error
