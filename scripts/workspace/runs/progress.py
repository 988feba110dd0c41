"""How far a run is: shown by the process that makes it, and left in its folder for whoever else looks on."""

import contextlib
import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from workspace.base.terminal import duration
from workspace.runs import folders, reading

if TYPE_CHECKING:
    from nbformat import NotebookNode


@dataclass
class Progress:
    """Where a run is; written by its thread, read by the one that shows it."""

    begun: float = field(default_factory=time.monotonic)
    folder: Path | None = None  # where the run will be found, when it has begun
    cells: int = 0
    cell: int = 0
    cell_begun: float = field(default_factory=time.monotonic)
    said: str = ""  # the last line that it printed

    @classmethod
    def of(cls, run: folders.Run) -> Self:
        """That of a run which another process makes: its cell as that left it, and the end of its log."""
        left, _ = reading.read_or_complain(run.folder / folders.PROGRESS)
        cell, cells, since = (
            value if isinstance(value := left.get(name), int | float) else 0 for name in ("cell", "cells", "cell_begun")
        )
        # Clocks of two machines differ, and one may be set meanwhile: nothing began in the future.
        in_cell = max(0, time.time() - since) if since else 0
        said = reading.last_lines(run.folder / folders.LOG, 1)
        return cls(
            cells=int(cells), cell=int(cell), cell_begun=time.monotonic() - in_cell, said=said[0] if said else ""
        )

    def begin(self, notebook: "NotebookNode") -> None:
        """The kernel is ready for the first cell."""
        self.cells = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)

    def begin_cell(self, folder: Path) -> None:
        """The next cell starts; whoever looks into the run's `folder` sees that."""
        self.cell += 1
        self.cell_begun = time.monotonic()
        self.said = ""
        with contextlib.suppress(OSError):  # where the disk is full, the run says so
            new = folder / f"{folders.PROGRESS}.new"
            new.write_text(json.dumps({"cell": self.cell, "cells": self.cells, "cell_begun": time.time()}))
            new.replace(folder / folders.PROGRESS)

    @property
    def seconds_in_cell(self) -> float:
        """Since the cell at work started."""
        return time.monotonic() - self.cell_begun

    @property
    def share(self) -> float:
        """How much of the cell's work is done, 0 to 1, if the last line says so, else 0.

        It does by `epoch 1.5 of 12`, `step 3/12` or a bar such as `40%|`.
        """
        if found := re.search(r"\b(\d+(?:\.\d+)?) ?(?:/|of) ?(\d+(?:\.\d+)?)\b|\b(\d+(?:\.\d+)?)%\|", self.said):
            share = float(found[3]) / 100 if found[3] else float(found[1]) / (float(found[2]) or 1)
            return share if 0 < share <= 1 else 0
        return 0

    @property
    def time_left(self) -> str:
        """Of the cell at work, in words; empty where nobody can say."""
        if not (share := self.share):
            return ""
        return f"about {duration(self.seconds_in_cell * (1 - share) / share)} left in this cell"

    @property
    def where(self) -> str:
        """The cell at work, in words."""
        return f"cell {self.cell} of {self.cells}" if self.cell else "starting the kernel"

    def __str__(self) -> str:
        """Cell, the last line the notebook printed, time taken; time left where that line tells how far it is."""
        words = [self.where, self.said[:70], duration(time.monotonic() - self.begun), self.time_left]
        return " · ".join(filter(None, words))


class TimeLeft:
    """When many runs will end, reckoned anew whenever a run ends, and counted down in between."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._left = 0
        self._end = 0.0

    def note(self, seconds: float) -> None:
        """A run took so long."""
        self._seconds.append(seconds)

    def told(self, left: int, running: int, now: float | None = None) -> str:
        """In words, for `left` runs of which some are `running`; empty where nothing is known."""
        if not self._seconds or not running:
            return ""
        now = time.monotonic() if now is None else now
        if left != self._left:
            each = sum(self._seconds) / len(self._seconds)
            # When one ends, those beside it are half done on average.
            self._left, self._end = left, now + each * max(1, left - (running - 1) / 2) / running
        rest = self._end - now
        return f"about {duration(rest)} left" if rest > 0 else "longer than expected"
