"""Helper threads on a ring of the kernel: results, refusals, and who cleans up when nobody waits any more."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Serving
from fakes import world_of
from wire import TIMEOUT_S, Wire, eventually, get

from ringserve.ring.helpers import THREADS, WAITING_MAX
from ringserve.ring.tasks import HelpersBusyError, Job, Task, Tasks
from ringserve.ring.uring.ring import UringRing
from ringserve.ring.world import RingOptions

TURNS_MAX = 2000
LANE = "lane"


class InterruptionError(Exception):
    """What the cases interrupt with."""


class Loop:
    """Tasks on a ring. The test's thread is the loop's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ring = UringRing(RingOptions(submission_entries=16, completion_entries=64, buffers=4, buffer_bytes=256))
        self.tasks = Tasks(world_of(self.ring))
        self.wakes = 0
        self.said: list[object] = []
        self.cleaned: list[threading.Thread] = []
        self._threads_before = set(threading.enumerate())
        wake = self.ring.wake

        def counted_wake() -> None:
            self.wakes += 1
            wake()

        monkeypatch.setattr(self.ring._helpers, "_wake", counted_wake)

    @property
    def running(self) -> int:
        """How many jobs have not completed."""
        return self.ring.in_flight()

    @property
    def threads(self) -> set[threading.Thread]:
        """The helpers' threads that live."""
        return set(threading.enumerate()) - self._threads_before

    def start(self, function: Callable[[], Any]) -> Task:
        """A task that has `function` run, says what came of it, and notes on which thread was cleaned up."""

        def clean_up() -> None:
            self.cleaned.append(threading.current_thread())

        async def body() -> None:
            try:
                self.said.append(await self.tasks.call(function, LANE, cleanup=clean_up).result(task))
            except (InterruptionError, HelpersBusyError, LookupError) as error:
                self.said.append(error)

        task = self.tasks.start(body())
        self.tasks.turn(0)
        return task

    def begin(
        self, function: Callable[[], Any], cleanup: Callable[[], None] | None = None, origin: str = ""
    ) -> Job[Any]:
        return self.tasks.call(function, LANE, origin, cleanup)

    def turn_until(self, what: str, condition: Callable[[], bool]) -> None:
        for _turn in range(TURNS_MAX):
            if condition():
                return
            self.tasks.turn(0.01)
        pytest.fail(f"not within {TURNS_MAX} turns: {what}")


@pytest.fixture
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    request.getfixturevalue("io_uring")
    made = Loop(monkeypatch)
    yield made
    made.ring.shut()
    assert made.tasks.faults == 0
    eventually("the threads have ended", lambda: not made.threads)


class Gate:
    """A function that blocks until it is let through."""

    def __init__(self, result: object = "through") -> None:
        self.began = threading.Event()
        self.opened = threading.Event()
        self._result = result

    def __call__(self) -> object:
        self.began.set()
        assert self.opened.wait(TIMEOUT_S)
        return self._result


def here() -> threading.Thread:
    return threading.current_thread()


# -- results ----------------------------------------------------------------------------------------------------


def test_a_result_comes_back_from_another_thread(loop: Loop) -> None:
    task = loop.start(here)
    loop.turn_until("the task has ended", lambda: task.finished)
    (thread,) = loop.said
    assert thread in loop.threads
    assert loop.running == 0


def test_what_the_function_raises_is_raised_where_its_result_is_awaited(loop: Loop) -> None:
    def fail() -> None:
        raise LookupError("not there")

    task = loop.start(fail)
    loop.turn_until("the task has ended", lambda: task.finished)
    (error,) = loop.said
    assert isinstance(error, LookupError)
    assert str(error) == "not there"
    task = loop.start(lambda: "the thread lives on")
    loop.turn_until("the task has ended", lambda: task.finished)
    assert loop.said[1:] == ["the thread lives on"]
    assert len(loop.cleaned) == 2


def test_many_jobs_at_once_bring_each_its_own_result(loop: Loop) -> None:
    tasks = [loop.start(lambda number=number: number) for number in range(THREADS + WAITING_MAX)]  # type: ignore[misc]
    loop.turn_until("all have ended", lambda: all(task.finished for task in tasks))
    assert sorted(loop.said, key=str) == sorted(range(THREADS + WAITING_MAX), key=str)
    assert loop.running == 0


def test_a_job_without_a_cleanup_needs_none(loop: Loop) -> None:
    async def body() -> None:
        loop.said.append(await loop.begin(lambda: 5).result(task))

    task = loop.tasks.start(body())
    loop.turn_until("the task has ended", lambda: task.finished)
    assert loop.said == [5]


def test_the_loop_goes_on_while_a_job_blocks(loop: Loop) -> None:
    gate = Gate()
    blocked = loop.start(gate)
    assert gate.began.wait(TIMEOUT_S)
    for number in range(20):
        task = loop.start(lambda number=number: number)  # type: ignore[misc]
        loop.turn_until("the other has ended", lambda task=task: task.finished)  # type: ignore[misc]
    assert loop.said == list(range(20))
    gate.opened.set()
    loop.turn_until("the blocked one has ended", lambda: blocked.finished)
    assert loop.said[20:] == ["through"]


# -- cleaning up ------------------------------------------------------------------------------------------------


def test_cleaning_up_is_done_once_on_the_loops_thread_before_the_task_goes_on(loop: Loop) -> None:
    cleaned_at_result: list[int] = []

    async def body() -> None:
        await loop.begin(lambda: None, lambda: loop.cleaned.append(here())).result(task)
        cleaned_at_result.append(len(loop.cleaned))

    task = loop.tasks.start(body())
    loop.turn_until("the task has ended", lambda: task.finished)
    loop.tasks.turn(0)
    assert cleaned_at_result == [1]
    assert loop.cleaned == [here()]


def test_an_interrupted_task_goes_on_at_once_and_its_job_is_cleaned_up_when_it_ends(loop: Loop) -> None:
    gate = Gate()
    task = loop.start(gate)
    assert gate.began.wait(TIMEOUT_S)
    task.interrupt(InterruptionError("no time"))
    loop.turn_until("the task has ended", lambda: task.finished)
    assert [str(error) for error in loop.said] == ["no time"]
    assert loop.cleaned == [], "the function still uses what is to be cleaned up"
    assert loop.running == 1
    gate.opened.set()
    loop.turn_until("the job has ended", lambda: not loop.running)
    assert loop.cleaned == [here()]
    loop.tasks.turn(0)
    assert loop.cleaned == [here()]


def test_a_job_whose_task_was_interrupted_before_its_turn_is_cleaned_up_too(loop: Loop) -> None:
    gates = [Gate() for _thread in range(THREADS)]
    for gate in gates:
        loop.start(gate)
        assert gate.began.wait(TIMEOUT_S)
    waiting = loop.start(lambda: "nobody hears it")
    waiting.interrupt(InterruptionError("no time"))
    loop.turn_until("the task has ended", lambda: waiting.finished)
    assert loop.cleaned == []
    for gate in gates:
        gate.opened.set()
    loop.turn_until("the jobs have ended", lambda: not loop.running)
    assert loop.cleaned == [here()] * (THREADS + 1)
    assert sorted(map(str, loop.said)) == ["no time", *["through"] * THREADS]


# -- too much ---------------------------------------------------------------------------------------------------


def test_jobs_beyond_the_limit_are_refused_and_cleaned_up_without_being_begun(loop: Loop) -> None:
    gates = [Gate() for _thread in range(THREADS)]
    tasks = [loop.start(gate) for gate in gates]
    tasks += [loop.start(lambda: "had to wait") for _waiting in range(WAITING_MAX)]
    begun: list[str] = []
    refused = [loop.start(lambda: begun.append("never")) for _beyond in range(3)]
    loop.turn_until("they are refused", lambda: all(task.finished for task in refused))
    assert [type(error) for error in loop.said] == [HelpersBusyError] * 3
    assert loop.cleaned == [here()] * 3
    assert loop.running == THREADS + WAITING_MAX
    for gate in gates:
        gate.opened.set()
    loop.turn_until("all have ended", lambda: all(task.finished for task in tasks))
    assert begun == []
    assert loop.said.count("had to wait") == WAITING_MAX
    task = loop.start(lambda: "there is room again")
    loop.turn_until("it has ended", lambda: task.finished)
    assert loop.said[-1] == "there is room again"


# -- threads ----------------------------------------------------------------------------------------------------


def test_an_origin_that_fills_the_queue_loses_a_place_to_another_and_the_other_is_next_but_one(loop: Loop) -> None:
    gates = [Gate() for _thread in range(THREADS)]
    order: list[str] = []
    ended: list[str] = []

    def begin(origin: str, name: str) -> Job[None]:
        return loop.begin(lambda: order.append(name), lambda: ended.append(name), origin)

    for gate in gates:
        loop.begin(gate, None, "many")
    for number in range(WAITING_MAX):
        begin("many", f"many {number}")
    begin("one", "one")
    loop.turn_until("one is refused", lambda: len(ended) == 1)
    assert ended == [f"many {WAITING_MAX - 1}"], "the newest job of the origin that has most"
    begin("many", "too many")
    loop.turn_until("another is refused", lambda: len(ended) == 2)
    assert ended[1] == "too many"
    assert loop.running == THREADS + WAITING_MAX
    for gate in gates:
        gate.opened.set()
    loop.turn_until("the jobs have ended", lambda: not loop.running)
    assert len(order) == WAITING_MAX
    assert order.index("one") <= THREADS, "after one of the others, and what runs beside it"
    assert f"many {WAITING_MAX - 1}" not in order
    assert "too many" not in order


def test_several_tasks_wait_for_one_job_and_a_refused_one_is_said_to_each(loop: Loop) -> None:
    calls: list[str] = []

    def call() -> str:
        calls.append("called")
        return "result"

    job = loop.begin(call)
    said: list[object] = []

    async def wait(task: Task, for_what: Job[str]) -> None:
        try:
            said.append(await for_what.result(task))
        except HelpersBusyError as error:
            said.append(type(error))

    def start(for_what: Job[str]) -> None:
        task = Task(loop.tasks)
        task.begin(wait(task, for_what))

    for _waiting in range(3):
        start(job)
    loop.turn_until("all are told", lambda: len(said) == 3)
    assert said == ["result"] * 3
    assert calls == ["called"]
    gate = Gate()
    for _job in range(THREADS + WAITING_MAX):
        loop.begin(gate)
    refused = loop.begin(call)
    for _waiting in range(2):
        start(refused)
    loop.turn_until("they are told", lambda: len(said) == 5)
    assert said[3:] == [HelpersBusyError] * 2
    assert calls == ["called"]
    gate.opened.set()
    loop.turn_until("all have ended", lambda: not loop.running)


def test_threads_start_with_the_jobs_and_are_few(loop: Loop) -> None:
    assert not loop.threads
    task = loop.start(lambda: None)
    assert len(loop.threads) == 1
    loop.turn_until("it has ended", lambda: task.finished)
    for _job in range(10):
        task = loop.start(lambda: None)
        loop.turn_until("it has ended", lambda task=task: task.finished)  # type: ignore[misc]
    assert len(loop.threads) == THREADS
    assert all(thread.daemon for thread in loop.threads)


def test_a_system_without_threads_left_is_busy_and_one_thread_is_enough(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without_threads:
        without_threads.setattr(threading.Thread, "start", start)
        refused = loop.start(lambda: None)
        loop.turn_until("it has ended", lambda: refused.finished)
        assert [type(error) for error in loop.said] == [HelpersBusyError]
        assert loop.cleaned == [here()]
        assert loop.running == 0
    first = loop.start(here)
    with monkeypatch.context() as without_threads:
        without_threads.setattr(threading.Thread, "start", start)
        second = loop.start(here)
        loop.turn_until("both have ended", lambda: first.finished and second.finished)
    assert len(loop.threads) == 1
    assert loop.said[1:] == [*loop.threads] * 2


# -- the end ----------------------------------------------------------------------------------------------------


def test_a_job_that_outlives_the_ring_wakes_nothing(loop: Loop) -> None:
    gate = Gate()
    loop.start(gate)
    assert gate.began.wait(TIMEOUT_S)
    loop.ring.shut()
    gate.opened.set()
    eventually("the threads have ended", lambda: not loop.threads)
    assert loop.cleaned == []


def test_a_job_never_completes_in_the_turn_in_which_it_was_called(loop: Loop) -> None:
    ended: list[str] = []

    async def body() -> None:
        loop.begin(lambda: None, lambda: ended.append("it"))
        eventually("it has ended", lambda: loop.wakes == 1)

    loop.tasks.start(body())
    loop.tasks.turn(0)
    assert ended == []
    loop.turn_until("the next turn brings it", lambda: ended == ["it"])


def test_a_lane_that_hangs_keeps_no_other_from_its_threads(loop: Loop) -> None:
    gates = [Gate() for _thread in range(THREADS)]
    for gate in gates:
        loop.begin(gate)
        assert gate.began.wait(TIMEOUT_S)
    said: list[str] = []
    loop.tasks.call(lambda: said.append("called"), "another lane")
    loop.turn_until("it has ended", lambda: said == ["called"])
    for gate in gates:
        gate.opened.set()
    loop.turn_until("all have ended", lambda: not loop.running)


def test_a_thread_may_wake_a_server_that_has_ended_by_itself(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What wakes it otherwise, a client's packet, may come between the request to stop and the wake that belongs to it.
    (site / "page").write_bytes(b"page")
    running = serving()
    ring = running.server.tasks.ring
    wake, shut = ring.wake, ring.shut
    was_shut = threading.Event()

    def late_wake() -> None:
        wire.send(get("/page"))
        was_shut.wait(0.3)
        wake()

    def noted_shut() -> None:
        was_shut.set()
        shut()

    with Wire(running.url) as wire:
        assert wire.ask(get("/page")).body == b"page"
        monkeypatch.setattr(ring, "wake", late_wake)
        monkeypatch.setattr(ring, "shut", noted_shut)
        running.stop()
    assert was_shut.is_set()


HUNG = """
import threading
from ringserve.ring import open_world
from ringserve.ring.tasks import Task, Tasks

tasks = Tasks(open_world())
task = Task(tasks)
begun = threading.Event()

def hang():
    begun.set()
    threading.Event().wait()

async def body():
    await tasks.call(hang, "lane").result(task)

task.begin(body())
tasks.turn(0)
assert begun.wait(20)
if {shuts}:
    tasks.ring.shut()
print("the end")
"""


@pytest.mark.usefixtures("io_uring")
@pytest.mark.parametrize("shuts", [True, False])
def test_a_job_that_hangs_does_not_keep_the_interpreter_from_ending(shuts: bool) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HUNG.format(shuts=shuts)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "the end\n"), ended.stderr
