"""Editors take the link as it is (over TLS: test_tls), and GitHub Codespaces' proxy does not lock its own pages out."""

from collections.abc import Iterator

import pytest
import requests
import websocket
from editors import Editor
from labs import Lab, NativeServer, free_port
from workspace.lab import access


def test_editor_runs_a_cell_of_a_notebook_of_its_own_with_the_link_as_it_is(native_lab: Lab) -> None:
    editor = Editor(native_lab.link)
    editor.find_server()
    assert editor.kernels() == ["python3"]
    kernel = editor.open_notebook()
    printed = editor.run_cell(
        kernel, "from pathlib import Path; print(Path('first_pytorch_classifier.ipynb').exists())"
    )
    assert printed == "True\n"  # files are the server's: where its work folder is
    native_lab.request("DELETE", f"/api/kernels/{kernel}", native_lab.token)


def test_editor_with_a_wrong_token_gets_nowhere(native_lab: Lab) -> None:
    stranger = Editor(native_lab.link.replace(native_lab.token, "0" * 64))
    stranger.find_server()
    for step in (stranger.kernels, stranger.open_notebook):
        with pytest.raises(requests.HTTPError, match="403"):
            step()
    kernel = Editor(native_lab.link).open_notebook()
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        stranger.run_cell(kernel, "1")
    native_lab.request("DELETE", f"/api/kernels/{kernel}", native_lab.token)


CODESPACE = {"CODESPACE_NAME": "silver-disco-x4q", "GITHUB_CODESPACES_PORT_FORWARDING_DOMAIN": "app.github.dev"}
PUBLIC = "silver-disco-x4q-8888.app.github.dev"
LOCAL = "localhost:8888"
AS_A_PROXY_MAY_WRITE_THEM = [  # Origin, Host: which of the two GitHub's changes, it does not promise
    (f"https://{PUBLIC}", LOCAL),
    (f"http://{LOCAL}", PUBLIC),
    (f"https://{LOCAL}", LOCAL),
]
OTHERS = [
    "https://elsewhere.example",
    f"https://{PUBLIC}.elsewhere.example",
    f"https://another-{PUBLIC}",
    f"https://{PUBLIC.replace('.', 'x')}",
    f"http://{LOCAL}0",
]


@pytest.fixture(scope="module")
def codespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server as in GitHub Codespaces."""
    server = NativeServer(tmp_path_factory.mktemp("codespace"), free_port())
    with server.running(CODESPACES="true", **CODESPACE) as lab:
        yield lab


def is_let_in(lab: Lab, origin: str, host: str) -> bool:
    """Whether a page of `origin`, with the user's cookie, may write over HTTP; over a socket it must be the same."""
    session = requests.Session()
    session.get(f"{lab.url}/lab?token={lab.token}", headers={"Host": host}, timeout=60)
    headers = {
        "Origin": origin,
        "Host": host,
        "Cookie": "; ".join(f"{each.name}={each.value}" for each in session.cookies),
    }
    xsrf = session.cookies["_xsrf"]
    made = requests.post(f"{lab.url}/api/contents?_xsrf={xsrf}", json={"type": "file"}, headers=headers, timeout=60)
    if made.ok:
        lab.request("DELETE", f"/api/contents/{made.json()['path']}", lab.token)
    try:
        lab.socket("/api/events/subscribe", cookie=headers["Cookie"], origin=origin, host=host).close()
        opens = True
    except websocket.WebSocketBadStatusException:
        opens = False
    assert opens == made.ok
    return opens


@pytest.mark.parametrize(("origin", "host"), AS_A_PROXY_MAY_WRITE_THEM)
def test_in_a_codespace_its_own_pages_write_whatever_the_proxy_makes_of_the_headers(
    codespace: Lab, origin: str, host: str
) -> None:
    assert is_let_in(codespace, origin, host)


@pytest.mark.parametrize("origin", OTHERS)
def test_in_a_codespace_no_other_page_writes(codespace: Lab, origin: str) -> None:
    assert not is_let_in(codespace, origin, LOCAL)


def test_in_a_codespace_the_login_travels_over_https_alone(codespace: Lab, native_lab: Lab) -> None:
    def login(lab: Lab) -> str:
        cookies = lab.get(f"/lab?token={lab.token}").raw.headers.getlist("Set-Cookie")
        return next(cookie for cookie in cookies if cookie.startswith("username-"))

    assert "; Secure" in login(codespace)
    assert "; Secure" not in login(native_lab)


@pytest.mark.parametrize(("origin", "host"), AS_A_PROXY_MAY_WRITE_THEM[:2])
def test_elsewhere_a_page_of_another_origin_than_the_host_does_not_write(
    native_lab: Lab, origin: str, host: str
) -> None:
    assert not is_let_in(native_lab, origin, host)


def test_link_in_a_codespace_is_its_public_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CODESPACE.items():
        monkeypatch.setenv(name, value)
    assert access.codespace() is None
    monkeypatch.setenv("CODESPACES", "true")
    assert access.codespace() == PUBLIC
