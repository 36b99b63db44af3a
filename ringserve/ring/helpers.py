"""Helper threads: for what may block and has no ring operation. Their results come back as completions do.

A directory is read, a password is hashed, a log file is opened: the loop hands the work over, a thread does it, and
wakes the ring; the loop then hands the result to the task that waits. There are few threads and few jobs may wait,
because this is the exception: what cannot be done in time is refused, and says so.

The threads are daemons of our own and no `concurrent.futures` pool: that one is joined when the interpreter ends, so
that one directory on a dead network file system would keep a stopped server from ending.

Invariants
 1. A job's clean-up runs on the loop's thread after its function has ended, whether or not somebody still waits.
 2. No thread wakes a ring that was shut.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from ringserve.ring.tasks import Signal, Task, Tasks

THREADS = 2
"""One that hangs in a dead file system leaves one for the others."""
WAITING_MAX = 64
"""Jobs that wait for a thread. Each is short; more than this is somebody who wants us to be slow."""

Result = TypeVar("Result")


class HelpersBusyError(Exception):
    """Too many jobs wait already: 503."""


class _Job:
    """One function to call, and what came of it."""

    __slots__ = ("cleanup", "done", "failure", "function", "result", "signal")

    def __init__(self, function: Callable[[], Any], cleanup: Callable[[], None] | None) -> None:
        self.function = function
        self.cleanup = cleanup
        self.signal = Signal()
        self.result: Any = None
        self.failure: BaseException | None = None
        self.done = False

    def run(self) -> None:
        """On the helper's thread."""
        try:
            self.result = self.function()
        except Exception as failure:  # it is raised where the result is awaited
            self.failure = failure


class Helpers:
    """See the module. The threads start with the first job."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._ended: deque[_Job] = deque()
        self._threads = 0
        self._open = True
        self._lock = threading.Lock()
        self.running = 0

    async def run(
        self, task: Task, function: Callable[[], Result], cleanup: Callable[[], None] | None = None
    ) -> Result:
        """What `function` returns, called on a helper thread; what it raises is raised here.

        cleanup: called on the loop's thread when `function` has ended, or at once if it was not begun; the task may
        have been interrupted by then. Raises HelpersBusyError.
        """
        job = _Job(function, cleanup)
        if self.running >= THREADS + WAITING_MAX or not self._has_thread():
            if cleanup is not None:
                cleanup()
            raise HelpersBusyError
        self.running += 1
        self._jobs.put(job)
        while not job.done:
            await task.wait(job.signal)
        if job.failure is not None:
            raise job.failure
        result: Result = job.result
        return result

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
            job = self._jobs.get()
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
            job = self._ended.popleft()
            self.running -= 1
            job.done = True
            if job.cleanup is not None:
                job.cleanup()
            job.signal.raise_()

    def shut(self) -> None:
        """No job will come, and no thread wakes the ring from here on."""
        with self._lock:
            self._open = False
        for _thread in range(self._threads):
            self._jobs.put(None)
