"""Coroutines over a ring. Where the order of completions matters, a scripted ring completes what the case says; the
operations themselves run on a ring of the kernel."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import world_of

from ringserve.ring import open_world
from ringserve.ring.tasks import KIND_BITS, SHORTEST_TIMER_S, Kind, Signal, Task, Tasks
from ringserve.ring.world import Completion, FileStatus, Loaded, Named, Names, Pinned, RingOptions, Root

TURNS_MAX = 2000
FD = 7  # of the scripted ring, where it means nothing


class InterruptionError(Exception):
    """What the cases interrupt with."""


class Block:
    """Stands for pinned bytes; can be referenced weakly."""

    def __init__(self, length: int) -> None:
        self.length = length


class ScriptedRing:
    """A ring that completes what the case says, when it says so, and has no verb but these.

    `queued` is what the tasks asked for since the case last looked.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.queued: list[tuple[object, ...]] = []
        self.sleeps: list[float] = []
        self.answer: Loaded | int | None = None
        self.left: dict[int, object] = {}
        self.pinned: list[weakref.ref[Block]] = []
        self._finished: list[Completion] = []
        self._turning = False

    def take_queued(self) -> list[tuple[object, ...]]:
        queued, self.queued = self.queued, []
        return queued

    def finish(self, user_data: int, res: int, more: bool = False) -> None:
        """The next turn brings this."""
        self._finished.append((user_data, res, -1, more))

    def turn(self, timeout_s: float) -> Iterator[Completion]:
        assert not self._turning, "a handler turned the ring"
        assert timeout_s >= 0
        self.sleeps.append(timeout_s)
        finished, self._finished = self._finished, []
        self._turning = True
        yield from finished
        self._turning = False

    def room(self, user_data: int, fd: int) -> None:
        self.queued.append(("room", user_data, fd))

    def send(self, user_data: int, fd: int, _data: Pinned, _offset: int) -> None:
        self.queued.append(("send", user_data, fd))

    def load(
        self, user_data: int, _root: Root, path: bytes, body_bytes_max: int, closed_bytes_max: int
    ) -> Loaded | int | None:
        self.queued.append(("load", user_data, path, body_bytes_max, closed_bytes_max))
        return self.answer

    def take(self, user_data: int) -> object:
        return self.left.pop(user_data)

    def cancel(self, user_data: int) -> None:
        self.queued.append(("cancel", user_data))

    def pin(self, data: bytes) -> Pinned:
        block = Block(len(data))
        self.pinned.append(weakref.ref(block))
        return block


class Stage:
    """Tasks on a scripted ring, and a record of what happened."""

    def __init__(self) -> None:
        self.ring = ScriptedRing()
        self.tasks = Tasks(world_of(self.ring))
        self.said: list[object] = []

    def turn(self) -> None:
        self.tasks.turn(10.0)

    def reported(self) -> str:
        return self.tasks.diagnostics.take(self.ring.now).decode()

    def poller(self, name: str = "task", polls: int = 1) -> Task:
        """A task that polls and says what came of it. It has started and waits for its first completion."""

        async def body() -> None:
            for _poll in range(polls):
                try:
                    self.said.append((name, await task.room(FD)))
                except InterruptionError as interruption:
                    self.said.append((name, str(interruption)))

        task = self.tasks.start(body())
        self.turn()
        assert self.ring.take_queued() == [("room", task.user_data, FD)]
        return task

    def waiter(self, signal: Signal, name: str, waits: int = 1) -> Task:
        """A task that waits for `signal` and says what came of it. It has started."""

        async def body() -> None:
            for _wait in range(waits):
                try:
                    await task.wait(signal)
                    self.said.append((name, "raised"))
                except InterruptionError as interruption:
                    self.said.append((name, str(interruption)))

        task = self.tasks.start(body())
        self.turn()
        return task


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def tasks(request: pytest.FixtureRequest) -> Iterator[Tasks]:
    """Tasks on a ring of the kernel."""
    request.getfixturevalue("io_uring")
    world = open_world(RingOptions(submission_entries=16, completion_entries=64, buffers=4, buffer_bytes=256))
    yield Tasks(world)
    world.ring.shut()


def run(tasks: Tasks, *started: Task) -> None:
    """Turn until these have finished."""
    for _turn in range(TURNS_MAX):
        if all(task.finished for task in started):
            return
        tasks.turn(0.01)
    pytest.fail("the tasks did not finish")


# -- operations on a ring of the kernel -------------------------------------------------------------------------------


def test_every_operation_resumes_the_coroutine_with_its_result(tasks: Tasks, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    root = Root(os.open(tmp_path, os.O_PATH | os.O_CLOEXEC))
    results: list[int] = []

    async def body() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            results.append(await task.send(ours.fileno(), tasks.ring.pin(b"not this"), 4))
            assert theirs.recv(100) == b"this"
            results.append(await task.room(ours.fileno()))
            results.append(await task.write(ours.fileno(), tasks.ring.pin(b"ABC"), 1))
            assert theirs.recv(100) == b"BC"
        loaded = await task.load(root, b"file", 10, 0)
        assert isinstance(loaded, Loaded)
        assert loaded.file is not None
        assert loaded.body == b"0123456789"
        assert await task.look(root, b"file") == loaded.status
        pipe = tasks.system.pipe(65536)
        results.append(await task.fill(pipe, loaded.file, 2, 100))
        assert os.read(pipe.read_fd, 100) == b"23456789"
        tasks.system.discard(pipe)
        names = await task.names(root, b"", 10, lambda name, _is_directory: name)
        assert names == Names((Named(b"file", loaded.status),), False)
        missing = await task.look(root, b"missing")
        assert isinstance(missing, int)
        results.append(missing)
        no_directory = await task.load(root, b"file/", 0, 0)
        assert isinstance(no_directory, int)
        results.append(no_directory)
        for fd in (loaded.file, root.directory):
            tasks.ring.close(fd)

    task = tasks.start(body())
    run(tasks, task)
    assert results.pop(1) >= 0
    assert results == [4, 2, 8, -errno.ENOENT, -errno.ENOTDIR]
    for _turn in range(TURNS_MAX):
        if not tasks.ring.in_flight():
            break
        tasks.turn(0.01)
    assert not tasks.ring.in_flight()
    assert tasks.faults == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(root.directory)


def test_an_interruption_cancels_a_pending_operation_of_the_kernel(tasks: Tasks) -> None:
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_fd, bytes(4096))
    caught: list[BaseException] = []

    async def body() -> None:
        try:
            await task.room(write_fd)
        except InterruptionError as interruption:
            caught.append(interruption)

    task = tasks.start(body())
    tasks.turn(0)
    tasks.turn(0)
    reason = InterruptionError("too slow")
    task.interrupt(reason)
    assert caught == [], "nothing is raised while the kernel holds the buffer"
    run(tasks, task)
    assert caught == [reason]
    for _turn in range(TURNS_MAX):
        if not tasks.ring.in_flight():
            break
        tasks.turn(0.01)
    assert not tasks.ring.in_flight()
    assert tasks.faults == 0
    os.close(read_fd)
    os.close(write_fd)


def test_many_tasks_run_at_once_each_with_its_own_results(tasks: Tasks) -> None:
    got: dict[int, int] = {}
    pairs = [socket.socketpair() for _index in range(40)]

    async def body(index: int) -> None:
        for _round in range(5):
            data = tasks.ring.pin(bytes(index + 1))
            got[index] = got.get(index, 0) + await started[index].send(pairs[index][0].fileno(), data)

    started = {index: Task(tasks) for index in range(40)}
    for index, task in started.items():
        task.begin(body(index))
    run(tasks, *started.values())
    for ours, theirs in pairs:
        ours.close()
        theirs.close()
    assert got == {index: 5 * (index + 1) for index in range(40)}


# -- resuming ---------------------------------------------------------------------------------------------------------


def test_a_task_begins_at_the_end_of_the_batch_that_started_it(stage: Stage) -> None:
    async def body() -> None:
        stage.said.append("began")

    task = stage.tasks.start(body())
    assert stage.said == []
    assert not task.finished
    stage.turn()
    assert stage.said == ["began"]
    assert task.finished
    assert stage.ring.sleeps == [0.0], "the turn does not sleep while a task is ready"


def test_a_completion_resumes_its_task_and_no_other(stage: Stage) -> None:
    first, second = stage.poller("first"), stage.poller("second")
    stage.ring.finish(second.user_data, 4)
    stage.turn()
    assert stage.said == [("second", 4)]
    assert second.finished
    assert not first.finished
    stage.ring.finish(first.user_data, 8)
    stage.turn()
    assert stage.said == [("second", 4), ("first", 8)]


def test_every_errno_but_that_of_an_interruption_is_a_result(stage: Stage) -> None:
    task = stage.poller(polls=3)
    for res in (-errno.ECONNRESET, -errno.ECANCELED, 0):
        stage.ring.finish(task.user_data, res)
        stage.turn()
    assert stage.said == [("task", -errno.ECONNRESET), ("task", -errno.ECANCELED), ("task", 0)]
    assert task.finished


def test_memory_that_an_operation_pins_is_kept_until_it_completes(stage: Stage) -> None:
    async def body() -> None:
        stage.said.append(await task.send(FD, stage.ring.pin(b"bytes")))

    task = stage.tasks.start(body())
    stage.turn()
    assert stage.ring.take_queued() == [("send", task.user_data, FD)]
    (pinned,) = stage.ring.pinned
    assert pinned() is not None
    task.interrupt(InterruptionError("cancelled is not finished"))
    stage.turn()
    assert pinned() is not None
    stage.ring.finish(task.user_data, 5)
    stage.turn()
    assert stage.said == [5]
    assert pinned() is None


LOADED = Loaded(FileStatus(0, 0, 0, 0, 0, 0), b"", 7, trusted=False)


@pytest.mark.parametrize("answer", [LOADED, -errno.ENOENT])
def test_a_question_that_is_answered_at_once_suspends_nobody(stage: Stage, answer: Loaded | int) -> None:
    async def body() -> None:
        stage.said.append(await task.load(Root(FD), b"path", 10, 5))

    stage.ring.answer = answer
    task = stage.tasks.start(body())
    stage.turn()
    assert stage.said == [answer]
    assert stage.ring.take_queued() == [("load", task.user_data, b"path", 10, 5)]
    assert task.finished


def test_a_question_that_is_not_answered_at_once_is_by_its_completion(stage: Stage) -> None:
    async def body() -> None:
        for _question in range(2):
            stage.said.append(await task.load(Root(FD), b"path", 10, 5))
        with pytest.raises(InterruptionError):
            await task.load(Root(FD), b"path", 10, 5)

    task = stage.tasks.start(body())
    stage.turn()
    stage.ring.left[task.user_data] = LOADED
    for res, said in ((0, LOADED), (-errno.EIO, -errno.EIO)):
        assert stage.said == []
        stage.ring.finish(task.user_data, res)
        stage.turn()
        assert stage.said.pop() == said
    task.interrupt(InterruptionError())
    stage.ring.finish(task.user_data, -errno.ECANCELED)
    stage.turn()
    assert task.finished
    assert stage.tasks.faults == 0


def test_no_user_data_is_used_twice_and_each_names_its_kind(stage: Stage) -> None:
    seen = [stage.tasks.register(kind, lambda _res, _buffer, _more: None) for kind in Kind for _index in range(5)]
    seen += [stage.poller().user_data for _index in range(5)]
    assert len(set(seen)) == len(seen)
    assert [user_data & ((1 << KIND_BITS) - 1) for user_data in seen[: 5 * len(Kind) : 5]] == list(Kind)
    assert 0 not in seen, "the ring's own"


# -- interruption -----------------------------------------------------------------------------------------------------


def test_an_interruption_cancels_the_operation_and_is_raised_once_after_its_end(stage: Stage) -> None:
    task = stage.poller(polls=2)
    task.interrupt(InterruptionError("time is up"))
    assert stage.ring.take_queued() == [("cancel", task.user_data)]
    stage.turn()
    assert stage.said == [], "cancelled is not finished"
    stage.ring.finish(task.user_data, -errno.ECANCELED)
    stage.turn()
    assert stage.said == [("task", "time is up")]
    stage.ring.finish(task.user_data, 4)
    stage.turn()
    assert stage.said == [("task", "time is up"), ("task", 4)]
    assert stage.tasks.faults == 0


def test_an_operation_that_succeeds_all_the_same_delivers_and_the_next_raises(stage: Stage) -> None:
    task = stage.poller(polls=3)
    task.interrupt(InterruptionError("too late"))
    stage.ring.take_queued()
    stage.ring.finish(task.user_data, 4)
    stage.turn()
    assert stage.said == [("task", 4), ("task", "too late")]
    assert stage.ring.take_queued() == [("room", task.user_data, FD)], "the second was never queued, the third is"


def test_of_two_interruptions_the_first_stands_and_cancels_once(stage: Stage) -> None:
    task = stage.poller(polls=2)
    task.interrupt(InterruptionError("first"))
    task.interrupt(InterruptionError("second"))
    assert len(stage.ring.take_queued()) == 1
    stage.ring.finish(task.user_data, -errno.ECANCELED)
    stage.turn()
    assert stage.said == [("task", "first")]
    task.interrupt(InterruptionError("third"))
    stage.ring.finish(task.user_data, -errno.ECANCELED)
    stage.turn()
    assert stage.said == [("task", "first"), ("task", "third")]


def test_an_interruption_before_the_first_operation_is_raised_there(stage: Stage) -> None:
    async def body() -> None:
        stage.said.append("began")
        try:
            await task.room(FD)
        except InterruptionError:
            stage.said.append("interrupted")

    task = stage.tasks.start(body())
    task.interrupt(InterruptionError("at once"))
    stage.turn()
    assert stage.said == ["began", "interrupted"]
    assert stage.ring.take_queued() == []


def test_an_interruption_of_a_finished_task_is_nothing(stage: Stage) -> None:
    task = stage.poller()
    stage.ring.finish(task.user_data, 1)
    stage.turn()
    task.interrupt(InterruptionError("nobody there"))
    stage.turn()
    assert stage.ring.take_queued() == []
    assert stage.tasks.faults == 0


def test_an_interruption_ends_the_wait_for_a_signal(stage: Stage) -> None:
    signal = Signal()
    task = stage.waiter(signal, "waiter", waits=2)
    task.interrupt(InterruptionError("enough"))
    assert stage.said == [], "a task is resumed by the loop only"
    stage.turn()
    assert stage.said == [("waiter", "enough")]
    signal.raise_()
    stage.turn()
    assert stage.said == [("waiter", "enough"), ("waiter", "raised")]
    assert stage.ring.take_queued() == []


def test_a_signal_and_an_interruption_in_one_batch_resume_the_task_once(stage: Stage) -> None:
    for first in ("signal", "interruption"):
        signal = Signal()
        task = stage.waiter(signal, first, waits=2)
        steps: list[Callable[[], None]] = [signal.raise_, lambda task=task: task.interrupt(InterruptionError("both"))]  # type: ignore[misc]
        for step in steps if first == "signal" else reversed(steps):
            step()
        stage.turn()
        assert stage.said == [(first, "both")]
        assert not task.finished, "the second wait has not ended"
        signal.raise_()
        stage.turn()
        assert task.finished
        stage.said.clear()


def test_an_interruption_that_nobody_catches_ends_the_task_after_its_cleaning_up(stage: Stage) -> None:
    async def body() -> None:
        try:
            await task.room(FD)
        finally:
            stage.said.append("cleaned up")

    task = stage.tasks.start(body())
    stage.turn()
    task.interrupt(InterruptionError("not caught"))
    stage.ring.take_queued()
    stage.ring.finish(task.user_data, -errno.ECANCELED)
    stage.turn()
    assert task.finished
    assert stage.said == ["cleaned up"]
    assert "not caught" in stage.reported()


# -- signals ----------------------------------------------------------------------------------------------------------


def test_a_signal_resumes_all_that_wait_in_their_order_and_no_later_ones(stage: Stage) -> None:
    signal = Signal()
    for name in "abc":
        stage.waiter(signal, name)
    signal.raise_()
    late = stage.waiter(signal, "late")
    assert stage.said == [(name, "raised") for name in "abc"]
    assert not late.finished
    signal.raise_()
    stage.turn()
    assert late.finished


def test_each_wait_ends_at_the_next_raise(stage: Stage) -> None:
    signal = Signal()
    signal.raise_()  # nobody waits: it is not remembered
    task = stage.waiter(signal, "waiter", waits=3)
    for count in range(1, 4):
        assert len(stage.said) == count - 1
        signal.raise_()
        signal.raise_()
        stage.turn()
    assert task.finished


def test_a_task_that_raises_a_signal_is_not_interleaved_with_those_it_resumes(stage: Stage) -> None:
    signal = Signal()
    stage.waiter(signal, "waiter")

    async def body() -> None:
        signal.raise_()
        stage.said.append("raiser goes on")

    stage.tasks.start(body())
    stage.turn()
    assert stage.said == ["raiser goes on", ("waiter", "raised")]


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_fault_in_a_task_is_counted_and_printed_and_the_others_go_on(stage: Stage) -> None:
    async def faulty() -> None:
        await broken.room(FD)
        raise ZeroDivisionError("a fault of ours")

    broken = stage.tasks.start(faulty())
    stage.turn()
    stage.ring.take_queued()
    other = stage.poller("other")
    stage.ring.finish(broken.user_data, 1)
    stage.ring.finish(other.user_data, 1)
    stage.turn()
    assert stage.said == [("other", 1)]
    assert broken.finished
    assert stage.tasks.faults == 1
    printed = stage.reported()
    assert "a fault of ours" in printed
    assert "in faulty" in printed


def test_a_completion_that_nobody_waits_for_is_counted_and_reported(stage: Stage) -> None:
    stage.ring.finish(12345 << KIND_BITS | Kind.OPERATION, -errno.EPIPE, True)
    other = stage.poller("other")
    stage.ring.finish(other.user_data, 1)
    stage.turn()
    assert stage.tasks.faults == 1
    assert stage.reported() == ("ringserve: completion of OPERATION 12345 that nobody waits for: res=-32 more=True\n")
    assert stage.said == [("other", 1)]


def test_a_late_completion_of_a_finished_task_reaches_nobody(stage: Stage) -> None:
    async def forgetful() -> None:
        task.room(FD)  # queued and not awaited: a mistake, and not one that may hit another task

    task = stage.tasks.start(forgetful())
    stage.turn()
    stage.ring.take_queued()
    assert task.finished
    successor = stage.poller("successor")
    stage.ring.finish(task.user_data, 1)
    stage.turn()
    assert stage.tasks.faults == 1
    assert "that nobody waits for" in stage.reported()
    assert stage.said == []
    assert not successor.finished


# -- timers -----------------------------------------------------------------------------------------------------------


def test_timers_fire_in_order_of_time_and_then_of_their_making(stage: Stage) -> None:
    for when, name in ((3.0, "late"), (1.0, "early"), (2.0, "middle"), (2.0, "middle again")):
        stage.tasks.call_at(1000.0 + when, lambda name=name: stage.said.append(name))  # type: ignore[misc]
    for now, said in (
        (1000.9, []),
        (1001.0, ["early"]),
        (1002.5, ["middle", "middle again"]),
        (1010.0, ["late"]),
        (1020.0, []),
    ):
        stage.ring.now = now
        stage.turn()
        assert stage.said == said
        stage.said.clear()


def test_a_timer_repeats_at_the_time_that_it_returns(stage: Stage) -> None:
    times = iter([1002.0, 1005.0, None])

    def function() -> float | None:
        stage.said.append(stage.ring.now)
        return next(times)

    stage.tasks.call_at(1001.0, function)
    for now in range(1000, 1020):
        stage.ring.now = float(now)
        stage.turn()
    assert stage.said == [1001.0, 1002.0, 1005.0]


def test_a_timer_that_answers_with_the_past_neither_holds_the_loop_nor_fires_twice_at_once(stage: Stage) -> None:
    counter = itertools.count()

    def function() -> float | None:
        assert next(counter) < 100, "the loop never came back"
        stage.said.append(stage.ring.now)
        return 0.0

    stage.tasks.call_at(0.0, function)
    stage.turn()
    stage.turn()
    assert stage.said == [1000.0]
    stage.ring.now += SHORTEST_TIMER_S
    stage.turn()
    assert stage.said == [1000.0, 1000.0 + SHORTEST_TIMER_S]


def test_a_timer_made_by_a_timer_for_now_fires_in_the_same_turn(stage: Stage) -> None:
    def first() -> None:
        stage.said.append("first")
        stage.tasks.call_at(stage.ring.now, lambda: stage.said.append("second"))

    stage.tasks.call_at(1000.0, first)
    stage.turn()
    assert stage.said == ["first", "second"]


def test_a_turn_sleeps_until_the_next_timer_and_no_longer_than_it_may(stage: Stage) -> None:
    stage.turn()
    stage.tasks.call_at(1004.0, lambda: None)
    stage.turn()
    stage.ring.now = 1003.0
    stage.turn()
    stage.ring.now = 1004.5  # the timer is overdue
    stage.turn()
    stage.turn()
    assert stage.ring.sleeps == [10.0, 4.0, 1.0, 0.0, 10.0]


def test_a_task_can_be_interrupted_by_a_timer(stage: Stage) -> None:
    task = stage.poller()
    stage.tasks.call_at(1005.0, lambda: task.interrupt(InterruptionError("timed out")))
    stage.ring.now = 1005.0
    stage.turn()
    assert [queued[0] for queued in stage.ring.take_queued()] == ["cancel"]
    stage.ring.finish(task.user_data, -errno.ECANCELED)
    stage.turn()
    assert stage.said == [("task", "timed out")]
