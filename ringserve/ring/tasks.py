"""Coroutines over a ring: what waits for a completion, and how the completion finds it.

Theory of operation. `Tasks` has one table from user_data to the function that takes the completion. A `Task` is a
coroutine that owns one user_data and has at most one operation in flight under it; awaiting an operation queues it,
suspends the coroutine, and the completion resumes it with `res`. Besides operations a coroutine can wait for a
`Signal`, which other code raises (data came in, a file was loaded, a pipe is free).

user_data is a serial number that is never used twice in the life of the process (kind in the low 3 bits, 61 bits of
serial): generation and slot in one. A completion that comes late finds nothing in the table and cannot reach another
connection that has the same descriptor. A table of slots with a generation check was measured too; the dictionary
costs one lookup of 30 ns where decoding slot, generation and kind out of an integer costs three.

Interruption. A timeout, a lost peer or a shutdown interrupts a task: the operation in flight is cancelled, and when it
has ended the coroutine gets the interruption as an exception. Nothing is thrown while the kernel still holds memory
or descriptors of the operation. An operation that succeeded all the same delivers its result, so that an opened
descriptor is never lost; the exception then comes at the next operation.

Invariants
 1. A task has at most one operation in flight; its memory is referenced by the frame that awaits it.
 2. An interruption is raised only when nothing is in flight, and once.
"""

from __future__ import annotations

import errno
import heapq
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from enum import IntEnum
from types import coroutine
from typing import Any, Generic, TypeVar

from ringserve.ring.world import FileStatus, Loaded, Names, Pinned, Pipe, Rank, Root, World

Result = TypeVar("Result")
Answer = TypeVar("Answer")

Handler = Callable[[int, int, bool], None]
"""Takes `res`, `buffer` and `more` of a completion."""


class Kind(IntEnum):
    """What a user_data stands for, in its low 3 bits: for people who read traces, and for assertions."""

    SHARED = 0
    ACCEPT = 1
    RECEIVE = 2
    OPERATION = 3


KIND_BITS = 3


class Signal:
    """Something that tasks wait for and other code raises. Each wait ends at the next `raise_`."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Task] = []

    def raise_(self) -> None:
        """Resume every waiting task at the end of this batch."""
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            task.resume_soon()

    def wait_with(self, task: Task) -> None:
        """Add a task that is about to suspend."""
        self._waiting.append(task)

    def leave(self, task: Task) -> None:
        """Take away a task that is resumed for another reason."""
        if task in self._waiting:
            self._waiting.remove(task)


class Tasks:
    """The tasks of one world: the table of handlers, the tasks ready to run, and the timers.

    Somebody else writes what they report, when `reported` is raised.
    """

    def __init__(self, world: World) -> None:
        self.ring = world.ring
        self.system = world.system
        self.diagnostics = world.diagnostics
        self.reported = Signal()
        self.handlers: dict[int, Handler] = {}
        self.faults = 0
        self._serial = itertools.count(1)
        self._ready: deque[Task] = deque()
        self._timers: list[tuple[float, int, Callable[[], float | None]]] = []
        self._timer_serial = itertools.count()

    # -- user_data ----------------------------------------------------------------------------------------------

    def register(self, kind: Kind, handler: Handler) -> int:
        """A user_data of its own for `handler`."""
        user_data = next(self._serial) << KIND_BITS | kind
        self.handlers[user_data] = handler
        return user_data

    def forget(self, user_data: int) -> None:
        """No completion of `user_data` is due any more."""
        del self.handlers[user_data]

    # -- running ------------------------------------------------------------------------------------------------

    def turn(self, longest_sleep_s: float) -> None:
        """Turn the ring once, hand out its completions, run what became ready, fire the timers that are due."""
        handlers = self.handlers
        for user_data, res, buffer, more in self.ring.turn(self._sleep(longest_sleep_s)):
            handler = handlers.get(user_data)
            if handler is None:
                self._unclaimed(user_data, res, more)
                continue
            try:
                handler(res, buffer, more)
            except Exception as fault:  # ours, and loud; but one client must not be able to end the loop for all
                self.report_fault(fault)
        ready = self._ready
        while ready:
            ready.popleft().resume()
        if self._timers and self._timers[0][0] <= self.ring.now:
            self._fire()

    def start(self, body: Coroutine[Any, Any, None]) -> Task:
        """A task that begins to run at the end of this batch."""
        task = Task(self)
        task.begin(body)
        return task

    def make_ready(self, task: Task) -> None:
        """Resume `task` at the end of this batch. A task is resumed from the loop only, never from another's frame."""
        self._ready.append(task)

    def _unclaimed(self, user_data: int, res: int, more: bool) -> None:
        # Harmless, since no user_data is used twice, and a fault of ours all the same: an operation was forgotten
        # before it ended.
        self.faults += 1
        kind = Kind(user_data & ((1 << KIND_BITS) - 1)).name
        self.report(
            "completion of {} {} that nobody waits for: res={} more={}", kind, user_data >> KIND_BITS, res, more
        )

    def report(self, template: str, *values: object) -> None:
        """Say something to the operator. Waits for nothing; see `Diagnostics.report`."""
        self.diagnostics.report(self.ring.now, template, *values)
        self.reported.raise_()

    def report_fault(self, fault: BaseException) -> None:
        """Say that code of ours failed. The task it happened in has ended; the others go on."""
        self.faults += 1
        self.diagnostics.report_fault(self.ring.now, fault)
        self.reported.raise_()

    # -- helpers ------------------------------------------------------------------------------------------------

    def call(
        self,
        function: Callable[[], Result],
        lane: str,
        origin: str = "",
        cleanup: Callable[[], None] | None = None,
    ) -> Job[Result]:
        """Have a helper call `function`; see `Ring.call`. cleanup: called when `function` has ended or is refused,
        whether or not somebody still waits.
        """
        return Job(self, function, lane, origin, cleanup)

    # -- timers -------------------------------------------------------------------------------------------------

    def call_at(self, when: float, function: Callable[[], float | None]) -> None:
        """Call `function` once the ring's clock has reached `when`; again at the time that it returns, if any.

        There is no cancelling: a timer that is no longer wanted returns None when it is called.
        """
        heapq.heappush(self._timers, (when, next(self._timer_serial), function))

    def _sleep(self, longest_s: float) -> float:
        if self._ready:
            return 0.0
        if self._timers:
            return max(0.0, min(longest_s, self._timers[0][0] - self.ring.now))
        return longest_s

    def _fire(self) -> None:
        now = self.ring.now
        timers = self._timers
        while timers and timers[0][0] <= now:
            _when, _serial, function = heapq.heappop(timers)
            again = function()
            if again is not None:
                # Later than now, or a timer that answers with the past would keep this loop for itself.
                self.call_at(max(again, now + SHORTEST_TIMER_S), function)


SHORTEST_TIMER_S = 0.001


class HelpersBusyError(Exception):
    """Too many jobs wait already: 503."""


class Job(Generic[Result]):
    """A function that a helper calls, and what came of it."""

    __slots__ = ("_cleanup", "_done", "_failure", "_result", "_signal", "_tasks", "_user_data")

    def __init__(
        self,
        tasks: Tasks,
        function: Callable[[], Result],
        lane: str,
        origin: str,
        cleanup: Callable[[], None] | None,
    ) -> None:
        self._tasks = tasks
        self._cleanup = cleanup
        self._signal = Signal()
        self._result: Any = None
        self._failure: BaseException | None = None
        self._done = False
        self._user_data = tasks.register(Kind.OPERATION, self._ended)
        tasks.ring.call(self._user_data, function, lane, origin)

    async def result(self, task: Task) -> Result:
        """What the function returned; what it raised is raised, and HelpersBusyError if it was refused. Several tasks
        may wait.
        """
        while not self._done:
            await task.wait(self._signal)
        if self._failure is not None:
            raise self._failure
        result: Result = self._result
        return result

    def _ended(self, res: int, _buffer: int, _more: bool) -> None:
        self._tasks.forget(self._user_data)
        try:
            if res < 0:
                raise HelpersBusyError
            self._result = self._tasks.ring.take(self._user_data)
        except Exception as failure:  # it is raised where the result is awaited
            self._failure = failure
        self._done = True
        if self._cleanup is not None:
            self._cleanup()
        self._signal.raise_()


class Task:
    """A coroutine with at most one operation in flight. See the module for how it is interrupted."""

    __slots__ = ("_body", "_interruption", "_operating", "_signal", "ring", "tasks", "user_data")

    def __init__(self, tasks: Tasks) -> None:
        self.tasks = tasks
        self.ring = tasks.ring
        self.user_data = tasks.register(Kind.OPERATION, self._completed)
        self._body: Coroutine[Any, Any, None] | None = None
        self._operating = False
        self._signal: Signal | None = None
        self._interruption: BaseException | None = None

    def begin(self, body: Coroutine[Any, Any, None]) -> None:
        """Run `body`, from the end of this batch."""
        self._body = body
        self.tasks.make_ready(self)

    @property
    def finished(self) -> bool:
        """True when the coroutine has returned."""
        return self._body is None

    def interrupt(self, reason: BaseException) -> None:
        """Raise `reason` in the coroutine as soon as nothing is in flight. The first reason stands."""
        if self._body is None or self._interruption is not None:
            return
        self._interruption = reason
        if self._operating:
            self.ring.cancel(self.user_data)
        elif self._signal is not None:
            self._signal.leave(self)
            self.resume_soon()

    def take_interruption(self) -> None:
        """Raise what `interrupt` left, if anything."""
        if self._interruption is not None:
            reason, self._interruption = self._interruption, None
            raise reason

    def resume_soon(self) -> None:
        """A signal was raised."""
        self._signal = None
        self.tasks.make_ready(self)

    def resume(self, value: int | None = None) -> None:
        """Run the coroutine to its next wait."""
        body = self._body
        if body is None:
            return
        try:
            body.send(value)
        except StopIteration:
            self._end()
        except Exception as fault:  # a fault in one task must not take the others down; it is ours, so it is loud
            self._end()
            self.tasks.report_fault(fault)

    def _end(self) -> None:
        self._body = None
        self.tasks.forget(self.user_data)

    def _completed(self, res: int, _buffer: int, _more: bool) -> None:
        assert self._operating, "a completion came for a task that has nothing in flight"
        self._operating = False
        self.resume(res)

    # -- what a coroutine can await -----------------------------------------------------------------------------

    @coroutine
    def _operation(self, *_held: object) -> Generator[None, int, int]:
        """`_held` is what the kernel may touch until the operation ends: this frame keeps it."""
        self._operating = True
        res = yield
        if res == -errno.ECANCELED:
            self.take_interruption()
        return res

    @coroutine
    def wait(self, signal: Signal) -> Generator[None, None, None]:
        """Suspend until `signal` is raised."""
        self.take_interruption()
        self._signal = signal
        signal.wait_with(self)
        yield
        self.take_interruption()

    def send(self, fd: int, data: Pinned, offset: int = 0) -> Awaitable[int]:
        """See `Ring.send`."""
        self.take_interruption()
        self.ring.send(self.user_data, fd, data, offset)
        return self._operation(data)

    @coroutine
    def _answered(self, answer: Answer | int | None) -> Generator[None, int, Answer | int]:
        """The answer to a question, whether it was there at once or is told by a completion."""
        if answer is not None:
            return answer
        self._operating = True
        res = yield
        if res == -errno.ECANCELED:
            self.take_interruption()
        return res if res else self.ring.take(self.user_data)

    def look(self, root: Root, path: bytes) -> Awaitable[FileStatus | int]:
        """See `Ring.look`."""
        self.take_interruption()
        return self._answered(self.ring.look(self.user_data, root, path))

    def load(self, root: Root, path: bytes, body_bytes_max: int, closed_bytes_max: int) -> Awaitable[Loaded | int]:
        """See `Ring.load`."""
        self.take_interruption()
        return self._answered(self.ring.load(self.user_data, root, path, body_bytes_max, closed_bytes_max))

    def names(self, root: Root, path: bytes, names_max: int, rank: Rank) -> Awaitable[Names | int]:
        """See `Ring.names`."""
        self.take_interruption()
        return self._answered(self.ring.names(self.user_data, root, path, names_max, rank))

    def inventory(self, root: Root, path: bytes, bytes_max: int) -> Awaitable[frozenset[bytes] | int]:
        """See `Ring.inventory`."""
        self.take_interruption()
        return self._answered(self.ring.inventory(self.user_data, root, path, bytes_max))

    def watch(self, root: Root, path: bytes) -> Awaitable[int]:
        """See `Ring.watch`."""
        self.take_interruption()
        return self._answered(self.ring.watch(self.user_data, root, path))

    @coroutine
    def fill(self, pipe: Pipe, file: int, offset: int, length: int) -> Generator[None, int, int]:
        """See `Ring.fill`."""
        self.take_interruption()
        count = self.ring.fill(self.user_data, pipe, file, offset, length)
        return (yield from self._operation()) if count is None else count

    def room(self, fd: int) -> Awaitable[int]:
        """See `Ring.room`."""
        self.take_interruption()
        self.ring.room(self.user_data, fd)
        return self._operation()

    def arrival(self, fd: int) -> Awaitable[int]:
        """See `Ring.arrival`."""
        self.take_interruption()
        self.ring.arrival(self.user_data, fd)
        return self._operation()

    def write(self, fd: int, data: Pinned, start: int = 0) -> Awaitable[int]:
        """See `Ring.write`."""
        self.take_interruption()
        self.ring.write(self.user_data, fd, data, start)
        return self._operation(data)
