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
        os.environ.update(variables())
    except OSError as error:
        print(f"workspace: %pip installs nothing: {error.filename}: {error.strerror}", file=sys.stderr, flush=True)
        os.environ.update(_threads())
    let_go_first(os.getpid())
    try:
        os.execvp(command[0], command)  # noqa: S606
    except FileNotFoundError as error:
        raise UserError(f"there is no command {command[0]}", cli.BAD_INPUT) from error


def variables() -> dict[str, str]:
    """What a program has in its environment there, which is made. Raises OSError where that cannot be done."""
    place = make()
    return _threads() | {
        "PATH": f"{place / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(place),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def let_go_first(process: int) -> None:
    """Where memory runs out, the kernel that asks for it is to go, not the server that tells about it."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{process}/oom_score_adj").write_text(str(_KILLED_FIRST))


def folder() -> Path:
    """Where the environment is; one for each Python, since packages are."""
    return places.state() / "kernels" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def make() -> Path:
    """Make the environment unless it is there. Raises OSError where the state folder cannot take it."""
    place = folder()
    looked_through_to = f"{sysconfig.get_path('purelib')}\n{places.REPOSITORY / 'scripts'}"
    # Written last: an environment that has it is complete.
    link = _packages(place) / "workspace.pth"

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


def misfits() -> list[str]:
    """A line for what pip installed there and does not fit this workspace any more, with the command that renews it.

    Such are packages that another Python was given, which this one does not look for, and those that ask for another
    torch, or whatever else, than there is now. Reads what pip wrote beside the packages, and imports none of them.
    """
    from importlib import metadata  # these two here: no kernel that starts needs them

    from packaging.requirements import Requirement

    mine = str(_packages(folder()))

    def version_here(name: str) -> str | None:
        path = [mine, sysconfig.get_path("purelib")]
        return next((found.version for found in metadata.distributions(name=name, path=path)), None)

    lines = []
    for other in folder().parent.glob("python*/lib/python*/site-packages"):
        found_there = metadata.distributions(path=[str(other)])
        asked_for = [found.name for found in found_there if found.name and found.read_text("REQUESTED") is not None]
        if gone := " ".join(sorted(name for name in asked_for if not version_here(name))):
            lines.append(f"{gone}: installed for {other.parent.name}, and this is {folder().name}: %pip install {gone}")
    for found in metadata.distributions(path=[mine]):
        with contextlib.suppress(ValueError):  # what it needs is said in no known form
            for needs in map(Requirement, found.requires or ()):
                version = version_here(needs.name)
                applies = needs.marker is None or needs.marker.evaluate({"extra": ""})
                if applies and not (version and needs.specifier.contains(version, prereleases=True)):
                    lines.append(
                        f"{found.name} {found.version} needs {needs.name}{needs.specifier}, and here is "
                        f"{version or 'none'}: %pip install --upgrade {found.name}"
                    )
    return lines


def _packages(place: Path) -> Path:
    return Path(sysconfig.get_path("purelib", scheme="venv", vars={"base": str(place)}))


def _threads() -> dict[str, str]:
    """As many threads and processes as the control group's quota allows, where it sets one and nobody said otherwise.

    OpenMP, and os.cpu_count() from Python 3.13 on, which notebooks ask for the DataLoader's workers, would count the
    CPUs of the whole machine: https://docs.python.org/3/using/cmdline.html#envvar-PYTHON_CPU_COUNT
    """
    if machine.cpu_quota() is None:
        return {}
    threads = str(machine.threads(os.cpu_count() or 1))
    return {name: threads for name in ("OMP_NUM_THREADS", "PYTHON_CPU_COUNT") if name not in os.environ}
