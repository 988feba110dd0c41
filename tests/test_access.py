from pathlib import Path

import pytest
from workspace.base.cli import UserError
from workspace.lab import access

GOOD = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def no_token_is_given(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.delenv("JUPYTER_TOKEN", raising=False)
    monkeypatch.delenv("JUPYTER_TOKEN_FILE", raising=False)


def test_token_is_generated_once_for_its_owner_alone_and_kept(folders: Path) -> None:
    first = access.resolve()
    assert len(first) == 64
    assert access.resolve() == first
    assert (folders / "state/token").stat().st_mode & 0o777 == 0o600


def test_token_from_the_variable_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_TOKEN", GOOD)
    assert access.resolve() == GOOD


@pytest.mark.parametrize("wrapped", [GOOD, GOOD + "\n", GOOD + "\r\n", "\ufeff" + GOOD, f" {GOOD} \n"])
def test_what_editors_add_to_a_token_file_is_harmless(folders: Path, wrapped: str) -> None:
    (folders / "secrets/token").write_bytes(wrapped.encode())
    assert access.resolve() == GOOD


@pytest.mark.parametrize(
    ("token", "complaint"),
    [
        ("", "empty"),
        ("\n", "empty"),
        ("changeme", "8 characters"),
        (GOOD[:31], "31 characters"),
        ("a" * 40, "easily guessed"),
        (GOOD + "&admin=1", "link cannot carry"),
        (GOOD + "é", "link cannot carry"),
    ],
)
def test_bad_token_is_refused_with_its_fault_and_never_shown(folders: Path, token: str, complaint: str) -> None:
    (folders / "secrets/token").write_text(token)
    with pytest.raises(UserError, match=complaint) as refusal:
        access.resolve()
    assert refusal.value.exit_code == 78
    assert len(token) < 2 or token not in str(refusal.value)


def test_empty_variable_is_refused_and_not_taken_for_an_absent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_TOKEN", "")
    with pytest.raises(UserError, match="empty"):
        access.resolve()


def test_missing_token_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUPYTER_TOKEN_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="does not exist"):
        access.resolve()


def test_token_file_that_is_a_folder_is_refused(folders: Path) -> None:
    (folders / "secrets/token").mkdir()
    with pytest.raises(UserError, match="directory"):
        access.resolve()


def test_null_device_in_place_of_the_secrets_folder_gives_no_token_and_a_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORKSPACE_SECRETS", "/dev/null")
    assert access.resolve() == (tmp_path / "state/token").read_text()
    (tmp_path / "file").write_text(GOOD)
    monkeypatch.setenv("WORKSPACE_SECRETS", str(tmp_path / "file"))
    with pytest.raises(UserError, match="Not a directory"):
        access.resolve()
