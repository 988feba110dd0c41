"""The server as it runs natively, with the configuration that the image has, too."""

import os
import socket
import tempfile
from pathlib import Path

import pytest
import websocket
from labs import REPOSITORY, Lab, NativeServer, without_caches
from workspace.base.places import LESSON
from workspace.base.programs import ask

GOOD = "0123456789abcdef" * 4


def test_the_token_and_no_other_lets_a_request_in(native_lab: Lab) -> None:
    answers = [native_lab.get("/api/contents", token).status_code for token in (None, "f" * 64, native_lab.token)]
    assert answers == [403, 403, 200]


def test_page_without_token_leads_to_the_login(native_lab: Lab) -> None:
    page = native_lab.get("/lab")
    assert page.status_code == 302
    assert page.headers["Location"].startswith("/login")


def test_link_lands_on_the_lesson(native_lab: Lab) -> None:
    landing = native_lab.get(f"/?token={native_lab.token}")
    assert landing.status_code == 302
    assert landing.headers["Location"].startswith(f"/lab/tree/{LESSON}")


def test_lesson_is_seeded(native_lab: Lab) -> None:
    assert native_lab.get(f"/api/contents/{LESSON}", native_lab.token).json()["type"] == "notebook"


def test_kernel_is_reached_through_files_and_no_port(native_lab: Lab) -> None:
    asked = "import ipykernel, json; told = json.loads(ipykernel.get_connection_info()); print(told['transport'])"
    assert native_lab.run(asked) == "ipc\n"


def test_login_form_takes_the_token_and_refuses_anything_else(native_lab: Lab) -> None:
    assert [_log_in(native_lab, typed) for typed in (native_lab.token, "", "password")] == [302, 401, 401]


def _log_in(lab: Lab, password: str) -> int:
    form = lab.get("/login")
    cookies = form.cookies.get_dict()
    data = {"password": password, "new_password": "planted", "_xsrf": cookies["_xsrf"]}
    return lab.request("POST", "/login", cookies=cookies, data=data).status_code


def test_start_frightens_nobody(native_server: NativeServer) -> None:
    with native_server.running():
        log = (native_server.folder / "server.log").read_text()
    assert "is running at" in log
    assert [line for line in log.splitlines() if "Warning" in line or "[W " in line or "[E " in line] == []


def test_socket_that_does_not_ask_for_the_token_itself_is_refused_without_it(native_lab: Lab) -> None:
    with pytest.raises(websocket.WebSocketException, match=r"403|Invalid redirect target '/login"):
        native_lab.socket("/lsp/ws/x")


def test_kernels_do_not_know_the_token(native_server: NativeServer) -> None:
    with native_server.running(JUPYTER_TOKEN=GOOD) as lab:
        assert lab.token == GOOD
        assert lab.run("import os; print(sorted(v for v in os.environ.values() if len(v) == 64))") == "[]\n"


@pytest.mark.parametrize("token", ["", "changeme", "a" * 40])
def test_bad_token_refuses_to_start_with_one_line(native_server: NativeServer, token: str) -> None:
    refused = native_server.refusal(JUPYTER_TOKEN=token)
    assert refused.returncode == 78
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("serve: the access token in JUPYTER_TOKEN")


def test_restart_keeps_the_token_and_the_login(native_server: NativeServer) -> None:
    with native_server.running() as lab:
        first, cookies = lab.token, lab.cookies()
        assert lab.request("GET", "/api/contents", cookies=cookies).status_code == 200
    with native_server.running() as lab:
        assert lab.token == first
        assert lab.request("GET", "/api/contents", cookies=cookies).status_code == 200


def test_login_is_of_no_use_to_other_sites_and_to_scripts(native_lab: Lab) -> None:
    [login] = [
        cookie
        for cookie in native_lab.get(f"/lab?token={native_lab.token}").raw.headers.getlist("Set-Cookie")
        if cookie.startswith("username-")
    ]
    assert {"HttpOnly", "SameSite=Lax"} <= set(login.split("; "))


def test_another_token_ends_every_login(native_server: NativeServer) -> None:
    with native_server.running() as lab:
        cookies = lab.cookies()
        assert lab.request("GET", "/api/contents", cookies=cookies).status_code == 200
    with native_server.running(JUPYTER_TOKEN=GOOD) as lab:
        assert lab.request("GET", "/api/contents", cookies=cookies).status_code == 403


def test_folders_with_the_token_are_made_private_whoever_made_them_before(native_server: NativeServer) -> None:
    folders = (native_server.folder / "state", native_server.runtime)
    for folder in folders:
        folder.mkdir(mode=0o755)
    with native_server.running():
        assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700, 0o700]


def test_folder_for_the_token_that_leads_elsewhere_is_refused(native_server: NativeServer) -> None:
    native_server.runtime.symlink_to(native_server.folder)
    try:
        refused = native_server.refusal()
    finally:
        native_server.runtime.unlink()
    assert refused.returncode == 78
    assert f"{native_server.runtime} belongs to somebody else" in refused.stderr
    assert not (native_server.folder / "token").exists()


def test_port_in_use_is_an_error_and_not_another_port(native_server: NativeServer) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", native_server.port))
        taken.listen()
        refused = native_server.refusal()
    assert refused.returncode == 1
    assert "already in use" in refused.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder that belongs to somebody else")
def test_folder_of_another_user_refuses_to_start_with_one_line(native_server: NativeServer) -> None:
    code = "from workspace.base import cli; from workspace.lab import serve\n"
    code += "cli.run('', lambda _: serve.main('127.0.0.1', 1))"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        scripts = without_caches(REPOSITORY / "scripts", f"{folder}/scripts")
        Path(folder, "work").mkdir()
        refused = ask(
            "/usr/bin/python3",
            "-c",
            code,
            env=native_server.environment(WORKSPACE_WORK=f"{folder}/work", PYTHONPATH=str(scripts)),
            user=65534,
        )
    assert refused.returncode == 78
    assert "work belongs to uid 0 and uid 65534 cannot write to it" in refused.stderr
    assert "chown -R 65534" in refused.stderr


def test_pip_in_a_terminal_is_the_labs_whatever_the_users_shell_puts_first(
    native_server: NativeServer, tmp_path: Path
) -> None:
    other = tmp_path / "other/pip"
    other.parent.mkdir()
    other.touch(0o755)
    (tmp_path / ".bashrc").write_text(f"MINE=settings PATH={other.parent}:$PATH\n")
    with native_server.running(HOME=str(tmp_path), SHELL="/bin/bash") as lab:
        terminal = lab.request("POST", "/api/terminals", lab.token).json()["name"]
        said = lab.in_terminal(terminal, "command -v pip; echo $MINE=$((6*7))", until="settings=42")
    assert "state/kernels" in said
    assert str(other) not in said


def test_each_export_that_is_offered_works_and_pdf_is_not_offered(native_lab: Lab) -> None:
    offered = native_lab.get("/api/nbconvert", native_lab.token).json()
    assert "html" in offered
    assert [name for name in offered if "pdf" in name] == []
    for name in offered.keys() - {"custom"}:  # custom: the lab does not show it
        made = native_lab.get(f"/nbconvert/{name}/{LESSON}", native_lab.token)
        assert (name, made.status_code) == (name, 200)
