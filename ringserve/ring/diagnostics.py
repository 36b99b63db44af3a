"""What the server says of itself: bounded, limited by kind, and kept until somebody has the time to write it.

Theory of operation. A client can cause a line with each request, and stderr may be a pipe that nobody reads. So the
code that reports does not write. `Diagnostics` keeps lines, and a writer (`stderr.py`) takes them in batches: through
the ring where there is one, and by a thread where there is none.

The kind of a line is its template: "cannot open {}: {}". Of each kind the first LINES_FIRST in INTERVAL_S are kept. The
others are counted, and at the end of that time one line says how many there were. So a client that asks for a million
paths makes one line a second, and hides no line of another kind.

Rejected: a key that the caller names beside the text, which is the template once more, and can be forgotten.

Invariants
 1. At most WAITING_BYTES_MAX and KINDS_MAX are kept, whatever is reported.
 2. Each line is taken once or counted once: as one of its kind, or as lost because the writer does not keep up.
 3. A batch is whole lines, and a pipe takes it in one piece, so that the lines of several processes are never mixed.
"""

from __future__ import annotations

import math
import re
import traceback
from collections import deque

LINES_FIRST = 10
INTERVAL_S = 10.0
"""Enough lines to see what is wrong, and about one a second for as long as it lasts."""
KINDS_MAX = 64
"""More than there are templates. What comes beyond them is of one kind."""
WAITING_BYTES_MAX = 65_536
"""As much as a pipe holds by default."""
BATCH_BYTES_MAX = 4096
"""PIPE_BUF: what a pipe takes in one piece (pipe(7)). A longer line is cut."""
_PLACE = re.compile(r"\{[^}]*\}")
FAULT_CHARACTERS_MAX = 3000
"""Of a traceback its end, which names the fault."""


class Diagnostics:
    """See the module. Not for several threads at a time. now: seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._kinds: dict[str, tuple[float, int]] = {}
        """Of each kind when its interval ends, and how many lines there were in it."""
        self.due = math.inf
        """When the count of omitted lines is due."""

    def report(self, now: float, template: str, *values: object) -> None:
        """One line. template: its kind, and its text if there are no values; else their places in it are `{}`."""
        if now >= self.due or len(self._kinds) >= KINDS_MAX:
            self.settle(now)
        kind = template if template in self._kinds or len(self._kinds) < KINDS_MAX else ""
        until, count = self._kinds.get(kind, (0.0, 0))
        if until <= now:
            until, count = now + INTERVAL_S, 0
        self._kinds[kind] = until, count + 1
        if count < LINES_FIRST:
            self._keep("ringserve: " + (template.format(*values) if values else template))
        else:
            self.due = min(self.due, until)

    def report_fault(self, now: float, fault: BaseException) -> None:
        """The traceback of what is a fault of ours."""
        told = "".join(traceback.format_exception(fault))
        self.report(now, "a fault of ringserve; please report it\n{}", told[-FAULT_CHARACTERS_MAX:].rstrip())

    def say(self, text: str) -> None:
        """Lines that no client can cause, as they are."""
        for line in text.splitlines():
            self._keep(line)

    def settle(self, now: float) -> None:
        """Say how many lines were left out in the intervals that have ended: all of them, if now is infinite."""
        for template, (until, count) in list(self._kinds.items()):
            if until > now:
                continue
            del self._kinds[template]
            if count > LINES_FIRST:
                more = count - LINES_FIRST
                like = _PLACE.sub("...", template.partition("\n")[0]) or "lines of other kinds"
                self._keep(f"ringserve: and {more} more: {like}", more)
        self.due = min((until for until, count in self._kinds.values() if count > LINES_FIRST), default=math.inf)

    def _keep(self, line: str, stands_for: int = 1) -> None:
        encoded = line.encode(errors="backslashreplace")
        if len(encoded) >= BATCH_BYTES_MAX:
            encoded = encoded[: BATCH_BYTES_MAX - 16].decode(errors="ignore").encode() + b" [...]"
        if self._waiting_bytes + len(encoded) >= WAITING_BYTES_MAX:
            self._lost += stands_for
            return
        self._waiting.append(encoded + b"\n")
        self._waiting_bytes += len(encoded) + 1

    @property
    def idle(self) -> bool:
        """Whether there is nothing to take."""
        return not self._waiting and not self._lost

    def take(self, now: float) -> bytes:
        """The next batch, or nothing. It is for its taker to write, however long that takes."""
        if now >= self.due:
            self.settle(now)
        waiting = self._waiting
        if not waiting and self._lost:
            lost, self._lost = self._lost, 0
            self._keep(f"ringserve: {lost} diagnostic lines lost, because stderr did not take them")
        batch = bytearray()
        while waiting and len(batch) + len(waiting[0]) <= BATCH_BYTES_MAX:
            batch += waiting.popleft()
        self._waiting_bytes -= len(batch)
        return bytes(batch)
