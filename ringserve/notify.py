"""What the service manager is told: sd_notify(3)."""

from __future__ import annotations

import math
import os
import socket

from ringserve.ring.tasks import report


class Notifier:
    """Tells systemd; does nothing where it does not listen.

    interval_s: how often it wants to hear that all is well, halved; infinite if it does not.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        usec = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.interval_s = int(usec) / 2e6 if usec.isdigit() and int(usec) and mine else math.inf

    def tell(self, *lines: str) -> None:
        """One message. A manager that is gone is not our concern."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            report(f"cannot notify the service manager: {error.strerror}")
