"""A small model of Azure, in place of `az`: what is there is in a file, and each command line in another.

In the same folder `fail` holds lines of `beginning of a command|what Azure says`: that command fails so, and a VM whose
creation fails has left its network behind, as in Azure.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

SKUS = {"Standard_D4s_v5": ("standardDSv5Family", 4), "Standard_NC4as_T4_v3": ("Standard NCASv3_T4 Family", 4)}
START: dict[str, Any] = {
    "version": "2.91.0",
    "accounts": [{"id": "sub-1", "name": "Lesson", "user": {"name": "anna@example.org"}}],
    "groups": {},
    "labels": {},
    "roles": [],
    "used": 0,
    "limit": 10,
}


def option(words: list[str], name: str) -> str:
    return words[words.index(f"--{name}") + 1] if f"--{name}" in words else ""


def options(words: list[str], name: str) -> list[str]:
    """All the values of an option that takes several."""
    rest = words[words.index(f"--{name}") + 1 :]
    end = next((number for number, word in enumerate(rest) if word.startswith("--")), len(rest))
    return rest[:end]


class RefusedError(Exception):
    """Azure says no."""


def refuse(why: str) -> NoReturn:
    raise RefusedError(f"ERROR: {why}\n")


def answer(state: dict[str, Any], words: list[str], folder: Path) -> Any:  # noqa: ANN401
    """What Azure answers, having done it."""
    name = option(words, "name")
    group = state["groups"].get(option(words, "resource-group") or name)
    command = " ".join(itertools.takewhile(lambda word: not word.startswith("-"), words))
    tags = dict(tag.split("=", 1) for tag in options(words, "tags")) if "--tags" in words else {}
    if group is None and "--resource-group" in words:
        refuse(f"(ResourceGroupNotFound) Resource group '{option(words, 'resource-group')}' could not be found.")
    match command:
        case "version":
            return {"azure-cli": state["version"]}
        case "account list":
            return state["accounts"]
        case "group list":
            return [
                {"name": each, "tags": made["tags"]}
                for each, made in state["groups"].items()
                if f"'{each}'" in words[3]
            ]
        case "group exists":
            return name in state["groups"]
        case "group create":
            state["groups"].setdefault(name, {"rules": {}, "vms": {}, "other": []})["tags"] = tags
        case "group delete":
            del state["groups"][name]
            state["labels"] = {label: owner for label, owner in state["labels"].items() if owner != name}
        case "network nsg create":
            group["other"].append({"type": "Microsoft.Network/networkSecurityGroups", "name": name})
        case "network nsg rule create" | "network nsg rule update":
            group["rules"][name] = options(words, "source-address-prefixes")
        case "network nsg rule list":
            return [{"name": each} for each in group["rules"]]
        case "resource list":
            return group["other"]
        case "vm list-skus":
            region = option(words, "location") or "westeurope"
            family, cores = SKUS[option(words, "size")]
            if region == "nowhere":
                return []
            sku = {"name": option(words, "size"), "restrictions": [], "locations": [region], "family": family}
            return [sku | {"capabilities": [{"name": "vCPUs", "value": str(cores)}]}]
        case "vm list-usage":
            usage = {"currentValue": str(state["used"]), "limit": str(state["limit"])}
            families = [family for family, _ in SKUS.values()] + ["lowPriorityCores"]
            return [{"name": {"value": each, "localizedValue": each}} | usage for each in families]
        case "vm create":
            label = option(words, "public-ip-address-dns-name")
            if state["labels"].setdefault(label, option(words, "resource-group")) != option(words, "resource-group"):
                refuse(f"(DnsRecordInUse) DNS record {label} is already used by another public IP.")
            spot = "Spot" if "--priority" in words else "Regular"
            group["vms"][name] = {"size": option(words, "size"), "power": "VM running", "tags": tags, "priority": spot}
            group["other"].append({"type": "Microsoft.Compute/virtualMachines", "name": name})
            group["custom-data"] = Path(option(words, "custom-data")).read_text()
        case "vm list":
            return [{"name": each, "provisioningState": "Succeeded"} for each in group["vms"]]
        case "vm show":
            vm = group["vms"][name]
            return {"powerState": vm["power"], "hardwareProfile": {"vmSize": vm["size"]}, "priority": vm["priority"]}
        case "vm deallocate":
            group["vms"][name]["power"] = "VM deallocated"
        case "vm start" | "vm restart":
            group["vms"][name]["power"] = "VM running"
        case "vm resize":
            group["vms"][name]["size"] = option(words, "size")
        case "vm auto-shutdown":
            group["vms"][name]["shutdown"] = option(words, "time")
        case "vm identity assign":
            return {"systemAssignedIdentity": "principal-1"}
        case "vm run-command invoke":
            told = (folder / "agent").read_text()
            return {"value": [{"message": f"Enable succeeded: \n[stdout]\n{told}\n\n[stderr]\n"}]}
        case "role definition create":
            state["roles"].append(json.loads(option(words, "role-definition")))
        case "role definition delete":
            state["roles"] = [role for role in state["roles"] if role["Name"] != name]
        case "role assignment list":
            return [{"id": "assignment-1"}] if state["roles"] else []
        case "role assignment create" | "role assignment delete":
            return None
        case _:
            refuse(f"'{command}' is misspelled or not recognized by the system.")
    return None


def run(words: list[str], folder: Path) -> tuple[int, str, str]:
    """What `az` does with these words: its exit code, what it says, and what it complains."""
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    file = folder / "state"
    state = json.loads(json.dumps(START)) | (json.loads(file.read_text()) if file.exists() else {})
    failures = (folder / "fail").read_text() if (folder / "fail").exists() else ""
    try:
        for beginning, why in (line.split("|", 1) for line in failures.splitlines()):
            if " ".join(words).startswith(beginning):
                if beginning == "vm create":
                    left = {"type": "Microsoft.Network/publicIPAddresses", "name": option(words, "name")}
                    state["groups"][option(words, "resource-group")]["other"].append(left)
                refuse(why)
        told = answer(state, words, folder)
    except RefusedError as error:
        return 1, "", str(error)
    finally:
        file.write_text(json.dumps(state))
    return 0, "" if told is None else json.dumps(told), ""


if __name__ == "__main__":
    code, said, complained = run(sys.argv[2:], Path(sys.argv[1]))
    print(said, end="")
    print(complained, end="", file=sys.stderr)
    sys.exit(code)
