"""What the service manager is told: sd_notify(3)."""

from __future__ import annotations

import math
import os
import socket
from collections import deque
from collections.abc import Callable

WAITING_MAX = 16
"""Messages to a manager that is busy; the oldest is given up first."""


class Notifier:
    """Tells systemd; does nothing where it does not listen.

    report: told, with a template and values, if that fails.
    interval_s: how often it wants to hear that all is well, halved; infinite if it does not.
    """

    def __init__(self, environment: dict[str, str], report: Callable[..., None]) -> None:
        self._report = report
        self._waiting: deque[bytes] = deque(maxlen=WAITING_MAX)
        self._address = environment.get("NOTIFY_SOCKET", "")
        usec = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.interval_s = int(usec) / 2e6 if usec.isdigit() and int(usec) and mine else math.inf

    def tell(self, *lines: str) -> None:
        """One message. A manager that is gone is not our concern."""
        if self._address:
            self._waiting.append("\n".join(lines).encode())
            self.flush()

    def flush(self) -> bool:
        """Send what waits. False if the manager has no room for it: to be called again in a moment."""
        if not self._waiting:
            return True
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as sender:
                while self._waiting:
                    sender.sendto(self._waiting[0], address)
                    self._waiting.popleft()
        except BlockingIOError:
            return False
        except OSError as error:
            self._waiting.clear()
            self._report("cannot notify the service manager: {}", error.strerror)
        return True
