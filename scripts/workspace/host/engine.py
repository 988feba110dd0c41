"""The workspace in Docker: everything that talks to the engine."""

import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workspace.base import cli, places
from workspace.base.cli import UserError
from workspace.lab import access, serve

OLDEST_COMPOSE = (2, 24)
SERVICE = "workspace"
TLS = "tls"

_SECRETS = "/run/workspace-secrets"
_MACHINES_OWN = 512 << 20
# Runs a module of this package in the container. -P: else a file of the work folder could stand in for it.
_MODULE = ["-T", SERVICE, "python", "-P", "-m"]
_HEALTHY_WITHIN_S = 180

_CAUSES = {
    # What the engine, BuildKit and uv say -> what is wrong and what to do. The first that matches counts.
    r"port is already allocated|address already in use|ports are not available": (
        "port {port} is taken by another program; choose another: scripts/start --port {other_port}"
    ),
    r"cannot assign requested address": access.NO_SUCH_ADDRESS,
    r"no space left on device|ENOSPC|not enough space": (
        "the disk is full; `docker system df` shows what Docker holds, `docker builder prune` frees its build cache"
    ),
    r"could not select device driver|unknown or invalid runtime name: nvidia|unresolvable CDI devices"
    r"|no known GPU vendor found": (
        "Docker cannot reach a GPU: this machine has none, or the NVIDIA Container Toolkit (1.17.8 or newer) is not "
        "set up: `sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker`. "
        "Without --gpu the workspace runs on the CPU"
    ),
    r"nvidia-container-cli: initialization error|libnvidia-ml\.so|driver.*not loaded|nvml error": (
        "the NVIDIA Container Toolkit is there but the GPU's driver is not: `nvidia-smi` must work here first"
    ),
    r"caddy.*(not found|denied|failed to|no such host)|(resolve source metadata|failed to do request).*caddy": (
        "Caddy's image cannot be fetched from Docker Hub: check the network, or name an image of your own "
        "(WORKSPACE_CADDY_IMAGE=...)"
    ),
    r"Range of CPUs is from": "WORKSPACE_CPUS is more than this machine has: {line}",
    r"(resolve source metadata|pull access denied|failed to do request|pulling from host).*": (
        "the base image cannot be fetched from Docker Hub: check the network, name an image of your own "
        "(WORKSPACE_BASE_IMAGE=...), or go without Docker: scripts/start --native"
    ),
    r"download\.pytorch\.org|Failed to fetch: \S*/torch(vision)?/": (
        "PyTorch's wheel index cannot be reached: name another (WORKSPACE_TORCH_INDEX=...), take the larger general "
        "build (WORKSPACE_WHEELS=cuda), or go without Docker: scripts/start --native"
    ),
    r"invalid peer certificate|CERTIFICATE_VERIFY_FAILED|UnknownIssuer": (
        "downloads meet a certificate that is not trusted here, as behind a proxy that inspects TLS: "
        "name its CA bundle: WORKSPACE_CA_BUNDLE=/path/to/ca.pem"
    ),
    r"(error sending request|Failed to fetch|Temporary failure resolving|Could not resolve|NewConnectionError)": (
        "a package index cannot be reached: check the network, or the proxy (HTTPS_PROXY, WORKSPACE_CA_BUNDLE)"
    ),
}


@dataclass(frozen=True)
class Workspace:
    """The compose project, with what a command line adds to its settings."""

    gpu: bool = False
    tls: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    def image(self) -> str:
        """The image this asks for."""
        return self._service()["image"]

    def port(self) -> int:
        """The port on the host."""
        return int(self._published()["published"])

    def bind(self) -> str:
        """The host's address that the port is opened on."""
        return self._published()["host_ip"]

    def running(self) -> dict[str, Any] | None:
        """The running container as `docker compose ps` describes it, or None."""
        containers = self._ps(SERVICE)
        return containers[0] if containers and containers[0]["State"] == "running" else None

    def published(self) -> dict[str, Any]:
        """Where the running workspace is reached, as `docker compose ps` describes it: PublishedPort, URL, Service."""
        found = [
            published | {"Service": container["Service"]}
            for container in self._ps()
            for published in container["Publishers"] or ()
            if container["Service"] in (SERVICE, TLS) and published["PublishedPort"]
        ]
        return max(found, key=lambda published: (published["Service"] == TLS, published["TargetPort"]))

    def build(self) -> None:
        """Build the image, or bring it up to date, with a line for each step. Raises UserError with the cause."""
        log = places.NATIVE / "build.log"
        log.parent.mkdir(exist_ok=True)
        progress = _BuildProgress()
        command = self._command("--progress=plain", "build", SERVICE)
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=places.REPOSITORY,
                env=self._environment(),
                text=True,
                errors="replace",
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for line in process.stdout or ():
                file.write(line)
                progress.show(line)
        progress.end()
        if process.wait() == 0:
            return
        cause = self._cause(log.read_text())
        if self._image_exists():
            cli.say(f"The image could not be brought up to date ({cause}); starting the one that is there.")
        else:
            raise UserError(f"the image could not be built: {cause} (everything it said: {log})")

    def require_gpu(self) -> None:
        """Ask the engine for a GPU before anything large is downloaded. Raises UserError with the cause."""
        empty = subprocess.run(["docker", "import", "-"], input=b"\0" * 10240, capture_output=True, check=False)
        image = empty.stdout.decode().strip()
        # There is nothing to run in an empty image; only a failure to hand over the GPU comes before that is noticed.
        tried = subprocess.run(
            ["docker", "run", "--rm", "--gpus=all", image, "nothing"], capture_output=True, text=True, check=False
        )
        subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True, check=False)
        for pattern, message in _CAUSES.items():
            if re.search(pattern, tried.stderr) and "GPU" in message:
                raise UserError(message)

    def up(self) -> None:
        """Start the container and wait until it answers. Raises UserError with the cause; then nothing runs."""
        self._show_that_no_token_is_given()
        started = self._compose("up", "--detach", "--no-build", SERVICE, *([TLS] if self.tls else []))
        if started.returncode:
            self._compose("down")
            raise UserError(self._cause(started.stderr))
        self._wait_until_healthy()

    def rotate_token(self) -> None:
        """Change the token of the running workspace and restart it. Raises UserError where that cannot be done."""
        [container] = self._ps(SERVICE)
        inspected = subprocess.run(
            ["docker", "inspect", "--format", "{{json .Mounts}}", container["ID"]],
            capture_output=True,
            text=True,
            check=True,
        )
        sources = {mount["Destination"]: mount["Source"] for mount in json.loads(inspected.stdout)}
        given = Path(sources[_SECRETS]) / "token"
        if os.path.lexists(given):
            access.replace(given)  # read-only in the container
        else:
            rotated = self._module("workspace.lab.access", "rotate")
            if rotated.returncode:
                raise UserError(serve.last_words(rotated.stderr))
        restarted = self._compose("restart", SERVICE)
        if restarted.returncode:
            raise UserError(self._cause(restarted.stderr))
        self._wait_until_healthy()

    def _show_that_no_token_is_given(self) -> None:
        """Let the container's user into the secrets folder as long as it is empty.

        After a clone under a strict umask it could not enter, and what cannot be read might be a token that was meant.
        """
        [folder] = (Path(mount["source"]) for mount in self._service()["volumes"] if mount["target"] == _SECRETS)
        if folder.is_dir() and folder.stat().st_uid == os.getuid() and not os.path.lexists(folder / "token"):
            folder.chmod(folder.stat().st_mode | 0o055)

    def _wait_until_healthy(self) -> None:
        give_up = time.monotonic() + _HEALTHY_WITHIN_S
        while self._compose("exec", "-T", SERVICE, "python", "/opt/workspace/docker/healthcheck.py").returncode:
            if {container["State"] for container in self._ps()} - {"created", "running"}:
                log = self._compose("logs", "--no-log-prefix", "--tail", "50").stdout
                self._compose("down")
                raise UserError(f"the workspace did not start: {serve.last_words(log)}")
            if time.monotonic() > give_up:
                raise UserError(f"the workspace does not answer after {_HEALTHY_WITHIN_S} s: docker compose logs")
            time.sleep(0.3)

    def link(self, default_host: str) -> str:
        """The link, from the container's own `link`. Raises UserError if it cannot tell."""
        told = self._compose("exec", "-T", SERVICE, "lab-link", "--default-host", default_host)
        if told.returncode:
            raise UserError(f"the running container does not tell its link: {told.stderr.strip()}")
        return told.stdout.strip()

    def reset_lesson(self) -> list[str]:
        """Put the delivered lesson beside the user's; the names of the files written."""
        done = self._module("workspace.lab.seed")
        if done.returncode:
            raise UserError(f"the lesson could not be put back: {serve.last_words(done.stderr)}")
        return done.stdout.splitlines()

    def archive(self, action: str, given: int | None = None, output: int | None = None) -> None:
        """Run workspace.lab.archive where the volumes are, with these descriptors as standard input and output.

        Raises UserError with what it said.
        """
        if not self._image_exists():
            self.build()
        how = ["exec"] if self.running() else ["run", "--rm", "--no-deps"]
        done = subprocess.run(
            self._command("--progress=quiet", *how, *_MODULE, "workspace.lab.archive", action),
            cwd=places.REPOSITORY,
            env=self._environment(),
            stdin=subprocess.DEVNULL if given is None else given,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UserError(serve.last_words(done.stderr))
        print(done.stderr, end="", file=sys.stderr)

    def down(self) -> None:
        """Stop and remove the container; volumes stay. A running cell is interrupted first."""
        stopped = self._compose("down", "--remove-orphans")  # TLS's, where this does not know of it
        if stopped.returncode:
            raise UserError(self._cause(stopped.stderr))

    def kept(self) -> list[str]:
        """What a stop leaves in place, a line for each volume or folder."""
        volumes = self._configuration["volumes"]
        contents = {"/workspace": "notebooks and runs", "/data": "datasets", "/state": "the token"}
        return [
            f"{contents[mount['target']]}: "
            + (f"volume {volumes[mount['source']]['name']}" if mount["type"] == "volume" else mount["source"])
            for mount in self._service()["volumes"]
            if mount["target"] in contents
        ]

    def _command(self, *arguments: str) -> list[str]:
        overlays = ["docker-compose.gpu.yml"] * self.gpu + ["docker/tls.yml"] * self.tls
        files = ["docker-compose.yml", *overlays] if overlays else []
        return ["docker", "compose", "--ansi=never", *(f"--file={file}" for file in files), *arguments]

    def _environment(self) -> dict[str, str]:
        return os.environ | self.settings

    def _module(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a module of this package in the running container."""
        return self._compose("exec", *_MODULE, name, *arguments)

    def _published(self) -> dict[str, str]:
        """The configured port that a browser connects to."""
        return self._configuration["services"][TLS if self.tls else SERVICE]["ports"][-1]

    def _compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(*arguments),
            cwd=places.REPOSITORY,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    @functools.cached_property
    def _configuration(self) -> dict:
        done = self._compose("config", "--format", "json")
        if done.returncode:
            raise UserError(f"the settings do not fit docker-compose.yml: {done.stderr.strip()}", cli.BAD_INPUT)
        return json.loads(done.stdout)

    def _service(self) -> dict:
        return self._configuration["services"][SERVICE]

    def _ps(self, service: str | None = None) -> list[dict[str, Any]]:
        """The project's containers, or one service's; also of services in an overlay that this was not told about."""
        listed = self._compose("ps", "--all", "--format", "json")
        containers = [json.loads(line) for line in listed.stdout.splitlines()]
        return [container for container in containers if service in (None, container["Service"])]

    def _image_exists(self) -> bool:
        return (
            subprocess.run(["docker", "image", "inspect", self.image()], capture_output=True, check=False).returncode
            == 0
        )

    def _cause(self, said: str) -> str:
        return explain(said, self.port())


def explain(said: str, port: int) -> str:
    """Turn what the engine said into one line that names the cause and the next step."""
    taken = re.search(r"(?:Bind for|host port for|listen tcp\d?) \S*?:(\d+)", said)
    if taken and int(taken[1]) != port:  # the other port that TLS needs
        return f"port {taken[1]} is taken by another program; choose another: WORKSPACE_HTTP_PORT=8080"
    for pattern, message in _CAUSES.items():
        if found := re.search(pattern, said):
            line = next(line for line in said.splitlines() if found.group().splitlines()[0] in line)
            return message.format(port=port, other_port=port + 1, line=line.strip())
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|failed|cannot|denied", line, re.IGNORECASE)]
    return (errors or lines or ["Docker gave no reason"])[-1]


def find() -> bool:
    """Whether an engine answers. Raises UserError where there is one that cannot be used as things are."""
    try:
        asked = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    if "permission denied" in asked.stderr:
        raise UserError(
            "there is a Docker engine and you may not use it: `sudo usermod -aG docker $USER`, then log in again; "
            "or go without it: scripts/start --native"
        )
    if asked.returncode:
        return False
    version = subprocess.run(["docker", "compose", "version", "--short"], capture_output=True, text=True, check=False)
    numbers = tuple(int(number) for number in re.findall(r"\d+", version.stdout)[:2])
    if version.returncode or numbers < OLDEST_COMPOSE:
        have = f"is {version.stdout.strip()}" if not version.returncode else "is missing"
        wanted = ".".join(map(str, OLDEST_COMPOSE))
        raise UserError(
            f"Docker Compose {have} and {wanted} or newer is needed: install docker-compose-v2 "
            "(Ubuntu), docker-compose (Debian) or docker-compose-plugin (Docker's packages); "
            "or go without Docker: scripts/start --native"
        )
    return True


def memory_limit() -> dict[str, str]:
    """The setting that leaves the machine some memory of its own, unless the user set one.

    Where a limit is met a kernel dies and the lab says why; where there is none the machine hangs.
    """
    command = ["docker", "info", "--format", "{{.MemTotal}}"]
    total = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if places.setting("WORKSPACE_MEM") or not total.isdigit():
        return {}
    return {"WORKSPACE_MEM": str(int(total) - max(int(total) // 10, _MACHINES_OWN))}


class _BuildProgress:
    """Shows where a build is: one line that moves on a terminal, a line for each step that takes time elsewhere."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._steps: dict[str, str] = {}

    def show(self, line: str) -> None:
        """Take in one line of BuildKit's plain output: `#12 [3/9] RUN ...` names a step, `#12 0.7 ...` is output."""
        if named := re.match(r"(#\d+) \[.*?(\d+/\d+)\] (?:RUN )?(.*)", line):
            command = re.sub(r"--mount=\S+\s+|if .*? fi\s+&& |export .*?\s+&& |cd \S+\s+&& ", "", named[3])
            self._steps[named[1]] = f"{named[2]} {command}"
        elif said := re.match(r"(#\d+) (?:\d+\.\d+ (.*)|exporting layers$)", line):
            step = self._steps.pop(said[1], None)
            if sys.stdout.isatty():
                self._print(said[2] or "writing the image")
            elif step or not said[2]:
                cli.say(self._text(step or "writing the image"))

    def end(self) -> None:
        """Clear the moving line."""
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)

    def _print(self, what: str) -> None:
        print(f"\r\033[K{self._text(what)}", end="", flush=True)

    def _text(self, what: str) -> str:
        return f"Building, {time.monotonic() - self._begun:3.0f} s: {what[:80]}"
