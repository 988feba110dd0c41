"""Waiting for something to happen, and no longer than is reasonable."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_until(condition: Callable[[], Value], timeout_s: float, *, every_s: float = 0.1) -> Value:
    """Ask `condition` every `every_s` seconds until it is true, for `timeout_s` at most; what it said last."""
    give_up = time.monotonic() + timeout_s
    while not (said := condition()) and time.monotonic() <= give_up:
        time.sleep(every_s)
    return said
