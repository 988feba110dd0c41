"""Each layer between a GPU and PyTorch, well and ill, on a machine without one.

It has a root of its own, and programs that say what NVIDIA's and Docker's say.
"""

import shutil
import sys
from pathlib import Path

import pytest
import stand_ins
from lesson import system
from workspace.base.cli import UserError
from workspace.base.verdicts import State
from workspace.host import engine, gpu

VERSION = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (root@build)\nGCC version: 12\n"
OLD_VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Fri May 31 09:35:42 UTC 2024\n"
NOT_FOUND = 'docker: Error response from daemon: exec: "nothing": executable file not found in $PATH: unknown.'
FAILED = "docker: Error response from daemon: "
NO_DRIVER = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest"
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95"
LOST = "Failed to initialize NVML: Unknown Error"


class Machine:
    """A root, and a PATH with the programs of this machine and stand-ins for those it has not."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._programs = folder / "root", folder / "bin"
        self._programs.mkdir()
        self.root.mkdir()
        monkeypatch.setenv("PATH", f"{self._programs}:/usr/bin:/bin")

    def has(self, place: str, content: str | bytes = "") -> None:
        file = self.root / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    def says(self, program: str, text: str, code: int = 0) -> None:
        (self._programs / f"{program}.txt").write_text(text)
        stand_ins.program(self._programs / program, f"cat {self._programs}/{program}.txt\nexit {code}")

    def has_card(self) -> None:
        self.has("sys/bus/pci/devices/0000:00:1e.0/vendor", "0x10de\n")
        self.has("sys/bus/pci/devices/0000:00:1e.0/class", "0x030200\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_card(machine: Machine) -> None:
    machine.has("sys/bus/pci/devices/0000:00:02.0/vendor", "0x8086\n")
    machine.has("sys/bus/pci/devices/0000:00:02.0/class", "0x030000\n")
    machine.has("sys/bus/pci/devices/0000:00:03.0/vendor", "0x10de\n")
    machine.has("sys/bus/pci/devices/0000:00:03.0/class", "0x040300\n")  # a card's sound
    assert (gpu.card(machine.root).state, gpu.card(machine.root).kind) == (State.ABSENT, "gpu-none")
    machine.has_card()
    assert gpu.card(machine.root).kind == "well"


def test_card_under_wsl2(machine: Machine) -> None:
    machine.has("dev/dxg")
    machine.says("nvidia-smi", "NVIDIA GeForce RTX 4070, 581.15, 8.9, 12282 MiB\n")
    assert gpu.card(machine.root).kind == "well"
    assert gpu.driver(machine.root).kind == "well"


@pytest.mark.parametrize(
    ("version", "said", "code", "kind"),
    [
        (VERSION.format("580.65.06"), "Tesla T4, 580.65.06, 7.5, 15360 MiB\n", 0, "well"),
        (OLD_VERSION.format("595.10.01"), "NVIDIA H100, 595.10.01, 9.0, 81559 MiB\n", 0, "well"),
        (OLD_VERSION.format("550.90.07"), "Tesla T4, 550.90.07, 7.5, 15360 MiB\n", 0, "gpu-driver-old"),
        (VERSION.format("580.65.06"), "Tesla V100-SXM2-16GB, 580.65.06, 7.0, 16384 MiB\n", 0, "gpu-old"),
        (VERSION.format("580.65.06"), MISMATCH, 18, "gpu-driver-changed"),
        (VERSION.format("580.65.06"), NO_DRIVER, 9, "gpu-driver"),
        (VERSION.format("580.65.06"), "No devices were found", 6, "gpu-driver"),
    ],
)
def test_driver_that_is_loaded(machine: Machine, version: str, said: str, code: int, kind: str) -> None:
    machine.has("proc/driver/nvidia/version", version)
    machine.says("nvidia-smi", said, code)
    verdict = gpu.driver(machine.root)
    assert verdict.kind == kind
    assert (verdict.state is State.WELL) == (kind == "well")


def test_driver_without_its_programs_is_well(machine: Machine) -> None:
    machine.has("proc/driver/nvidia/version", VERSION.format("580.65.06"))
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has them")
    assert gpu.driver(machine.root).kind == "well"


@pytest.mark.parametrize(
    ("files", "modinfo", "told"),
    [
        ({}, 1, "is not installed"),
        ({"sys/module/nouveau/x": ""}, 1, "is nouveau"),
        ({}, 0, "is installed and not loaded: sudo reboot"),
        (
            {"sys/firmware/efi/efivars/SecureBoot-8be4df61": b"\6\0\0\0\0"},
            0,
            "is installed and not loaded: sudo reboot",
        ),
        ({"sys/firmware/efi/efivars/SecureBoot-8be4df61": b"\6\0\0\0\1"}, 0, "Secure Boot does not let it load"),
    ],
)
def test_driver_that_is_not_loaded(machine: Machine, files: dict[str, bytes], modinfo: int, told: str) -> None:
    machine.has_card()
    machine.says("modinfo", "", modinfo)
    for name, content in files.items():
        machine.has(name, content)
    verdict = gpu.driver(machine.root)
    assert verdict.kind == "gpu-driver"
    assert told in verdict.text


@pytest.mark.parametrize(
    ("said", "runtimes", "toolkit", "kind"),
    [
        (NOT_FOUND, {}, "1.20.0", "well"),  # as with CDI: the runtime need not be known
        (NOT_FOUND, {"nvidia": {}}, None, "well"),
        (NOT_FOUND, {"nvidia": {}}, "1.17.4", "gpu-toolkit-old"),
        (f'{FAILED}could not select device driver "" with capabilities: [[gpu]].', {}, None, "gpu-toolkit"),
        (f'{FAILED}could not select device driver "" with capabilities: [[gpu]].', {}, "1.20.0", "gpu-hand-over"),
        (f"{FAILED}failed to discover GPU vendor from CDI: no known GPU vendor found", {}, "1.20.0", "gpu-hand-over"),
        (f"{FAILED}unresolvable CDI devices nvidia.com/gpu=all", {}, "1.20.0", "gpu-hand-over"),
        (f"{FAILED}unresolvable CDI devices nvidia.com/gpu=7", {}, "1.20.0", "gpu-number"),
        (f"{FAILED}nvidia-container-cli: device error: 7: unknown device: unknown.", {}, "1.20.0", "gpu-number"),
        (
            f"{FAILED}nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open",
            {"nvidia": {}},
            "1.20.0",
            "gpu-driver",
        ),
        (
            f"{FAILED}nvidia-container-cli: initialization error: nvml error: driver/library version mismatch: unknown",
            {"nvidia": {}},
            "1.20.0",
            "gpu-driver-changed",
        ),
        (f"{FAILED}something new", {}, "1.20.0", "unknown"),
    ],
)
def test_hand_over(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    runtimes: dict[str, object],
    toolkit: str | None,
    kind: str,
) -> None:
    monkeypatch.setattr(gpu, "ask_engine", lambda: (said, {}))
    monkeypatch.setattr(engine, "info", lambda: {"Runtimes": runtimes})
    if toolkit:
        machine.says("nvidia-ctk", f"NVIDIA Container Toolkit CLI version {toolkit}\ncommit: 2f4e2bb\n")
    verdict = gpu.hand_over()
    assert verdict.kind == kind
    states = {"well": State.WELL, "gpu-toolkit-old": State.WARNING, "unknown": State.WARNING}
    assert verdict.state is states.get(kind, State.BROKEN)
    helps = {"gpu-number": "WORKSPACE_GPUS", "gpu-driver": "nvidia-smi", "gpu-driver-changed": "sudo reboot"}
    if verdict.state is State.BROKEN:
        assert helps.get(kind, "NVIDIA Container Toolkit") in verdict.text


def test_several_gpus_by_cdi_are_refused_and_one_is_not(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.says("nvidia-ctk", "NVIDIA Container Toolkit CLI version 1.20.0")
    for gpus, kind in (("nvidia.com/gpu=0", "well"), ("nvidia.com/gpu=0,nvidia.com/gpu=1", "gpu-cdi-one")):
        monkeypatch.setattr(gpu, "ask_engine", lambda: (NOT_FOUND, {"WORKSPACE_GPUS": gpus}))  # noqa: B023
        assert gpu.hand_over().kind == kind


def test_start_with_a_gpu_names_the_first_layer_that_is_broken(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal() -> str:
        with pytest.raises(UserError) as refused:
            gpu.require(machine.root)
        return str(refused.value)

    monkeypatch.setattr(engine, "info", dict)
    said = [f'{FAILED}could not select device driver "" with capabilities: [[gpu]].']
    monkeypatch.setattr(gpu, "ask_engine", lambda: (said[0], {}))
    assert "has no NVIDIA GPU" in refusal()
    machine.has_card()
    machine.says("modinfo", "", 1)
    assert "driver is not installed" in refusal()
    machine.has("proc/driver/nvidia/version", VERSION.format("580.65.06"))
    machine.says("nvidia-smi", "Tesla T4, 580.65.06, 7.5, 15360 MiB\n")
    assert "Toolkit (1.17.8 or newer) is missing" in refusal()
    machine.says("nvidia-ctk", "NVIDIA Container Toolkit CLI version 1.20.0")
    assert "not set up in the engine" in refusal()
    said[0] = NOT_FOUND
    gpu.require(machine.root)


# The lab's Python, whose PyTorch believes what is written here.
TORCH = """\
__version__ = "2.15.0"
class version: cuda = {cuda!r}
class cuda:
    is_available = staticmethod(lambda: {available})
    get_device_capability = staticmethod(lambda: {capability})
    get_arch_list = staticmethod(lambda: ["sm_75", "sm_80"])
    get_device_name = staticmethod(lambda: "Tesla V100")
class ones:
    def __init__(self, *_, **__):
        if {fails!r}: raise RuntimeError({fails!r})
    def sum(self): return self
    def item(self): return 2
if {warns!r}:
    import warnings
    is_there = cuda.is_available
    cuda.is_available = staticmethod(lambda: warnings.warn({warns!r}) or is_there())
"""
TOO_OLD = "CUDA initialization: The NVIDIA driver on your system is too old (found version 12040)."


@pytest.mark.parametrize(
    ("torch", "handed_over", "smi", "kind"),
    [
        ({}, True, "GPU 0: Tesla T4", "well"),
        ({"available": False, "cuda": None}, False, None, "gpu-not-here"),
        ({"available": False}, False, None, "gpu-not-here"),
        ({"available": False, "cuda": None}, True, "GPU 0: Tesla T4", "gpu-cpu-build"),
        ({"capability": (7, 0)}, True, "GPU 0: Tesla V100", "gpu-old"),
        ({"available": False}, True, LOST, "gpu-lost"),
        ({"available": False}, True, MISMATCH, "gpu-driver-changed"),
        ({"available": False, "warns": TOO_OLD}, True, "GPU 0: Tesla T4", "gpu-driver-old"),
        ({"fails": "CUDA error: out of memory"}, True, "GPU 0: Tesla T4", "gpu-pytorch"),
    ],
)
def test_pytorchs_own_view(
    machine: Machine, tmp_path: Path, torch: dict[str, object], smi: str | None, kind: str, *, handed_over: bool
) -> None:
    usual = {"cuda": "13.2", "available": True, "capability": (7, 5), "fails": "", "warns": ""}
    (tmp_path / "torch.py").write_text(TORCH.format(**usual | torch))
    python = tmp_path / "python"
    stand_ins.program(python, f'export PYTHONPATH="{tmp_path}:$PYTHONPATH"\nexec {sys.executable} "$@"')
    if handed_over:
        machine.has("dev/nvidiactl")
    if smi:
        machine.says("nvidia-smi", smi)
    verdict = gpu.in_pytorch(python, machine.root)
    assert verdict.kind == kind
    states = {"well": State.WELL, "gpu-not-here": State.ABSENT, "gpu-cpu-build": State.WARNING}
    assert verdict.state is states.get(kind, State.BROKEN)


def test_pytorch_that_is_not_there_or_does_not_import(machine: Machine, tmp_path: Path) -> None:
    assert gpu.in_pytorch(tmp_path / "nowhere", machine.root).kind == "no-environment"
    python = tmp_path / "python"
    stand_ins.program(python, "echo 'ImportError: libcudart.so.13: cannot open shared object file' >&2\nexit 1")
    assert gpu.in_pytorch(python, machine.root).kind == "pytorch"


@pytest.mark.parametrize(("closed", "kind"), [(system.LOST, "gpu-lost"), ("closed to uid 1000", "gpu-closed")])
def test_pytorch_need_not_be_asked_where_the_driver_is_closed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, closed: str, kind: str
) -> None:
    monkeypatch.setattr(gpu, "lost", lambda _: closed)
    verdict = gpu.in_pytorch(Path("/bin/false"), machine.root)
    assert (verdict.kind, verdict.text) == (kind, closed)
