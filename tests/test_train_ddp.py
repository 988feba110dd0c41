"""notebooks/train_ddp.py: one network, whatever the number of processes and machines that train it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import train_ddp
from labs import REPOSITORY
from small import command, images_of_two_kinds
from workspace.bench import gpu

SCRIPT = str(REPOSITORY / "notebooks/train_ddp.py")
TWO_HERE = ["--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few images of two kinds, light and dark."""
    return images_of_two_kinds(tmp_path_factory.mktemp("data"), 40)


def options(data: Path, output: Path, batch_size: int = 16) -> list[str]:
    given = {"--data-folder": data, "--batch-size": batch_size, "--epochs": 2, "--output-folder": output}
    return [str(word) for pair in given.items() for word in pair]


def start(torchrun: list[str], data: Path, output: Path, script: str = SCRIPT, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *torchrun, script, *options(data, output)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "WORKSPACE_DATA": str(data.parent)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(*processes: subprocess.Popen) -> str:
    """What the processes said until they ended well."""
    said = ""
    for process in processes:
        said += process.communicate(timeout=400)[0]
        assert process.returncode == 0, said
    return said


def weights(output: Path) -> dict[str, torch.Tensor]:
    """What was trained, and learned."""
    assert json.loads((output / "metrics.json").read_text())["accuracy"] == 1
    return torch.load(output / "weights.pt", weights_only=True)


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    output = tmp_path_factory.mktemp("alone")
    train_ddp.main(options(data, output))
    return weights(output)


def differs(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have names in /proc alone")
def test_threads_of_the_group_end_with_it(data: Path, tmp_path: Path) -> None:
    # One that is left may want Python's lock when Python is gone already: the process aborts, now and then.
    script = tmp_path / "threads.py"
    script.write_text(
        f"import pathlib, sys\nsys.path.insert(0, {str(REPOSITORY / 'notebooks')!r})\n"  # beside the notebook
        "import torch.distributed, train_ddp\n"
        "def ours():\n"
        "    return [thread for thread in pathlib.Path('/proc/self/task').iterdir()\n"
        "            if 'gloo' in (thread / 'comm').read_text()]\n"
        "end = torch.distributed.destroy_process_group\n"
        "def destroy():\n    assert ours()\n    end()\n    assert not ours(), 'after'\n"
        "torch.distributed.destroy_process_group = destroy\n"
        "train_ddp.main()\n"
    )
    ended(start(TWO_HERE, data, tmp_path, str(script)))


@contextlib.contextmanager
def meeting_point() -> Iterator[list[str]]:
    """What torchrun is told on each of two nodes."""
    # Kept here, where it outlives both: a node whose meeting point goes first waits minutes for the other's farewell.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{store.port}", "--rdzv-conf=is_host=false"]
    yield ["--nnodes=2", "--nproc-per-node=1", *meeting, "--local-addr=127.0.0.1"]
    del store


def test_two_nodes_reach_the_weights_of_one(data: Path, alone: dict, tmp_path: Path) -> None:
    with meeting_point() as meeting:
        ended(*[start(meeting, data, tmp_path) for _ in range(2)])
    assert differs(weights(tmp_path), alone) < 1e-5


PRETENDS = f"""\
import os, pathlib, sys
sys.path.insert(0, {str(REPOSITORY / "notebooks")!r})  # beside the notebook
import torch, train_ddp
from lesson import machine
count = int(os.environ["GPUS"])
def set_device(device):
    if device.index >= count:
        raise RuntimeError("CUDA error: invalid device ordinal")
torch.cuda.is_available, torch.cuda.device_count = (lambda: count > 0), (lambda: count)
torch.cuda.set_device = set_device
machine.gpu_works = torch.cuda.is_available
torch.distributed.new_group = lambda backend: backend
"""


@pytest.mark.parametrize("gpus", [0, 1])
def test_two_processes_share_the_cpu_where_there_is_not_a_gpu_for_each(
    gpus: int, data: Path, alone: dict, tmp_path: Path
) -> None:
    script = tmp_path / "pretends.py"
    script.write_text(f"{PRETENDS}train_ddp.main()\n")
    said = ended(start(TWO_HERE, data, tmp_path, str(script), GPUS=str(gpus)))
    assert f"2 processes, all on the CPU, by gloo (GPUs to be used here: {gpus})" in said
    assert differs(weights(tmp_path), alone) < 1e-5


CHOOSES = f"""{PRETENDS}
def chosen(given, rank, world, device, group):
    pathlib.Path(given.output_folder, f"process-{{rank}}").write_text(f"{{device}} {{group}}")
train_ddp._train = chosen
train_ddp.main()
"""


def test_with_a_gpu_for_each_process_every_one_takes_its_own(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "chooses.py"
    script.write_text(CHOOSES)
    said = ended(start(TWO_HERE, data, tmp_path, str(script), GPUS="2"))
    assert [(tmp_path / f"process-{rank}").read_text() for rank in range(2)] == ["cuda:0 nccl", "cuda:1 nccl"]
    assert "2 processes, a GPU each, by NCCL" in said


def test_a_machine_without_a_gpu_brings_all_to_the_cpu(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "chooses.py"
    script.write_text(CHOOSES)
    with meeting_point() as meeting:
        ended(*[start(meeting, data, tmp_path, str(script), GPUS=gpus) for gpus in ("1", "0")])
    assert [(tmp_path / f"process-{rank}").read_text() for rank in range(2)] == ["cpu None", "cpu None"]


def test_too_few_images_for_one_batch_are_told_as_that(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="80 training images do not fill one batch of 100"):
        train_ddp.main(options(data, tmp_path, batch_size=100))


def test_notebook_launches_both_and_finds_the_same_network(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As scripts/bench gpu runs it, which tells what came out."""
    monkeypatch.setattr(gpu, "SHARE", 8)
    [(what, told, _)] = gpu.several_devices(gpu.Bench(tmp_path, data))
    assert what == "2 processes train one network"
    metrics = json.loads((tmp_path / "several/metrics.json").read_text())
    assert metrics["processes"] == 2
    assert metrics["weights_apart"] < 1e-5
    assert f"{metrics['images_per_second']:,.0f} images/s on cpu, by gloo (NCCL not tried" in told
    assert f"weights apart by {metrics['weights_apart']:.0e}" in told


def test_notebook_whose_batch_cannot_be_shared_evenly_fails_with_the_reason(data: Path, tmp_path: Path) -> None:
    given = ["-p", "data_folder", data, "-p", "batch_size", 15]
    unfair = command(tmp_path, "run", REPOSITORY / "notebooks/several_devices.ipynb", *given, "-o", "unfair")
    assert unfair.returncode == 1
    assert "cannot be shared evenly by 2 processes" in (tmp_path / "unfair/log.txt").read_text()


def test_a_batch_that_cannot_be_shared_evenly_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="2"):
        train_ddp.main(options(data, tmp_path / "none", batch_size=15))
    assert "cannot be shared evenly by 2 processes" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
