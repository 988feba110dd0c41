"""What a worker of a sweep must be like, and what the command `worker` says where a machine does not fit."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from distributed import Client, LocalCluster
from labs import REPOSITORY, command, free_port, wait_until
from small import METRICS, notebook
from workspace.runs.execution import Job
from workspace.runs.notebook import Notebook
from workspace.sweeps import certificates, cluster, worker
from workspace.sweeps.local import Slot


def test_containers_of_one_machine_share_it_and_equal_addresses_of_two_machines_share_nothing() -> None:
    names = {"tls://172.18.0.2:1": "a/boot1/x", "tls://172.18.0.3:1": "b/boot1/x", "tls://172.18.0.3:2": "c/boot2/x"}
    assert worker.slots(names) == {
        "tls://172.18.0.2:1": Slot(0, on_machine=2, in_container=1),
        "tls://172.18.0.3:1": Slot(1, on_machine=2, in_container=1),
        "tls://172.18.0.3:2": Slot(0, on_machine=1, in_container=1),
    }


def test_workers_with_names_of_dasks_own_are_told_apart_by_their_addresses() -> None:
    slots = worker.slots({address: address for address in ("tcp://10.0.0.1:1", "tcp://10.0.0.1:2", "tcp://10.0.0.2:1")})
    assert [(slot.index, slot.on_machine) for slot in slots.values()] == [(0, 2), (1, 2), (0, 1)]


def test_new_names_are_of_this_machine_and_all_different() -> None:
    slots = worker.slots({"tcp://a:1": worker.new_name(), "tcp://b:1": worker.new_name()})
    assert [slot.in_container for slot in slots.values()] == [2, 2]


@pytest.mark.parametrize("changed", ["scripts/workspace/runs/kernels.py", "docker/requirements.lock"])
def test_the_fingerprint_covers_code_and_locks(changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(content: str) -> dict[str, str]:
        (tmp_path / changed).write_text(content)
        return worker.fingerprint.__wrapped__()

    for file in (changed, "docker/Dockerfile"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "docker" / "Dockerfile").write_text("ARG VERSION=1.0.0\n")
    monkeypatch.setattr(worker.places, "REPOSITORY", tmp_path)
    assert of("one") == of("one")
    assert worker.difference(of("another"), of("one")).startswith("the workspace's code of ")


def test_a_worker_that_does_not_see_the_folder_is_refused_by_name(tmp_path: Path) -> None:
    job = Job(Notebook.read(notebook(tmp_path / "small.ipynb", METRICS)), tmp_path / "elsewhere" / "run")
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as here, Client(here) as client:
        workers = cluster.Workers(client)
        wait_until(workers.count)
        made = workers.submit(job)
        wait_until(made.done)
        with pytest.raises(worker.RefusedError, match=f"does not see {job.folder.parent}"):
            workers.outcome(made)


@pytest.fixture(scope="module")
def members_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of a cluster whose scheduler runs on this machine."""
    file = tmp_path_factory.mktemp("keys") / "cluster.yaml"
    port = str(free_port())
    certificates.write(file, f"tls://127.0.0.1:{port}")
    line = ["scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "dask", *line], env=os.environ | {"DASK_CONFIG": str(file)}, stderr=subprocess.DEVNULL
    )
    yield file
    scheduler.terminate()
    scheduler.wait(60)


def check(file: Path, work: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return command(
        REPOSITORY,
        sys.executable,
        "scripts/worker",
        str(file),
        "--native",
        "--check",
        WORKSPACE_WORK=str(work),
        **environment,
    )


def test_a_machine_with_the_file_fits_and_no_probe_is_left(members_file: Path, tmp_path: Path) -> None:
    fits = check(members_file, tmp_path)
    assert fits.returncode == 0, fits.stderr
    assert not list(tmp_path.iterdir())


def test_keys_stay_when_the_address_changes_and_others_are_refused_as_that(members_file: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_bytes(members_file.read_bytes())
    address = yaml.safe_load(members_file.read_text())["scheduler-address"]
    certificates.write(mine, address)
    assert mine.read_text() == members_file.read_text()
    certificates.write(tmp_path / "others.yaml", address)
    refused = check(tmp_path / "others.yaml", tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (3, 1), refused.stderr
    assert "has other keys than this machine" in refused.stderr


def test_a_scheduler_that_cannot_be_reached_is_told_as_that(members_file: Path, tmp_path: Path) -> None:
    (tmp_path / "closed.yaml").write_bytes(members_file.read_bytes())
    certificates.write(tmp_path / "closed.yaml", f"tls://127.0.0.1:{free_port()}")
    refused = check(tmp_path / "closed.yaml", tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (3, 1), refused.stderr
    assert "is its port open for this machine?" in refused.stderr


def test_other_packages_are_told_as_that(members_file: Path, tmp_path: Path) -> None:
    (tmp_path / "torch-1.0.dist-info").mkdir()
    (tmp_path / "torch-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
    refused = check(members_file, tmp_path, PYTHONPATH=str(tmp_path))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "this machine has torch 1.0 in place of" in refused.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "is not the file of a cluster"),
        ("[1]", "is not the file of a cluster"),
        ("a: b: c", "is not the file of a cluster"),
        ("scheduler-address: 5", "the scheduler 5: write tcp://HOST:8786"),
    ],
)
def test_another_file_is_not_taken_for_a_clusters(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "else.yaml").write_text(content)
    refused = check(tmp_path / "else.yaml", tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert said in refused.stderr
