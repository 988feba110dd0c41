"""Why a process of the workspace died, read from where the kernel of the operating system counts it, not guessed."""

import signal
from dataclasses import dataclass, field
from pathlib import Path

from lesson.system import CGROUPS, memory_limit


def memory_kills(cgroups: Path = CGROUPS) -> int:
    """How many processes of this control group were ever killed for want of memory; 0 where nobody counts.

    Version 2 counts in memory.events, version 1 in memory/memory.oom_control:
    https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
    """
    for file in (cgroups / "memory.events", cgroups / "memory" / "memory.oom_control"):
        try:
            counts = dict(line.split() for line in file.read_text().splitlines())
            return int(counts["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return 0


@dataclass
class Watch:
    """Tells why a process died; made before it, and told now and then that it `lives`.

    The control group counts all of its processes that are killed, not which. So a kill explains a death only if it was
    counted after the last note but one: at the last one, a process may be killed already and not gone yet.
    """

    cgroups: Path = CGROUPS
    _kills: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        """Count from here."""
        self._kills = (memory_kills(self.cgroups),) * 2

    def lives(self) -> None:
        """Note that the process is there: what was killed a while ago was another one."""
        self._kills = (self._kills[1], memory_kills(self.cgroups))

    def cause(self, exit_code: int | None) -> str:
        """Why a process ended with `exit_code`, negative for a signal as subprocess has it, and what to do about it."""
        before, now = self._kills[0], memory_kills(self.cgroups)
        self._kills = (now, now)
        if exit_code in (None, -signal.SIGKILL) and now > before:
            if limit := memory_limit(self.cgroups):
                return f"killed at the {limit / 2**30:.3g} GiB memory limit; lower batch_size or raise WORKSPACE_MEM"
            return "killed because the machine's memory ran out; lower batch_size"
        if exit_code == -signal.SIGBUS:
            return "ended by SIGBUS, as when /dev/shm is full; use fewer DataLoader workers or raise shm_size"
        if exit_code is None:
            return "ended, and nobody can say why"
        if exit_code < 0:
            return f"ended by {signal.Signals(-exit_code).name}"
        return f"ended with exit code {exit_code}"
