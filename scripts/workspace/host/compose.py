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

    def image(self) -> str:
        """The image this asks for."""
        return self._service()["image"]

    def port(self) -> int:
        """The port on the host."""
        return int(self._configured_port()["published"])

    def bind(self) -> str:
        """The host's address that the port is opened on."""
        return self._configured_port()["host_ip"]

    def exists(self) -> bool:
        """Whether there is anything of it: containers or volumes."""
        return bool(self._ps()) or self.project in engine.workspaces()

    def running(self) -> dict[str, Any] | None:
        """The running container as `docker compose ps` describes it, or None. Raises UserError where it is paused."""
        container = next(iter(self._ps(SERVICE)), {"State": "absent"})
        if container["State"] == "paused":
            raise PausedError(f"the workspace is paused; `docker unpause {container['Name']}` lets it go on")
        return container if container["State"] == "running" else None

    def runs_on_gpu(self) -> bool:
        """Whether what runs was started with a GPU."""
        return _inspect(self._ps(SERVICE)[0], "{{len .HostConfig.DeviceRequests}}") != "0"

    def require_ours(self) -> None:
        """Raise UserError where what runs was started from another checkout, which has it by the same name."""
        container = self._ps(SERVICE)[0]
        folder = _inspect(container, '{{index .Config.Labels "com.docker.compose.project.working_dir"}}')
        if Path(folder).is_dir() and not places.REPOSITORY.samefile(folder):
            raise UserError(
                f"the workspace {self.project} runs from another checkout, {folder}: go there, or name one of this "
                f"checkout: COMPOSE_PROJECT_NAME=another scripts/start --port {self.port() + 1}"
            )

    def where(self) -> tuple[str, int]:
        """The host's address and port at which the running workspace is reached."""
        published = self._published()
        return published["URL"], published["PublishedPort"]

    def runs_with_tls(self) -> bool:
        """Whether what runs was started with TLS."""
        return self._published()["Service"] == TLS

    def _published(self) -> dict[str, Any]:
        found = [
            published | {"Service": container["Service"]}
            for container in self._ps()
            for published in container["Publishers"] or ()
            if container["Service"] in (SERVICE, TLS) and published["PublishedPort"]
        ]
        return max(found, key=lambda published: (published["Service"] == TLS, published["TargetPort"]))

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
        wanted, there = (str(user).partition(":")[0] for user in (self._service()["user"], built["User"]))
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

    def up(self) -> None:
        """Start the container and wait until it answers. Raises UserError with the cause; then nothing runs."""
        try:
            self._do("up", "--detach", "--no-build", SERVICE, *([TLS] if self.tls else []))
        except UserError:
            self._ask("down")
            raise
        self._wait_until_healthy()

    def rotate_token(self) -> "Workspace":
        """Change the token of the running workspace and restart it. Raises UserError where that cannot be done."""
        self.require_ours()
        container = self._ps(SERVICE)[0]
        mounts = json.loads(_inspect(container, "{{json .Mounts}}"))
        sources = {mount["Destination"]: mount["Source"] for mount in mounts}
        file = Path(sources[_SECRETS]) / "token"
        if os.path.lexists(file):
            access.replace(file)  # read-only in the container
        else:
            rotated = self.module("workspace.lab.access", "rotate")
            if rotated.returncode:
                raise UserError(programs.last_words(rotated.stderr))
        self._do("restart", SERVICE)
        self._wait_until_healthy()
        return self

    def link(self, default_host: str | None = None) -> str:
        """The link, from the container's own `link`. Raises UserError if it cannot tell."""
        host = address.host_name(self.where()[0], default_host)
        told = self._ask("exec", "-T", SERVICE, "lab-link", "--default-host", host)
        if told.returncode:
            raise UserError(f"the running container does not tell its link: {told.stderr.strip()}")
        return told.stdout.strip()

    def idle_s(self) -> float | None:
        """For how many seconds nothing has worked in the lab; None where none answers."""
        told = self.module("workspace.lab.idle") if self.running() else None
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
        if done.returncode and not done.stderr.strip():
            raise UserError(f"the container ended before it was through (exit code {done.returncode}); do it again")
        if done.returncode:
            raise UserError(programs.last_words(done.stderr))
        return done.stderr

    def stop(self) -> None:
        """Stop and remove the container; volumes stay. A running cell is interrupted first."""
        self.require_ours()
        self._do("down", "--remove-orphans")  # TLS's, where this does not know of it

    def kept(self) -> list[str]:
        """What a stop leaves in place, a line for each volume or folder."""
        volumes = self.configuration["volumes"]
        contents = {"/workspace": "notebooks and runs", "/data": "datasets", "/state": "the token"}
        return [
            f"{contents[mount['target']]}: "
            + (f"volume {volumes[mount['source']]['name']}" if mount["type"] == "volume" else mount["source"])
            for mount in self._service()["volumes"]
            if mount["target"] in contents
        ]

    def last_words(self) -> str | None:
        """What the container said last, where it has ended or is started again and again; else None."""
        try:
            ended = self._ended()
        except UserError:
            return None
        return self._said(ended) if ended else None

    def _wait_until_healthy(self) -> None:
        outcome = wait_until(lambda: self._ended() or self._answers(), _HEALTHY_WITHIN_S, every_s=0.3)
        if not outcome:
            raise UserError(f"the workspace does not answer after {_HEALTHY_WITHIN_S} s: scripts/doctor")
        if outcome is not True:  # the service that ended
            said = self._said(outcome)
            self._ask("down")
            what = "Caddy, which does TLS," if outcome == TLS else "the workspace"
            raise UserError(f"{what} did not start: {said}")

    def _said(self, service: str) -> str:
        return programs.last_words(self._ask("logs", "--no-log-prefix", "--tail", "50", service).stdout)

    def _answers(self) -> bool:
        return self._ask("exec", "-T", SERVICE, "python", "/opt/workspace/docker/healthcheck.py").returncode == 0

    def _ended(self) -> str | None:
        """The service whose container has ended, or is started again and again."""
        for container in self._ps():
            if container["State"] not in ("created", "running") or _inspect(container, "{{.RestartCount}}") != "0":
                return container["Service"]
        return None

    def _command(self, *arguments: str) -> list[str]:
        overlays = ["docker-compose.gpu.yml"] * self.gpu + ["docker/tls.yml"] * self.tls + [*self.overlays]
        files = ["docker-compose.yml", *overlays] if overlays else []
        return ["docker", "compose", "--ansi=never", *(f"--file={file}" for file in files), *arguments]

    def _environment(self) -> dict[str, str]:
        bundle = {"WORKSPACE_CA_BUNDLE": str(network.authorities() or os.devnull)}
        return os.environ | bundle | _no_token_is_no_folder() | self.variables

    def module(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a module of this package in the running container."""
        return self._ask("exec", *_MODULE, name, *arguments)

    def _configured_port(self) -> dict[str, str]:
        """The port that a browser connects to, as it is set."""
        return self.configuration["services"][TLS if self.tls else SERVICE]["ports"][-1]

    def _do(self, *arguments: str) -> str:
        """Have Compose do something and return what it says. Raises UserError with the cause."""
        done = self._ask(*arguments)
        if done.returncode:
            raise UserError(causes.explain(done.stderr, self.port()))
        return done.stdout

    def _ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
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
        done = self._ask("config", "--format", "json")
        if done.returncode:
            raise UserError(f"the settings do not fit docker-compose.yml: {done.stderr.strip()}", cli.BAD_INPUT)
        return json.loads(done.stdout)

    def _service(self) -> dict:
        return self.configuration["services"][SERVICE]

    def _ps(self, service: str | None = None) -> list[dict[str, Any]]:
        """The project's containers, or one service's; also of services in an overlay that this was not told about."""
        containers = [json.loads(line) for line in self._do("ps", "--all", "--format", "json").splitlines()]
        # One that was made for a single command, such as scripts/data, is not the workspace.
        lasting = [each for each in containers if "com.docker.compose.oneoff=True" not in each["Labels"]]
        return [container for container in lasting if service in (None, container["Service"])]


def _inspect(container: Mapping[str, Any], what: str) -> str:
    return programs.ask("docker", "inspect", "--format", what, container["ID"], check=True).stdout.strip()


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
