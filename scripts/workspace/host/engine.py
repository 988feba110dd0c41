"""The machine's Docker engine: whether it can be used, and what it has."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from workspace.base import programs, settings, verdicts
from workspace.base.cli import UserError
from workspace.base.verdicts import Verdict
from workspace.host.causes import Cause

_OLDEST = 25
_OLDEST_COMPOSE = (2, 24)
_ANSWERS_WITHIN_S = 20
_ELSEWHERE = {cause.kind for cause in (Cause.ENGINE_SILENT, Cause.ENGINE_UNREACHABLE, Cause.NO_DOCKER)}

_MACHINES_OWN = 512 << 20


class UnreachableError(UserError):
    """No engine answers, by what the message says."""


def is_installed() -> bool:
    """Whether there is a command `docker`, which may belong to an engine that does not answer now."""
    return shutil.which("docker") is not None


def look() -> Verdict:
    """Whether an engine answers, may be used and is new enough."""
    if not is_installed():
        return Cause.NO_DOCKER.broken()
    try:
        asked = _run("version", "--format", "{{.Server.Version}}", timeout=_ANSWERS_WITHIN_S)
    except subprocess.TimeoutExpired:
        return Cause.ENGINE_SILENT.broken(seconds=_ANSWERS_WITHIN_S)
    if "permission denied" in asked.stderr:
        return Cause.ENGINE_PERMISSION.broken()
    if asked.returncode:
        said = programs.last_words(asked.stderr or asked.stdout)
        return Cause.ENGINE_UNREACHABLE.broken(said=said, start_it=_how_to_start_it())
    version = ".".join(re.findall(r"\d+", asked.stdout)[:3])
    if version and int(version.split(".")[0]) < _OLDEST:
        if "podman" in _run("--version").stdout:
            return Cause.PODMAN.broken()
        return Cause.ENGINE_OLD.broken(have=f", and this is {version}")
    if "snap" in Path(shutil.which("docker") or "").parts:
        text = "this Docker is the snap's: it hands over no GPU and sees no folder outside of your home"
        return verdicts.warning("engine-snap", text, docker=version)
    return verdicts.well(f"Docker {version}", docker=version)


def look_at_compose() -> Verdict:
    """Whether Docker Compose is there and new enough."""
    asked = _run("compose", "version", "--short")
    numbers = re.findall(r"\d+", asked.stdout)[:3]
    if asked.returncode or tuple(map(int, numbers[:2])) < _OLDEST_COMPOSE:
        have = f"is {asked.stdout.strip()}" if not asked.returncode else "is missing"
        return Cause.COMPOSE.broken(have=have, wanted=".".join(map(str, _OLDEST_COMPOSE)))
    return verdicts.well(f"Docker Compose {'.'.join(numbers)}", compose=".".join(numbers))


def require() -> None:
    """Make sure that an engine answers.

    Raises UnreachableError where none does, and UserError where one cannot be used as things are.
    """
    found = look()
    if is_unreachable(found):
        raise UnreachableError(found.text)
    found.require()
    look_at_compose().require()


def is_unreachable(verdict: Verdict) -> bool:
    """Whether no engine answers, by this verdict: the workspace can still be served natively."""
    return verdict.kind in _ELSEWHERE


@functools.cache
def info() -> dict[str, Any]:
    """What the engine says of itself; empty where it says nothing."""
    told = _run("info", "--format", "{{json .}}").stdout
    return json.loads(told) if told.startswith("{") else {}


def _how_to_start_it() -> str:
    if os.environ.get("DOCKER_HOST"):
        return "DOCKER_HOST says where it is looked for: unset it for this machine's own"
    context = _run("context", "show").stdout.strip()
    if context not in ("", "default"):
        return f"the context {context} says where it is looked for: `docker context use default` for this machine's own"
    return "start it: " + ("Docker Desktop" if sys.platform == "darwin" else "sudo systemctl start docker")


def memory_limit() -> dict[str, str]:
    """The setting that leaves the machine some memory of its own, unless the user set one.

    Where a limit is met a kernel dies and the lab says why; where there is none the machine hangs.
    """
    total = info().get("MemTotal")
    if settings.get("WORKSPACE_MEM") or not total:
        return {}
    return {"WORKSPACE_MEM": str(total - max(total // 10, _MACHINES_OWN))}


def has_image(name: str) -> bool:
    """Whether the engine has an image of this name."""
    return _run("image", "inspect", name).returncode == 0


def image_configuration(name: str) -> dict[str, Any]:
    """What an image that is there says of itself: User, Labels, Env ..."""
    return json.loads(_run("image", "inspect", "--format", "{{json .Config}}", name).stdout)


def read_in_image(name: str, path: str) -> str:
    """A file of an image, as text; empty where it has none."""
    return _run("run", "--rm", "--network=none", "--entrypoint=cat", name, path).stdout


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


def _run(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    return programs.ask("docker", *arguments, timeout=timeout)
