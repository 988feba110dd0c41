"""The server's settings, in the container and natively. Read-only in the image, so no volume overrides them."""

import hashlib
import hmac
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.identity import IdentityProvider, User
from jupyter_server.utils import JupyterServerAuthWarning

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from workspace.base import places, settings
from workspace.lab import access, contents, limits, server, translation
from workspace.runs import activity

if TYPE_CHECKING:
    from jupyter_server.base.handlers import JupyterHandler
    from jupyter_server.serverapp import ServerApp


def _refuse(reason: str) -> int:
    print(f"workspace: refusing to start: {reason}", file=sys.stderr)
    return access.REFUSED


if not access.in_use().exists():
    sys.exit(_refuse("no token was settled; `serve` does that, and scripts/start runs it"))
TOKEN = access.in_use().read_text()


class TokenOnly(IdentityProvider):
    """Lets in who presents the workspace's token, and nobody else: no password to plant, no way to turn it off.

    Beyond the stock provider: the comparison takes constant time, and the last word on the token is
    `validate_security`, which runs after every file and flag has had its say.
    """

    updatable_fields: list[str] = []  # noqa: RUF012  (a trait's default)

    def validate_security(self, app: "ServerApp", ssl_options: dict[str, Any] | None = None) -> None:
        """Refuse to start with another token than the one that was checked."""
        del ssl_options
        if self.token != TOKEN:
            sys.exit(_refuse("the access token must come from a token file or JUPYTER_TOKEN, not from a setting"))
        app.io_loop.add_callback(limits.guard, app)  # when there is a server: there is no later place of our own
        app.io_loop.add_callback(activity.watch, app)

    async def get_user_token(self, handler: "JupyterHandler") -> User | None:
        """The user, if the request carries the token."""
        if not self._is_token(self.get_token(handler)):
            return None
        return self.get_user_cookie(handler) or self.generate_anonymous_user(handler)

    def process_login_form(self, handler: "JupyterHandler") -> User | None:
        """The user, if the form carries the token."""
        typed = handler.get_argument("password", default="")
        return self.generate_anonymous_user(handler) if self._is_token(typed) else None

    def _is_token(self, given: str | None) -> bool:
        return hmac.compare_digest((given or "").encode(), self.token.encode())


c = get_config()  # noqa: F821  (traitlets puts it here)

# Who gets in.
c.ServerApp.identity_provider_class = TokenOnly
c.IdentityProvider.token = TOKEN
# Derived from the token, so that rotating the token ends every session, and a restart ends none.
c.ServerApp.cookie_secret = hashlib.sha256(b"login cookie:" + TOKEN.encode()).digest()
c.IdentityProvider.cookie_options = {"SameSite": "Lax"}
if settings.get("WORKSPACE_TLS"):  # behind docker/tls.yml, where nobody but Caddy reaches the port
    c.ServerApp.trust_xheaders = True
    c.IdentityProvider.secure_cookie = True
if public := access.codespace():
    # GitHub's proxy writes another Origin or another Host than the browser did; which of them, nobody promises.
    c.ServerApp.allow_origin_pat = rf"^https?://(localhost:{access.DEFAULT_PORT}|{re.escape(public)})$"
    c.IdentityProvider.secure_cookie = True
c.ServerApp.allow_unauthenticated_access = False
# Said of each extension's socket that does not ask for the token itself. With the line above the server asks for all.
warnings.filterwarnings("ignore", category=JupyterServerAuthWarning)
server.DiscreetFormatter.token = TOKEN
c.Application.logging_config = {"formatters": {"console": {"class": "workspace.lab.server.DiscreetFormatter"}}}
c.ServerApp.allow_remote_access = True
c.ServerApp.allow_origin = ""
c.ServerApp.terminals_enabled = settings.get("WORKSPACE_TERMINALS") != "0"
c.ServerApp.allow_root = not places.IN_IMAGE  # natively root may be all a machine has

# What they see.
c.ServerApp.root_dir = str(places.work())
c.ServerApp.default_url = f"/lab/tree/{places.LESSON}"
c.LabApp.default_url = c.ServerApp.default_url
c.LabApp.extension_manager = "readonly"
# Defaults of the lab's settings: no question about news, no call home, the user's language.
c.LabApp.app_settings_dir = str(
    translation.lab_settings(Path(__file__).resolve().parent / "lab-settings", places.runtime())
)
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.ServerApp.contents_manager_class = contents.AtomicContents
contents.protect_layouts_and_settings()
c.ContentsManager.allow_hidden = False
c.ServerApp.quit_button = False
c.LanguageServerManager.autodetect = False  # there are none, and the log would name each that is missing

# What needs pandoc, LaTeX or a browser of its own, none of which is here, is not offered for export.
c.LatexExporter.enabled = c.ASCIIDocExporter.enabled = c.RSTExporter.enabled = False  # PDF by LaTeX is one of LaTeX's
c.WebPDFExporter.enabled = c.QtPDFExporter.enabled = c.QtPNGExporter.enabled = False

# What it sends along, and takes; the other bounds are in workspace.lab.limits.
c.ServerApp.tornado_settings = {
    "websocket_max_message_size": limits.LARGEST_MESSAGE,
    "headers": {
        "Referrer-Policy": "same-origin",  # the token is in the first address
        "Content-Security-Policy": "frame-ancestors 'self'",
    },
}

# What the lab passes on to others, where it can at all: the dashboard of docker/cluster.yml.
c.ServerProxy.host_allowlist = ["dashboard"]

# Kernels and terminals run in an environment of the user's own, and say why when they die.
c.AsyncIOLoopKernelManager.restarter_class = server.TellingRestarter
c.ServerApp.kernel_websocket_connection_class = server.TellingConnection
shell = [os.environ.get("SHELL", "bash")]
if shell[0].endswith("bash"):
    shell += ["--rcfile", str(places.REPOSITORY / "docker" / "terminal.bashrc")]
environment = [sys.executable, str(places.REPOSITORY / "scripts" / "environment")]
c.ServerApp.terminado_settings = {"shell_command": environment + shell}
c.ServerApp.kernel_manager_class = limits.BoundedBufferKernels
c.TerminalsExtensionApp.terminal_manager_class = limits.FlowControlledTerminals

# A port that is taken is an error, not the next port: the link would be wrong.
c.ServerApp.port_retries = 0
# Sockets in the file system, where only this user reaches them, in place of TCP ports.
c.KernelManager.transport = "ipc"
# Half of it is what a cell gets between KeyboardInterrupt and the end.
c.KernelManager.shutdown_wait_time = 20
