"""How much of this machine the notebook may use. Import it before torch, which reads the environment only once."""

import os
import sys
from pathlib import Path

# Threads that wait for work keep their CPU busy for a while, in case more comes. The default while is so long that
# training gets four times slower as soon as another program wants a CPU.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
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


def threads(most: int) -> int:
    """Threads to compute with: at most `most`, the CPUs this process may run on, and its control group's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(most, cpus, int(cpu_quota() or cpus)))


def peak_memory() -> int:
    """The most memory that this process has used so far, in MB; 0 where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
