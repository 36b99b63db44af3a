"""Helper threads: for what may block and has no ring operation. Their results come back as completions do.

A directory is read, a password is hashed, a log file is opened: the loop hands the work over, a thread does it, and
wakes the ring; the loop then hands the result to the task that waits. There are few threads and few jobs may wait,
because this is the exception: what cannot be done in time is refused, and says so. Whose job is next, and whose is
refused, is fair between those that they are for (`fair.py`).

The threads are daemons of our own and no `concurrent.futures` pool: that one is joined when the interpreter ends, so
that one directory on a dead network file system would keep a stopped server from ending.

Invariants
 1. A job's clean-up runs on the loop's thread after its function has ended, whether or not somebody still waits. A job
    that is refused is cleaned up at once.
 2. No thread wakes a ring that was shut.
 3. The threads are handed as many jobs as there are threads; what waits is the loop's, and in the order of its turns.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from ringserve.ring.fair import FairQueue
from ringserve.ring.tasks import Signal, Task, Tasks

THREADS = 2
"""One that hangs in a dead file system leaves one for the others."""
WAITING_MAX = 64
"""Jobs that wait for a thread. Each is short; more than this is somebody who wants us to be slow."""

Result = TypeVar("Result")


class HelpersBusyError(Exception):
    """Too many jobs wait already: 503."""


class Job(Generic[Result]):
    """One function to call, and what came of it."""

    __slots__ = ("_cleanup", "_done", "_failure", "_function", "_result", "_signal")

    def __init__(self, function: Callable[[], Result], cleanup: Callable[[], None] | None) -> None:
        self._function = function
        self._cleanup = cleanup
        self._signal = Signal()
        self._result: Any = None
        self._failure: BaseException | None = None
        self._done = False

    async def result(self, task: Task) -> Result:
        """What the function returned; what it raised is raised, and HelpersBusyError if it was refused after all.
        Several tasks may wait.
        """
        while not self._done:
            await task.wait(self._signal)
        if self._failure is not None:
            raise self._failure
        result: Result = self._result
        return result

    def run(self) -> None:
        """On the helper's thread."""
        try:
            self._result = self._function()
        except Exception as failure:  # it is raised where the result is awaited
            self._failure = failure

    def end(self, failure: BaseException | None = None) -> None:
        """On the loop's thread: it was run, or is refused with `failure`."""
        self._failure = self._failure or failure
        self._done = True
        if self._cleanup is not None:
            self._cleanup()
        self._signal.raise_()


class Helpers:
    """See the module. The threads start with the first job."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._waiting: FairQueue[Job[Any]] = FairQueue(WAITING_MAX)
        self._handed: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._ended: deque[Job[Any]] = deque()
        self._threads = 0
        self._busy = 0
        self._open = True
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """How many jobs are with a thread or wait for one."""
        return self._busy + len(self._waiting)

    async def run(
        self, task: Task, function: Callable[[], Result], cleanup: Callable[[], None] | None = None
    ) -> Result:
        """What `function` returns, called on a helper thread; what it raises is raised here.

        cleanup: called on the loop's thread when `function` has ended, or at once if it was not begun; the task may
        have been interrupted by then. Raises HelpersBusyError.
        """
        return await self.begin(function, cleanup).result(task)

    def begin(
        self, function: Callable[[], Result], cleanup: Callable[[], None] | None = None, origin: str = ""
    ) -> Job[Result]:
        """Have `function` called on a helper thread. cleanup: as for `run`. origin: whom it is for.

        Where there is no room, the newest job of the origin with most of them is refused. Raises HelpersBusyError if
        that is this one; another raises it where its result is awaited.
        """
        job = Job(function, cleanup)
        refused = self._waiting.add(origin, job) if self._has_thread() else job
        if refused is not None:
            refused.end(HelpersBusyError())
        if refused is job:
            raise HelpersBusyError
        self._hand_over()
        return job

    def _hand_over(self) -> None:
        while self._busy < self._threads and self._waiting:
            self._busy += 1
            self._handed.put(self._waiting.take())

    def _has_thread(self) -> bool:
        """Whether there is a thread for a job. One more is started while there are fewer than there may be."""
        if self._threads < THREADS:
            thread = threading.Thread(target=self._work, name=f"ringserve-helper-{self._threads + 1}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The system's limit of threads (pids.max, ulimit -u), which may have room again for the next job.
                return self._threads > 0
            self._threads += 1
        return True

    def _work(self) -> None:
        while True:
            job = self._handed.get()
            if job is None:
                return
            job.run()
            self._ended.append(job)
            with self._lock:
                if self._open:
                    self._tasks.ring.wake()

    def deliver(self) -> None:
        """Hand out what ended. To be called on the loop's thread when the ring was woken."""
        while self._ended:
            self._busy -= 1
            self._ended.popleft().end()
        self._hand_over()

    def shut(self) -> None:
        """No job will come, and no thread wakes the ring from here on."""
        with self._lock:
            self._open = False
        for _thread in range(self._threads):
            self._handed.put(None)
