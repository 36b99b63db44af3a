"""What only the implementation on liburing has: the ladder of set-up flags, refusals, the probe, the interrupt
strategies, and submissions that could not be queued. The contract is in test_ring_contract.py."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from ringserve.ring.capability import circumstances, explain_refusal
from ringserve.ring.interrupt import BUSY_POLL, KERNEL_THREAD, STRATEGIES, WAIT, Interrupt
from ringserve.ring.uring import ring as uring
from ringserve.ring.uring._uring import lib
from ringserve.ring.uring.chains import CANCEL
from ringserve.ring.world import Completion, Pipe, RingBrokenError, RingOptions, RingRefusedError

TURNS_MAX = 2000
LONG_S = 20.0  # a sleep that must end early
SMALL = RingOptions(submission_entries=8, completion_entries=64, buffers=4, buffer_bytes=64)

OpenRing = Callable[..., uring.UringRing]
pytestmark = pytest.mark.usefixtures("io_uring")


class LibWith:
    """The cffi library with some functions replaced."""

    def __init__(self, real: Any, **replaced: Callable[..., int]) -> None:
        self.real = real
        self.replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self.replaced.get(name) or getattr(self.real, name)


@pytest.fixture
def replace(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces functions of the library by name for the rest of the case."""

    def replace_functions(**replaced: Callable[..., int]) -> None:
        monkeypatch.setattr(uring, "lib", LibWith(lib, **replaced))

    return replace_functions


@pytest.fixture
def open_ring() -> Iterator[OpenRing]:
    """Opens rings; afterwards neither they nor attempts at one have left a descriptor."""
    before = _descriptors()
    rings: list[uring.UringRing] = []

    def make(options: RingOptions = SMALL, interrupt: Interrupt = WAIT) -> uring.UringRing:
        rings.append(uring.UringRing(options, interrupt))
        return rings[-1]

    yield make
    for ring in rings:
        ring.shut()
    assert _descriptors() == before


def _descriptors() -> set[str]:
    """The numbers of open descriptors, without that of the listing."""
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


def drain(ring: uring.UringRing, user_data: set[int]) -> list[Completion]:
    """Turn until each of `user_data` has completed for good; all completions in their order."""
    seen: list[Completion] = []
    for _turn in range(TURNS_MAX):
        if not user_data:
            return seen
        for completion in ring.turn(0.01):
            seen.append(completion)
            if not completion[3]:
                user_data.discard(completion[0])
    pytest.fail(f"still in flight: {user_data}; came: {seen}")


def assert_receives(ring: uring.UringRing) -> None:
    """A receive through `ring` gets data and the end of the stream."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ring.receive(1, ours.fileno())
        theirs.send(b"hello")
        received = b""
        for _turn in range(TURNS_MAX):
            for user_data, res, buffer, _more in ring.turn(0.01):
                assert user_data == 1
                assert buffer >= 0
                received += ring.received(buffer, res)
            if received:
                break
        assert received == b"hello"
        theirs.shutdown(socket.SHUT_WR)
        assert drain(ring, {1})[-1][1] == 0


# -- set-up -----------------------------------------------------------------------------------------------------------


def test_the_best_rung_that_the_kernel_accepts_is_used(open_ring: OpenRing) -> None:
    assert open_ring().figures["setup_flags"] == uring.SETUP_LADDER[0]


@pytest.mark.parametrize("rung", range(len(uring.SETUP_LADDER)))
def test_a_ring_of_every_rung_works(monkeypatch: pytest.MonkeyPatch, open_ring: OpenRing, rung: int) -> None:
    monkeypatch.setattr(uring, "SETUP_LADDER", uring.SETUP_LADDER[rung:])
    ring = open_ring()
    assert ring.figures["setup_flags"] == uring.SETUP_LADDER[0]
    assert_receives(ring)


@pytest.mark.parametrize("rung", range(len(uring.KERNEL_THREAD_LADDER)))
def test_a_ring_with_a_kernel_thread_works_on_every_rung(
    monkeypatch: pytest.MonkeyPatch, open_ring: OpenRing, rung: int
) -> None:
    monkeypatch.setattr(uring, "KERNEL_THREAD_LADDER", uring.KERNEL_THREAD_LADDER[rung:])
    assert_receives(open_ring(interrupt=KERNEL_THREAD))


def test_flags_that_the_kernel_does_not_know_are_left_out_rung_by_rung(
    replace: Callable[..., None], open_ring: OpenRing
) -> None:
    tried: list[int] = []

    def create(holder: Any, submissions: int, completions: int, flags: int, idle: int) -> int:
        tried.append(flags)
        if flags & (lib.IORING_SETUP_DEFER_TASKRUN | lib.IORING_SETUP_COOP_TASKRUN):
            return -errno.EINVAL
        return lib.ringserve_ring_create(holder, submissions, completions, flags, idle)

    replace(ringserve_ring_create=create)
    ring = open_ring()
    assert tried == list(uring.SETUP_LADDER)
    assert ring.figures["setup_flags"] == uring.SETUP_LADDER[-1]
    assert_receives(ring)


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS, errno.ENOMEM, errno.EMFILE])
def test_a_refusal_is_not_tried_again_and_says_who_refused(
    replace: Callable[..., None], open_ring: OpenRing, error: int
) -> None:
    tried: list[int] = []

    def create(_holder: Any, _submissions: int, _completions: int, flags: int, _idle: int) -> int:
        tried.append(flags)
        return -error

    replace(ringserve_ring_create=create)
    with pytest.raises(RingRefusedError) as refused:
        open_ring()
    assert str(refused.value) == explain_refusal(error, circumstances())
    assert "\n" not in str(refused.value)
    assert len(tried) == 1


def test_a_kernel_that_takes_no_rung_is_refused_as_such(replace: Callable[..., None], open_ring: OpenRing) -> None:
    replace(ringserve_ring_create=lambda *_arguments: -errno.EINVAL)
    with pytest.raises(RingRefusedError) as refused:
        open_ring()
    assert str(refused.value) == explain_refusal(errno.EINVAL, circumstances())


def test_a_kernel_without_buffer_rings_is_refused_and_the_ring_given_back(
    replace: Callable[..., None], open_ring: OpenRing
) -> None:
    replace(ringserve_buffers_create=lambda *_arguments: -errno.EINVAL)
    with pytest.raises(RingRefusedError) as refused:
        open_ring()
    assert str(refused.value) == explain_refusal(errno.EINVAL, circumstances())


def test_a_kernel_whose_receive_names_no_buffer_is_refused_and_the_ring_given_back(
    replace: Callable[..., None], open_ring: OpenRing
) -> None:
    replace(ringserve_receive_multishot=lambda ring, user_data, _fd: lib.ringserve_cancel(ring, user_data, 0xFFFF))
    with pytest.raises(RingRefusedError):
        open_ring()


def test_the_smallest_ring_works(open_ring: OpenRing) -> None:
    ring = open_ring(RingOptions(submission_entries=1, completion_entries=2, buffers=1, buffer_bytes=64))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ring.receive(1, ours.fileno())
        theirs.send(b"x")
        seen = []
        for _turn in range(TURNS_MAX):
            seen += [res for _user_data, res, buffer, _more in ring.turn(0.01) if buffer >= 0]
            if seen:
                break
        assert seen == [1]
        ours.shutdown(socket.SHUT_RDWR)
        for _turn in range(3):
            list(ring.turn(0.01))


def test_a_ring_that_lost_a_completion_is_broken(replace: Callable[..., None], open_ring: OpenRing) -> None:
    ring = open_ring()
    replace(ringserve_turn=lambda *_arguments: -errno.EBADR)
    with pytest.raises(RingBrokenError, match="EBADR"):
        ring.turn(0)


# -- interrupt --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_receive_works_with_every_strategy(open_ring: OpenRing, name: str) -> None:
    assert_receives(open_ring(interrupt=STRATEGIES[name]))


def test_busy_poll_never_sleeps(open_ring: OpenRing) -> None:
    ring = open_ring(interrupt=BUSY_POLL)
    start = time.monotonic()
    for _turn in range(10):
        assert list(ring.turn(LONG_S)) == []
    assert time.monotonic() - start < LONG_S / 4


def test_a_kernel_thread_takes_a_batch_larger_than_the_queue(open_ring: OpenRing) -> None:
    ring = open_ring(interrupt=KERNEL_THREAD)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for user_data in range(1, 301):
            ring.room(user_data, ours.fileno())
        seen = drain(ring, set(range(1, 301)))
    assert sorted(user_data for user_data, _res, _buffer, _more in seen) == list(range(1, 301))


def test_a_signal_ends_a_sleep_and_its_handler_runs(open_ring: OpenRing) -> None:
    ring = open_ring()
    handled = threading.Event()
    turned = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        handled.set()

    def interrupt_until_turned() -> None:
        for _attempt in range(TURNS_MAX):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            if turned.wait(0.01):
                return

    list(ring.turn(0))  # hands over what waits for `wake`, or the next crossing has more to say than that it was cut
    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=interrupt_until_turned)
    try:
        start = time.monotonic()
        thread.start()
        assert list(ring.turn(LONG_S)) == []
        assert time.monotonic() - start < LONG_S / 4
    finally:
        turned.set()
        thread.join(LONG_S)
        signal.signal(signal.SIGUSR1, before)
    assert handled.is_set()
    assert ring.figures["interrupted"] == 1


def test_a_signal_handler_may_wake_and_nothing_wakes_a_ring_that_was_shut(open_ring: OpenRing) -> None:
    ring = open_ring()
    before = signal.signal(signal.SIGUSR1, lambda _number, _frame: ring.wake())
    try:
        signal.raise_signal(signal.SIGUSR1)
        start = time.monotonic()
        assert list(ring.turn(LONG_S)) == []
        assert time.monotonic() - start < LONG_S / 4
    finally:
        signal.signal(signal.SIGUSR1, before)
    ring.shut()
    with socket.socket() as takes_the_number_of_its_pipe:
        ring.wake()
        assert takes_the_number_of_its_pipe.fileno() >= 0


def test_a_fill_that_a_signal_interrupted_before_anything_moved_is_begun_again(
    replace: Callable[..., None], open_ring: OpenRing
) -> None:
    asked: list[int] = []

    def interrupted_once(_fd: int, offset: int, _pipe_fd: int, length: int) -> int:
        asked.append(offset)
        return -errno.EINTR if len(asked) == 1 else length

    ring = open_ring()
    replace(ringserve_splice_resident=interrupted_once)
    assert ring.fill(1, Pipe(100, 101, 65536), 102, 7, 1000) == 1000
    assert asked == [7, 7]


# -- submissions that could not be queued -----------------------------------------------------------------------------


class Busy:
    """Answers -EAGAIN `times` times, then does what the function of the library does, and records the order."""

    def __init__(self, real: Callable[..., int], times: int, order: list[int]) -> None:
        self.real = real
        self.times = times
        self.order = order

    def __call__(self, ring: Any, user_data: int, *arguments: int) -> int:
        if self.times:
            self.times -= 1
            return -errno.EAGAIN
        self.order.append(user_data)
        return self.real(ring, user_data, *arguments)


def test_submissions_behind_one_that_could_not_be_queued_keep_their_order(
    replace: Callable[..., None], open_ring: OpenRing
) -> None:
    ring = open_ring()
    order: list[int] = []
    poll = Busy(lib.ringserve_poll, 3, order)
    replace(
        ringserve_poll=poll,
        ringserve_receive_multishot=Busy(lib.ringserve_receive_multishot, 0, order),
        ringserve_cancel=Busy(lib.ringserve_cancel, 0, order),
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ring.room(1, ours.fileno())
        ring.receive(2, ours.fileno())
        ring.cancel(2)  # must not overtake the receive that it is for
        ring.room(4, ours.fileno())
        assert order == []
        assert poll.times == 2, "what comes behind is not even tried"
        results = {user_data: res for user_data, res, _buffer, _more in drain(ring, {1, 2, 4})}
    assert order == [1, 2, CANCEL, 4]
    assert results == {1: 4, 2: -errno.ECANCELED, 4: 4}


def test_each_deferred_submission_is_made_once(replace: Callable[..., None], open_ring: OpenRing) -> None:
    ring = open_ring()
    order: list[int] = []
    poll = Busy(lib.ringserve_poll, 1, order)
    replace(ringserve_poll=poll)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for user_data in range(1, 31):
            if user_data % 10 == 0:
                poll.times = 2
            ring.room(user_data, ours.fileno())
        seen = drain(ring, set(range(1, 31)))
        assert list(ring.turn(0)) == []
    assert order == list(range(1, 31))
    assert sorted(seen) == [(user_data, 4, -1, False) for user_data in range(1, 31)]


def test_a_turn_that_could_not_queue_everything_does_not_sleep(
    replace: Callable[..., None], open_ring: OpenRing
) -> None:
    # The turn itself hands over what fills the queue, so the next one can queue the rest at once. Were it to sleep,
    # a submission would wait for the completion of another, which may be long in coming.
    ring = open_ring()
    replace(ringserve_poll=Busy(lib.ringserve_poll, 2, []))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ring.room(1, ours.fileno())
        start = time.monotonic()
        list(ring.turn(1.0))
        elapsed_s = time.monotonic() - start
        drain(ring, {1})
    assert elapsed_s < 0.5
