"""The layers between an NVIDIA GPU and PyTorch: card, driver, the hand-over to a container, PyTorch's own view."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from lesson.system import LOST, lost

from workspace.base import places, programs, settings, verdicts
from workspace.base.verdicts import State, Verdict
from workspace.host import causes, engine
from workspace.host.causes import Cause

MACHINE = Path("/")

OLDEST_DRIVER = 580  # of CUDA 13, which the wheels are built for
_OLDEST_CARD = 7.5
_OLDEST_TOOLKIT = (1, 17, 8)  # before, whoever made an image could leave its container: CVE-2025-23266
_NVIDIA, _DISPLAYS = "0x10de", ("0x0300", "0x0302")
_DRIVER = "proc/driver/nvidia/version"
_TOOLKIT = ("nvidia-ctk", "nvidia-container-cli", "nvidia-container-runtime-hook")
_NOT_HANDED_OVER = (Cause.GPU_HAND_OVER, Cause.GPU_CDI_FILE)
_CDI = "nvidia.com/gpu="
"""What a GPU's name begins with in CDI, the engine's own way to hand over devices that a file describes."""

# Asked in a process of its own, whose Python has the packages.
_ASK_PYTORCH = """\
import contextlib, io, json, warnings
import torch
from lesson import machine
said, works, error = io.StringIO(), False, ""
with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(said):
    warnings.simplefilter("always")
    try:
        works = machine.gpu_works() and torch.ones(2, device="cuda").sum().item() == 2
    except Exception as failure:
        error = str(failure).splitlines()[0]
warned = [str(warning.message) for warning in warned]
print(json.dumps([torch.__version__, torch.version.cuda, works, said.getvalue().strip(), error, warned]))
"""


def card(root: Path = MACHINE) -> Verdict:
    """Whether this machine has a card of NVIDIA's."""
    devices = (root / "sys/bus/pci/devices").glob("*")
    found = [each for each in devices if _is_gpu(each)]
    if found or _handed_over(root) or (root / _DRIVER).exists():
        return verdicts.well(f"NVIDIA cards on the bus: {len(found)}", cards=len(found))
    return verdicts.absent(Cause.GPU_NONE.kind, "this machine has no NVIDIA GPU; the workspace computes on the CPU")


def driver(root: Path = MACHINE) -> Verdict:
    """Whether the card's driver is loaded, whole and new enough, and the card new enough for PyTorch."""
    if not (root / _DRIVER).exists() and not (root / "dev/dxg").exists():
        return Cause.GPU_DRIVER.broken(**_why_not_loaded(root))
    version = loaded_driver(root)
    asked = _run("nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader")
    if asked.returncode not in (0, programs.NOT_THERE):
        said = asked.stdout + asked.stderr
        cause = _cause(said) or Cause.GPU_DRIVER
        return cause.broken(is_not=f"does not answer ({causes.explain(said)})", next_step="sudo reboot")
    cards = [line.split(", ") for line in asked.stdout.splitlines() if line.count(", ") == 3]
    for name, number, capability, _ in cards:
        version = number
        if re.fullmatch(r"\d+\.\d+", capability) and float(capability) < _OLDEST_CARD:
            return Cause.GPU_OLD.broken(card=name, capability=capability)
    if version and int(version.split(".")[0]) < OLDEST_DRIVER:
        return Cause.GPU_DRIVER_OLD.broken(have=f" {version}")
    told = "; ".join(f"{name}, {memory}" for name, _, _, memory in cards)
    return verdicts.well(f"{version}: {told}" if told else version, driver=version)


def loaded_driver(root: Path = MACHINE) -> str:
    """The version of the driver that is loaded, such as 580.95.05; empty where none is, or none that says it."""
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", (root / _DRIVER).read_text() if (root / _DRIVER).exists() else "")
    return found[0] if found else ""


def hand_over() -> Verdict:
    """Whether the engine hands the GPUs to a container, tried by one that has nothing to run."""
    return _look_at(*ask_engine())


def ask_engine() -> tuple[str, dict[str, str]]:
    """Ask the engine for the GPUs by an empty image: what it says, the last of it that there is nothing to run.

    With it come the variables by which docker-compose.gpu.yml asks in the way that works: by NVIDIA's runtime or hook,
    which need none, or by CDI, which an engine without those may have.
    """
    image = programs.ask("docker", "import", "-", input="\0" * 10240).stdout.strip()
    # There is nothing to run in an empty image; only a failure to hand over the GPU comes before that is noticed.
    gpus = settings.get("WORKSPACE_GPUS") or "all"
    said, variables = programs.ask("docker", "run", "--rm", f'--gpus="device={gpus}"', image, "nothing").stderr, {}
    if causes.find(said) in _NOT_HANDED_OVER:
        devices = [f"{_CDI}{name}" for name in gpus.removeprefix(_CDI).split(",")]
        by_cdi = programs.ask(
            "docker", "run", "--rm", *(f"--device={device}" for device in devices), image, "nothing"
        ).stderr
        if causes.find(by_cdi) not in _NOT_HANDED_OVER:
            said, variables = by_cdi, {"WORKSPACE_GPU_DRIVER": "cdi", "WORKSPACE_GPUS": ",".join(devices)}
    programs.ask("docker", "image", "rm", "--force", image)
    return said, variables


def _look_at(said: str, variables: dict[str, str]) -> Verdict:
    """What the engine said when it was asked for the GPUs as `variables` have it."""
    if "," in variables.get("WORKSPACE_GPUS", ""):
        return Cause.GPU_CDI_ONE.broken()
    if cause := _cause(said):
        has_toolkit = any(map(shutil.which, _TOOLKIT)) or "nvidia" in engine.info().get("Runtimes", {})
        if cause in _NOT_HANDED_OVER and not has_toolkit:
            return Cause.GPU_TOOLKIT.broken()
        return verdicts.broken(cause.kind, causes.explain(said))
    if "nothing" not in said:  # which is not found: that comes last
        return verdicts.warning("unknown", f"the engine says of it: {causes.explain(said)}")
    version = tuple(map(int, re.findall(r"\d+", _run("nvidia-ctk", "--version").stdout)[:3]))
    number = ".".join(map(str, version))
    if version and version < _OLDEST_TOOLKIT:
        oldest = ".".join(map(str, _OLDEST_TOOLKIT))
        text = f"works, by a Container Toolkit {number} out of which an image can break: {oldest} or newer is needed"
        return verdicts.warning("gpu-toolkit-old", text, toolkit=number)
    return verdicts.well(f"Docker hands it to containers {f'(Container Toolkit {number})' * bool(version)}".strip())


def in_pytorch(python: Path, root: Path = MACHINE) -> Verdict:
    """Whether PyTorch computes on the GPU, in the Python of this lab."""
    if not python.exists():
        return verdicts.NOT_INSTALLED
    if closed := lost(root / "dev/nvidiactl"):
        return verdicts.broken(Cause.GPU_LOST.kind if closed == LOST else "gpu-closed", closed)
    asked = _run(str(python), "-P", "-c", _ASK_PYTORCH, PYTHONPATH=str(places.REPOSITORY / "scripts"))
    if asked.returncode:
        return verdicts.broken("pytorch", f"PyTorch cannot be imported: {programs.last_words(asked.stderr)}")
    version, cuda, works, told, error, warned = json.loads(asked.stdout.splitlines()[-1])
    if works:
        return verdicts.well(f"PyTorch {version} computes on it", cuda=cuda)
    if not _handed_over(root):
        return verdicts.absent("gpu-not-here", f"PyTorch {version} computes on the CPU: no GPU is handed over to here")
    if not cuda:
        return verdicts.warning(
            "gpu-cpu-build", f"there is one, and PyTorch {version} is the build without it: scripts/start --gpu"
        )
    if told:
        return verdicts.broken(Cause.GPU_OLD.kind, told)
    smi = _run("nvidia-smi", "-L")
    said = "\n".join([*warned, error, smi.stdout, smi.stderr])
    if cause := _cause(said):
        return verdicts.broken(cause.kind, causes.explain(said))
    return verdicts.broken("gpu-pytorch", f"PyTorch {version} cannot use it: {causes.explain(said)}")


def require(root: Path = MACHINE) -> dict[str, str]:
    """Make sure that the engine can hand over the GPUs before anything large is downloaded.

    The variables by which docker-compose.gpu.yml asks for them. Raises UserError with the first layer that is broken.
    """
    said, variables = ask_engine()
    tried = _look_at(said, variables)
    if tried.state is State.BROKEN and tried.kind not in (Cause.GPU_NUMBER.kind, Cause.GPU_CDI_ONE.kind):
        if card(root).state is State.ABSENT:
            Cause.GPU_NONE.broken().require()
        driver(root).require()
    tried.require()
    return variables


def _cause(said: str) -> Cause | None:
    """The cause of what is said about a GPU; None where it says nothing known of one."""
    cause = causes.find(said)
    return cause if cause and cause.kind.startswith("gpu") else None


def _is_gpu(device: Path) -> bool:
    vendor, kind = device / "vendor", device / "class"
    return vendor.exists() and vendor.read_text().strip() == _NVIDIA and kind.read_text().startswith(_DISPLAYS)


def _handed_over(root: Path) -> bool:
    """Whether the driver's devices can be seen from here; under WSL2 they have another name."""
    return any((root / "dev" / name).exists() for name in ("nvidiactl", "dxg"))


def _why_not_loaded(root: Path) -> dict[str, str]:
    if _run("modinfo", "-F", "version", "nvidia").returncode == 0:
        secure = next((root / "sys/firmware/efi/efivars").glob("SecureBoot-*"), None)
        if secure and secure.read_bytes()[-1:] == b"\1":
            next_step = (
                "enrol its key (sudo mokutil --import /var/lib/shim-signed/mok/MOK.der) or switch Secure Boot off"
            )
            return {"is_not": "is installed, and Secure Boot does not let it load", "next_step": next_step}
        return {"is_not": "is installed and not loaded", "next_step": "sudo reboot"}
    if (root / "sys/module/nouveau").exists():
        return {"is_not": "is nouveau, which has no CUDA", "next_step": causes.INSTALL_DRIVER}
    return {"is_not": "is not installed", "next_step": causes.INSTALL_DRIVER}


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return programs.ask(*command, env=os.environ | environment, timeout=120)
