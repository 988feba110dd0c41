"""Makes `.venv`, the Python environment on a machine: it holds what the locks name that the image is made from, too."""

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

from workspace.base import cli, network, places, programs, settings
from workspace.base.cli import UserError
from workspace.base.files import locked
from workspace.base.places import PYTHON, REPOSITORY, VENV
from workspace.host import causes
from workspace.host.causes import Cause

TESTS = REPOSITORY / "tests" / "requirements.lock"

_PACKAGES = REPOSITORY / "docker" / "requirements.lock"
_UV = REPOSITORY / "docker" / "uv.txt"
_TORCH = REPOSITORY / "docker" / "torch.in"
_WHEELS = {name: REPOSITORY / "docker" / f"torch-{name}.txt" for name in ("cpu", "cuda")}
_MADE_FROM = VENV / "made-from"
_INSTALL_OTHERS = {"pip", "setuptools", "uv", "wheel"}
_NVIDIA = Path("/dev/nvidiactl"), Path("/usr/lib/wsl/lib/libcuda.so.1")
"""What NVIDIA's driver brings: its control device; under WSL2, where all cards are one device, its library."""


class InstallationError(UserError):
    """Packages could not be installed, and the cause, where it is known."""

    def __init__(self, said: str, log: Path) -> None:
        super().__init__(f"the packages could not be installed: {causes.explain(said)} (everything it said: {log})")
        self.cause = causes.find(said)


def make(extra: Path | None = None) -> None:
    """Make `.venv`, or have it follow the locks: what they name is in it, and nothing else. Instant where that is so.

    `extra` is one more lock, which it follows from then on. Raises UserError where it cannot be made.
    """
    if not _follows(extra):
        if VENV.is_symlink():
            raise UserError(
                f"{VENV} is a link to another checkout's, {VENV.resolve()}, which follows other locks: remove the "
                "link, and one is made here"
            )
        with locked(places.NATIVE / "venv.lock", f"{VENV.name} is being made by another command; waiting for it ..."):
            if not _follows(extra):
                _follow(extra)
    _make_importable()


def uv() -> Path:
    """What installs into `.venv`, of the image's version; both are made where they lack. Raises UserError if not."""
    if not PYTHON.exists():
        # Step by step: in one, what the second says would be lost.
        for step in ([sys.executable, "-m", "venv", "--without-pip", VENV], [PYTHON, "-m", "ensurepip"]):
            done = programs.ask(*step)
            if done.returncode:
                shutil.rmtree(VENV, ignore_errors=True)
                said = done.stdout + done.stderr
                needs_package = re.search("No module named ensurepip|ensurepip is (disabled|not available)", said)
                why = "on Debian or Ubuntu: apt install python3-venv" if needs_package else causes.explain(said)
                raise UserError(f"Python cannot make a virtual environment here: {why}")
    found, version = PYTHON.with_name("uv"), _UV.read_text().split(maxsplit=1)[0].removeprefix("uv==")
    if not found.exists() or version not in programs.ask(found, "--version").stdout.split():
        pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--require-hashes"]
        _run(*pip, "--requirement", _UV)
    return found


def _install(requirements: Path, *options: str) -> None:
    """Install what the file names. Raises InstallationError."""
    # --no-deps: the locks are complete, and leave out on purpose what docker/overrides.txt names.
    _run(*_pip("install"), "--no-deps", *options, "--requirement", requirements)


def _pip(command: str) -> list[str | Path]:
    return [PYTHON.with_name("uv"), "pip", command, "--python", PYTHON]


def _run(*command: str | Path) -> None:
    """Run it with a line that shows how far it is. Raises InstallationError."""
    # Compiled once, here: not by each command's first start, nor by every one where nothing may be written beside it.
    environment = os.environ | network.environment() | {"UV_HTTP_TIMEOUT": "180", "UV_COMPILE_BYTECODE": "1"}
    log = places.NATIVE / "install.log"
    if not programs.follow(list(command), environment, log, "Installing", str.strip):
        raise InstallationError(log.read_text(), log)


def _follows(extra: Path | None) -> bool:
    """Whether `.venv` was made from the locks as they are now."""
    made = _made()
    wanted = _digests([*_locks(extra, made), _wheels(made)])
    # Another checkout's that is linked may have more.
    return PYTHON.exists() and (wanted.items() <= made.items() if VENV.is_symlink() else wanted == made)


def _follow(extra: Path | None) -> None:
    """Install what the locks name, and remove what they do not."""
    made = _made()
    locks, wheels = _locks(extra, made), _wheels(made)
    cli.say(f"Making {VENV.name} from {', '.join(_name(lock) for lock in [*locks, wheels])} ...")
    _MADE_FROM.unlink(missing_ok=True)  # until it is whole again
    uv()
    for lock in locks:
        _install(lock)
    # One build of PyTorch is not told from another by its version.
    other_build = [] if _name(wheels) in made else ["--reinstall-package=torch", "--reinstall-package=torchvision"]
    index = settings.get("WORKSPACE_TORCH_INDEX")
    try:
        _install(wheels, *other_build, *(["--default-index", index] if index else []))
    except InstallationError as error:
        if index or settings.get("WORKSPACE_WHEELS") or error.cause not in (Cause.TORCH_INDEX, Cause.PACKAGES):
            raise
        cli.say("PyTorch's index has no CPU wheels for here; the general build is taken, 5 GB larger.")
        wheels = _WHEELS["cuda"]
        _install(wheels)
    # Not by `uv pip sync`, which would take all of it from the one index that has PyTorch's CPU wheels.
    there = {package["name"] for package in json.loads(programs.ask(*_pip("list"), "--format", "json").stdout)}
    if superfluous := there - _named_by([*locks, wheels, _TORCH]) - _INSTALL_OTHERS:
        _run(*_pip("uninstall"), *sorted(superfluous))
    _MADE_FROM.write_text("".join(f"{name} {digest}\n" for name, digest in _digests([*locks, wheels]).items()))


def _locks(extra: Path | None, made: dict[str, str]) -> list[Path]:
    """The workspace's own, with the tests' where they are asked for or in already."""
    return [_PACKAGES, *([TESTS] if extra == TESTS or (_name(TESTS) in made and TESTS.exists()) else [])]


def _wheels(made: dict[str, str]) -> Path:
    """PyTorch's: as somebody asked, else CUDA's where there is an NVIDIA driver, else those that are in, else CPU's."""
    there = "cuda" if _name(_WHEELS["cuda"]) in made else "cpu"
    wheels = settings.get("WORKSPACE_WHEELS") or ("cuda" if any(map(Path.exists, _NVIDIA)) else there)
    if wheels not in _WHEELS:
        raise UserError(f"WORKSPACE_WHEELS is {wheels!r}; use cpu or cuda", cli.BAD_INPUT)
    return _WHEELS[wheels]


def _made() -> dict[str, str]:
    """The locks that `.venv` was made from, each with its digest; none where making it did not come to its end."""
    lines = _MADE_FROM.read_text().splitlines() if _MADE_FROM.exists() else []
    return dict(line.split() for line in lines if " " in line)


def _digests(locks: list[Path]) -> dict[str, str]:
    return {_name(lock): hashlib.sha256(lock.read_bytes()).hexdigest() for lock in locks}


def _name(lock: Path) -> str:
    return str(lock.relative_to(REPOSITORY))


def _named_by(locks: list[Path]) -> set[str]:
    """The packages that these files name."""
    return {name for lock in locks for name in re.findall(r"(?m)^([\w-]+)==", lock.read_text())}


def _make_importable() -> None:
    """Let every Python of the environment, kernels among them, import `lesson` and `workspace`."""
    if VENV.is_symlink():  # another checkout's, which has its own
        return
    [packages] = (VENV / "lib").glob("python*/site-packages")
    link, folder = packages / "workspace.pth", f"{REPOSITORY / 'scripts'}\n"
    if not link.exists() or link.read_text() != folder:
        link.write_text(folder)
