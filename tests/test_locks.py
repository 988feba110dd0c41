"""The locks: each package has a hash, and a wheel for every machine that the workspace is for."""

import os
import re
import runpy
import subprocess
from pathlib import Path

import pytest
from labs import REPOSITORY

LINUX = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
MACOS = "aarch64-apple-darwin"
FOR_ALL = ("requirements.lock", "torch-cuda.txt", "cluster.txt", "uv.txt")


def resolve(lock: Path, platform: str) -> subprocess.CompletedProcess[str]:
    """Ask the index for each file that `lock` names for a platform; nothing is downloaded, nor built from source."""
    uv = [REPOSITORY / ".venv" / "bin" / "uv", "pip", "install", "--dry-run", "--target", "/nowhere", "--no-deps"]
    strictly = ["--require-hashes", "--only-binary=:all:", "--python-version=3.13", f"--python-platform={platform}"]
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}  # the oldest that PyTorch has a build for
    return subprocess.run(
        [*uv, *strictly, "--requirement", lock], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("platform", [*LINUX, MACOS])
@pytest.mark.parametrize("lock", FOR_ALL)
def test_lock_names_packages_that_have_a_wheel_for_this_platform(lock: str, platform: str) -> None:
    done = resolve(REPOSITORY / "docker" / lock, platform)
    if re.search(r"error sending request|dns error|Connection refused", done.stderr):
        pytest.skip("the package index cannot be reached from here")
    assert done.returncode == 0, done.stderr


def test_package_without_a_wheel_for_a_platform_is_noticed(tmp_path: Path) -> None:
    lock = (REPOSITORY / "docker" / "torch-cuda.txt").read_text()
    for_all = re.sub(r"(?m)^(nvidia-nccl[\w-]+==[^ ;]+) ;.* \\$", r"\1 \\", lock)  # its marker says: Linux alone
    assert for_all != lock
    (tmp_path / "torch-cuda.txt").write_text(for_all)
    assert resolve(tmp_path / "torch-cuda.txt", MACOS).returncode != 0


def test_every_requirement_has_a_hash_but_for_those_of_pytorch_s_cpu_index() -> None:
    for lock in [*(REPOSITORY / "docker" / name for name in FOR_ALL), REPOSITORY / "tests" / "requirements.lock"]:
        named = re.findall(r"(?m)^[a-z0-9-]+==[^\\\n]+(\\?)\n(    --hash=)?", lock.read_text())
        assert named, lock
        assert all(continued and hashed for continued, hashed in named), lock
    assert "cannot" in (REPOSITORY / "docker" / "torch-cpu.txt").read_text()


def test_locking_says_which_versions_changed_came_or_went() -> None:
    lock = runpy.run_path(str(REPOSITORY / "scripts" / "lock"))
    told = lock["changes"]({"numpy": "1", "gone": "2", "same": "3"}, {"numpy": "1.1", "same": "3", "new": "4"})
    assert told == ["  gone: 2 -> none", "  new: none -> 4", "  numpy: 1 -> 1.1"]
    assert lock["packages"]("docker/uv.txt").keys() == {"uv"}
