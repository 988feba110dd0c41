"""The lesson's catalogues follow its English: what is new is added, what changed is marked, what is gone leaves."""

import json

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po
from lesson import cifar10, images, words

from workspace.base import cli
from workspace.base.files import replacing
from workspace.base.places import DELIVERED, REPOSITORY
from workspace.lab import translation


def template() -> Catalog:
    """Every text of the notebooks, what their package says, the classes' names. Each says where it stands."""
    found = Catalog(project="the lesson", fuzzy=False)
    for notebook in sorted(DELIVERED.glob("*.ipynb")):
        for text, cell in translation.texts(json.loads(notebook.read_text())):
            found.add(text, locations=[(cell, None)])
    package = REPOSITORY / "scripts" / "lesson"
    for file, _, text, _, _ in extract_from_dir(package, [("**.py", "python")], keywords={"_": None}):
        found.add(text, locations=[(file, None)])
    for name in (*cifar10.CLASSES, *images.SHAPES):
        found.add(name, locations=[("class", None)])
    return found


def update(language: str) -> Catalog:
    """The language's catalogue, brought up to date: an entry whose English changed is marked as fuzzy."""
    file = words.CATALOGUES / f"{language}.po"
    with file.open("rb") as old:
        catalog = read_po(old, locale=language)
    for entry in catalog:  # what Babel wrote there itself, the English before a change, it reads as comments
        entry.user_comments.clear()
    catalog.update(template())
    catalog.obsolete.clear()
    return catalog


def main() -> None:
    """Bring all catalogues up to date, and say how far each is."""
    for language in words.languages():
        catalog = update(language)
        with replacing(words.CATALOGUES / f"{language}.po") as new, new.open("wb") as file:
            write_po(file, catalog, width=120, omit_header=False, include_previous=True, sort_by_file=False)
        waiting = [entry for entry in catalog if entry.id and (entry.fuzzy or not entry.string)]
        cli.say(f"{language}: {len(catalog)} texts, {len(waiting)} to translate or to look at")
