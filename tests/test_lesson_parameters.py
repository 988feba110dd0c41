"""A notebook's own limits on its parameters, and its share of the machine."""

import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lesson import machine, parameters

CELL = """\
rate: float = 0.5  # how fast (1e-6 to 1)
count: int = 3  # how many (0 to 10)
mode: str = "fast"  # which way (fast, slow or off)
folder: str = ""  # where, as train/<class>/* (any)
mirror: bool = False  # whether to
"""
RATE, COUNT, MODE, FOLDER, MIRROR = parameters.read(CELL).values()


def test_a_cell_s_lines_give_name_type_default_and_help_in_order() -> None:
    assert [(p.name, p.type, p.default) for p in parameters.read(CELL).values()] == [
        ("rate", "float", 0.5),
        ("count", "int", 3),
        ("mode", "str", "fast"),
        ("folder", "str", ""),
        ("mirror", "bool", False),
    ]
    assert RATE.help == "how fast (1e-6 to 1)"
    assert (RATE.limits, MODE.limits) == ((1e-6, 1), None)
    assert (MODE.choices, RATE.choices) == (("fast", "slow", "off"), None)


def test_reading_a_cell_executes_nothing(capsys: pytest.CaptureFixture) -> None:
    computed = parameters.read("x: int = print('executed')")["x"].default
    assert (repr(computed), type(computed)) == ("print('executed')", parameters.Computed)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("line", "kind", "default", "said"),
    [
        ("x = 3  # how many", "int", 3, "how many"),
        ("x = 3  # type: float how fast", "float", 3, "how fast"),
        ("x = 10 * 2", parameters.ANY, "10 * 2", ""),
        ("x = None", parameters.ANY, None, ""),
        ("e = x = 5", "int", 5, ""),
        ("%matplotlib inline\nx = 5\n!ls", "int", 5, ""),
        ("x = [\n    1,  # one\n]  # some", "list", [1], "some"),
        ("x = float('inf')", "float", math.inf, ""),
        ("x, y = 1, 2", parameters.ANY, "(1, 2)", ""),
    ],
)
def test_what_papermill_reads_is_read(line: str, kind: str, default: object, said: str) -> None:
    found = parameters.read(line)["x"]
    assert (found.type, found.default, found.help) == (kind, default, said)


@given(st.floats() | st.integers())
def test_a_number_is_accepted_exactly_within_its_limits(value: float) -> None:
    if math.isfinite(value) and 1e-6 <= value <= 1:
        RATE.check(value)
    else:
        with pytest.raises(parameters.ParameterError, match="Allowed: 1e-6 to 1"):
            RATE.check(value)


@given(st.text(max_size=5) | st.sampled_from(["fast", "slow", "off"]))
def test_a_word_is_accepted_exactly_if_it_is_one_of_those_listed(value: str) -> None:
    if value in ("fast", "slow", "off"):
        MODE.check(value)
    else:
        with pytest.raises(parameters.ParameterError, match="Allowed: fast, slow or off"):
            MODE.check(value)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (COUNT, 2.5),
        (COUNT, 10**400),
        (COUNT, "2"),
        (COUNT, True),
        (RATE, "0.5"),
        (RATE, False),
        (FOLDER, 7),
        (MIRROR, "false"),
        (MIRROR, 0),
        (parameters.Parameter("anything", "float", 1.0, "a number"), float("nan")),
        (parameters.Parameter("anything", "float", 1.0, "a number"), float("inf")),
    ],
)
def test_a_value_of_another_type_is_refused(parameter: parameters.Parameter, value: object) -> None:
    with pytest.raises(parameters.ParameterError, match=f"{parameter.name} = .* makes no sense here"):
        parameter.check(value)


def test_text_without_limits_may_be_anything() -> None:
    FOLDER.check("somewhere/else")


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_control_group_s_quota_is_read_in_both_versions(tmp_path: Path, files: dict, quota: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert machine.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("file", "text", "bounded"), [("memory.max", "1000\n", True), ("memory.max", "max\n", False), ("none", "", False)]
)
def test_memory_is_what_the_control_group_allows_or_the_machine_has(
    tmp_path: Path, file: str, text: str, *, bounded: bool
) -> None:
    (tmp_path / file).write_text(text)
    assert (machine.memory(tmp_path) == 1000) is bounded


@pytest.mark.parametrize(
    ("device", "able", "faster"),
    [
        ("cpu", {"avx512_bf16": True}, True),
        ("cpu", {"avx512_bf16": False, "amx_bf16": True}, True),
        ("cpu", {"avx512_f": True}, False),
        ("cuda", {"avx512_bf16": True}, False),
    ],
)
def test_half_as_many_bits_are_for_processors_that_multiply_them(
    monkeypatch: pytest.MonkeyPatch, device: str, able: dict[str, bool], *, faster: bool
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    with machine.mixed_precision(device):
        assert torch.is_autocast_enabled("cpu") is faster


def test_mixed_precision_that_was_chosen_outside_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {})
    with torch.autocast("cpu", torch.bfloat16), machine.mixed_precision("cpu"):
        assert torch.is_autocast_enabled("cpu")


def test_threads_follow_the_quota_and_are_never_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setattr(machine, "cpu_quota", lambda: 2.0)
    assert machine.threads(32) == 2
    monkeypatch.setattr(machine, "cpu_quota", lambda: 0.5)
    assert machine.threads(32) == 1
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    assert machine.threads(32) == 32


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_memory_that_a_step_frees_serves_the_next_one() -> None:
    def pages_fetched_anew(imported: str) -> int:
        code = f"""import resource, {imported}
fetched = []
for _ in range(10):
    [bytearray(9_000_000) for _ in range(3)]
    fetched.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(fetched[-1] - fetched[1])"""
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert pages_fetched_anew("lesson.machine") < pages_fetched_anew("sys") / 10
