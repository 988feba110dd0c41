"""Editors take the link as it is; over TLS: test_tls."""

import pytest
import requests
import websocket
from editors import Editor
from labs import Lab


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
