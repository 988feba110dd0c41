"""Looks at every layer between a browser and a cell's answer, and says of the first broken one how to mend it."""

import functools
import json
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

from workspace.base import cli, places, programs, settings, verdicts
from workspace.base.cli import UserError
from workspace.base.terminal import watched
from workspace.base.verdicts import Check, Finding, State, Verdict
from workspace.host import address, compose, engine, gpu, inside, locate, machine, native, visitor
from workspace.host.compose import Running, Workspace
from workspace.lab import access

_PUBLIC = 1
"""The form of --json; goes up when its meaning changes."""


def main(link: str | None, *, as_json: bool) -> int:
    """Look, and say what was found; 0 where nothing is broken, else 1. Raises UserError where `link` is none."""
    found = []
    for finding in _of(link) if link else _inside() if places.IN_IMAGE else Host().look():
        found.append(finding)
        if not as_json:
            state = "" if finding.verdict.state is State.WELL else f"{finding.verdict.state}: "
            mark = {State.BROKEN: "x", State.WARNING: "!", State.WELL: "+"}.get(finding.verdict.state, "-")
            cli.say(f"{mark} {finding.layer:13} {state}{finding.verdict.text}")
    states = [finding.verdict.state for finding in found]
    broken, warnings = states.count(State.BROKEN), states.count(State.WARNING)
    if as_json:
        where = "visitor" if link else "container" if places.IN_IMAGE else "host"
        layers = [{"layer": each.layer, **each.verdict.public(), "seconds": round(each.seconds, 2)} for each in found]
        cli.say(json.dumps({"schema": _PUBLIC, "seen_from": where, "layers": layers}, indent=1))
    else:
        cli.say(
            f"{broken or 'Nothing'} of {len(found)} {'need' if broken > 1 else 'needs'} you"
            f"{f', {warnings} might cost you something' if warnings else ''}."
            " For an issue: --json, which has no names, addresses and tokens."
        )
    return int(bool(broken))


def _of(link: str, address: str | None = None) -> Iterator[Finding]:
    """What a visitor meets; `address` in place of the one that the link's name has."""
    try:
        visit = visitor.Visit(link, address)
    except ValueError as error:
        raise UserError(str(error), cli.BAD_INPUT) from None
    checks, before = [], ()
    for layer, judge in visit.layers:
        checks.append(Check(layer, functools.partial(_judged, judge), before))
        before = (layer,)
    return verdicts.examine(checks)


def _judged(judge: visitor.Judge) -> Verdict:
    try:
        return verdicts.well(judge())
    except visitor.Trouble as trouble:
        return Verdict(State(trouble.state), trouble.text, trouble.kind)


def _inside() -> Iterator[Finding]:
    return verdicts.examine(inside.checks())


@dataclass
class Host:
    """A look from the machine that the engine, or the native server, runs on."""

    workspace: Workspace = field(default_factory=Workspace)
    running: native.Server | Running | None = None
    has_engine: bool = False

    def look(self) -> Iterator[Finding]:
        """Every layer, from the engine to the images."""
        in_docker = ("engine", "Compose", "settings")
        yield from verdicts.examine(
            [
                Check("engine", self.engine),
                Check("Compose", engine.look_at_compose, ("engine",)),
                Check("settings", self.settings, ("Compose",)),
                Check("workspace", self.find),
                Check("limits", self.for_docker(machine.cpus), in_docker),
                Check("engine's disk", self.for_docker(machine.disk), in_docker),
                Check("work folder", self.for_docker(machine.folder), in_docker),
                Check("port", self.port),
                Check("firewall", self.firewall, ("workspace",)),
                Check("public name", self.public_name, ("workspace",)),
                Check("GPU", gpu.card),
                Check("GPU's driver", gpu.driver, ("GPU",)),
                Check("GPU in Docker", gpu.hand_over, ("GPU", "GPU's driver", "engine")),
            ]
        )
        yield from self.visit()
        if isinstance(self.running, Running):
            yield from self.in_container()
        elif self.running or places.PYTHON.exists():
            yield from _inside()
        else:
            yield Finding("inside", verdicts.unseen("not-running", "no workspace runs, and none is installed natively"))

    def engine(self) -> Verdict:
        """Whether there is an engine, where there must be one."""
        verdict = engine.look()
        self.has_engine = verdict.state is not State.BROKEN
        if engine.is_unreachable(verdict) and not locate.needs_engine():
            return verdicts.absent(verdict.kind, f"{verdict.text}. scripts/start serves the lab without it")
        return verdict

    def settings(self) -> Verdict:
        """Whether the settings fit docker-compose.yml."""
        try:
            settings.require_none_gone()
            return verdicts.well(f"fit, for the workspace {self.workspace.project}")
        except UserError as error:
            return verdicts.broken("settings", str(error))

    def find(self) -> Verdict:
        """Whether a workspace runs."""
        try:
            self.running = locate.running()
        except compose.PausedError as error:
            return verdicts.broken("paused", str(error))
        except UserError as error:
            if not self.has_engine and locate.needs_engine():
                return verdicts.unseen("not-looked-at", "engine comes first")
            if said := self.has_engine and self.workspace.last_words():
                again = "scripts/stop, then scripts/start"
                return verdicts.broken("ended", f"it was started and does not stay up: {said}. {again}")
            return verdicts.absent("not-running", str(error))
        return verdicts.well("runs natively" if isinstance(self.running, native.Server) else "runs in Docker")

    def for_docker(self, looked: Callable[[Workspace], Verdict]) -> Callable[[], Verdict]:
        """A look that is about a workspace in Docker alone."""
        native_one = verdicts.unseen("native", "the workspace runs natively")
        return lambda: native_one if isinstance(self.running, native.Server) else looked(self.workspace)

    def port(self) -> Verdict:
        """Whether the workspace has its port, or could have it."""
        if self.running:
            bind, number = self.running.bind, self.running.port
            return verdicts.well(f"{number} on {bind} is the workspace's", port=number)
        if self.has_engine:
            return machine.port(self.workspace)
        number = int(settings.get("WORKSPACE_PORT") or access.DEFAULT_PORT)
        trouble = machine.trouble(settings.get("WORKSPACE_BIND") or address.EVERYWHERE, number, natively=True)
        return trouble or verdicts.well(f"{number} is free", port=number)

    def firewall(self) -> Verdict:
        """Whether the machine's own firewall does what its owner thinks."""
        bind, number = self.running.bind, self.running.port
        return machine.firewall(bind, number, in_docker=isinstance(self.running, Running))

    def public_name(self) -> Verdict:
        """Whether the name in the link can be looked up."""
        name = address.host_name(self.running.bind)
        if name == "localhost":
            return verdicts.well("the link is for this machine alone: for others, scripts/start --public-host NAME")
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            text = f"no name server here knows {name}, which the link has: scripts/start --public-host NAME"
            return verdicts.warning("public-name", text)
        return verdicts.well(f"{name}, as seen from here")

    def visit(self) -> Iterator[Finding]:
        """What a browser on this machine meets."""
        if not self.running:
            return iter([Finding("server", verdicts.unseen("not-running", "no workspace runs that answers"))])
        try:
            link = self.running.link()
        except UserError as error:
            return iter([Finding("server", verdicts.broken("no-link", str(error)))])
        return _of(link, "127.0.0.1" if self.running.bind == address.EVERYWHERE else self.running.bind)

    def in_container(self) -> Iterator[Finding]:
        """What the doctor in the container finds."""
        asked = watched(lambda: self.running.module("workspace.host.doctor"), "in the container: still looking")
        try:
            for line in json.loads(asked.stdout):
                told = line["verdict"]
                verdict = Verdict(State(told["state"]), told["text"], told["kind"], told["facts"])
                yield Finding(line["layer"], verdict, line["seconds"])
        except ValueError:
            said = programs.last_words(asked.stderr)
            why = "its image is of an older release: scripts/stop and scripts/start" if "No module" in said else said
            yield Finding("inside", verdicts.unseen("no-doctor", why))


if __name__ == "__main__":
    # For the doctor on the host, which is shown names: nobody but its owner reads this.
    print(json.dumps([asdict(finding) for finding in _inside()]))
    sys.exit(0)
