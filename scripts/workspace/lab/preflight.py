"""What is wrong with the machine, said in a line before work is lost to it."""

import os
import shutil
import time
from pathlib import Path

from workspace.base import places, settings
from workspace.base.cli import UserError
from workspace.lab import access

_LEAST_FREE = 1 << 30
_LEAST_SHARED = 256 << 20
_DAY_S = 86400


def require_writable(folder: Path) -> None:
    """Raise UserError, with what to do, unless this user can write to `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except PermissionError as error:
        if _is_the_images_own(folder):
            raise UserError(
                f"{folder} is the image's and uid {os.getuid()} cannot write to it: leave out --user, or mount folders "
                "of that user's at /workspace, /data and /state",
                access.REFUSED,
            ) from error
        owner, mounted = folder.stat().st_uid, "THE-FOLDER-MOUNTED-THERE" if places.IN_IMAGE else folder
        raise UserError(not_writable(folder, owner, os.getuid(), os.getgid(), mounted), access.REFUSED) from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}", access.REFUSED) from error


def not_writable(folder: Path, owner: int, uid: int, gid: int, mounted: Path | str) -> str:
    """What to say of a `folder` of another `owner`; `mounted` is what the host calls it."""
    where = "On the host: " if folder != mounted else ""
    return (
        f"{folder} belongs to uid {owner} and uid {uid} cannot write to it. {where}sudo chown -R {uid}:{gid} {mounted}"
    )


def _is_the_images_own(folder: Path) -> bool:
    return places.IN_IMAGE and not folder.is_mount()


def warnings() -> list[str]:
    """A line for each thing that will cost work if it stays as it is."""
    folders = {folder.stat().st_dev: folder for folder in (places.work(), places.data(), places.state())}
    unmounted = [str(folder) for folder in (places.work(), places.state()) if _is_the_images_own(folder)]
    found = [volumes(unmounted)] if unmounted else []
    found += [disk(folder, shutil.disk_usage(folder).free) for folder in folders.values()]
    shared = Path("/dev/shm")  # noqa: S108  (looked at, never written to)
    if shared.exists():
        found.append(shared_memory(shutil.disk_usage(shared).total))
    found.append(clock(time.time(), Path(__file__).stat().st_mtime))
    return [line for line in found if line] + settings.gone()


def volumes(unmounted: list[str]) -> str:
    """A warning that what is in these folders goes with the container."""
    mounted = " ".join(f"-v pytorch-workspace_{name}:/{name}" for name in ("data", "state"))
    return (
        f"nothing is mounted at {' and '.join(unmounted)}: your work is lost with this container; to keep it: "
        f"docker run -v pytorch-workspace_work:/workspace {mounted} ..."
    )


def disk(folder: Path, free: int) -> str | None:
    """A warning where `free` bytes are too few for what notebooks write."""
    if free >= _LEAST_FREE:
        return None
    return f"only {free >> 20} MB are free in {folder}: saving will fail when they are used up; make room"


def shared_memory(size: int) -> str | None:
    """A warning where /dev/shm of `size` bytes is too small for DataLoader workers, who die with SIGBUS past it."""
    if size >= _LEAST_SHARED:
        return None
    return f"/dev/shm has only {size >> 20} MB: DataLoader workers will die; docker run --shm-size=1g"  # noqa: S108


def clock(now: float, released: float) -> str | None:
    """A warning where the time `now` is before the time when this release was made, both in seconds since 1970."""
    if now > released - _DAY_S:
        return None
    day = time.strftime("%Y-%m-%d", time.gmtime(now))
    return f"the clock says {day}, before this release was made: downloads will fail; set it (timedatectl set-ntp true)"
