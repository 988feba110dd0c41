"""The lesson in other languages: whole, true to the English, and running."""

import ast
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from babel.messages.pofile import read_po
from labs import REPOSITORY
from lesson import charts, words
from workspace.base.places import LESSON
from workspace.bench import lesson_translations
from workspace.lab import seed, serve, translation

ENGLISH = REPOSITORY / "notebooks" / LESSON
LANGUAGES = words.languages()


@pytest.fixture
def spoken() -> dict[str, str]:
    """Leaves the next test an English lesson."""
    yield
    words.speak("en")


def translated(language: str) -> list[dict]:
    return json.loads(translation.content(ENGLISH, language))["cells"]


def cells(kind: str) -> list[dict]:
    return [cell for cell in json.loads(ENGLISH.read_text())["cells"] if cell["cell_type"] == kind]


def test_there_is_a_swedish_one() -> None:
    assert "sv" in LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_stale_and_nothing_missing(language: str) -> None:
    texts = [entry.id for entry in lesson_translations.template() if entry.id]
    assert len(texts) > 200
    said = words.catalogue(language)
    assert [text for text in texts if text not in said] == [], "run scripts/lesson-translations, and translate"
    assert said.keys() - set(texts) == set(), "run scripts/lesson-translations"


def test_what_changed_in_english_is_marked_and_stays_english_in_its_cell_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(words.CATALOGUES / "sv.po", tmp_path)
    (tmp_path / LESSON).write_text(ENGLISH.read_text().replace("Write your guesses", "Put down your guesses"))
    monkeypatch.setattr(words, "CATALOGUES", tmp_path)
    monkeypatch.setattr(lesson_translations, "DELIVERED", tmp_path)
    lesson_translations.main()
    with (tmp_path / "sv.po").open("rb") as file:
        assert [entry.id.partition(" between")[0] for entry in read_po(file) if entry.fuzzy] == [
            "Put down your guesses"
        ]
    made = json.loads(translation.content(tmp_path / LESSON, "sv"))["cells"]
    mine = {cell["id"]: cell["source"].partition("\n")[0] for cell in made if cell["cell_type"] == "markdown"}
    assert mine["play-compare-why"].startswith("Put down your guesses")
    assert [name for name, text in mine.items() if text.startswith(("Put", "Now", "The ", "It "))] == [
        "play-compare-why"
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_same_parts_to_fill_in_and_names_the_same_code_and_pages(language: str) -> None:
    def fixed(text: str) -> set[str]:
        code = {span for span in re.findall(r"`[^`]+`", text) if not re.search(r" [a-z]+ of ", span)}
        return code | {*re.findall(r"\{[^{}]*\}", text), *re.findall(r"https?://[^)\s]+|\w+\.ipynb|\$[^$]+\$", text)}

    with (words.CATALOGUES / f"{language}.po").open("rb") as file:
        entries = [entry for entry in read_po(file) if entry.id]
    lost = {entry.id[:40]: fixed(entry.id) - fixed(entry.string) for entry in entries}
    assert {text: parts for text, parts in lost.items() if parts} == {}
    assert [entry.id for entry in entries if re.match(r"^\s*", entry.id)[0] != re.match(r"^\s*", entry.string)[0]] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_line_of_the_contents_leads_to_its_heading(language: str) -> None:
    text = "\n".join(cell["source"] for cell in translated(language) if cell["cell_type"] == "markdown")
    headings = re.findall(r"(?m)^## (\d+\. .*)$", text)
    assert len(headings) == 12
    assert re.findall(r"\]\(#(\S+)\)", text) == [heading.replace(" ", "-") for heading in headings]
    assert re.findall(r"(?m)^\d+\. \[(.*?)\]\(#", text) == [heading.partition(" ")[2] for heading in headings]


def bare(source: str) -> str:
    """The code without what people read of it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\s|[a-zåäö]{2}", node.value):
            node.value = ""
        if isinstance(node, ast.JoinedStr):
            parts = [part for part in node.values if isinstance(part, ast.FormattedValue)]
            node.values = sorted(parts, key=ast.dump)
    return ast.unparse(tree)


@pytest.mark.parametrize("language", LANGUAGES)
def test_translated_code_does_the_same_and_says_which_language_it_speaks(language: str) -> None:
    mine = {cell["id"]: cell["source"] for cell in translated(language) if cell["cell_type"] == "code"}
    speaks = f'from lesson.words import speak\n\nspeak("{language}")\n'
    assert mine["load"].count(speaks) == 1
    mine["load"] = mine["load"].replace(speaks, "")
    for cell in cells("code"):
        assert bare(mine[cell["id"]]) == bare("".join(cell["source"]))
    limits = [re.findall(r"\([^()]* (?:to|or) [^()]*\)$", line) for line in mine["parameters"].splitlines()]
    assert limits == [re.findall(r"\([^()]* (?:to|or) [^()]*\)$", line.rstrip()) for line in cells("code")[0]["source"]]


def test_a_text_without_a_translation_stays_english(spoken: None) -> None:  # noqa: ARG001
    words.speak("sv")
    assert (words._("dog"), words._("no text of ours")) == ("hund", "no text of ours")
    words.speak("xx")
    assert words._("dog") == "dog"


def test_pictures_tell_what_they_show_in_the_language(spoken: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    displayed = []
    monkeypatch.setattr(charts, "display", lambda data, **_: displayed.append(data["text/plain"]))
    words.speak("sv")
    charts.class_bars(["katt"], [0.5], 0.5)
    assert displayed == [
        "Varje klass träffsäkerhet som en stapel: katt 50%. En linje visar alla klasser tillsammans: 50%."
    ]


@pytest.fixture
def work(folders: Path) -> Path:
    return folders / "work"


def heading(lesson: Path) -> str:
    return nbformat.read(lesson, as_version=4).cells[0].source.partition("\n")[0]


@pytest.mark.parametrize("setting", ["sv", "sv_SE", "sv-SE", "sv_SE.UTF-8"])
def test_a_workspace_in_swedish_gets_the_lesson_in_swedish(
    work: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("WORKSPACE_LANGUAGE", setting)
    assert serve._seed() == []
    assert heading(work / LESSON) == "# Din första bildklassificerare med PyTorch"
    assert (work / "train_ddp.py").read_bytes() == (REPOSITORY / "notebooks/train_ddp.py").read_bytes()


def test_the_language_may_change_as_long_as_the_lesson_was_not_edited(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed.seed()
    assert (work / LESSON).read_bytes() == ENGLISH.read_bytes()
    monkeypatch.setenv("WORKSPACE_LANGUAGE", "sv")
    seed.seed()
    assert heading(work / LESSON).startswith("# Din")
    (work / LESSON).write_text((work / LESSON).read_text().replace("# Din", "# Min"))
    monkeypatch.setenv("WORKSPACE_LANGUAGE", "en")
    assert f"{LESSON} was edited or run and is left as it is" in seed.seed()[0]
    assert heading(work / LESSON).startswith("# Min")


def test_a_language_that_there_is_none_of_is_said_and_the_lesson_is_english(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKSPACE_LANGUAGE", "xx")
    [line] = serve._seed()
    assert line.startswith("the lesson is in English: of WORKSPACE_LANGUAGE there are en, ")
    assert (work / LESSON).read_bytes() == ENGLISH.read_bytes()


def test_the_lab_speaks_the_language_too_where_there_is_a_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delivered = REPOSITORY / "docker/lab-settings"
    monkeypatch.setenv("WORKSPACE_LANGUAGE", "fr_CA")
    made = json.loads((translation.lab_settings(delivered, tmp_path) / "overrides.json").read_text())
    assert made.pop("@jupyterlab/translation-extension:plugin") == {"locale": "fr_FR"}
    assert made == json.loads((delivered / "overrides.json").read_text())
    for without in ("sv", "en"):
        monkeypatch.setenv("WORKSPACE_LANGUAGE", without)
        assert translation.lab_settings(delivered, tmp_path) == delivered
