"""What this machine must have for a workspace in Docker: found out in a moment, before anything is built."""

import errno
import functools
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from workspace.base import programs, verdicts
from workspace.base.verdicts import Verdict
from workspace.host import address, compose, engine
from workspace.host.causes import Cause
from workspace.host.compose import Workspace
from workspace.lab import preflight

MACHINE = Path("/")

_FIRST_PORT, _FIRST_OF_ALL_USERS = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start"), 1024
_FULL, _FEW = 64 << 20, 2 << 30


def require(workspace: Workspace) -> None:
    """Make sure that nothing of this machine keeps the workspace from starting. Raises UserError with the first."""
    for looked in (cpus, folder, disk, port):
        looked(workspace).require()


def cpus(workspace: Workspace) -> Verdict:
    """Whether the engine has as many CPUs as are asked for, and sets the limits that are."""
    has, asked = (
        engine.info().get("NCPU", 0),
        float(workspace.configuration["services"][compose.SERVICE].get("cpus", 0)),
    )
    if has and asked > has:
        return Cause.CPUS.broken(line=f"{asked:g} asked for, {has} there")
    told = [line.removeprefix("WARNING: ") for line in engine.info().get("Warnings") or () if "limit" in line]
    if told:
        return verdicts.warning(
            "engine-limits", f"the engine cannot keep to every limit of docker-compose.yml: {told[0]}"
        )
    memory, rootless = engine.info().get("MemTotal", 0) / 2**30, ", rootless" * _is_rootless()
    return verdicts.well(f"{has} CPUs, {memory:.1f} GiB of memory{rootless}", cpus=has, memory_gib=f"{memory:.1f}")


def folder(workspace: Workspace) -> Verdict:
    """Whether the container's user may write to the folder that the work is in."""
    service = workspace.configuration["services"][compose.SERVICE]
    mount = next(mount for mount in service["volumes"] if mount["target"] == "/workspace")
    if mount["type"] != "bind":
        return verdicts.well("the work is in a volume of Docker's")
    place, (uid, gid) = Path(mount["source"]), map(int, service["user"].split(":"))
    if _is_elsewhere() or _is_rootless() or sys.platform != "linux":
        return verdicts.unseen("folder-elsewhere", "users have other numbers in there than here")
    if not place.is_dir():
        return verdicts.broken(
            "folder-missing", f"there is no folder {place}, and Docker would make it root's: mkdir {place}"
        )
    is_his = place.stat()
    allowed = 0o300 if is_his.st_uid == uid else 0o030 if is_his.st_gid == gid else 0o003
    if is_his.st_mode & allowed != allowed and "system.posix_acl_access" not in os.listxattr(place):
        return verdicts.broken("folder-owner", preflight.not_writable(place, is_his.st_uid, uid, gid, place))
    return verdicts.well("the folder of the work is the container's user's")


def disk(workspace: Workspace) -> Verdict:
    """Whether the disk that the engine keeps images and volumes on has room."""
    return room(Path(engine.info().get("DockerRootDir") or "/nowhere"), built=engine.has_image(workspace.image()))


def room(place: Path, *, built: bool) -> Verdict:
    """Whether the engine's own folder `place` has room, for the image, too, unless that is built."""
    if _is_elsewhere() or not place.is_dir():
        return verdicts.unseen("disk-elsewhere", "the engine's disk cannot be seen from here")
    free = shutil.disk_usage(place).free
    if free < _FULL:
        return Cause.DISK_FULL.broken()
    gb = f"{free / 1e9:.1f}"
    if free < _FEW and not built:
        return verdicts.warning(
            "disk-nearly-full", f"{gb} GB are free, and the image takes 2 to 7: docker system df", free_gb=gb
        )
    return verdicts.well(f"{gb} GB are free for images and volumes", free_gb=gb)


def port(workspace: Workspace) -> Verdict:
    """Whether the ports that the workspace is to be opened on are free, or its own; else whose they are."""
    if _is_elsewhere():
        return verdicts.unseen("port-elsewhere", "the engine is on another machine")
    ours = f"com.docker.compose.project={workspace.project}"
    for bind, number in _ports(workspace):
        listed = programs.ask("docker", "ps", "--filter", f"publish={number}", "--format", "{{json .}}").stdout
        containers = [json.loads(line) for line in listed.splitlines()]
        if any(ours in each["Labels"].split(",") for each in containers):
            continue
        if number < _FIRST_OF_ALL_USERS and _is_rootless() and number < _first_of_all_users():
            return Cause.ROOTLESS_PORT.broken()
        owner = f"the container {containers[0]['Names']}" if containers else None
        if found := trouble(bind, number, owner, http=workspace.tls and number != workspace.port()):
            return found
    numbers = ", ".join(str(number) for _, number in _ports(workspace))
    return verdicts.well(f"{numbers}: nobody else's, on {workspace.bind()}", port=workspace.port())


def trouble(
    bind: str, number: int, owner: str | None = None, *, http: bool = False, natively: bool = False
) -> Verdict | None:
    """What keeps the engine, or this user `natively`, from listening there; `owner`: who does, where that is known."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, number))
        except PermissionError:
            if natively:
                return Cause.ROOT_PORT.broken(port=number)
            with socket.socket() as other:
                is_taken = other.connect_ex(("127.0.0.1", number)) == 0
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return Cause.ADDRESS.broken()
            is_taken = True
        else:
            is_taken = False
    values = {"port": number, "other_port": number + 1, "whose": owner or _program(number)}
    return (Cause.HTTP_PORT if http else Cause.PORT).broken(**values) if is_taken else None


def firewall(bind: str, number: int, *, in_docker: bool, root: Path = MACHINE) -> Verdict:
    """Whether this machine's own firewall is on, which does not do with Docker's ports what it does with others."""
    if bind.startswith("127."):
        return verdicts.well("the port is open to this machine alone, so nobody needs to be kept out")
    ufw = root / "etc/ufw/ufw.conf"
    if ufw.exists() and re.search(r"(?m)^ENABLED=yes", ufw.read_text()):
        name, opens = "ufw", f"sudo ufw allow {number}/tcp"
    elif programs.ask("firewall-cmd", "--state").stdout.strip() == "running":
        name, opens = "firewalld", f"sudo firewall-cmd --add-port={number}/tcp"
    else:
        return verdicts.well("none of this machine's own (a cloud has one before it: ask from outside, --of LINK)")
    if in_docker:
        text = f"{name} is on, and Docker's ports go past it: {number} is open; --bind 127.0.0.1 closes it"
        return verdicts.warning("firewall-passed", text)
    return verdicts.warning(
        "firewall-closed", f"{name} is on: unless it lets port {number} in, only this machine reaches it: {opens}"
    )


def _ports(workspace: Workspace) -> Iterator[tuple[str, int]]:
    services = workspace.configuration["services"]
    for name in (compose.SERVICE, compose.TLS):
        for port in services.get(name, {}).get("ports", ()):
            yield port.get("host_ip", address.EVERYWHERE), int(port["published"])


def _is_rootless() -> bool:
    return "name=rootless" in (engine.info().get("SecurityOptions") or ())


def _first_of_all_users() -> int:
    """The first port that users other than root may open."""
    return int(_FIRST_PORT.read_text()) if _FIRST_PORT.exists() else _FIRST_OF_ALL_USERS


def _program(number: int) -> str:
    """The program that has a port, where this user may know."""
    found = re.search(r'\("([^"]+)",pid=(\d+)', programs.ask("ss", "-ltnpH", f"sport = :{number}").stdout)
    return f"{found[1]} (process {found[2]})" if found else "another program"


def _is_elsewhere() -> bool:
    """Whether the engine is on another machine, whose ports, disk and folders are not these."""
    return (os.environ.get("DOCKER_HOST") or _contexts_address()).startswith(("tcp:", "ssh:"))


@functools.cache
def _contexts_address() -> str:
    return programs.ask("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}").stdout
