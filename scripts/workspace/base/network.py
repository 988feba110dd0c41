"""The way to the network that the user set, in the variables that pip, uv, requests and the notebooks read."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from workspace.base import cli, places, settings
from workspace.base.cli import UserError

if TYPE_CHECKING:
    from urllib.request import OpenerDirector

_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "CIFAR10_MIRRORS")
_AUTHORITIES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT")


def environment() -> dict[str, str]:
    """Variables for programs that download; empty where nothing is set. Raises UserError as `authorities` does."""
    found = {name: value for name in _VARIABLES if (value := settings.get(name))}
    bundle = authorities()
    return found | (dict.fromkeys(_AUTHORITIES, str(bundle)) if bundle else {})


def directly() -> "OpenerDirector":
    """A way past HTTP_PROXY, which would answer for itself, or not at all, where this machine or its cloud is asked."""
    import urllib.request  # which most commands do without

    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def authorities() -> Path | None:
    """What to trust where a proxy inspects TLS: WORKSPACE_CA_BUNDLE, else the bundle that the machine itself names.

    An empty file, or /dev/null, stands for none. Raises UserError where the setting names a file that is not there.
    """
    if named := settings.get("WORKSPACE_CA_BUNDLE"):
        bundle = places.REPOSITORY / Path(named).expanduser()
        if not bundle.exists() and not places.IN_IMAGE:
            raise UserError(f"WORKSPACE_CA_BUNDLE names {bundle}, which is not there", cli.BAD_INPUT)
        return bundle if _has_content(bundle) else None
    machines = (Path(os.environ.get(name) or os.devnull) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"))
    # The container's user must be able to read it, too.
    return next((file for file in machines if _has_content(file) and file.stat().st_mode & 0o004), None)


def _has_content(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0
