"""What an earlier release left goes on with the code of today, and what that leaves harms no earlier one."""

import contextlib
import csv
import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat
import pytest
from labs import IMAGE, REPOSITORY, THEME, Container, Lab, NativeServer, free_port, wait_until
from small import METRICS, installing, notebook
from workspace.base.places import LESSON
from workspace.base.programs import ask
from workspace.host import inside
from workspace.lab import environment

IN_DOCKER, NATIVELY = "57e2241", "fd21a9f"
"""The last commits before the modules moved out of the work folder, and before images had a version."""

OLD_CODE = """
services:
  workspace:
    image: {image}
    build: !reset null
    command: [serve, --ip, 0.0.0.0, --port, "8888"]
    environment: {{ PATH: "/opt/workspace/scripts:/opt/venv/bin:/usr/bin:/bin" }}
    volumes: [{volumes}]
"""
"""The earlier release without its image, for which two gigabytes would have to be fetched: its code, in today's."""


@dataclass(frozen=True)
class Native(NativeServer):
    """A release in folders of its own."""

    code: Path

    @property
    def today(self) -> "Native":
        """Today's code in the same folders."""
        return replace(self, code=REPOSITORY)

    def command(self) -> list[str]:
        return [sys.executable, str(self.code / "scripts/serve"), "--ip", "127.0.0.1", "--port", str(self.port)]

    def call(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """One of its commands, in the work folder."""
        return self.shell(sys.executable, str(self.code / "scripts" / name), *words)

    def shell(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of the system, likewise."""
        environment = self.environment(JUPYTER_PATH=str(self.code / "docker"))
        return ask(*words, cwd=self.folder / "work", env=environment)


@dataclass(frozen=True)
class InDocker(Container):
    """A release in Docker, in volumes of its own."""

    todays: Path

    @property
    def today(self) -> "InDocker":
        """Today's checkout with the same volumes."""
        return replace(self, checkout=self.todays)

    @contextlib.contextmanager
    def running(self) -> Iterator[Lab]:
        try:
            if self == self.today:
                yield self.start()
            else:
                started = self.command("docker", "compose", "up", "--detach")
                assert started.returncode == 0, started.stderr
                wait_until(self.healthy)
                yield Lab(self.call("link").stdout.strip())
        finally:
            self.command("docker", "compose", "down")

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One of its commands, in the work folder, while it runs."""
        return self.inside(*words)

    shell = call


def unpacked(commit: str, folder: Path) -> Path:
    """The code of a release, which goes on in this Python instead of making a `.venv`."""
    packed = subprocess.run(["git", "archive", commit], cwd=REPOSITORY, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip("the history of the repository is not here")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    for name in ("environment", "run", "runs", "sweep"):
        script = folder / "scripts" / name
        script.write_text(script.read_text().replace("venv.enter()", "").replace(", venv.enter)", ")"))
    return folder


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    folder = tmp_path_factory.mktemp("upgrade")
    return Native(folder, free_port(), unpacked(NATIVELY, tmp_path_factory.mktemp("release")))


@pytest.fixture(scope="module")
def docker(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InDocker]:
    old = unpacked(IN_DOCKER, tmp_path_factory.mktemp("release"))
    mounts = ", ".join(f"./{name}:/opt/workspace/{name}:ro" for name in ("scripts", "docker", "notebooks"))
    (old / "docker-compose.override.yml").write_text(OLD_CODE.format(image=IMAGE, volumes=mounts))
    release = InDocker(old, f"{container.project}-upgrade", free_port(), container.checkout)
    yield release
    release.today.remove()


@dataclass(frozen=True)
class Left:
    """What somebody had when the release ended."""

    release: Native | InDocker
    token: str


@pytest.fixture(scope="module", params=["native", pytest.param("docker", marks=pytest.mark.engine)])
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """A lesson that was edited, a setting, a package, a run, and a sweep of which a run is missing."""
    release = request.getfixturevalue(request.param)
    swept = nbformat.read(notebook(tmp_path_factory.mktemp("notebook") / "a.ipynb", METRICS), as_version=4)
    with release.running() as lab:
        edited = lab.get(f"/api/contents/{LESSON}", lab.token).json()["content"]
        edited["cells"][0]["source"] = "My own words."
        for name, content in ((LESSON, edited), ("a.ipynb", swept)):
            body = {"type": "notebook", "content": content}
            assert lab.request("PUT", f"/api/contents/{name}", lab.token, json=body).ok
        body = {"raw": '{"theme": "JupyterLab Dark"}'}
        assert lab.request("PUT", THEME, lab.token, json=body).ok
        lab.run(installing("1.0", "torch<2"))
        for command in (
            ["run", "a.ipynb", "-p", "x", "3", "-o", "runs/mine"],
            ["sweep", "a.ipynb", "-p", "x=1,2,3", "-o", "runs/open", "-j", "1"],
        ):
            done = release.call(*command)
            assert done.returncode == 0, done.stderr
        assert release.shell("sh", "-c", "rm -r runs/open/*x-3*").returncode == 0  # the killed one
        return Left(release, lab.token)


def test_what_a_release_left_goes_on_and_what_today_leaves_harms_that_release_not(left: Left) -> None:
    release, today = left.release, left.release.today
    records = ["sh", "-c", "cat runs/open/*/run.json"]  # when each was begun is in it
    with today.running() as lab:
        assert_kept(lab, left)
        told = lab.run("import mine; print(mine.version)")
        assert "1.0\n" in told
        assert re.search(r"workspace: mine 1.0 needs torch<2, and here is 2\S+: %pip install --upgrade mine\n", told)
        assert lab.run("import mine; print(mine.version)") == "1.0\n"  # it was told once
        listed = json.loads(today.call("runs", "list", "--json").stdout)["runs"]
        assert {run["name"]: run["status"] for run in listed}["mine"] == "completed"
        before = today.shell(*records).stdout
        assert before.count('"status"') == 2
        done = today.call("sweep", "a.ipynb", "-p", "x=1,2,3", "-o", "runs/open", "-j", "1")
        assert done.returncode == 0, done.stderr
        after = today.shell(*records).stdout
        assert (after.count('"status"'), after[: len(before)]) == (3, before)  # what was missing, and nothing else
        rows = csv.DictReader(io.StringIO(today.shell("cat", "runs/open/leaderboard.csv").stdout))
        assert [row["x"] for row in rows] == ["3", "2", "1"]
    with release.running() as lab:
        assert_kept(lab, left)
        listed = release.call("runs", "list")
        assert "Traceback" not in listed.stderr
        assert "mine" in listed.stdout
        assert release.shell(*records).stdout == after


def assert_kept(lab: Lab, left: Left) -> None:
    assert lab.token == left.token
    assert lab.get(f"/api/contents/{LESSON}", lab.token).json()["content"]["cells"][0]["source"] == "My own words."
    assert lab.get(THEME, lab.token).json()["settings"]["theme"] == "JupyterLab Dark"


def installed(python: str, name: str, *, asked_for: bool = True, needs: str = "") -> None:
    """What pip leaves of a package in the environment of the user's own that is for this Python."""
    place = environment.folder().with_name(python) / "lib" / python / "site-packages" / f"{name}-1.0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n{needs and f'Requires-Dist: {needs}'}\n")
    if asked_for:
        (place / "REQUESTED").touch()


@pytest.fixture
def this_python(folders: Path) -> str:  # noqa: ARG001
    return environment.folder().name


def test_packages_of_another_python_are_named_with_the_command_that_renews_them_until_it_was_given(
    this_python: str,
) -> None:
    installed("python3.10", "timm")
    installed("python3.10", "einops")
    installed("python3.10", "brought_by_another", asked_for=False)
    installed("python3.10", "numpy")  # which the workspace has
    told = f"einops timm: installed for python3.10, and this is {this_python}: %pip install einops timm"
    assert environment.misfits() == [told]
    asked = inside.packages(Path(sys.executable))
    assert (asked.kind, asked.text) == ("packages-misfit", told)
    installed(this_python, "einops")
    installed(this_python, "timm")
    assert environment.misfits() == []
    assert inside.packages(Path(sys.executable)).kind == "well"


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        ("torch<2", r"odd 1.0 needs torch<2, and here is 2\S+: %pip install --upgrade odd"),
        ("gone>1", "odd 1.0 needs gone>1, and here is none: %pip install --upgrade odd"),
        ("torch>=2", None),
        ("gone; extra == 'all'", None),
        ("gone; python_version < '3'", None),
        ("what nobody can read", None),
    ],
)
def test_package_that_asks_for_another_torch_is_named(this_python: str, needs: str, told: str | None) -> None:
    installed(this_python, "odd", needs=needs)
    found = environment.misfits()
    assert len(found) == bool(told)
    assert re.fullmatch(told or "", "".join(found))
