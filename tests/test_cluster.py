"""docker/cluster.yml: a scheduler and two workers in containers, whose machines go away in the midst of a sweep."""

import contextlib
import json
import os
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import websocket
from labs import Lab, command, wait_until
from small import METRICS, notebook
from workspace.runs import folders

HOST = "172.17.0.1"  # this machine, for all containers, on whatever network
TIME_TO_LIVE_S = 10
RUNS = 5

# A line is added to `made` at the start of each run: how often it was begun, whatever came of it.
SLOW = """\
import time

with open("made", "a") as made:
    print(x, file=made)
time.sleep(3)
"""


@dataclass(frozen=True)
class Cluster:
    """A cluster in containers, with the work folder of this machine's."""

    checkout: Path
    work: Path

    def compose(self, *arguments: str, overlays: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        files = [word for name in ("docker-compose.yml", "docker/cluster.yml", *overlays) for word in ("-f", name)]
        return self.command("docker", "compose", *files, *arguments)

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return command(self.checkout, *arguments, **self.settings() | environment)

    def settings(self) -> dict[str, str]:
        return {
            "COMPOSE_PROJECT_NAME": f"workspace-cluster-{os.getpid()}",
            "WORKSPACE_DIR": str(self.work),
            "WORKSPACE_UID": str(os.getuid() or 1000),
            "WORKSPACE_PORT": "0",
            "WORKSPACE_BIND": "127.0.0.1",
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{TIME_TO_LIVE_S}s",
            "WORKSPACE_CLUSTER_ADDRESS": HOST,
        }

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--quiet", service).stdout.split()

    def inspect(self, container: str, what: str) -> str:
        return self.command("docker", "inspect", "--format", what, container).stdout.strip()

    def sweep(self, folder: str) -> subprocess.Popen[str]:
        """Begin a sweep of all runs in the background."""
        inside = [
            "sweep",
            "slow.ipynb",
            "-p",
            f"x=1:{RUNS}:{RUNS}",
            "-o",
            folder,
            "--scheduler",
            "tls://scheduler:8786",
        ]
        return subprocess.Popen(
            ["docker", "exec", *self.containers("workspace"), *inside],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def results(self, folder: str) -> list[int]:
        """What was made in `folder`, and that each run was: once, and completed."""
        records = [json.loads(file.read_text()) for file in self.work.glob(f"{folder}/[!.]*/run.json")]
        assert all(record["status"] == "completed" for record in records), records
        return sorted(record["given"]["x"] for record in records)

    def at_work(self, folder: str) -> list[folders.Run]:
        """The runs that go on at this moment."""
        found = [folders.Run(state.parent) for state in self.work.glob(f"{folder}/.x-*/state.json")]
        return [run for run in found if run.status == folders.RUNNING]


@pytest.fixture(scope="module")
def cluster(engine: None, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:  # noqa: ARG001
    work = tmp_path_factory.mktemp("work")
    notebook(work / "slow.ipynb", SLOW, METRICS)
    if os.getuid() == 0:  # the image's user is not root
        for path in (work, *work.iterdir()):
            os.chown(path, 1000, 1000)
    for folder in (work, *list(work.parents)[:3]):
        folder.chmod(folder.stat().st_mode | 0o755)
    cluster = Cluster(checkout, work)
    try:
        built = cluster.compose("build", "workspace")
        assert built.returncode == 0, built.stderr
        started = cluster.compose("up", "--detach", "--scale", "worker=2", "--no-build")
        assert started.returncode == 0, started.stderr
        yield cluster
    finally:
        cluster.compose("down", "--volumes", "--timeout", "1")
        # Compose labels what it builds with the project, so each project's build took the tag from the one before.
        label = f"label=com.docker.compose.project={cluster.settings()['COMPOSE_PROJECT_NAME']}"
        cluster.command("docker", "image", "prune", "--force", "--filter", label)


def test_members_show_certificates_and_strangers_are_refused(cluster: Cluster) -> None:
    join = "from distributed import Client; Client('{}://scheduler:8786', timeout=5)"
    forget = "import os; [os.environ.pop(name) for name in list(os.environ) if name.startswith('DASK_')]; "
    (workspace,) = cluster.containers("workspace")
    python = ["docker", "exec", workspace, "python", "-c"]
    refused = command(cluster.checkout, *python, forget + join.format("tcp"))
    assert refused.returncode == 1
    assert "CommClosedError" in refused.stderr or "timed out" in refused.stderr, refused.stderr
    welcome = command(cluster.checkout, *python, join.format("tls"))
    assert welcome.returncode == 0, welcome.stderr
    without = ["sweep", "slow.ipynb", "-p", "x=1", "-o", "plain", "--scheduler", "tcp://scheduler:8786"]
    plain = command(cluster.checkout, *python[:3], *without)
    assert plain.returncode == 3, plain.stderr
    assert "encryption required" in plain.stderr


def test_no_member_opens_a_port_of_this_machine(cluster: Cluster) -> None:
    for service in ("scheduler", "worker"):
        for container in cluster.containers(service):
            assert command(cluster.checkout, "docker", "port", container).stdout == ""


def test_dashboard_is_seen_through_the_lab_alone_and_only_with_the_token(cluster: Cluster) -> None:
    (workspace,) = cluster.containers("workspace")
    link = command(cluster.checkout, "docker", "exec", workspace, "lab-link").stdout
    port = command(cluster.checkout, "docker", "port", workspace, "8888").stdout.strip().rpartition(":")[2]
    lab = Lab(f"http://localhost:{port}/?{link.strip().partition('?')[2]}")
    page = "/proxy/dashboard:8787/status"
    wait_until(lambda: lab.get(page, lab.token).ok)
    assert "Dask" in lab.get(page, lab.token).text
    assert lab.get(page).status_code in {302, 403}
    assert lab.get("/proxy/scheduler:8786/", lab.token).status_code == 403  # another host than the one allowed
    with pytest.raises(websocket.WebSocketException, match="/login"):  # where it is sent instead
        websocket.create_connection(f"ws{lab.url.removeprefix('http')}{page}/ws", timeout=30)
    with contextlib.closing(
        websocket.create_connection(
            f"ws{lab.url.removeprefix('http')}{page}/ws",
            header=[f"Authorization: token {lab.token}"],
            subprotocols=["bokeh", "none"],
            timeout=30,
        )
    ) as channel:
        assert channel.getstatus() == 101
    seen = "import socket; socket.create_connection(('{}', 8787), 3)"
    for worker in cluster.containers("worker"):
        for name in ("scheduler", "dashboard"):
            refused = command(cluster.checkout, "docker", "exec", worker, "python", "-c", seen.format(name))
            assert "refused" in refused.stderr or "not known" in refused.stderr, refused.stderr


def test_a_full_disk_is_told_in_one_line_and_leaves_no_result(cluster: Cluster) -> None:
    notebook(
        cluster.work / "large.ipynb",
        "Path = __import__('pathlib').Path",
        "Path(output_folder, 'a').write_text('a' * 10**6)",
    )
    (cluster.work / "large.ipynb").chmod(0o644)
    image = command(cluster.checkout, "docker", "inspect", "-f", "{{.Image}}", *cluster.containers("workspace")).stdout
    small = [
        "--tmpfs",
        "/small:size=300k,mode=1777",
        "--tmpfs",
        "/state:mode=1777",
        "-v",
        f"{cluster.work}:/workspace:ro",
    ]
    line = "run large.ipynb -o /small/out; echo exit code $?; ls /small"
    done = command(cluster.checkout, "docker", "run", "--rm", *small, image.strip(), "bash", "-c", line)
    (said,) = [line for line in done.stderr.splitlines() if " · " not in line]  # but for the progress, on busy cores
    assert "No space left on device" in said
    assert done.stdout == "exit code 1\n"


def test_a_worker_killed_and_one_that_falls_silent_lose_nothing(cluster: Cluster) -> None:
    sweep = cluster.sweep("gone")
    killed, silent = cluster.containers("worker")
    made = cluster.work / "made"
    wait_until(lambda: (made.exists() and len(made.read_text().split()) == 2) or sweep.poll() is not None, 90)
    subprocess.run(["docker", "kill", killed], check=True, capture_output=True)
    wait_until(lambda: cluster.results("gone"), 60)
    subprocess.run(["docker", "start", killed], check=True, capture_output=True)
    wait_until(lambda: cluster.at_work("gone"), 60)
    subprocess.run(["docker", "pause", silent], check=True, capture_output=True)
    try:
        output, _ = sweep.communicate(timeout=180)
    finally:
        subprocess.run(["docker", "unpause", silent], check=True, capture_output=True)
    assert sweep.returncode == 0, output
    assert cluster.results("gone") == list(range(1, RUNS + 1))
    records = {file: file.stat().st_mtime_ns for file in cluster.work.glob("gone/*/run.json")}
    wait_until(lambda: not cluster.at_work("gone"))  # the one that was silent has ended, too
    assert records == {file: file.stat().st_mtime_ns for file in cluster.work.glob("gone/*/run.json")}, "overwritten"
    again = Counter(made.read_text().split())
    assert max(again.values()) > 1, "no run was begun twice, so nothing was lost on the way: this test tests nothing"


def test_a_lost_scheduler_is_exit_code_3_and_the_same_command_goes_on(cluster: Cluster) -> None:
    sweep = cluster.sweep("lost")
    wait_until(lambda: cluster.results("lost") or sweep.poll() is not None, 90)
    (scheduler,) = cluster.containers("scheduler")
    subprocess.run(["docker", "kill", scheduler], check=True, capture_output=True)
    output, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 3, output
    assert "the same command goes on" in output
    before = {file: file.stat().st_mtime_ns for file in cluster.work.glob("lost/*/run.json")}
    assert 0 < len(before) < RUNS
    subprocess.run(["docker", "start", scheduler], check=True, capture_output=True)
    again = cluster.sweep("lost")
    output, _ = again.communicate(timeout=180)
    assert again.returncode == 0, output
    assert cluster.results("lost") == list(range(1, RUNS + 1))
    assert all(file.stat().st_mtime_ns == made for file, made in before.items())


@pytest.fixture(scope="module")
def members_file(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What another machine is given, when the scheduler has a port on this one."""
    opened = cluster.compose("up", "--detach", "--no-build", "--scale", "worker=1", overlays=("docker/machines.yml",))
    assert opened.returncode == 0, opened.stderr
    file = tmp_path_factory.mktemp("given") / "cluster.yaml"
    copied = cluster.command("docker", "compose", "cp", "workspace:/run/workspace-cluster/cluster.yaml", str(file))
    assert copied.returncode == 0, copied.stderr
    os.chown(file, 1000, 1000)
    return file


@pytest.fixture
def elsewhere(cluster: Cluster) -> Iterator[dict[str, str]]:
    """Another machine: a compose project with a network of its own, which nothing leads into."""
    settings = {"COMPOSE_PROJECT_NAME": f"workspace-elsewhere-{os.getpid()}"}
    yield settings
    stopped = cluster.command("scripts/worker", "--stop", **settings)
    assert stopped.returncode == 0, stopped.stderr
    assert cluster.command("docker", "compose", "ps", "--quiet", **settings).stdout == ""
    cluster.command("docker", "compose", "--project-name", settings["COMPOSE_PROJECT_NAME"], "down", "--volumes")


def test_another_machine_joins_by_one_command_and_one_file_and_nobody_needs_to_reach_it(
    cluster: Cluster, members_file: Path, elsewhere: dict[str, str]
) -> None:
    joined = cluster.command("scripts/worker", str(members_file), "--count", "2", **elsewhere)
    assert joined.returncode == 0, joined.stdout + joined.stderr
    [worker] = cluster.command("docker", "compose", "ps", "--quiet", "worker", **elsewhere).stdout.split()
    assert command(cluster.checkout, "docker", "port", worker).stdout == ""
    address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    reach = f"import socket; socket.create_connection(('{cluster.inspect(worker, address)}', 9), 2)"
    out_of_reach = cluster.compose("exec", "-T", "scheduler", "python", "-c", reach)
    assert "timed out" in out_of_reach.stderr, "refused would mean that it can be reached"
    cluster.compose("stop", "worker")
    sweep = cluster.sweep("elsewhere")
    output, _ = sweep.communicate(timeout=180)
    assert sweep.returncode == 0, output
    assert cluster.results("elsewhere") == list(range(1, RUNS + 1))
    hosts = {json.loads(file.read_text())["host"] for file in cluster.work.glob("elsewhere/*/run.json")}
    assert hosts == {socket.gethostname()}, "the machine's name, for people"


def test_another_machine_with_another_work_folder_is_told_so_and_does_not_join(
    cluster: Cluster, members_file: Path, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    os.chown(tmp_path, 1000, 1000)
    refused = cluster.command("scripts/worker", str(members_file), **elsewhere, WORKSPACE_DIR=str(tmp_path))
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "does not see what this machine writes into /workspace" in refused.stderr
    assert cluster.command("docker", "compose", "ps", "--quiet", "worker", **elsewhere).stdout == ""
