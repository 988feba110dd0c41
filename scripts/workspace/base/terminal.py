"""One line at the terminal that shows how long work goes on."""

import shutil
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

Value = TypeVar("Value")

_ELSEWHERE_EVERY_S = 15
_SHOWN_AFTER_S = 2


class StatusLine:
    """Shows where work is: one line that moves on a terminal, a line now and then in a file or a pipe."""

    def __init__(self) -> None:
        self._moves = sys.stderr.isatty()
        self._next = time.monotonic() + _ELSEWHERE_EVERY_S

    def show(self, text: str) -> None:
        """Replace the line by `text`."""
        if self._moves:
            wide = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{text[:wide]}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() >= self._next:
            print(text, file=sys.stderr, flush=True)
            self._next = time.monotonic() + _ELSEWHERE_EVERY_S

    def __enter__(self) -> "StatusLine":
        """Nothing is shown yet."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing is left of the moving line."""
        self.clear()

    def clear(self) -> None:
        """Take the moving line away, to make room for one that stays."""
        if self._moves:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def watched(work: Callable[[], Value], what: str) -> Value:
    """The result of `work`, and a line that says what goes on, and for how long, as soon as it takes longer."""
    results: list[Value] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    begun = time.monotonic()
    thread = threading.Thread(target=run, daemon=True)  # which Ctrl-C does not have to wait for
    thread.start()
    thread.join(_SHOWN_AFTER_S)
    with StatusLine() as line:
        while thread.is_alive():
            line.show(f"{what}, {duration(time.monotonic() - begun)}")
            thread.join(0.5)
    if errors:
        raise errors[0]
    return results[0]


def duration(seconds: float) -> str:
    """Seconds as people say them: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
