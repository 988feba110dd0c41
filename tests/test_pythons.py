"""Commands under a Python that is too old or too new: one line that says what is needed, or on in one that fits."""

import ast
import os
import shutil
import sys
from pathlib import Path

import pytest
from labs import REPOSITORY, without_caches
from workspace.base.programs import ask

SCRIPTS = REPOSITORY / "scripts"
COMMANDS = sorted(path.name for path in SCRIPTS.iterdir() if path.is_file())
READ_BY_OLD_PYTHONS = [*(SCRIPTS / name for name in COMMANDS), SCRIPTS / "workspace/__init__.py"]
THEIR_MODULES = {"argparse", "os", "re", "subprocess", "sys", "webbrowser"}
FITTING = {(3, 11), (3, 12), (3, 13)}


def too_new(source: str) -> list[str]:
    """What of `source` Python 2.7 cannot parse or import."""
    found = [] if source.isascii() else ["a character beyond ASCII"]
    for node in ast.walk(ast.parse(source)):
        later = (ast.JoinedStr, ast.AnnAssign, ast.AsyncFunctionDef, ast.NamedExpr, ast.Nonlocal, ast.YieldFrom)
        if isinstance(node, (*later, ast.MatMult, ast.Match, ast.TryStar)):
            found.append(type(node).__name__)
        elif isinstance(node, ast.arguments) and (node.kwonlyargs or node.posonlyargs):
            found.append("an argument by its name alone")
        elif getattr(node, "annotation", None) or getattr(node, "returns", None):
            found.append("an annotation")
        elif isinstance(node, ast.List | ast.Tuple | ast.Set) and any(isinstance(e, ast.Starred) for e in node.elts):
            found.append("a star in a list")
        elif isinstance(node, ast.Dict) and None in node.keys:
            found.append("stars in a dict")
        elif isinstance(node, ast.Call) and any(isinstance(argument, ast.Starred) for argument in node.args[:-1]):
            found.append("an argument after a star")
        elif (
            isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print" and (node.keywords or node.args[1:])
        ):
            found.append("print as a function")
        elif isinstance(node, ast.Raise) and node.cause:
            found.append("raise from")
        elif isinstance(node, ast.ClassDef) and node.keywords:
            found.append("a class's keyword")
    return found + [f"import {name}" for name in imported_first(source) if name not in THEIR_MODULES]


def imported_first(source: str) -> list[str]:
    """The modules imported at the top before those of the workspace."""
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("workspace"):
            break
        if isinstance(node, ast.Import | ast.ImportFrom):
            names += [node.module] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
    return names


@pytest.mark.parametrize("file", READ_BY_OLD_PYTHONS, ids=lambda file: file.name)
def test_old_pythons_can_read_it(file: Path) -> None:
    assert too_new(file.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "print(f'{x}')",
        "def f(a: int): pass",
        "def f(*, a): pass",
        "x = [*a, b]",
        "f(*a, b)",
        "{**a}",
        "print(1, end='')",
        "from pathlib import Path",
        "raise A from b",
        "x: int = 1",
        "'é'",
    ],
)
def test_what_old_pythons_cannot_read_is_noticed(source: str) -> None:
    assert too_new(source)


def version(python: Path | str) -> tuple[int, ...]:
    code = "import sys; print('{} {}'.format(*sys.version_info[:2]))"
    asked = ask(python, "-c", code)
    return tuple(map(int, asked.stdout.split()))


def others() -> list[str]:
    """The Pythons of this machine in which the workspace does not run."""
    named = [shutil.which(f"python{number}") for number in ("2.7", "3.6", "3.7", "3.8", "3.9", "3.10", "3.14", "3.15")]
    kept = [str(path) for path in Path.home().glob(".pyenv/versions/*/bin/python")]
    return [python for python in [*filter(None, named), *kept] if version(python) and version(python) not in FITTING]


@pytest.mark.parametrize("python", others() or [None])
def test_every_command_says_in_one_line_what_is_needed(python: str | None) -> None:
    if python is None:
        pytest.skip("this machine has no other Python")
    for name in COMMANDS:
        environment = {"PATH": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}
        refused = ask(python, SCRIPTS / name, "--help", env=environment)
        needed = "{}: Python 3.11, 3.12 or 3.13 is needed, and {} is {}.{}\n"
        assert (refused.returncode, refused.stderr) == (2, needed.format(name, python, *version(python)))


def test_python_that_is_too_new_says_so_too() -> None:
    code = "import sys; sys.version_info = (3, 14, 0); import workspace"
    refused = ask(sys.executable, "-c", code, env={"PYTHONPATH": str(SCRIPTS)})
    assert refused.returncode == 2
    assert "Python 3.11, 3.12 or 3.13 is needed" in refused.stderr


@pytest.fixture
def too_old(tmp_path: Path) -> Path:
    """A copy of the commands for which every Python but the one named `python3.N` in `tmp_path` is too old."""
    copy = without_caches(SCRIPTS, tmp_path / "a copy/scripts")
    gate = copy / "workspace/__init__.py"
    marked = "os.environ.get('FITS') and sys.version_info[:2]"
    assert "if sys.version_info[:2] in _FITTING" in gate.read_text()
    gate.write_text(gate.read_text().replace("if sys.version_info[:2]", f"if {marked}"))
    return copy


def test_command_goes_on_in_a_fitting_python_and_passes_by_a_stand_in_for_one(too_old: Path, tmp_path: Path) -> None:
    fits, broken = tmp_path / "python{}.{}".format(*sys.version_info), tmp_path / "python3.13"
    broken.write_text("#!/bin/sh\necho it is not installed\nexit 127\n")
    fits.write_text(f'#!/bin/sh\nFITS=1 exec {sys.executable} "$@"\n')
    start = [sys.executable, too_old / "start", "--help"]
    for file in (broken, fits):
        file.chmod(0o755)
    done = ask(*start, env={"PATH": str(tmp_path)})
    assert "--public-host" in done.stdout, done.stderr
    fits.unlink()
    refused = ask(*start, env={"PATH": str(tmp_path)})
    assert refused.returncode == 2


def subcommands(name: str) -> list[list[str]]:
    shown = {"data": ["status", "fetch", "import"], "runs": ["list", "show"], "token": ["rotate"], "bench": ["runs"]}
    return [[name], *([name, command] for command in shown.get(name, []))]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_in_a_new_clone_says_how_to_call_it_installs_nothing_and_needs_no_package(
    name: str, tmp_path: Path
) -> None:
    without_caches(SCRIPTS, tmp_path / "scripts")
    plain = Path(sys.base_prefix) / "bin/python3"
    for command, *arguments in subcommands(name):
        shown = ask(
            plain,
            tmp_path / "scripts" / command,
            *arguments,
            "--help",
            env={"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout.startswith("usage: ")
        assert f"scripts/{name}" in shown.stdout or arguments or name == "serve"
    assert [path.name for path in tmp_path.iterdir()] == ["scripts"]
