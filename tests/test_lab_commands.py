"""Every command that the README promises in the lab: in its terminal and behind a `!`, in Docker and natively."""

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from labs import Lab, command, free_port
from small import METRICS, notebook

LINES = [
    "run small.ipynb -p x 2 -o runs/NAME",
    "runs show NAME",
    "sweep small.ipynb -p x=1,2 -o runs/NAME-sweep",
    "compare NAME runs/NAME-sweep/x-1_* -o runs/NAME-compare",
    "sweep small.ipynb -p x=3,4 -o runs/NAME-later --background",
    "data status; [ $? -le 1 ]",  # 1: the images are not there
    "doctor --json; [ $? -le 1 ]",  # 1: something is broken on this machine
]


def natively(checkout: Path) -> Iterator[Lab]:
    settings = {"WORKSPACE_PORT": str(free_port()), "WORKSPACE_BIND": "127.0.0.1"}
    started = command(checkout, "scripts/start", "--native", **settings)
    assert started.returncode == 0, started.stderr
    yield Lab(started.stdout.splitlines()[-1])
    assert command(checkout, "scripts/stop", **settings).returncode == 0


@pytest.fixture(scope="module", params=["native", pytest.param("container", marks=pytest.mark.engine)])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a small notebook in its folder, saved as the browser does."""
    if request.param == "container":
        labs = iter([request.getfixturevalue("container_lab")])
    else:
        labs = natively(request.getfixturevalue("checkout"))
    lab = next(labs)
    content = nbformat.read(notebook(tmp_path_factory.mktemp("small") / "small.ipynb", METRICS), as_version=4)
    saved = {"type": "notebook", "content": content}
    assert lab.request("PUT", "/api/contents/small.ipynb", lab.token, json=saved).ok
    yield lab
    next(labs, None)


@pytest.mark.parametrize("typed_in", ["terminal", "cell"])
def test_every_command_of_the_readme_works_in_the_lab(lab: Lab, typed_in: str) -> None:
    terminal = lab.request("POST", "/api/terminals", lab.token).json()["name"]
    for number, line in enumerate(LINES, start=1):  # a terminal repeats what it has shown before
        line = f"{line.replace('NAME', typed_in)} && echo well=$((7*{number})). || echo badly=$((7*{number}))."
        if typed_in == "terminal":
            said = lab.in_terminal(terminal, line, until=f"={7 * number}.", timeout_s=180)
        else:
            said = lab.run(f"!{line}", timeout_s=180)
        assert f"well={7 * number}." in said, said
        assert "Traceback" not in said, said
    lab.request("DELETE", f"/api/terminals/{terminal}", lab.token)
    lab.wait_for_file(f"runs/{typed_in}-later/report.html")
    for name in ("sweep", "compare"):
        assert lab.get(f"/files/runs/{typed_in}-{name}/report.html", lab.token).ok
