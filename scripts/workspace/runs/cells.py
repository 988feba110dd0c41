"""Executing a notebook's cells by papermill, in a kernel that has been started.

papermill is made for one notebook that somebody watches. For many short ones that nobody does, the parts here take the
place of its own, by the name that papermill knows them by.
"""

import asyncio
import contextlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import papermill
from lesson.parameters import Computed
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.log import logger
from papermill.translators import PythonTranslator, papermill_translators

from workspace.base.terminal import duration
from workspace.runs import folders, reading
from workspace.runs.kernels import Kernel
from workspace.runs.notebook_parameters import OUTPUT_FOLDER
from workspace.runs.progress import Progress

if TYPE_CHECKING:
    from workspace.runs.execution import Job

_OURS = "workspace"
_OUTPUT_WITHIN_S = 300
"""What a cell printed may arrive so long after its end: some thousand lines a second are read."""


def execute(job: "Job", hidden: Path, kernel: Kernel, log: TextIO, progress: Progress) -> tuple[str, str | None]:
    """Execute the notebook of `job` into the folder `hidden`; how it ended, and why if it did not complete.

    Raises OSError where the disk does not take it.
    """
    # A cell that papermill injected into the notebook before, it replaces.
    values = {name: parameter.default for name, parameter in job.notebook.injected.items()} | job.parameters
    if OUTPUT_FOLDER in job.notebook.parameters:
        values[OUTPUT_FOLDER] = str(hidden)
    executed = hidden / job.notebook.name

    def begin_cell(**cell: object) -> None:  # noqa: ARG001
        kernel.busy = True
        progress.begin_cell(hidden)

    def end_cell(**cell: object) -> None:  # noqa: ARG001
        kernel.busy = False
        if not executed.is_file():
            executed.unlink(missing_ok=True)  # a pipe that the notebook put there: who writes to it waits for ever
        if job.cell_timeout_s and progress.seconds_in_cell >= job.cell_timeout_s:
            raise CellTimeoutError  # its end was noticed too late, but no run in which a limit was hit has completed

    try:
        papermill.execute_notebook(
            job.notebook.node(),
            str(executed).replace("{", "{{").replace("}", "}}"),  # which papermill takes for its own
            values,
            engine_name=_OURS,
            language=_OURS,
            kernel_name=kernel.manager.kernel_name,
            km=kernel.manager,
            source=str(job.notebook.path),
            progress_bar=False,
            start_timeout=job.start_timeout_s,
            timeout=job.cell_timeout_s,
            iopub_timeout=_OUTPUT_WITHIN_S,
            stdout_file=_Log(log, progress),
            stderr_file=_Log(log, progress),
            on_notebook_start=progress.begin,
            on_cell_execute=begin_cell,
            on_cell_executed=end_cell,
        )
    except PapermillExecutionError as error:
        log.write("\n".join(error.traceback) + "\n")
        return folders.FAILED, _in_words(error, progress.said)
    except CellTimeoutError:
        if job.cell_timeout_s and progress.seconds_in_cell >= job.cell_timeout_s:
            return folders.TIMED_OUT, f"cell {progress.cell} took longer than {duration(job.cell_timeout_s)}"
        endless = f"cell {progress.cell} has ended, but its output has not after {duration(_OUTPUT_WITHIN_S)} more"
        return folders.FAILED, f"{endless}: print less"
    except (DeadKernelError, RuntimeError) as error:
        if not isinstance(error, DeadKernelError) and "Kernel" not in str(error):
            raise
        where = f"in cell {progress.cell}" if progress.cell else "at its start"
        return folders.FAILED, f"the kernel died {where}: {kernel.cause_of_death()}"
    return folders.COMPLETED, None


class _Log:
    """Where the notebook's output goes: to the log, and its last line to whoever watches."""

    def __init__(self, file: TextIO, progress: Progress) -> None:
        self._file, self._progress = file, progress

    def write(self, text: str) -> None:
        self._file.write(text)
        if lines := [line for line in re.split(r"[\r\n]", text) if line.strip()]:
            self._progress.said = lines[-1].strip()

    def flush(self) -> None:
        self._file.flush()


def _in_words(error: PapermillExecutionError, said: str) -> str:
    """What went wrong; `said` is the last line that the cell printed, where magics say why they fail."""
    text = re.sub(r"\x1b\[[\d;]*m", "", error.evalue).strip().splitlines() or [""]
    told = f"{error.ename}: {text[0]}" if error.traceback else said
    return f"{told} (in cell [{error.exec_count}])"


class NotebookClient(PapermillNotebookClient):
    """Notices at once that its kernel has died, where the stock one looks once a second."""

    async def _async_poll_kernel_alive(self) -> None:
        with contextlib.suppress(DeadKernelError):
            while True:
                await asyncio.sleep(0.05)
                await self._async_check_alive()
        self.task_poll_for_reply.cancel()


class _Engine(Engine):
    """papermill's own engine, with the client above."""

    @classmethod
    def execute_notebook(
        cls, nb: NotebookNode, kernel_name: str, *, source: str, input_path: object, **options: object
    ) -> NotebookNode:
        """Run it; `source` is where it came from, which is written into it."""
        # papermill has put the notebook itself there, and among the parameters perhaps what JSON cannot hold.
        del input_path
        about = nb.metadata.papermill
        about |= {"input_path": source, "parameters": reading.plain(about.get("parameters", {}))}
        return super().execute_notebook(nb, kernel_name, **options)

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, *, start_timeout: int, **options: object
    ) -> None:
        """Let the client run it, whose `options` are."""
        client = NotebookClient(nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, log=logger, **options)
        try:
            client.execute()
        finally:
            if client.kc:
                client.kc.stop_channels()


class _Literals(PythonTranslator):
    """Writes each value as Python reads it; papermill's own makes strings of tuples, sets and a dict's keys."""

    @classmethod
    def translate(cls, val: object) -> str:
        match val:
            case Computed():
                return str(val)
            case tuple():
                return f"({''.join(f'{cls.translate(item)}, ' for item in val).strip()})"
            case set():
                return f"{{{', '.join(map(cls.translate, val))}}}" if val else "set()"
            case dict():
                return f"{{{', '.join(f'{cls.translate(key)}: {cls.translate(item)}' for key, item in val.items())}}}"
            case bytes() | complex():
                return repr(val)
        return super().translate(val)


papermill_engines.register(_OURS, _Engine)
papermill_translators.register(_OURS, _Literals)

# What goes wrong is told once, by the run's record.
for talker in ("papermill", "asyncio"):
    logging.getLogger(talker).setLevel(logging.CRITICAL)
