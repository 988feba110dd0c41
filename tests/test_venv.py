"""`.venv` follows the locks both ways: what they name is in it, and nothing else."""

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from labs import REPOSITORY, without_caches
from stand_ins import program
from workspace.base.programs import ask
from workspace.host import installer


def wheel(folder: Path, name: str, version: str) -> None:
    """Write a package that holds nothing."""
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", "")


@dataclass(frozen=True)
class Clone:
    """A checkout with locks of a few empty packages, and no network."""

    folder: Path
    wheels: Path

    def lock(self, name: str, *packages: str) -> None:
        (self.folder / name).write_text("".join(f"{package}\n" for package in packages))

    def make(self, extra: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        code = "from workspace.base import cli; from workspace.host import installer\n"
        code += f"cli.run('', lambda _: installer.make({extra}))"
        plain = {name: value for name, value in os.environ.items() if not name.startswith("WORKSPACE_")}
        own = {"PYTHONPATH": str(self.folder / "scripts"), "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(self.wheels)}
        return ask(sys.executable, "-c", code, env=plain | own | environment)

    def packages(self) -> set[str]:
        [site] = (self.folder / ".venv/lib").glob("python*/site-packages")
        return {path.name.removesuffix(".dist-info") for path in site.glob("*.dist-info")}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    wheels = tmp_path / "wheels"
    (wheels / "cpu").mkdir(parents=True)
    wheel(wheels / "cpu", "torch", "1+cpu")
    packages = {"alpha": ("1", "2"), "beta": ("1",), "torch": ("1",), "nvidia_x": ("1",), "tester": ("1",)}
    for name, versions in packages.items():
        for version in versions:
            wheel(wheels, name, version)
    folder = tmp_path / 'a folder\'s "name"'
    without_caches(REPOSITORY / "scripts", folder / "scripts")
    for name in ("docker", "tests"):
        (folder / name).mkdir()
    shutil.copy(REPOSITORY / "docker/uv.txt", folder / "docker/uv.txt")
    clone = Clone(folder, wheels)
    clone.lock("docker/requirements.lock", "alpha==2", "beta==1")
    clone.lock("docker/torch.in", "torch==1")
    clone.lock("docker/torch-cpu.txt", f"--find-links {wheels / 'cpu'}", "torch==1")
    clone.lock("docker/torch-cuda.txt", "torch==1", "nvidia-x==1")
    clone.lock("tests/requirements.lock", "tester==1")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    (folder / ".venv/bin/uv").symlink_to(Path(sys.prefix) / "bin/uv")
    return clone


def test_it_has_what_the_locks_name_and_then_is_left_alone(clone: Clone) -> None:
    made = clone.make()
    assert made.returncode == 0, made.stderr
    assert clone.packages() == {"alpha-2", "beta-1", "torch-1+cpu"}
    again = clone.make()
    assert (again.returncode, again.stdout) == (0, "")


def test_older_lock_brings_what_it_names_and_takes_away_what_it_does_not(clone: Clone) -> None:
    clone.make()
    clone.lock("docker/requirements.lock", "alpha==1")
    assert clone.make().returncode == 0
    assert clone.packages() == {"alpha-1", "torch-1+cpu"}


def test_cpu_after_cuda_takes_the_other_build_and_the_libraries_away_and_cuda_brings_them_back(clone: Clone) -> None:
    clone.make(WORKSPACE_WHEELS="cuda")
    assert clone.packages() >= {"torch-1", "nvidia_x-1"}
    assert clone.make().stdout == ""  # nobody asks for another
    assert clone.make(WORKSPACE_WHEELS="cpu").returncode == 0
    assert clone.packages() == {"alpha-2", "beta-1", "torch-1+cpu"}
    assert clone.make(WORKSPACE_WHEELS="cuda").returncode == 0
    assert clone.packages() >= {"torch-1", "nvidia_x-1"}


def test_what_the_tests_need_stays_and_follows_its_lock_too(clone: Clone) -> None:
    clone.make("installer.TESTS")
    assert "tester-1" in clone.packages()
    clone.lock("docker/requirements.lock", "alpha==1")
    assert clone.make().returncode == 0
    assert clone.packages() == {"alpha-1", "tester-1", "torch-1+cpu"}


def test_installation_that_fails_is_one_line_and_is_made_up_for_at_the_next(clone: Clone) -> None:
    clone.make()
    clone.lock("docker/requirements.lock", "alpha==3")
    failed = clone.make()
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "the packages could not be installed" in failed.stderr
    clone.lock("docker/requirements.lock", "alpha==2", "beta==1")
    assert "Making .venv" in clone.make().stdout
    assert clone.packages() == {"alpha-2", "beta-1", "torch-1+cpu"}


def test_one_that_belongs_to_another_checkout_is_left_alone(clone: Clone, tmp_path: Path) -> None:
    clone.make()
    (clone.folder / ".venv").rename(tmp_path / "theirs")
    (clone.folder / ".venv").symlink_to(tmp_path / "theirs")
    assert clone.make().returncode == 0
    clone.lock("docker/requirements.lock", "alpha==1")
    refused = clone.make()
    assert "is a link to another checkout's" in refused.stderr
    assert "alpha-2" in clone.packages()


@pytest.mark.parametrize(("more", "replaced"), [("", False), ("0", True)])
def test_uv_of_another_version_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, replaced: bool
) -> None:
    monkeypatch.setattr(installer, "PYTHON", tmp_path / "python")
    locked = (REPOSITORY / "docker/uv.txt").read_text().split()[0].removeprefix("uv==")
    for name, does in (("uv", f"echo uv {locked}{more} of today"), ("python", f"touch '{tmp_path}/installed'")):
        program(tmp_path / name, does)
    installer.uv()
    assert (tmp_path / "installed").exists() == replaced
