"""Where things are, and what the user set: the same names in the container, where the image sets them, and natively."""

import functools
import hashlib
import os
import re
import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
"""The checkout; in the image /opt/workspace, which mirrors it."""

IN_IMAGE = Path("/opt/workspace") == REPOSITORY

DELIVERED = REPOSITORY / "notebooks"
"""The notebooks as they came, which nobody edits; each workspace has copies."""

LESSON = "first_pytorch_classifier.ipynb"

KERNELS = REPOSITORY / "docker"
"""What Jupyter is told (JUPYTER_PATH) so that kernels run in an environment of the user's own."""

NATIVE = REPOSITORY / ".workspace"
"""What the workspace keeps on a machine without Docker, beside the work itself."""


def command(name: str) -> str:
    """How a command of the workspace is called from here: by its name alone in the lab, whose PATH has it."""
    script = REPOSITORY / "scripts" / name
    found = shutil.which(name)
    return name if found and Path(found).resolve() == script else f"scripts/{name}"


def image_stamp() -> str | None:
    """What tells this image from others, such as cpu-1f0c8a2b9d3e; None outside of one."""
    stamp = REPOSITORY / "image-stamp"
    return stamp.read_text().strip() if stamp.exists() else None


def given(name: str) -> str | None:
    """What the user set: in the environment, else in `.env`, which Compose reads by the same rule; None if nowhere."""
    return os.environ.get(name, _dotenv().get(name))


def setting(name: str) -> str | None:
    """The same where to be empty is as good as not to be set."""
    return given(name) or None


@functools.cache
def _dotenv() -> dict[str, str]:
    file = REPOSITORY / ".env"
    lines = file.read_text().splitlines() if file.exists() else []
    found = (re.match(r"\s*(\w+)=(?:\"(.*)\"|'(.*)'|(.*?))(?:\s+#.*)?$", line) for line in lines)
    return {match[1]: (match[2] or match[3] or match[4] or "").strip() for match in found if match}


def _place(variable: str, default: str | Path) -> Path:
    return Path(setting(variable) or default).expanduser().absolute()


def work() -> Path:
    """The server's root: the user's notebooks, runs and settings."""
    return _place("WORKSPACE_WORK", setting("WORKSPACE_DIR") or REPOSITORY / "work")


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
