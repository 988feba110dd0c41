"""Under which name a browser finds this machine, for links and certificates."""

import ipaddress
import json
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from workspace.base import network, settings

EVERYWHERE = "0.0.0.0"  # noqa: S104  (the lesson's address is a public one; the firewall is the owner's)

TAG = "pytorch-workspace-host"
"""The tag (on Google: the attribute) by which a VM's owner tells the VM the name that the world knows it by."""

_DMI = Path("/sys/class/dmi/id")
_METADATA = "http://169.254.169.254"
_ANSWERS_WITHIN_S = 0.3


@dataclass(frozen=True)
class _Cloud:
    """A provider: how its machines are told from others, and where they learn about themselves."""

    file: str
    holds: str
    asks: dict[str, Callable[[str], str]]  # the best name first; with what finds the name in the answer
    headers: dict[str, str] = field(default_factory=dict)
    session: str | None = None  # where a token must be had first


def _azures_tag(answer: str) -> str:
    return next((tag["value"] for tag in json.loads(answer) if tag["name"] == TAG), "")


def _azures_load_balancer(answer: str) -> str:
    return json.loads(answer)["loadbalancer"]["publicIpAddresses"][0]["frontendIpAddress"]


_AZURES_ADDRESS = "/metadata/instance/network/interface/0/ipv4/ipAddress/0/publicIpAddress"

_CLOUDS = (
    _Cloud(
        "chassis_asset_tag",
        "7783-7084-3265-9085-8269-3286-77",  # Azure's; other machines are Microsoft's, too
        {
            "/metadata/instance/compute/tagsList?api-version=2021-02-01": _azures_tag,
            "/metadata/loadbalancer?api-version=2020-10-01": _azures_load_balancer,  # shows Standard addresses, too
            f"{_AZURES_ADDRESS}?api-version=2021-02-01&format=text": str.strip,
        },
        {"Metadata": "true"},
    ),
    _Cloud(
        "sys_vendor",
        "Amazon EC2",
        {
            f"/latest/meta-data/tags/instance/{TAG}": str.strip,
            "/latest/meta-data/public-hostname": str.strip,
            "/latest/meta-data/public-ipv4": str.strip,
        },
        session="/latest/api/token",
    ),
    _Cloud(
        "product_name",
        "Google Compute Engine",
        {
            f"/computeMetadata/v1/instance/attributes/{TAG}": str.strip,
            "/computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip": str.strip,
        },
        {"Metadata-Flavor": "Google"},
    ),
    _Cloud("sys_vendor", "Hetzner", {"/hetzner/v1/metadata/public-ipv4": str.strip}),
    _Cloud("sys_vendor", "DigitalOcean", {"/metadata/v1/interfaces/public/0/ipv4/address": str.strip}),
)


def host_name(bind: str, given: str | None = None) -> str:
    """The name for this machine's link, where the server listens on `bind`.

    In this order: `given`; WORKSPACE_PUBLIC_HOST of the environment or `.env`; `localhost` or `bind` itself, where it
    does not listen everywhere; the tag, then the public address, that a cloud's metadata tells; the machine's own name,
    if that can be resolved; `localhost`.
    """
    if name := given or settings.get("WORKSPACE_PUBLIC_HOST"):
        return name
    try:
        if bind != EVERYWHERE:
            return "localhost" if ipaddress.ip_address(bind).is_loopback else bind
        if name := in_the_cloud():
            return name
        name = socket.gethostname()
        socket.getaddrinfo(name, None)
    except (OSError, ValueError):
        return "localhost"
    return name


def is_name(text: str) -> bool:
    """Whether it may stand for the host in a link."""
    return re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", text) is not None


def in_the_cloud() -> str | None:
    """The name or address that a cloud's metadata tells, asked only where the machine says that it is a cloud's.

    It takes 0.3 s at most. That the metadata says nothing, or nothing of use, is no error.
    """
    cloud = next((cloud for cloud in _CLOUDS if _dmi(cloud.file) == cloud.holds), None)
    if not cloud:
        return None
    told: dict[str, str] = {}
    # Daemons: an answer that drips byte by byte keeps neither this command nor its end waiting.
    threads = [threading.Thread(target=_ask, args=(cloud, path, told), daemon=True) for path in cloud.asks]
    for thread in threads:
        thread.start()
    give_up = time.monotonic() + _ANSWERS_WITHIN_S
    for thread in threads:
        thread.join(max(0, give_up - time.monotonic()))
    return next((told[path] for path in cloud.asks if path in told), None)


def _dmi(file: str) -> str:
    try:
        return (_DMI / file).read_text().strip()
    except OSError:
        return ""


def _ask(cloud: _Cloud, path: str, told: dict[str, str]) -> None:
    """Put what the metadata says at `path` into `told`, if it says a name."""
    try:
        headers = dict(cloud.headers)
        if cloud.session:
            wanted = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
            headers["X-aws-ec2-metadata-token"] = _fetch(cloud.session, wanted, "PUT")
        name = cloud.asks[path](_fetch(path, headers))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return
    if is_name(name):
        told[path] = name


def _fetch(path: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(_METADATA + path, headers=headers, method=method)  # noqa: S310
    with network.directly().open(request, timeout=_ANSWERS_WITHIN_S) as answer:
        return answer.read(65536).decode()
