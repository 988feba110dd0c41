"""The host in the link: each source of its name, in order, and a cloud's metadata, which may say anything."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import free_port
from stand_ins import serving
from workspace.base import settings
from workspace.host import address, start
from workspace.host.address import EVERYWHERE

AZURE = ("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77")
TAGS = "/metadata/instance/compute/tagsList"
BALANCER = "/metadata/loadbalancer"
NAME = "anna.swedencentral.cloudapp.azure.com"
MANY_TIMES_THE_LIMIT_S = 60


class Metadata(http.server.ThreadingHTTPServer):
    """A metadata service: what it answers by path, the headers without which it does not, and what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.answers: dict[str, str] = {}
        self.needs: dict[str, str] = {"Metadata": "true"}
        self.asked: list[str] = []
        self.drips = False
        self.may_answer = threading.Event()
        self.may_answer.set()


class Answering(http.server.BaseHTTPRequestHandler):
    server: Metadata

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        waits_s = 0.05 if self.server.drips else MANY_TIMES_THE_LIMIT_S
        for _ in range(round(MANY_TIMES_THE_LIMIT_S / waits_s)):
            if self.server.may_answer.wait(waits_s):
                break
            self.wfile.write(b" ")
        fits = all(self.headers[name] == value for name, value in self.server.needs.items())
        found = path in self.server.answers and fits and "X-Forwarded-For" not in self.headers
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(self.server.answers.get(path, "No load balancer metadata is found").encode())

    def do_PUT(self) -> None:
        self.send_response(200 if self.headers["X-aws-ec2-metadata-token-ttl-seconds"] else 400)
        self.end_headers()
        self.wfile.write(b"session")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the firmware says about this machine: nothing. No host name is set."""
    monkeypatch.setattr(address, "_DMI", tmp_path)
    monkeypatch.delenv("WORKSPACE_PUBLIC_HOST", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def the_limit_s() -> float:
    """How long metadata is waited for, before a test says otherwise."""
    assert address._ANSWERS_WITHIN_S == 0.3
    return address._ANSWERS_WITHIN_S


@pytest.fixture
def metadata(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    """A VM in Azure, with its metadata."""
    machine.joinpath(AZURE[0]).write_text(AZURE[1] + "\n")
    server = Metadata()
    with serving(server) as here:
        monkeypatch.setattr(address, "_METADATA", here)
        monkeypatch.setattr(address, "_ANSWERS_WITHIN_S", MANY_TIMES_THE_LIMIT_S)  # this machine may be busy
        yield server
        server.may_answer.set()


def own_names() -> set[str]:
    return {socket.gethostname(), "localhost"}


def tagged(value: str = NAME) -> str:
    return json.dumps([{"name": "purpose", "value": "lesson"}, {"name": address.TAG, "value": value}])


def test_what_is_given_comes_first_then_the_setting(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata.answers[TAGS] = tagged()
    monkeypatch.setenv("WORKSPACE_PUBLIC_HOST", "set.example.org")
    assert address.host_name(EVERYWHERE, "given.example.org") == "given.example.org"
    assert address.host_name(EVERYWHERE) == "set.example.org"
    assert metadata.asked == []


def test_setting_may_stand_in_the_file(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = machine / ".env"
    file.write_text("WORKSPACE_PUBLIC_HOST=file.example.org\n")
    monkeypatch.setattr(settings, "FILE", file)
    settings._lines.cache_clear()
    assert address.host_name(EVERYWHERE) == "file.example.org"
    monkeypatch.undo()
    settings._lines.cache_clear()


def test_server_that_does_not_listen_everywhere_has_the_name_of_where_it_does(metadata: Metadata) -> None:
    metadata.answers[TAGS] = tagged()
    assert address.host_name("127.0.0.1") == "localhost"
    assert address.host_name("192.0.2.7") == "192.0.2.7"
    assert metadata.asked == []


def test_tag_of_the_vm_comes_before_its_address(metadata: Metadata) -> None:
    metadata.answers[TAGS] = tagged()
    metadata.answers[BALANCER] = json.dumps(
        {"loadbalancer": {"publicIpAddresses": [{"frontendIpAddress": "192.0.2.1", "privateIpAddress": "10.0.0.4"}]}}
    )
    assert address.host_name(EVERYWHERE) == NAME
    metadata.answers[TAGS] = "[]"
    assert address.host_name(EVERYWHERE) == "192.0.2.1"


def test_start_with_tls_has_its_certificate_made_for_that_name(metadata: Metadata) -> None:
    metadata.answers[TAGS] = tagged()
    variables = start.Options(tls=True).settings()
    assert (variables["WORKSPACE_PUBLIC_HOST"], variables["WORKSPACE_TLS_ISSUER"]) == (NAME, "acme")


@pytest.mark.parametrize(
    ("file", "holds", "needs", "path"),
    [
        (*AZURE, {"Metadata": "true"}, address._AZURES_ADDRESS),
        ("sys_vendor", "Amazon EC2", {"X-aws-ec2-metadata-token": "session"}, "/latest/meta-data/public-ipv4"),
        (
            "product_name",
            "Google Compute Engine",
            {"Metadata-Flavor": "Google"},
            "/computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip",
        ),
        ("sys_vendor", "Hetzner", {}, "/hetzner/v1/metadata/public-ipv4"),
        ("sys_vendor", "DigitalOcean", {}, "/metadata/v1/interfaces/public/0/ipv4/address"),
    ],
)
def test_public_address_is_asked_as_each_cloud_wants_it(
    metadata: Metadata, machine: Path, file: str, holds: str, needs: dict[str, str], path: str
) -> None:
    machine.joinpath(AZURE[0]).unlink()
    machine.joinpath(file).write_text(holds)
    metadata.needs = needs
    metadata.answers[path] = "192.0.2.9"
    assert address.host_name(EVERYWHERE) == "192.0.2.9"


@pytest.mark.parametrize(("file", "holds"), [("sys_vendor", "Microsoft Corporation"), ("sys_vendor", "LENOVO")])
def test_machine_that_is_no_clouds_asks_nobody(metadata: Metadata, machine: Path, file: str, holds: str) -> None:
    machine.joinpath(AZURE[0]).unlink()
    machine.joinpath(file).write_text(holds)
    metadata.answers[TAGS] = tagged()
    assert address.host_name(EVERYWHERE) in own_names()
    assert metadata.asked == []


@pytest.mark.parametrize("said", ["", "[", "{}", "null", '[{"name": "pytorch-workspace-host"}]', tagged("a b"), "[1]"])
def test_metadata_without_a_name_is_no_error(metadata: Metadata, said: str) -> None:
    metadata.answers[TAGS] = metadata.answers[BALANCER] = said
    assert address.host_name(EVERYWHERE) in own_names()
    assert TAGS in metadata.asked


@pytest.mark.parametrize("drips", [False, True])
def test_metadata_that_does_not_answer_is_not_waited_for(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch, the_limit_s: float, drips: bool
) -> None:
    metadata.drips = drips
    monkeypatch.setattr(address, "_ANSWERS_WITHIN_S", the_limit_s)
    metadata.answers[TAGS] = tagged()
    metadata.may_answer.clear()
    begun = time.monotonic()
    assert address.host_name(EVERYWHERE) in own_names()
    assert time.monotonic() - begun < MANY_TIMES_THE_LIMIT_S / 2


def test_metadata_that_nobody_serves_is_no_error(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_METADATA", f"http://127.0.0.1:{free_port()}")
    assert address.host_name(EVERYWHERE) in own_names()
    assert metadata.asked == []


def test_proxy_of_the_machine_is_not_asked_for_metadata(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata.answers[TAGS] = tagged()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert address.host_name(EVERYWHERE) == NAME
