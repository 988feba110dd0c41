"""Fixtures: labs to test, and what a machine must have for them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import Container, Lab, NativeServer, SmallDisk, free_port
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright
from workspace.bench.measuring import copy_of_checkout

REQUIRED = os.environ.get("WORKSPACE_TESTS_REQUIRE", "").split()
"""What must not be missing here (`engine`, `browser`): then a test that lacks it fails where it would be skipped."""


def missing(what: str, why: str) -> None:
    """Skip the test for want of `what`, or fail it where that is required."""
    (pytest.fail if what in REQUIRED else pytest.skip)(why)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that share the engine's image and containers: `scripts/test` has them in a row, beside others."""
    for item in items:
        of_its_own = item.path.stem == "test_bootstrap"  # in the machine that it makes
        if "engine" in getattr(item, "fixturenames", ()) and not of_its_own:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository to start workspaces from, so that no running one and nobody's work is touched."""
    copy = copy_of_checkout(tmp_path_factory.mktemp("checkout"))
    for delivered in ("scripts", "notebooks", "docker/kernels", "docker/lab-settings"):  # as a umask of 077 makes it
        for path in (copy / delivered, *(copy / delivered).rglob("*")):
            path.chmod(path.stat().st_mode & 0o700)
    return copy


@pytest.fixture
def native_server(tmp_path: Path) -> NativeServer:
    return NativeServer(tmp_path, free_port())


@pytest.fixture(scope="session")
def native_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One server for the tests that only look at it."""
    with NativeServer(tmp_path_factory.mktemp("lab"), free_port()).running() as lab:
        yield lab


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folders work, data, state and secrets are, which the code takes for the workspace's."""
    for name in ("work", "data", "state", "secrets"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"WORKSPACE_{name.upper()}", str(tmp_path / name))
    return tmp_path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"

    def mount(options: str) -> Path:
        again = "remount," if folder.exists() else ""
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", folder]
        if subprocess.run(command, check=False).returncode:
            pytest.skip("only root can mount a small disk")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", folder], check=False)


@pytest.fixture(scope="session")
def compose_command() -> None:
    """Docker Compose, which the test needs."""
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], check=False).returncode:
        missing("engine", "docker compose is not installed here")


@pytest.fixture(scope="session")
def engine(compose_command: None) -> None:  # noqa: ARG001
    """A Docker engine with Compose, which the test needs."""
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        missing("engine", "no Docker engine answers here")


@pytest.fixture(scope="session")
def container(engine: None, checkout: Path) -> Iterator[Container]:  # noqa: ARG001
    """One container for the tests that leave it as they found it."""
    workspace = Container(checkout, f"workspace-test-{os.getpid()}", free_port())
    try:
        workspace.start()
        yield workspace
    finally:
        workspace.remove()


@pytest.fixture(scope="session")
def container_lab(container: Container) -> Lab:
    return Lab(container.command("scripts/link").stdout.strip())


@pytest.fixture
def fresh(engine: None, checkout: Path) -> Iterator[Container]:  # noqa: ARG001
    """A workspace that a test may stop, spoil and re-create."""
    workspace = Container(checkout, f"workspace-test-{os.getpid()}-{free_port()}", free_port())
    yield workspace
    workspace.remove()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium: the machine's own, else Playwright's. Not for longer: while it is there, no test can run asyncio's."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
        try:
            chromium = playwright.chromium.launch(
                executable_path=path, args=[*sandbox, "--disable-background-networking"]
            )
        except Error as error:
            missing("browser", f"no Chromium here, and none can be installed: {error}")
        expect.set_options(timeout=60_000)  # its own five seconds are too few where other tests keep the cores busy
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    yield page
    page.close()
