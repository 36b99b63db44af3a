"""The pool of pipes, on a ring that counts them and knows which are open."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest
from fakes import world_of

from ringserve.connection.plain import RETRY_S, Lease, PipePool
from ringserve.ring.tasks import Task, Tasks
from ringserve.ring.world import Completion, Pipe

PIPE_BYTES = 65536


class PlumbingRing:
    """Makes pipes and nothing else; each may be closed once. `refusal`: the errno of the next attempts."""

    def __init__(self) -> None:
        self.now = 0.0
        self.open: set[int] = set()
        self.attempts = self.made = 0
        self.refusal = 0

    def turn(self, timeout_s: float) -> Iterator[Completion]:
        assert timeout_s >= 0
        return iter(())

    def pipe(self, capacity_bytes: int) -> Pipe:
        self.attempts += 1
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))
        assert capacity_bytes == PIPE_BYTES
        self.made += 1
        pipe = Pipe(2 * self.made, 2 * self.made + 1, capacity_bytes)
        self.open |= {pipe.read_fd, pipe.write_fd}
        return pipe

    def discard(self, pipe: Pipe) -> None:
        self.open.remove(pipe.read_fd)
        self.open.remove(pipe.write_fd)


class Plumbing:
    """A pool, and holders that ask it for pipes."""

    def __init__(self, pipes_max: int) -> None:
        self.ring = PlumbingRing()
        self.tasks = Tasks(world_of(self.ring))
        self.pipes_max = pipes_max
        self.pool = PipePool(self.tasks, pipes_max, PIPE_BYTES)

    def turn(self) -> None:
        self.tasks.turn(0)
        assert len(self.ring.open) == 2 * self.pool.count, "what the pool counts is what is open"
        assert self.pool.count <= self.pipes_max

    def ask(self) -> Asker:
        """A holder that has asked; it got a pipe if there was one."""
        asker = Asker(self)
        self.turn()
        return asker

    def lease(self) -> Lease:
        """A pipe that must be there."""
        return self.ask().lease


class Asker:
    """A task that acquires one pipe."""

    def __init__(self, plumbing: Plumbing) -> None:
        self.outcome: Lease | OSError | None = None
        self._pool = plumbing.pool
        self._task = Task(plumbing.tasks)
        self._task.begin(self._body())

    async def _body(self) -> None:
        try:
            self.outcome = await self._pool.acquire(self._task)
        except OSError as error:
            self.outcome = error

    def interrupt(self, reason: OSError) -> None:
        self._task.interrupt(reason)

    @property
    def lease(self) -> Lease:
        assert isinstance(self.outcome, Lease), self.outcome
        assert self.outcome.pipe is not None
        assert self.outcome.filled == 0
        return self.outcome

    @property
    def pipe(self) -> Pipe:
        assert self.lease.pipe is not None
        return self.lease.pipe


def pipe_of(lease: Lease) -> Pipe:
    assert lease.pipe is not None
    return lease.pipe


def test_no_more_pipes_are_made_than_the_bound_and_each_holder_has_its_own() -> None:
    plumbing = Plumbing(pipes_max=3)
    askers = [plumbing.ask() for _index in range(5)]
    assert len({asker.pipe for asker in askers[:3]}) == 3
    assert [asker.outcome for asker in askers[3:]] == [None, None]
    assert plumbing.ring.made == 3


def test_pipes_are_made_only_when_they_are_asked_for() -> None:
    plumbing = Plumbing(pipes_max=3)
    assert plumbing.pool.count == 0
    plumbing.lease()
    assert plumbing.pool.count == 1


def test_an_empty_pipe_is_reused() -> None:
    plumbing = Plumbing(pipes_max=3)
    lease = plumbing.lease()
    pipe = pipe_of(lease)
    plumbing.pool.release(lease)
    assert lease.pipe is None
    assert pipe_of(plumbing.lease()) == pipe
    assert plumbing.ring.made == 1


def test_a_pipe_with_leftovers_is_destroyed() -> None:
    plumbing = Plumbing(pipes_max=1)
    lease = plumbing.lease()
    pipe = pipe_of(lease)
    lease.filled = 1
    plumbing.pool.release(lease)
    assert plumbing.ring.open == set()
    assert plumbing.pool.count == 0
    assert pipe_of(plumbing.lease()) != pipe


def test_a_release_is_of_one_pipe_however_often_it_is_called() -> None:
    plumbing = Plumbing(pipes_max=1)
    lease = plumbing.lease()
    plumbing.pool.release(lease)
    plumbing.pool.release(lease)
    plumbing.lease()
    assert plumbing.ask().outcome is None, "there is one pipe, not two"


@pytest.mark.parametrize("leftovers", [0, 1])
def test_who_waits_gets_the_pipe_that_is_released(leftovers: int) -> None:
    plumbing = Plumbing(pipes_max=1)
    lease = plumbing.lease()
    waiting = plumbing.ask()
    assert waiting.outcome is None
    lease.filled = leftovers
    plumbing.pool.release(lease)
    plumbing.turn()
    assert waiting.pipe


def test_of_several_who_wait_one_is_served_by_each_release() -> None:
    plumbing = Plumbing(pipes_max=1)
    lease = plumbing.lease()
    waiting = [plumbing.ask() for _index in range(3)]
    for _served in range(3):
        plumbing.pool.release(lease)
        plumbing.turn()
        (served,) = [asker for asker in waiting if asker.outcome is not None]
        waiting.remove(served)
        lease = served.lease
    assert waiting == []
    assert plumbing.ring.made == 1


def test_a_pipe_is_taken_from_who_has_been_parked_longest() -> None:
    plumbing = Plumbing(pipes_max=3)
    first, second, reader = plumbing.lease(), plumbing.lease(), plumbing.lease()
    for lease in (first, second):
        lease.filled = 4096
        plumbing.pool.park(lease)
    taken = pipe_of(first)
    newcomer = plumbing.ask()
    assert newcomer.pipe != taken, "it held bytes of another's file, so it was closed and a new one made"
    assert not plumbing.ring.open & {taken.read_fd, taken.write_fd}
    assert (first.pipe, first.filled) == (None, 0)
    assert not plumbing.pool.unpark(first)
    assert plumbing.pool.unpark(second)
    assert second.filled == 4096
    assert pipe_of(second)
    assert pipe_of(reader)


def test_who_parks_again_has_been_parked_shortest() -> None:
    plumbing = Plumbing(pipes_max=2)
    first, second = plumbing.lease(), plumbing.lease()
    plumbing.pool.park(first)
    plumbing.pool.park(second)
    assert plumbing.pool.unpark(first)
    plumbing.pool.park(first)
    plumbing.lease()
    assert second.pipe is None
    assert first.pipe is not None


def test_no_pipe_is_taken_from_who_is_not_parked() -> None:
    plumbing = Plumbing(pipes_max=1)
    lease = plumbing.lease()
    plumbing.pool.park(lease)
    assert plumbing.pool.unpark(lease)
    waiting = plumbing.ask()
    assert waiting.outcome is None
    assert lease.pipe is not None


def test_a_free_pipe_is_preferred_to_a_parked_one() -> None:
    plumbing = Plumbing(pipes_max=2)
    parked, free = plumbing.lease(), plumbing.lease()
    plumbing.pool.park(parked)
    plumbing.pool.release(free)
    plumbing.lease()
    assert parked.pipe is not None


def test_a_new_pipe_is_preferred_to_a_parked_one() -> None:
    plumbing = Plumbing(pipes_max=2)
    parked = plumbing.lease()
    plumbing.pool.park(parked)
    plumbing.lease()
    assert parked.pipe is not None


def test_who_waits_takes_the_pipe_of_the_next_who_parks() -> None:
    plumbing = Plumbing(pipes_max=1)
    lease = plumbing.lease()
    waiting = plumbing.ask()
    assert waiting.outcome is None
    lease.filled = 100
    plumbing.pool.park(lease)
    plumbing.turn()
    assert waiting.pipe
    assert not plumbing.pool.unpark(lease)


def test_a_parked_pipe_can_be_released() -> None:
    plumbing = Plumbing(pipes_max=1)
    lease = plumbing.lease()
    lease.filled = 10
    plumbing.pool.park(lease)
    plumbing.pool.release(lease)
    assert plumbing.ring.open == set()
    holder = plumbing.lease()
    assert plumbing.ask().outcome is None
    assert holder.pipe is not None, "the released lease is not parked any more"


def test_a_lease_whose_pipe_was_taken_is_released_without_harm() -> None:
    plumbing = Plumbing(pipes_max=1)
    lease = plumbing.lease()
    plumbing.pool.park(lease)
    holder = plumbing.ask()
    plumbing.pool.release(lease)
    plumbing.turn()
    assert plumbing.pool.count == 1
    assert holder.pipe


def test_who_waits_can_be_interrupted_and_leaves_no_trace() -> None:
    plumbing = Plumbing(pipes_max=1)
    lease = plumbing.lease()
    waiting, other = plumbing.ask(), plumbing.ask()
    reason = TimeoutError("waited long enough")
    waiting.interrupt(reason)
    plumbing.turn()
    assert waiting.outcome is reason
    plumbing.pool.release(lease)
    plumbing.turn()
    assert other.pipe


@pytest.mark.parametrize("refusal", [errno.EMFILE, errno.ENFILE])
def test_without_descriptors_the_pipes_that_exist_go_round(refusal: int) -> None:
    plumbing = Plumbing(pipes_max=4)
    lease = plumbing.lease()
    plumbing.ring.refusal = refusal
    waiting = plumbing.ask()
    assert waiting.outcome is None, "a pipe will come back"
    plumbing.pool.release(lease)
    plumbing.turn()
    assert waiting.pipe


@pytest.mark.parametrize("refusal", [errno.EMFILE, errno.ENFILE])
def test_without_descriptors_and_without_pipes_it_is_tried_again_until_there_is_one(refusal: int) -> None:
    plumbing = Plumbing(pipes_max=1)
    ring = plumbing.ring
    ring.refusal = refusal
    askers = [plumbing.ask() for _index in range(3)]
    for _attempt in range(5):
        before = ring.attempts
        plumbing.turn()
        assert ring.attempts == before, "not at once"
        ring.now += RETRY_S
        plumbing.turn()
        plumbing.turn()
        assert ring.attempts == before + len(askers), "each of them once"
        assert [asker.outcome for asker in askers] == [None] * 3
    ring.refusal = 0
    ring.now += RETRY_S
    plumbing.turn()
    plumbing.turn()
    (served,) = [asker for asker in askers if asker.outcome is not None]
    assert served.pipe


def test_without_descriptors_a_parked_pipe_gives_its_own() -> None:
    plumbing = Plumbing(pipes_max=4)
    parked = plumbing.lease()
    plumbing.pool.park(parked)
    ring = plumbing.ring
    ring.refusal = errno.EMFILE
    discard = ring.discard

    def discard_and_have_room(pipe: Pipe) -> None:
        discard(pipe)
        ring.refusal = 0

    ring.discard = discard_and_have_room  # type: ignore[method-assign]
    assert plumbing.ask().pipe
    assert parked.pipe is None


def test_a_task_that_waits_when_the_last_pipe_is_destroyed_and_none_can_be_made_waits_on() -> None:
    plumbing = Plumbing(pipes_max=4)
    lease = plumbing.lease()
    plumbing.ring.refusal = errno.EMFILE
    waiting = plumbing.ask()
    lease.filled = 1
    plumbing.pool.release(lease)
    plumbing.turn()
    assert waiting.outcome is None
    plumbing.ring.refusal = 0
    plumbing.ring.now += RETRY_S
    plumbing.turn()
    plumbing.turn()
    assert waiting.pipe


def test_any_other_refusal_is_raised_though_pipes_exist() -> None:
    plumbing = Plumbing(pipes_max=4)
    plumbing.lease()
    plumbing.ring.refusal = errno.ENOMEM
    asker = plumbing.ask()
    assert isinstance(asker.outcome, OSError)
    assert asker.outcome.errno == errno.ENOMEM


def test_shut_closes_the_pipes_that_nobody_holds() -> None:
    plumbing = Plumbing(pipes_max=3)
    held, free, also_free = plumbing.lease(), plumbing.lease(), plumbing.lease()
    plumbing.pool.release(free)
    plumbing.pool.release(also_free)
    plumbing.pool.shut()
    plumbing.turn()
    assert plumbing.ring.open == {pipe_of(held).read_fd, pipe_of(held).write_fd}
