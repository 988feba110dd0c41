"""What the lab writes for its user is the old file or the new one, and the last that was acknowledged."""

import asyncio
import errno
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from labs import TABS, THEME, Lab, NativeServer
from tornado.web import HTTPError
from workspace.base import files
from workspace.base.files import UNFINISHED, remove_unfinished
from workspace.base.places import LESSON
from workspace.lab import contents

LONGEST = "n" * (255 - len(".ipynb")) + ".ipynb"


@pytest.fixture
def manager(tmp_path: Path) -> contents.AtomicContents:
    return contents.AtomicContents(root_dir=str(tmp_path))


def file(content: str, **more: object) -> dict:
    return {"type": "file", "format": "text", "content": content, **more}


def notebook(text: str) -> dict:
    cell = {"cell_type": "markdown", "metadata": {}, "source": text, "id": "c"}
    return {"type": "notebook", "content": {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}}


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the disk takes half of a copy and no more."""

    def copy_half(source: str, target: str, **_: object) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:10])
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr(shutil, "copyfile", copy_half)


def in_order(*calls: Callable) -> list[object]:
    """Make the calls at once; their results or errors in the order in which they were answered."""

    async def all_at_once() -> list[object]:
        answers = []

        async def one(call: Callable) -> None:
            try:
                answers.append(await call())
            except HTTPError as error:
                answers.append(error)

        await asyncio.gather(*map(one, calls))
        return answers

    return asyncio.run(all_at_once())


def test_the_lesson_to_which_the_link_leads_comes_back_where_it_was_renamed(
    folders: Path,
) -> None:
    manager = contents.AtomicContents(root_dir=str(folders / "work"))

    async def rename_and_open() -> str:
        await manager.save(notebook("mine"), LESSON)
        await manager.rename_file(LESSON, "mine.ipynb")
        with pytest.raises(HTTPError):
            await manager.get("another.ipynb")
        return (await manager.get(path=LESSON))["content"]["cells"][0]["source"]

    assert asyncio.run(rename_and_open()).startswith("# Your first image classifier")
    assert "mine" in (folders / "work/mine.ipynb").read_text()


def test_saves_of_one_file_at_once_all_succeed_and_the_last_acknowledged_is_there(
    manager: contents.AtomicContents, tmp_path: Path
) -> None:
    acknowledged = []

    async def save(number: int) -> None:
        # Each is shorter than the one before, and so would overtake it.
        await manager.save(notebook(str(number) * 2_000_000 if number < 3 else str(number)), "x.ipynb")
        acknowledged.append(number)

    assert in_order(*(lambda number=number: save(number) for number in range(8))) == [None] * 8
    assert str(acknowledged[-1]) in (tmp_path / "x.ipynb").read_text()
    assert acknowledged == list(range(8))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(UNFINISHED)] == []


def test_two_tabs_save_one_notebook_at_the_same_time(native_lab: Lab) -> None:
    refused = []

    def tab(number: int) -> None:
        for _ in range(10):
            answer = native_lab.request(
                "PUT", "/api/contents/tabs.ipynb", native_lab.token, json=notebook(str(number) * 500_000)
            )
            if not answer.ok:
                refused.append(answer.text)

    tabs = [threading.Thread(target=tab, args=(number,)) for number in range(4)]
    for one in tabs:
        one.start()
    for one in tabs:
        one.join()
    assert refused == []
    content = native_lab.get("/api/contents/tabs.ipynb", native_lab.token).json()["content"]
    assert len(set(content["cells"][0]["source"])) == 1


@pytest.mark.parametrize("name", [LONGEST, LONGEST.replace("ipynb", "txt"), "ä" * 120 + ".ipynb"])
def test_names_as_long_as_the_disk_takes_are_saved_with_a_checkpoint_and_restored(
    manager: contents.AtomicContents, tmp_path: Path, name: str
) -> None:
    async def work() -> None:
        content = notebook if name.endswith("ipynb") else file
        await manager.save(content("first"), name)
        await manager.create_checkpoint(name)
        await manager.save(content("second"), name)
        assert "second" in (tmp_path / name).read_text()
        await manager.restore_checkpoint("checkpoint", name)
        assert "first" in (tmp_path / name).read_text()

    asyncio.run(work())


def test_checkpoints_of_two_long_names_are_two(manager: contents.AtomicContents) -> None:
    places = {manager.checkpoints.checkpoint_path("checkpoint", "n" * 248 + end) for end in ("1.ipynb", "2.ipynb")}
    assert len(places) == 2


def test_checkpoint_restored_on_a_full_disk_leaves_the_notebook(
    manager: contents.AtomicContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(manager.save(notebook("first"), "x.ipynb"))
    asyncio.run(manager.save(notebook("second"), "x.ipynb"))
    full_disk(monkeypatch)
    with pytest.raises(HTTPError, match="No space left"):
        asyncio.run(manager.restore_checkpoint("checkpoint", "x.ipynb"))
    assert "second" in (tmp_path / "x.ipynb").read_text()


def test_checkpoint_written_on_a_full_disk_leaves_the_one_before(
    manager: contents.AtomicContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(manager.save(notebook("first"), "x.ipynb"))
    kept = Path(manager.checkpoints.checkpoint_path("checkpoint", "x.ipynb"))
    asyncio.run(manager.save(notebook("second"), "x.ipynb"))
    full_disk(monkeypatch)
    with pytest.raises(HTTPError, match="No space left"):
        asyncio.run(manager.create_checkpoint("x.ipynb"))
    assert "first" in kept.read_text()


def test_notebook_that_is_saved_and_has_no_room_for_its_first_checkpoint_is_told_as_saved(
    manager: contents.AtomicContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch)
    assert asyncio.run(manager.save(notebook("first"), "x.ipynb"))["path"] == "x.ipynb"
    assert "first" in (tmp_path / "x.ipynb").read_text()
    assert asyncio.run(manager.list_checkpoints("x.ipynb")) == []


def test_copy_of_a_folder_stands_there_whole_or_not_at_all(
    manager: contents.AtomicContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "mine" / name).write_text(name * 10)
    copied = asyncio.run(manager.copy("mine", ""))
    assert (tmp_path / copied["path"] / "b.txt").read_text() == "b.txt" * 10
    full_disk(monkeypatch)
    with pytest.raises(HTTPError, match=r"mine could not be copied: .*No space left on device"):
        asyncio.run(manager.copy("mine", ""))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["mine", copied["name"]])
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as when it is killed
    with pytest.raises(HTTPError):
        asyncio.run(manager.copy("mine", ""))
    [left] = {path.name for path in tmp_path.iterdir()} - {"mine", copied["name"]}
    assert left.startswith(UNFINISHED)


def test_link_goes_on_leading_where_it_leads_and_a_mode_stays(manager: contents.AtomicContents, tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "real.txt").chmod(0o640)
    (tmp_path / "link.txt").symlink_to("real.txt")
    asyncio.run(manager.save(file("new"), "link.txt"))
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    assert (tmp_path / "real.txt").stat().st_mode & 0o777 == 0o640


# --- uploads ---


def test_upload_takes_the_name_when_it_is_whole(manager: contents.AtomicContents, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_text("old")
    for chunk, seen in ((1, "old"), (2, "old"), (-1, "abc")):
        told = asyncio.run(manager.save(file("abc"[chunk if chunk < 0 else chunk - 1], chunk=chunk), "x.bin"))
        assert (told["name"], told["path"], told["type"]) == ("x.bin", "x.bin", "file")
        assert (tmp_path / "x.bin").read_text() == seen
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]


def test_new_upload_that_breaks_off_stands_under_no_name(manager: contents.AtomicContents, tmp_path: Path) -> None:
    told = asyncio.run(manager.save(file("a", chunk=1), "new.bin"))
    assert told["path"] == "new.bin"
    assert not (tmp_path / "new.bin").exists()


def test_two_uploads_of_one_name_do_not_mix(manager: contents.AtomicContents, tmp_path: Path) -> None:
    asyncio.run(manager.save(file("a", chunk=1), "x.bin"))
    with pytest.raises(HTTPError, match="is going on already"):
        asyncio.run(manager.save(file("B", chunk=1), "x.bin"))
    asyncio.run(manager.save(file("a", chunk=-1), "x.bin"))
    assert (tmp_path / "x.bin").read_text() == "aa"
    with pytest.raises(HTTPError, match="has lost its beginning"):
        asyncio.run(manager.save(file("B", chunk=-1), "x.bin"))
    assert (tmp_path / "x.bin").read_text() == "aa"


def test_upload_that_broke_off_gives_way_to_the_next(
    manager: contents.AtomicContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(manager.save(file("broken", chunk=1), "x.bin"))
    monkeypatch.setattr(contents, "_UPLOAD_ALIVE_S", 0)
    for chunk in (1, -1):
        asyncio.run(manager.save(file("b", chunk=chunk), "x.bin"))
    assert (tmp_path / "x.bin").read_text() == "bb"
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]


@pytest.mark.parametrize("chunk", [3, -1])
def test_chunk_without_the_ones_before_is_refused(manager: contents.AtomicContents, tmp_path: Path, chunk: int) -> None:
    (tmp_path / "x.bin").write_text("old")
    with pytest.raises(HTTPError, match="has lost its beginning"):
        asyncio.run(manager.save(file("c", chunk=chunk), "x.bin"))
    assert (tmp_path / "x.bin").read_text() == "old"


def test_chunk_out_of_order_is_refused_and_the_next_one_taken(manager: contents.AtomicContents, tmp_path: Path) -> None:
    asyncio.run(manager.save(file("a", chunk=1), "x.bin"))
    with pytest.raises(HTTPError, match="has lost its beginning"):
        asyncio.run(manager.save(file("c", chunk=3), "x.bin"))
    for text, chunk in (("b", 2), ("c", -1)):
        asyncio.run(manager.save(file(text, chunk=chunk), "x.bin"))
    assert (tmp_path / "x.bin").read_text() == "abc"


# --- what a kill leaves ---


def test_what_killed_saves_left_is_gone_after_the_next_start(native_server: NativeServer) -> None:
    work = native_server.folder / "work"
    left = work / f"deep/{UNFINISHED}folder/file"
    left.parent.mkdir(parents=True)
    for path in (left, work / f"deep/{UNFINISHED}0123", work / "deep/.kept", work / f"{UNFINISHED}4567"):
        path.write_text("half")
    with native_server.running():
        assert [path.name for path in (work / "deep").iterdir()] == [".kept"]
        assert [path for path in work.iterdir() if path.name.startswith(UNFINISHED)] == []


def test_a_start_does_not_look_through_very_many_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [tmp_path / f"{UNFINISHED}0", tmp_path / "deep" / f"{UNFINISHED}1"]
    (tmp_path / "deep").mkdir()
    for path in left:
        path.touch()
    monkeypatch.setattr(files, "_MOST_FOLDERS", 1)
    remove_unfinished(tmp_path)
    assert [path.exists() for path in left] == [False, True]


# --- the lab's open tabs and settings ---


def write(lab: Lab, mark: str) -> tuple[requests.Response, requests.Response]:
    layout = {"data": {"mark": mark}, "metadata": {"id": "default"}}
    settings = {"raw": json.dumps({"theme": mark})}
    return tuple(lab.request("PUT", where, lab.token, json=what) for where, what in ((TABS, layout), (THEME, settings)))


def test_open_tabs_and_settings_are_written_beside_and_moved(native_server: NativeServer) -> None:
    with native_server.running() as lab:
        for mark in ("first", "second"):
            assert [answer.status_code for answer in write(lab, mark)] == [204, 204]
        folder = native_server.folder / "work/.jupyterlab"
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert len(files) == 2
        before = {path: path.stat().st_ino for path in files}
        write(lab, "third")
        assert all("third" in path.read_text() and path.stat().st_ino != before[path] for path in files)
        assert lab.get(TABS, lab.token).json()["data"] == {"mark": "third"}
