"""Runs `az`, the command line of Azure, and says in one line why it failed."""

import itertools
import json
import re
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from workspace.base import cli, programs
from workspace.base.cli import UserError
from workspace.base.terminal import duration, watched

_OLDEST = (2, 50)

_CAUSES = (  # the first that matches counts
    (r"az login|AADSTS\d+|refresh token has expired", "you are not logged in, or not any more: az login"),
    (
        r"QuotaExceeded|exceeding approved .*quota",
        "there is no quota for this size in {region}: ask for it in the portal under Quotas (students' and free "
        "subscriptions get none for GPUs), or take another --size or --region",
    ),
    (
        r"SkuNotAvailable|NotAvailableForSubscription|AllocationFailed|OverconstrainedAllocation",
        "Azure has no room for this size in {region} now: another --region, another --size, or later",
    ),
    (r"DnsRecordInUse", "the name is taken in {region} by somebody else: another --name"),
    (
        r"MissingSubscriptionRegistration|not registered to use namespace",
        "the subscription has not used this service before: az provider register --namespace Microsoft.Compute --wait, "
        "the same with Microsoft.Network, then again",
    ),
    (
        r"AuthorizationFailed",
        "your account may not do that here: ask the subscription's owner for the role Contributor",
    ),
    (r"[Ee]vict|preempt", "Azure took the spot VM back: scripts/azure start, when there is room again"),
    (r"ReadOnlyDisabledSubscription", "the subscription is disabled, as one without credit is"),
    (r"ConnectionError|Max retries exceeded|getaddrinfo", "Azure cannot be reached: check the network"),
)


class RefusedError(UserError):
    """Azure, or `az`, did not do it."""


@dataclass(frozen=True)
class Az:
    """How `az` is called."""

    subscription: str | None = None
    region: str = ""
    dry_run: bool = False  # print the commands, and run none

    def __call__(self, *words: str, doing: str = "", dry: Any = None) -> Any:  # noqa: ANN401
        """What the command answers, from JSON; in a dry run `dry`. It shows what it is `doing`, and for how long.

        Raises RefusedError with cause and remedy.
        """
        command = ["az", *words, "--only-show-errors", "--output", "json"]
        command += ["--subscription", self.subscription] if self.subscription else []
        if self.dry_run:
            cli.say(shlex.join(command))
            return dry
        begun = time.monotonic()
        done = watched(lambda: programs.ask(*command, stdin=subprocess.DEVNULL), doing or _name(words))
        if done.returncode:
            raise RefusedError(self._cause(done.stderr, words))
        if doing:
            cli.say(f"{doing}: done in {duration(time.monotonic() - begun)}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def _cause(self, said: str, words: tuple[str, ...]) -> str:
        for pattern, message in _CAUSES:
            if re.search(pattern, said):
                return message.format(region=self.region or "this region")
        return f"az {_name(words)}: {programs.last_words(said)}"


def _name(words: tuple[str, ...]) -> str:
    """The command without its options."""
    return " ".join(itertools.takewhile(lambda word: not word.startswith("-"), words))


def account(subscription: str | None) -> dict[str, Any]:
    """The subscription that pays, as `az account` describes it.

    Raises UserError where there is no fitting `az`, nobody is logged in, or it is not clear who pays.
    """
    if not shutil.which("az"):
        raise UserError("there is no command `az`: install the Azure CLI, then `az login`")
    version = Az()("version")["azure-cli"]
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < _OLDEST:
        raise UserError(f"az is {version}, and {'.'.join(map(str, _OLDEST))} or newer is needed: az upgrade")
    there = Az()("account", "list")
    if not there:
        raise UserError("you are not logged in: az login")
    fitting = [each for each in there if subscription in (None, each["id"], each["name"])]
    if len(fitting) == 1:
        return fitting[0]
    what = f"there is no subscription {subscription}" if subscription else "several subscriptions could pay"
    names = ", ".join(sorted(each["name"] for each in there))
    raise UserError(f"{what}: name one of them, --subscription NAME: {names}", cli.BAD_INPUT)
