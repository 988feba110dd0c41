"""uv, which installs the packages, at the version that the image uses."""

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from workspace.base import network, places
from workspace.base.cli import UserError
from workspace.host import causes, progress

_LOCK = places.REPOSITORY / "docker" / "uv.txt"
_ITSELF = {"pip", "setuptools", "uv", "wheel"}


class InstallationError(UserError):
    """Packages could not be installed; of what `kind` the cause is, where it is known."""

    def __init__(self, said: str, log: Path) -> None:
        super().__init__(f"the packages could not be installed: {causes.explain(said)} (everything it said: {log})")
        self.kind = causes.kind(said)


class Installer:
    """Installs into the environment of one Python, which gets uv first. Raises InstallationError where that fails."""

    def __init__(self, python: Path) -> None:
        self._python = python
        self.uv = python.with_name("uv")
        version = _LOCK.read_text().split(maxsplit=1)[0].removeprefix("uv==")
        asked = [self.uv, "--version"]
        told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout if self.uv.exists() else ""
        if version not in told.split():
            pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--require-hashes"]
            _run(*pip, "--requirement", _LOCK)

    def install(self, requirements: Path, *options: str) -> None:
        """Install what the file names. Raises InstallationError."""
        # --no-deps: the locks are complete, and leave out on purpose what docker/overrides.txt names.
        _run(self.uv, "pip", "install", "--python", self._python, "--no-deps", *options, "--requirement", requirements)

    def remove(self, names: Iterable[str]) -> None:
        """Remove packages, but for those that install others. Raises InstallationError."""
        if superfluous := set(names) - _ITSELF:
            _run(self.uv, "pip", "uninstall", "--python", self._python, *sorted(superfluous))

    def installed(self) -> set[str]:
        """The names of all packages that are there."""
        command = [self.uv, "pip", "list", "--python", self._python, "--format", "json"]
        listed = subprocess.run(command, capture_output=True, check=True)
        return {package["name"] for package in json.loads(listed.stdout)}


def _run(*command: str | Path) -> None:
    """Run it with a line that shows how far it is. Raises InstallationError."""
    # Compiled once, here: not by each command's first start, nor by every one where nothing may be written beside it.
    environment = os.environ | network.environment() | {"UV_HTTP_TIMEOUT": "180", "UV_COMPILE_BYTECODE": "1"}
    log = places.NATIVE / "install.log"
    if not progress.run(list(command), environment, log, "Installing", str.strip):
        raise InstallationError(log.read_text(), log)
