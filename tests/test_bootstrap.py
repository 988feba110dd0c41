"""scripts/bootstrap-vm on a machine with nothing but systemd and Python, with a real apt and a real engine in it.

What it builds there is a tiny stand-in for the image: the machine is what is tested.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from labs import REPOSITORY, wait_until
from stand_ins import program
from workspace.base.cli import UserError
from workspace.base.programs import ask
from workspace.cloud import machine as bootstrap
from workspace.host import causes

MACHINE_IMAGE = "workspace-test-machine"
MACHINE_DOCKERFILE = """\
FROM debian:trixie-slim
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
    systemd systemd-sysv dbus python3 busybox-static procps >/dev/null && rm -r /var/lib/apt/lists/*
"""
STAND_IN = """\
FROM scratch
COPY docker/busybox /bin/busybox
COPY docker/answers /www/api
COPY --chmod=755 docker/lab-link docker/python /bin/
SHELL ["/bin/busybox", "sh", "-c"]
RUN /bin/busybox ln -s busybox /bin/sh
STOPSIGNAL SIGKILL
CMD ["/bin/busybox", "httpd", "-f", "-p", "8888", "-h", "/www"]
"""
TOKEN = "5" * 64
# Once for each of them the machine loses its power, so to say.
STEPS = ["checks", "engine", "metadata", "services", "workspace"]
HOST = "vm.example.org"
DROPPED = "-A DOCKER-USER -d 169.254.169.254/32 -j DROP"


@dataclass(frozen=True)
class Machine:
    """A fresh machine: a container whose first process is systemd."""

    name: str

    def run(self, *command: str, **options: object) -> subprocess.CompletedProcess[str]:
        return ask(*self.command(*command), timeout=300, **options)

    def command(self, *command: str) -> list[str]:
        return ["docker", "exec", "--interactive", self.name, *command]

    def bootstrap(self) -> list[str]:
        """What brings it up from another machine."""
        return self.command("python3", "-", "--repository", "/srv/workspace", "--public-host", HOST)

    def boots(self) -> bool:
        return self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def api(self) -> str:
        ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8888/api').read().decode())"
        return self.run("python3", "-c", ask).stdout.strip()

    def rules(self) -> list[str]:
        return self.run("iptables", "-S", "DOCKER-USER").stdout.splitlines()

    def container(self) -> str:
        return self.run("docker", "ps", "--quiet", "--no-trunc").stdout.strip()


def docker(*arguments: str, **options: object) -> str:
    return ask("docker", *arguments, check=True, timeout=300, **options).stdout.strip()


@pytest.fixture(scope="module")
def repository(engine: None, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """A repository with this workspace in it, whose image is the stand-in."""
    docker("build", "--tag", MACHINE_IMAGE, "-", input=MACHINE_DOCKERFILE)
    copy = tmp_path_factory.mktemp("repository") / "workspace"
    shutil.copytree(
        checkout, copy, symlinks=True, ignore=shutil.ignore_patterns(".venv", ".workspace", "work", "tests")
    )
    files = copy / "docker"
    (files / "Dockerfile").write_text(STAND_IN)
    (files / "answers").write_text('{"version": "stand-in"}')
    (files / "lab-link").write_text(f'#!/bin/sh\necho "http://$WORKSPACE_PUBLIC_HOST:8888/?token={TOKEN}"\n')
    (files / "python").write_text("#!/bin/sh\nexec busybox wget -q -O /dev/null http://127.0.0.1:8888/api\n")
    made = docker("create", MACHINE_IMAGE, "nothing")
    docker("cp", f"{made}:/bin/busybox", str(files / "busybox"))
    docker("rm", made)
    (copy / ".dockerignore").unlink()
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "--all", "--force"], [*who, "commit", "--quiet", "--message=all"]):
        subprocess.run(["git", *command], cwd=copy, check=True)
    return copy


@pytest.fixture(scope="module")
def machine(repository: Path) -> Iterator[Machine]:
    """The machine, booted; nothing is installed on it yet."""
    name = f"workspace-test-machine-{os.getpid()}"
    options = ["--detach", "--privileged", "--tmpfs=/run", "--tmpfs=/run/lock", "--stop-signal=SIGRTMIN+3"]
    mounts = [f"--volume={repository}:/srv/workspace:ro", "--volume=/var/lib/docker", "--volume=/var/lib/containerd"]
    # The last two are what systemd wants on an older kernel's control groups.
    systemd = ["/lib/systemd/systemd", "systemd.unified_cgroup_hierarchy=0", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]
    docker("run", f"--name={name}", *options, *mounts, MACHINE_IMAGE, *systemd)
    try:
        fresh = Machine(name)
        wait_until(fresh.boots)
        yield fresh
    finally:
        docker("rm", "--force", "--volumes", name)


@dataclass(frozen=True)
class History:
    """What was seen while the machine was brought up."""

    without_network: subprocess.CompletedProcess[str]
    without_room: subprocess.CompletedProcess[str]
    locked: str
    refused: subprocess.CompletedProcess[str]
    last: str


@pytest.fixture(scope="module")
def history(machine: Machine) -> History:
    """Every way to fail, one after the other; then it is let through."""
    script = (REPOSITORY / "scripts/bootstrap-vm").read_text()
    in_checkout = ["python3", "/srv/workspace/scripts/bootstrap-vm"]
    once = "/etc/apt/apt.conf.d/once"  # in place of three times, with pauses
    machine.run("sh", "-c", f"echo 'Acquire::Retries 0;' > {once}")
    docker("network", "disconnect", "bridge", machine.name)
    without_network = machine.run(*in_checkout)
    docker("network", "connect", "bridge", machine.name)
    machine.run("rm", once)

    archives = "/var/cache/apt/archives"
    machine.run("mount", "-t", "tmpfs", "-o", "size=4m", "none", archives)
    machine.run("mkdir", f"{archives}/partial")
    without_room = machine.run(*in_checkout)
    machine.run("umount", archives)

    locked = ""
    with holding_apts_lock(machine):
        process = begin(machine, script, in_checkout=True)
        for line in process.stdout or ():
            locked += line
            if "waiting" in line:
                break
    cut_off(machine, process)

    for step in STEPS:
        process = begin(machine, script)
        for line in process.stdout or ():
            if line == f"{step} ...\n":
                break
        else:
            pytest.fail(f"it ended before {step}")
        if step == "engine":
            wait_until(lambda process=process: process.poll() is not None or is_installing(machine))
        cut_off(machine, process)
    refused = machine.run("python3", "/opt/pytorch-workspace/scripts/bootstrap-vm", "--port", "99999")
    process = begin(machine, script)
    last, _ = process.communicate(timeout=600)
    assert process.returncode == 0, last
    return History(without_network, without_room, locked, refused, last)


def is_installing(machine: Machine) -> bool:
    return machine.run("pgrep", "--exact", "dpkg").returncode == 0


@contextlib.contextmanager
def holding_apts_lock(machine: Machine) -> Iterator[None]:
    """What unattended-upgrades does on a fresh machine."""
    hold = "f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        machine.command("python3", "-c", "import fcntl; " + hold), stdin=pipe, stdout=pipe, text=True
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        yield
        holder.communicate("\n")


def begin(machine: Machine, script: str, *, in_checkout: bool = False) -> subprocess.Popen[str]:
    command = machine.command("python3", "/srv/workspace/scripts/bootstrap-vm") if in_checkout else machine.bootstrap()
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write("" if in_checkout else script)
        process.stdin.close()
    process.stdin = None
    return process


def cut_off(machine: Machine, process: subprocess.Popen[str]) -> None:
    """Kill it and whatever it started, as a loss of power does."""
    machine.run("pkill", "-KILL", "-f", "bootstrap-vm|apt-get|dpkg|scripts/start|docker compose")
    process.wait(60)
    if process.stdout:
        process.stdout.close()


def test_machine_without_a_network_is_told(history: History) -> None:
    assert history.without_network.returncode == 1
    assert re.fullmatch(
        r"bootstrap-vm: apt-get install failed: a package index cannot be reached: check the network.*\n",
        history.without_network.stderr,
    )


def test_machine_without_room_is_told(history: History) -> None:
    assert history.without_room.returncode == 1
    assert "You don't have enough free space in /var/cache/apt/archives" in history.without_room.stderr
    assert history.without_room.stderr.count("\n") == 1


def test_busy_apt_is_waited_for_and_said(history: History) -> None:
    assert "apt is busy, as with the unattended upgrades of a fresh machine; waiting for it" in history.locked


def test_workspace_that_does_not_start_is_told_with_its_own_reason(history: History) -> None:
    assert history.refused.returncode == 1
    assert history.refused.stderr == "bootstrap-vm: --port 99999 is not a port; use 1 to 65535\n"


def test_what_was_cut_off_at_every_step_ends_with_the_lab_answering(history: History, machine: Machine) -> None:
    assert history.last.splitlines()[-1] == HOST
    assert machine.api() == '{"version": "stand-in"}'
    for step in STEPS:
        assert re.search(rf"(?m)^{step}: done in \d+ s$", history.last), history.last


def test_no_log_has_the_token(history: History, machine: Machine) -> None:
    assert TOKEN in machine.run("/opt/pytorch-workspace/scripts/link").stdout
    assert TOKEN not in history.last
    assert TOKEN not in machine.run("cat", str(bootstrap.LOG)).stdout
    journal = machine.run("journalctl", "--no-pager").stdout
    assert "PyTorch workspace" in journal
    assert TOKEN not in journal


def test_metadata_is_kept_from_containers_before_any_other_rule(history: History, machine: Machine) -> None:  # noqa: ARG001
    assert machine.rules()[:2] == ["-N DOCKER-USER", DROPPED]


def test_done_again_it_changes_nothing_and_kernels_live_on(history: History, machine: Machine) -> None:  # noqa: ARG001
    before = machine.container()
    state = machine.run("sh", "-c", "ls -l /etc/systemd/system /etc/apt; dpkg --list; systemctl list-unit-files").stdout
    process = begin(machine, (REPOSITORY / "scripts/bootstrap-vm").read_text())
    said, _ = process.communicate(timeout=600)
    assert said.splitlines()[-1] == HOST
    assert machine.container() == before != ""
    after = machine.run("sh", "-c", "ls -l /etc/systemd/system /etc/apt; dpkg --list; systemctl list-unit-files").stdout
    assert without_times(after) == without_times(state)
    assert machine.rules().count(DROPPED) == 1


def without_times(listing: str) -> str:
    return re.sub(r"\b\w{3} +\d+ \d\d:\d\d\b", "", listing)


def test_after_a_reboot_it_is_back_and_so_is_the_rule(history: History, machine: Machine) -> None:  # noqa: ARG001
    docker("restart", "--time=60", machine.name)
    wait_until(machine.boots, 120)
    wait_until(lambda: machine.api() == '{"version": "stand-in"}', 120)
    assert DROPPED in machine.rules()
    assert machine.run("systemctl", "is-active", "pytorch-workspace").stdout == "active\n"


def test_units_are_right_in_systemds_eyes(history: History, machine: Machine) -> None:  # noqa: ARG001
    units = ["pytorch-workspace.service", "pytorch-workspace-metadata.service"]
    verified = machine.run("systemd-analyze", "verify", *(f"/etc/systemd/system/{unit}" for unit in units))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


# Without a machine: what cannot be had in a container.


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with Ubuntu and commands that succeed and do nothing; the file that has each that was called."""
    log = tmp_path / "said"
    for name in ("apt-get", "dpkg", "docker", "modprobe", "nvidia-ctk", "systemctl", "ubuntu-drivers"):
        program(tmp_path / "bin" / name, f'echo "{name} $*" >> {log}')
    (tmp_path / "os-release").write_text("NAME=Ubuntu\nID=ubuntu\n")
    driver = tmp_path / "proc/driver/nvidia/version"
    driver.parent.mkdir(parents=True)
    driver.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n")
    log.touch()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(bootstrap, "_ROOT", tmp_path)
    monkeypatch.setattr(causes, "_OS_RELEASE", tmp_path / "os-release")
    monkeypatch.setattr(bootstrap, "LOG", tmp_path / "log")
    return log


def test_driver_that_waits_for_a_reboot_is_installed_and_told(said: Path) -> None:
    (said.parent / "proc/driver/nvidia/version").unlink()
    assert not bootstrap._gpu()
    called = said.read_text()
    assert "ubuntu-drivers install --gpgpu nvidia:580-server" in called
    assert "modprobe nvidia" in called
    assert "nvidia-ctk runtime configure --runtime=docker\nsystemctl restart docker" in called


def test_driver_that_is_there_is_left_alone(said: Path) -> None:
    assert bootstrap._gpu()
    assert "ubuntu-drivers" not in said.read_text()
    assert "apt-get" not in said.read_text()


def test_engine_that_is_set_up_for_gpus_is_not_restarted(said: Path) -> None:
    program(said.parent / "bin/docker", """echo '{"nvidia": {}, "runc": {}}'""")
    assert bootstrap._gpu()
    assert "restart" not in said.read_text()


@pytest.mark.usefixtures("said")
def test_gpu_under_debian_is_refused_with_what_has_the_driver(tmp_path: Path) -> None:
    (tmp_path / "proc/driver/nvidia/version").unlink()
    (tmp_path / "os-release").write_text("ID=debian\n")
    with pytest.raises(UserError, match=r"no NVIDIA driver of version 580: take Ubuntu 24\.04"):
        bootstrap._gpu()


@pytest.mark.parametrize(
    ("system", "version", "complaint"),
    [
        ("debian", "20.10.24", "Docker Engine 25 or newer is needed, and this is 20.10.24"),
        ("fedora", "29.1", "this is fedora: take Ubuntu"),
    ],
)
def test_system_that_has_no_fitting_engine_is_refused(said: Path, system: str, version: str, complaint: str) -> None:
    (said.parent / "os-release").write_text(f'ID="{system}"\n')
    program(said.parent / "bin/docker", f"echo {version}")
    with pytest.raises(UserError, match=complaint):
        bootstrap._engine()


def test_engine_that_is_there_keeps_its_packages_and_gets_what_it_lacks(said: Path) -> None:
    has = said.parent / "compose"
    program(said.parent / "bin/docker", f"[ $1 != compose ] || [ -e {has} ] || exit 1\necho 29.1.3")
    program(said.parent / "bin/apt-get", f"echo $* >> {said}\ntouch {has}")
    bootstrap._engine()
    assert "docker-compose-v2 docker-buildx" in said.read_text()
    assert "docker.io" not in said.read_text()


@pytest.mark.parametrize(("free", "gpu", "enough"), [(9e9, False, True), (7e9, False, False), (9e9, True, False)])
def test_small_disk_is_refused_before_anything_is_installed(
    said: Path, monkeypatch: pytest.MonkeyPatch, free: float, gpu: bool, enough: bool
) -> None:
    program(said.parent / "bin/docker", "exit 1")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with (
        contextlib.nullcontext()
        if enough
        else pytest.raises(UserError, match=r"has \d GB free and the workspace needs")
    ):
        bootstrap._check(has_gpu=gpu)
    assert said.read_text() == ""


def test_word_of_a_unit_is_what_it_was() -> None:
    assert bootstrap._quoted('50% of "$HOME"') == '"50%% of \\"$$HOME\\""'


@pytest.mark.parametrize("how", ["piped", "as user data"])
def test_outside_of_a_checkout_it_says_what_it_needs(tmp_path: Path, how: str) -> None:
    script = tmp_path / "part-001"
    shutil.copy(REPOSITORY / "scripts/bootstrap-vm", script)
    command = [sys.executable, "-S", "-" if how == "piped" else str(script)]  # -S: this Python could import ours
    asked = ask(*command, input=script.read_text(), cwd=tmp_path)
    assert (asked.returncode, asked.stderr) == (1, "bootstrap-vm: outside of a checkout it needs --repository URL\n")
