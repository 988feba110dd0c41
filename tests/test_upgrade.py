"""What an earlier release left goes on with the code of today, and what that leaves harms no earlier one."""

import io
import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from labs import REPOSITORY, Lab, NativeServer, free_port
from small import METRICS, leaderboard, notebook
from workspace.base.places import LESSON

RELEASES = ("57e2241", "fd21a9f")
"""The last commits before the modules moved out of the work folder, and before images had a version."""

THEME = "/lab/api/settings/@jupyterlab/apputils-extension:themes"


@dataclass(frozen=True)
class Release(NativeServer):
    """An earlier release, in folders that today's code takes over."""

    code: Path

    def command(self) -> list[str]:
        return [sys.executable, str(self.code / "scripts/serve"), "--ip", "127.0.0.1", "--port", str(self.port)]

    def call(self, name: str, *words: object) -> subprocess.CompletedProcess[str]:
        """One of its commands, in the work folder."""
        command = [sys.executable, str(self.code / "scripts" / name), *map(str, words)]
        environment = self.environment(JUPYTER_PATH=str(self.code / "docker"))
        work = self.folder / "work"
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Left:
    """What somebody had when the release ended."""

    release: Release
    token: str

    @property
    def today(self) -> Release:
        """Today's code in the same folders."""
        return Release(self.release.folder, free_port(), REPOSITORY)


def unpacked(commit: str, folder: Path) -> Path:
    """The code of a release, which goes on in this Python instead of making a `.venv`."""
    command = ["git", "archive", commit, "scripts", "docker", "notebooks"]
    packed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip("the history of the repository is not here")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    for name in ("environment", "run", "runs", "sweep"):
        script = folder / "scripts" / name
        script.write_text(script.read_text().replace("venv.enter()", "").replace(", venv.enter)", ")"))
    return folder


@pytest.fixture(scope="module", params=RELEASES)
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """A lesson that was edited, a setting, a package, a run, and a sweep of which a run is missing."""
    folder = tmp_path_factory.mktemp("upgrade")
    release = Release(folder, free_port(), unpacked(request.param, tmp_path_factory.mktemp("release")))
    with release.running() as lab:
        edited = lab.get(f"/api/contents/{LESSON}", lab.token).json()["content"]
        edited["cells"][0]["source"] = "My own words."
        body = {"type": "notebook", "content": edited}
        assert lab.request("PUT", f"/api/contents/{LESSON}", lab.token, json=body).ok
        body = {"raw": '{"theme": "JupyterLab Dark"}'}
        assert lab.request("PUT", THEME, lab.token, json=body).ok
        place = lab.run("import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        Path(place, "einops.py").write_text("there = True")  # as %pip puts it there
        token = lab.token
    notebook(folder / "work/a.ipynb", METRICS)
    assert release.call("run", "a.ipynb", "-p", "x", "3", "-o", "runs/mine").returncode == 0
    assert release.call("sweep", "a.ipynb", "-p", "x=1,2,3", "-o", "runs/open", "-j", "1").returncode == 0
    killed = next(file.parent for file in (folder / "work/runs/open").glob("*/run.json") if "x-3" in str(file.parent))
    for file in sorted(killed.rglob("*"), reverse=True):
        file.unlink()
    killed.rmdir()
    return Left(release, token)


def words_of_the_lesson(lab: Lab) -> str:
    return lab.get(f"/api/contents/{LESSON}", lab.token).json()["content"]["cells"][0]["source"]


def theme_of(lab: Lab) -> str:
    return lab.get(THEME, lab.token).json()["settings"]["theme"]


def test_token_edited_lesson_settings_and_packages_go_on(left: Left) -> None:
    with left.today.running() as lab:
        assert lab.token == left.token
        assert words_of_the_lesson(lab) == "My own words."
        assert theme_of(lab) == "JupyterLab Dark"
        assert lab.run("import einops; print(einops.there)").strip() == "True"


def test_runs_are_listed_and_an_open_sweep_makes_what_is_missing_alone(left: Left) -> None:
    today = left.today
    listed = json.loads(today.call("runs", "list", "--json").stdout)["runs"]
    assert {run["name"]: run["status"] for run in listed}["mine"] == "completed"
    sweep = today.folder / "work/runs/open"
    before = {file: file.stat().st_mtime_ns for file in sweep.glob("*/run.json")}
    assert len(before) == 2
    done = today.call("sweep", "a.ipynb", "-p", "x=1,2,3", "-o", "runs/open", "-j", "1")
    assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert [row["x"] for row in leaderboard(sweep)] == ["3", "2", "1"]


def test_an_older_checkout_serves_what_today_left_and_harms_nothing(left: Left) -> None:
    today = left.today
    assert today.call("run", "a.ipynb", "-p", "x", "2", "-o", "runs/todays").returncode == 0
    record = (today.folder / "work/runs/todays/run.json").read_bytes()
    with left.release.running() as lab:
        assert lab.token == left.token
        assert words_of_the_lesson(lab) == "My own words."
        assert theme_of(lab) == "JupyterLab Dark"
    listed = left.release.call("runs", "list")
    assert "Traceback" not in listed.stderr
    assert "mine" in listed.stdout
    assert (today.folder / "work/runs/todays/run.json").read_bytes() == record
