"""The way into the Python that has the workspace's packages, which every command and every kernel goes."""

import os
import sys
from pathlib import Path

from workspace.base import network, places


def enter() -> None:
    """Go on in the Python that has the workspace's packages: this one, or restart this command there.

    In a terminal of the lab another stands first, with what the user installed.
    """
    # What runs from here on, notebooks included, finds the datasets where scripts/data and scripts/start keep them.
    os.environ["WORKSPACE_DATA"] = str(places.data())
    # And the packages that %pip installed in the lab.
    os.environ.setdefault("JUPYTER_PATH", str(places.KERNELS))
    os.environ.update(network.environment())
    if Path(sys.prefix) == places.VENV:
        return
    if not places.IN_IMAGE:
        from workspace.host import installer  # not on the way of those who have the packages

        installer.make()
    os.execv(places.PYTHON, [str(places.PYTHON), *sys.argv])  # noqa: S606
