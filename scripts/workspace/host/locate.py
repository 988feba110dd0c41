"""Which workspace a command means, and where it is. None is ever invented: one that is not there is an error."""

from workspace.base import places
from workspace.base.cli import UserError
from workspace.base.files import replacing
from workspace.host import engine, native
from workspace.host.compose import Running, Workspace

DOCKER = "docker"
NATIVE = "native"

_LAST = places.NATIVE / "started-in"


def running() -> native.Server | Running:
    """The workspace that runs. Raises UserError where none does, or where that cannot be known."""
    if server := native.running():
        return server
    workspace = _in_engine("no workspace is running natively, and {}")
    if workspace is None:
        raise UserError("no workspace is running; scripts/start starts it")
    if running := workspace.running():
        return running
    raise UserError(f"no workspace is running natively, nor {_named(workspace)}; scripts/start starts it")


def in_docker(*, natively: bool = False, may_be_new: bool = False) -> Workspace | None:
    """The workspace in Docker, running or stopped, that a command means; None: the one in this machine's folders.

    The native one is meant where `natively` says so, where it runs, or where it was started last. `may_be_new`: there
    need not be one in Docker yet. Raises UserError where there is none, or where that cannot be known.
    """
    if natively or places.IN_IMAGE or native.running():
        return None
    workspace = _in_engine("{}; with --native, the workspace in this machine's folders is meant")
    if workspace is None or workspace.running():
        return workspace
    if _last() == NATIVE:
        return None
    if may_be_new or workspace.exists():
        return workspace
    raise UserError(
        f"there is no {_named(workspace)}; scripts/start makes it, and with --native the workspace in this machine's "
        "folders is meant"
    )


def remember(where: str) -> None:
    """Remember where the workspace was started last."""
    places.NATIVE.mkdir(exist_ok=True, mode=0o700)
    with replacing(_LAST) as new:
        new.write_text(where)


def was_in_docker() -> bool:
    """Whether the workspace was started in Docker last."""
    return _last() == DOCKER


def needs_engine() -> bool:
    """Whether the workspace is in an engine, for all that is known here, so that one must answer."""
    return _last() == DOCKER or (_last() is None and engine.is_installed())


def _last() -> str | None:
    return _LAST.read_text() if _LAST.exists() else None


def _in_engine(refusal: str) -> Workspace | None:
    """The workspace of the engine, whether or not it is there; None where no engine answers and none ever had it.

    Raises UserError, with the reason in `refusal`, where it may be in an engine that does not answer.
    """
    try:
        engine.require()
    except engine.UnreachableError as error:
        if needs_engine():
            raise UserError(refusal.format(error)) from error
        return None
    return Workspace()


def _named(workspace: Workspace) -> str:
    """The workspace, the engine and what else is there."""
    others = [f"{name} ({state})" for name, state in engine.workspaces().items()]
    return (
        f"workspace {workspace.project} (COMPOSE_PROJECT_NAME) in the Docker engine, which has "
        f"{', '.join(others) or 'none'}"
    )
