"""Which room of the code may import which: a room knows those before it in this list, and none after it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import REPOSITORY

ROOMS = ["base", "lab", "host", "runs", "sweeps", "panel", "bench"]
ASIDE = {"cloud": ["base", "lab", "host"]}
"""A room that no other room knows, with those that it knows."""
SCRIPTS = REPOSITORY / "scripts"


def imported(file: Path) -> Iterator[str]:
    """Every module that the file imports, inside functions, too; of ours down to the room: `workspace.base`."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports by their full names"
            names = [f"{node.module}.{name.name}" if node.module == "workspace" else node.module for name in node.names]
        for name in names:
            yield ".".join(name.split(".")[:2]) if name.startswith("workspace") else name.split(".")[0]


def wrong(folder: Path, allowed: set[str]) -> list[tuple[str, str]]:
    files = sorted(folder.rglob("*.py"))
    assert files
    ours = {f"workspace.{room}" for room in (*ROOMS, *ASIDE)} | {"workspace", "lesson"}
    return [(file.name, name) for file in files for name in imported(file) if name in ours and name not in allowed]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_the_rooms_before_it_alone(room: str) -> None:
    before = {f"workspace.{name}" for name in ROOMS[: ROOMS.index(room) + 1]}
    assert wrong(SCRIPTS / "workspace" / room, before | ({"lesson"} if room != "base" else set())) == []


@pytest.mark.parametrize("room", ASIDE)
def test_a_room_aside_imports_those_that_it_may(room: str) -> None:
    assert wrong(SCRIPTS / "workspace" / room, {f"workspace.{name}" for name in (*ASIDE[room], room)}) == []


def test_every_room_is_known() -> None:
    folders = {file.parent.name for file in (SCRIPTS / "workspace").glob("*/__init__.py")}
    assert folders == {*ROOMS, *ASIDE}


def test_the_lessons_package_imports_nothing_of_the_workspace() -> None:
    assert wrong(SCRIPTS / "lesson", {"lesson"}) == []


def test_base_needs_nothing_but_python() -> None:
    names = {name for file in (SCRIPTS / "workspace/base").glob("*.py") for name in imported(file)}
    assert {name for name in names if not name.startswith("workspace")} <= sys.stdlib_module_names


def test_commands_that_run_in_the_machines_own_python_need_nothing_but_it() -> None:
    ours, needed = [], set()
    rooms = (SCRIPTS / "workspace" / room for room in ("host", "cloud"))
    modules = [f"workspace.{room.name}.{file.stem}" for room in rooms for file in room.glob("*.py")]
    while modules:
        file = SCRIPTS / f"{modules.pop().replace('.', '/')}.py"
        if file.exists() and file not in ours:
            ours.append(file)
            needed |= {name for name in imported(file) if not name.startswith(("workspace", "lesson"))}
            first = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom)]
            modules += [
                name for node in first for name in [node.module, *(f"{node.module}.{n.name}" for n in node.names)]
            ]
    assert SCRIPTS / "workspace/lab/archive.py" in ours
    assert needed <= sys.stdlib_module_names


def test_an_import_of_a_later_room_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("def f():\n    from workspace import sweeps\n")
    assert wrong(tmp_path, {"workspace.base"}) == [("module.py", "workspace.sweeps")]
