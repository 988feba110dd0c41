"""The command `worker`: check that this machine fits a cluster, and become Dask's worker there."""

import os
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.host import compose, engine, venv
from workspace.host import gpu as gpu_layers
from workspace.lab import preflight

if TYPE_CHECKING:
    from distributed import Client

_IN_CONTAINER = "/opt/workspace/scripts/worker", "/run/cluster.yaml"
_ALONE_S = 60
"""So long a worker waits for its scheduler to come back, and then ends; in a container it is started again."""


def main(
    file: Path | None, *, count: int, scheduler: str | None, gpu: bool, native: bool, check: bool, stop: bool
) -> int | None:
    """Work as the command line says. Raises UserError, with what to do, where this machine does not fit the cluster."""
    if stop:
        return _containers(Path(os.devnull), 0, gpu=False).compose("rm", "--stop", "--force", "worker")
    if count < 0:
        raise UserError(f"-n {count}: a number above 0, please", cli.BAD_INPUT)
    if file is None or not file.is_file():
        raise UserError(f"{file or 'a file'} is missing: copy cluster.yaml from the scheduler's machine", cli.BAD_INPUT)
    if not places.IN_IMAGE and not native and engine.is_installed():
        engine.require()
        return _work_in_docker(_containers(file, count, gpu=gpu), check=check, gpu=gpu)
    venv.enter()
    return _work(file, count, scheduler, check=check)


def _work_in_docker(containers: compose.Workspace, *, check: bool, gpu: bool) -> int:
    """The same in a container, which comes back when the machine does."""
    if gpu:
        containers = replace(containers, variables={**containers.variables, **gpu_layers.require()})
    containers.provide_image()
    failed = containers.compose("run", "--rm", "--no-deps", "worker", *_IN_CONTAINER, "--check")
    if failed or check:
        return failed
    failed = containers.compose("up", "--detach", "--no-deps", "--no-build", "worker")
    if not failed:
        cli.say("It works until scripts/worker --stop, and comes back when this machine does.")
    return failed


def _containers(file: Path, count: int, *, gpu: bool) -> compose.Workspace:
    wanted = {"CLUSTER_FILE": file.absolute(), "WORKERS": count, "MACHINE": socket.gethostname()}
    variables = {f"WORKSPACE_{name}": str(value) for name, value in wanted.items()}
    overlays = ["docker/cluster.yml", *["docker/cluster.gpu.yml"] * gpu, "docker/worker.yml"]
    return compose.Workspace(variables=variables, overlays=tuple(overlays))


def _work(file: Path, count: int, scheduler: str | None, *, check: bool) -> int:
    """Become Dask's worker, if this machine fits the cluster."""
    address = _use(file)
    address = scheduler or address
    from workspace.sweeps import cluster, local, worker

    preflight.require_writable(places.work())
    with cluster.connected(address, cluster.CONNECTS_WITHIN_S if check else _ALONE_S) as client:
        _require_same(client)
    if check:
        cli.say(f"this machine fits the cluster of {address}")
    else:
        _become_worker(address, count or local.how_many(), worker.new_name())
    return 0


def _become_worker(address: str, many: int, name: str) -> NoReturn:
    several = ["--nworkers", str(many)] if many > 1 else ["--no-nanny"]
    line = [sys.executable, "-P", "-m", "dask", "worker", address, "--name", name, "--no-dashboard", *several]
    line += ["--nthreads", "1", "--memory-limit", "0", "--death-timeout", str(_ALONE_S)]
    os.execv(sys.executable, line)  # noqa: S606


def _use(file: Path) -> str:
    """Let Dask, here and in the processes to come, take its settings from `file`; the scheduler's address in it."""
    os.environ["DASK_CONFIG"] = str(file.absolute())
    try:
        file.read_text()
        import dask

        return str(dask.config.get("scheduler-address"))
    except OSError as error:
        raise UserError(
            f"{file} cannot be read by uid {os.getuid()}: {error.strerror}; make it its own: sudo chown {os.getuid()}",
            cli.BAD_INPUT,
        ) from error
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{file} is not the file of a cluster: copy cluster.yaml from the scheduler's machine", cli.BAD_INPUT
        ) from error


def _require_same(client: "Client") -> None:
    """Raise UserError unless this machine makes the runs that the scheduler's would make, and into the same folder."""
    from workspace.sweeps import worker

    try:
        theirs = client.run_on_scheduler(worker.fingerprint)
    except Exception as error:  # whatever an import that fails there raises here
        raise UserError(
            f"the scheduler cannot run this machine's code: {error}: use one image everywhere", cli.BAD_INPUT
        ) from error
    if differing := worker.difference(worker.fingerprint(), theirs):
        raise UserError(f"this machine has {differing}: use one image everywhere", cli.BAD_INPUT)
    with tempfile.NamedTemporaryFile(prefix=".worker-", dir=places.work()) as probe:
        if not client.run_on_scheduler(os.path.exists, probe.name):
            raise UserError(
                f"the scheduler does not see what this machine writes into {places.work()}: all machines share one "
                "work folder, at the same path; in Docker WORKSPACE_DIR names it",
                cli.BAD_INPUT,
            )
