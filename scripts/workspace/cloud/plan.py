"""What is made in Azure, step by step, each with its command; from what a person wishes, which is checked here."""

import ipaddress
import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from workspace.base import cli, places, programs
from workspace.base.cli import UserError
from workspace.cloud import machine
from workspace.host import address

USER = "azureuser"
PLACE = "/opt/pytorch-workspace"

_IMAGE = "Canonical:ubuntu-24_04-lts:server:latest"
_CPU_SIZE, _GPU_SIZE = "Standard_D4s_v5", "Standard_NC4as_T4_v3"
_WHO_AM_I = "https://api.ipify.org"
_LARGEST_NETWORK = 16  # bits that are fixed


@dataclass(frozen=True)
class Vm:
    """A VM, and a resource group of that name with all that belongs to it."""

    name: str
    region: str = "swedencentral"
    subscription: str | None = None

    def __post_init__(self) -> None:
        """Raise UserError for a name that Azure does not take."""
        if not re.fullmatch(r"[a-z][a-z0-9-]{1,50}[a-z0-9]", self.name):
            raise UserError(f"--name {self.name}: 3 to 52 small letters, digits and -, a letter first", cli.BAD_INPUT)

    @property
    def host(self) -> str:
        """Its name for the world."""
        return f"{self.name}.{self.region}.cloudapp.azure.com"

    @property
    def it(self) -> list[str]:
        """How a command names it."""
        return ["--resource-group", self.name, "--name", self.name]

    @property
    def rules(self) -> list[str]:
        """How a command names its network security group, whose rules say who gets in."""
        return ["--resource-group", self.name, "--nsg-name", f"{self.name}-nsg"]

    @property
    def role(self) -> str:
        """The role by which it may deallocate itself."""
        return f"pytorch-workspace {self.name} deallocate"


@dataclass(frozen=True)
class Wishes:
    """What a VM is made like."""

    gpu: bool = False
    spot: bool = False
    size: str | None = None
    tls: bool = False
    tunnel: bool = False
    shutdown: str | None = None
    idle: int = 0
    source: str | None = None
    repository: str | None = None
    commit: str | None = None

    def __post_init__(self) -> None:
        """Raise UserError for what cannot be meant."""
        if self.shutdown and not re.fullmatch(r"([01]\d|2[0-3])[0-5]\d", self.shutdown):
            raise UserError(f"--shutdown {self.shutdown}: write the hour as HHMM, in UTC, such as 1900", cli.BAD_INPUT)
        if self.idle and self.idle < machine.LEAST_IDLE_MIN:
            raise UserError(f"--idle {self.idle}: at least {machine.LEAST_IDLE_MIN} minutes", cli.BAD_INPUT)

    @property
    def its_size(self) -> str:
        """The size in Azure's words."""
        return self.size or (_GPU_SIZE if self.gpu else _CPU_SIZE)


def steps(vm: Vm, wishes: Wishes, owner: str, source: str, config: str) -> Iterator[tuple[str, list[str]]]:
    """What is made, each with its command. All but `virtual machine` may be done again."""
    tags = ["purpose=pytorch-workspace", f"owner={owner}"]
    yield "resource group", ["group", "create", "--name", vm.name, "--location", vm.region, "--tags", *tags]
    group = ["--resource-group", vm.name, "--name", f"{vm.name}-nsg"]
    yield "network security group", ["network", "nsg", "create", *group]
    ports = [22] if wishes.tunnel else [22, 80, 443] if wishes.tls else [22, 8888]
    for number, port in enumerate(ports):
        rule = ["network", "nsg", "rule", "create", *vm.rules, "--name", f"allow-{port}"]
        rule += ["--priority", str(1000 + 10 * number), "--access", "Allow", "--direction", "Inbound"]
        rule += ["--protocol", "Tcp", "--source-address-prefixes", source, "--destination-port-ranges", str(port)]
        yield f"port {port} for {source}", rule
    make = ["vm", "create", *vm.it, "--image", _IMAGE, "--size", wishes.its_size, "--tags", f"{address.TAG}={vm.host}"]
    make += ["--admin-username", USER, "--generate-ssh-keys", "--custom-data", config]
    # NONE: else a rule is made that opens port 22 to everybody.
    make += ["--nsg", f"{vm.name}-nsg", "--nsg-rule", "NONE"]
    make += ["--public-ip-sku", "Standard", "--public-ip-address-dns-name", vm.name]
    make += ["--storage-sku", "Premium_LRS", "--os-disk-size-gb", "128" if wishes.gpu else "64"]
    make += ["--os-disk-delete-option", "Delete", "--nic-delete-option", "Delete"]
    make += ["--enable-secure-boot", "false"] if wishes.gpu else []  # whatever signs the driver's modules
    make += ["--priority", "Spot", "--eviction-policy", "Deallocate", "--max-price", "-1"] if wishes.spot else []
    yield "virtual machine", make
    if wishes.shutdown:
        yield shutdown(vm, wishes.shutdown)


def shutdown(vm: Vm, hour: str) -> tuple[str, list[str]]:
    """Azure's own deallocation by the clock."""
    return f"shutdown at {hour} UTC", ["vm", "auto-shutdown", *vm.it, "--time", hour]


def identity(vm: Vm, subscription: str, principal: str) -> Iterator[tuple[str, list[str]]]:
    """What lets the VM deallocate itself, and do nothing else; `principal` is its identity."""
    group = f"/subscriptions/{subscription}/resourceGroups/{vm.name}"
    role = {"Name": vm.role, "IsCustom": True, "Actions": ["Microsoft.Compute/virtualMachines/deallocate/action"]}
    role |= {"Description": "A workspace's VM deallocates itself when idle", "AssignableScopes": [group]}
    yield "role", ["role", "definition", "create", "--role-definition", json.dumps(role)]
    assign = ["role", "assignment", "create", "--role", vm.role]
    assign += ["--assignee-object-id", principal, "--assignee-principal-type", "ServicePrincipal"]
    assign += ["--scope", f"{group}/providers/Microsoft.Compute/virtualMachines/{vm.name}"]
    yield "the VM may deallocate itself", assign


def cloud_config(vm: Vm, wishes: Wishes) -> str:
    """What the VM does at its first boot. There is no secret in it: many may read it. Raises as `_origin` does."""
    repository, commit = _origin(wishes)
    settings = {"WORKSPACE_PUBLIC_HOST": "localhost" if wishes.tunnel else vm.host}
    settings |= {"WORKSPACE_BIND": "127.0.0.1"} if wishes.tunnel else {}
    settings |= {"WORKSPACE_TLS_ISSUER": "internal"} if wishes.tls else {}  # Let's Encrypt: ports open to everybody
    command = ["python3", "/usr/local/sbin/bootstrap-vm", "--repository", repository, "--commit", commit]
    command += (["--idle", str(wishes.idle)] if wishes.idle else []) + ["--tls"] * wishes.tls
    script = (places.REPOSITORY / "scripts" / "bootstrap-vm").read_text()
    files = [
        {"path": command[1], "permissions": "0755", "content": script},
        {"path": f"{PLACE}/.env", "content": "".join(f"{name}={value}\n" for name, value in settings.items())},
    ]
    return "#cloud-config\n" + json.dumps({"write_files": files, "runcmd": [command]}, indent=1) + "\n"


def source(given: str | None, *, dry_run: bool = False) -> str:
    """The addresses to let in. Raises UserError where they are everybody's, or nobody's on the internet."""
    if not given and dry_run:
        return "YOUR-ADDRESS"
    if not given:
        try:
            with urllib.request.urlopen(_WHO_AM_I, timeout=10) as answer:
                given = answer.read(64).decode().strip()
        except OSError as error:
            raise UserError(
                "your public address cannot be found: give it, as --allow ADDRESS", cli.BAD_INPUT
            ) from error
        cli.say(f"Your address, as {_WHO_AM_I} sees it: {given}")
    try:
        network = ipaddress.IPv4Network(given)
    except ValueError as error:
        raise UserError(f"{given} is no IPv4 address, nor a network such as 8.8.8.0/24", cli.BAD_INPUT) from error
    if network.prefixlen < _LARGEST_NETWORK or not network.is_global:
        raise UserError(
            f"{given} is not where you are in the internet: your public address, or a network of at most "
            f"/{_LARGEST_NETWORK}",
            cli.BAD_INPUT,
        )
    return str(network)


def _origin(wishes: Wishes) -> tuple[str, str]:
    """Where the VM fetches the workspace from: as asked, else this checkout's origin and commit, if it is there."""
    repository = wishes.repository or _git("remote", "get-url", "origin")
    if not repository.startswith("https://"):
        raise UserError(f"the VM cannot fetch from {repository or 'nowhere'}: --repository https://...", cli.BAD_INPUT)
    if wishes.repository or wishes.commit:
        return repository, wishes.commit or "HEAD"
    if not _git("branch", "--remotes", "--contains", "HEAD"):
        raise UserError("this checkout's commit is not at its origin: push it, or name one: --commit", cli.BAD_INPUT)
    return repository, _git("rev-parse", "HEAD")


def _git(*words: str) -> str:
    return programs.ask("git", "-C", places.REPOSITORY, *words).stdout.strip()
