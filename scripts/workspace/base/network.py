"""The way to the network that the user set, in the variables that pip, uv, requests and the notebooks read."""

import os

from workspace.base import places, settings

_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "CIFAR10_MIRRORS")
_AUTHORITIES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT")


def environment() -> dict[str, str]:
    """Variables for programs that download; empty where nothing is set.

    WORKSPACE_CA_BUNDLE is what to trust behind a proxy that inspects TLS. An empty file, or /dev/null, stands for none.
    """
    found = {name: value for name in _VARIABLES if (value := settings.get(name))}
    bundle = places.REPOSITORY / (settings.get("WORKSPACE_CA_BUNDLE") or os.devnull)
    if bundle.is_file() and bundle.stat().st_size:
        found |= dict.fromkeys(_AUTHORITIES, str(bundle))
    return found
