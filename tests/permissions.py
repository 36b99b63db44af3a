"""Servers that heed permissions, whoever runs the tests."""

from __future__ import annotations

import ctypes
import struct
import threading
from typing import Any

from conftest import Serving
from wire import TIMEOUT_S

from ringserve.library import RunningServer

CAPABILITY_VERSION_3 = 0x20080522
OVERRIDING = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (capabilities(7)): with them root reads what nobody may."""
RAISING = 1 << 21 | 1 << 24
"""CAP_SYS_ADMIN and CAP_SYS_RESOURCE: with them some limits are none."""


def give_up_overriding() -> None:
    """This thread, and those that it starts, heed permissions, even as root."""
    give_up(OVERRIDING)


def give_up_raising() -> None:
    """And these heed limits."""
    give_up(RAISING)


def give_up(capabilities: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    assert libc.capget(header, data) == 0
    effective, *rest = struct.unpack("6I", data.raw)
    assert libc.capset(header, struct.pack("6I", effective & ~capabilities, *rest)) == 0


def serving_as_a_user(serving: Serving, **settings: Any) -> RunningServer:
    """A server that is refused what permissions refuse, also if root runs the tests."""
    started: list[RunningServer] = []

    def start() -> None:
        give_up_overriding()
        started.append(serving(**settings))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(TIMEOUT_S)
    (running,) = started
    return running
