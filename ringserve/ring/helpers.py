"""Helper threads, which do the jobs of `Ring.call`: for what may block and has no ring operation.

A directory is read, a password is hashed: the loop hands the job over, a thread does it, and wakes the ring, whose next
turn has the job's completion. There are few threads and few jobs may wait, because this is the exception: what cannot
be done in time is refused, and says so. Jobs go by lanes, each with threads of its own, so that one kind that hangs or
that a client makes many of does not keep the others out. Whose job is next in a lane, and whose is refused, is fair
between those that they are for (`fair.py`).

The threads are daemons of our own and no `concurrent.futures` pool: that one is joined when the interpreter ends, so
that one directory on a dead network file system would keep a stopped server from ending.

Invariants
 1. A job completes once, in a later turn than that of its call, whether it was run or refused.
 2. The threads are handed as many jobs as there are threads; what waits is the loop's, and in the order of its turns.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

from ringserve.ring.fair import FairQueue

THREADS = 2
"""In a lane. One that hangs in a dead file system leaves one for the others."""
WAITING_MAX = 64
"""Jobs that wait for a thread of a lane. Each is short; more than this is somebody who wants us to be slow."""


class Ended(NamedTuple):
    """How a job ended. res: 0, or -EBUSY if it was refused. failure: what it raised."""

    token: int
    res: int
    result: object
    failure: BaseException | None


class _Job(NamedTuple):
    token: int
    function: Callable[[], object]
    lane: _Lane


class _Lane:
    """The jobs of one kind, and how many threads they have."""

    def __init__(self) -> None:
        self.waiting: FairQueue[_Job] = FairQueue(WAITING_MAX)
        self.handed: SimpleQueue[_Job | None] = SimpleQueue()
        self.threads = 0
        self.busy = 0

    def hand_over(self) -> None:
        while self.busy < self.threads and self.waiting:
            self.busy += 1
            self.handed.put(self.waiting.take())


class Helpers:
    """See the module. The threads start with the first job of a lane.

    wake: wakes the ring, from any thread, and does nothing when there is none any more.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lanes: dict[str, _Lane] = {}
        self._ended: deque[tuple[_Job, object, BaseException | None]] = deque()
        """What the threads have done."""
        self._refused: list[int] = []

    def call(self, token: int, function: Callable[[], object], lane_name: str, origin: str) -> None:
        """See `Ring.call`."""
        lane = self._lanes.setdefault(lane_name, _Lane())
        job = _Job(token, function, lane)
        refused = lane.waiting.add(origin, job) if self._has_thread(lane, lane_name) else job
        if refused is not None:
            self._refused.append(refused.token)
            self._wake()
        lane.hand_over()

    def running(self, lane_name: str | None = None) -> int:
        """How many jobs of a lane, or of all, have not completed."""
        lanes = self._lanes.values() if lane_name is None else [self._lanes.get(lane_name, _Lane())]
        return len(self._refused) + sum(lane.busy + len(lane.waiting) for lane in lanes)

    def ended(self) -> list[Ended]:
        """What has ended, or was refused. To be called on the loop's thread when the ring was woken."""
        found = [Ended(token, -errno.EBUSY, None, None) for token in self._refused]
        self._refused.clear()
        while self._ended:
            job, result, failure = self._ended.popleft()
            found.append(Ended(job.token, 0, result, failure))
            job.lane.busy -= 1
            job.lane.hand_over()
        return found

    def _has_thread(self, lane: _Lane, name: str) -> bool:
        """Whether there is a thread for a job. One more is started while there are fewer than there may be."""
        if lane.threads < THREADS:
            thread = threading.Thread(
                target=self._work, args=(lane.handed,), name=f"ringserve-{name}-{lane.threads + 1}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                # The system's limit of threads (pids.max, ulimit -u), which may have room again for the next job.
                return lane.threads > 0
            lane.threads += 1
        return True

    def _work(self, handed: SimpleQueue[_Job | None]) -> None:
        while (job := handed.get()) is not None:
            try:
                self._ended.append((job, job.function(), None))
            except Exception as failure:  # it is raised where the result is taken
                self._ended.append((job, None, failure))
            self._wake()

    def shut(self) -> None:
        """No job will come."""
        for lane in self._lanes.values():
            for _thread in range(lane.threads):
                lane.handed.put(None)
