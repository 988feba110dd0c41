"""Check the folders, seed the lesson, settle the token, and become the JupyterLab server."""

import os
import socket
import sys
from pathlib import Path

from workspace.base import cli, network, places
from workspace.base.cli import UserError
from workspace.base.files import remove_unfinished
from workspace.lab import access, preflight, seed


def main(ip: str, port: int) -> None:
    """Serve the workspace on `ip`:`port`; never returns. Raises UserError where it would not be safe or usable."""
    if places.IN_IMAGE and os.getuid() == 0:
        raise UserError("in a container the lab does not run as root: leave out --user", access.REFUSED)
    for folder in (places.work(), places.data(), places.state()):
        preflight.require_writable(folder)
    _make_private(places.state())
    _make_private(places.runtime())
    remove_unfinished(places.work())
    for line in preflight.warnings() + _seed():
        cli.say(f"workspace: {line}")
    access.write(access.in_use(), access.resolve())
    os.environ.update(network.environment())
    # The server reads the token's file: kernels, which inherit the server's environment, need not know it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER_TOKEN")}
    environment.setdefault("JUPYTERLAB_SETTINGS_DIR", str(places.work() / ".jupyterlab" / "settings"))
    environment.setdefault("JUPYTERLAB_WORKSPACES_DIR", str(places.work() / ".jupyterlab" / "workspaces"))
    # A setting that cannot be read would be left out with a warning: better no server than one without it.
    environment["TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR"] = "1"
    environment.setdefault("JUPYTER_PATH", str(places.KERNELS))
    configuration = places.REPOSITORY / "docker" / "jupyter_server_config.py"
    which = " ".join(filter(None, (places.version(), places.image_stamp())))
    cli.say(f"workspace: starting {which}; the link with its token: {_how_to_get_the_link()}")
    os.chdir(places.work())
    # -P: else a random.py in the work folder would run in the server.
    server = [sys.executable, "-P", "-m", "jupyterlab", "--no-browser", f"--config={configuration}"]
    os.execve(sys.executable, [*server, f"--ServerApp.ip={ip}", f"--ServerApp.port={port}"], environment)  # noqa: S606


def _how_to_get_the_link() -> str:
    if places.PLAIN_CONTAINER:
        return f"docker exec {socket.gethostname()} lab-link"
    return "scripts/link" + (", or docker compose exec workspace lab-link" if places.IN_IMAGE else "")


def _make_private(folder: Path) -> None:
    """Make sure that this user alone reads what is in `folder`, whoever made it before."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to somebody else; remove it", access.REFUSED)
    folder.chmod(0o700)


def _seed() -> list[str]:
    """Put the lesson there; a full disk is no reason to keep its owner from making room in the lab."""
    from workspace.lab import translation  # needs packages, and --help does not

    try:
        return translation.complaints() + seed.seed()
    except OSError as error:
        return [f"the lesson could not be brought up to date: {error.filename}: {error.strerror}"]
