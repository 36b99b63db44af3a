"""A world of sockets that does what a test says, and asserts what a ring may rely on: one operation of a user_data at a
time, nothing in flight on a closed descriptor except a receive that the close knows of, no byte sent that is not owed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest
from fakes import PinnedBytes, world_of

from ringserve.connection.states import Event, State
from ringserve.ring.tasks import Tasks
from ringserve.ring.world import Completion, Pipe, World

LISTENER_FD = 3
PIPE_BYTES = 65536
WALL_S = 1_700_000_000.0


class Operation(NamedTuple):
    """What is in flight. data: what is left to be sent."""

    verb: str
    fd: int
    data: bytes = b""


class ScriptedRing:
    """Ring and system in one.

    in_flight: by user_data. cancelled: those of them that somebody cancelled. closed, finished, reset: descriptors.
    full: sockets whose pipes do not empty. waiting: bytes that wait to be thrown away, by descriptor.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.in_flight: dict[int, Operation] = {}
        self.cancelled: set[int] = set()
        self.closed: list[int] = []
        self.finished: list[int] = []
        self.reset: list[int] = []
        self.sent: dict[int, bytearray] = {}
        self.full: set[int] = set()
        self.waiting: dict[int, int] = {}
        self.unacknowledged = 0
        self.reserves = 0
        self.reserve_refused = False
        self._buffers: list[bytes] = []
        self._completions: list[Completion] = []

    # -- the test's side ----------------------------------------------------------------------------------------

    def doing(self, fd: int) -> list[str]:
        """What is in flight on a descriptor."""
        return [operation.verb for operation in self.in_flight.values() if operation.fd == fd]

    def complete(self, verb: str, fd: int, res: int, *, data: bytes = b"", more: bool = False) -> None:
        """The next turn brings this."""
        (user_data,) = (each for each, operation in self.in_flight.items() if operation[:2] == (verb, fd))
        if verb == "send" and res > 0:
            self.sent.setdefault(fd, bytearray()).extend(self.in_flight[user_data].data[:res])
        if not more:
            del self.in_flight[user_data]
            self.cancelled.discard(user_data)
        buffer = -1
        if data:
            buffer, res = len(self._buffers), len(data)
            self._buffers.append(data)
        self._completions.append((user_data, res, buffer, more))

    def end_cancelled(self) -> None:
        """Complete what was cancelled, as cancelled."""
        for user_data in sorted(self.cancelled):
            operation = self.in_flight[user_data]
            self.complete(operation.verb, operation.fd, -errno.ECANCELED)

    # -- the ring -----------------------------------------------------------------------------------------------

    def turn(self, timeout_s: float) -> Iterator[Completion]:
        assert timeout_s >= 0
        completions, self._completions = self._completions, []
        return iter(completions)

    def _begin(self, user_data: int, verb: str, fd: int, data: bytes = b"") -> None:
        assert user_data not in self.in_flight, f"{self.in_flight[user_data]} has not ended"
        assert fd not in self.closed
        self.in_flight[user_data] = Operation(verb, fd, data)

    def accept(self, user_data: int, fd: int) -> None:
        self._begin(user_data, "accept", fd)

    def accept_once(self, user_data: int, fd: int) -> None:
        self._begin(user_data, "accept_once", fd)

    def accept_waiting(self, user_data: int, fd: int) -> None:
        self._begin(user_data, "accept_waiting", fd)

    def receive(self, user_data: int, fd: int) -> None:
        self._begin(user_data, "receive", fd)

    def receive_once(self, user_data: int, fd: int) -> None:
        self._begin(user_data, "receive_once", fd)

    def arrival(self, user_data: int, fd: int) -> None:
        self._begin(user_data, "arrival", fd)

    def room(self, user_data: int, fd: int) -> None:
        self._begin(user_data, "room", fd)

    def send(self, user_data: int, fd: int, data: PinnedBytes, offset: int = 0) -> None:
        assert fd not in self.finished
        assert "send" not in self.doing(fd), "bytes leave in order"
        self._begin(user_data, "send", fd, data.data[offset:])

    def fill(self, _user_data: int, _pipe: Pipe, _file: int, _offset: int, length: int) -> int:
        return length

    def cancel(self, target_user_data: int) -> None:
        assert target_user_data in self.in_flight, "there is nothing to cancel"
        self.cancelled.add(target_user_data)

    def close(self, fd: int, armed: int | None = None) -> None:
        assert fd not in self.closed
        assert [user_data for user_data, operation in self.in_flight.items() if operation.fd == fd] == (
            [] if armed is None else [armed]
        )
        self.closed.append(fd)
        if armed is not None:
            self.cancelled.add(armed)

    def received(self, buffer: int, count: int) -> bytes:
        data = self._buffers[buffer]
        assert len(data) == count
        return data

    def pin(self, data: bytes) -> PinnedBytes:
        return PinnedBytes(data)

    # -- the system ---------------------------------------------------------------------------------------------

    def peer_name(self, fd: int) -> str:
        assert fd not in self.closed
        return "192.0.2.1"

    def finish(self, fd: int) -> None:
        self.finished.append(fd)

    def reset_on_close(self, fd: int) -> None:
        assert fd not in self.closed
        self.reset.append(fd)

    def unacknowledged_bytes(self, fd: int) -> int:
        assert fd not in self.closed
        return self.unacknowledged

    def throw_away(self, fd: int, bytes_max: int) -> int:
        waiting = self.waiting.get(fd, 0)
        self.waiting[fd] = max(0, waiting - bytes_max)
        return min(waiting, bytes_max)

    def pipe(self, capacity_bytes: int) -> Pipe:
        return Pipe(-1, -1, capacity_bytes)

    def empty(self, _pipe: Pipe, socket: int, length: int, _more: bool) -> int:
        if socket in self.full:
            return -errno.EAGAIN
        self.sent.setdefault(socket, bytearray()).extend(bytes(length))
        return length

    def discard(self, pipe: Pipe) -> None:
        assert pipe.read_fd == -1

    def reserve(self) -> int:
        if self.reserve_refused:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.reserves += 1
        return 1000

    def give_up(self, reserve: int) -> None:
        assert reserve == 1000
        self.reserves -= 1

    def wall_time_s(self) -> float:
        return WALL_S

    def random_bytes(self, count: int) -> bytes:
        return bytes(count)


def scripted_tasks() -> tuple[ScriptedRing, Tasks, World]:
    """A ring, and tasks on it."""
    ring = ScriptedRing()
    world = world_of(ring)
    return ring, Tasks(world), world


def note_rows(monkeypatch: pytest.MonkeyPatch, states: Iterable[State]) -> set[tuple[State, Event]]:
    """The rows of a table that are taken from now on."""
    seen: set[tuple[State, Event]] = set()

    class Noted(dict[Event, State]):
        def __init__(self, state: State) -> None:
            super().__init__(state.on)
            self._state = state

        def __getitem__(self, event: Event) -> State:
            follower = super().__getitem__(event)
            seen.add((self._state, event))
            return follower

    for state in states:
        monkeypatch.setattr(state, "on", Noted(state))
    return seen
