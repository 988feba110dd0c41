"""The command `data`, on this machine and in the container."""

import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from labs import REPOSITORY, Container
from lesson import cifar10
from misbehaving_server import MisbehavingServer
from test_cifar10 import Sample
from workspace.base.cli import UserError
from workspace.base.programs import ask
from workspace.bench import cifar10_format
from workspace.host import data


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    """A small archive that counts as CIFAR-10 for the length of a test."""
    path = tmp_path / "stick" / cifar10.ARCHIVE
    path.parent.mkdir()
    cifar10_format.write(path, *cifar10_format.random_images(60))
    made = Sample(path)
    for function in (cifar10.load, cifar10.fetch, cifar10.verify, cifar10.holdings):
        monkeypatch.setitem(function.__kwdefaults__, "archive", made.archive)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"WORKSPACE_DATA": str(folder), "CIFAR10_MIRRORS": "none"}
    return ask(REPOSITORY / "scripts/data", "--native", *arguments, env=os.environ | own | environment)


# --- What the subcommands do ---


def test_import_makes_ready_what_status_then_finds(
    sample: Sample, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data.look_after(folder, "status") == 1
    assert "Images:      not there" in capsys.readouterr().out
    assert data.look_after(folder, "import", str(sample.path)) == 0
    assert data.look_after(folder, "status") == 0
    assert "Images:      ready" in capsys.readouterr().out
    assert len(cifar10.load(folder)[0]) == 50


def test_fetch_repairs_what_verify_finds(sample: Sample, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR10_MIRRORS", sample.path.as_uri())
    data.look_after(folder, "fetch")
    images = folder / "cifar10" / "train_images.npy"
    images.write_bytes(images.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"train_images.npy is damaged.*`data fetch`"):
        data.look_after(folder, "verify")
    assert data.look_after(folder, "fetch") == 0
    assert data.look_after(folder, "verify") == 0


def test_status_tells_how_much_of_a_broken_download_is_there(
    sample: Sample, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with MisbehavingServer(sample.content).running() as server:
        sample.failure(folder, server.url("cut-stubborn"))
    capsys.readouterr()
    data.look_after(folder, "status")
    assert "`data fetch` goes on from there" in capsys.readouterr().out


def test_clear_removes_the_images(sample: Sample, folder: Path) -> None:
    data.look_after(folder, "import", str(sample.path))
    assert data.look_after(folder, "clear") == 0
    assert data.look_after(folder, "status") == 1


# --- The command itself ---


def test_nothing_to_fetch_from_is_an_error_that_says_what_to_do(folder: Path) -> None:
    done = command(folder, "fetch")
    assert done.returncode == 1
    assert "data import cifar-10-python.tar.gz" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "code"), [("status", 1), ("verify", 1), ("clear", 0)])
def test_without_images_status_and_verify_fail_and_clear_does_not(folder: Path, name: str, code: int) -> None:
    assert command(folder, name).returncode == code


def test_wrong_file_to_import_is_one_line_and_is_left_alone(folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "holiday.zip"
    wrong.write_bytes(b"PK" * 500)
    done = command(folder, "import", str(wrong))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"data: {wrong}: not the archive: 1,000 bytes instead of 170,498,071\n"
    assert wrong.read_bytes() == b"PK" * 500


@pytest.mark.parametrize("arguments", [["import", "nowhere.tar.gz"], ["import"], ["improt"], []])
def test_bad_arguments_are_exit_code_2_and_one_line(folder: Path, arguments: list[str]) -> None:
    done = command(folder, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not folder.exists()


def test_unusable_data_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = command(tmp_path / "file", "fetch")
    assert done.returncode == 1
    assert f"the data folder {tmp_path / 'file'} cannot be used" in done.stderr


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--archive", "nowhere"], ["--processes", "ten"]])
def test_benchmark_refuses_bad_arguments_in_one_line(arguments: list[str]) -> None:
    done = ask(REPOSITORY / "scripts/bench", "data", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_notebook_started_by_a_command_finds_the_images_where_the_command_data_keeps_them() -> None:
    code = (
        "from workspace.base import places\nfrom workspace.host import venv\nvenv.enter()\nfrom lesson import cifar10\n"
        "print(cifar10.data_folder(), places.data())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "WORKSPACE_DATA"}
    done = ask(sys.executable, "-c", code, env=environment, check=True)
    assert done.stdout.split() == [str(REPOSITORY / ".workspace" / "data")] * 2


# --- Progress ---


def test_wrong_file_through_a_pipe_leaves_nothing_behind(sample: Sample, folder: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen(["sh", "-c", 'printf "\\037\\213 of another archive" > "$0"', pipe])
    with writer, pytest.raises(UserError, match=r"cut off at 0\.0 MB"):
        data.look_after(folder, "import", str(pipe))
    assert cifar10.holdings(folder).partial == 0
    with subprocess.Popen(["sh", "-c", 'cat "$1" > "$0"', pipe, sample.path]):
        assert data.look_after(folder, "import", str(pipe)) == 0


def test_terminal_shows_speed_and_time_left(sample: Sample, folder: Path) -> None:
    code = "import pathlib, sys; from lesson import cifar10; archive = cifar10.Archive(sys.argv[2], int(sys.argv[3]))\n"
    code += "cifar10.load(pathlib.Path(sys.argv[1]), mirrors=sys.argv[4:], archive=archive)"
    with MisbehavingServer(sample.content).running() as server:
        arguments = [str(folder), sample.archive.sha256, str(sample.archive.size), server.url("slow")]
        controller, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (25, 120))
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        shown = _everything(controller)
    assert process.wait(10) == 0
    assert "cifar-10-python.tar.gz from 127.0.0.1:  " in shown
    assert "kB/s]" in shown
    assert "<00:" in shown


def _everything(terminal: int) -> str:
    """What is written to a terminal until its last writer closes it."""
    written = b""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        if select.select([terminal], [], [], 1)[0]:
            try:
                written += os.read(terminal, 4096)
            except OSError:
                break
    os.close(terminal)
    return written.decode()


def test_notebook_shows_a_bar_of_its_own(sample: Sample, folder: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    source = f"""
import pathlib
from lesson import cifar10
folder, archive = pathlib.Path({str(folder)!r}), cifar10.Archive({sample.archive.sha256!r}, {sample.archive.size})
cifar10.load(folder, archive=archive, mirrors=[{sample.path.as_uri()!r}])
try:
    cifar10.load(folder / "elsewhere", archive=archive, mirrors=[])
except cifar10.Unavailable:
    get_ipython().showtraceback()
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    (cell,) = NotebookClient(notebook, timeout=120, kernel_name="python3").execute().cells
    outputs = {output.output_type: output for output in cell.outputs}
    assert "application/vnd.jupyter.widget-view+json" in outputs["display_data"].data
    # An error shows its message, not our source.
    assert "Three ways on" in "\n".join(outputs["error"].traceback)
    assert "File " not in "\n".join(outputs["error"].traceback)


# --- In Docker ---

IN_CONTAINER = """
import hashlib, pathlib, sys
from lesson import cifar10
from workspace.bench import cifar10_format
path = pathlib.Path("/tmp/sample.tar.gz")
cifar10_format.write(path, *cifar10_format.random_images(60))
archive = cifar10.Archive(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
mirrors = [path.as_uri()] if sys.argv[1] == "first" else []
print(len(cifar10.load(cifar10.data_folder() / "of-a-test", archive=archive, mirrors=mirrors)[0]))
"""


def test_images_outlive_the_container_they_were_fetched_in(container: Container) -> None:
    run = ["docker", "compose", "run", "--rm", "-T", "workspace"]
    for turn in ("first", "second"):
        done = container.command(*run, "python", "-c", IN_CONTAINER, turn)
        assert done.stdout.split()[-1:] == ["50"], done.stderr


def test_command_on_the_host_looks_into_the_containers_volume(container: Container, tmp_path: Path) -> None:
    done = container.command("scripts/data", "status", CIFAR10_MIRRORS="none")
    assert "Data folder: /data" in done.stdout, done.stderr
    wrong = tmp_path / cifar10.ARCHIVE
    wrong.write_bytes(b"\x1f\x8b" * 500)
    done = container.command("scripts/data", "import", str(wrong))
    assert done.returncode == 1
    # Read from a pipe, by the container's own user.
    assert "data: standard input: cut off at 0.0 MB of 170 MB" in done.stderr


@pytest.mark.parametrize(("named", "used"), [(True, "/run/workspace-ca.pem"), (False, "None")])
def test_ca_bundle_of_the_host_reaches_the_loader_in_the_container(
    container: Container, tmp_path: Path, named: bool, used: str
) -> None:
    bundle = tmp_path / "authority.pem"
    bundle.write_text("a certificate")
    code = "from lesson import download; print(download.ca_bundle())"
    run = ["docker", "compose", "run", "--rm", "-T", "workspace", "python", "-c", code]
    done = container.command(*run, WORKSPACE_CA_BUNDLE=str(bundle) if named else "")
    assert done.stdout.split()[-1:] == [used], done.stderr
