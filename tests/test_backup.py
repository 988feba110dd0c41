"""Nothing is lost: backup and restore, and labs that are killed while they save."""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import requests
from labs import REPOSITORY, TABS, THEME, Container, Lab, NativeServer, SmallDisk, wait_until
from workspace.base.cli import UserError
from workspace.base.files import UNFINISHED
from workspace.host import backup as backup_command
from workspace.lab import archive

ROUNDS = int(os.environ.get("WORKSPACE_KILL_ROUNDS", "2"))
"""How often a lab is killed while it saves, natively and in the container together; 50 for a full proof."""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a little of everything, and a place to go to."""
    monkeypatch.chdir(tmp_path)
    for machine in ("old", "new"):
        for name in ("work", "state"):
            (tmp_path / machine / name).mkdir(parents=True)
    use(tmp_path / "old", monkeypatch)
    work = tmp_path / "old/work"
    (work / "mine.ipynb").write_text('{"cells": []}')
    (work / "runs/first").mkdir(parents=True)
    (work / "runs/first/run.json").write_text('{"status": "completed"}')
    (work / ".jupyterlab/settings").mkdir(parents=True)
    (work / ".jupyterlab/settings/theme").write_text("dark")
    (work / "weights.pt").write_bytes(os.urandom(3_000_000))
    (tmp_path / "old/state/seeded.json").write_text('{"lesson": "digest"}')
    (tmp_path / "old/state/token").write_text("secret")
    return tmp_path


def use(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKSPACE_WORK", str(machine / "work"))
    monkeypatch.setenv("WORKSPACE_STATE", str(machine / "state"))


def content(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def saved() -> bytes:
    stream = io.BytesIO()
    archive.write(stream)
    return stream.getvalue()


def test_everything_but_token_and_datasets_arrives_on_another_machine(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = saved()
    use(folders / "new", monkeypatch)
    count, aside = archive.restore(io.BytesIO(backup))
    assert (count, aside) == (5, None)
    assert content(folders / "new/work") == content(folders / "old/work")
    assert content(folders / "new/state").keys() == {"seeded.json"}
    assert b"secret" not in backup


def test_what_is_being_written_while_it_is_saved_is_left_to_its_writer(folders: Path) -> None:
    (folders / "old/work" / f"{UNFINISHED}0f3a").write_text("half")
    contents = archive.verify(io.BytesIO(saved()))
    assert "work/mine.ipynb" in contents.files
    assert not [name for name in (*contents.files, *contents.left_out) if UNFINISHED in name]


def test_restored_twice_changes_nothing(folders: Path) -> None:
    before = content(folders / "old")
    count, aside = archive.restore(io.BytesIO(saved()))
    assert (count, aside) == (5, None)
    assert content(folders / "old") == before


def test_what_stands_in_a_files_place_is_kept(folders: Path) -> None:
    backup = saved()
    (folders / "old/work/mine.ipynb").write_text("newer")
    _, aside = archive.restore(io.BytesIO(backup))
    assert aside is not None
    assert (aside / "mine.ipynb").read_text() == "newer"
    assert (folders / "old/work/mine.ipynb").read_text() == '{"cells": []}'


def test_what_cannot_be_kept_is_left_out_by_name_and_the_rest_is_kept(folders: Path) -> None:
    work = folders / "old/work"
    (work / "data").symlink_to("/data")
    (work / "latest.ipynb").symlink_to("mine.ipynb")
    os.mkfifo(work / "pipe")
    held = archive.verify(io.BytesIO(saved()))
    assert held.left_out == {
        "work/data": "a link to /data",
        "work/latest.ipynb": "a link to mine.ipynb",
        "work/pipe": "not a file",
    }
    assert len(held.files) == 5


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act for a user without permission")
def test_folder_and_file_that_cannot_be_read_are_named_and_the_command_fails(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (folders, *folders.rglob("*")):
        os.chown(path, 65534, 65534)
    for path in folders.parents[:2]:
        path.chmod(0o755)
    for name in ("runs", "weights.pt"):
        (folders / "old/work" / name).chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(
            UserError, match=r"left out: work/runs \(Permission denied\), work/weights.pt \(Perm"
        ) as told:
            backup_command.backup(Path("mine.tar.gz"), natively=True)
    finally:
        os.seteuid(0)
    assert told.value.exit_code == 1
    assert "mine.tar.gz: 3 files" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["mine.ipynb", "runs"])
def test_folder_where_a_file_is_now_and_the_other_way_round_are_kept_aside(folders: Path, where: str) -> None:
    before = content(folders / "old/work")
    backup = saved()
    place = folders / "old/work" / where
    if place.is_file():
        place.unlink()
        (place / "deep").mkdir(parents=True)
        (place / "deep/file").write_text("newer")
    else:
        shutil.rmtree(place)
        place.write_text("newer")
    _, aside = archive.restore(io.BytesIO(backup))
    assert {"newer"} == {path.read_text() for path in aside.rglob("*") if path.is_file()}
    assert before.items() <= content(folders / "old/work").items()


def killed_at(step: int, backup: bytes) -> bool:
    """Restore in a process that dies, as by kill -9, before its step of that number that changes the disk."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    steps = 0

    def counted(call: Callable) -> Callable:
        def before_it(*arguments: object, **options: object) -> object:
            nonlocal steps
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return before_it

    for name in ("link", "rename", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    archive.restore(io.BytesIO(backup))
    os._exit(0)


def test_restore_killed_at_any_step_leaves_each_file_old_or_new_and_the_repeat_completes(folders: Path) -> None:
    work, restored = folders / "old/work", content(folders / "old/work")
    backup = saved()
    for step in range(1, 100):
        for name in ("mine.ipynb", "weights.pt"):
            (work / name).write_text("old")
        if not killed_at(step, backup):
            break
        for name in ("mine.ipynb", "weights.pt"):
            now = hashlib.sha256((work / name).read_bytes()).hexdigest()
            assert now == restored[name] or (work / name).read_text() == "old", (step, name)
        archive.restore(io.BytesIO(backup))
        assert restored.items() <= content(work).items(), step
        assert list(work.glob(".restoring-*")) == []
    assert step > 10


@pytest.mark.usefixtures("folders")
def test_two_restores_at_once_are_refused() -> None:
    backup = saved()

    class Interrupted(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            with pytest.raises(UserError, match="another restore is going on"):
                archive.restore(io.BytesIO(backup))
            return super().read(size)

    assert archive.restore(Interrupted(backup)) == (5, None)


def cut(backup: bytes) -> bytes:
    return backup[: len(backup) // 2]


def changed(backup: bytes) -> bytes:
    middle = len(backup) // 2
    return backup[:middle] + bytes([backup[middle] ^ 1]) + backup[middle + 1 :]


def made_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def hostile(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    """A backup in which nothing is wrong but this member."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return made_of((member, b""), (tarfile.TarInfo("left-out.json"), b'{"left_out": {}}'))


def test_backup_of_an_earlier_release_which_ends_with_digests_is_restored(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {"files": {"work/a": hashlib.sha256(b"1").hexdigest()}, "left_out": {"work/pipe": "not a file"}}
    old = made_of((tarfile.TarInfo("work/a"), b"1"), (tarfile.TarInfo("sha256.json"), json.dumps(digests).encode()))
    assert archive.verify(io.BytesIO(old)).left_out == {"work/pipe": "not a file"}
    use(folders / "new", monkeypatch)
    assert archive.restore(io.BytesIO(old)) == (1, None)
    assert content(folders / "new/work") == {"a": digests["files"]["work/a"]}


@pytest.mark.parametrize(
    "spoil",
    [
        cut,
        changed,
        lambda _: b"",
        lambda _: b"<html>please log in</html>",
        lambda backup: backup[:-8],  # gzip's checksum and size
        lambda backup: backup[:-8] + bytes(8),
        lambda backup: backup + b"more",
        lambda _: made_of((tarfile.TarInfo("work/a"), b"without its end")),
        lambda _: hostile("work/../../out"),
        lambda _: hostile("/etc/cron.d/x"),
        lambda _: hostile("state/token"),
        lambda _: hostile("work/a", tarfile.SYMTYPE, "/etc"),
        lambda _: hostile("work/a", tarfile.FIFOTYPE),
        lambda _: made_of((tarfile.TarInfo("left-out.json"), b"[]")),
    ],
)
def test_backup_that_is_not_right_is_refused_and_changes_nothing(
    folders: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[bytes], bytes]
) -> None:
    spoilt = spoil(saved())
    use(folders / "new", monkeypatch)
    for attempt in (archive.verify, archive.restore):
        with pytest.raises(UserError, match="nothing was changed"):
            attempt(io.BytesIO(spoilt))
    assert content(folders / "new") == {}


class Meddling(io.BytesIO):
    """What a backup is written to, that does something else once so many bytes have come."""

    def __init__(self, after: int, meddle: Callable[[], None]) -> None:
        super().__init__()
        self.after, self.meddle = after, meddle

    def write(self, data: bytes) -> int:
        if self.tell() > self.after:
            self.after, meddle = sys.maxsize, self.meddle
            meddle()
        return super().write(data)


@pytest.mark.parametrize("size", [3_000_000, 10])
def test_file_that_changes_while_it_is_saved_is_saved_whole(
    folders: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    weights = folders / "old/work/weights.pt"

    def rewrite() -> None:  # in place, as a training loop does: the half that was read is of the one before
        weights.write_bytes(b"2" * size)
        os.utime(weights, (1, 1))

    stream = Meddling(1_000_000, rewrite)
    archive.write(stream)
    assert stream.after == sys.maxsize
    use(folders / "new", monkeypatch)
    archive.restore(io.BytesIO(stream.getvalue()))
    assert (folders / "new/work/weights.pt").read_bytes() == b"2" * size


def test_file_deleted_while_it_is_saved_spoils_nothing(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = folders / "old/work"
    weights, later = work / "weights.pt", work / "weights.txt"
    later.write_text("listed, and gone before its turn")

    class Meddled(io.BytesIO):
        """Changes the weights while they are read, and deletes them while they are read again."""

        def write(self, data: bytes) -> int:
            if self.tell() > 1_000_000 and later.exists():
                later.unlink()
                os.utime(weights, (1, 1))
            elif self.tell() > 4_000_000:
                weights.unlink(missing_ok=True)
            return super().write(data)

    before = content(work)
    stream = Meddled()
    archive.write(stream)
    assert not weights.exists()
    use(folders / "new", monkeypatch)
    archive.restore(io.BytesIO(stream.getvalue()))
    del before["weights.txt"]
    assert content(folders / "new/work") == before


def test_commands_back_up_and_restore_natively(folders: Path) -> None:
    plain = Path(sys.base_prefix) / "bin/python3"  # the machine's own, which has no packages

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [plain, "-s", REPOSITORY / "scripts" / script, "--native", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    made = run("backup", "mine.tar.gz")
    assert made.returncode == 0, made.stderr
    assert "5 files" in made.stdout
    assert (folders / "mine.tar.gz").stat().st_mode & 0o777 == 0o600
    again = run("backup", "mine.tar.gz")
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    (folders / "old/work/mine.ipynb").unlink()
    restored = run("restore", "mine.tar.gz")
    assert restored.returncode == 0, restored.stderr
    assert (folders / "old/work/mine.ipynb").exists()
    missing = run("restore", "nowhere.tar.gz")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    full = run("backup", "/dev/full/x.tar.gz")
    assert (full.returncode, full.stderr.count("\n")) == (1, 1)


def test_of_two_backups_to_one_name_the_later_is_refused_and_the_other_is_whole(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKSPACE_WORK", str(folders / "old/work"))
    write = archive.write

    def write_while_another_does(stream: BinaryIO) -> None:
        monkeypatch.setattr(archive, "write", write)
        write(stream)
        backup_command.backup(folders / "mine.tar.gz", natively=True)

    monkeypatch.setattr(archive, "write", write_while_another_does)
    with pytest.raises(UserError, match="made by another backup"):
        backup_command.backup(folders / "mine.tar.gz", natively=True)
    with (folders / "mine.tar.gz").open("rb") as stream:
        assert archive.verify(stream).files
    assert len(list(folders.glob("mine*"))) == 1


def test_backup_of_a_workspace_that_is_not_there_makes_nothing(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKSPACE_WORK", str(folders / "nowhere"))
    with pytest.raises(UserError, match=r"no workspace on this machine: no folder .*nowhere"):
        backup_command.backup(Path("mine.tar.gz"), natively=True)
    assert not (folders / "nowhere").exists()
    assert list(folders.glob("mine*")) == []


def test_backup_onto_a_full_disk_names_the_file_and_leaves_none(folders: Path, small_disk: SmallDisk) -> None:
    full = small_disk("size=64k")
    with pytest.raises(UserError, match=r"disk/mine.tar.gz: No space left on device"):
        backup_command.backup(full / "mine.tar.gz", natively=True)
    assert list(full.iterdir()) == []
    assert folders


def test_backup_from_a_container_onto_a_full_disk_names_the_file_and_leaves_none(
    container: Container, small_disk: SmallDisk
) -> None:
    full = small_disk("size=64k")
    failed = container.command("scripts/backup", str(full / "mine.tar.gz"))
    assert failed.returncode == 1
    assert "disk/mine.tar.gz" in failed.stderr
    assert "no space left on device" in failed.stderr
    assert list(full.iterdir()) == []


def test_workspace_moves_from_one_container_to_another(fresh: Container, container: Container, tmp_path: Path) -> None:
    lab = Lab(container.command("scripts/link").stdout.strip())
    edit = {"type": "file", "format": "text", "content": "moved"}
    assert lab.request("PUT", "/api/contents/moved.txt", lab.token, json=edit).status_code == 201
    backup = tmp_path / "workspace.tar.gz"
    made = container.command("scripts/backup", str(backup))
    assert made.returncode == 0, made.stderr
    assert "every byte verified" in made.stdout
    lab.request("DELETE", "/api/contents/moved.txt", lab.token)
    restored = fresh.command("scripts/restore", str(backup))  # before that workspace ever ran
    assert restored.returncode == 0, restored.stderr
    assert "every one as it was saved" in restored.stdout
    moved = fresh.start()
    assert moved.token != lab.token
    assert moved.get("/api/contents/moved.txt", moved.token).json()["content"] == "moved"
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(cut(backup.read_bytes()))
    refused = fresh.command("scripts/restore", str(broken))
    assert refused.returncode == 1
    assert "nothing was changed" in refused.stderr


# --- killed while it saves ---


def notebook(number: int) -> dict:
    """A notebook whose every cell says the same number, so that a mixture shows."""
    cell = {"cell_type": "code", "metadata": {}, "source": str(number), "outputs": [], "execution_count": None}
    cells = [cell | {"id": f"c{index}"} for index in range(300)]
    body = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return {"type": "notebook", "format": "json", "content": body}


def save_until_killed(lab: Lab, first: int, kill: Callable[[], None]) -> tuple[int, int]:
    """Save as fast as it goes and kill the lab in between; the last number acknowledged, and the last that was sent."""
    assert lab.request("PUT", "/api/contents/saved.ipynb", lab.token, json=notebook(first)).ok
    killer = threading.Timer(random.uniform(0.2, 0.8), kill)  # noqa: S311
    killer.start()
    number = first + 1
    while True:
        try:
            answer = lab.request("PUT", "/api/contents/saved.ipynb", lab.token, json=notebook(number))
        except requests.RequestException:
            killer.join()
            return number - 1, number
        assert answer.ok, answer.text
        number += 1


def read(lab: Lab) -> int:
    """The number in the saved notebook, which must be whole."""
    got = lab.get("/api/contents/saved.ipynb", lab.token)
    assert got.status_code == 200, got.text
    numbers = {cell["source"] for cell in got.json()["content"]["cells"]}
    assert len(numbers) == 1, numbers
    return int(numbers.pop())


WRITE_CHECKPOINTS = """
import os, pathlib, torch
weights = torch.zeros(1_000_000)
while True:
    weights += 1
    torch.save(weights, '/workspace/checkpoint.new')
    os.replace('/workspace/checkpoint.new', '/workspace/checkpoint.pt')
"""
READ_CHECKPOINT = """
import torch
weights = torch.load('/workspace/checkpoint.pt', weights_only=True)
print(weights.min().item() == weights.max().item() > 0)
"""


def test_saves_survive_a_killed_server(native_server: NativeServer) -> None:
    rounds, number = ROUNDS - ROUNDS // 2, 1
    for _ in range(rounds):
        with native_server.process() as (lab, process):
            acknowledged, number = save_until_killed(lab, number + 1, process.kill)
        assert json.loads((native_server.folder / "work/saved.ipynb").read_text())["nbformat"] == 4  # for other readers
        with native_server.running() as lab:
            assert acknowledged <= read(lab) <= number


def test_saves_and_checkpoints_survive_a_killed_container(fresh: Container) -> None:
    number = 0
    lab = fresh.start()
    ids = fresh.command("docker", "compose", "ps", "--quiet").stdout.strip()
    for again in range(ROUNDS // 2):
        if again:  # else the engine would wait twice as long after each crash, up to a minute
            assert fresh.command("docker", "compose", "restart").returncode == 0
            wait_until(fresh.healthy)
        kernel = lab.request("POST", "/api/kernels", lab.token, json={}).json()["id"]
        lab.send(kernel, WRITE_CHECKPOINTS)
        lab.wait_for_file("checkpoint.pt")
        inspected = subprocess.run(
            ["docker", "inspect", "--format", "{{.State.Pid}}", ids], capture_output=True, text=True, check=True
        )
        # From the host, as a crash: the engine starts it again by itself.
        acknowledged, number = save_until_killed(
            lab, number + 1, lambda pid=int(inspected.stdout): os.kill(pid, signal.SIGKILL)
        )
        wait_until(fresh.healthy)
        assert acknowledged <= read(lab) <= number
        assert lab.run(READ_CHECKPOINT, 120) == "True\n"


SMALL_DISK = """
volumes: {work: {driver: local, driver_opts: {type: tmpfs, device: tmpfs, o: "size=16m,uid=1000"}}}
"""


def test_full_disk_is_told_at_start_refuses_the_save_and_keeps_the_notebook(fresh: Container) -> None:
    overlay = fresh.checkout / "docker/small-disk.yml"
    overlay.write_text(SMALL_DISK)
    try:
        started = fresh.command(
            *("docker", "compose", "-f", "docker-compose.yml", "-f", str(overlay), "up", "--detach", "--build")
        )
    finally:
        overlay.unlink()
    assert started.returncode == 0, started.stderr
    wait_until(fresh.healthy)
    lab = Lab(fresh.command("scripts/link").stdout.strip())
    assert "MB are free in /workspace" in fresh.command("docker", "compose", "logs").stdout
    assert lab.request("PUT", "/api/contents/saved.ipynb", lab.token, json=notebook(1)).ok
    layout = {"data": {"mark": "first"}, "metadata": {"id": "default"}}
    assert lab.request("PUT", TABS, lab.token, json=layout).ok
    fresh.inside("sh", "-c", "cat /dev/zero > /workspace/filling")
    refused = lab.request("PUT", "/api/contents/saved.ipynb", lab.token, json=notebook(2))
    assert refused.status_code == 500
    assert "No space left on device" in refused.text
    assert read(lab) == 1
    restored = lab.request("POST", "/api/contents/saved.ipynb/checkpoints/checkpoint", lab.token)
    assert restored.status_code == 500
    assert "No space left on device" in restored.text
    assert read(lab) == 1
    theme = lab.request("PUT", THEME, lab.token, json={"raw": "{}"})
    assert "No space left on device" in theme.text
    layout = {"data": {"mark": "second"}, "metadata": {"id": "default"}}
    assert lab.request("PUT", TABS, lab.token, json=layout).status_code == 500
    assert lab.get(TABS, lab.token).json()["data"] == {"mark": "first"}
    made = fresh.command("scripts/backup", str(fresh.checkout / "rescued.tar.gz"))
    assert made.returncode == 0, made.stderr
