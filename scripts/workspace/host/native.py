"""The workspace without Docker: the same server, from `.venv`, as a process of this machine."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
from dataclasses import asdict, dataclass
from typing import ClassVar

from workspace.base import network, places, programs
from workspace.base.cli import UserError
from workspace.base.programs import wait_until
from workspace.host import installer
from workspace.lab import access, commands

_ANSWERS_WITHIN_S = 120
_ENDS_WITHIN_S = 45
_LOG = places.NATIVE / "server.log"
_RECORD = places.NATIVE / "server.json"
_COMMANDS = places.NATIVE / "commands"


@dataclass(frozen=True)
class Server:
    """A server that was started on this machine."""

    pid: int
    port: int
    bind: str
    public_host: str
    gpu: ClassVar[bool] = True  # it has whatever this machine has
    tls: ClassVar[bool] = False

    def answers(self) -> bool:
        """Whether it serves."""
        here = "127.0.0.1" if self.bind == "0.0.0.0" else self.bind  # noqa: S104
        try:
            network.directly().open(f"http://{here}:{self.port}/api", timeout=5).close()
        except OSError:
            return False
        return True

    def link(self, default_host: str | None = None) -> str:  # noqa: ARG002  (it was started with one)
        """The address to open in a browser. Raises UserError where nobody answers there."""
        if not self.answers():
            raise UserError(
                f"the native server, process {self.pid}, does not answer: `kill -CONT {self.pid}` lets one that was "
                "stopped go on, scripts/stop ends it"
            )
        return access.link(self.public_host, self.port, access.token_in_use())

    def module(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a module of this package where the packages are."""
        return programs.ask(places.PYTHON, "-m", name)

    def rotate_token(self) -> "Server":
        """Change the token, and the server in its place. Raises UserError where that cannot be done."""
        access.rotate()
        self.stop()
        return start(self.bind, self.port, self.public_host)

    def stop(self) -> None:
        """End it and its kernels; a running cell is interrupted first. Raises UserError if it does not end."""
        os.kill(self.pid, signal.SIGTERM)
        os.kill(self.pid, signal.SIGCONT)  # one that was stopped would not hear it
        if not wait_until(lambda: not _is_held(), _ENDS_WITHIN_S):
            raise UserError(f"process {self.pid} does not end; `kill -9 {self.pid}` ends it at once")
        _RECORD.unlink(missing_ok=True)
        shutil.rmtree(places.runtime(), ignore_errors=True)

    def kept(self) -> list[str]:
        """What a stop leaves in place."""
        return [f"notebooks and runs: {places.work()}", f"datasets: {places.data()}", f"the token: {places.state()}"]


def running() -> Server | None:
    """The server that was started from this checkout, if it is still there. Raises UserError where that is unclear."""
    text = _RECORD.read_text() if _is_held() else ""
    try:
        return Server(**json.loads(text)) if text else None
    except (TypeError, ValueError) as error:
        pid = re.search(r'"pid": (\d+),', text)  # whole: half a number is another process's
        raise UserError(
            f"a native server runs whose record {_RECORD} is damaged; end it: kill {pid[1] if pid else '(see `ps`)'}"
        ) from error


def start(bind: str, port: int, public_host: str) -> Server:
    """Make `.venv` if needed, start the server in the background and wait until it answers.

    Raises UserError with the cause, and then nothing is left running.
    """
    installer.make()
    places.NATIVE.mkdir(exist_ok=True, mode=0o700)
    commands.make(_COMMANDS)
    with _LOG.open("w") as log, _RECORD.open("w") as record:
        fcntl.flock(record, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [places.PYTHON, places.REPOSITORY / "scripts" / "serve", "--ip", bind, "--port", str(port)],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[record.fileno()],  # the server holds it as long as it lives
            start_new_session=True,  # it outlives this terminal
        )
        try:
            server = Server(process.pid, port, bind, public_host)
            record.write(json.dumps(asdict(server)))
            record.flush()
            _wait_until_it_answers(server, process)
        except BaseException:  # Ctrl-C, too
            process.terminate()
            raise
    return server


def _is_held() -> bool:
    """Whether a server lives that holds the record: another process that has its number by now does not."""
    if not _RECORD.exists():
        return False
    with _RECORD.open() as record:
        try:
            fcntl.flock(record, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _wait_until_it_answers(server: Server, process: subprocess.Popen) -> None:
    if not wait_until(lambda: process.poll() is not None or server.answers(), _ANSWERS_WITHIN_S):
        raise UserError(f"the workspace does not answer after {_ANSWERS_WITHIN_S} s: scripts/doctor, and {_LOG}")
    if process.poll() is not None:
        raise UserError(
            f"the workspace did not start: {programs.last_words(_LOG.read_text())} (everything it said: {_LOG})"
        )


def _environment() -> dict[str, str]:
    """What the server and its kernels are told, as the image's ENV tells them there."""
    return os.environ | {
        "PATH": f"{places.VENV / 'bin'}:{os.environ.get('PATH', os.defpath)}:{_COMMANDS}",
        "JUPYTER_CONFIG_DIR": str(places.NATIVE / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(places.runtime()),
        "WORKSPACE_WORK": str(places.work()),
        "WORKSPACE_DATA": str(places.data()),
        "WORKSPACE_STATE": str(places.state()),
    }
