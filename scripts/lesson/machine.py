"""How much of this machine the notebook may use. Import it before torch, which reads the environment only once."""

import contextlib
import ctypes
import os
import re
import sys
import time
from pathlib import Path

from lesson import system
from lesson.system import cpu_quota
from lesson.words import _

# Threads that wait for work keep their CPU busy for a while, in case more comes. The default while is so long that
# training gets four times slower as soon as another program wants a CPU.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

# Memory that is freed is kept: each step of a training takes as much again. By default glibc gives it back, and the
# system clears every page before it hands it out anew, which takes a sixth of the lesson's training.
# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: https://man7.org/linux/man-pages/man3/mallopt.3.html
with contextlib.suppress(AttributeError, TypeError):  # another C library
    for option, size in ((-3, 32 << 20), (-1, 256 << 20)):
        ctypes.CDLL(None).mallopt(option, size)

# A Jupyter server sets this for its kernels. A run by papermill or nbval nobody watches: it draws once, at the end, and
# bars move seldom, since each step of theirs stays in the executed notebook.
WATCHED = "JPY_SESSION_NAME" in os.environ


def threads(most: int) -> int:
    """Threads to compute with: at most `most`, the CPUs this process may run on, and its control group's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(most, cpus, int(cpu_quota() or cpus)))


def memory(cgroups: Path = system.CGROUPS) -> int:
    """Bytes that this machine has free, or that its control group allows, whichever is less."""
    import psutil

    free = psutil.virtual_memory().available
    return min(free, system.memory_limit(cgroups) or free)


def peak_memory() -> int:
    """The most memory that this process has used so far, in MB; 0 where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))


def memory_taken(device: str) -> dict[str, int]:
    """The most memory that this process has used so far, in MB: the machine's and, computing on `cuda`, the GPU's."""
    import torch

    taken = {"peak_memory_mb": peak_memory()}
    if device == "cuda":
        taken["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_reserved() / 1e6)
    return taken


def clock(device: str) -> float:
    """Seconds, as `time.perf_counter` counts them, when all is done that `device` (cpu, cuda or mps) was given to do.

    A GPU works on its own: without waiting for it, one measures how long it takes to give it work.
    """
    import torch

    getattr(torch, device).synchronize()
    return time.perf_counter()


def mixed_precision(device: str) -> contextlib.AbstractContextManager:
    """In it a network computes on `device` in bfloat16 where that is faster, and else as it would outside.

    Faster are processors that multiply such numbers by themselves; others imitate it. A GPU has its own section.
    """
    import torch

    able = torch.cpu.get_capabilities()
    faster = device == "cpu" and any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return torch.autocast(device, torch.bfloat16) if faster else contextlib.nullcontext()


def gpu_works() -> bool:
    """Whether PyTorch can compute on this machine's first NVIDIA GPU; says why where there is one and it cannot.

    PyTorch finds every GPU that the driver knows, and fails at the first computation if it was built without code for
    its kind, a number such as 7.5: https://developer.nvidia.com/cuda-gpus.
    """
    import torch

    if not torch.cuda.is_available():
        if why := system.lost():
            print(_("No GPU can be used: {why}.").format(why=why))
        return False
    mine = torch.cuda.get_device_capability()
    names = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name) for name in torch.cuda.get_arch_list()]
    built = [(name[1], (int(name[2]), int(name[3]))) for name in names if name]
    # sm: runs on its own generation, from there on; compute: is translated for every later one.
    if not built or any(kind <= mine and (code == "compute" or kind[0] == mine[0]) for code, kind in built):
        return True
    oldest, newest = min(kind for _, kind in built), max(kind for _, kind in built)
    said = _(
        "The GPU {name} (compute capability {mine}) cannot be used: PyTorch {torch} knows {oldest} to {newest}; {way}."
    )
    way = _("a T4, an RTX 20 or anything newer will do") if mine < oldest else _("a newer PyTorch will do")
    kinds = {name: f"{kind[0]}.{kind[1]}" for name, kind in (("mine", mine), ("oldest", oldest), ("newest", newest))}
    print(said.format(name=torch.cuda.get_device_name(), torch=torch.__version__, way=way, **kinds))
    return False
