"""The GPU overlay on an engine that believes it has NVIDIA's toolkit: an engine of its own, and a hook in its place."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from conftest import missing
from labs import REPOSITORY, wait_until
from workspace.base.cli import UserError
from workspace.host import gpu

# What NVIDIA's hook does, as far as it can be seen from here: the driver's programs come into the container's root,
# which is read-only only later, and a GPU that is not there stops the start. This machine has the GPUs 0 to 3.
HOOK = """\
#!/usr/bin/env python3
import json, pathlib, sys
bundle = pathlib.Path(json.load(sys.stdin)["bundle"])
container = json.loads((bundle / "config.json").read_text())
environment = dict(pair.split("=", 1) for pair in container["process"]["env"])
asked = environment["NVIDIA_VISIBLE_DEVICES"].replace("all", "0,1,2,3").split(",")
if not set(asked) <= set("0123"):
    sys.exit("nvidia-container-cli: device error: 7: unknown device: unknown")
smi = pathlib.Path(container["root"]["path"], "usr/bin/nvidia-smi")
smi.parent.mkdir(parents=True, exist_ok=True)
smi.write_text("#!/bin/sh\\n" + "".join(f"echo 'GPU {index}: stand-in'\\n" for index in asked))
smi.chmod(0o755)
"""


@pytest.fixture(scope="module")
def gpu_engine(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: ARG001
    """The address of an engine, apart from the machine's own, that takes our hook for NVIDIA's."""
    if os.getuid() or not shutil.which("dockerd") or not shutil.which("unshare"):
        missing("gpu-engine", "an engine of one's own needs root and dockerd")
    folder = tmp_path_factory.mktemp("engine")
    hook = folder / "bin" / "nvidia-container-runtime-hook"
    hook.parent.mkdir()
    hook.write_text(HOOK)
    hook.chmod(0o755)
    address = f"unix://{folder}/docker.sock"
    settings = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    settings = {name: str(folder / place) for name, place in settings.items()} | {"hosts": [address]}
    settings |= {"bridge": "none", "iptables": False, "ip6tables": False}
    (folder / "engine.json").write_text(json.dumps(settings))
    # A network of its own: else it takes the other engine's bridge for a leftover.
    command = ["unshare", "--net", "dockerd", "--config-file", str(folder / "engine.json")]
    path = f"{hook.parent}:{os.environ['PATH']}"
    with (folder / "log").open("w") as log:
        daemon = subprocess.Popen(command, env=os.environ | {"PATH": path}, stdout=log, stderr=log)
    try:
        wait_until(lambda: daemon.poll() is not None or docker(address, "info").returncode == 0)
        assert daemon.poll() is None, (folder / "log").read_text()
        base = os.environ.get("WORKSPACE_BASE_IMAGE", "debian:trixie-slim")
        saved = subprocess.run(["docker", "save", base], capture_output=True, check=True).stdout
        subprocess.run(["docker", "--host", address, "load"], input=saved, capture_output=True, check=True)
        assert docker(address, "tag", base, "pytorch-workspace:cuda").returncode == 0
        yield address
    finally:
        daemon.terminate()
        daemon.wait(60)
        with contextlib.suppress(OSError):
            shutil.rmtree(folder / "data")


def docker(address: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"DOCKER_HOST": address, "COMPOSE_PROJECT_NAME": "workspace-gpu"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def inside(address: str, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the workspace's container as the delivered overlay makes it, on a bare image."""
    overlays = ["-f", "docker-compose.yml", "-f", "docker-compose.gpu.yml"]
    line = ["compose", *overlays, "run", "--rm", "--no-deps", "-T", "workspace", "sh", "-c", command]
    return docker(address, *line, **environment)


def test_all_gpus_reach_the_hardened_container_of_an_ordinary_user(gpu_engine: str) -> None:
    done = inside(gpu_engine, "nvidia-smi; id -u; touch /usr/x 2>&1; grep NoNewPrivs /proc/self/status")
    gpus = [f"GPU {index}: stand-in" for index in range(4)]
    assert done.stdout.splitlines()[:5] == [*gpus, "1000"], done.stderr
    assert "Read-only file system" in done.stdout
    assert "NoNewPrivs:\t1" in done.stdout


def test_gpus_that_are_left_out_do_not(gpu_engine: str) -> None:
    done = inside(gpu_engine, "nvidia-smi; echo $CUDA_VISIBLE_DEVICES", WORKSPACE_GPUS="1,3", CUDA_VISIBLE_DEVICES="1")
    assert done.stdout.splitlines() == ["GPU 1: stand-in", "GPU 3: stand-in", "1"], done.stderr


def test_a_gpu_that_is_not_there_is_named_before_anything_large_is_fetched(
    gpu_engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", gpu_engine)
    monkeypatch.setenv("WORKSPACE_GPUS", "0,3")
    gpu.require()
    monkeypatch.setenv("WORKSPACE_GPUS", "7")
    with pytest.raises(UserError, match="WORKSPACE_GPUS names a GPU that this machine does not have"):
        gpu.require()
