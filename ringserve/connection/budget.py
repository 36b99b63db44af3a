"""How many connections, pipes and files there may be, by the limit of open files. Pure.

What a connection may need is counted before it is accepted. It always needs its socket. To be answered from a large
file it needs a pipe as well, for which it can wait as long as there is one at all, and the file, which many may share.
So pipes get a quarter of what is free at most, and files half of the rest, one for each connection. Files take no more
from connections than the configuration has kept open, and OPENING.

A multishot accept takes all that waits in a listener's queue before the loop is asked, and refused connections have
descriptors too. So as many as a queue holds are kept for them, unless that would take half of the connections: then
connections are accepted one by one, which takes a fifth more CPU time where each has but one request
(`make bench WORKLOADS=churn`).
"""

from __future__ import annotations

from typing import NamedTuple

OPENING = 64
"""Files being opened at once, beside those that are kept open: more of them wait for their turn."""
LEAST = 16
"""Descriptors: two pipes, six files, six connections. With less, a page and its pictures could not be served."""
FEW = 64
"""Connections: ten browsers, which have six each. A limit that leaves fewer is a mistake, whatever was asked for."""


class Shares(NamedTuple):
    """connections, pipes: at a time. open_files: kept open while nobody uses them. files: all that are open, in use or
    being opened. in_bursts: whether all that waits can be accepted at once.
    """

    connections: int
    pipes: int
    open_files: int
    files: int
    in_bursts: bool


def share(free: int, *, connections_max: int, pipes_max: int, open_files_max: int, burst: int) -> Shares | None:
    """The shares of `free` descriptors; None if nothing could be served with so few.

    The maxima are those that the configuration asks for. burst: connections that may be accepted at once and refused.
    """
    if free < LEAST:
        return None
    pipes = min(pipes_max, free // 8)
    rest = free - 2 * pipes
    files = min(open_files_max + OPENING, rest // 2)
    room = rest - files
    in_bursts = room >= 2 * burst or room - connections_max >= burst
    connections = min(connections_max, room - burst if in_bursts else room)
    left = rest - connections - (burst if in_bursts else 0)
    return Shares(connections, pipes, min(open_files_max, max(left // 2, left - OPENING)), left, in_bursts)


def shortage(shares: Shares, limit: int, wanted: int) -> str | None:
    """What to tell the user if the limit of open files leaves fewer connections than wanted."""
    if shares.connections >= wanted:
        return None
    return (
        f"the limit of open files ({limit}) leaves room for {shares.connections} connections; raise it (ulimit -n, "
        "LimitNOFILE=)"
    )
