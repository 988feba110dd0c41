"""The panel: what the page asks for, and what it is told. How that looks is in panel.js and panel.css.

It starts nothing and ends nothing by itself: it calls the commands, and looks into the folders that they leave.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets
import yaml
from IPython import get_ipython
from IPython.display import display
from lesson import machine

from workspace.base import places
from workspace.base.cli import UserError
from workspace.panel import form, still
from workspace.panel.watch import Ended, Watch
from workspace.runs import ending, folders, reading
from workspace.runs.notebook import Notebook
from workspace.sweeps import plans, ranking
from workspace.sweeps.ranking import Metric

_EVERY_S = 1
"""So often it is looked what there is."""
_AT_ONCE = {"hello", "check", "metric", "log", "reuse"}
"""What is done before the kernel goes on; all else that a page asks for takes a while."""


def show(notebook: str | Path | None, metric: str) -> None:
    """Show a panel below the cell that calls this; see the package."""
    source = _notebook(notebook)
    watch = Watch()
    watch.look()
    shown = still.of(watch, source, metric)
    if machine.WATCHED:
        shown |= Panel.below_this_cell(watch, source, metric).view()
    display(shown, raw=True)


def _notebook(named: str | Path | None) -> Notebook | None:
    """The notebook that is `named`, or the one in which this is called; None where nobody can say which that is.

    Raises UserError where it cannot be run.
    """
    # Jupyter's server says which notebook a kernel is for, and in VS Code the kernel itself knows.
    in_vscode = get_ipython() and get_ipython().user_ns.get("__vsc_ipynb_file__")
    own = in_vscode or os.environ.get("JPY_SESSION_NAME", "")
    place = Path(named or own)
    if named is None and not (place.suffix == ".ipynb" and place.is_file()):
        return None
    return Notebook.read(place)


class Panel(anywidget.AnyWidget):
    """A form and a table, shown in a browser; the state of both is here, so that a page that comes back has it again.

    What takes a while, such as the start of a run, is done beside, so that the kernel goes on.
    """

    _esm = Path(__file__).with_name("panel.js")
    _css = Path(__file__).with_name("panel.css")
    first = traitlets.Dict().tag(sync=True)  # all that the page is told first; it need not wait for the kernel

    _of_cells: ClassVar[dict[str, "Panel"]] = {}

    @classmethod
    def below_this_cell(cls, watch: Watch, notebook: Notebook | None, metric: str) -> "Panel":
        """A panel for the cell at work, in place of the one that the cell had before."""
        parent = get_ipython().get_parent() if get_ipython() else {}
        cell = (parent.get("metadata") or {}).get("cellId") or ""
        if before := cls._of_cells.pop(cell, None):
            before.end()
        panel = cls._of_cells[cell] = cls(watch, notebook, Metric.asked(metric, None))
        return panel

    def __init__(self, watch: Watch, notebook: Notebook | None, metric: Metric) -> None:
        self._watch, self._notebook, self._metric = watch, notebook, metric
        self._values: dict[str, str] = {}  # what stands in the form, as it was last told
        self._known: dict[int, Ended] = {}  # what the page knows
        self._log: tuple[Path, str | None] | None = None  # of the run that is followed, and what of it was shown
        self._serial = 0
        self._telling = threading.RLock()
        self._over = threading.Event()
        self._beside = ThreadPoolExecutor(4, thread_name_prefix="panel")
        super().__init__(first=self._everything())
        self.on_msg(self._hear)
        threading.Thread(target=self._follow, name="panel", daemon=True).start()

    def view(self) -> dict[str, Any]:
        """What a page shows it by."""
        data, _ = self._repr_mimebundle_()
        return {kind: content for kind, content in data.items() if kind != "text/plain"}

    def end(self) -> None:
        """It is shown no more."""
        self._over.set()
        self._beside.shutdown(wait=False, cancel_futures=True)
        self.close()

    # --- what the page is told ---

    def _tell(self, **news: object) -> None:
        with self._telling, contextlib.suppress(Exception):  # a page that is gone is told again when it comes back
            self._serial += 1
            self.send(_as_json(news | {"serial": self._serial}))

    def _everything(self) -> dict[str, Any]:
        with self._telling:
            self._known = {}
            return _as_json({"form": self._form(), "runs": self._runs(), "serial": self._serial})

    def _form(self) -> dict[str, Any]:
        source = self._notebook
        return {
            "notebook": source.name if source else "",
            "fields": form.fields(source) if source else [],
            "values": self._values,
            "checked": self._checked(self._values) if self._values else None,
        }

    def _runs(self) -> dict[str, Any]:
        """What has changed of the runs since the page was told last; all of them where it knows none."""
        ended = {one.number: one for one in self._watch.ended.values()}
        changed = {number: _described(one) for number, one in ended.items() if number not in self._known}
        values = {number: one.row.value(self._metric.name) for number, one in ended.items()}
        entries = ranking.entries((one.row for one in ended.values()), self._metric)
        of_folder = {one.row.folder: one.number for one in ended.values()}
        offered = {name for one in ended.values() for name in one.row.numbers}
        self._known = ended
        return {
            "changed": changed,
            "entries": [_entry(entry, of_folder) for entry in entries],
            "values": {number: value for number, value in values.items() if value is not None},
            "metric": self._metric.name,
            "mode": self._metric.mode,
            "metrics": sorted(offered | {self._metric.name, "accuracy"}),
            "under_way": self._watch.under_way,
            "sweeps": self._watch.sweeps,
            "removed": len(ending.removed()),
            "folder": str(folders.top()),
        }

    def _follow(self) -> None:
        """Tell the page what is new, as long as there is one."""
        while not self._over.wait(_EVERY_S):
            try:
                if self._watch.look():
                    self._tell(runs=self._runs())
                self._tell_log()
            except Exception:
                self._tell(said={"wrong": traceback.format_exc(limit=-1).splitlines()[-1]})

    def _tell_log(self) -> None:
        if not self._log:
            return
        place, shown = self._log
        hidden = folders.attempts(place)
        file = next((run.folder for run in hidden if (run.folder / folders.LOG).exists()), place) / folders.LOG
        if (text := reading.end_of_log(file)) != shown:  # of a modest size, whatever the log has
            self._log = place, text
            self._tell(log=text)

    # --- what the page asks for ---

    def _hear(self, _: object, content: dict[str, Any], __: object) -> None:
        wish = dict(content)
        name = wish.pop("do", "")
        does = getattr(self, f"_do_{name}", None)
        if name in _AT_ONCE:
            self._try(does, wish)
        elif does:
            self._beside.submit(self._try, does, wish)

    def _try(self, does: Callable[..., None], wish: dict[str, Any]) -> None:
        try:
            does(**wish)
        except Exception as error:
            named = "" if isinstance(error, UserError | OSError) else f"{type(error).__name__}: "
            self._tell(said={"wrong": f"{named}{error}"})

    def _done(self, what: str, **more: object) -> None:
        """Tell what came of a wish, and what there is now."""
        self._watch.look()
        self._tell(runs=self._runs(), said={"done": what} | more)

    def _do_hello(self, serial: int) -> None:
        if serial == self._serial:
            self._tell(here=True)
        else:
            self._tell(**self._everything())

    def _do_check(self, values: dict[str, str], number: int = 0) -> None:
        self._values = values
        self._tell(checked=self._checked(values) | {"number": number})

    def _checked(self, values: dict[str, str]) -> dict[str, Any]:
        if not self._notebook:
            return {"wrong": {}, "runs": 0, "time": "", "at_once": 1}
        asked = form.read(self._notebook, values)
        at_once = self._at_once(asked)
        latest_last = sorted(self._watch.ended.values(), key=lambda one: one.record.started)
        before = [one.row for one in latest_last]
        return {
            "wrong": asked.wrong,
            "runs": asked.runs,
            "time": "" if asked.wrong else form.time(self._notebook, asked, before, at_once),
            "at_once": at_once,
            "varied": [axis.name for axis in asked.axes if len(axis.values) > 1],
        }

    def _at_once(self, asked: form.Asked) -> int:
        if not self._notebook or not asked.is_sweep or self._notebook.takes_whole_machine:
            return 1
        return min(asked.runs, _how_many())

    def _do_start(self, values: dict[str, str]) -> None:
        self._values = values
        source = self._notebook and Notebook.read(self._notebook.path)  # as it is saved now
        if not source:
            raise UserError('say which notebook: panel.show("NAME.ipynb")')
        self._notebook = source
        asked = form.read(source, values)
        if asked.wrong:
            self._tell(checked=self._checked(values), started=False)
            return
        metric = ["--metric", self._metric.name, "--mode", self._metric.mode] if asked.is_sweep else []
        started = False
        try:
            with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:  # what a value begins with is no option there
                yaml.safe_dump(asked.as_file, file, sort_keys=False)
                file.flush()
                kind = "sweep" if asked.is_sweep else "run"
                said = _command(kind, source.path, "-f", file.name, "--background", *metric)
            started = True
        finally:
            self._tell(started=started)
        self._done(said.partition(":")[0])

    def _do_metric(self, metric: str) -> None:
        self._metric = Metric.asked(metric, None)
        self._tell(runs=self._runs())

    def _do_log(self, run: str | None) -> None:
        """Show the log of a run, by its full name, and go on doing so; None: no more."""
        self._log = (folders.top() / run, None) if run else None
        self._tell_log()

    def _do_stop(self, name: str) -> None:
        self._done(ending.stop(name))

    def _do_remove(self, numbers: list[int]) -> None:
        chosen = self._chosen(numbers)
        for one in chosen:
            ending.remove(folders.Run(Path(one.row.folder)))
        self._done(f"removed {chosen[0].run if len(chosen) == 1 else f'{len(chosen)} runs'}", undo=len(chosen))

    def _do_go_on(self, name: str) -> None:
        """Go on with a sweep that ended before its time."""
        said = _command("sweep", folders.top() / name / plans.FILE, "--background")
        self._done(said.partition(":")[0])

    def _do_discard(self, name: str) -> None:
        """Remove a sweep that is not at work, or what is left of a run that was killed."""
        run, called = ending.removable(name)
        ending.remove(run)
        self._done(f"removed {called}", undo=1)

    def _do_take_back(self, count: int = 1) -> None:
        latest = ending.removed()[:count]
        for place in latest:
            ending.take_back(place)
        self._done(f"{len(latest)} taken back")

    def _do_compare(self, numbers: list[int]) -> None:
        chosen = self._chosen(numbers)
        metric = ["--metric", self._metric.name, "--mode", self._metric.mode]
        said = _command("compare", *(one.row.folder for one in chosen), *metric)
        page = _in_lab(Path(said.splitlines()[-1]))
        self._tell(said={"done": f"compared: {page}", "open": page})

    def _do_reuse(self, number: int) -> None:
        """Put a run's values into the form, of its notebook."""
        [one] = self._chosen([number])
        self._notebook = Notebook.read(Path(one.record.notebook))
        known = self._notebook.parameters
        self._values = {name: form.text(value) for name, value in one.row.parameters.items() if name in known}
        self._tell(form=self._form())

    def _chosen(self, numbers: Iterable[int]) -> list[Ended]:
        found = [self._watch.by_number(number) for number in numbers]
        if not found or None in found:
            raise UserError("a run that was chosen is not there any more")
        return [one for one in found if one]


@functools.cache
def _how_many() -> int:
    from workspace.sweeps import local  # it imports papermill: who makes no sweep does without

    return local.how_many()


def _command(name: str, *words: object) -> str:
    """Call a command of the workspace, and return what it says. Raises UserError with what is wrong."""
    command = [sys.executable, str(places.REPOSITORY / "scripts" / name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{name} ended with exit code {done.returncode}"]
        raise UserError(lines[-1].removeprefix(f"{name}: "))
    return done.stdout.strip()


def _described(one: Ended) -> dict[str, Any]:
    """What the page shows of a run."""
    row, notebook = one.row, Path(one.row.folder) / one.row.notebook
    return {
        "run": one.run,
        "status": row.status,
        "started": one.record.started,
        "seconds": row.seconds,
        "notebook": row.notebook,
        "parameters": {name: _short(value) for name, value in row.parameters.items()},
        "error": (row.error or "")[:500],
        "caveat": row.caveat,
        "open": _in_lab(notebook) if row.notebook else None,
    }


def _entry(entry: ranking.Entry, numbers: dict[str, int]) -> dict[str, Any]:
    return {
        "runs": [numbers[row.folder] for row in entry.rows],
        "shown": str(entry) if entry.ranks else "",
        "value": entry.mean if entry.ranks else None,
    }


def _short(value: object) -> object:
    """A parameter's value as it is shown and sorted by: a number, or text of a modest length."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return value
    text = form.text(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _in_lab(file: Path) -> str | None:
    """The file as the lab calls it; None where the lab cannot open it."""
    top = places.work().resolve()
    with contextlib.suppress(OSError):
        if file.resolve().is_relative_to(top) and file.is_file():
            return str(file.resolve().relative_to(top))
    return None


def _as_json(content: object) -> Any:  # noqa: ANN401
    """What other languages can read: they know no NaN."""
    return json.loads(json.dumps(reading.plain(content)), parse_constant=lambda _: None)
