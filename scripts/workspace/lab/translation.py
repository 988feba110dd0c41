"""The delivered notebooks in the language of WORKSPACE_LANGUAGE, by the catalogues of `lesson.words`.

A cell of text is one text, so what nobody has translated yet stays English cell by cell. Of code, what people read is
translated: comments, and strings with a space in them. All else stays as it is.
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from lesson import words

from workspace.base import settings

_LIMITS = r" \([^()]*(?: to | or )[^()]*\)"
"""What a parameter may be, at the end of its comment: the same in every language, as `lesson.parameters` reads it."""


def language() -> str:
    """Which language the user set, such as sv (sv_SE.UTF-8 will do); en where none is set."""
    return re.split(r"[-_.]", settings.get("WORKSPACE_LANGUAGE") or "en")[0].lower()


def complaints() -> list[str]:
    """A line about a language that there is no catalogue of."""
    known = ["en", *words.languages()]
    unknown = language() not in known
    return [f"the lesson is in English: of WORKSPACE_LANGUAGE there are {', '.join(known)}"] if unknown else []


def lab_settings(delivered: Path, folder: Path) -> Path:
    """The folder of the lab's defaults: the delivered one, or a copy in `folder` that also sets the user's language.

    That is done where one of JupyterLab's language packs fits, of which the user's choice in the lab's menu goes first.
    """
    packs = [pack.name for pack in entry_points(group="jupyterlab.languagepack")]
    if not (fitting := [name for name in packs if name.partition("_")[0] == language()]):
        return delivered
    defaults = json.loads((delivered / "overrides.json").read_text())
    defaults["@jupyterlab/translation-extension:plugin"] = {"locale": fitting[0]}
    made = folder / "lab-settings"
    made.mkdir(exist_ok=True)
    (made / "overrides.json").write_text(json.dumps(defaults))
    return made


def content(delivered: Path, language: str) -> bytes:
    """What a delivered file holds in a language: itself, unless it is a notebook of which something is translated.

    The outputs, which are in English, are left out of another language.
    """
    said = words.catalogue(language)
    if delivered.suffix != ".ipynb" or not said:
        return delivered.read_bytes()
    notebook = json.loads(delivered.read_bytes())
    if not any(text in said for text, _ in texts(notebook)):
        return delivered.read_bytes()
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        for begin, end in reversed(_read(cell["cell_type"], source)):
            text = source[begin:end]
            source = source[:begin] + said.get(text, text) + source[end:]
        if cell["cell_type"] == "code":
            spoken = rf'\1from lesson.words import speak\n\nspeak("{language}")\n'
            source = re.sub(r"(?m)^(from lesson import .*\n)\n", spoken, source)
            cell |= {"outputs": [], "execution_count": None}
        cell["source"] = source
    return json.dumps(notebook, indent=1, ensure_ascii=False).encode()


def texts(notebook: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each text of a notebook that people read, and the id of its cell."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        for begin, end in _read(cell["cell_type"], source):
            yield source[begin:end], cell["id"]


def _read(kind: str, source: str) -> list[tuple[int, int]]:
    """Where in a cell each text that people read begins and ends."""
    if kind != "code":
        return [(0, len(source))]
    lengths = [len(line) for line in source.splitlines(keepends=True)]
    comments = [
        (token.start, re.fullmatch(rf"# (.+?)(?:{_LIMITS})?", token.string))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    strings = [
        ((node.lineno, node.col_offset), re.fullmatch(r"""[rf]*(?P<q>"{3}|"|')(.* .*)(?P=q)""", written, re.DOTALL))
        for node, written in _literals(source, ast.parse(source))
    ]
    found = []
    for (line, column), text in comments + strings:
        if text and re.search("[a-z]{2}", text[text.re.groups]):
            begin = sum(lengths[: line - 1]) + column
            found.append((begin + text.start(text.re.groups), begin + text.end(text.re.groups)))
    return sorted(found)


def _literals(source: str, node: ast.AST) -> Iterator[tuple[ast.Constant | ast.JoinedStr, str]]:
    """The strings below a node, f-strings whole, and how each is written."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr | ast.Constant):
            yield child, ast.get_source_segment(source, child) or ""
        else:
            yield from _literals(source, child)
