"""The locks: each package has a hash, and a wheel for every machine that the workspace is for."""

import functools
import hashlib
import http.server
import json
import os
import re
import runpy
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from labs import REPOSITORY
from workspace.base.cli import UserError
from workspace.base.programs import ask

LINUX = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
MACOS = "aarch64-apple-darwin"
FOR_ALL = ("requirements.lock", "torch-cuda.txt", "cluster.txt", "uv.txt")


def resolve(lock: Path, platform: str, empty: Path) -> subprocess.CompletedProcess[str]:
    """Ask the index for each file that `lock` names for a platform; nothing is downloaded, nor built from source.

    `empty` is a folder in which uv finds nothing installed.
    """
    uv = [REPOSITORY / ".venv" / "bin" / "uv", "pip", "install", "--dry-run", "--target", empty, "--no-deps"]
    strictly = ["--require-hashes", "--only-binary=:all:", "--python-version=3.13", f"--python-platform={platform}"]
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}  # the oldest that PyTorch has a build for
    return ask(*uv, *strictly, "--requirement", lock, env=environment)


@pytest.mark.parametrize("platform", [*LINUX, MACOS])
@pytest.mark.parametrize("lock", FOR_ALL)
def test_lock_names_packages_that_have_a_wheel_for_this_platform(lock: str, platform: str, tmp_path: Path) -> None:
    done = resolve(REPOSITORY / "docker" / lock, platform, tmp_path)
    if re.search(r"error sending request|dns error|Connection refused", done.stderr):
        pytest.skip("the package index cannot be reached from here")
    assert done.returncode == 0, done.stderr


def test_package_without_a_wheel_for_a_platform_is_noticed(tmp_path: Path) -> None:
    lock = (REPOSITORY / "docker" / "torch-cuda.txt").read_text()
    for_all = re.sub(r"(?m)^(nvidia-nccl[\w-]+==[^ ;]+) ;.* \\$", r"\1 \\", lock)  # its marker says: Linux alone
    assert for_all != lock
    (tmp_path / "torch-cuda.txt").write_text(for_all)
    assert resolve(tmp_path / "torch-cuda.txt", MACOS, tmp_path / "empty").returncode != 0


LOCK = runpy.run_path(str(REPOSITORY / "scripts" / "lock"))


@contextmanager
def served(handler: type[http.server.BaseHTTPRequestHandler] | functools.partial) -> Iterator[str]:
    """The address of a server on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """An index of wheels that have nothing in them, with their hashes, as PyTorch publishes those for the CPU."""
    for name, version in LOCK["packages"]("docker/torch.in").items():
        for local, platform in (("+cpu", "manylinux_2_28_x86_64"), ("", "macosx_14_0_arm64")):
            wheel = tmp_path / name / f"{name}-{version}{local}-py3-none-{platform}.whl"
            wheel.parent.mkdir(exist_ok=True)
            about = f"{name}-{version}{local}.dist-info"
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr(
                    f"{about}/METADATA", f"Name: {name}\nVersion: {version}{local}\nRequires-Dist: numpy\n"
                )
                archive.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nTag: py3-none-{platform}\n")
                archive.writestr(f"{about}/RECORD", "")
            link = f'<a href="{wheel.name.replace("+", "%2B")}#sha256={digest(wheel)}">{wheel.name}</a>\n'
            with (wheel.parent / "index.html").open("a") as page:
                page.write(link)
    with served(functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))) as address:
        yield address


def digest(wheel: Path) -> str:
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_cpu_wheels_are_locked_with_the_hashes_of_pytorch_s_index_and_no_others_are_installed(
    index: str, tmp_path: Path
) -> None:
    lock = tmp_path / "torch-cpu.txt"
    lock.write_text(LOCK["cpu_wheels"](index))
    assert lock.read_text().count("--hash") == 4
    assert all(digest(wheel) in lock.read_text() for wheel in tmp_path.glob("*/*.whl"))
    assert index not in lock.read_text()
    assert re.findall(r"(?m)^torch==\S+\+cpu ; sys_platform != 'darwin' ", lock.read_text())

    def install(*more: str) -> subprocess.CompletedProcess[str]:
        """As the image and `.venv` do it."""
        uv = [REPOSITORY / ".venv" / "bin" / "uv", "pip", "install", "--no-deps", "--python-platform", LINUX[0]]
        place = ["--target", tmp_path / "there", "--default-index", index, "--requirement", lock]
        return ask(*uv, *place, *more)

    assert install().returncode == 0
    lock.write_text(re.sub(r"sha256:\w{60}", "sha256:" + "0" * 60, lock.read_text()))
    refused = install("--reinstall", "--no-cache")
    assert refused.returncode != 0
    assert "Hash mismatch" in refused.stderr


def test_where_pytorch_s_index_is_out_of_reach_nothing_is_locked_and_where_it_lacks_the_version_that_is_said(
    index: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    assert LOCK["cpu_wheels"]("http://127.0.0.1:1") is None
    with pytest.raises(UserError, match="could not be locked; the lines above say why"):
        LOCK["cpu_wheels"](index + "/torch")
    assert "torch was not found in the package registry" in capsys.readouterr().out


class Advisories(http.server.BaseHTTPRequestHandler):
    """Answers as OSV does, which knows one hole."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        mended = {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}
        affected = [{"package": {"name": "uv", "ecosystem": "PyPI"}, "ranges": [mended]}]
        hole = {"id": "PYSEC-1", "summary": "", "details": "", "modified": "2027-01-01T00:00:00Z", "affected": affected}
        answer = json.dumps({"vulns": [hole] if asked["package"]["name"] == "uv" else []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_known_holes_are_named_with_the_version_that_mends_them_and_nothing_is_said_where_nobody_was_asked() -> None:
    version = LOCK["packages"]("docker/uv.txt")["uv"]
    try:
        with served(Advisories) as address:
            locks = ["docker/uv.txt", "docker/cluster.txt"]
            assert LOCK["holes"](locks, address) == [f"  uv {version}: PYSEC-1, mended in 99"]
        with pytest.raises(UserError, match=r"known holes could not be asked for: .*Connection refused"):
            LOCK["holes"](["docker/uv.txt"], "http://127.0.0.1:1")
    except UserError as error:
        if "pip-audit" in str(error):
            pytest.skip("the package index cannot be reached from here")
        raise


def test_every_requirement_has_a_hash_but_where_the_file_says_why_not() -> None:
    hashed = re.compile(r"(?m)^[a-z0-9-]+==[^\\\n]+(\\?)\n(    --hash=)?")
    for lock in [*(REPOSITORY / "docker" / name for name in FOR_ALL), REPOSITORY / "tests" / "requirements.lock"]:
        named = hashed.findall(lock.read_text())
        assert named, lock
        assert all(continued and there for continued, there in named), lock
    cpu = (REPOSITORY / "docker" / "torch-cpu.txt").read_text()
    named = hashed.findall(cpu)
    assert all(continued and there for continued, there in named) if named else "cannot be reached" in cpu


def test_locking_says_which_versions_changed_came_or_went() -> None:
    told = LOCK["changes"]({"numpy": "1", "gone": "2", "same": "3"}, {"numpy": "1.1", "same": "3", "new": "4"})
    assert told == ["  gone: 2 -> none", "  new: none -> 4", "  numpy: 1 -> 1.1"]
