"""Going on without the terminal: in the background, or under nohup."""

import json
import os
import signal
import threading
from collections.abc import Callable
from typing import NoReturn

from workspace.base.cli import UserError


def cancelled_by(cancel: threading.Event, *signals: signal.Signals) -> None:
    """Set `cancel` at each of the signals, and nothing else; those stay ignored that are, as SIGHUP under nohup."""
    for number in signals:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: cancel.set())


def go_on(work: Callable[[Callable[[str], None]], object]) -> str:
    """Do `work` in a process that neither the terminal nor the browser tab ends.

    `work` is given a function to call, once, when it is under way; what it says there is returned here. A UserError
    before that is raised here. What `work` prints is lost.
    """
    hears, tells = os.pipe()
    if not os.fork():
        os.close(hears)
        _work_alone(work, tells)
    os.close(tells)
    with os.fdopen(hears) as pipe:
        said = pipe.read()
    if not said:
        raise UserError("it could not be started in the background; try it without")
    text, exit_code = json.loads(said)
    if exit_code:
        raise UserError(text, exit_code)
    return text


def _work_alone(work: Callable[[Callable[[str], None]], object], tells: int) -> NoReturn:
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    pipe = os.fdopen(tells, "w")

    def tell(text: str, exit_code: int = 0) -> None:
        if not pipe.closed:
            pipe.write(json.dumps([text, exit_code]))
            pipe.close()

    try:
        work(tell)
    except UserError as error:
        tell(str(error), error.exit_code)
    finally:
        os._exit(0)
