"""The GPU overlay on engines that believe in GPUs: by a hook in place of NVIDIA's, or by CDI, without one."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import missing
from labs import REPOSITORY, Container, wait_until
from lesson import system
from stand_ins import program
from workspace.base.cli import UserError
from workspace.base.programs import ask
from workspace.base.verdicts import State
from workspace.host import causes, gpu
from workspace.host.causes import Cause

# What NVIDIA's hook does, as far as it can be seen from here: the driver's programs come into the container's root,
# which is read-only only later, and a GPU that is not there stops the start. This machine has the GPUs 0 to 3. The
# control device is there, and the control group does not know of it: so are all after `systemctl daemon-reload`.
HOOK = """\
#!/usr/bin/env python3
import json, pathlib, subprocess, sys
state = json.load(sys.stdin)
if pathlib.Path(__file__).with_name("no-driver").exists():
    sys.exit("nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open")
container = json.loads(pathlib.Path(state["bundle"], "config.json").read_text())
environment = dict(pair.split("=", 1) for pair in container["process"]["env"])
asked = environment["NVIDIA_VISIBLE_DEVICES"].replace("all", "0,1,2,3").split(",")
if not set(asked) <= set("0123"):
    sys.exit("nvidia-container-cli: device error: 7: unknown device: unknown")
smi = pathlib.Path(container["root"]["path"], "usr/bin/nvidia-smi")
smi.parent.mkdir(parents=True, exist_ok=True)
smi.write_text("#!/bin/sh\\n" + "".join(f"echo 'GPU {index}: stand-in'\\n" for index in asked))
smi.chmod(0o755)
control = container["root"]["path"] + "/dev/nvidiactl"
mounts = ["nsenter", f"--target={state['pid']}", "--mount"]
subprocess.run([*mounts, "mknod", "--mode=666", control, "c", "195", "255"], check=True)
"""


@dataclass(frozen=True)
class Engine:
    """An engine of our own, apart from the machine's; it hands over GPUs by its `way`, if it knows one."""

    folder: Path
    way: str

    @property
    def address(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        keeps = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
        settings = {name: str(self.folder / place) for name, place in keeps.items()} | {"hosts": [self.address]}
        settings |= {"bridge": "none", "iptables": False, "ip6tables": False}
        described = self.folder / ("nothing" if self.way == "cdi, nothing described" else "cdi")
        settings |= {"features": {"cdi": self.way.startswith("cdi")}, "cdi-spec-dirs": [str(described)]}
        (self.folder / "engine.json").write_text(json.dumps(settings))
        # A network of its own: else it takes the other engine's bridge for a leftover.
        command = ["unshare", "--net", "dockerd", "--config-file", str(self.folder / "engine.json")]
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}" if self.way == "hook" else os.environ["PATH"]
        with (self.folder / "log").open("w") as log:
            daemon = subprocess.Popen(command, env=os.environ | {"PATH": path}, stdout=log, stderr=log)
        try:
            wait_until(lambda: daemon.poll() is not None or self.docker("info").returncode == 0)
            assert daemon.poll() is None, (self.folder / "log").read_text()
            yield
        finally:
            daemon.terminate()
            daemon.wait(60)
            subprocess.run(["umount", self.folder / "data"], capture_output=True, check=False)  # which it leaves

    def docker(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        own = {"DOCKER_HOST": self.address, "COMPOSE_PROJECT_NAME": "workspace-gpu"}
        return ask("docker", *arguments, cwd=REPOSITORY, env=os.environ | own | environment, timeout=300)

    def compose(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Compose with the delivered overlay, as scripts/start --gpu has it ask this engine."""
        cdi = {"WORKSPACE_GPU_DRIVER": "cdi", "WORKSPACE_GPUS": "nvidia.com/gpu=all"} if self.way == "cdi" else {}
        files = ["--file=docker-compose.yml", "--file=docker-compose.gpu.yml"]
        return self.docker("compose", *files, *arguments, **(cdi | environment))

    def inside(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container of the workspace made for it alone."""
        return self.compose("run", "--rm", "--no-deps", "-T", "workspace", "sh", "-c", command, **environment)


def require_own_engine() -> None:
    if os.getuid() or not shutil.which("dockerd") or not shutil.which("unshare"):
        missing("gpu-engine", "an engine of one's own needs root and dockerd")


def fill(engine: Engine, image: str) -> None:
    """Give it the workspace's image, without what weighs most of it: PyTorch."""
    heavy = [f"--exclude=./opt/venv/lib/python*/site-packages/{name}" for name in ("torch", "nvidia", "triton")]
    [held] = json.loads(ask("docker", "image", "inspect", image, check=True).stdout)
    made = {name: held["Config"][name] for name in ("Cmd", "Entrypoint")}
    changes = [f"{name.upper()} {json.dumps(value)}" for name, value in made.items()]
    changes += [f"ENV {pair}" for pair in held["Config"]["Env"]]
    changes += [f"USER {held['Config']['User']}", f"WORKDIR {held['Config']['WorkingDir']}"]
    changes += [f"HEALTHCHECK --interval=1s CMD {json.dumps(held['Config']['Healthcheck']['Test'][1:])}"]
    alone = ["--rm", "--user=0", "--network=none", "--entrypoint=tar"]
    read = ["docker", "run", *alone, image, "--create", "--one-file-system", *heavy, "--directory=/", "."]
    tar = subprocess.Popen(read, stdout=subprocess.PIPE)
    options = [f"--change={change}" for change in changes]
    line = ["docker", "--host", engine.address, "import", *options, "-", "pytorch-workspace:cuda"]
    made = ask(*line, stdin=tar.stdout)
    assert (tar.wait(60), made.returncode) == (0, 0), made.stderr


@pytest.fixture(scope="module")
def engines(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of engines that have the workspace's image, and believe in GPUs 0 to 3."""
    require_own_engine()
    folder = tmp_path_factory.mktemp("engine")
    for place in ("bin", "cdi"):
        (folder / place).mkdir()
    hook = folder / "bin/nvidia-container-runtime-hook"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    devices = []
    for name, gpus in {"all": "0123", "0": "0", "1": "1", "2": "2", "3": "3"}.items():
        smi = folder / f"cdi/nvidia-smi-{name}"
        program(smi, "".join(f"echo 'GPU {index}: stand-in'\n" for index in gpus))
        mount = {"hostPath": str(smi), "containerPath": "/usr/bin/nvidia-smi", "options": ["ro", "bind"]}
        node = {"path": "/dev/nvidiactl", "hostPath": "/dev/null"}
        devices.append({"name": name, "containerEdits": {"deviceNodes": [node], "mounts": [mount]}})
    described = {"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": devices}
    (folder / "cdi/nvidia.json").write_text(json.dumps(described))
    none = Engine(folder, "none")
    image = container.command("docker", "compose", "images", "--quiet", "workspace").stdout.strip()
    try:
        with none.running():
            fill(none, image)
        yield folder
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder / "data")


@pytest.fixture(scope="module", params=["hook", "cdi"])
def engine_with_gpus(engines: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = Engine(engines, request.param)
    with engine.running():
        yield engine


IN_A_KERNEL = """
import json, sys, urllib.request, websocket
token = open("/tmp/jupyter-runtime/token").read()
asked = urllib.request.Request("http://127.0.0.1:8888/api/kernels", b"{}", {"Authorization": f"token {token}"})
kernel = json.load(urllib.request.urlopen(asked))["id"]
address = f"ws://127.0.0.1:8888/api/kernels/{kernel}/channels"
channel = websocket.create_connection(address, 60, header=[f"Authorization: token {token}"])
header = {"msg_id": "1", "msg_type": "execute_request", "username": "", "session": "1", "version": "5.3"}
content = {"code": sys.argv[1]}
message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
channel.send(json.dumps(message))
said = {"stdout": "", "stderr": ""}
while True:
    answer = json.loads(channel.recv())
    if answer["msg_type"] == "stream":
        said[answer["content"]["name"]] += answer["content"]["text"]
    if answer["parent_header"].get("msg_id") == "1" and answer["content"].get("execution_state") == "idle":
        break
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def printed(engine_with_gpus: Engine) -> Iterator[dict[str, str]]:
    """What stands below a cell of the lab there that asks for GPUs, once the lab is healthy."""
    started = engine_with_gpus.compose("up", "--detach", "--no-build", "--wait")
    try:
        assert started.returncode == 0, started.stderr + engine_with_gpus.compose("logs").stdout
        code = "import os, subprocess; print(os.getuid(), subprocess.check_output('nvidia-smi', text=True))"
        done = engine_with_gpus.compose("exec", "-T", "workspace", "python", "-c", IN_A_KERNEL, code)
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout)
    finally:
        engine_with_gpus.compose("down", "--volumes")


def test_a_kernel_of_the_hardened_lab_sees_all_gpus(engine_with_gpus: Engine, printed: dict) -> None:
    gpus = "".join(f"GPU {index}: stand-in\n" for index in range(4))
    assert printed["stdout"] == f"1000 {gpus}\n"
    looked = engine_with_gpus.compose("exec", "-T", "workspace", "sh", "-c", "touch /usr/x; cat /proc/self/status")
    assert "Read-only file system" in looked.stderr
    assert "NoNewPrivs:\t1" in looked.stdout
    assert "CapBnd:\t0000000000000000" in looked.stdout


def test_a_gpu_that_the_control_group_does_not_know_is_told_below_the_cell(
    engine_with_gpus: Engine, printed: dict
) -> None:
    assert printed["stderr"] == (f"workspace: {system.LOST}.\n" if engine_with_gpus.way == "hook" else "")


def test_gpus_that_are_left_out_do_not_reach_it(engine_with_gpus: Engine) -> None:
    several = {"cdi": "nvidia.com/gpu=3", "hook": "1,3"}[engine_with_gpus.way]
    shown = "nvidia-smi; echo $CUDA_VISIBLE_DEVICES"
    done = engine_with_gpus.inside(shown, WORKSPACE_GPUS=several, CUDA_VISIBLE_DEVICES="1")
    expected = {"cdi": ["GPU 3: stand-in"], "hook": ["GPU 1: stand-in", "GPU 3: stand-in"]}[engine_with_gpus.way]
    assert done.stdout.splitlines() == [*expected, "1"], done.stderr


def test_a_start_asks_each_engine_in_the_way_that_it_knows(
    engine_with_gpus: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine_with_gpus.address)
    by_cdi = {"WORKSPACE_GPU_DRIVER": "cdi", "WORKSPACE_GPUS": "nvidia.com/gpu=3"}
    monkeypatch.setenv("WORKSPACE_GPUS", "3")
    assert gpu.require() == (by_cdi if engine_with_gpus.way == "cdi" else {})
    monkeypatch.setenv("WORKSPACE_GPUS", "7")
    with pytest.raises(UserError, match="WORKSPACE_GPUS names a GPU that this machine does not have"):
        gpu.require()
    monkeypatch.setenv("WORKSPACE_GPUS", "0,3")
    if engine_with_gpus.way == "cdi":
        with pytest.raises(UserError, match="WORKSPACE_GPUS is one of them, or all"):
            gpu.require()
    else:
        assert gpu.require() == {}


def test_a_driver_that_the_hook_does_not_find_is_named(
    engine_with_gpus: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine_with_gpus.address)
    missing_driver = engine_with_gpus.folder / "bin/no-driver"
    missing_driver.touch()
    try:
        found = gpu.hand_over()
    finally:
        missing_driver.unlink()
    if engine_with_gpus.way == "hook":
        assert (found.kind, found.state) == (Cause.GPU_DRIVER.kind, State.BROKEN)
        assert "`nvidia-smi` must work here first" in found.text
    else:
        assert found.state is State.WELL, "CDI has no hook"


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("way", ["none", "cdi, nothing described"])
def test_an_engine_that_knows_no_way_to_a_gpu_is_told_with_the_command_that_helps(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_own_engine()
    lacking = Engine(tmp_path, way)
    monkeypatch.setenv("DOCKER_HOST", lacking.address)
    with lacking.running():
        said, variables = gpu.ask_engine()
    assert (causes.find(said), variables) == (Cause.GPU_HAND_OVER, {})
    assert "sudo nvidia-ctk runtime configure --runtime=docker" in causes.explain(said)
