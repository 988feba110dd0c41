"""Why something failed: each cause's line, with the next step, once; found by looking, or in what a program says.

Docker, BuildKit, uv, Caddy and NVIDIA's programs are understood by the patterns.
"""

import enum
import re
import shutil
from pathlib import Path

from lesson import system

from workspace.base import verdicts
from workspace.base.verdicts import Verdict

_MAKE_A_BASE_IMAGE = (
    "mmdebstrap --variant=minbase --include=ca-certificates trixie - | docker import - debian:trixie-slim"
)
INSTALL_DRIVER = "`sudo ubuntu-drivers install --gpgpu nvidia:580-server && sudo reboot` (Ubuntu)"
_OS_RELEASE = Path("/etc/os-release")


class Cause(enum.Enum):
    """A failure: its line for the user, and the pattern of what programs say of it, if they do.

    The first whose pattern matches counts. Reports have it by its `kind`, which is its name unless two share one.
    """

    PORT = (
        "port {port} is taken by {whose}; choose another: scripts/start --port {other_port}",
        r"port is already allocated|address already in use|ports are not available",
    )
    ROOT_PORT = "port {port} is for root alone; choose another: scripts/start --port 8888"
    HTTP_PORT = "port {port} is taken by {whose}; choose another: WORKSPACE_HTTP_PORT=8080"
    ROOTLESS_PORT = (
        "Docker runs without root here and may not open ports below 1024: sudo sysctl "
        "net.ipv4.ip_unprivileged_port_start=80, or other ports (WORKSPACE_PORT, WORKSPACE_HTTP_PORT)",
        r"cannot expose privileged port",
    )
    CONFLICT = (
        "another checkout starts the workspace of the same name at this moment; another name: COMPOSE_PROJECT_NAME=...",
        r"Conflict\. The container name",
    )
    ADDRESS = (
        "this machine has no such address to listen on; `hostname -I` lists those it has, 0.0.0.0 means all",
        r"cannot assign requested address",
    )
    DISK_FULL = (
        "the disk is full; `docker system df` shows what of it Docker holds, `docker builder prune` frees its build "
        "cache",
        r"[Nn]o space left on device|ENOSPC|not enough space",
    )
    ENGINE_PERMISSION = (
        "there is a Docker engine and you may not use it: `sudo usermod -aG docker $USER`, then log in again; "
        "or go without it: scripts/start --native",
        r"permission denied while trying to connect to the [Dd]ocker|dial unix \S+: connect: permission denied",
    )
    ENGINE_OLD = (
        "Docker Engine 25 or newer is needed{have}: install it anew from Docker's packages or the system's",
        r"unknown flag: start-interval",
    )
    ENGINE_UNREACHABLE = "the Docker engine cannot be reached: {said}; {start_it}"
    ENGINE_SILENT = (
        "the Docker engine does not answer within {seconds} s; `sudo systemctl restart docker`, or restart its Desktop"
    )
    PODMAN = (
        "`docker` is Podman here, under which the workspace has not been tried: install Docker Engine, or go without: "
        "scripts/start --native"
    )
    NO_DOCKER = "the Docker engine cannot be reached: there is no command `docker` on the PATH"
    COMPOSE = (
        "Docker Compose {have} and {wanted} or newer is needed: install docker-compose-v2 (Ubuntu), docker-compose "
        "(Debian) or docker-compose-plugin (Docker's packages); or go without Docker: scripts/start --native"
    )
    GPU_NUMBER = (
        "WORKSPACE_GPUS names a GPU that this machine does not have; `nvidia-smi -L` lists them",
        r"nvidia-container-cli: device error|unresolvable CDI devices nvidia\.com/gpu=(?!all\b)",
    )
    GPU_CDI_ONE = (
        "this engine hands over GPUs by CDI, without NVIDIA's runtime, and then WORKSPACE_GPUS is one of them, or all"
    )
    GPU_LOST = (
        system.LOST,
        r"Failed to initialize NVML: Unknown Error",
    )
    GPU_DRIVER_CHANGED = (
        "the NVIDIA driver was updated and the old one is still loaded: sudo reboot",
        r"Driver/library version mismatch|driver/library version mismatch",
    )
    GPU_HAND_OVER = (
        "Docker cannot reach a GPU: the NVIDIA Container Toolkit is not set up in the engine: "
        "`sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker`. "
        "Without --gpu the workspace runs on the CPU",
        r"could not select device driver|unknown or invalid runtime name: nvidia|unresolvable CDI devices",
    )
    GPU_CDI_FILE = (
        "Docker cannot reach a GPU: it looks for one by CDI, and no file describes it; the NVIDIA Container Toolkit "
        "writes that: `sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml && sudo systemctl restart docker`",
        r"no known GPU vendor found",
        "gpu-hand-over",
    )
    GPU_TOOLKIT = (
        "Docker cannot reach a GPU: the NVIDIA Container Toolkit (1.17.8 or newer) is missing: install the package "
        "nvidia-container-toolkit from NVIDIA's repository (README, With a GPU), then `sudo nvidia-ctk runtime "
        "configure --runtime=docker && sudo systemctl restart docker`"
    )
    GPU_OLD = (
        "the card {card} (compute capability {capability}) is too old for PyTorch's CUDA 13 build: a T4, an RTX 20 or "
        "anything newer will do"
    )
    GPU_NONE = "Docker cannot reach a GPU: this machine has no NVIDIA GPU. Without --gpu the workspace runs on the CPU"
    GPU_DRIVER_OLD = (
        "the GPU's driver{have} is too old for PyTorch's CUDA 13, which needs 580: " + INSTALL_DRIVER,
        r"NVIDIA driver on your system is too old",
    )
    GPU_DRIVER = (
        "the GPU's driver {is_not}: {next_step}",
        r"nvidia-container-cli: initialization error|libnvidia-ml\.so|driver.*not loaded|nvml error"
        r"|couldn't communicate with the NVIDIA driver",
    )
    CADDY = (
        "Caddy's image cannot be fetched from Docker Hub: check the network, or give one that you have its name: "
        "docker tag YOURS caddy:2.10-alpine",
        r"caddy.*(not found|denied|failed to|no such host)|(resolve source metadata|failed to do request).*caddy",
    )
    CPUS = (
        "WORKSPACE_CPUS is more than this machine has: {line}",
        r"Range of CPUs is from",
    )
    BASE_IMAGE = (
        "the base image cannot be fetched from Docker Hub: check the network, {base_image}name an image of your own "
        "(WORKSPACE_BASE_IMAGE=...), or go without Docker: scripts/start --native",
        r"(resolve source metadata|pull access denied|failed to do request|pulling from host).*",
    )
    SYSTEM = (
        "PyTorch has no build for this machine: Linux with glibc 2.28 or newer (x86-64, ARM), or macOS 14 or newer on "
        "Apple silicon, is needed",
        r"no wheels with a matching (platform|Python ABI|Python implementation) tag",
    )
    TORCH_INDEX = (
        "PyTorch's wheel index cannot be reached: name another (WORKSPACE_TORCH_INDEX=...), or take the larger "
        "general build (WORKSPACE_WHEELS=cuda)",
        r"download\.pytorch\.org|Failed to fetch: \S*/torch(vision)?/",
        "packages",
    )
    CERTIFICATE = (
        "downloads meet a certificate that is not trusted here, as behind a proxy that inspects TLS: "
        "name its CA bundle: WORKSPACE_CA_BUNDLE=/path/to/ca.pem",
        r"invalid peer certificate|CERTIFICATE_VERIFY_FAILED|UnknownIssuer",
    )
    PACKAGES = (
        "a package index cannot be reached: check the network, or the proxy (HTTPS_PROXY, WORKSPACE_CA_BUNDLE)",
        r"(error sending request|Failed to fetch|Temporary failure resolving|Could not resolve|NewConnectionError)",
    )

    def __init__(self, message: str, pattern: str | None = None, kind: str | None = None) -> None:
        self.message, self.pattern = message, pattern
        self.kind = kind or self.name.lower().replace("_", "-")

    def line(self, **values: object) -> str:
        """The line, where the failure was found by looking."""
        return self.message.format_map(_DEFAULTS | values)

    def broken(self, **values: object) -> Verdict:
        """The verdict on a layer that is broken so, in the same line."""
        return verdicts.broken(self.kind, self.line(**values))


def find(said: str) -> Cause | None:
    """The cause that programs say; None where it is none that is known."""
    return next((cause for cause in Cause if cause.pattern and re.search(cause.pattern, said)), None)


def explain(said: str, port: int = 0) -> str:
    """What was said, as one line that names the cause and the next step; `port` is the one that was asked for."""
    taken = re.search(r"(?:Bind for|host port for|listen tcp\d?) \S*?:(\d+)", said)
    if taken and int(taken[1]) != port:  # the other port that TLS needs
        return Cause.HTTP_PORT.line(port=taken[1])
    if cause := find(said):
        matched = re.search(cause.pattern, said).group().splitlines()[0]
        whole = next(line for line in said.splitlines() if matched in line)
        return cause.line(port=port, other_port=port + 1, line=whole.strip(), base_image=_base_image())
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|failed|cannot|denied", line, re.IGNORECASE)]
    return (errors or lines or ["it gave no reason"])[-1]


_DEFAULTS = {
    "have": "",
    "is_not": "is not there, or not loaded",
    "next_step": "`nvidia-smi` must work here first",
    "whose": "another program",
}
"""What a line says where no more is known."""


def systems() -> list[str]:
    """What this machine's system calls itself, such as `ubuntu`, and after it what it says it is like."""
    text = _OS_RELEASE.read_text() if _OS_RELEASE.exists() else ""
    found = dict(re.findall(r"(?m)^(ID|ID_LIKE)=\"?([^\"\n]*)", text))
    return f"{found.get('ID', '')} {found.get('ID_LIKE', '')}".split()


def _base_image() -> str:
    """How to make the base image from Debian's own packages, where this machine has them."""
    if not {"debian", "ubuntu"} & set(systems()):
        return ""
    install = "" if shutil.which("mmdebstrap") else "sudo apt install mmdebstrap debian-archive-keyring && "
    return f"make it from Debian's packages (`{install}{_MAKE_A_BASE_IMAGE}`), "
