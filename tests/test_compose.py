"""The compose files as Compose reads them; no engine is asked."""

import json
import os
import re
from pathlib import Path

import pytest
from labs import REPOSITORY, command
from workspace.base import settings
from workspace.base.programs import ask


@pytest.fixture(scope="module", autouse=True)
def compose(compose_command: None) -> None:
    """Every test here needs Compose."""


def project(*files: str, **environment: str) -> dict:
    arguments = [argument for file in files for argument in ("-f", file)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("WORKSPACE_", "JUPYTER_"))}
    config = ["docker", "compose", *arguments, "config", "--format", "json"]
    return json.loads(ask(*config, cwd=REPOSITORY, env=plain | environment, check=True).stdout)


def configuration(*files: str, **environment: str) -> dict:
    return project(*files, **environment)["services"]["workspace"]


def test_no_setting_is_required() -> None:
    service = configuration("docker-compose.yml")
    assert service["ports"][0]["published"] == "8888"
    assert service["build"]["args"]["WHEELS"] == ""


def test_gpu_overlay_changes_only_wheels_tag_and_device() -> None:
    cpu = configuration("docker-compose.yml")
    gpu = configuration("docker-compose.yml", "docker-compose.gpu.yml")
    assert gpu["image"] == "pytorch-workspace:cuda"
    assert gpu["build"]["args"]["WHEELS"] == "cuda"
    [device] = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["device_ids"], device["capabilities"]) == ("nvidia", ["all"], ["gpu"])
    assert gpu["environment"].pop("CUDA_VISIBLE_DEVICES", None) is None
    for service in (cpu, gpu):
        del service["image"], service["build"]["args"]["WHEELS"]
    del gpu["deploy"]
    assert gpu == {name: value for name, value in cpu.items() if name != "deploy"}


def test_which_gpus_is_one_variable_and_cuda_s_own_is_passed() -> None:
    files = ("docker-compose.yml", "docker-compose.gpu.yml")
    gpu = configuration(*files, WORKSPACE_GPUS="0,2", CUDA_VISIBLE_DEVICES="1")
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == ["0,2"]
    assert gpu["environment"]["CUDA_VISIBLE_DEVICES"] == "1"
    by_cdi = configuration(*files, WORKSPACE_GPU_DRIVER="cdi", WORKSPACE_GPUS="nvidia.com/gpu=0")
    [device] = by_cdi["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["device_ids"]) == ("cdi", ["nvidia.com/gpu=0"])


def test_gpus_of_a_cluster_are_its_workers_alone() -> None:
    files = ("docker-compose.yml", "docker/cluster.yml", "docker/cluster.gpu.yml")
    services = project(*files)["services"]
    devices = {name: service.get("deploy", {}).get("resources") for name, service in services.items()}
    assert devices.pop("worker")["reservations"]["devices"][0]["device_ids"] == ["all"]
    assert devices == {"workspace": None, "scheduler": None, "certificates": None}
    assert services["workspace"]["build"]["args"]["WHEELS"] == "cuda"


def test_gpu_overlay_stays_short() -> None:
    assert len((REPOSITORY / "docker-compose.gpu.yml").read_text().splitlines()) < 15


def test_work_is_a_named_volume_or_a_folder_by_one_variable() -> None:
    named = {mount["target"]: mount for mount in configuration("docker-compose.yml")["volumes"]}["/workspace"]
    bound = {mount["target"]: mount for mount in configuration("docker-compose.yml", WORKSPACE_DIR="./mine")["volumes"]}
    assert (named["type"], named["source"]) == ("volume", "work")
    assert (bound["/workspace"]["type"], Path(bound["/workspace"]["source"]).name) == ("bind", "mine")


def test_proxy_and_authorities_reach_build_and_run_time() -> None:
    proxies = {"HTTP_PROXY": "http://proxy:3128", "HTTPS_PROXY": "http://proxy:3129", "NO_PROXY": "intranet"}
    given = configuration("docker-compose.yml", WORKSPACE_CA_BUNDLE="/etc/own.pem", **proxies)
    assert proxies.items() <= given["build"]["args"].items()
    assert proxies.items() <= given["environment"].items()
    mounts = {mount["target"]: mount["source"] for mount in given["volumes"]}
    assert mounts["/run/workspace-ca.pem"] == "/etc/own.pem"
    assert given["build"]["secrets"] == [{"source": "ca"}]


def test_authorities_that_the_machine_names_reach_the_build_alone() -> None:
    told = project(SSL_CERT_FILE="", REQUESTS_CA_BUNDLE="/etc/theirs.pem")
    assert told["secrets"]["ca"]["file"] == "/etc/theirs.pem"
    assert "/etc/theirs.pem" not in str(told["services"])


def test_folder_with_a_colon_is_refused_in_one_line(checkout: Path, engine: None) -> None:  # noqa: ARG001
    refused = command(checkout, "scripts/start", WORKSPACE_DIR="/tmp/a:b")  # noqa: S108
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "WORKSPACE_DIR has a colon" in refused.stderr


def test_every_setting_is_listed_in_the_example() -> None:
    files = [REPOSITORY / "docker-compose.yml", REPOSITORY / "docker-compose.gpu.yml"]
    used = {name for file in files for name in re.findall(r"\$\{(\w+)", file.read_text())}
    listed = set(re.findall(r"^#(\w+)=", (REPOSITORY / ".env.example").read_text(), re.MULTILINE))
    # The machine's own, and what scripts/start finds out.
    assert used - {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "WORKSPACE_GPU_DRIVER"} <= listed


def test_settings_of_older_releases_reach_the_log_that_names_them() -> None:
    handed_on = configuration("docker-compose.yml", **dict.fromkeys(settings._GONE, "x"))["environment"]
    assert [handed_on.get(name) for name in settings._GONE] == ["x"] * len(settings._GONE)


def test_unusable_setting_is_refused_in_one_line(checkout: Path) -> None:
    refused = command(checkout, "scripts/start", WORKSPACE_PORT="eighty")
    assert refused.returncode != 0
    assert "eighty" in refused.stderr
