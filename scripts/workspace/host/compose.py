"""The workspace in Docker: the compose project."""

import functools
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from workspace.base import cli, network, places, programs, settings
from workspace.base.cli import UserError
from workspace.base.programs import wait_until
from workspace.host import address, causes, engine
from workspace.lab import access

SERVICE = "workspace"
TLS = "tls"

_BUILDER = "pytorch-workspace"

_SECRETS = "/run/workspace-secrets"
# Runs a module of this package in the container. -P: else a file of the work folder could stand in for it.
_MODULE = ["-T", SERVICE, "python", "-P", "-m"]
_TITLE = "PyTorch workspace"
"""The label org.opencontainers.image.title of its images."""

_HEALTHY_WITHIN_S = 180


class PausedError(UserError):
    """The workspace's container is there, and stands still."""


@dataclass(frozen=True)
class Running:
    """A workspace that runs: how it was started, which the engine tells, and what can be done with it."""

    workspace: "Workspace"
    bind: str
    port: int
    gpu: bool
    tls: bool
    checkout: Path
    secrets: Path
    """The folder of the host in which its token may be given."""

    def require_ours(self) -> None:
        """Raise UserError where it was started from another checkout, which has it by the same name."""
        if self.checkout.is_dir() and not places.REPOSITORY.samefile(self.checkout):
            raise UserError(
                f"the workspace {self.workspace.project} runs from another checkout, {self.checkout}: go there, or "
                f"name one of this checkout: COMPOSE_PROJECT_NAME=another scripts/start --port {self.port + 1}"
            )

    def module(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a module of this package in the container."""
        return self.workspace.ask("exec", *_MODULE, name, *arguments)

    def link(self, default_host: str | None = None) -> str:
        """The link, from the container's own `link`. Raises UserError if it cannot tell."""
        host = address.host_name(self.bind, default_host)
        told = self.workspace.ask("exec", "-T", SERVICE, "lab-link", "--default-host", host)
        if told.returncode:
            raise UserError(f"the running container does not tell its link: {told.stderr.strip()}")
        return told.stdout.strip()

    def rotate_token(self) -> "Running":
        """Change the token and restart the server. Raises UserError where that cannot be done."""
        self.require_ours()
        file = self.secrets / "token"
        if os.path.lexists(file):
            access.replace(file)  # read-only in the container
        else:
            rotated = self.module("workspace.lab.access", "rotate")
            if rotated.returncode:
                raise UserError(programs.last_words(rotated.stderr))
        self.workspace.do("restart", SERVICE)
        return self.workspace.wait_until_healthy()

    def stop(self) -> None:
        """Stop and remove the container; volumes stay. A running cell is interrupted first."""
        self.require_ours()
        self.workspace.do("down", "--remove-orphans")  # TLS's, where this does not know of it

    def kept(self) -> list[str]:
        """What a stop leaves in place, a line for each volume or folder."""
        volumes = self.workspace.configuration["volumes"]
        contents = {"/workspace": "notebooks and runs", "/data": "datasets", "/state": "the token"}
        return [
            f"{contents[mount['target']]}: "
            + (f"volume {volumes[mount['source']]['name']}" if mount["type"] == "volume" else mount["source"])
            for mount in self.workspace.service["volumes"]
            if mount["target"] in contents
        ]


@dataclass(frozen=True)
class Workspace:
    """The compose project, with what a command line adds to its settings."""

    gpu: bool = False
    tls: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    overlays: tuple[str, ...] = ()

    @property
    def project(self) -> str:
        """Its name, by which the engine knows it: COMPOSE_PROJECT_NAME, else that of docker-compose.yml."""
        return self.configuration["name"]

    @property
    def service(self) -> dict[str, Any]:
        """The lab's own section of the configuration."""
        return self.configuration["services"][SERVICE]

    def image(self) -> str:
        """The image this asks for."""
        return self.service["image"]

    def port(self) -> int:
        """The port on the host."""
        return int(self._configured_port()["published"])

    def bind(self) -> str:
        """The host's address that the port is opened on."""
        return self._configured_port()["host_ip"]

    def exists(self) -> bool:
        """Whether there is anything of it: containers or volumes."""
        return bool(self._containers()) or self.project in engine.workspaces()

    def running(self) -> Running | None:
        """What runs of it, if it does. Raises UserError where it is paused."""
        containers = self._containers()
        lab = containers.get(SERVICE, {"State": {"Status": "absent"}})
        if lab["State"]["Status"] == "paused":
            raise PausedError(f"the workspace is paused; `docker unpause {lab['Name'].strip('/')}` lets it go on")
        if lab["State"]["Status"] != "running":
            return None
        opened = [
            binding["HostIp"]
            for container in (lab, containers.get(TLS, lab))  # behind Caddy the lab has no port of its own
            for bindings in (container["HostConfig"]["PortBindings"] or {}).values()
            for binding in bindings
        ]
        environment = dict(pair.partition("=")[::2] for pair in lab["Config"]["Env"])
        sources = {mount["Destination"]: mount["Source"] for mount in lab["Mounts"]}
        return Running(
            self,
            bind=next(filter(None, opened), address.EVERYWHERE),
            port=int(environment["WORKSPACE_PORT"]),
            gpu=bool(lab["HostConfig"]["DeviceRequests"]),
            tls="WORKSPACE_TLS" in environment,
            checkout=Path(lab["Config"]["Labels"]["com.docker.compose.project.working_dir"]),
            secrets=Path(sources[_SECRETS]),
        )

    def provide_image(self) -> None:
        """Pull the image that WORKSPACE_IMAGE names, or build it, or bring it up to date.

        Raises UserError with the cause, or where the named one does not fit the other settings.
        """
        if settings.get("WORKSPACE_IMAGE"):
            if not engine.has_image(self.image()):
                self._pull()
            self._require_fitting_image()
        else:
            self._build()

    def _build(self) -> None:
        # Compose writes the project's name into the image. With one name for all it is the same image, whoever builds,
        # and nobody's container is made anew because somebody else started theirs.
        command = self._command(f"--project-name={_BUILDER}", "--progress=plain", "build", SERVICE)
        log = places.NATIVE / "build.log"
        if programs.follow(command, self._environment(), log, "Building", build_step):
            return
        cause = causes.explain(log.read_text(), self.port())
        if engine.has_image(self.image()):
            cli.say(f"The image could not be brought up to date ({cause}); starting the one that is there.")
        else:
            raise UserError(f"the image could not be built: {cause} (everything it said: {log})")

    def _pull(self) -> None:
        log = places.NATIVE / "pull.log"
        if not programs.follow(["docker", "pull", self.image()], self._environment(), log, "Pulling", str.strip):
            raise UserError(
                f"WORKSPACE_IMAGE, {self.image()}, cannot be pulled: {programs.last_words(log.read_text())}; where it "
                "is private, `docker login` first; without the setting the image is built here"
            )

    def _require_fitting_image(self) -> None:
        """Raise UserError unless the image that is named is one of this workspace, for this user and these devices."""
        image, built = self.image(), engine.image_configuration(self.image())
        labels = built.get("Labels") or {}
        if labels.get("org.opencontainers.image.title") != _TITLE:
            raise UserError(f"WORKSPACE_IMAGE, {image}, is not an image of this workspace", cli.BAD_INPUT)
        wanted, there = (str(user).partition(":")[0] for user in (self.service["user"], built["User"]))
        if wanted != there:
            raise UserError(
                f"WORKSPACE_IMAGE, {image}, was built for uid {there}, and its folders belong to that: leave out "
                f"WORKSPACE_UID={wanted}, or leave out WORKSPACE_IMAGE and the image is built for it here",
                cli.BAD_INPUT,
            )
        if self.gpu and engine.read_in_image(image, "/opt/workspace/image-stamp").startswith("cpu-"):
            raise UserError(
                f"WORKSPACE_IMAGE, {image}, has the CPU's build of PyTorch: --gpu needs the one with -cuda in its name",
                cli.BAD_INPUT,
            )
        version = labels.get("org.opencontainers.image.version")
        if version != places.version():
            cli.say(f"The image is of version {version}, these commands are of {places.version()}.")

    def compose(self, *arguments: str) -> int:
        """Run Compose for a person at the terminal, who sees what it says; its exit code."""
        return self._run(*arguments).returncode

    def provide_image_unless_there(self) -> None:
        """Pull or build the image where there is none. Raises UserError with the cause."""
        if not engine.has_image(self.image()):
            self.provide_image()

    def up(self) -> Running:
        """Start the container and wait until it answers. Raises UserError with the cause; then nothing runs."""
        try:
            self.do("up", "--detach", "--no-build", SERVICE, *([TLS] if self.tls else []))
        except UserError:
            self.ask("down")
            raise
        return self.wait_until_healthy()

    def idle_s(self) -> float | None:
        """For how many seconds nothing has worked in the lab; None where none answers."""
        running = self.running()
        told = running.module("workspace.lab.idle") if running else None
        return float(told.stdout) if told and told.returncode == 0 else None

    def run(self, *command: str, variables: list[str], **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
        """Run `command` where the volumes are: in the running container, else in one made for it alone.

        `variables` of this machine's environment, named in docker-compose.yml, are what they are here; `options` are
        those of subprocess.run.
        """
        passed = [argument for name in variables for argument in ("--env", name)]
        how = ["exec", *passed] if self.running() else ["run", "--rm", "--no-deps"]
        return self._run("--progress=quiet", *how, *command, **options)

    def archive(self, action: str, stdin: IO[bytes] | int | None = None, stdout: IO[bytes] | int | None = None) -> str:
        """Run workspace.lab.archive there and return what it told. Raises UserError where it fails."""
        self.provide_image_unless_there()
        done = self.run(
            *_MODULE,
            "workspace.lab.archive",
            action,
            variables=[],
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            killed = f"the container ended before it was through (exit code {done.returncode}); do it again"
            raise UserError(programs.last_words(done.stderr) if done.stderr.strip() else killed)
        return done.stderr

    def last_words(self) -> str | None:
        """What the container said last, where it has ended or is started again and again; else None."""
        try:
            ended = self._ended()
        except UserError:
            return None
        return self._said(ended) if ended else None

    def wait_until_healthy(self) -> Running:
        """Wait until the lab answers. Raises UserError with the cause; then nothing runs."""
        outcome = wait_until(lambda: self._ended() or self._healthy(), _HEALTHY_WITHIN_S, every_s=0.3)
        if not outcome:
            raise UserError(f"the workspace does not answer after {_HEALTHY_WITHIN_S} s: scripts/doctor")
        if isinstance(outcome, Running):
            return outcome
        said = self._said(outcome)
        self.ask("down")
        what = "Caddy, which does TLS," if outcome == TLS else "the workspace"
        raise UserError(f"{what} did not start: {said}")

    def _said(self, service: str) -> str:
        return programs.last_words(self.ask("logs", "--no-log-prefix", "--tail", "50", service).stdout)

    def _healthy(self) -> Running | None:
        asked = self.ask("exec", "-T", SERVICE, "python", "/opt/workspace/docker/healthcheck.py")
        return None if asked.returncode else self.running()

    def _ended(self) -> str | None:
        """The service whose container has ended, or is started again and again."""
        for service, container in self._containers().items():
            ended = container["State"]["Status"] not in ("created", "running") or container["RestartCount"]
            if ended and service in (SERVICE, TLS):  # what makes a cluster's certificates is to end
                return service
        return None

    def _command(self, *arguments: str) -> list[str]:
        overlays = ["docker-compose.gpu.yml"] * self.gpu + ["docker/tls.yml"] * self.tls + [*self.overlays]
        files = ["docker-compose.yml", *overlays] if overlays else []
        return ["docker", "compose", "--ansi=never", *(f"--file={file}" for file in files), *arguments]

    def _environment(self) -> dict[str, str]:
        bundle = {"WORKSPACE_CA_BUNDLE": str(network.authorities() or os.devnull)}
        return os.environ | bundle | _no_token_is_no_folder() | self.variables

    def _configured_port(self) -> dict[str, str]:
        """The port that a browser connects to, as it is set."""
        return self.configuration["services"][TLS if self.tls else SERVICE]["ports"][-1]

    def do(self, *arguments: str) -> str:
        """Have Compose do something and return what it says. Raises UserError with the cause."""
        done = self.ask(*arguments)
        if done.returncode:
            raise UserError(causes.explain(done.stderr, self.port()))
        return done.stdout

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What Compose says to this, and how it ended."""
        return self._run(*arguments, capture_output=True, text=True)

    def _run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
        command, environment = self._command(*arguments), self._environment()
        return subprocess.run(command, cwd=places.REPOSITORY, env=environment, check=False, **options)

    @functools.cached_property
    def configuration(self) -> dict[str, Any]:
        """What Compose makes of docker-compose.yml, overlays and settings. Raises UserError where they do not fit."""
        for name in ("WORKSPACE_DIR", "WORKSPACE_SECRETS", "WORKSPACE_CA_BUNDLE"):
            if ":" in (settings.get(name) or ""):
                raise UserError(f"{name} has a colon, which Docker cannot mount: {settings.get(name)}", cli.BAD_INPUT)
        done = self.ask("config", "--format", "json")
        if done.returncode:
            raise UserError(f"the settings do not fit docker-compose.yml: {done.stderr.strip()}", cli.BAD_INPUT)
        return json.loads(done.stdout)

    def _containers(self) -> dict[str, dict[str, Any]]:
        """The project's containers by their services, as the engine describes them; also those of other overlays."""
        ours = ["--filter", f"label=com.docker.compose.project={self.project}"]
        # One that was made for a single command, such as scripts/data, is not the workspace.
        ours += ["--filter", "label=com.docker.compose.oneoff=False"]
        listed = programs.ask("docker", "ps", "--all", "--quiet", *ours)
        if listed.returncode:
            raise UserError(causes.explain(listed.stderr))
        described = programs.ask("docker", "inspect", *listed.stdout.split()).stdout if listed.stdout else "[]"
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in json.loads(described)}


def _no_token_is_no_folder() -> dict[str, str]:
    """The setting that hands no folder to the container where no token is given.

    After a clone under a strict umask its user could not enter the folder, and what cannot be read might be a token.
    """
    try:
        (places.secrets() / "token").lstat()
    except FileNotFoundError:
        return {"WORKSPACE_SECRETS": os.devnull}
    except OSError:  # one that this user cannot read, either
        pass
    return {}


def build_step(said: str) -> str | None:
    """Where a build is: BuildKit begins a step with `#12 [3/9] RUN ...`, and goes on with `#12 0.7 what it says`."""
    if step := re.match(r"#\d+ \[.*?(\d+/\d+)\] (?:RUN )?(.*)", said):
        command = re.sub(r"--mount=\S+\s+|if .*? fi\s+&& |export .*?\s+&& |cd \S+\s+&& ", "", step[2])
        return f"{step[1]} {command}"
    output = re.match(r"#\d+ (?:\d+\.\d+ (.*)|exporting layers$)", said)
    return (output[1] or "writing the image") if output else None
