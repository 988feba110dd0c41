"""The command `run`: check, run in a thread of its own, show where it is, and say how it ended."""

import argparse
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.base.terminal import StatusLine, duration
from workspace.runs import background, folders, notebook_parameters
from workspace.runs.notebook import Notebook
from workspace.runs.progress import Progress

if TYPE_CHECKING:
    from workspace.runs.execution import Job


def main(options: argparse.Namespace) -> int:
    """Run the notebook as the command line says and return the exit code. Raises UserError for bad input."""
    source = Notebook.read(options.notebook)
    if options.help_notebook:
        cli.say(notebook_parameters.describe(source))
        return 0
    for seconds in (options.timeout, options.execution_timeout, options.start_timeout):
        if seconds is not None and not seconds > 0:
            raise UserError(f"a timeout of {seconds:g} s leaves no time; give seconds above 0", cli.BAD_INPUT)
    if options.cwd and not options.cwd.is_dir():
        raise UserError(f"there is no folder {options.cwd}", cli.BAD_INPUT)
    mappings = [notebook_parameters.read_file(one) for one in options.file]
    mappings += [notebook_parameters.read_yaml(text) for text in options.parameters_yaml]
    named = [*options.parameter, *((name, notebook_parameters.Raw(text)) for name, text in options.parameters_raw)]
    values: dict[str, Any] = {}
    for pairs in (*(mapping.items() for mapping in mappings), named):  # the later go before the earlier
        values |= notebook_parameters.typed(source, pairs)
    if options.copy:
        _require_place_for_copy(options.copy, source)
    folder = folders.place(options.output, options.notebook.stem)
    with cli.importing():
        source.require_kernel(options.kernel)
        from workspace.runs import execution  # it imports Jupyter: bad input need not wait for that

    job = execution.Job(
        notebook=source,
        folder=folder,
        or_beside=options.output is None,
        parameters=values,
        timeout_s=options.timeout,
        cell_timeout_s=options.execution_timeout,
        start_timeout_s=options.start_timeout,
        kernel=options.kernel,
        cwd=options.cwd and options.cwd.absolute(),
    )
    if options.dry_run:
        for name, value in notebook_parameters.effective(source, job.parameters).items():
            cli.say(f"{name} = {value!r}{'' if name in job.parameters else '  (default)'}")
        cli.say(f"would be kept in {folder}")
        return 0
    if options.in_background:
        cli.say(background.go_on(lambda begun: _run(job, options.copy, begun)))
        return 0
    return _run(job, options.copy)


def _require_place_for_copy(copy: Path, source: Notebook) -> None:
    """Raise UserError unless a copy of an executed notebook may be put there, where an older one may stand."""
    if copy.suffix != ".ipynb" or copy.is_dir():
        raise UserError(f"{copy} is no name for a copy of the notebook; -o names the run's folder", cli.BAD_INPUT)
    folders.require_writable(copy.absolute().parent)
    if copy.exists() and (copy.samefile(source.path) or "papermill" not in Notebook.read(copy).content["metadata"]):
        raise UserError(f"{copy} is no notebook that a run has made; it is not overwritten", cli.BAD_INPUT)


def _run(job: "Job", copy: Path | None, begun: Callable[[str], None] | None = None) -> int:
    """Run `job`, show where it is and say how it ended; `begun` is told how to follow it. The exit code."""
    from workspace.runs import execution

    cancel, interrupted, progress = threading.Event(), threading.Event(), Progress()
    background.cancelled_by(cancel, signal.SIGTERM, signal.SIGHUP)
    background.cancelled_by(interrupted, signal.SIGINT)
    with ThreadPoolExecutor(1) as pool, StatusLine() as line:
        future = pool.submit(execution.execute, job, cancel, progress)
        with cli.importing():
            from workspace.runs import cells  # noqa: F401  (it imports papermill: while the kernel starts)
        while not future.done():
            _tell(progress, begun)
            line.show(f"{job.notebook.name} · {progress}")
            wait([future], timeout=0.1)
            if interrupted.is_set():
                cancel.set()
    made = future.result()
    _tell(progress, begun)
    if copy and made.notebook.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with replacing(copy) as new:
            shutil.copyfile(made.notebook, new)
    seconds = duration(made.record.seconds or 0)
    if made.status == folders.COMPLETED:
        result = "" if made.accuracy is None else f"accuracy {made.accuracy:.4f}"
        told = " ".join(filter(None, [result, made.caveat]))
        cli.say(f"completed in {seconds}{': ' if told else ''}{told}\n{made.folder}")
        return 0
    if interrupted.is_set():
        cli.say(f"stopped; what there is of it is in {made.folder}")
        return 130
    raise UserError(f"{made.status} after {seconds}: {made.record.error}. Notebook and log.txt: {made.folder}")


def _tell(progress: Progress, begun: Callable[[str], None] | None) -> None:
    if begun and progress.folder:
        name, follow = folders.Run(progress.folder).full_name, places.command("runs")
        begun(f"running as {name}: {follow} tail {name}, {follow} stop {name}")
