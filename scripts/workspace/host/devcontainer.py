"""What a dev container has of this machine: .devcontainer/host.yml, written on the machine before it starts."""

import argparse
import json
import os
from typing import Any

from workspace.base import cli, places, settings
from workspace.base.files import replacing
from workspace.base.verdicts import State
from workspace.host import gpu

_FILE = places.REPOSITORY / ".devcontainer" / "host.yml"

_NOTHING = "!reset null"
"""What Compose takes for a section that is not there: where an image is named, nothing is built."""


def overlay() -> dict[str, Any]:
    """What is laid over docker-compose.yml: the GPU's overlay where the engine hands one over, else nothing of it.

    Where the work is in a folder of this machine's, the container's user is this one, unless it was said otherwise.
    """
    service: dict[str, Any] = {}
    if gpu.hand_over().state is State.WELL:
        service["extends"] = {"file": str(places.REPOSITORY / "docker-compose.gpu.yml"), "service": "workspace"}
    if settings.get("WORKSPACE_IMAGE"):
        service["build"] = _NOTHING
    elif settings.get("WORKSPACE_DIR") and os.getuid() and not settings.get("WORKSPACE_UID"):
        uid = str(os.getuid())
        service |= {"user": f"{uid}:{uid}", "build": {"args": {"WORKSPACE_UID": uid}}}
    return {"services": {"workspace": service}}


def main(options: argparse.Namespace) -> None:
    """Write it, and say for which device it is."""
    del options
    wanted = overlay()
    with replacing(_FILE) as new:
        new.write_text(json.dumps(wanted, indent=1).replace(json.dumps(_NOTHING), _NOTHING) + "\n")
    cli.say(f"workspace: with {'the GPU' if 'extends' in wanted['services']['workspace'] else 'the CPU'}")


if __name__ == "__main__":
    cli.run(__doc__, main)
