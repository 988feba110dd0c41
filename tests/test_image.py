"""What the image is called, made of and as large as; and an image that somebody names in place of one built here."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import IMAGE, REPOSITORY, Container, Lab, command
from workspace.base import places

BUDGET = REPOSITORY / "docker" / "size-budget.txt"
GROWTH = 1.03
NOWHERE = "127.0.0.1:1/pytorch-workspace:1.0.0"


def inspected(container: Container, image: str, what: str) -> str:
    """What the engine says of an image, in Docker's template language."""
    return container.command("docker", "image", "inspect", "--format", what, image).stdout.strip()


@pytest.fixture(scope="module")
def named(container: Container) -> Iterator[str]:
    """The image under a name of somebody else's, as if it had been pulled."""
    name = f"workspace-test-named:{os.getpid()}"
    container.command("docker", "tag", IMAGE, name)
    yield name
    container.command("docker", "image", "rm", name)


def test_version_has_one_place_and_stands_in_label_log_and_stamp(container: Container) -> None:
    labels = json.loads(inspected(container, IMAGE, "{{json .Config.Labels}}"))
    told = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert told["version"] == places.version()
    assert (told["title"], told["licenses"]) == ("PyTorch workspace", "MIT")
    assert told["base.name"].startswith("debian:trixie-slim")
    stamp = container.inside("cat", "/opt/workspace/image-stamp").stdout.strip()
    assert re.fullmatch(r"(cpu|cuda)-[0-9a-f]{12}", stamp)
    log = container.command("docker", "compose", "logs", "--no-log-prefix").stdout
    assert f"workspace: starting {places.version()} {stamp}; " in log


def test_bill_of_the_image_names_each_package_of_debian_and_python_in_it(container: Container) -> None:
    bill = json.loads(container.inside("cat", "/opt/workspace/sbom.cdx.json").stdout)
    assert (bill["bomFormat"], bill["metadata"]["component"]["version"]) == ("CycloneDX", places.version())
    packages = {(part["purl"].split("/")[0], part["name"], part["version"]) for part in bill["components"]}
    assert len(packages) == len({part["bom-ref"] for part in bill["components"]})
    debian = container.inside("dpkg-query", "--show").stdout
    python = json.loads(container.inside("python", "-m", "pip", "list", "--format=json").stdout)
    assert packages == {
        *(("pkg:deb", *line.split("\t")) for line in re.sub(r":\w+\t", "\t", debian).splitlines()),
        *(("pkg:pypi", each["name"], each["version"]) for each in python),
    }


def test_stamp_changes_with_whatever_went_in_and_with_nothing_else(container: Container) -> None:
    again = "from workspace.lab import sbom; print(sbom.stamp())"
    other = """
import pathlib, sys, tempfile
folder = pathlib.Path(tempfile.mkdtemp()) / "another-1.0.dist-info"
folder.mkdir()
(folder / "METADATA").write_text("Name: another\\nVersion: 1.0\\n")
(folder / "RECORD").write_text("another-1.0.dist-info/RECORD,,\\n")
sys.path.append(str(folder.parent))
"""
    there = container.inside("cat", "/opt/workspace/image-stamp").stdout
    assert container.inside("python", "-c", again).stdout == there
    assert container.inside("python", "-c", other + again).stdout not in ("", there)


def test_image_built_again_would_have_the_same_bytes(container: Container) -> None:
    """Compiled Python without a time in it, no log, no cache; how two builds are compared: tests/README.md."""
    flags = """
import collections, pathlib
found = [file.read_bytes()[4:8][0] for file in pathlib.Path("/opt/venv").rglob("*.pyc")]
print(len(found) > 5000, *collections.Counter(found))
"""
    assert container.inside("python", "-c", flags).stdout == "True 1\n"  # 1: by hash of the source, not checked again
    kept = container.inside(
        "find", "/var/log", "/var/cache/apt", "/var/cache/ldconfig", "/var/lib/apt/lists", "-type", "f"
    )
    assert kept.stdout == ""
    bill = container.inside(
        "python", "-c", "from workspace.lab import sbom; import json; print(json.dumps(sbom.bill(), indent=1))"
    )
    assert bill.stdout == container.inside("cat", "/opt/workspace/sbom.cdx.json").stdout


def test_image_is_no_larger_than_its_budget(container: Container) -> None:
    wheels = container.inside("cat", "/opt/workspace/image-stamp").stdout.partition("-")[0]
    architecture = inspected(container, IMAGE, "{{.Architecture}}")
    budgets = dict(re.findall(r"(?m)^(\w+-\w+) +(\d+) MB: ", BUDGET.read_text()))
    megabytes = int(inspected(container, IMAGE, "{{.Size}}")) / 1e6
    budget = int(budgets[f"{wheels}-{architecture}"])
    assert megabytes <= budget * GROWTH, f"{megabytes:.0f} MB: what has grown? If it must, raise it in {BUDGET.name}"


def test_torch_compile_without_a_compiler_says_why_and_what_helps(container_lab: Lab) -> None:
    code = """
import torch
try:
    torch.compile(lambda x: x + 1)(torch.ones(2))
except Exception as error:
    print(type(error).__name__)
"""
    told = container_lab.run(code, timeout_s=180)
    assert "InvalidCxxCompiler" in told or "InductorError" in told, told
    assert "this image has no compiler" in told
    assert "WORKSPACE_COMPILER=1 scripts/start" in told


def test_image_that_is_named_is_started_and_nothing_is_built(fresh: Container, named: str) -> None:
    # Whatever is built needs its base.
    lab = fresh.start(WORKSPACE_IMAGE=named, WORKSPACE_BASE_IMAGE="127.0.0.1:1/none")
    assert lab.get("/api/contents", lab.token).ok
    running = fresh.command("docker", "compose", "ps", "--format", "{{.Image}}", WORKSPACE_IMAGE=named)
    assert running.stdout.strip() == named


@pytest.mark.parametrize(
    ("image", "settings", "why"),
    [
        (NOWHERE, {}, "cannot be pulled: "),
        ("debian:trixie-slim", {}, "is not an image of this workspace"),
        (
            None,
            {"WORKSPACE_UID": "1234"},
            "was built for uid 1000, and its folders belong to that: leave out WORKSPACE_UID",
        ),
    ],
)
def test_named_image_that_does_not_fit_is_refused_in_one_line(
    fresh: Container, named: str, image: str | None, settings: dict[str, str], why: str
) -> None:
    refused = fresh.command("scripts/start", WORKSPACE_IMAGE=image or named, **settings)
    assert refused.returncode != 0
    assert why in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert fresh.command("docker", "compose", "ps", "--quiet").stdout == ""


def test_named_image_of_cpu_wheels_does_not_start_with_a_gpu(
    checkout: Path, container: Container, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM {IMAGE}\nUSER 0\nRUN echo cpu-0 > /opt/workspace/image-stamp\nUSER 1000:1000\n"
    )
    name = f"workspace-test-cpu:{os.getpid()}"
    assert container.command("docker", "build", "--quiet", "--tag", name, str(tmp_path)).returncode == 0
    try:
        ask = "from workspace.host.compose import Workspace; Workspace(gpu=True).provide_image()"
        refused = command(checkout, ".venv/bin/python", "-c", ask, WORKSPACE_IMAGE=name)
        assert "has the CPU's build of PyTorch: --gpu needs the one with -cuda in its name" in refused.stderr
    finally:
        container.command("docker", "image", "rm", name)


def test_plain_compose_builds_nothing_under_a_name_that_cannot_be_pulled(fresh: Container) -> None:
    failed = fresh.command("docker", "compose", "up", "--detach", WORKSPACE_IMAGE=NOWHERE)
    assert failed.returncode != 0
    assert "WORKSPACE_IMAGE-names-an-image-to-pull" in failed.stderr
    assert inspected(fresh, NOWHERE, "{{.Id}}") == ""
