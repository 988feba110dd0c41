"""What the server writes for its user: each file is the old one or the new one, whatever happens meanwhile.

The stock server empties a file and then writes it, and chunks of an upload go straight to the file's own name.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from anyio.to_thread import run_sync
from jupyter_server.services.contents.filecheckpoints import AsyncFileCheckpoints
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from jupyterlab_server import settings_handler, workspaces_handler
from tornado.web import HTTPError

from workspace.base.files import UNFINISHED, beside, replacing
from workspace.base.places import LESSON
from workspace.lab import seed

_WIDGET = "application/vnd.jupyter.widget-view+json"
_LONGEST_NAME = 255
_LAST_CHUNK = -1
_UPLOAD_ALIVE_S = 60
"""A chunk of the lab's, 1.4 MB on the wire, takes that long at 23 kB/s."""
_UPLOAD_FORGOTTEN_S = 3600


@contextlib.contextmanager
def _rewriting(file: str) -> Iterator[Path]:
    """As `replacing`, for a file that somebody made: a link goes on leading where it leads, and the mode stays."""
    path = Path(os.path.realpath(file))
    with replacing(path) as new:
        yield new
        if path.exists():
            shutil.copymode(path, new)


@contextlib.contextmanager
def _faults_told(what: str) -> Iterator[None]:
    """Tell the user what went wrong with the disk: the stock server writes that to its log alone."""
    try:
        yield
    except OSError as error:
        raise HTTPError(500, f"{what}: {error.strerror}") from error


def _keep_stills(model: dict[str, Any]) -> None:
    """Of a widget that brings a still of itself, only that is saved: without its kernel the widget is an error."""
    content = model.get("content")
    cells = content.get("cells") if isinstance(content, dict) else None
    for cell in cells if isinstance(cells, list) else []:
        for output in cell.get("outputs") or []:
            if "text/html" in (data := output.get("data") or {}):
                data.pop(_WIDGET, None)


class AtomicCheckpoints(AsyncFileCheckpoints):
    """Checkpoints that are written, and restored, as a whole."""

    async def _copy(self, src: str, dest: str) -> None:
        with self.perm_to_403(dest), _rewriting(dest) as new:
            await super()._copy(src, str(new))

    def checkpoint_path(self, checkpoint_id: str, path: str) -> str:
        """Where the checkpoint is; under a digest where a long name leaves no room for what the stock name adds."""
        folder, slash, name = path.strip("/").rpartition("/")
        if len(os.fsencode(f"{name}-{checkpoint_id}")) > _LONGEST_NAME:
            name = hashlib.sha256(os.fsencode(name)).hexdigest() + Path(name).suffix
        return super().checkpoint_path(checkpoint_id, folder + slash + name)


@dataclass
class _Upload:
    """A file that arrives in chunks, which go to `aside` until the last one."""

    aside: Path
    chunks: int = 0
    last: float = field(default_factory=time.monotonic)

    def silent_s(self) -> float:
        return time.monotonic() - self.last


class AtomicContents(AsyncLargeFileManager):
    """Saves, uploads and restores files as a whole, and those of one file in the order in which they came."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._uploads: dict[str, _Upload] = {}

    def _checkpoints_class_default(self) -> type[AtomicCheckpoints]:
        return AtomicCheckpoints

    @contextlib.contextmanager
    def atomic_writing(self, os_path: str, text: bool = True, encoding: str = "utf-8") -> Iterator[IO]:
        """A stream for the file's new content, which takes its place when the stream is complete."""
        how = {"mode": "w", "encoding": encoding, "newline": "\n"} if text else {"mode": "wb"}
        with self.perm_to_403(os_path), _rewriting(os_path) as new, new.open(**how) as stream:
            yield stream

    def _lock(self, path: str) -> asyncio.Lock:
        """What each change of this file holds, one after the other."""
        return self._locks.setdefault(self._place(path), asyncio.Lock())

    def _place(self, path: str) -> str:
        return os.path.realpath(self._get_os_path(path.strip("/")))

    async def get(self, path: str, *arguments: Any, **options: Any) -> dict[str, Any]:  # noqa: ANN401
        """What the lab is told of a file. The lesson, which the link opens, comes back where it was renamed."""
        if path.strip("/") == LESSON and not await self.file_exists(path):
            await run_sync(seed.seed)
        return await super().get(path, *arguments, **options)

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Save a file or one chunk of it; what the lab is told of the file."""
        async with self._lock(path):
            if model.get("chunk") is None:
                _keep_stills(model)
                return await super().save(model, path)
            return await self._save_chunk(model, path.strip("/"))

    async def rename_file(self, old_path: str, new_path: str) -> None:
        """Rename a file once its saves are through."""
        async with self._lock(old_path):
            await super().rename_file(old_path, new_path)

    async def delete_file(self, path: str) -> None:
        """Delete a file once its saves are through."""
        async with self._lock(path):
            await super().delete_file(path)

    async def _copy_dir(self, from_path: str, to_path_original: str, to_name: str, to_path: str) -> dict[str, Any]:
        """Copy a folder, which takes its name when it is whole."""
        copy = Path(self._get_os_path(to_path_original.strip("/")), to_name)
        aside = beside(copy)
        try:
            await run_sync(shutil.copytree, self._get_os_path(from_path.strip("/")), aside)
            aside.rename(copy)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            why = error.strerror or error.args[0][0][-1]  # copytree's own error lists those of all files
            raise HTTPError(400, f"{from_path} could not be copied: {why}") from error
        return await self.get(to_path, content=False)

    async def create_checkpoint(self, path: str) -> dict[str, Any] | None:
        """Keep the file as it is now. A first save does so, too, and is not refused for want of a checkpoint."""
        try:
            return await super().create_checkpoint(path)
        except OSError as error:
            if not self._lock(path).locked():
                raise HTTPError(500, f"{path} has no new checkpoint: {error.strerror}") from error
            self.log.warning("%s is saved; it has no checkpoint: %s", path, error.strerror)
            return None

    async def restore_checkpoint(self, checkpoint_id: str, path: str) -> None:
        """Put a checkpoint in the file's place once its saves are through."""
        async with self._lock(path):
            with _faults_told(f"{path} is as it was: its checkpoint could not be restored"):
                await super().restore_checkpoint(checkpoint_id, path)

    async def _save_chunk(self, model: dict[str, Any], path: str) -> dict[str, Any]:
        place, chunk = self._place(path), model["chunk"]
        if model.get("type") != "file" or "content" not in model:
            raise HTTPError(400, "only files with content come in chunks")
        upload = self._begin_upload(place, path) if chunk == 1 else self._uploads.get(place)
        if upload is None or chunk not in (upload.chunks + 1, _LAST_CHUNK):
            raise HTTPError(409, f"the upload of {path} has lost its beginning; upload the file again")
        try:
            with _faults_told(f"{path} could not be uploaded"):
                await self._save_large_file(str(upload.aside), model["content"], model.get("format"))
                if chunk == _LAST_CHUNK:
                    with _rewriting(place) as new:
                        upload.aside.replace(new)
        except Exception:
            self._drop_upload(place)
            raise
        upload.chunks += 1
        upload.last = time.monotonic()
        if chunk == _LAST_CHUNK:
            self._drop_upload(place)
            self.run_post_save_hooks(model=model, os_path=place)
            self.emit(data={"action": "save", "path": path})
        if Path(place).exists():
            return await self.get(path, content=False)
        folder, _, name = path.rpartition("/")
        return self._base_model(folder) | {"name": name, "path": path, "type": "file", "size": None}

    def _begin_upload(self, place: str, path: str) -> _Upload:
        """Claim the name for a new upload: chunks do not say whose they are, so two at once would mix."""
        for other in [place for place, upload in self._uploads.items() if upload.silent_s() > _UPLOAD_FORGOTTEN_S]:
            self._drop_upload(other)
        before = self._uploads.get(place)
        if before and (wait := _UPLOAD_ALIVE_S - before.silent_s()) > 0:
            raise HTTPError(
                409,
                f"an upload of {path} is going on already; if it is one that broke off, try again in {wait:.0f} s",
            )
        self._drop_upload(place)
        upload = self._uploads[place] = _Upload(beside(Path(place)))
        return upload

    def _drop_upload(self, place: str) -> None:
        if upload := self._uploads.pop(place, None):
            upload.aside.unlink(missing_ok=True)


def protect_layouts_and_settings() -> None:
    """Have the lab's open tabs and settings written as a whole, too. It has no setting for how it writes them."""
    save_settings, save_workspace = settings_handler.save_settings, workspaces_handler.WorkspacesManager.save

    def save_settings_whole(schemas_dir: str, settings_dir: str, *arguments: object, **options: object) -> None:
        with _faults_told("the settings could not be kept"), _folder_beside(Path(settings_dir)) as aside:
            save_settings(schemas_dir, aside, *arguments, **options)

    def save_workspace_whole(manager: workspaces_handler.WorkspacesManager, space_name: str, raw: str) -> Path:
        with _folder_beside(manager.workspaces_dir) as aside:
            saved = save_workspace(workspaces_handler.WorkspacesManager(aside), space_name, raw)
        return manager.workspaces_dir / saved.name

    settings_handler.save_settings = save_settings_whole
    workspaces_handler.WorkspacesManager.save = save_workspace_whole


@contextlib.contextmanager
def _folder_beside(folder: Path) -> Iterator[str]:
    """A folder to write into in place of `folder`, where its files go when the block ends well."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder) as aside:
        yield aside
        for new in [path for path in Path(aside).rglob("*") if path.is_file()]:
            file = folder / new.relative_to(aside)
            file.parent.mkdir(parents=True, exist_ok=True)
            new.replace(file)
