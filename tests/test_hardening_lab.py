"""A lab one can work in, that says why when something dies. One small container serves all tests."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import IMAGE, TABS, THEME, Container, Lab, free_port, wait_until
from small import installing
from workspace.lab import deaths, environment, preflight

SMALL = {"WORKSPACE_MEM": "1g", "WORKSPACE_CPUS": "1"}
"""Limits that a test can reach."""


@pytest.fixture(scope="module")
def small(engine: None, checkout: Path) -> Iterator[Container]:  # noqa: ARG001
    workspace = Container(checkout, f"workspace-test-{os.getpid()}-small", free_port())
    yield workspace
    workspace.remove()


@pytest.fixture(scope="module")
def small_lab(small: Container) -> Lab:
    return small.start(**SMALL)


def test_pip_install_outlives_the_container_and_never_reaches_the_server(small: Container, small_lab: Lab) -> None:
    small_lab.run(installing("1.0"))
    assert small.inside("python", "-c", "import mine").returncode == 1
    assert small.command("docker", "compose", "down").returncode == 0
    lab = small.start(**SMALL)
    assert lab.run("import mine; print(mine.version)") == "1.0\n"
    assert lab.run("!python -c 'import mine; print(mine.version)'") == "1.0\r\n"


def test_pip_from_outside_installs_where_the_labs_pip_does(small: Container, small_lab: Lab) -> None:
    small_lab.run(installing("2.0").partition("%pip")[0])
    installed = small.inside("pip", "install", "--quiet", "--no-index", "mine-2.0-py3-none-any.whl")
    assert installed.returncode == 0, installed.stderr
    assert small_lab.run("import mine; print(mine.version)") == "2.0\n"


def test_pip_finds_the_packages_of_the_image_installed(container_lab: Lab) -> None:
    listed = container_lab.run("!pip install --no-index torch torchvision", timeout_s=120)
    assert listed.count("Requirement already satisfied: torch") >= 2


def test_threads_and_workers_follow_the_quota_and_not_the_machine(small_lab: Lab) -> None:
    if os.cpu_count() == 1:
        pytest.skip("this machine has one CPU")
    assert small_lab.run("import os, torch; print(torch.get_num_threads(), os.cpu_count())", 120) == "1 1\n"


WHEN_SEEN = "import os, time\nprint('working')\nwhile not os.path.exists('seen'): time.sleep(0.01)\nos.remove('seen')\n"
"""A cell's first lines, that wait until `died` has seen what they print: what a process has not sent dies with it."""


def died(lab: Lab, code: str) -> tuple[str, str]:
    """Run code that kills its kernel; what stands below the cell, and the kernel's name."""
    kernel = lab.request("POST", "/api/kernels", lab.token, json={}).json()["id"]
    channel = lab.send(kernel, code, 120)
    below = ""
    while True:
        message = json.loads(channel.recv())
        if message["msg_type"] == "stream":
            assert message["parent_header"]["msg_type"] == "execute_request"
            below += message["content"]["text"]
            if below == "working\n":
                seen = {"type": "file", "format": "text", "content": ""}
                assert lab.request("PUT", "/api/contents/seen", lab.token, json=seen).ok
        if message["content"].get("execution_state") == "restarting":
            break
    channel.close()
    wait_until(lambda: lab.get(f"/api/kernels/{kernel}", lab.token).json()["execution_state"] != "restarting")
    return below, kernel


def test_kernel_killed_at_the_memory_limit_is_told_as_that_in_the_lab_and_in_the_log(
    small: Container, small_lab: Lab
) -> None:
    below, kernel = died(small_lab, WHEN_SEEN + "hoard = bytearray(2 * 2**30)\nprint(len(hoard))")
    told = "killed at the 1 GiB memory limit; lower batch_size or raise WORKSPACE_MEM"
    assert below == f"working\nThe kernel was {told}.\n"
    assert f"the kernel {kernel} was {told}" in small.command("docker", "compose", "logs").stdout
    assert small_lab.run("print('next')") == "next\n"


def test_run_killed_at_the_memory_limit_says_so_in_its_record(small: Container, small_lab: Lab) -> None:
    small_lab.save_notebook("hoard.ipynb", "hoard = bytearray(2 * 2**30)")
    ended = small.inside("run", "hoard.ipynb", "-o", "runs/hoard")
    told = "killed at the 1 GiB memory limit; lower batch_size or raise WORKSPACE_MEM"
    assert (ended.returncode, told in ended.stderr) == (1, True), ended.stderr
    record = json.loads(small.inside("cat", "runs/hoard/run.json").stdout)
    assert (record["status"], told in record["error"]) == ("failed", True)


def test_kernel_killed_by_something_else_is_not_told_as_want_of_memory(small_lab: Lab) -> None:
    below, _ = died(small_lab, WHEN_SEEN + "os.kill(os.getpid(), 9)")
    assert below == "working\nThe kernel was ended by SIGKILL.\n"


def test_kernel_that_overfills_the_shared_memory_names_it(container_lab: Lab) -> None:
    below, _ = died(
        container_lab,
        "import mmap, os\nfile = os.open('/dev/shm/x', os.O_RDWR | os.O_CREAT)\nos.unlink('/dev/shm/x')\n"
        "os.truncate(file, 2**31)\nmemory = mmap.mmap(file, 2**31)\n"
        "for at in range(0, 2**31, 4096): memory[at] = 1",
    )
    assert below == (
        "The kernel was ended by SIGBUS, as when /dev/shm is full; use fewer DataLoader workers or raise shm_size.\n"
    )


def test_fork_bomb_stops_at_the_limit_and_the_server_answers(container_lab: Lab) -> None:
    bomb = (
        "import subprocess\nsleepers = []\n"
        "try:\n  while len(sleepers) < 3000: sleepers.append(subprocess.Popen(['sleep', '60']))\n"
        "except OSError as error: print(error.strerror)\n"
        "for sleeper in sleepers: sleeper.kill(); sleeper.wait()"
    )
    assert "temporarily unavailable" in container_lab.run(bomb, timeout_s=120)
    assert container_lab.get("/api").ok


def test_terminal_finds_the_commands_and_the_installed_packages(container_lab: Lab) -> None:
    terminal = container_lab.request("POST", "/api/terminals", container_lab.token).json()["name"]
    said = container_lab.in_terminal(
        terminal, "type pip run data; type -P test link; echo done=$((6*7))", until="done=42"
    )
    assert "/state/kernels" in said
    assert "/usr/bin/test" in said  # the system's own stay what they are
    assert "/usr/bin/link" in said
    assert said.count("/opt/workspace/commands/") == 2
    container_lab.request("DELETE", f"/api/terminals/{terminal}", container_lab.token)


def test_settings_open_tabs_and_uploads_outlive_the_container(small: Container) -> None:
    lab = small.start(**SMALL)
    raw = {"raw": json.dumps({"theme": "JupyterLab Dark"})}
    assert lab.request("PUT", THEME, lab.token, json=raw).status_code == 204
    layout = {"data": {"main": {"dock": "x.ipynb"}}, "metadata": {"id": "default"}}
    assert lab.request("PUT", TABS, lab.token, json=layout).status_code == 204
    for chunk, content in ((1, "AAEC"), (-1, "/w==")):
        upload = {"type": "file", "format": "base64", "content": content, "chunk": chunk}
        assert lab.request("PUT", "/api/contents/up.bin", lab.token, json=upload).ok
    assert small.command("docker", "compose", "down").returncode == 0
    lab = small.start(**SMALL)
    assert "JupyterLab Dark" in lab.get(THEME, lab.token).json()["raw"]
    assert lab.get(TABS, lab.token).json()["data"] == layout["data"]
    assert lab.get("/files/up.bin?download=1", lab.token).content == b"\0\1\2\xff"


# --- the parts, for what no test can bring about here ---


@pytest.fixture(params=["version 1", "version 2"])
def cgroups(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Control groups of each version: the folder, the file that counts kills, the file with the limit."""
    if request.param == "version 2":
        return tmp_path, tmp_path / "memory.events", tmp_path / "memory.max"
    (tmp_path / "memory").mkdir()
    return tmp_path, tmp_path / "memory/memory.oom_control", tmp_path / "memory/memory.limit_in_bytes"


def test_kill_is_told_from_the_counter_of_either_version(cgroups: tuple[Path, Path, Path]) -> None:
    folder, counter, limit = cgroups
    limit.write_text(f"{4 * 2**30}\n")
    counter.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    watch = deaths.Watch(folder)
    assert watch.cause(-9) == "ended by SIGKILL"
    counter.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    assert watch.cause(-9) == "killed at the 4 GiB memory limit; lower batch_size or raise WORKSPACE_MEM"
    assert watch.cause(-9) == "ended by SIGKILL"


def test_kill_of_another_process_a_while_ago_explains_no_death(cgroups: tuple[Path, Path, Path]) -> None:
    folder, counter, limit = cgroups
    limit.write_text(f"{2**30}\n")
    watch = deaths.Watch(folder)
    counter.write_text("oom_kill 1\n")
    watch.lives()  # or is killed and not gone yet
    assert deaths.Watch(folder).cause(-9) == "ended by SIGKILL"
    watch.lives()
    assert watch.cause(-9) == "ended by SIGKILL"
    counter.write_text("oom_kill 2\n")
    watch.lives()
    assert "memory limit" in watch.cause(-9)


@pytest.mark.parametrize("no_limit", ["max", "9223372036854771712"])
def test_kill_without_a_limit_is_the_machines(cgroups: tuple[Path, Path, Path], no_limit: str) -> None:
    folder, counter, limit = cgroups
    limit.write_text(no_limit)
    watch = deaths.Watch(folder)
    counter.write_text("oom_kill 1\n")
    assert watch.cause(-9) == "killed because the machine's memory ran out; lower batch_size"


def test_without_control_groups_the_signal_is_told(tmp_path: Path) -> None:
    watch = deaths.Watch(tmp_path)
    assert watch.cause(-11) == "ended by SIGSEGV"
    assert watch.cause(3) == "ended with exit code 3"


def test_disk_nearly_full_is_told_and_a_roomy_one_is_not(tmp_path: Path) -> None:
    assert "only 300 MB are free" in (preflight.disk(tmp_path, 300 << 20) or "")
    assert preflight.disk(tmp_path, 30 << 30) is None


def test_small_shared_memory_is_told_and_a_large_one_is_not() -> None:
    assert "has only 64 MB" in (preflight.shared_memory(64 << 20) or "")
    assert preflight.shared_memory(1 << 30) is None


def test_clock_before_the_release_is_told_and_a_right_one_is_not() -> None:
    released = 1_800_000_000.0
    assert "1970-01-02" in (preflight.clock(86400.0, released) or "")
    assert preflight.clock(released + 1, released) is None


@pytest.mark.usefixtures("folders")
def test_all_that_is_wrong_with_the_machine_is_told_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(64 << 20, 0, 64 << 20))
    monkeypatch.setattr(preflight.time, "time", lambda: 86400.0)
    told = "\n".join(preflight.warnings())
    assert "only 64 MB are free" in told
    assert "1970-01-02" in told
    assert ("/dev/shm has only 64 MB" in told) == Path("/dev/shm").exists()  # noqa: S108


@pytest.mark.usefixtures("folders")
def test_user_environment_is_made_once_and_survives_a_half_made_one() -> None:
    place = environment.make()
    [link] = place.glob("lib/python*/site-packages/workspace.pth")
    made = link.stat().st_mtime_ns
    environment.make()
    assert link.stat().st_mtime_ns == made
    (place / "bin/python").unlink()
    environment.make()
    assert (place / "bin/python").exists()


def test_pip_of_the_users_environment_works_below_a_folder_with_spaces_and_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKSPACE_STATE", str(tmp_path / "Anna's own work"))
    asked = subprocess.run([environment.make() / "bin/pip", "--version"], capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr


def test_small_machine_is_warned_in_the_log_before_work_is_lost(fresh: Container) -> None:
    (fresh.checkout / "docker/small.yml").write_text("services: {workspace: {shm_size: 16m}}\n")
    started = fresh.command(
        "docker", "compose", "-f", "docker-compose.yml", "-f", "docker/small.yml", "up", "--detach", "--build"
    )
    (fresh.checkout / "docker/small.yml").unlink()
    assert started.returncode == 0, started.stderr
    log = wait_until(lambda: re.search(r"workspace: /dev/shm.*", fresh.command("docker", "compose", "logs").stdout))
    assert "has only 16 MB" in log.group()


def test_read_only_work_folder_starts_nothing_and_says_so(container: Container, tmp_path: Path) -> None:
    os.chown(tmp_path, 1000, 1000)
    refused = container.command(
        *("docker", "run", "--rm", "--volume", f"{tmp_path}:/workspace:ro", IMAGE),
        *("timeout", "60", "/opt/workspace/scripts/serve", "--ip", "127.0.0.1", "--port", "8888"),
    )
    assert refused.returncode == 78
    assert "/workspace cannot be written to: Read-only file system" in refused.stderr
