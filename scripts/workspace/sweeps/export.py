"""Runs, taken to where a team looks at others: each tool is written to by its own library, an extra of the workspace.

What was exported before is left alone, so the same command adds what is new.
"""

import hashlib
import importlib
import logging
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.lab import environment
from workspace.runs import folders, sweep_record
from workspace.sweeps import ranking

_TAG = "workspace.run"
"""What MLflow knows an exported run by."""
_NOT_IN_A_KEY = re.compile(r"[^\w\-. /]")


def main(to: tuple[str, str], runs: list[str]) -> int:
    """Export the runs and sweeps called so, or all; `to` is a kind and a place. Raises UserError for bad input."""
    kind, place = to[0], Path(to[1]).absolute()
    if kind not in _KINDS:
        raise UserError(f"--to {kind}: there are {', '.join(_KINDS)}", cli.BAD_INPUT)
    chosen = [run for name in runs for run in _called(name)] if runs else folders.everything()
    found = [run for run in chosen if run.finished]
    if not found:
        raise UserError("no run has ended, so there is nothing to export", cli.BAD_INPUT)
    folders.require_writable(place.parent if kind == "csv" else place)
    new = _KINDS[kind](place, found)
    before = f", {len(found) - new} were there before" if new < len(found) else ""
    cli.say(f"{new} of {len(found)} runs exported{before}\n{place}")
    return 0


def _called(name: str) -> list[folders.Run]:
    sweep = sweep_record.find(name)
    return ranking.ended(sweep) if sweep else [folders.find(name)]


def _to_csv(file: Path, runs: list[folders.Run]) -> int:
    if file.exists():
        raise UserError(f"{file} exists already, and nothing is overwritten: choose another name", cli.BAD_INPUT)
    rows = [(run, ranking.row(run)) for run in runs]
    parameters = list(dict.fromkeys(name for _, row in rows for name in row.parameters))
    metrics = sorted({name for _, row in rows for name in row.numbers})
    heads = ["run", "status", "started", "seconds", "notebook"]
    heads += [*(f"parameters.{name}" for name in parameters), *(f"metrics.{name}" for name in metrics), "error"]
    lines = [heads]
    for run, row in rows:
        about = [run.full_name, row.status, run.record.started, row.seconds, row.notebook]
        lines.append([*about, *map(row.parameters.get, parameters), *map(row.numbers.get, metrics), row.error])
    file.parent.mkdir(parents=True, exist_ok=True)
    ranking.write_table(file, lines)
    return len(runs)


def _to_mlflow(folder: Path, runs: list[folders.Run]) -> int:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing of here is told to anybody
    for talker in ("mlflow", "alembic"):
        logging.getLogger(talker).setLevel(logging.WARNING)
    for part in ("sqlalchemy", "alembic"):  # its database, which mlflow-skinny lacks
        _library(part, "mlflow")
    mlflow = _library("mlflow", "mlflow")
    from mlflow.entities import Metric, Param  # once it is known to be there

    folder.mkdir(parents=True, exist_ok=True)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    new = 0
    for run in runs:
        row, begun = ranking.row(run), _milliseconds(run)
        name = run.record.sweep or Path(row.notebook).stem or "runs"
        if known := client.get_experiment_by_name(name):
            experiment = known.experiment_id
        else:
            experiment = client.create_experiment(name, artifact_location=(folder / "artifacts" / name).as_uri())
        identity = hashlib.sha256(f"{run.full_name} {run.record.started}".encode()).hexdigest()[:16]
        if client.search_runs([experiment], f"tags.`{_TAG}` = '{identity}'"):
            continue
        tags = {_TAG: identity, "notebook": row.notebook, "status": row.status}
        made = client.create_run(experiment, start_time=begun, tags=tags, run_name=run.full_name).info.run_id
        values = [Param(_key(key), str(value)[:6000]) for key, value in row.parameters.items()]
        measured = [Metric(_key(key), float(value), begun, 0) for key, value in row.numbers.items()]
        measured += [
            Metric(f"curve/{_key(key)}", value, begun + step, step) for key, _, step, value in _points(row.curves)
        ]
        for at in range(0, max(len(values), len(measured)), 100):  # what one request may hold
            client.log_batch(made, params=values[at : at + 100], metrics=measured[at : at + 100])
        for file in (run.notebook, run.folder / folders.LOG):
            if row.notebook and file.is_file():
                client.log_artifact(made, str(file))
        ended = {folders.COMPLETED: "FINISHED", folders.STOPPED: "KILLED"}.get(row.status, "FAILED")
        client.set_terminated(made, ended, begun + round(1000 * (row.seconds or 0)))
        new += 1
    return new


def _to_tensorboard(folder: Path, runs: list[folders.Run]) -> int:
    _library("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter  # it writes by TensorBoard's own

    new = 0
    for run in runs:
        place = folder / run.full_name.strip("/")
        if place.exists():
            continue
        row, began = ranking.row(run), _milliseconds(run) / 1000
        numbers = {name: float(value) for name, value in row.numbers.items()}
        plain = {name: _number_or_text(value) for name, value in row.parameters.items()}
        with SummaryWriter(str(place)) as writer:
            writer.add_hparams(plain, {f"metrics/{name}": value for name, value in numbers.items()}, run_name=".")
            for name, epochs, step, value in _points(row.curves):
                writer.add_scalar(f"curves/{name}", value, step, began + (epochs or 0))
            about = {"status": row.status, "error": row.error or "", "notebook": str(run.notebook)}
            writer.add_text("run", "\n\n".join(f"{key}: {value}" for key, value in about.items()))
        new += 1
    return new


_KINDS: dict[str, Callable[[Path, list[folders.Run]], int]] = {
    "csv": _to_csv,
    "mlflow": _to_mlflow,
    "tensorboard": _to_tensorboard,
}


def _library(module: str, package: str) -> Any:  # noqa: ANN401
    """The tool's own library, where it is installed: with the workspace's packages, or by `pip install` in the lab."""
    kernels = sysconfig.get_path("purelib", scheme="venv", vars={"base": str(environment.folder())})
    if kernels not in sys.path:
        sys.path.append(kernels)  # behind all that the workspace has itself
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{package} is needed, an extra: `pip install {package}` in a terminal of the lab, or outside of it "
            f"`.venv/bin/uv pip install --python .venv {package}`",
            cli.BAD_INPUT,
        ) from error


def _points(curves: dict[str, Any]) -> Iterator[tuple[str, float | None, int, float]]:
    """Name, passes over the images, step and value of each point of the curves that are lists of numbers."""
    epochs = curves.get("epochs")
    for name, values in curves.items():
        if name == "epochs" or not isinstance(values, list):
            continue
        fits = isinstance(epochs, list) and len(epochs) == len(values)
        for step, value in enumerate(values):
            if isinstance(value, int | float) and not isinstance(value, bool):
                at = epochs[step] if fits and isinstance(epochs[step], int | float) else None
                yield name, at, step, float(value)


def _number_or_text(value: object) -> bool | float | str:
    """A value as programs can hold it that know no list, no NaN and no number of any size."""
    return value if isinstance(value, bool | int | float) and abs(value) < 2**63 else str(value)


def _milliseconds(run: folders.Run) -> int:
    """When it began, since 1970."""
    with suppress(ValueError):
        return round(1000 * datetime.fromisoformat(run.record.started).timestamp())
    return 0


def _key(name: str) -> str:
    return _NOT_IN_A_KEY.sub("_", name)
