"""What the user set, in the environment and in `.env`."""

import json
from pathlib import Path

import pytest
from workspace.base import settings
from workspace.base.cli import UserError
from workspace.base.programs import ask
from workspace.lab import preflight

UNDERSTOOD = {
    "A=plain": "plain",
    "A= spaced ": "spaced",
    "A = spaced": "spaced",
    "export A=exported": "exported",
    "A: colon": "colon",
    "A=two words # a comment": "two words",
    "A=no#comment": "no#comment",
    "A= #no comment": "#no comment",
    "A=it's": "it's",
    r"A=back\slash": r"back\slash",
    'A="quoted # x" # a comment': "quoted # x",
    "A='single quoted'": "single quoted",
    "A='$literal'": "$literal",
    'A=""': "",
    "A=first\nA=last": "last",
}
REFUSED = ["A=$HOME", "A=${NAME:-default}", 'A="$HOME"', r'A="a\nb"', r"A='it\'s'", 'A="unclosed', "A='two\nlines'"]


@pytest.fixture
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "FILE", tmp_path / ".env")
    monkeypatch.delenv("A", raising=False)
    settings._lines.cache_clear()
    return tmp_path / ".env"


@pytest.mark.parametrize("text", UNDERSTOOD)
def test_line_of_dotenv_is_read_as_compose_reads_it(
    dotenv: Path,
    text: str,
    compose_command: None,  # noqa: ARG001
) -> None:
    dotenv.write_text(text + "\n")
    assert settings.get("A") == (UNDERSTOOD[text] or None)
    compose = dotenv.with_name("compose.yml")
    compose.write_text('name: x\nservices:\n  x:\n    image: x\n    environment:\n      A: "${A-unset}"\n')
    done = ask("docker", "compose", "--file", compose, "config", "--format", "json", check=True)
    read = json.loads(done.stdout)["services"]["x"]["environment"]["A"]
    assert read.replace("$$", "$") == UNDERSTOOD[text]


@pytest.mark.parametrize("text", REFUSED)
def test_line_that_only_compose_understands_is_refused_and_named(dotenv: Path, text: str) -> None:
    dotenv.write_text(f"# a comment\nB=fine\n{text}\n")
    with pytest.raises(UserError, match=r"line 3: A is written as Compose alone"):
        settings.get("A")
    assert settings.get("B") == "fine"


def test_file_that_is_no_text_is_one_line(dotenv: Path) -> None:
    dotenv.write_text("A=x\n", "utf-16")
    with pytest.raises(UserError, match="not text in UTF-8"):
        settings.get("A")


def test_environment_goes_before_the_file_even_where_it_is_empty(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv.write_text("A=file\n")
    monkeypatch.setenv("A", "")
    assert (settings.get("A"), settings.is_set("A")) == (None, True)
    assert not settings.is_set("B")


@pytest.mark.usefixtures("folders")
def test_setting_of_an_older_release_is_refused_or_named_in_the_log_and_one_of_today_is_not(
    dotenv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORKSPACE_HTTPS_PORT", raising=False)
    dotenv.write_text("WORKSPACE_PORT=8443\nWORKSPACE_HTTPS_PORT=\n")
    settings.require_none_gone()
    before = preflight.warnings()
    dotenv.write_text("WORKSPACE_HTTPS_PORT=8443\n")
    settings._lines.cache_clear()
    told = "WORKSPACE_HTTPS_PORT is no setting any more; remove it: WORKSPACE_PORT is the port, with --tls, too"
    with pytest.raises(UserError, match=f"^{told}$"):
        settings.require_none_gone()
    assert preflight.warnings() == [*before, told]
