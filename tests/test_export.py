"""scripts/runs export: what the tools themselves read back."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import missing
from small import command, python
from workspace.base.cli import UserError
from workspace.runs.folders import Record, Run
from workspace.runs.sweep_record import SweepRecord
from workspace.sweeps import export

MLFLOW = "mlflow-skinny==3.17.2"
CURVES = {"loss": [2.0, 1.5, 1.0], "epochs": [0.5, 1.0, 1.5], "odd": "none"}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder with two runs, one of a sweep."""
    monkeypatch.setenv("WORKSPACE_WORK", str(tmp_path))
    monkeypatch.setenv("WORKSPACE_STATE", str(tmp_path / "state"))
    for name, status in (("alone", "completed"), ("swept/x-2", "failed")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        sweep = "swept" if "/" in name else None
        given = {"x": 2, "why": "=1+1", "big $ name": [1]}
        Record(
            status=status,
            notebook="/w/lesson.ipynb",
            given=given,
            parameters=given | {"rate": 0.1},
            sweep=sweep,
            started="2026-11-23T23:15:00+00:00",
            seconds=2.5,
        ).write(folder / "run.json")
        (folder / "metrics.json").write_text('{"accuracy": 0.75, "dataset": "drawn"}')
        (folder / "curves.json").write_text(json.dumps(CURVES))
        (folder / "lesson.ipynb").write_text("{}")
    SweepRecord(planned=1).write(tmp_path / "runs/swept")
    return tmp_path


def test_a_csv_has_a_line_for_each_run_which_no_spreadsheet_takes_for_a_formula(work: Path) -> None:
    done = command(work, "runs", "export", "--to", "csv", "all.csv")
    assert (done.returncode, done.stdout) == (0, f"2 of 2 runs exported\n{work}/all.csv\n"), done.stderr
    with (work / "all.csv").open(newline="") as file:
        alone, swept = csv.DictReader(file)
    assert (alone["run"], alone["parameters.x"], alone["metrics.accuracy"]) == ("alone", "2", "0.75")
    assert (swept["run"], swept["status"], swept["parameters.why"]) == ("swept/x-2", "failed", "'=1+1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["csv", "taken.csv"], "taken.csv exists already"),
        (["excel", "all.xlsx"], "there are csv, mlflow, tensorboard"),
        (["csv", "all.csv", "nobody"], "there is no run nobody"),
    ],
)
def test_an_export_that_makes_no_sense_is_one_line(work: Path, words: list[str], said: str) -> None:
    (work / "taken.csv").write_text("mine")
    done = command(work, "runs", "export", "--to", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
    assert (work / "taken.csv").read_text() == "mine"


@pytest.mark.usefixtures("work")
def test_a_tool_that_is_not_installed_is_named_with_what_installs_it() -> None:
    with pytest.raises(UserError, match=r"`pip install mlflow` in a terminal of the lab"):
        export._library("no_such_module", "mlflow")


def test_tensorboard_reads_parameters_metrics_and_curves(work: Path) -> None:
    done = command(work, "runs", "export", "--to", "tensorboard", "board", "swept")
    assert done.stdout == f"1 of 1 runs exported\n{work}/board\n", done.stderr
    assert export._to_tensorboard(work / "board", [Run(work / "runs/swept/x-2")]) == 0, "it is there"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(work / "board/swept/x-2"))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("curves/loss")] == [(0, 2.0), (1, 1.5), (2, 1.0)]
    assert read.Scalars("metrics/accuracy")[0].value == 0.75
    assert "_hparams_/session_start_info" in read.SummaryMetadata.__self__.summary_metadata


TWICE_AND_READ = """
import json
from workspace.sweeps import export
for _ in range(2):
    export.main(("mlflow", "flow"), [])
import mlflow
client = mlflow.MlflowClient(tracking_uri="sqlite:///flow/mlflow.db")
found = {}
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        curve = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "curve/loss")]
        files = [one.path for one in client.list_artifacts(run.info.run_id)]
        found[run.info.run_name] = [experiment.name, run.info.status, run.data.params, run.data.metrics, curve, files]
print(json.dumps(found))
"""


def test_mlflow_reads_parameters_metrics_curves_and_the_notebook(work: Path) -> None:
    """As installed by pip in the lab, which the commands' own environment does not look into."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = work / "state/kernels" / version / "lib" / version / "site-packages"
    installer = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
    if subprocess.run([*installer, "--target", str(packages), MLFLOW], check=False).returncode:
        missing("network", "MLflow cannot be installed here")
    done = python(work, TWICE_AND_READ)
    assert done.returncode == 0, done.stderr
    first, _, again, _, found = done.stdout.splitlines()
    assert (first, again) == ("2 of 2 runs exported", "0 of 2 runs exported, 2 were there before")
    read = json.loads(found)
    name, status, parameters, metrics, curve, files = read["alone"]
    assert (name, status) == ("lesson", "FINISHED")
    assert parameters == {"x": "2", "why": "=1+1", "big _ name": "[1]", "rate": "0.1"}
    assert metrics["accuracy"] == 0.75
    assert curve == [[0, 2.0], [1, 1.5], [2, 1.0]]
    assert files == ["lesson.ipynb"]
    assert read["swept/x-2"][:2] == ["swept", "FAILED"]
