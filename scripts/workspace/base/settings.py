"""What the user set: in the environment, else in the file `.env`."""

import functools
import os
import re
from pathlib import Path

from workspace.base import cli
from workspace.base.cli import UserError

FILE = Path(__file__).resolve().parents[3] / ".env"

_GONE = {
    "WORKSPACE_CADDY_IMAGE": "give the image its name: docker tag YOURS caddy:2.10-alpine",
    "WORKSPACE_HTTPS_PORT": "WORKSPACE_PORT is the port, with --tls, too",
}
"""Settings of older releases, and what to do in their place; docker-compose.yml hands them on to the log."""


def get(name: str) -> str | None:
    """The setting's value; None where it is not set, or set to nothing. Raises UserError where it cannot be read."""
    return _value(name) or None


def is_set(name: str) -> bool:
    """Whether it is set at all, if only to nothing. Raises UserError where it cannot be read."""
    return _value(name) is not None


def gone() -> list[str]:
    """A line for each setting of an older release that is set, and would do nothing now."""
    return [f"{name} is no setting any more; remove it: {instead}" for name, instead in _GONE.items() if get(name)]


def require_none_gone() -> None:
    """Raise UserError where one is set."""
    if lines := gone():
        raise UserError(lines[0], cli.BAD_INPUT)


def _value(name: str) -> str | None:
    return os.environ[name] if name in os.environ else _dotenv(name)


def _dotenv(name: str) -> str | None:
    """The setting's value in `.env`, as Compose reads it.

    Compose also knows escapes and variables. Those are not guessed at: they are refused.
    """
    number, text = _lines().get(name, (0, None))
    if text is None:
        return None
    for style in (r"'([^'\\]*)'", r'"([^"\\$]*)"', r"(?!['\"])([^$]*?)(?:\s*$|\s* #)"):
        if found := re.match(style, text):
            return found[1]
    raise UserError(
        f"{FILE}, line {number}: {name} is written as Compose alone understands it; write {name}=value, or "
        f"{name}='value' where it has a $, without backslashes",
        cli.BAD_INPUT,
    )


@functools.cache
def _lines() -> dict[str, tuple[int, str]]:
    """Each name's last line in `.env`: its number and what follows the name."""
    try:
        lines = FILE.read_text("utf-8-sig").splitlines() if FILE.exists() else []
    except UnicodeDecodeError as error:
        raise UserError(f"{FILE} is not text in UTF-8; save it as that", cli.BAD_INPUT) from error
    found = (re.match(r"\s*(?:export\s+)?(\w+)\s*[=:]\s*(.*)", line) for line in lines)
    return {match[1]: (number, match[2]) for number, match in enumerate(found, start=1) if match}
