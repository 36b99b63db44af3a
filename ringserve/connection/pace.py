"""How long a client may take for an answer, by the bytes that it has acknowledged. Pure.

A client has to acknowledge `rate_bytes_min` bytes a second. It begins with one write timeout, and each byte buys it
time at that rate. It can have at most PATIENCE write timeouts in hand, so that a fast hour does not buy an idle one. A
client that acknowledges nothing at all is given up after one write timeout, and a client that stops after PATIENCE of
them.

One write timeout of silence is no proof that a client reads nothing. Its kernel announces no room before a good part of
its buffer is free again (RFC 9293 3.8.6.2.2): on loopback 67 to 95 KB, between Ethernet hosts 8 to 125 KB (Linux 6.18).
So a reader of 1 kB a second on this machine is silent for 95 seconds, and looks like a stalled one all the while.
"""

from __future__ import annotations

import math
from typing import NamedTuple

PATIENCE = 3
"""Write timeouts. With 2, a reader of 20 kB/s and `--write-timeout 3` was silent for longer (6.5 s)."""


class Pace(NamedTuple):
    """What was observed of a client, all in seconds of one clock.

    began: the first look. progressed: the last one that showed more than the one before. until: it may stay so long.
    acknowledged, at_first: bytes at the last look and at the first.
    """

    began: float
    progressed: float
    until: float
    acknowledged: int
    at_first: int

    def seems_stalled(self, now: float, write_timeout_s: float) -> bool:
        """Whether nothing was acknowledged for a whole write timeout."""
        return now >= self.progressed + write_timeout_s

    def drains(self, now: float, unacknowledged: int, write_timeout_s: float) -> bool:
        """Whether what is still under way would be taken within another write timeout, as fast as what came before."""
        return unacknowledged * (now - self.began) <= (self.acknowledged - self.at_first) * write_timeout_s


def look(pace: Pace | None, now: float, acknowledged: int, write_timeout_s: float, rate_bytes_min: int) -> Pace:
    """The pace after another look. pace: None at the first look at an answer.

    acknowledged: bytes of this answer; less than none while earlier ones are still under way.
    """
    grown = acknowledged - (pace.acknowledged if pace else 0)
    bought_s = 0.0 if grown <= 0 else grown / rate_bytes_min if rate_bytes_min else math.inf
    latest = now + PATIENCE * write_timeout_s
    if pace is None:
        return Pace(now, now, min(now + write_timeout_s + bought_s, latest), acknowledged, acknowledged)
    if grown <= 0:
        return pace
    return Pace(pace.began, now, min(pace.until + bought_s, latest), acknowledged, pace.at_first)
