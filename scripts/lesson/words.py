"""What the lesson says, in the reader's language: a catalogue a language, as gettext has them, in translations/.

The source is English, and what a catalogue lacks stays English. Where a line's marked text has parts to fill in, they
are filled in after it was translated: `_("{count} images").format(count=3)`.
"""

from pathlib import Path

CATALOGUES = Path(__file__).parent / "translations"

_said: dict[str, str] = {}


def speak(language: str) -> None:
    """From now on say what the lesson says in `language`, such as sv; in English where there is no catalogue of it."""
    _said.clear()
    _said.update(catalogue(language))


def languages() -> list[str]:
    """Those that have a catalogue; English needs none."""
    return sorted(file.stem for file in CATALOGUES.glob("*.po"))


def catalogue(language: str) -> dict[str, str]:
    """What each English text is in `language`, without those that nobody has translated or looked at since a change."""
    if language not in languages():
        return {}
    from babel.messages.pofile import read_po

    with (CATALOGUES / f"{language}.po").open("rb") as file:
        return {entry.id: entry.string for entry in read_po(file) if entry.id and entry.string and not entry.fuzzy}


def _(text: str) -> str:
    """The text as the reader is to see it."""
    return _said.get(text, text)


class MessageAlone:
    """An error of which a notebook shows the message alone: the reader's next step is there, and not in our source."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()
