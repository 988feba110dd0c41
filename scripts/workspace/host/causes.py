"""Why Docker, BuildKit, uv or Caddy failed: from what they say to one line that names the cause and the next step."""

import enum
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from workspace.lab import access

_MAKE_A_BASE_IMAGE = (
    "mmdebstrap --variant=minbase --include=ca-certificates trixie - | docker import - debian:trixie-slim"
)
_OS_RELEASE = Path("/etc/os-release")


class Kind(enum.Enum):
    """What a failure is about."""

    ADDRESS = enum.auto()
    BASE_IMAGE = enum.auto()
    CADDY = enum.auto()
    CERTIFICATE = enum.auto()
    CONFLICT = enum.auto()
    CPUS = enum.auto()
    DISK = enum.auto()
    ENGINE = enum.auto()
    GPU = enum.auto()
    PACKAGES = enum.auto()
    PORT = enum.auto()
    SYSTEM = enum.auto()


@dataclass(frozen=True)
class Cause:
    """A failure of one kind: the pattern of what is said, and the line for the user."""

    kind: Kind
    pattern: str
    message: str


_CAUSES = (  # the first that matches counts
    Cause(
        Kind.PORT,
        r"port is already allocated|address already in use|ports are not available",
        "port {port} is taken by another program; choose another: scripts/start --port {other_port}",
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
        Kind.GPU,
        r"nvidia-container-cli: device error",
        "WORKSPACE_GPUS names a GPU that this machine does not have; `nvidia-smi -L` lists them",
    ),
    Cause(
        Kind.GPU,
        r"could not select device driver|unknown or invalid runtime name: nvidia|unresolvable CDI devices"
        r"|no known GPU vendor found",
        "Docker cannot reach a GPU: this machine has none, or the NVIDIA Container Toolkit (1.17.8 or newer) is not "
        "set up: `sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker`. "
        "Without --gpu the workspace runs on the CPU",
    ),
    Cause(
        Kind.GPU,
        r"nvidia-container-cli: initialization error|libnvidia-ml\.so|driver.*not loaded|nvml error",
        "the NVIDIA Container Toolkit is there but the GPU's driver is not: `nvidia-smi` must work here first",
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
    Cause(Kind.ENGINE, r"unknown flag: start-interval", "Docker Engine 25 or newer is needed"),
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


def explain(said: str, port: int = 0) -> str:
    """What was said, as one line that names the cause and the next step; `port` is the one that was asked for."""
    taken = re.search(r"(?:Bind for|host port for|listen tcp\d?) \S*?:(\d+)", said)
    if taken and int(taken[1]) != port:  # the other port that TLS needs
        return f"port {taken[1]} is taken by another program; choose another: WORKSPACE_HTTP_PORT=8080"
    if found := _find(said):
        cause, matched = found
        line = next(line for line in said.splitlines() if matched.splitlines()[0] in line)
        return cause.message.format(port=port, other_port=port + 1, line=line.strip(), base_image=_base_image())
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|failed|cannot|denied", line, re.IGNORECASE)]
    return (errors or lines or ["it gave no reason"])[-1]


def _find(said: str) -> tuple[Cause, str] | None:
    """The cause, and what of its pattern was found."""
    return next(((cause, found.group()) for cause in _CAUSES if (found := re.search(cause.pattern, said))), None)


def _base_image() -> str:
    """How to make the base image from Debian's own packages, where this machine has them."""
    family = re.findall(r"(?m)^ID(?:_LIKE)?=\"?([^\"\n]*)", _OS_RELEASE.read_text() if _OS_RELEASE.exists() else "")
    if not {"debian", "ubuntu"} & set(" ".join(family).split()):
        return ""
    install = "" if shutil.which("mmdebstrap") else "sudo apt install mmdebstrap debian-archive-keyring && "
    return f"make it from Debian's packages (`{install}{_MAKE_A_BASE_IMAGE}`), "
