"""The access token: where it comes from, what makes it acceptable, and the link that carries it.

It is taken from the first of these that is there: the file named by JUPYTER_TOKEN_FILE, the file `token` in the secrets
folder, the variable JUPYTER_TOKEN, the token that an earlier start generated. Else one is generated and kept. What is
given but bad is refused: an empty token would switch authentication off, a weak one would be guessed.
"""

import os
import re
import secrets
from pathlib import Path

from workspace.base import cli, places, settings
from workspace.base.cli import UserError
from workspace.base.files import replacing

REFUSED = 78
"""Exit code of a server that will not start as it is configured (EX_CONFIG)."""

DEFAULT_PORT = 8888
HTTPS_PORT = 443

_SHORTEST = 32
_FEWEST_DIFFERENT = 10
_BITS = 256


def check(token: str, source: str) -> str:
    """Return `token` if it can be trusted to keep strangers out, else raise UserError naming its `source`."""
    if not token:
        raise _refusal(source, "is empty, which would switch authentication off")
    if not re.fullmatch(r"[A-Za-z0-9._~-]+", token):
        raise _refusal(source, "has characters that a link cannot carry; use A-Z a-z 0-9 . _ ~ -")
    if len(token) < _SHORTEST:
        raise _refusal(source, f"has {len(token)} characters; use at least {_SHORTEST}")
    if len(set(token)) < _FEWEST_DIFFERENT:
        raise _refusal(source, "is too easily guessed; use random characters")
    return token


def _refusal(source: str, fault: str) -> UserError:
    return UserError(f"the access token in {source} {fault}. `openssl rand -hex 32` makes a good one.", REFUSED)


def resolve() -> str:
    """The token this server is to ask for. Raises UserError where one was given that is bad or cannot be read."""
    if (named := os.environ.get("JUPYTER_TOKEN_FILE")) is not None:
        if (token := _read(Path(named))) is None:
            raise UserError(f"the token file {named} does not exist", REFUSED)
        return check(token, named)
    file = places.secrets() / "token"
    if (token := _read(file)) is not None:
        return check(token, str(file))
    if settings.is_set("JUPYTER_TOKEN"):
        return check((settings.get("JUPYTER_TOKEN") or "").strip(), "JUPYTER_TOKEN")
    kept = places.state() / "token"
    if (token := _read(kept)) is None:
        token = secrets.token_hex(_BITS // 8)
        write(kept, token)
    return check(token, str(kept))


def rotate() -> None:
    """Put a new token where the server takes it from at its next start. Raises UserError where that cannot be done."""
    named, file = os.environ.get("JUPYTER_TOKEN_FILE"), places.secrets() / "token"
    if named or os.path.lexists(file):
        replace(Path(named or file))
    elif settings.is_set("JUPYTER_TOKEN"):
        raise UserError(
            "the token is given by the variable JUPYTER_TOKEN and changes with it: set another where it is set, in the "
            "environment or in .env, then scripts/stop and scripts/start"
        )
    else:
        replace(places.state() / "token")


def replace(file: Path) -> None:
    """Write a new token to `file`. Raises UserError where this user may not."""
    try:
        write(file, secrets.token_hex(_BITS // 8))
    except OSError as error:
        raise UserError(
            f"the token file {file} cannot be written: {error.strerror}; as its owner: openssl rand -hex 32 > {file}"
        ) from error


def _read(file: Path) -> str | None:
    """A token file's content, forgiving what editors and `echo` add: a newline, CRLF, a byte order mark.

    None where there is no such file. One that is there and cannot be read was meant, and is refused.
    """
    try:
        return file.read_bytes().decode("utf-8-sig").strip()
    except FileNotFoundError:
        return None
    except PermissionError as error:
        uid = os.getuid()
        if not os.access(file.parent, os.X_OK):
            why = f", if there is one: nor its folder. On the host: chown {uid} both, or chmod 755 the folder"
        else:
            why = f". On the host: chown {uid} it"
        raise UserError(f"the token file {file} cannot be read by uid {uid}{why}", REFUSED) from error
    except UnicodeDecodeError as error:
        raise _refusal(str(file), "is not text") from error
    except OSError as error:
        if file.parent.is_char_device():  # /dev/null in the folder's place: none is given
            return None
        raise UserError(f"the token file {file} cannot be read: {error.strerror}", REFUSED) from error


def write(file: Path, token: str) -> None:
    """Write `token` so that its owner alone can read it, and so that a crash leaves the old file or the new one.

    The owner stays who it was: the container's user, say, of a file that root rewrites.
    """
    with replacing(file) as new:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            if file.exists() and (owner := file.stat()).st_uid != os.getuid():
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            stream.write(token)


def in_use() -> Path:
    """The file with the token that the running server asks for: `serve` writes it, the server and `link` read it."""
    return places.runtime() / "token"


def token_in_use() -> str:
    """The token that the running server asks for. Raises UserError where none runs."""
    try:
        return in_use().read_text()
    except FileNotFoundError as error:
        where = "in this container; ask the one where it does: docker exec CONTAINER lab-link"
        raise UserError(f"no lab runs {where if places.IN_IMAGE else 'here; scripts/start starts it'}") from error


def link(host: str, port: int, token: str, *, tls: bool = False) -> str:
    """The address to open in a browser. `/` leads on to the lesson."""
    address = host if tls and port == HTTPS_PORT else f"{host}:{port}"
    return f"{'https' if tls else 'http'}://{address}/?token={token}"


def codespace() -> str | None:
    """The name by which a browser finds the lab, over https, in GitHub Codespaces; None elsewhere."""
    name, domain = settings.get("CODESPACE_NAME"), settings.get("GITHUB_CODESPACES_PORT_FORWARDING_DOMAIN")
    return (
        f"{name}-{DEFAULT_PORT}.{domain}".lower() if settings.get("CODESPACES") == "true" and name and domain else None
    )


if __name__ == "__main__":
    cli.run("Change the token.", lambda _: rotate(), lambda parser: parser.add_argument("command", choices=["rotate"]))
