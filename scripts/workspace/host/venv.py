"""The way into the Python that has the workspace's packages, which every command and every kernel goes."""

import os
import sys
from pathlib import Path

from workspace.base import network, places


def enter() -> None:
    """Go on in the Python that has the workspace's packages: this one, or restart this command there.

    In a terminal of the lab another stands first, with what the user installed.
    """
    os.environ.update(variables())
    if Path(sys.prefix) == places.VENV:
        return
    if not places.IN_IMAGE:
        from workspace.host import installer  # not on the way of those who have the packages

        installer.make()
    os.execv(places.PYTHON, [str(places.PYTHON), *sys.argv])  # noqa: S606


def variables() -> dict[str, str]:
    """What all that runs from there on, notebooks included, has in its environment. Raises UserError for bad settings.

    It finds the datasets where scripts/data and scripts/start keep them, and what %pip installed in the lab.
    """
    kernels = os.environ.get("JUPYTER_PATH", str(places.KERNELS))
    return {"WORKSPACE_DATA": str(places.data()), "JUPYTER_PATH": kernels} | network.environment()
