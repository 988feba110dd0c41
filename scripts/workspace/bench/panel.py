"""What the panel costs with a thousand runs: until a page can be painted, when one run more has ended, and at rest.

Measured in CPU seconds of the kernel's process, which holds the runs; the browser paints a hundred of them at a time.
Exit code 1 where a bound is missed.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from workspace.bench.measuring import Clock, Table, number_option

_PARAMETERS = {"epochs": 5.0, "batch_size": 128, "device": "auto", "dataset": "auto", "data_folder": "", "side": 32}
_LOOKS = 60
"""So many looks at rest, one a second when a page is open, are measured without the seconds between them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    number_option(parser, "--runs", "how many there are", 1000)


def main(options: argparse.Namespace) -> int:
    """Measure, and print each number beside its bound; 1 where one is missed."""
    from workspace.panel.panel import Panel
    from workspace.panel.watch import Watch
    from workspace.sweeps.ranking import Metric

    with tempfile.TemporaryDirectory(prefix="bench-panel-") as name:
        os.environ["WORKSPACE_WORK"] = name
        for number in range(options.runs):
            _make(Path(name, "runs", f"run-{number:05}"), number)
        _rest(Path(name, "runs"))
        table = Table("", "", "bound")
        clock = Clock()
        watch = Watch()
        watch.look()
        panel = Panel(watch, None, Metric("accuracy", "max"))
        first = clock.look().cpu
        size = len(json.dumps(panel.first)) / 1e6
        _make(Path(name, "runs", "one-more"), 1)
        clock.look()
        watch.look()
        told = len(json.dumps(panel._runs())) / 1e6
        more = clock.look().cpu
        _rest(Path(name, "runs"))
        watch.look()
        clock.look()
        for _ in range(_LOOKS):
            watch.look()
        rest = clock.look().cpu / _LOOKS
        panel.end()
    table.add(f"{options.runs:,} runs are read in", f"{first:.2f} CPU seconds", bound="at most 1 s", kept=first <= 1)
    table.add("what the page is told first", f"{size:.2f} MB", bound="at most 1 MB", kept=size <= 1)
    table.add("one run more", f"{1000 * more:.0f} CPU ms, {told:.2f} MB", bound="at most 200 ms", kept=more <= 0.2)
    table.add("at rest, of one CPU", f"{rest:.3%}", bound="at most 0.1 %", kept=rest <= 0.001)
    table.show()
    return int(table.missed)


def _rest(folder: Path) -> None:
    """As it is when nothing has happened for a while."""
    os.utime(folder, (time.time() - 60,) * 2)


def _make(folder: Path, number: int) -> None:
    """A run as it is left behind."""
    from workspace.runs import folders

    folder.mkdir(parents=True)
    values = {"learning_rate": 0.001 * (number % 50), "width": number % 7, "seed": number % 3}
    record = folders.Record(
        status=folders.COMPLETED,
        notebook="/work/lesson.ipynb",
        notebook_digest="0123456789abcdef",
        parameters=_PARAMETERS | values,
        given=values,
        started=f"2026-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}+00:00",
        seconds=30.0,
    )
    record.write(folder / folders.RECORD)
    metrics = {"accuracy": number % 97 / 100} | {f"accuracy_{name}": 0.5 for name in "abcdefghij"}
    (folder / folders.METRICS).write_text(json.dumps(metrics))
    (folder / folders.CURVES).write_text(json.dumps({"loss": [1.0] * 40, "epochs": [0.1] * 40}))
