"""NVIDIA's driver, as a process meets it. Without torch, so that the lab's server may ask, too."""

import errno
import os
from pathlib import Path

LOST = (
    "the container has lost its GPU, as after `systemctl daemon-reload` on the host: scripts/stop, then scripts/start "
    '--gpu. For good: the engine set to CDI, or to "exec-opts": ["native.cgroupdriver=cgroupfs"] in '
    "/etc/docker/daemon.json"
)


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
