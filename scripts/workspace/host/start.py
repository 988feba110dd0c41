"""Start, find and stop the workspace, in Docker or natively."""

import contextlib
import ipaddress
import sys
from dataclasses import dataclass, replace

from workspace.base import cli, places, programs, settings
from workspace.base.cli import UserError
from workspace.base.files import locked
from workspace.host import address, engine, gpu, locate, machine, native
from workspace.host.address import EVERYWHERE
from workspace.host.compose import Running, Workspace
from workspace.host.native import Server
from workspace.lab import access

_NOBODYS_TOP_LEVEL = {"example", "home", "internal", "invalid", "lan", "local", "localdomain", "localhost", "test"}


@dataclass(frozen=True)
class Options:
    """What the command line asks for; None where it leaves things as they are set."""

    gpu: bool = False
    tls: bool = False
    port: int | None = None
    bind: str | None = None
    public_host: str | None = None

    def settings(self) -> dict[str, str]:
        """The same as compose variables."""
        variables = {
            "WORKSPACE_PORT": self.port and str(self.port),
            "WORKSPACE_BIND": self.bind,
            "WORKSPACE_PUBLIC_HOST": self.public_host,
        }
        if self.tls:
            host = address.host_name(self.bind or EVERYWHERE, self.public_host)
            variables["WORKSPACE_PUBLIC_HOST"] = host  # the certificate's name and the link's
            variables["WORKSPACE_TLS_ISSUER"] = settings.get("WORKSPACE_TLS_ISSUER") or issuer(host)
        return {name: value for name, value in variables.items() if value}


def start(options: Options, *, natively: bool = False, reset_lesson: bool = False) -> str:
    """Start the workspace unless it runs, and return its link. Raises UserError with cause and next step."""
    _check(options)
    with _one_at_a_time():
        if server := native.running():
            _require_same(options, server)
            cli.say("The workspace is running already, natively.")
            running = server
        elif natively or not _is_engine_usable():
            running = _start_natively(options)
        else:
            running = _start_in_docker(options)
        if reset_lesson:
            _put_lesson_back(running)
        return running.link()


def _is_engine_usable() -> bool:
    try:
        engine.require()
    except engine.UnreachableError as error:
        if locate.was_in_docker():
            raise UserError(
                f"the workspace was started in Docker, and {error}; with --native another is started, in folders of "
                "this machine"
            ) from error
        cli.say("No Docker engine answers on this machine; serving the same lab natively, from .venv.")
        return False
    return True


def _start_natively(options: Options) -> Server:
    if options.tls:
        raise UserError("TLS needs Docker, where Caddy does it; without: an SSH tunnel", cli.BAD_INPUT)
    bind = options.bind or settings.get("WORKSPACE_BIND") or EVERYWHERE
    port = options.port or _port("WORKSPACE_PORT", settings.get("WORKSPACE_PORT") or str(access.DEFAULT_PORT))
    if trouble := machine.trouble(bind, port, natively=True):
        trouble.require()
    server = native.start(bind, port, address.host_name(bind, options.public_host))
    locate.remember(locate.NATIVE)
    _warn_if_public(bind, port)
    return server


def _start_in_docker(options: Options) -> Running:
    workspace = Workspace(options.gpu, options.tls, options.settings() | engine.memory_limit())
    if running := workspace.running():
        running.require_ours()
        _require_same(options, running)
        cli.say("The workspace is running already.")
    else:
        machine.require(workspace)
        if options.gpu:
            workspace = replace(workspace, variables={**workspace.variables, **gpu.require()})
        workspace.provide_image()
        running = workspace.up()
        if not options.tls:
            _warn_if_public(running.bind, running.port)
    locate.remember(locate.DOCKER)
    return running


def _put_lesson_back(running: Server | Running) -> None:
    done = running.module("workspace.lab.seed")
    if done.returncode:
        raise UserError(f"the lesson could not be put back: {programs.last_words(done.stderr)}")
    names = ", ".join(done.stdout.splitlines())
    cli.say(f"The delivered lesson, beside yours: {names}" if names else "Your lesson is as delivered.")


def link(default_host: str | None = None) -> str:
    """The link of the running workspace: for the host it was started with, else `default_host`, else this machine.

    Raises UserError if none runs.
    """
    if places.IN_IMAGE:
        if public := access.codespace():
            return access.link(public, access.HTTPS_PORT, access.token_in_use(), tls=True)
        host = settings.get("WORKSPACE_PUBLIC_HOST") or default_host or "localhost"
        port, tls = int(settings.get("WORKSPACE_PORT") or access.DEFAULT_PORT), bool(settings.get("WORKSPACE_TLS"))
        link_here = access.link(host, port, access.token_in_use(), tls=tls)
        if places.PLAIN_CONTAINER:
            print(f"In place of {port} goes the port that -p published.", file=sys.stderr)
        return link_here
    return locate.running().link(default_host)


def rotate_token() -> str:
    """Change the token of the running workspace and return its new link. Raises UserError where that cannot be done."""
    with _one_at_a_time():
        return locate.running().rotate_token().link()


def stop() -> list[str]:
    """Stop what runs and return what is kept, a line each. Raises UserError if none runs."""
    with _one_at_a_time():
        running = locate.running()
        running.stop()
        return running.kept()


def _one_at_a_time() -> contextlib.AbstractContextManager[None]:
    """While another command starts or stops a workspace from here, wait."""
    return locked(places.NATIVE / "start.lock", "Another command starts or stops a workspace here; waiting for it ...")


def issuer(host: str) -> str:
    """Who certifies `host`: Let's Encrypt (acme) where the world knows the name, else Caddy itself (internal)."""
    *parents, last = host.split(".")
    is_address = last.isdigit() or ":" in last
    return "internal" if not parents or is_address or last in _NOBODYS_TOP_LEVEL else "acme"


def _check(options: Options) -> None:
    settings.require_none_gone()
    if options.port is not None:
        _port("--port", str(options.port))
    if options.bind is not None:
        try:
            ipaddress.IPv4Address(options.bind)
        except ValueError as error:
            raise UserError(
                f"--bind {options.bind} is not an IPv4 address; use 127.0.0.1 (this machine alone) or 0.0.0.0",
                cli.BAD_INPUT,
            ) from error
    if options.public_host is not None and not address.is_name(options.public_host):
        raise UserError(
            f"--public-host {options.public_host} is not a host name; use one like vm.region.cloudapp.azure.com",
            cli.BAD_INPUT,
        )


def _port(source: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise UserError(f"{source} {text} is not a port; use 1 to 65535", cli.BAD_INPUT)
    return int(text)


def _require_same(options: Options, running: Server | Running) -> None:
    """Refuse to change a running workspace: its kernels would be lost."""
    differing = []
    if options.port not in (None, running.port):
        differing.append(f"on port {running.port}")
    if options.bind not in (None, running.bind):
        differing.append(f"bound to {running.bind}")
    if options.gpu and not running.gpu:
        differing.append("without a GPU")
    if options.tls and not running.tls:
        differing.append("without TLS")
    if differing:
        raise UserError(f"the workspace is running already, {' and '.join(differing)}; scripts/stop first")


def _warn_if_public(bind: str, port: int) -> None:
    if bind == EVERYWHERE or not ipaddress.ip_address(bind).is_loopback:
        cli.say(
            f"Open on {bind}, over plain http: whoever can watch the network can read the token. Safer: --tls; or "
            f"--bind 127.0.0.1 here and, on your own machine, `ssh -L {port}:localhost:{port} THIS-MACHINE`."
        )
