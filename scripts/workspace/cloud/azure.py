"""A workspace on a VM in Azure: from nothing to the link, and down to nothing again."""

import getpass
import json
import re
import secrets
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from workspace.base import cli, places, programs
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.base.terminal import StatusLine, duration
from workspace.cloud import az as azure_cli
from workspace.cloud import machine, plan
from workspace.cloud.az import Az, RefusedError
from workspace.cloud.plan import Vm, Wishes

_RECORD = places.NATIVE / "azure.json"
_KNOWN_HOSTS = places.NATIVE / "azure-known-hosts"
_PRICES = "https://prices.azure.com/api/retail/prices"
_LOOK = (
    f"sudo {plan.PLACE}/scripts/link 2>/dev/null || "
    f"{{ sudo tail --lines=1 {machine.LOG} 2>/dev/null; cloud-init status 2>/dev/null; true; }}"
)
"""Asks the VM for its link, and else how far it is."""

_BOOTSTRAP_AGAIN = "sudo sh /var/lib/cloud/instance/scripts/runcmd"
"""What the VM did at its first boot, with the same options."""

_UP_WITHIN_S = 3600
_LOOKS_EVERY_S = 5
_BOOTS_WITHIN_S, _REACHED_WITHIN_S = 240, 20  # until ssh counts as blocked


def find(name: str | None, region: str | None, subscription: str | None) -> Vm:
    """The VM that a command means: what is named, else the one made from this checkout last. Raises UserError."""
    last = json.loads(_RECORD.read_text()) if _RECORD.exists() else {}
    given = {"name": name, "region": region, "subscription": subscription}
    known = last if name in (None, last.get("name")) else {}
    both = known | {word: value for word, value in given.items() if value}
    if "name" not in both:
        raise UserError("no VM was made from this checkout: scripts/azure up, or name another's: --name", cli.BAD_INPUT)
    return Vm(**both)


def new_name() -> str:
    """A name that nobody else takes for a VM of theirs."""
    return f"pytorch-{re.sub('[^a-z0-9]', '', getpass.getuser().lower())[:12]}-{secrets.token_hex(2)}"


def up(
    name: str | None, region: str | None, subscription: str | None, wishes: Wishes, *, dry_run: bool = False
) -> None:
    """Make a VM, or go on where an earlier attempt ended, and print its link. Raises UserError; what exists is said."""
    vm = find(name or (None if _RECORD.exists() else new_name()), region, subscription)
    az = Az(vm.subscription, vm.region, dry_run)
    config = plan.cloud_config(vm, wishes)
    source = plan.source(wishes.source, dry_run=dry_run)
    payer = {"user": {"name": "YOU"}, "id": "SUBSCRIPTION"} if dry_run else azure_cli.account(vm.subscription)
    made = _is_made(az, vm, payer["user"]["name"])
    if not made:
        _require_room(az, vm, wishes)
    with _remembering(vm, dry_run=dry_run), tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "cloud-init.yaml")
        file.write_text(config)
        shown = file.name if dry_run else str(file)
        for doing, words in plan.steps(vm, wishes, payer["user"]["name"], source, shown):
            if not (made and doing == "virtual machine"):
                az(*words, doing=doing)
        if wishes.idle:
            _lend_identity(az, vm, wishes, payer["id"])
        if not dry_run:
            _print_link(az, vm, _BOOTS_WITHIN_S)


def allow(vm: Vm, source: str | None) -> None:
    """Let in this address alone, in place of the one that was."""
    source, az = plan.source(source), _az(vm)
    for rule in az("network", "nsg", "rule", "list", *vm.rules):
        words = ["network", "nsg", "rule", "update", *vm.rules, "--name", rule["name"]]
        az(*words, "--source-address-prefixes", source, doing=rule["name"])
    cli.say(f"{vm.host} lets in {source} alone.")


def link(vm: Vm) -> None:
    """Print the link."""
    az = _az(vm)
    state = az("vm", "show", "--show-details", *vm.it)["powerState"]
    if state != "VM running":
        raise UserError(f"it does not run ({state}): scripts/azure start")
    _print_link(az, vm, _REACHED_WITHIN_S)


def status(vm: Vm) -> None:
    """What runs and what it costs."""
    shown = _az(vm)("vm", "show", "--show-details", *vm.it)
    size, spot = shown["hardwareProfile"]["vmSize"], shown.get("priority") == "Spot"
    cli.say(f"{vm.host}: {shown['powerState']}, {size}{', spot' if spot else ''}")
    cli.say(f"While it runs: {_price(vm.region, size, spot=spot)}, and its disk and public address.")
    cli.say("Deallocated: its disk and public address. After scripts/azure down: nothing.")


def stop(vm: Vm) -> None:
    """Deallocate it: the disk, with all work on it, stays."""
    _az(vm)("vm", "deallocate", *vm.it, doing="deallocate")
    cli.say("Its disk is kept, and still costs, as does the public address. scripts/azure start, or down for good.")


def start(vm: Vm, size: str | None) -> None:
    """Start it again, in another size if one is given, and print its link."""
    az = _az(vm)
    if size:
        az("vm", "deallocate", *vm.it, doing="deallocate")
        az("vm", "resize", *vm.it, "--size", size, doing=f"resize to {size}")
    az("vm", "start", *vm.it, doing="start")
    if size:  # there may be a GPU now, or none any more: the driver, the image and the unit follow
        programs.wait_until(lambda: _ssh(vm, _BOOTSTRAP_AGAIN) is not None, _BOOTS_WITHIN_S, every_s=_LOOKS_EVERY_S)
    _print_link(az, vm, _BOOTS_WITHIN_S)


def down(vm: Vm, *, yes: bool) -> None:
    """Delete the VM and all that belongs to it, having named that and asked; see that nothing is left."""
    az = _az(vm)
    if az("group", "exists", "--name", vm.name):
        for each in az("resource", "list", "--resource-group", vm.name):
            cli.say(f"  {each['type'].rpartition('/')[2]:24}{each['name']}")
        if not yes and not _agrees(f"Delete all of it, and the work on its disk? Type {vm.name} for yes: ", vm.name):
            raise UserError("nothing is deleted")
        with suppress(RefusedError):  # where no role could be made, either
            for each in az("role", "assignment", "list", "--role", vm.role, "--all"):
                az("role", "assignment", "delete", "--ids", each["id"])
            az("role", "definition", "delete", "--name", vm.role)
        az("group", "delete", "--name", vm.name, "--yes", doing="delete")
        if az("group", "exists", "--name", vm.name):
            raise UserError(f"the resource group {vm.name} is still there: scripts/azure down again")
    for file in (_RECORD, _KNOWN_HOSTS):
        file.unlink(missing_ok=True)
    cli.say("Nothing is left.")


def _az(vm: Vm) -> Az:
    azure_cli.account(vm.subscription)
    return Az(vm.subscription, vm.region)


def _agrees(question: str, yes: str) -> bool:
    try:
        return input(question) == yes
    except EOFError:
        return False


def _is_made(az: Az, vm: Vm, owner: str) -> bool:
    """Whether the VM is there. Raises UserError where its resource group is somebody else's."""
    groups = az("group", "list", "--query", f"[?name=='{vm.name}']", dry=[])
    if not groups:
        return False
    theirs = (groups[0].get("tags") or {}).get("owner")
    if theirs != owner:
        raise UserError(f"the resource group {vm.name} is {theirs or 'somebody else'}'s: another --name", cli.BAD_INPUT)
    return any(each["provisioningState"] == "Succeeded" for each in az("vm", "list", "--resource-group", vm.name))


def _require_room(az: Az, vm: Vm, wishes: Wishes) -> None:
    """Raise UserError where the region does not offer the size, or the subscription has no quota for it."""
    size = wishes.its_size
    asked = ["vm", "list-skus", "--size", size, "--resource-type", "virtualMachines"]
    here = az(*asked, "--location", vm.region, doing="sizes")
    usage = az("vm", "list-usage", "--location", vm.region, doing="quota")
    if az.dry_run:
        return
    offers = [sku for sku in here if sku["name"] == size and not sku["restrictions"]]
    if not offers:
        everywhere = [sku for sku in az(*asked) if sku["name"] == size and not sku["restrictions"]]
        regions = ", ".join(sorted({sku["locations"][0].lower() for sku in everywhere})) or "no region"
        raise UserError(f"{vm.region} has no {size} for your subscription: another --size, or --region: {regions}")
    needed = int(next(each["value"] for each in offers[0]["capabilities"] if each["name"] == "vCPUs"))
    counted = {"lowprioritycores"} if wishes.spot else {offers[0]["family"].lower(), "cores"}
    for quota in usage:
        left = int(quota["limit"]) - int(quota["currentValue"])
        if quota["name"]["value"].lower() in counted and left < needed:
            raise UserError(
                f"{size} needs {needed} cores, and of '{quota['name']['localizedValue']}' in {vm.region} your quota "
                f"has {left} of {quota['limit']} left: ask for more in the portal under Quotas, or another --size or "
                "--region"
            )


def _lend_identity(az: Az, vm: Vm, wishes: Wishes, subscription: str) -> None:
    """Let the VM deallocate itself, and nothing else; where that cannot be had, it stops by the clock."""
    try:
        lent = az("vm", "identity", "assign", *vm.it, doing="identity", dry={"systemAssignedIdentity": "PRINCIPAL"})
        for doing, words in plan.identity(vm, subscription, lent["systemAssignedIdentity"]):
            az(*words, doing=doing)
    except RefusedError as error:
        doing, words = plan.shutdown(vm, wishes.shutdown or "1900")
        cli.say(f"--idle is off, since the VM may not be lent an identity ({error}); in its place: {doing}, every day")
        az(*words, doing=doing)


@contextmanager
def _remembering(vm: Vm, *, dry_run: bool) -> Iterator[None]:
    """Remember the VM before the first of it is made; whatever ends the block early says what may be there."""
    if dry_run:
        yield
        return
    places.NATIVE.mkdir(exist_ok=True, mode=0o700)
    with replacing(_RECORD) as record:
        record.write_text(json.dumps(asdict(vm)))
    try:
        yield
    except BaseException:
        cli.say(
            f"What there is by now is in the resource group {vm.name}, and may cost: scripts/azure up goes on, "
            f"scripts/azure down --name {vm.name} removes it."
        )
        raise


def _print_link(az: Az, vm: Vm, ssh_within_s: float) -> None:
    """Wait until the workspace is up, and print its link, which the VM tells over ssh, or else by Azure's agent."""
    reached, restarted = time.monotonic(), False
    with StatusLine() as line:

        def look() -> str | None:
            nonlocal reached, restarted
            said = _ssh(vm, _LOOK)
            if said is None and time.monotonic() - reached < ssh_within_s:
                line.show(f"{vm.host}: waiting for ssh")
                return None
            if said is None:
                line.clear()
                cli.say("ssh does not get there (has your address changed? scripts/azure allow); asking Azure's agent")
                message = az(
                    "vm", "run-command", "invoke", *vm.it, "--command-id", "RunShellScript", "--scripts", _LOOK
                )
                said = re.sub(r"(?s).*\[stdout\]|\[stderr\].*", "", message["value"][0]["message"])
            else:
                reached = time.monotonic()
            *_, step, state = ["", "", *said.strip().splitlines()]
            if state.startswith("http"):
                return state
            if machine.REBOOT in step and not restarted:
                az("vm", "restart", *vm.it, doing="reboot")
                restarted = True
            elif re.fullmatch("status: (done|error)", state) and not restarted:
                more = f"ssh {plan.USER}@{vm.host} cat {machine.LOG} /var/log/cloud-init-output.log"
                raise UserError(
                    f"the VM is there and its workspace is not: {step or 'it is silent'} (all of it: {more})"
                )
            line.show(f"{vm.host}: {step or 'booting'}")
            return None

        found = programs.wait_until(look, _UP_WITHIN_S, every_s=_LOOKS_EVERY_S)
    if not found:
        raise UserError(f"the workspace is not up after {duration(_UP_WITHIN_S)}: scripts/azure link looks again")
    if "//localhost:" in found:
        cli.say(f"ssh -L 8888:localhost:8888 {plan.USER}@{vm.host}    # leave it open; then")
    cli.say(found)


def _ssh(vm: Vm, command: str) -> str | None:
    """What the command says on the VM; None where ssh does not get there."""
    options = ["BatchMode=yes", "ConnectTimeout=10", "StrictHostKeyChecking=accept-new"]
    options += [f"UserKnownHostsFile={_KNOWN_HOSTS}"]
    words = ["ssh", *(f"-o{option}" for option in options), f"{plan.USER}@{vm.host}", command]
    done = programs.ask(*words, stdin=subprocess.DEVNULL)
    return None if done.returncode == 255 else done.stdout


def _price(region: str, size: str, *, spot: bool) -> str:
    """What an hour costs, by Azure's public list."""
    wanted = f"armRegionName eq '{region}' and armSkuName eq '{size}' and priceType eq 'Consumption'"
    try:
        asked = f"{_PRICES}?{urllib.parse.urlencode({'$filter': wanted})}"
        with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
            items = json.load(answer)["Items"]
    except (OSError, ValueError, KeyError):
        return "a price that cannot be asked for now (azure.microsoft.com/pricing)"
    linux = [item for item in items if "Windows" not in item["productName"] and "Low Priority" not in item["skuName"]]
    prices = [item["retailPrice"] for item in linux if ("Spot" in item["skuName"]) == spot]
    return f"{min(prices):.3f} USD an hour by the public list" if prices else "a price that is not listed"
