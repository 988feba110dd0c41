"""Where things are: in the container, where the image says it, and natively."""

import hashlib
import os
import re
import shutil
from pathlib import Path

from workspace.base import settings

REPOSITORY = Path(__file__).resolve().parents[3]
"""The checkout; in the image /opt/workspace, which mirrors it."""

IN_IMAGE = Path("/opt/workspace") == REPOSITORY

VENV = Path("/opt/venv") if IN_IMAGE else REPOSITORY / ".venv"
"""The Python environment that has the workspace's packages."""

PYTHON = VENV / "bin" / "python"

PLAIN_CONTAINER = IN_IMAGE and "WORKSPACE_PORT" not in os.environ
"""Whether `docker run` made this container: docker-compose.yml, which the other commands go by, sets that variable."""

DELIVERED = REPOSITORY / "notebooks"
"""The notebooks as they came, which nobody edits; each workspace has copies."""

LESSON = "first_pytorch_classifier.ipynb"

KERNELS = REPOSITORY / "docker"
"""What Jupyter is told (JUPYTER_PATH) so that kernels run in an environment of the user's own."""

NATIVE = REPOSITORY / ".workspace"
"""What the commands keep on this machine, beside the work itself."""


def command(name: str) -> str:
    """How a command of the workspace is called from here: by its name alone in the lab, whose PATH has it."""
    script = REPOSITORY / "scripts" / name
    found = shutil.which(name)
    return name if found and Path(found).resolve() == script else f"scripts/{name}"


def image_stamp() -> str | None:
    """What tells this image from others, such as cpu-1f0c8a2b9d3e; None outside of one."""
    stamp = REPOSITORY / "image-stamp"
    return stamp.read_text().strip() if stamp.exists() else None


def version() -> str:
    """The workspace's version, such as 1.0.0: the Dockerfile has it, for the image's label."""
    [found] = re.findall(r"(?m)^ARG VERSION=(\S+)$", (REPOSITORY / "docker" / "Dockerfile").read_text())
    return found


def _place(variable: str, default: str | Path) -> Path:
    # From the checkout, wherever the command is called: as Compose does.
    return REPOSITORY / Path(settings.get(variable) or default).expanduser()


def work() -> Path:
    """The server's root: the user's notebooks, runs and settings."""
    return _place("WORKSPACE_WORK", settings.get("WORKSPACE_DIR") or REPOSITORY / "work")


def data() -> Path:
    """Datasets, shared by all runs."""
    return _place("WORKSPACE_DATA", NATIVE / "data")


def state() -> Path:
    """What the workspace remembers about itself: the generated token, what it has seeded."""
    return _place("WORKSPACE_STATE", NATIVE / "state")


def secrets() -> Path:
    """A folder in which a file `token` may be put."""
    return _place("WORKSPACE_SECRETS", REPOSITORY / "docker" / "secrets")


def runtime() -> Path:
    """What lives as long as the server does: kernels' sockets, connection files, the token in use.

    Natively a short path, since a socket's may have 107 characters at most.
    """
    checkout = hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:8]
    return _place("JUPYTER_RUNTIME_DIR", f"/tmp/pytorch-workspace-{os.getuid()}-{checkout}")  # noqa: S108
