"""Where kernels and terminals run: a virtual environment of the user's own, laid over the workspace's.

It begins empty and looks through to the packages of the workspace, so pip finds those installed and downloads only what
is new. It is kept in the state folder and so outlives the container. The server does not look into it: what somebody
installs can break a notebook, never the lab.
"""

import contextlib
import os
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

from lesson import machine

from workspace.base import cli, places
from workspace.base.cli import UserError

_KILLED_FIRST = 500
_PIP = '#!/bin/sh\nexec "${0%/*}/python" -m pip "$@"\n'


def enter(command: list[str]) -> NoReturn:
    """Become `command` there, or in the workspace's own environment where the user's cannot be made.

    Raises UserError where there is no such command.
    """
    try:
        variables = _variables(make())
    except OSError as error:
        print(f"workspace: %pip installs nothing: {error.filename}: {error.strerror}", file=sys.stderr, flush=True)
        variables = {}
    # Where memory runs out, the kernel that asks for it goes, not the server that tells about it.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_KILLED_FIRST))
    os.environ.update(_threads() | variables)
    try:
        os.execvp(command[0], command)  # noqa: S606
    except FileNotFoundError as error:
        raise UserError(f"there is no command {command[0]}", cli.BAD_INPUT) from error


def folder() -> Path:
    """Where the environment is; one for each Python, since packages are."""
    return places.state() / "kernels" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def make() -> Path:
    """Make the environment unless it is there. Raises OSError where the state folder cannot take it."""
    place = folder()
    looked_through_to = f"{sysconfig.get_path('purelib')}\n{places.REPOSITORY / 'scripts'}"
    # Written last: an environment that has it is complete.
    link = Path(sysconfig.get_path("purelib", scheme="venv", vars={"base": str(place)})) / "workspace.pth"

    def made() -> bool:
        whole = (place / "bin" / "python").exists() and link.exists() and link.read_text() == looked_through_to
        return whole and (place / "bin" / "pip").read_text() == _PIP

    if made():
        return place
    import venv  # these two here: every kernel comes by, and only the first comes this far

    from filelock import FileLock

    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.parent / "lock"):  # notebooks that open together
        if not made():
            venv.create(place)
            pip = place / "bin" / "pip"
            pip.write_text(_PIP)
            pip.chmod(0o755)
            link.write_text(looked_through_to)
    return place


def _variables(place: Path) -> dict[str, str]:
    return {
        "PATH": f"{place / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(place),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def _threads() -> dict[str, str]:
    """As many threads and processes as the control group's quota allows, where it sets one and nobody said otherwise.

    OpenMP, and os.cpu_count() from Python 3.13 on, which notebooks ask for the DataLoader's workers, would count the
    CPUs of the whole machine: https://docs.python.org/3/using/cmdline.html#envvar-PYTHON_CPU_COUNT
    """
    if machine.cpu_quota() is None:
        return {}
    threads = str(machine.threads(os.cpu_count() or 1))
    return {name: threads for name in ("OMP_NUM_THREADS", "PYTHON_CPU_COUNT") if name not in os.environ}
