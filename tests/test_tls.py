"""docker/tls.yml: Caddy in front of the workspace. The image is made here from Debian's package."""

import base64
import json
import os
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import websocket
from editors import Editor
from labs import Container, free_port, wait_until
from workspace.base.programs import ask
from workspace.host import causes, start

HOST = "workspace.localhost"  # resolved by no name server, and everywhere this machine
CADDY = "workspace-test-caddy"
OVERLAY = ("-f", "docker-compose.yml", "-f", "docker/tls.yml")
# As in Caddy's own image: root's, with a capability on the file.
DOCKERFILE = """
FROM debian:trixie-slim
RUN apt-get update && apt-get install --yes --no-install-recommends caddy libcap2-bin && rm -rf /var/lib/apt/lists/* \
    && setcap cap_net_bind_service=+ep /usr/bin/caddy
"""


@dataclass(frozen=True)
class Site:
    """The workspace behind Caddy, seen from outside."""

    container: Container
    link: str
    http: int

    @property
    def https(self) -> int:
        return urlsplit(self.link).port or 443

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.link).query)["token"][0]

    def request(self, path: str, *, method: str = "GET", **options: object) -> requests.Response:
        """Ask under the site's name, wherever that leads here."""
        headers = {"Host": f"{HOST}:{self.https}"} | options.pop("headers", {})
        session = requests.Session()
        session.mount("https://", _Named())
        url = f"https://127.0.0.1:{self.https}{path}"
        return session.request(method, url, headers=headers, timeout=30, allow_redirects=False, verify=False, **options)


class _Named(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *arguments: object, **options: object) -> None:
        super().init_poolmanager(*arguments, server_hostname=HOST, assert_hostname=HOST, **options)


@pytest.fixture(scope="module")
def caddy(engine: None, checkout: Path) -> Iterator[None]:  # noqa: ARG001
    """An image of Caddy, under a name that nobody else's has."""
    built = ask("docker", "build", "--tag", CADDY, "-", input=DOCKERFILE)
    assert built.returncode == 0, built.stderr
    overlay = checkout / "docker/tls.yml"
    text = overlay.read_text()
    overlay.write_text(text.replace("caddy:2.10-alpine", CADDY))
    yield
    overlay.write_text(text)


@pytest.fixture(scope="module")
def site(checkout: Path, caddy: None) -> Iterator[Site]:  # noqa: ARG001
    """The workspace, started by `scripts/start --tls`."""
    workspace = Container(checkout, f"workspace-test-{os.getpid()}-tls", free_port())
    http, https = free_port(), free_port()
    try:
        given = ("--tls", "--public-host", HOST, "--port", str(https))
        lab = workspace.start(*given, WORKSPACE_HTTP_PORT=str(http))
        site = Site(workspace, lab.link, http)
        wait_until(lambda: _answers(site))
        yield site
    finally:
        workspace.command("docker", "compose", *OVERLAY, "down", "--volumes")


def _answers(site: Site) -> bool:
    try:
        return site.request("/api").ok
    except requests.ConnectionError:
        return False


def test_link_is_https_and_opens_the_lab(site: Site) -> None:
    assert site.link.startswith(f"https://{HOST}:{site.https}/?token=")
    assert site.container.command("scripts/link").stdout.strip() == site.link
    landing = site.request(f"/?token={site.token}")
    assert landing.status_code == 302
    assert landing.headers["Location"].startswith("/lab/tree/")


def test_without_the_token_https_refuses_too(site: Site) -> None:
    assert site.request("/api/contents").status_code == 403


def test_login_cookie_travels_over_https_alone(site: Site) -> None:
    cookies = site.request(f"/lab?token={site.token}").raw.headers.getlist("Set-Cookie")
    [login] = [cookie for cookie in cookies if cookie.startswith("username-")]
    assert {"Secure", "HttpOnly", "SameSite=Lax"} <= set(login.split("; "))


def test_http_is_redirected_and_later_not_even_tried(site: Site) -> None:
    redirected = requests.get(
        f"http://127.0.0.1:{site.http}/lab", headers={"Host": HOST}, allow_redirects=False, timeout=30
    )
    assert redirected.status_code == 308
    assert redirected.headers["Location"] == f"https://{HOST}:{site.https}/lab"
    assert "max-age" in site.request("/api").headers["Strict-Transport-Security"]


def test_port_of_the_workspace_itself_is_not_reachable(site: Site) -> None:
    listed = site.container.command("docker", "compose", "ps", "--format", "json").stdout.splitlines()
    published = {
        container["Service"]: {at["PublishedPort"] for at in container["Publishers"] or ()} - {0}
        for container in map(json.loads, listed)
    }
    assert published == {"workspace": set(), "tls": {site.http, site.https}}


def kernel(site: Site) -> str:
    headers = {"Authorization": f"token {site.token}"}
    return site.request("/api/kernels", method="POST", headers=headers, json={}).json()["id"]


def connect(site: Site, path: str, origin: str, cookie: str) -> websocket.WebSocket:
    return websocket.create_connection(
        f"wss://127.0.0.1:{site.https}{path}",
        sslopt={"cert_reqs": ssl.CERT_NONE, "check_hostname": False, "server_hostname": HOST},
        host=f"{HOST}:{site.https}",
        origin=origin,
        cookie=cookie,
        timeout=30,
    )


def test_websockets_pass_for_the_site_itself_and_for_no_other(site: Site) -> None:
    path = f"/api/kernels/{kernel(site)}/channels"
    cookies = site.request(f"/lab?token={site.token}").cookies.get_dict()
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    connect(site, path, f"https://{HOST}:{site.https}", cookie).close()
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        connect(site, path, "https://elsewhere.example", cookie)


def test_editor_takes_the_link_as_it_is_and_with_a_wrong_token_gets_nowhere(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: look_up("127.0.0.1" if host == HOST else host, *rest, **more)
    )
    editor, stranger = Editor(site.link), Editor(site.link.replace(site.token, "0" * 64))
    for each in (editor, stranger):
        each.find_server()
    assert editor.kernels() == ["python3"]
    opened = editor.open_notebook()
    assert editor.run_cell(opened, "print(6 * 7)") == "42\n"
    with pytest.raises(requests.HTTPError, match="403"):
        stranger.open_notebook()
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        stranger.run_cell(opened, "print(6 * 7)")


def test_token_is_in_neither_log_although_both_write_requests(site: Site) -> None:
    site.request(f"/lab?token={site.token}", headers={"Referer": f"https://{HOST}/?token={site.token}"})
    site.request("/api/contents", headers={"Authorization": f"token {site.token}"})
    requests.get(
        f"http://127.0.0.1:{site.http}/?token={site.token}", headers={"Host": HOST}, allow_redirects=False, timeout=30
    )
    log = site.container.command("docker", "compose", *OVERLAY, "logs", "--no-color").stdout
    assert "handled request" in log
    assert "token=REDACTED" in log
    assert site.token not in log
    assert base64.b64encode(site.token.encode()).decode() not in log


def test_caddy_has_no_power_it_does_not_need(site: Site) -> None:
    inspected = site.container.command(
        "sh",
        "-c",
        "docker inspect $(docker ps --quiet --filter label=com.docker.compose.project=$COMPOSE_PROJECT_NAME "
        "--filter label=com.docker.compose.service=tls)",
    )
    [caddy] = json.loads(inspected.stdout)
    # No file of the checkout, which a strict umask may have given to its owner alone.
    assert [mount["Destination"] for mount in caddy["Mounts"]] == ["/data"]
    host = caddy["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert [name.removeprefix("CAP_") for name in host["CapAdd"]] == ["NET_BIND_SERVICE"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] == 256 << 20


def test_started_again_without_tls_prints_the_same_link(site: Site) -> None:
    assert site.container.command("scripts/start").stdout.splitlines()[-1] == site.link


def test_certificate_outlives_the_containers_and_stop_removes_both(site: Site) -> None:
    before = ssl.get_server_certificate(("127.0.0.1", site.https))
    stopped = site.container.command("scripts/stop")
    assert stopped.returncode == 0, stopped.stderr
    assert site.container.command("docker", "compose", "ps", "--all", "--quiet").stdout == ""
    given = ("--tls", "--public-host", HOST, "--port", str(site.https))
    again = site.container.start(*given, WORKSPACE_HTTP_PORT=str(site.http))
    assert again.link == site.link
    wait_until(lambda: _answers(site))
    assert ssl.get_server_certificate(("127.0.0.1", site.https)) == before


@pytest.mark.parametrize(
    ("host", "who"),
    [
        ("vm.westeurope.cloudapp.azure.com", "acme"),
        ("my-machine", "internal"),
        ("my-machine.local", "internal"),
        ("192.0.2.7", "internal"),
        ("localhost", "internal"),
    ],
)
def test_real_name_is_certified_by_the_world_and_a_bare_one_by_caddy(host: str, who: str) -> None:
    assert start.issuer(host) == who


def test_caddy_that_does_not_start_says_why(checkout: Path, caddy: None) -> None:  # noqa: ARG001
    workspace = Container(checkout, f"workspace-test-{os.getpid()}-no-tls", free_port())
    wrong = {"WORKSPACE_HTTP_PORT": str(free_port()), "WORKSPACE_TLS_ISSUER": "x"}
    refused = workspace.command("scripts/start", "--tls", **wrong)
    workspace.remove()
    assert refused.returncode == 1
    assert "Caddy, which does TLS, did not start: " in refused.stderr
    assert "tls.issuance.x" in refused.stderr


def test_taken_port_is_named_with_what_chooses_another() -> None:
    taken = "Bind for 0.0.0.0:{} failed: port is already allocated"
    assert "scripts/start --port 444" in causes.explain(taken.format(443), 443)
    assert "port 80 is taken by another program; choose another: WORKSPACE_HTTP_PORT" in causes.explain(
        taken.format(80), 443
    )


def test_tls_without_docker_is_refused_in_one_line(checkout: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        refused = ask(
            shutil.which("python3") or "python3",
            checkout / "scripts/start",
            "--native",
            "--tls",
            env=os.environ | {"HOME": folder},
        )
    assert refused.returncode == 2
    assert "TLS needs Docker" in refused.stderr
