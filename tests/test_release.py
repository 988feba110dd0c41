"""The workflows of a release, and its notes."""

import re
import subprocess
import sys

import pytest
import yaml
from labs import REPOSITORY
from workspace.base import places
from workspace.base.programs import ask

WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (REPOSITORY / ".github" / "workflows").iterdir()}
JOBS = [(name, key, job) for name, workflow in WORKFLOWS.items() for key, job in workflow["jobs"].items()]
USED = [step["uses"] for _, _, job in JOBS for step in job["steps"] if "uses" in step]


def notes(tag: str, changelog: str, checkout_version: str) -> subprocess.CompletedProcess[str]:
    """What .github/notes.py says, in a checkout of that version with that changelog."""
    code = """
import runpy, sys
from pathlib import Path
module = runpy.run_path(sys.argv[1])
version, changelog = sys.argv[3:]
places = module["places"]
places.version = lambda: version
Path.read_text = lambda self, *_: changelog
print(module["notes"](sys.argv[2]))
"""
    script = str(REPOSITORY / ".github" / "notes.py")
    return ask(sys.executable, "-c", code, script, tag, checkout_version, changelog)


CHANGELOG = "# Changelog\n\n## Unreleased\n\n- Later.\n\n## 1.2.0 (2027-01-01)\n\n- New.\n\n## 1.1.0\n\n- Old.\n"


def test_notes_of_a_release_are_its_section_of_the_changelog() -> None:
    assert notes("v1.2.0", CHANGELOG, "1.2.0").stdout == "- New.\n"


@pytest.mark.parametrize(
    ("tag", "version", "why"),
    [
        ("v1.2.1", "1.2.0", "the tag is v1.2.1, and docker/Dockerfile has ARG VERSION=1.2.0"),
        ("v1.3.0", "1.3.0", "CHANGELOG.md has no section '## 1.3.0'"),
    ],
)
def test_tag_that_the_checkout_is_not_ready_for_is_refused(tag: str, version: str, why: str) -> None:
    refused = notes(tag, CHANGELOG, version)
    assert refused.returncode != 0
    assert why in refused.stderr


def test_version_is_one_that_a_tag_can_have() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", places.version())


def test_actions_are_few_and_pinned_by_digest_with_their_version_beside_it() -> None:
    text = "".join(path.read_text() for path in (REPOSITORY / ".github" / "workflows").iterdir())
    pinned = re.findall(r"uses: actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+\n", text)
    assert len(pinned) == len(USED) > 0
    assert {use.partition("@")[0] for use in USED} == {"actions/checkout", "actions/attest-build-provenance"}


def test_each_job_has_no_more_permissions_than_its_work_needs() -> None:
    assert all(workflow["permissions"] == {} for workflow in WORKFLOWS.values())
    granted = {(name, key): job["permissions"] for name, key, job in JOBS}
    writing = {
        place: {scope for scope, what in scopes.items() if what == "write"}
        for place, scopes in granted.items()
        if "write" in scopes.values()
    }
    assert writing == {
        ("release.yml", "build"): {"packages"},
        ("release.yml", "publish"): {"packages", "id-token", "attestations"},
        ("release.yml", "release"): {"contents"},
    }


def test_both_images_of_both_architectures_are_tested_and_scanned_before_they_are_pushed() -> None:
    build = WORKFLOWS["release.yml"]["jobs"]["build"]
    assert build["strategy"]["matrix"] == {"wheels": ["cpu", "cuda"], "architecture": ["amd64", "arm64"]}
    steps = [step.get("name", "") for step in build["steps"]]
    assert steps.index("Build, once") < steps.index("Test what was built")
    assert steps.index("Test what was built") < steps.index("Known holes, in Python's packages and in Debian's")
    assert steps[-1] == "Push"
