"""What a look at one layer found, and looking at many of them, each for itself."""

import enum
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from workspace.base import terminal
from workspace.base.cli import UserError

# Numbers and versions. An address has four parts, a name has letters, a token is longer.
_HARMLESS = re.compile(r"\d{1,12}(\.\d{1,6}){0,2}")


class State(enum.StrEnum):
    """How a layer is."""

    WELL = "ok"
    ABSENT = "none"
    """It is not here, and nothing needs it."""
    WARNING = "warning"
    BROKEN = "broken"
    UNSEEN = "not looked at"
    """A layer that it needs comes first, or it cannot be seen from here."""


_CARRY_NOTHING = (State.ABSENT, State.BROKEN, State.UNSEEN)


@dataclass(frozen=True)
class Verdict:
    """How a layer is: `text` says it to whoever sits here, with the next step; `kind` and `facts` to everybody."""

    state: State
    text: str
    kind: str = "well"
    facts: Mapping[str, float | str] = field(default_factory=dict)

    def require(self) -> None:
        """Raise UserError with its text where the layer does not work."""
        if self.state is State.BROKEN:
            raise UserError(self.text)

    def public(self) -> dict[str, Any]:
        """It without names, addresses and tokens: of the facts, numbers and versions alone."""
        facts = {name: value for name, value in self.facts.items() if _HARMLESS.fullmatch(str(value))}
        return {"state": self.state, "kind": self.kind, "facts": facts}


def well(text: str, **facts: float | str) -> Verdict:
    """The layer is as it should be."""
    return Verdict(State.WELL, text, facts=facts)


def absent(kind: str, text: str) -> Verdict:
    """The layer is not here, and nothing needs it."""
    return Verdict(State.ABSENT, text, kind)


def warning(kind: str, text: str, **facts: float | str) -> Verdict:
    """The layer works, and will cost somebody something as it is."""
    return Verdict(State.WARNING, text, kind, facts)


def broken(kind: str, text: str, **facts: float | str) -> Verdict:
    """The layer does not work."""
    return Verdict(State.BROKEN, text, kind, facts)


def unseen(kind: str, why: str) -> Verdict:
    """Nobody looked at the layer; `why` goes on after "because"."""
    return Verdict(State.UNSEEN, f"because {why}", kind)


NOT_INSTALLED = unseen("no-environment", "the packages are not installed yet; scripts/start does that")
"""Of what only the Python that has the packages can tell."""


@dataclass(frozen=True)
class Check:
    """How to look at a layer, once those it stands on are well."""

    layer: str
    look: Callable[[], Verdict]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What was found about a layer, and in how many seconds."""

    layer: str
    verdict: Verdict
    seconds: float = 0


def examine(checks: Iterable[Check]) -> Iterator[Finding]:
    """Look at one layer after another. A look that fails is said to have failed, and keeps no other from its turn."""
    states: dict[str, State] = {}
    for check in checks:
        begun = time.monotonic()
        needed = next((layer for layer in check.after if states.get(layer) in _CARRY_NOTHING), None)
        if needed:
            why = {State.BROKEN: "comes first", State.ABSENT: "is not here"}.get(states[needed], "was not looked at")
            verdict = unseen("not-looked-at", f"{needed} {why}")
        else:
            try:
                verdict = terminal.watched(check.look, f"{check.layer}: still looking")
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                verdict = warning(
                    "check-failed", f"nobody knows: this look failed itself, a fault of the doctor: {said}"
                )
        states[check.layer] = verdict.state
        yield Finding(check.layer, verdict, time.monotonic() - begun)
