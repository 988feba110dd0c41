"""The machine's Docker engine: whether it can be used, and what it has."""

import re
import shutil
import subprocess

from workspace.base import settings
from workspace.base.cli import UserError
from workspace.host import causes

_OLDEST_COMPOSE = (2, 24)

_MACHINES_OWN = 512 << 20


class UnreachableError(UserError):
    """No engine answers, by what the message says."""


def is_installed() -> bool:
    """Whether there is a command `docker`, which may belong to an engine that does not answer now."""
    return shutil.which("docker") is not None


def require() -> None:
    """Make sure that an engine answers.

    Raises UnreachableError where none does, and UserError where one cannot be used as things are.
    """
    if not is_installed():
        raise UnreachableError("the Docker engine cannot be reached: there is no command `docker` on the PATH")
    asked = _run("version", "--format", "{{.Server.Version}}")
    if "permission denied" in asked.stderr:
        raise UserError(
            "there is a Docker engine and you may not use it: `sudo usermod -aG docker $USER`, then log in again; "
            "or go without it: scripts/start --native"
        )
    if asked.returncode:
        said = (asked.stderr.strip() or asked.stdout.strip() or "it gives no reason").splitlines()[-1]
        raise UnreachableError(f"the Docker engine cannot be reached: {said}")
    version = _run("compose", "version", "--short")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version.stdout)[:2])
    if version.returncode or numbers < _OLDEST_COMPOSE:
        have = f"is {version.stdout.strip()}" if not version.returncode else "is missing"
        wanted = ".".join(map(str, _OLDEST_COMPOSE))
        raise UserError(
            f"Docker Compose {have} and {wanted} or newer is needed: install docker-compose-v2 "
            "(Ubuntu), docker-compose (Debian) or docker-compose-plugin (Docker's packages); "
            "or go without Docker: scripts/start --native"
        )


def require_gpu() -> None:
    """Ask the engine for the GPUs before anything large is downloaded. Raises UserError with the cause."""
    empty = subprocess.run(["docker", "import", "-"], input=b"\0" * 10240, capture_output=True, check=False)
    image = empty.stdout.decode().strip()
    # There is nothing to run in an empty image; only a failure to hand over the GPU comes before that is noticed.
    gpus = settings.get("WORKSPACE_GPUS") or "all"
    tried = _run("run", "--rm", f'--gpus="device={gpus}"', image, "nothing")
    _run("image", "rm", "--force", image)
    if causes.kind(tried.stderr) is causes.Kind.GPU:
        raise UserError(causes.explain(tried.stderr))


def memory_limit() -> dict[str, str]:
    """The setting that leaves the machine some memory of its own, unless the user set one.

    Where a limit is met a kernel dies and the lab says why; where there is none the machine hangs.
    """
    total = _run("info", "--format", "{{.MemTotal}}").stdout.strip()
    if settings.get("WORKSPACE_MEM") or not total.isdigit():
        return {}
    return {"WORKSPACE_MEM": str(int(total) - max(int(total) // 10, _MACHINES_OWN))}


def has_image(name: str) -> bool:
    """Whether the engine has an image of this name."""
    return _run("image", "inspect", name).returncode == 0


def workspaces() -> dict[str, str]:
    """The workspaces that the engine has, by their projects' names: `running`, or `stopped` and kept in volumes."""
    kept = _projects("volume", "label=com.docker.compose.volume=state")
    kept &= _projects("volume", "label=com.docker.compose.volume=data")
    running = _projects("container", "label=com.docker.compose.service=workspace")
    return {name: "running" if name in running else "stopped" for name in sorted(kept)}


def _projects(what: str, like: str) -> set[str]:
    """The compose projects that have a volume, or a running container, with this label."""
    listed = _run(what, "ls", "--filter", like, "--format", '{{.Label "com.docker.compose.project"}}')
    return set(listed.stdout.split())


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
