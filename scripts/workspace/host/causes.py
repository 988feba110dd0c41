"""Why something failed: each cause's line, with the next step, once; found by looking, or in what a program says.

Docker, BuildKit, uv, Caddy and NVIDIA's programs are understood by the patterns.
"""

import enum
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from lesson import driver

from workspace.base import verdicts
from workspace.base.verdicts import Verdict
from workspace.lab import access

_MAKE_A_BASE_IMAGE = (
    "mmdebstrap --variant=minbase --include=ca-certificates trixie - | docker import - debian:trixie-slim"
)
INSTALL_DRIVER = "`sudo ubuntu-drivers install --gpgpu nvidia:580-server && sudo reboot` (Ubuntu)"
_OS_RELEASE = Path("/etc/os-release")


class Kind(enum.StrEnum):
    """What a failure is about: the name by which reports have it."""

    ADDRESS = "address"
    BASE_IMAGE = "base-image"
    CADDY = "caddy"
    CERTIFICATE = "certificate"
    COMPOSE = "compose"
    CONFLICT = "conflict"
    CPUS = "cpus"
    DISK = "disk-full"
    ENGINE_OLD = "engine-old"
    ENGINE_PERMISSION = "engine-permission"
    ENGINE_SILENT = "engine-silent"
    ENGINE_UNREACHABLE = "engine-unreachable"
    GPU_CDI_ONE = "gpu-cdi-one"
    GPU_LOST = "gpu-lost"
    GPU_NONE = "gpu-none"
    GPU_NUMBER = "gpu-number"
    GPU_DRIVER = "gpu-driver"
    GPU_DRIVER_OLD = "gpu-driver-old"
    GPU_DRIVER_CHANGED = "gpu-driver-changed"
    GPU_OLD = "gpu-old"
    GPU_HAND_OVER = "gpu-hand-over"
    GPU_TOOLKIT = "gpu-toolkit"
    HTTP_PORT = "http-port"
    NO_DOCKER = "no-docker"
    PACKAGES = "packages"
    PORT = "port"
    PODMAN = "podman"
    ROOTLESS_PORT = "rootless-port"
    SYSTEM = "system"


@dataclass(frozen=True)
class Cause:
    """A failure of one kind: the line for the user, and the pattern of what programs say of it, if they do."""

    kind: Kind
    pattern: str | None
    message: str


_CAUSES = (  # the first that matches counts
    Cause(
        Kind.PORT,
        r"port is already allocated|address already in use|ports are not available",
        "port {port} is taken by {whose}; choose another: scripts/start --port {other_port}",
    ),
    Cause(
        Kind.HTTP_PORT,
        None,
        "port {port} is taken by {whose}; choose another: WORKSPACE_HTTP_PORT=8080",
    ),
    Cause(
        Kind.ROOTLESS_PORT,
        r"cannot expose privileged port",
        "Docker runs without root here and may not open ports below 1024: sudo sysctl "
        "net.ipv4.ip_unprivileged_port_start=80, or other ports (WORKSPACE_HTTPS_PORT, WORKSPACE_HTTP_PORT)",
    ),
    Cause(
        Kind.CONFLICT,
        r"Conflict\. The container name",
        "another checkout starts the workspace of the same name at this moment; another name: COMPOSE_PROJECT_NAME=...",
    ),
    Cause(Kind.ADDRESS, r"cannot assign requested address", access.NO_SUCH_ADDRESS),
    Cause(
        Kind.DISK,
        r"[Nn]o space left on device|ENOSPC|not enough space",
        "the disk is full; `docker system df` shows what of it Docker holds, `docker builder prune` frees its build "
        "cache",
    ),
    Cause(
        Kind.ENGINE_PERMISSION,
        r"permission denied while trying to connect to the [Dd]ocker|dial unix \S+: connect: permission denied",
        "there is a Docker engine and you may not use it: `sudo usermod -aG docker $USER`, then log in again; "
        "or go without it: scripts/start --native",
    ),
    Cause(
        Kind.ENGINE_OLD,
        r"unknown flag: start-interval",
        "Docker Engine 25 or newer is needed{have}: install it anew from Docker's packages or the system's",
    ),
    Cause(Kind.ENGINE_UNREACHABLE, None, "the Docker engine cannot be reached: {said}; {start_it}"),
    Cause(
        Kind.ENGINE_SILENT,
        None,
        "the Docker engine does not answer within {seconds} s; `sudo systemctl restart docker`, or restart its Desktop",
    ),
    Cause(
        Kind.PODMAN,
        None,
        "`docker` is Podman here, under which the workspace has not been tried: install Docker Engine, or go without: "
        "scripts/start --native",
    ),
    Cause(Kind.NO_DOCKER, None, "the Docker engine cannot be reached: there is no command `docker` on the PATH"),
    Cause(
        Kind.COMPOSE,
        None,
        "Docker Compose {have} and {wanted} or newer is needed: install docker-compose-v2 (Ubuntu), docker-compose "
        "(Debian) or docker-compose-plugin (Docker's packages); or go without Docker: scripts/start --native",
    ),
    Cause(
        Kind.GPU_NUMBER,
        r"nvidia-container-cli: device error|unresolvable CDI devices nvidia\.com/gpu=(?!all\b)",
        "WORKSPACE_GPUS names a GPU that this machine does not have; `nvidia-smi -L` lists them",
    ),
    Cause(
        Kind.GPU_CDI_ONE,
        None,
        "this engine hands over GPUs by CDI, without NVIDIA's runtime, and then WORKSPACE_GPUS is one of them, or all",
    ),
    Cause(
        Kind.GPU_LOST,
        r"Failed to initialize NVML: Unknown Error",
        driver.LOST,
    ),
    Cause(
        Kind.GPU_DRIVER_CHANGED,
        r"Driver/library version mismatch|driver/library version mismatch",
        "the NVIDIA driver was updated and the old one is still loaded: sudo reboot",
    ),
    Cause(
        Kind.GPU_HAND_OVER,
        r"could not select device driver|unknown or invalid runtime name: nvidia|unresolvable CDI devices",
        "Docker cannot reach a GPU: the NVIDIA Container Toolkit is not set up in the engine: "
        "`sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker`. "
        "Without --gpu the workspace runs on the CPU",
    ),
    Cause(
        Kind.GPU_HAND_OVER,
        r"no known GPU vendor found",  # Docker 29 and newer
        "Docker cannot reach a GPU: it looks for one by CDI, and no file describes it; the NVIDIA Container Toolkit "
        "writes that: `sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml && sudo systemctl restart docker`",
    ),
    Cause(
        Kind.GPU_TOOLKIT,
        None,
        "Docker cannot reach a GPU: the NVIDIA Container Toolkit (1.17.8 or newer) is missing: install the package "
        "nvidia-container-toolkit from NVIDIA's repository (README, With a GPU), then `sudo nvidia-ctk runtime "
        "configure --runtime=docker && sudo systemctl restart docker`",
    ),
    Cause(
        Kind.GPU_OLD,
        None,
        "the card {card} (compute capability {capability}) is too old for PyTorch's CUDA 13 build: a T4, an RTX 20 or "
        "anything newer will do",
    ),
    Cause(
        Kind.GPU_NONE,
        None,
        "Docker cannot reach a GPU: this machine has no NVIDIA GPU. Without --gpu the workspace runs on the CPU",
    ),
    Cause(
        Kind.GPU_DRIVER_OLD,
        r"NVIDIA driver on your system is too old",
        "the GPU's driver{have} is too old for PyTorch's CUDA 13, which needs 580: " + INSTALL_DRIVER,
    ),
    Cause(
        Kind.GPU_DRIVER,
        r"nvidia-container-cli: initialization error|libnvidia-ml\.so|driver.*not loaded|nvml error"
        r"|couldn't communicate with the NVIDIA driver",
        "the GPU's driver {is_not}: {next_step}",
    ),
    Cause(
        Kind.CADDY,
        r"caddy.*(not found|denied|failed to|no such host)|(resolve source metadata|failed to do request).*caddy",
        "Caddy's image cannot be fetched from Docker Hub: check the network, or name an image of your own "
        "(WORKSPACE_CADDY_IMAGE=...)",
    ),
    Cause(Kind.CPUS, r"Range of CPUs is from", "WORKSPACE_CPUS is more than this machine has: {line}"),
    Cause(
        Kind.BASE_IMAGE,
        r"(resolve source metadata|pull access denied|failed to do request|pulling from host).*",
        "the base image cannot be fetched from Docker Hub: check the network, {base_image}name an image of your own "
        "(WORKSPACE_BASE_IMAGE=...), or go without Docker: scripts/start --native",
    ),
    Cause(
        Kind.SYSTEM,
        r"no wheels with a matching (platform|Python ABI|Python implementation) tag",
        "PyTorch has no build for this machine: Linux with glibc 2.28 or newer (x86-64, ARM), or macOS 14 or newer on "
        "Apple silicon, is needed",
    ),
    Cause(
        Kind.PACKAGES,
        r"download\.pytorch\.org|Failed to fetch: \S*/torch(vision)?/",
        "PyTorch's wheel index cannot be reached: name another (WORKSPACE_TORCH_INDEX=...), or take the larger "
        "general build (WORKSPACE_WHEELS=cuda)",
    ),
    Cause(
        Kind.CERTIFICATE,
        r"invalid peer certificate|CERTIFICATE_VERIFY_FAILED|UnknownIssuer",
        "downloads meet a certificate that is not trusted here, as behind a proxy that inspects TLS: "
        "name its CA bundle: WORKSPACE_CA_BUNDLE=/path/to/ca.pem",
    ),
    Cause(
        Kind.PACKAGES,
        r"(error sending request|Failed to fetch|Temporary failure resolving|Could not resolve|NewConnectionError)",
        "a package index cannot be reached: check the network, or the proxy (HTTPS_PROXY, WORKSPACE_CA_BUNDLE)",
    ),
)


def kind(said: str) -> Kind | None:
    """What kind of failure it is; None where it is none that is known."""
    found = _find(said)
    return found[0].kind if found else None


def line(kind: Kind, **values: object) -> str:
    """The line for a failure of this kind that was found by looking."""
    return next(cause for cause in _CAUSES if cause.kind is kind).message.format_map(_DEFAULTS | values)


def broken(kind: Kind, **values: object) -> Verdict:
    """The verdict on a layer that is broken so, in the same line."""
    return verdicts.broken(kind, line(kind, **values))


def explain(said: str, port: int = 0) -> str:
    """What was said, as one line that names the cause and the next step; `port` is the one that was asked for."""
    taken = re.search(r"(?:Bind for|host port for|listen tcp\d?) \S*?:(\d+)", said)
    if taken and int(taken[1]) != port:  # the other port that TLS needs
        return line(Kind.HTTP_PORT, port=taken[1])
    if found := _find(said):
        cause, matched = found
        whole = next(line for line in said.splitlines() if matched.splitlines()[0] in line)
        values = {"port": port, "other_port": port + 1, "line": whole.strip(), "base_image": _base_image()}
        return cause.message.format_map(_DEFAULTS | values)
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


def _find(said: str) -> tuple[Cause, str] | None:
    """The cause, and what of its pattern was found."""
    known = ((cause, re.search(cause.pattern, said)) for cause in _CAUSES if cause.pattern)
    return next(((cause, found.group()) for cause, found in known if found), None)


def _base_image() -> str:
    """How to make the base image from Debian's own packages, where this machine has them."""
    family = re.findall(r"(?m)^ID(?:_LIKE)?=\"?([^\"\n]*)", _OS_RELEASE.read_text() if _OS_RELEASE.exists() else "")
    if not {"debian", "ubuntu"} & set(" ".join(family).split()):
        return ""
    install = "" if shutil.which("mmdebstrap") else "sudo apt install mmdebstrap debian-archive-keyring && "
    return f"make it from Debian's packages (`{install}{_MAKE_A_BASE_IMAGE}`), "
