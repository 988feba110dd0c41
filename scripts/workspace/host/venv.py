"""The Python environment on a machine: `.venv`, made from the same locks as the image."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from workspace.base import cli, network, places, settings
from workspace.base.cli import UserError
from workspace.base.places import IN_IMAGE, REPOSITORY

FOLDER = Path("/opt/venv") if IN_IMAGE else REPOSITORY / ".venv"
PYTHON = FOLDER / "bin" / "python"
TESTS = REPOSITORY / "tests" / "requirements.lock"

_DOCKER = REPOSITORY / "docker"


def enter() -> None:
    """Go on in the Python that has the workspace's packages: this one, or restart this command there.

    In a terminal of the lab another stands first, with what the user installed.
    """
    # What runs from here on, notebooks included, finds the datasets where scripts/data and scripts/start keep them.
    os.environ["WORKSPACE_DATA"] = str(places.data())
    # And the packages that %pip installed in the lab.
    os.environ.setdefault("JUPYTER_PATH", str(places.KERNELS))
    os.environ.update(network.environment())
    if Path(sys.prefix) == FOLDER:
        return
    if not IN_IMAGE:
        make()
    os.execv(PYTHON, [str(PYTHON), *sys.argv])  # noqa: S606


def make(extra: Path | None = None) -> None:
    """Make `.venv`, or bring it up to date with the locks; instant where it is. `extra` is one more lock to install.

    Raises UserError where it cannot be made.
    """
    locks = [_DOCKER / "requirements.lock", *([extra] if extra else [])]
    torch = _torch_requirements()
    stamp = FOLDER / "made-from"
    wanted = {_digest(file) for file in [*locks, torch]}
    if stamp.exists() and wanted <= set(stamp.read_text().split()):
        _make_importable()
        return
    installer = uv()
    cli.say(f"Making {FOLDER.name} from {', '.join(str(lock.relative_to(REPOSITORY)) for lock in locks)} ...")
    _install(installer, *(argument for lock in locks for argument in ("--requirement", str(lock))))
    _install_torch(installer, torch)
    _make_importable()
    made = set(stamp.read_text().split()) if stamp.exists() else set()
    stamp.write_text("\n".join(sorted(made | wanted)))


def _make_importable() -> None:
    """Let every Python of the environment, kernels among them, import `lesson` and `workspace`."""
    if FOLDER.is_symlink():  # another checkout's, which has its own
        return
    [packages] = (FOLDER / "lib").glob("python*/site-packages")
    link, folder = packages / "workspace.pth", f"{REPOSITORY / 'scripts'}\n"
    if not link.exists() or link.read_text() != folder:
        link.write_text(folder)


def uv() -> Path:
    """The installer, at the version the image uses, inside `.venv`."""
    if not PYTHON.exists():
        made = subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], capture_output=True, text=True, check=False)
        if made.returncode:
            shutil.rmtree(FOLDER, ignore_errors=True)
            raise UserError(
                "Python cannot make virtual environments here; on Debian or Ubuntu: apt install python3-venv"
            )
    installer = FOLDER / "bin" / "uv"
    lock = _DOCKER / "uv.txt"
    locked = lock.read_text().split(maxsplit=1)[0].removeprefix("uv==")
    if not installer.exists() or locked not in _output(installer, "--version"):
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        downloads = os.environ | network.environment()
        if subprocess.run([*pip, "--requirement", str(lock)], env=downloads, check=False).returncode:
            raise UserError("the package installer uv could not be downloaded; see the lines above")
    return installer


def _torch_requirements() -> Path:
    """The CUDA wheels where there is an NVIDIA driver or somebody asked for them, the CPU wheels elsewhere."""
    wheels = settings.get("WORKSPACE_WHEELS") or ("cuda" if Path("/dev/nvidiactl").exists() else "cpu")
    file = _DOCKER / f"torch-{wheels}.txt"
    if not file.exists():
        raise UserError(f"WORKSPACE_WHEELS is {wheels!r}; use cpu or cuda", cli.BAD_INPUT)
    return file


def _install_torch(installer: Path, torch: Path) -> None:
    index = settings.get("WORKSPACE_TORCH_INDEX")
    try:
        _install(installer, "--requirement", str(torch), *(["--default-index", index] if index else []))
    except UserError:
        if torch.name == "torch-cuda.txt" or index:
            raise
        cli.say(
            "PyTorch's index of CPU wheels cannot be reached; taking the general index's build, which is larger (3 GB)."
        )
        _install(installer, "--requirement", str(_DOCKER / "torch-cuda.txt"))


def _install(installer: Path, *arguments: str) -> None:
    # --no-deps: the locks are complete, and leave out on purpose what docker/overrides.txt names.
    command = [str(installer), "pip", "install", "--python", str(PYTHON), "--no-deps", *arguments]
    # Compiled once, here: not by each command's first start, nor by every one where nothing may be written beside it.
    settings = {"UV_HTTP_TIMEOUT": "180", "UV_COMPILE_BYTECODE": "1"}
    if subprocess.run(command, env=os.environ | network.environment() | settings, check=False).returncode:
        raise UserError("the packages could not be installed; the lines above say why")


def _output(*command: str | Path) -> str:
    return subprocess.run([*command], capture_output=True, text=True, check=False).stdout


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
