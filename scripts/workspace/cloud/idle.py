"""Deallocates this VM in Azure when nothing has worked on it for long: what a timer runs every five minutes.

A VM that shuts itself down goes on costing; it must ask Azure. The identity for that may do nothing else, and
containers do not reach it (workspace.cloud.machine).
"""

import json
import os
import sys
import time
import urllib.request
from pathlib import Path

from workspace.base import cli, network
from workspace.base.cli import UserError
from workspace.host.compose import Workspace

_METADATA = "http://169.254.169.254/metadata"
_AZURE = "https://management.azure.com"
_LAST_ACTIVE = Path("/run/pytorch-workspace-active")
"""Its time is that of the last activity, for when no lab answers that could tell."""


def main(minutes: int) -> None:
    """Deallocate if nothing has worked for `minutes`. Raises UserError where Azure refuses."""
    idle_s = _idle_s()
    cli.say(f"idle for {idle_s / 60:.0f} min")
    if idle_s >= minutes * 60:
        _deallocate()


def _idle_s() -> float:
    """Seconds since anything worked; a lab that was stopped works as little as one that waits."""
    now = time.time()
    idle_s = Workspace().idle_s()
    if idle_s is not None:
        _LAST_ACTIVE.touch()
        os.utime(_LAST_ACTIVE, (now - idle_s, now - idle_s))
    elif not _LAST_ACTIVE.exists():  # since the boot: /run is empty then
        _LAST_ACTIVE.touch()
    return max(0, now - _LAST_ACTIVE.stat().st_mtime)


def _deallocate() -> None:
    try:
        vm = _ask(f"{_METADATA}/instance/compute/resourceId?api-version=2021-02-01&format=text", {"Metadata": "true"})
        lent = f"{_METADATA}/identity/oauth2/token?api-version=2018-02-01&resource={_AZURE}/"
        token = json.loads(_ask(lent, {"Metadata": "true"}))["access_token"]
        address = f"{_AZURE}{vm}/deallocate?api-version=2024-07-01"
        _ask(address, {"Authorization": f"Bearer {token}", "Content-Length": "0"}, "POST")
    except OSError as error:
        raise UserError(f"Azure does not deallocate this VM: {error}; scripts/azure stop does") from error
    cli.say("deallocated by Azure")


def _ask(address: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(address, headers=headers, method=method)  # noqa: S310
    opener = network.directly() if address.startswith(_METADATA) else urllib.request.build_opener()
    with opener.open(request, timeout=30) as answer:
        return answer.read().decode()


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except UserError as refusal:
        sys.exit(str(refusal))
