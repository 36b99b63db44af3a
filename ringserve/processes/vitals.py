"""What the looks of a supervisor at a worker come to: whether it is late, has to be killed, or cannot be.

Theory of operation. A worker says at each whole second of the monotonic clock that its loop turns. The supervisor looks
half a second later whether it has. Everything is counted in such looks, and nothing by the clock: after Ctrl-Z, a
suspended laptop or `docker pause` a clock would accuse workers that had no time to turn, but the supervisor has not
looked meanwhile. When it goes on it looks once, however long it stood, and the next look leaves the workers the time to
say something first.

A worker that serves has to be heard. One that comes up, one that retires and one that was sent SIGKILL have a number of
looks for it; one that retires has to be heard as well.

Nothing in here knows a process or a clock.
"""

from __future__ import annotations

import math
from enum import Enum

from ringserve.config.settings import LATE_LOOKS

BEAT_S = 1.0
"""Between two words of a worker. Workers speak at the same time, so that a supervisor of many wakes for all at once."""
READY_LOOKS = 30
"""A worker that does not serve after so many does not come up."""
ENDING_LOOKS = 5
"""Beyond all of a retiring worker's own deadlines."""
GONE_LOOKS = 2
"""A process that is still there so long after SIGKILL waits in the kernel, for a disk or a network file system. Nobody
can end it."""


def next_look(now: float) -> float:
    """When to look again, by the monotonic clock, in seconds: half-way between two words, in 0.5 to 1.5 s."""
    return (now // BEAT_S + 1.5) * BEAT_S


class Finding(Enum):
    """What a look finds."""

    NOTHING = 0
    LATE = 1
    """Its loop has not turned for LATE_LOOKS; found once."""
    STUCK = 2
    """Its loop has not turned for as long as it may: to be killed."""
    OVERDUE = 3
    """It has not come up, or not ended, in its time: to be killed."""
    REMAINS = 4
    """It was killed, and is still there; found at each look."""


class Vitals:
    """See the module.

    late_looks_max: so many in a row without a word are too many; 0 is no limit. drain_timeout_s: that of its
    configuration.
    """

    def __init__(self, late_looks_max: int, drain_timeout_s: float) -> None:
        self._late_looks_max = late_looks_max
        # A worker drains when it has retired for a drain's time, by itself too.
        self._ending_looks = math.ceil(2 * drain_timeout_s) + ENDING_LOOKS
        self._looks_left = READY_LOOKS
        self.silent_looks = 0
        self.serves = False
        self.retiring = False
        self.killed = False

    @property
    def is_late(self) -> bool:
        """Whether nothing is heard of it."""
        return self.killed or self.silent_looks >= LATE_LOOKS

    def hear(self, serves: bool) -> None:
        """It has said something: that it serves now, perhaps."""
        self.silent_looks = 0
        self.serves = self.serves or serves

    def retire(self) -> None:
        """It has to end, within its own deadlines; a second time changes nothing."""
        if not (self.retiring or self.killed):
            self._looks_left = self._ending_looks
        self.retiring = True

    def hurry(self) -> None:
        """It has to end at once."""
        self._looks_left = min(self._looks_left, ENDING_LOOKS)

    def was_killed(self) -> None:
        """It was sent SIGKILL, and should be gone."""
        self.killed = True
        self._looks_left = GONE_LOOKS

    def look(self) -> Finding:
        """Look once more."""
        if self.killed or self.retiring or not self.serves:
            self._looks_left -= 1
            if self._looks_left <= 0:
                return Finding.REMAINS if self.killed else Finding.OVERDUE
        if self.killed or not self.serves:
            return Finding.NOTHING
        self.silent_looks += 1
        if 0 < self._late_looks_max <= self.silent_looks:
            return Finding.STUCK
        return Finding.LATE if self.silent_looks == LATE_LOOKS else Finding.NOTHING
