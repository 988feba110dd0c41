"""The command `run`: check, run in a thread of its own, show where it is, and say how it ended."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.base.terminal import StatusLine, duration
from workspace.runs import folders, notebook_parameters

if TYPE_CHECKING:
    from workspace.runs.execution import Job


def main(
    notebook: Path,
    *,
    parameter: list[list[str]],
    file: Path | None,
    output: Path | None,
    timeout: float | None,
    execution_timeout: int | None,
    start_timeout: int,
    kernel: str | None,
    cwd: Path | None,
    background: bool,
    dry_run: bool,
    help_notebook: bool,
) -> int:
    """Run `notebook` as the command line says and return the exit code. Raises UserError for bad input."""
    known = notebook_parameters.of_notebook(notebook)
    if help_notebook:
        cli.say(notebook_parameters.describe(notebook, known))
        return 0
    for seconds in (timeout, execution_timeout, start_timeout):
        if seconds is not None and not seconds > 0:
            raise UserError(f"a timeout of {seconds:g} s leaves no time; give seconds above 0", cli.BAD_INPUT)
    if cwd and not cwd.is_dir():
        raise UserError(f"there is no folder {cwd}", cli.BAD_INPUT)
    named = notebook_parameters.typed(notebook, known, parameter)
    from_file = notebook_parameters.typed(notebook, known, notebook_parameters.read_file(file).items()) if file else {}
    folder = (output or folders.default_folder(notebook)).absolute()
    folders.require_new(folder)
    from workspace.runs import execution  # it imports papermill: bad input need not wait for that

    job = execution.Job(
        notebook=notebook.absolute(),
        folder=folder,
        parameters=from_file | named,
        timeout_s=timeout,
        cell_timeout_s=execution_timeout,
        start_timeout_s=start_timeout,
        kernel=kernel,
        cwd=cwd and cwd.absolute(),
    )
    execution.require_kernel(job)
    if dry_run:
        values = {name: parameter.default for name, parameter in known.items()} | job.parameters
        for name, value in values.items():
            if name != notebook_parameters.OUTPUT_FOLDER:
                cli.say(f"{name} = {value!r}{'' if name in job.parameters else '  (default)'}")
        cli.say(f"would be kept in {folder}")
        return 0
    return _go_on_alone(job) if background else _run(job)


def _go_on_alone(job: "Job") -> int:
    """Run `job` in a process that neither the terminal nor the browser tab ends, and return when it is under way."""
    child = os.fork()
    if not child:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        try:
            _run(job)
        finally:
            os._exit(0)
    while not (job.folder.exists() or any(run.status == folders.RUNNING for run in folders.attempts(job.folder))):
        if os.waitpid(child, os.WNOHANG)[0] and not job.folder.exists():
            raise UserError(f"the run could not be started in the background; try it without: {job.folder}")
        time.sleep(0.05)
    name, follow = job.folder.name, places.command("runs")
    cli.say(f"running as {name}: {follow} tail {name}, {follow} stop {name}")
    return 0


def _run(job: "Job") -> int:
    from workspace.runs import execution

    cancel, progress = threading.Event(), execution.Progress()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: cancel.set())
    interrupted = False
    with ThreadPoolExecutor(1) as pool, StatusLine() as line:
        future = pool.submit(execution.run, job, cancel, progress)
        while not future.done():
            try:
                line.show(f"{job.notebook.name} · {progress}")
                threading.Event().wait(0.1)
            except KeyboardInterrupt:
                interrupted = True
                cancel.set()
    made = future.result()
    seconds = duration(made.record["seconds"])
    if made.status == folders.COMPLETED:
        accuracy = made.metrics.get("accuracy")
        result = f": accuracy {accuracy:.4f}" if isinstance(accuracy, float) else ""
        cli.say(f"completed in {seconds}{result}\n{made.folder}")
        return 0
    if interrupted:
        cli.say(f"stopped; what there is of it is in {made.folder}")
        return 130
    raise UserError(f"{made.status} after {seconds}: {made.record['error']}. Notebook and log.txt: {made.folder}")
