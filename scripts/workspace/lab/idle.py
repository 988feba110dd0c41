"""For how long nothing has worked in the lab: asked inside the container, where the token is."""

import json
import time
import urllib.request
from datetime import datetime
from typing import Any

from workspace.base import cli, network
from workspace.lab import access

_STATUS = "http://localhost:8888/api/status"


def seconds(status: dict[str, Any], now: float) -> float:
    """Since the last activity by `/api/status`, `now` being seconds since 1970; 0 while a browser is connected."""
    return 0 if status["connections"] else max(0, now - datetime.fromisoformat(status["last_activity"]).timestamp())


def main() -> None:
    """Say the seconds."""
    request = urllib.request.Request(_STATUS, headers={"Authorization": f"token {access.token_in_use()}"})
    with network.directly().open(request, timeout=10) as answer:
        cli.say(f"{seconds(json.load(answer), time.time()):.0f}")


if __name__ == "__main__":
    main()
