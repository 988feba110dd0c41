"""What makes a fresh machine a workspace: an engine, a GPU's driver, and services that bring it back after a reboot."""

import os
import re
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from workspace.base import cli, places, programs
from workspace.base.cli import UserError
from workspace.base.files import locked, replacing
from workspace.base.terminal import duration
from workspace.base.verdicts import State
from workspace.host import causes, engine, gpu, start
from workspace.host.compose import Workspace

LOG = Path("/var/log/pytorch-workspace.log")
"""What `make` said. There is no token in it."""

REBOOT = "a reboot is due"
"""What the log's last line says in place of the host where the GPU's driver waits for one."""

_ROOT = Path("/")
_UNITS = Path("/etc/systemd/system")
_DISK = Path("/var/lib")
_START, _METADATA, _IDLE = "pytorch-workspace", "pytorch-workspace-metadata", "pytorch-workspace-idle"

_PACKAGES = {
    "debian": (["docker.io", "docker-cli", "iptables"], ["docker-compose", "docker-buildx"]),
    "ubuntu": (["docker.io", "iptables"], ["docker-compose-v2", "docker-buildx"]),
}
"""The engine's packages, and those of its plugins, by what the system calls itself."""

_GB_NEEDED = {False: 8, True: 25}  # without and with CUDA: the image, and as much again while it is built
_APT_WAITS_S = 600
LEAST_IDLE_MIN = 20

_METADATA_UNIT = """\
[Unit]
Description=Keep what the cloud tells and lends to this machine from its containers
Before=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-/usr/sbin/iptables --wait --new-chain DOCKER-USER
ExecStart=-/usr/sbin/iptables --wait --delete DOCKER-USER --destination 169.254.169.254 --jump DROP
ExecStart=/usr/sbin/iptables --wait --insert DOCKER-USER --destination 169.254.169.254 --jump DROP

[Install]
RequiredBy=docker.service
"""

_START_UNIT = """\
[Unit]
Description=PyTorch workspace
Requires=docker.service
Wants=network-online.target
After=docker.service network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=infinity
Environment=HOME=/root
ExecStart={python} {scripts}/start {options}
ExecStop=-{python} {scripts}/stop
# Where the link, with its token, is printed.
StandardOutput=null
StandardError=journal

[Install]
WantedBy=multi-user.target
"""

_IDLE_UNIT = """\
[Unit]
Description=Deallocate this VM when nothing works on it

[Service]
Type=oneshot
Environment=HOME=/root PYTHONPATH={scripts}
ExecStart={python} -m workspace.cloud.idle {minutes}
"""

_IDLE_TIMER = """\
[Unit]
Description=Look every five minutes whether anything works on this VM

[Timer]
OnActiveSec=5min
OnUnitActiveSec=5min

[Install]
WantedBy=timers.target
"""


def make(options: list[str], idle_min: int) -> None:
    """Make this machine a workspace, started with `options` of scripts/start; done again it makes up for what lacks.

    The last line said is the link's host, or that a reboot is due. Raises UserError with the step that failed and why.
    """
    if os.getuid() != 0:
        raise UserError("only root can install an engine: put sudo in front", cli.BAD_INPUT)
    if idle_min and idle_min < LEAST_IDLE_MIN:
        raise UserError(
            f"--idle {idle_min}: at least {LEAST_IDLE_MIN} minutes, or a start would not end", cli.BAD_INPUT
        )
    with locked(Path("/run/pytorch-workspace.lock"), "Another bootstrap-vm is at work here; waiting for it ..."):
        has_gpu = gpu.card(_ROOT).state is State.WELL
        _step("checks", lambda: _check(has_gpu=has_gpu))
        _step("engine", _engine)
        _step("metadata", _keep_metadata_from_containers)
        loaded = not has_gpu or _step("GPU", _gpu)
        _step("services", lambda: _write_services([*options, *(["--gpu"] if has_gpu else [])], idle_min))
        if not loaded:
            _say(f"{REBOOT}, for the GPU's driver: `sudo reboot`; the workspace starts by itself after it")
            return
        _step("workspace", _start)
        _say(urlsplit(start.link()).hostname or "")


def _step(name: str, do: Callable[[], object]) -> object:
    """Do it, and say so and how long it took."""
    begun = time.monotonic()
    _say(f"{name} ...")
    try:
        done = do()
    except UserError as error:
        _say(f"{name}: {error}")
        raise
    _say(f"{name}: done in {duration(time.monotonic() - begun)}")
    return done


def _say(line: str) -> None:
    cli.say(line)
    with LOG.open("a") as log:
        log.write(f"{time.strftime('%H:%M:%S')} {line}\n")


def _check(*, has_gpu: bool) -> None:
    if not shutil.which("systemctl"):
        raise UserError("there is no systemd here, which brings the workspace back after a reboot")
    free = shutil.disk_usage(_DISK).free / 1e9
    if free < _GB_NEEDED[has_gpu] and not _answers("docker", "image", "inspect", "pytorch-workspace:cpu"):
        raise UserError(
            f"{_DISK} has {free:.0f} GB free and the workspace needs {_GB_NEEDED[has_gpu]}: take a larger disk"
        )


def _engine() -> None:
    """Docker Engine, Compose and buildx: what is there, if it suffices, else the distribution's."""
    system = next(iter(causes.systems()), "an unknown system")
    engines, plugins = _PACKAGES.get(system, ([], []))
    if not plugins:
        raise UserError(f"this is {system}: take Ubuntu 24.04 or Debian 13, whose packages are known")
    lacking = engines if engine.look().state is State.BROKEN else []
    if not (_answers("docker", "compose", "version") and _answers("docker", "buildx", "version")):
        lacking = lacking + plugins
    if lacking:
        _install(*lacking)
        _run("systemctl", "enable", "--now", "docker")
    engine.require()


def _keep_metadata_from_containers() -> None:
    _write(_UNITS / f"{_METADATA}.service", _METADATA_UNIT)
    _run("systemctl", "daemon-reload")
    _run("systemctl", "enable", "--now", f"{_METADATA}.service")


def _gpu() -> bool:
    """Driver and toolkit; whether the driver is loaded, for which a reboot may be due."""
    if not _has_driver():
        if causes.systems()[0] != "ubuntu":
            raise UserError(
                f"{causes.systems()[0]} has no NVIDIA driver of version {gpu.OLDEST_DRIVER}: take Ubuntu 24.04, or "
                "install NVIDIA's own packages and do this again"
            )
        _install("ubuntu-drivers-common")
        _run("ubuntu-drivers", "install", "--gpgpu", f"nvidia:{gpu.OLDEST_DRIVER}-server")
        _install(f"nvidia-utils-{gpu.OLDEST_DRIVER}-server")
        _answers("modprobe", "nvidia")
    if not shutil.which("nvidia-ctk"):
        _add_nvidias_packages()
        _install("nvidia-container-toolkit")
    if '"nvidia"' not in programs.ask("docker", "info", "--format", "{{json .Runtimes}}", check=True).stdout:
        _run("nvidia-ctk", "runtime", "configure", "--runtime=docker")
        _run("systemctl", "restart", "docker")
    return _has_driver()


def _has_driver() -> bool:
    return int(gpu.loaded_driver(_ROOT).partition(".")[0] or 0) >= gpu.OLDEST_DRIVER


def _add_nvidias_packages() -> None:
    """Where the toolkit comes from, as NVIDIA's installation guide has it."""
    source = "https://nvidia.github.io/libnvidia-container"
    key = _ROOT / "etc/apt/keyrings/nvidia-container-toolkit.asc"
    try:
        with urllib.request.urlopen(f"{source}/gpgkey", timeout=60) as answer:  # noqa: S310
            _write(key, answer.read().decode())
    except OSError as error:
        raise UserError(f"NVIDIA's packages cannot be reached: {error}") from error
    line = f"deb [signed-by={key}] {source}/stable/deb/$(ARCH) /\n"
    _write(_ROOT / "etc/apt/sources.list.d/nvidia-container-toolkit.list", line)


def _write_services(options: list[str], idle_min: int) -> None:
    words = {
        "python": sys.executable,
        "scripts": places.REPOSITORY / "scripts",
        "options": " ".join(map(_quoted, options)),
        "minutes": idle_min,
    }
    units = {f"{_START}.service": _START_UNIT}
    if idle_min:
        units |= {f"{_IDLE}.service": _IDLE_UNIT, f"{_IDLE}.timer": _IDLE_TIMER}
    for name, text in units.items():
        _write(_UNITS / name, text.format(**words))
    _run("systemctl", "daemon-reload")
    _run("systemctl", "enable", f"{_START}.service")
    if idle_min:
        _run("systemctl", "enable", "--now", f"{_IDLE}.timer")
    elif (_UNITS / f"{_IDLE}.timer").exists():
        _run("systemctl", "disable", "--now", f"{_IDLE}.timer")


def _quoted(word: str) -> str:
    """One word of a systemd command line, whatever it has in it."""
    return '"' + re.sub(r'(["\\])', r"\\\1", word).replace("%", "%%").replace("$", "$$") + '"'


def _start() -> None:
    """Have the unit start the workspace, unless it runs: then its kernels live on."""
    verb = "start" if Workspace().running() else "restart"
    if programs.ask("systemctl", verb, _START).returncode:
        log = ("journalctl", "--unit", _START, "--lines=20", "--output=cat", "--no-pager")
        refusals = re.findall(r"(?m)^start: (.*)", programs.ask(*log).stdout)
        raise UserError(refusals[-1] if refusals else f"the workspace did not start: journalctl --unit {_START}")


def _install(*packages: str) -> None:
    # An index that cannot be fetched may not be needed; if it is, that says why a package cannot be found.
    update = _apt("update")
    _apt("install", "--yes", "--no-install-recommends", *packages, before=update)


def _apt(*words: str, before: str = "") -> str:
    """Run apt-get; what it said. Wait while another program, such as unattended-upgrades, has its lock."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    give_up = time.monotonic() + _APT_WAITS_S
    waits = False
    while True:
        _answers("dpkg", "--configure", "-a")  # what a kill left half done
        command = ["apt-get", "--quiet", "--quiet", *words]
        done = programs.ask(*command, env=environment)
        said = before + done.stdout + done.stderr
        if done.returncode == 0:
            return said
        if not re.search("Could not get lock|Unable to (acquire|lock)", done.stderr):
            break
        if time.monotonic() > give_up:
            holder = re.search(r"held by process \d+ \(.*?\)", done.stderr)
            raise UserError(
                f"apt is still busy after {duration(_APT_WAITS_S)}{f', {holder[0]}' if holder else ''}: do this again "
                "when that has ended"
            )
        if not waits:
            _say("apt is busy, as with the unattended upgrades of a fresh machine; waiting for it ...")
        waits = True
        time.sleep(2)
    errors = re.findall(r"(?m)^E: (.*)", said)
    why = causes.explain(said) if causes.find(said) else (errors or ["it gave no reason"])[-1]
    raise UserError(f"apt-get {words[0]} failed: {why}")


def _answers(*command: str) -> bool:
    """Whether the command is there and succeeds."""
    return programs.ask(*command).returncode == 0


def _run(*command: str) -> None:
    done = programs.ask(*command)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {programs.last_words(done.stderr or done.stdout)}")


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as new:
        new.write_text(text)
        new.chmod(0o644)
