"""What an editor does with the link: the four steps of VS Code's "Existing Jupyter Server", in its order and manner."""

import contextlib
import ssl
import uuid
from urllib.parse import parse_qs, urlsplit, urlunsplit

import requests
import websocket
from labs import execute, printed

UNTRUSTED = {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
"""A certificate that no authority signed, which the editor asks about once and then takes."""


class Editor:
    """An editor whose user pasted `link`."""

    def __init__(self, link: str) -> None:
        parts = urlsplit(link)
        # All that is kept of the link: its address without the page, and the token.
        self._base = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        self._token = parse_qs(parts.query)["token"][0]
        self._http = requests.Session()

    def find_server(self) -> None:
        """Step 1: without the token, see that it is a Jupyter server which has a login."""
        page = self._http.get(f"{self._base}/", timeout=60, verify=False)
        assert page.status_code == 200
        assert "/login?" in page.url

    def kernels(self) -> list[str]:
        """Step 2: which kernels run, and which kinds there are; the names of those."""
        self._ask("GET", "/api/kernels")
        return sorted(self._ask("GET", "/api/kernelspecs").json()["kernelspecs"])

    def open_notebook(self) -> str:
        """Step 3: a session for a notebook that the server does not have, since it lies with the editor; its kernel."""
        name = f"mine-jvsc-{uuid.uuid4()}.ipynb"
        asked = {"path": name, "name": name, "type": "notebook", "kernel": {"name": "python3"}}
        return self._ask("POST", "/api/sessions", json=asked).json()["kernel"]["id"]

    def run_cell(self, kernel: str, code: str) -> str:
        """Step 4: a cell over the kernel's socket, with no Origin, as from a desktop; what it prints."""
        address = f"ws{self._base.removeprefix('http')}/api/kernels/{kernel}/channels"
        socket = websocket.create_connection(
            f"{address}?session_id={uuid.uuid4().hex}&token={self._token}",
            header=[f"Authorization: token {self._token}"],
            suppress_origin=True,
            sslopt=UNTRUSTED,
            timeout=60,
        )
        with contextlib.closing(socket):
            execute(socket, code)
            return printed(socket)

    def _ask(self, method: str, path: str, **options: object) -> requests.Response:
        headers = {"Authorization": f"token {self._token}"}
        address = f"{self._base}{path}?token={self._token}"
        answer = self._http.request(method, address, headers=headers, timeout=60, verify=False, **options)
        answer.raise_for_status()
        return answer
