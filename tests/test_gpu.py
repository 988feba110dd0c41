"""What can be said about GPUs without one: PyTorch and nvidia-smi are told what they would find."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from labs import REPOSITORY
from lesson import machine, parameters, system
from small import METRICS, PARAMETERS, arguments, environment, notebook
from stand_ins import program
from workspace.base.programs import NOT_THERE, ask
from workspace.base.verdicts import State
from workspace.host import gpu, installer
from workspace.host.causes import Cause

BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
LESSON = nbformat.read(REPOSITORY / "notebooks/first_pytorch_classifier.ipynb", as_version=4)
CELLS = {cell.id: cell.source for cell in LESSON.cells if cell.cell_type == "code"}


def pretend(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, built: list[str] = BUILT) -> None:
    """A GPU of this capability, or none."""
    stand_ins = {
        "is_available": lambda: capability is not None,
        "get_device_capability": lambda: capability,
        "get_arch_list": lambda: built,
        "get_device_name": lambda: "Tesla V100",
        "max_memory_reserved": lambda: 300_000_000,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0), (12, 1)])
def test_cards_that_pytorch_has_code_for_are_used_in_silence(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, capability)
    assert machine.gpu_works()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("capability", "advice"), [((7, 0), "anything newer"), ((6, 1), "anything newer"), ((13, 0), "newer PyTorch")]
)
def test_a_card_that_pytorch_has_no_code_for_is_named_with_what_to_do(
    capability: tuple[int, int], advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, capability)
    assert not machine.gpu_works()
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"Tesla V100 (compute capability {capability[0]}.{capability[1]})" in said
    assert advice in said


def test_code_that_can_be_translated_serves_later_cards_but_no_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, (13, 0), [*BUILT, "compute_120"])
    assert machine.gpu_works()
    pretend(monkeypatch, (7, 0), [*BUILT, "compute_120"])
    assert not machine.gpu_works()


def test_no_card_is_nothing_to_talk_about(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend(monkeypatch, None)
    assert not machine.gpu_works()
    assert capsys.readouterr().out == ""


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the driver's control device refuse to be opened."""
    opened = os.open

    def open_(path: object, *flags: int) -> int:
        if path == Path("/dev/nvidiactl"):
            raise OSError(number, os.strerror(number))
        return opened(path, *flags)

    monkeypatch.setattr(os, "open", open_)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EPERM, "the container has lost its GPU.*scripts/stop, then scripts/start --gpu"),
        (errno.EACCES, "/dev/nvidiactl is closed to uid .*NVreg_DeviceFileMode=0666"),
    ],
)
def test_a_gpu_that_is_here_and_closed_is_told_with_the_cure(
    number: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, None)
    refuse(monkeypatch, number)
    assert not machine.gpu_works()
    assert re.fullmatch(f"No GPU can be used: {told}.*\n", capsys.readouterr().out)


def test_the_doctor_names_a_lost_gpu_before_it_asks_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.EPERM)
    found = gpu.in_pytorch(Path(sys.executable))
    assert (found.state, found.kind, found.text) == (State.BROKEN, Cause.GPU_LOST.kind, system.LOST)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENXIO, errno.ENODEV])
def test_a_driver_that_is_not_there_is_no_lost_gpu(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, number)
    assert system.lost() is None


def test_the_lesson_names_a_card_too_old_and_computes_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, (7, 0))
    names = {"device": "auto", "torch": torch, "machine": machine, "parameters": parameters}
    exec(CELLS["device"], names)  # noqa: S102  (our own notebook)
    assert names["device"] != "cuda"
    assert "cannot be used" in capsys.readouterr().out
    with pytest.raises(parameters.ParameterError, match="finds none here"):
        exec(CELLS["device"], {**names, "device": "cuda"})  # noqa: S102


def test_the_lesson_never_looks_at_the_clock_before_the_gpu_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    assert machine.clock("cuda") <= machine.clock("cpu")
    assert waited == [True]
    assert [name for name, source in CELLS.items() if "perf_counter" in source] == []
    assert {name for name, source in CELLS.items() if "machine.clock(" in source} == {
        "run",
        "accuracy",
        "feeding",
        "gpu",
    }


def test_the_lesson_copies_positions_to_the_device_once_a_pass_not_once_a_step() -> None:
    names = {"torch": torch, "device": "meta", "batch_size": 4}
    exec(CELLS["batches"], names)  # noqa: S102  (our own notebook)
    assert {batch.device.type for batch in names["random_batches"](10, 5)} == {"meta"}


def test_the_lesson_compares_whole_digits_with_half_of_them() -> None:
    names = {"torch": torch, "nn": torch.nn, "machine": machine, "learn_images": torch.randint(256, (8, 16, 16, 3))}
    names |= {"learn_labels": torch.arange(8) % 2, "data": SimpleNamespace(classes=["a", "b"]), "learning_rate": 0.1}
    names |= {"available": {"cuda": False, "mps": False}, "device": "cuda"}
    for cell in ("normalise", "augment", "network", "optimizer", "train", "gpu"):
        exec(CELLS[cell], names)  # noqa: S102  (our own notebook)
    loss, digits = names["loss_function"], []

    def recording(guesses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        digits.append(guesses.dtype)
        return loss(guesses, labels)

    names["loss_function"] = recording
    assert names["images_per_second"]("cpu", 4, 8, steps=2) > 0
    assert names["images_per_second"]("cpu", 4, 8, torch.float16, steps=2) > 0
    assert digits == [torch.float32] * 4 + [torch.float16] * 4


def test_memory_on_the_gpu_is_told_where_it_computes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, (9, 0))
    assert machine.memory_taken("cuda")["peak_gpu_memory_mb"] == 300
    assert machine.memory_taken("cpu").keys() == {"peak_memory_mb"}


@pytest.mark.parametrize("place", range(2))
def test_a_machine_with_nvidias_driver_gets_its_wheels_natively_under_wsl2_too(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORKSPACE_WHEELS", raising=False)
    looked_at = tmp_path / "nvidiactl", tmp_path / "libcuda.so.1"
    monkeypatch.setattr(installer, "_NVIDIA", looked_at)
    assert installer._wheels({}).name == "torch-cpu.txt"
    looked_at[place].touch()
    assert installer._wheels({}).name == "torch-cuda.txt"
    monkeypatch.setenv("WORKSPACE_WHEELS", "cpu")
    assert installer._wheels({}).name == "torch-cpu.txt"


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose nvidia-smi finds two."""
    program(tmp_path / "bin/nvidia-smi", 'printf "GPU 0: A (UUID: a)\\nGPU 1: B (UUID: b)\\n"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


SEES = """\
import os
import time
from pathlib import Path

begun = time.time()
time.sleep(1)
seen = {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "all"), "begun": begun, "ended": time.time()}
Path(output_folder, "seen.json").write_text(__import__("json").dumps(seen))
"""


def sweep(work: Path, *options: str, tags: list[str]) -> subprocess.CompletedProcess[str]:
    """Two runs of a notebook whose parameters cell has these tags besides."""
    path = notebook(work / "small.ipynb", SEES, METRICS, parameters=PARAMETERS)
    content = nbformat.read(path, as_version=4)
    content.cells[0].metadata["tags"] += tags
    nbformat.write(content, path)
    line = arguments("sweep", "small.ipynb", "-p", "x=1,2", "-o", "out", *options)
    return ask(*line, cwd=work, env=environment(work))


def seen(work: Path) -> list[dict]:
    found = [json.loads(file.read_text()) for file in work.glob("out/[!.]*/seen.json")]
    return sorted(found, key=lambda run: run["begun"])


@pytest.mark.usefixtures("two_gpus")
def test_a_sweep_makes_a_run_on_each_gpu(tmp_path: Path) -> None:
    done = sweep(tmp_path, tags=[])
    assert done.returncode == 0, done.stderr
    assert sorted(run["gpus"] for run in seen(tmp_path)) == ["0", "1"]


@pytest.mark.usefixtures("two_gpus")
def test_runs_that_take_the_whole_machine_see_all_gpus_one_after_the_other(tmp_path: Path) -> None:
    refused = sweep(tmp_path, "-j", "2", tags=["whole-machine"])
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "takes the whole machine" in refused.stderr
    done = sweep(tmp_path, tags=["whole-machine"])
    assert done.returncode == 0, done.stderr
    first, second = seen(tmp_path)
    assert (first["gpus"], second["gpus"]) == ("all", "all")
    assert first["ended"] <= second["begun"]


def test_a_program_that_may_not_be_executed_is_none_and_one_that_may_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho asked\n")
    assert ask("nvidia-smi").returncode == NOT_THERE
    tool.chmod(0o755)
    assert ask("nvidia-smi").stdout == "asked\n"
