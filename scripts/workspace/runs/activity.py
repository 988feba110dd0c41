"""Tells the server, and so whoever asks `/api/status`, that work which says nothing is no idleness."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tornado.ioloop import PeriodicCallback

from workspace.runs import folders

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

_EVERY_S = 60


def watch(app: "ServerApp") -> None:
    """Mark the server as active now and every minute, as long as a kernel computes or a run is at work."""
    mark(app)
    PeriodicCallback(lambda: mark(app), _EVERY_S * 1000).start()


def mark(app: "ServerApp") -> None:
    """Mark the server as active, if it is."""
    busy = any(kernel["execution_state"] == "busy" for kernel in app.kernel_manager.list_kernels())
    if busy or folders.any_at_work():
        app.web_app.settings["workspace_last_activity"] = datetime.now(UTC)  # what ends so counts
