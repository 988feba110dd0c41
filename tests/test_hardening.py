"""Attacks on the running lab, natively and in the container: nobody gets in, and nobody gets out."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import websocket
from labs import IMAGE, REPOSITORY, Container, Lab, NativeServer, command, wait_until
from workspace.base.programs import ask

FOREIGN = "https://elsewhere.example"
OPEN = {"/api", "/favicon.ico", "/login", "/logout", "/robots.txt"}
OPEN_FOLDERS = ("/static/", "/lab/api/themes/")
"""What answers without a token, and tells nothing."""

RUNTIME = "/tmp/jupyter-runtime/token"  # noqa: S108  (in the container)


@pytest.fixture(params=["native", pytest.param("container", marks=pytest.mark.engine)])
def lab(request: pytest.FixtureRequest) -> Lab:
    """Both: what holds for one must hold for the other."""
    return request.getfixturevalue(f"{request.param}_lab")


def connected(lab: Lab) -> socket.socket:
    parts = urlsplit(lab.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


# --- nobody gets in ---


def test_every_route_without_the_token_leads_to_the_login_or_is_refused(lab: Lab) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        for path in ROUTES:
            answer = lab.request(method, path)
            login = "/lab/tree/" if path == "/" else "/login?next="  # the lesson's address leads on to the login
            refused = answer.status_code in (403, 405) or answer.headers.get("Location", "").startswith(login)
            assert refused, (method, path, answer.status_code)


ROUTES = [
    "/",
    "/api/config/x",
    "/api/contents",
    "/api/contents/first_pytorch_classifier.ipynb",
    "/api/contents/x/checkpoints",
    "/api/kernels",
    "/api/kernelspecs",
    "/api/me",
    "/api/metrics/v1",
    "/api/nbconvert",
    "/api/sessions",
    "/api/shutdown",
    "/api/status",
    "/api/terminals",
    "/files/first_pytorch_classifier.ipynb",
    "/kernelspecs/python3/logo-64x64.png",
    "/lab",
    "/lab/api/extensions",
    "/lab/api/settings/",
    "/lab/api/translations/",
    "/lab/api/workspaces/",
    "/lab/tree/x",
    "/metrics",
    "/nbconvert/html/first_pytorch_classifier.ipynb",
    "/nbconvert/script",
    "/tree",
    "/view/x",
]


def test_no_route_that_an_extension_brings_is_open(native_lab: Lab, tmp_path: Path) -> None:
    code = """
from jupyter_server.serverapp import ServerApp
from jupyterlab.labapp import LabApp
LabApp.initialize_server(["--no-browser", "--port=0", "--config=/dev/null"])
for rule in ServerApp.instance().web_app.wildcard_router.rules:
    print(rule.matcher.regex.pattern)
"""
    listed = ask(
        sys.executable,
        "-c",
        code,
        cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)},
    )
    patterns = {line for line in listed.stdout.splitlines() if line.startswith("/")}
    assert len(patterns) > 30, listed.stderr
    for pattern in patterns:
        path = re.sub(r"\(\?P<\w+>|\\|[()$?*+]|\[.*?\]|\?:", "", pattern.split("|")[0]).replace("//", "/x/")
        answer = native_lab.get(path or "/")
        told = answer.status_code in (301, 302, 403, 404, 405) or path in OPEN
        told = told or path.startswith(OPEN_FOLDERS)
        assert told, (pattern, path, answer.status_code)


@pytest.mark.parametrize("path", ["/api/kernels/{kernel}/channels", "/terminals/websocket/1", "/api/events/subscribe"])
def test_websocket_is_refused_without_the_token_and_from_another_site(lab: Lab, path: str) -> None:
    kernel = lab.request("POST", "/api/kernels", lab.token, json={}).json()["id"]
    lab.request("POST", "/api/terminals", lab.token)
    path = path.format(kernel=kernel)
    cookie = "; ".join(f"{name}={value}" for name, value in lab.cookies().items())
    lab.socket(path, cookie=cookie, origin=lab.url).close()
    for attack in ({}, {"cookie": cookie, "origin": FOREIGN}):
        with pytest.raises(websocket.WebSocketException, match=r"403|Invalid redirect target '/login"):
            lab.socket(path, **attack)
    lab.request("DELETE", f"/api/kernels/{kernel}", lab.token)
    for terminal in lab.get("/api/terminals", lab.token).json():
        lab.request("DELETE", f"/api/terminals/{terminal['name']}", lab.token)


def test_another_site_can_neither_write_nor_read_with_the_users_cookie(lab: Lab) -> None:
    signed_in = lab.cookies()
    xsrf = signed_in["_xsrf"]
    new = {"json": {"type": "file"}, "cookies": signed_in}
    own = lab.request("POST", f"/api/contents?_xsrf={xsrf}", **new)
    assert own.status_code == 201
    lab.request("DELETE", f"/api/contents/{own.json()['path']}", lab.token)
    assert lab.request("POST", "/api/contents", **new).status_code == 403
    url = f"{lab.url}/api/contents?_xsrf={xsrf}"
    for method in ("GET", "POST"):
        foreign = requests.request(method, url, headers={"Origin": FOREIGN}, timeout=30, **new)
        assert foreign.status_code in (403, 404), method
        assert "Access-Control-Allow-Origin" not in foreign.headers


@pytest.mark.parametrize(
    "path",
    [
        "/files/..%2f..%2fetc/passwd",
        "/files/%2e%2e/%2e%2e/etc/passwd",
        "/api/contents/..%2f..%2fetc%2fpasswd",
        "/static/..%2f..%2f..%2f..%2fetc/passwd",
        "/kernelspecs/python3/..%2f..%2f..%2fjupyter_server_config.py",
        "/nbconvert/html/..%2f..%2fetc/passwd",
        "/lab/api/workspaces/..%2f..%2fetc",
    ],
)
def test_path_that_climbs_out_is_refused_with_the_token_too(lab: Lab, path: str) -> None:
    with connected(lab) as connection:  # requests would tidy it
        connection.sendall(
            f"GET {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: token {lab.token}\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
    assert not answer.startswith("HTTP/1.1 200") or "/lab/api/workspaces" in path
    assert "root:x:0" not in answer
    assert "identity_provider_class" not in answer


def test_hidden_files_are_neither_shown_nor_written(lab: Lab) -> None:
    listed = [entry["name"] for entry in lab.get("/api/contents", lab.token).json()["content"]]
    assert listed
    assert [name for name in listed if name.startswith(".")] == []
    assert lab.get("/files/.jupyterlab/settings/x", lab.token).status_code in (403, 404)
    hidden = {"type": "file", "format": "text", "content": "x"}
    assert lab.request("PUT", "/api/contents/.planted", lab.token, json=hidden).status_code == 400


def test_error_shows_no_traceback_and_no_path_to_a_stranger(lab: Lab) -> None:
    for path in ("/login?next=%ff", "/api/contents?content=x", "/static/x", "/api/kernels/x/channels"):
        answer = lab.get(path).text
        assert "Traceback" not in answer
        assert "site-packages" not in answer


def test_login_leads_to_no_other_site(lab: Lab) -> None:
    assert lab.get("/login?next=/lab/tree/x", lab.token).headers["Location"] == "/lab/tree/x"
    for aim in (
        "//elsewhere.example",
        "https://elsewhere.example",
        "/\\elsewhere.example",
        "https:///elsewhere.example",
    ):
        answer = lab.get(f"/login?next={aim}", lab.token)
        location = answer.headers["Location"]
        assert location.startswith("/")
        assert not location.startswith(("//", "/\\")), aim


def test_password_cannot_be_planted_through_the_login_form(lab: Lab) -> None:
    form = lab.get("/login").cookies.get_dict()
    data = {"password": lab.token, "new_password": "planted-password", "_xsrf": form["_xsrf"]}
    lab.request("POST", "/login", cookies=form, data=data)
    data = {"password": "planted-password", "_xsrf": form["_xsrf"]}
    assert lab.request("POST", "/login", cookies=form, data=data).status_code == 401


def test_large_bodies_of_strangers_are_not_kept_in_memory(lab: Lab) -> None:
    with connected(lab) as connection:
        head = f"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: {300 * 2**20}\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.recv(4096)
    assert b"200" not in answer.split(b"\r\n")[0]
    assert lab.get("/api").ok


def test_pages_may_not_be_framed_by_another_site_and_send_no_referer_to_it(lab: Lab) -> None:
    headers = lab.get("/lab", lab.token).headers
    assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in lab.get("/files/first_pytorch_classifier.ipynb", lab.token).headers["Content-Security-Policy"]


def test_terminals_can_be_switched_off(native_server: NativeServer) -> None:
    with native_server.running(WORKSPACE_TERMINALS="0") as lab:
        assert lab.request("POST", "/api/terminals", lab.token).status_code == 404
        assert lab.get("/api/contents", lab.token).status_code == 200


# --- nothing in the user's folders runs in the server ---

_POISONS = [
    "/home/learner/.jupyter/jupyter_server_config.py",
    "/home/learner/.jupyter/jupyter_lab_config.py",
    "/home/learner/.local/etc/jupyter/jupyter_server_config.py",
    "/home/learner/.local/lib/python3.13/site-packages/sitecustomize.py",
    "/workspace/jupyter_server_config.py",
    "/workspace/jupyter_config.py",
    "/workspace/jupyter_lab_config.py",
    "/workspace/jupyterlab.py",
    "/workspace/random.py",
    "/workspace/sitecustomize.py",
    "/state/kernels/python3.13/lib/python3.13/site-packages/sitecustomize.py",
]

# Each says that it ran as a part of the server, and tries to open the door.
_POISON = """
import os, pathlib, sys
if 'jupyterlab' in ' '.join(sys.orig_argv):
    pathlib.Path('/state/ran' + __file__.replace('/', '-')).touch()
try:
    c = get_config(); c.IdentityProvider.token = ''; c.ServerApp.token = ''
except NameError:
    pass
"""

_PLANT = f"""
import pathlib
for file in map(pathlib.Path, {_POISONS}):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text({_POISON!r})
"""

_STATUS = """
import sys, urllib.error, urllib.request
headers = {'Authorization': 'token ' + sys.argv[1]}
request = urllib.request.Request('http://127.0.0.1:9999/api/contents', headers=headers)
try:
    print(urllib.request.urlopen(request).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def test_poisoned_folders_do_not_run_in_the_server_and_the_token_still_rules(fresh: Container) -> None:
    lab = fresh.start()
    lab.run("print('the environment of kernels is made')")
    planted = fresh.inside("python", "-c", _PLANT)
    assert planted.returncode == 0, planted.stderr
    # A second server beside the first: a restart would empty the home, and its poison with it.
    serve = "serve --ip 127.0.0.1 --port 9999 > /tmp/second.log 2>&1 &"
    assert fresh.inside("sh", "-c", f"PATH=$PATH:/opt/workspace/scripts {serve}").returncode == 0

    def status(token: str) -> str:
        return fresh.inside("python", "-I", "-c", _STATUS, token).stdout.strip()

    assert wait_until(lambda: status(lab.token)) == "200"
    assert status("") == "403"
    assert len(fresh.inside("ls", *_POISONS).stdout.split()) == len(_POISONS)
    assert [name for name in fresh.inside("ls", "/state").stdout.split() if name.startswith("ran")] == []


def test_json_settings_that_a_kernel_plants_are_not_read(native_server: NativeServer) -> None:
    planted = native_server.folder / "work"
    planted.mkdir()
    (planted / "jupyter_server_config.json").write_text('{"IdentityProvider": {"token": ""}}')
    (planted / "random.py").write_text("raise SystemExit('planted')")
    (planted / "jupyterlab.py").write_text("raise SystemExit('planted')")
    with native_server.running() as lab:
        assert lab.get("/api/contents").status_code == 403


def test_setting_that_cannot_be_read_stops_the_server(native_server: NativeServer) -> None:
    configuration = native_server.folder / "jupyter"
    configuration.mkdir()
    (configuration / "jupyter_config.py").write_text("c.ServerApp.port = 1 +")
    refused = native_server.refusal()
    assert refused.returncode not in (0, None)
    assert "SyntaxError" in refused.stderr


@pytest.mark.parametrize(
    "server",
    [
        ["jupyter", "lab", "--IdentityProvider.token="],
        ["jupyter", "lab", "--ServerApp.token=0123456789abcdef0123456789abcdef"],
        ["jupyter", "server", "--IdentityProvider.token="],
        ["jupyter", "lab", "--ServerApp.password=x", "--IdentityProvider.token="],
    ],
)
def test_no_other_way_to_start_a_server_gets_by_the_token(container: Container, server: list[str]) -> None:
    refused = container.inside("timeout", "60", *server, "--port=9999", "--no-browser")
    assert refused.returncode == 78, refused.stderr
    assert "refusing to start: the access token must come from" in refused.stderr


def test_server_started_without_a_settled_token_is_refused_in_one_line(container: Container) -> None:
    refused = container.command(
        "docker", "compose", "run", "--rm", "-T", "--no-deps", "workspace", "jupyter", "lab", "--no-browser"
    )
    assert refused.returncode == 78
    assert "refusing to start: no token was settled" in refused.stderr


# --- the token is nowhere it could be read ---


def test_token_is_in_no_description_of_the_container(container: Container, container_lab: Lab) -> None:
    token = container_lab.token
    seen = {
        "inspect": container.command("sh", "-c", "docker inspect $(docker compose ps --quiet)"),
        "configuration": container.command("docker", "compose", "config"),
        "history": container.command("docker", "history", "--no-trunc", IMAGE),
        "image": container.command("docker", "image", "inspect", IMAGE),
        "log": container.command("docker", "compose", "logs"),
        "arguments": container.inside("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'"),
        "environments": container.inside("sh", "-c", "cat /proc/[0-9]*/environ | tr '\\0' '\\n'"),
    }
    for place, shown in seen.items():
        assert shown.returncode == 0, (place, shown.stderr)
        assert len(shown.stdout) > 100, place
        assert token not in shown.stdout, place
        assert base64.b64encode(token.encode()).decode() not in shown.stdout, place


def test_token_is_not_in_the_environment_of_kernels_and_terminals(container_lab: Lab) -> None:
    assert container_lab.token not in container_lab.run("import os; print(dict(os.environ))")
    terminal = container_lab.request("POST", "/api/terminals", container_lab.token).json()["name"]
    said = container_lab.in_terminal(terminal, "env; echo done=$((6*7))", until="done=42")
    assert "WORKSPACE_WORK=" in said
    assert container_lab.token not in said
    container_lab.request("DELETE", f"/api/terminals/{terminal}", container_lab.token)


def test_token_of_a_request_that_fails_is_not_logged(container: Container, container_lab: Lab) -> None:
    token = container_lab.token
    for path in (f"/nowhere?token={token}", f"/api/contents/nowhere?token={token}", f"/files/x%00?token={token}"):
        container_lab.get(path)
    requests.get(f"{container_lab.url}/nowhere", headers={"Referer": f"http://x/?token={token}"}, timeout=30)
    log = container.command("docker", "compose", "logs").stdout
    assert "nowhere?token=REDACTED" in log
    assert token not in log


def test_generated_token_is_its_owners_alone(container: Container) -> None:
    modes = container.inside("stat", "-c", "%a %u", "/state", "/state/token", RUNTIME).stdout
    assert modes.splitlines() == ["700 1000", "600 1000", "600 1000"]


# --- rotation ---


def test_rotation_ends_the_token_and_every_login_and_prints_the_new_link(fresh: Container) -> None:
    lab = fresh.start()
    old = lab.cookies()
    assert lab.request("GET", "/api/contents", cookies=old).status_code == 200
    rotated = fresh.command("scripts/token", "rotate")
    assert rotated.returncode == 0, rotated.stderr
    new = Lab(rotated.stdout.splitlines()[-1])
    assert new.token != lab.token
    assert new.get("/api/contents", new.token).status_code == 200
    assert new.get("/api/contents", lab.token).status_code == 403
    assert new.request("GET", "/api/contents", cookies=old).status_code == 403
    assert fresh.command("scripts/link").stdout.strip() == new.link


def test_rotation_rewrites_the_token_file_that_was_given_and_keeps_its_owner(fresh: Container, tmp_path: Path) -> None:
    given = tmp_path / "token"
    given.write_text("0123456789abcdef" * 3)
    for path, mode in ((tmp_path, 0o700), (given, 0o600)):
        os.chown(path, 1000, 1000)
        path.chmod(mode)
    fresh.start(WORKSPACE_SECRETS=str(tmp_path))
    rotated = fresh.command("scripts/token", "rotate")
    assert rotated.returncode == 0, rotated.stderr
    assert Lab(rotated.stdout.splitlines()[-1]).token == given.read_text() != "0123456789abcdef" * 3
    assert (given.stat().st_uid, given.stat().st_mode & 0o777) == (1000, 0o600)


def test_rotation_says_why_it_cannot_where_a_variable_gave_the_token(fresh: Container) -> None:
    lab = fresh.start(JUPYTER_TOKEN="0123456789abcdef" * 3)
    refused = fresh.command("scripts/token", "rotate")
    assert refused.returncode == 1
    assert "the token is given by the variable JUPYTER_TOKEN" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert lab.get("/api/contents", lab.token).status_code == 200


def test_nothing_to_rotate_says_so(checkout: Path) -> None:
    refused = command(checkout, "scripts/token", "rotate", COMPOSE_PROJECT_NAME="workspace-test-nobody")
    assert refused.returncode == 1
    assert "no workspace is running" in refused.stderr


# --- nobody gets out: what docker-bench-security asks in its section 5 ---


@pytest.fixture(scope="module")
def inspected(container: Container) -> Iterator[dict]:
    [told] = json.loads(container.command("sh", "-c", "docker inspect $(docker compose ps --quiet workspace)").stdout)
    return told


def test_container_passes_the_checks_of_docker_bench(inspected: dict) -> None:
    host = inspected["HostConfig"]
    checks = {
        "5.3 no added capabilities": not host["CapAdd"] and host["CapDrop"] == ["ALL"],
        "5.4 not privileged": not host["Privileged"],
        "5.5 no host folders that rule it": not any(
            mount["Source"] in ("/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr", "/var/run/docker.sock")
            for mount in inspected["Mounts"]
        ),
        "5.7 no privileged ports": list(inspected["NetworkSettings"]["Ports"]) == ["8888/tcp"],
        "5.9 own network": host["NetworkMode"] not in ("host", "bridge", "default"),
        "5.10 memory is limited": 0 < host["Memory"] == host["MemorySwap"],
        "5.12 root is read-only": host["ReadonlyRootfs"],
        "5.15 own processes": host["PidMode"] == "",
        "5.16 own IPC": host["IpcMode"] in ("private", "none"),
        "5.17 no devices": not host["Devices"],
        "5.19 mounts do not propagate": not any(mount["Propagation"] == "shared" for mount in inspected["Mounts"]),
        "5.20 own host name": host["UTSMode"] == "",
        "5.21 default seccomp": not any("seccomp" in option for option in host["SecurityOpt"]),
        "5.24 own cgroup": not host["CgroupParent"],
        "5.25 no new privileges": "no-new-privileges:true" in host["SecurityOpt"],
        "5.26 health is checked": bool(inspected["Config"]["Healthcheck"]),
        "5.28 processes are limited": 0 < host["PidsLimit"] <= 2048,
        "5.30 own user namespace": host["UsernsMode"] == "",
        "5.31 no engine socket": not any("docker.sock" in mount["Source"] for mount in inspected["Mounts"]),
        "4.1 a user, not root": inspected["Config"]["User"] == "1000:1000",
        "logs are bounded": host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"},
        "no core dumps": host["Ulimits"] == [{"Name": "core", "Hard": 0, "Soft": 0}],
    }
    assert [check for check, passes in checks.items() if not passes] == []


def test_server_started_by_start_leaves_the_machine_memory(inspected: dict) -> None:
    total = int(subprocess.run(["docker", "info", "--format", "{{.MemTotal}}"], capture_output=True, check=True).stdout)
    assert total / 2 < inspected["HostConfig"]["Memory"] < total - 500 * 2**20


def test_kernels_listen_on_no_port_but_the_debuggers_own(container: Container, container_lab: Lab) -> None:
    kernel = container_lab.request("POST", "/api/kernels", container_lab.token, json={}).json()["id"]
    container_lab.send(kernel, "1").recv()
    # Addresses in hexadecimal, the lowest byte first; state 0A listens.
    table = container.inside("sh", "-c", "cat /proc/net/tcp /proc/net/tcp6").stdout
    everywhere = re.findall(r": 0+:([0-9A-F]{4}) \S+ 0A", table)
    container_lab.request("DELETE", f"/api/kernels/{kernel}", container_lab.token)
    assert everywhere == [f"{8888:04X}"]


def test_no_socket_or_secret_of_the_engine_is_inside(container: Container) -> None:
    assert container.inside("sh", "-c", "ls /var/run/docker.sock /run/docker.sock").stdout == ""
    assert container.inside("sh", "-c", "grep -rl BEGIN.*PRIVATE.KEY /opt/workspace /etc /home /run").stdout == ""


# --- versions ---

FLOORS = {
    "jupyter-server": (2, 21, 0),
    "jupyterlab": (4, 6, 2),
    "tornado": (6, 5, 8),
    "nbconvert": (7, 17, 1),
    "jupyter-core": (5, 8, 0),
    "jupyter-lsp": (2, 2, 2),
    "jupyter-server-proxy": (4, 2, 0),
}
"""Below these, somebody gets in: each closed a hole that was published."""


def locked(file: Path) -> dict[str, tuple[int, ...]]:
    found = re.findall(r"(?m)^([a-z0-9-]+)==([0-9.]+)", file.read_text())
    return {name: tuple(int(part) for part in version.strip(".").split(".")) for name, version in found}


SHIPPED = {file.name: locked(file) for pattern in ("*.lock", "*.txt") for file in (REPOSITORY / "docker").glob(pattern)}
"""What any image may hold, by the lock that says so."""


@pytest.mark.parametrize("name", FLOORS)
def test_locked_version_has_the_known_holes_closed(name: str) -> None:
    versions = [packages[name] for packages in SHIPPED.values() if name in packages]
    assert versions
    assert min(versions) >= FLOORS[name]


def test_torch_does_not_execute_what_weights_only_loads() -> None:
    assert locked(REPOSITORY / "docker/torch.in")["torch"] >= (2, 10, 0)


def test_extensions_that_open_other_ports_are_not_shipped_but_for_the_clusters_dashboard() -> None:
    opening = {"jupyterlab-git", "jupyter-server-proxy", "jupyter-collaboration", "jupyter-remote-desktop-proxy"}
    found = {(file, name) for file, packages in SHIPPED.items() for name in opening & packages.keys()}
    assert found == {("cluster.txt", "jupyter-server-proxy")}


# --- the table of faults ---


def test_every_test_named_in_the_table_of_faults_exists() -> None:
    table = (REPOSITORY / "tests/README.md").read_text()
    sources = {path.stem: path.read_text() for path in (REPOSITORY / "tests").glob("test_*.py")}
    named = re.findall(r"`(?:(test_\w+)(?:::(\w+)(?:\.\.\.)?)?|\.\.\.(\w+?)(?:\.\.\.)?)`", table)
    assert len(named) > 40
    for file, test, part in named:
        if part:
            assert any(f"_{part}" in source for source in sources.values()), part
        else:
            assert file in sources, file
            assert f"def {test}" in sources[file], test
