"""What the README promises is there."""

import re

from labs import REPOSITORY
from mutants import MUTANTS

README = (REPOSITORY / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"scripts/([a-z-]+)(?![\w/])", README)))
ENTRIES = sorted(path.name for path in (REPOSITORY / "scripts").iterdir() if path.is_file())


def test_every_command_named_exists() -> None:
    assert [name for name in COMMANDS if name not in ENTRIES] == []


def test_every_picture_and_file_linked_exists() -> None:
    linked = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert linked
    assert [target for target in linked if not (REPOSITORY / target).exists()] == []


def test_every_place_in_the_tree_exists() -> None:
    tree = README.split("## What is here")[1].split("```")[1]
    places = [line.split()[0] for line in tree.strip().splitlines()]
    assert [place for place in places if not (REPOSITORY / place).exists()] == []


def test_every_module_that_the_way_through_the_rooms_names_exists() -> None:
    rooms = "|".join(path.name for path in (REPOSITORY / "scripts/workspace").iterdir() if path.is_dir())
    page = (REPOSITORY / "CONTRIBUTING.md").read_text()
    named = {*re.findall(rf"\b(?:{rooms}|lesson)/\w+", page)}
    assert len(named) > 20
    code = REPOSITORY / "scripts"
    assert [
        name for name in named if not any((code / f"{place}{name}.py").exists() for place in ("", "workspace/"))
    ] == []


def test_every_mutant_finds_what_it_takes_out_and_a_test_for_it() -> None:
    for file, faults in MUTANTS.items():
        for name, test, old, _ in faults:
            assert (REPOSITORY / file).read_text().count(old) == 1, f"{name}: say anew what is taken out"
            assert (REPOSITORY / f"tests/{test.split()[0]}.py").exists(), name


def test_every_setting_in_the_table_is_in_the_example() -> None:
    table = README.split("## Settings")[1].split("\n## ")[0]
    named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)`", table))
    listed = set(re.findall(r"(?m)^#(\w+)=", (REPOSITORY / ".env.example").read_text()))
    assert named - listed == set()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "test" in COMMANDS
    assert (REPOSITORY / ".ci/run").read_text().splitlines()[-1] == "scripts/test"
