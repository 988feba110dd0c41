"""What the system lets a process have: CPUs, memory, the GPU. Python alone, so that every command may ask."""

import errno
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60
"""Version 1 of the control groups writes a number near 2^63 for "no limit"."""

LOST = (
    "the container has lost its GPU, as after `systemctl daemon-reload` on the host: scripts/stop, then scripts/start "
    '--gpu. For good: the engine set to CDI, or to "exec-opts": ["native.cgroupdriver=cgroupfs"] in '
    "/etc/docker/daemon.json"
)


def cpu_quota(root: Path = CGROUPS) -> float | None:
    """CPUs that the control group allows, such as 1.5, or None where it sets no limit.

    A container limited to 2 of 64 CPUs still sees 64: as many threads would get in each other's way. Reads version 2
    of the kernel's control groups (cpu.max), else version 1 (cpu.cfs_quota_us):
    https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    for quota, period in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (root / quota).read_text().split() + ((root / period).read_text().split() if period else [])
            allowed, every = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # no such file, "max" (no limit), or not the form we know
            continue
        if allowed > 0 and every > 0:  # version 1 writes -1 for "no limit"
            return allowed / every
    return None


def memory_limit(root: Path = CGROUPS) -> int | None:
    """Bytes of memory that the control group allows, or None where it sets no limit."""
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # versions 2 and 1
        try:
            limit = int((root / file).read_text())
        except (OSError, ValueError):  # no such file, or "max" (no limit)
            continue
        return limit if limit < _NO_LIMIT else None
    return None


def lost(control: Path = Path("/dev/nvidiactl")) -> str | None:
    """A line for a GPU that is here and that this process may not use; None where there is none, or nothing is wrong.

    Every program opens the driver's control device first. A control group that does not allow it, since systemd wrote
    its rules anew, refuses with EPERM, and the file's own mode with EACCES.
    """
    try:
        os.close(os.open(control, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError as error:
        if error.errno == errno.EPERM:
            return LOST
        return (
            f"{control} is closed to uid {os.getuid()}, so its GPU cannot be used: on the host, `options nvidia "
            "NVreg_DeviceFileMode=0666` in /etc/modprobe.d/, then a reboot"
        )
    except OSError:  # no such device, or a driver that says itself what it lacks
        pass
    return None
