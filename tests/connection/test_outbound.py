"""The sending half of a connection over a transport of the test's own; and a connection that is handed such a one."""

from __future__ import annotations

import errno
from collections.abc import Coroutine, Generator
from typing import Any, cast

import pytest
from scripted import PIPE_BYTES, ScriptedRing, scripted_tasks

from ringserve.config.settings import Config
from ringserve.conn import Connection
from ringserve.connection.listening import Listening, Shared
from ringserve.connection.outbound import OUTPUT_BYTES_MAX, ConnectionOverError, Outbound, Record
from ringserve.connection.plain import PipePool, Plain
from ringserve.connection.states import BROKEN, CLOSED
from ringserve.connection.transport import Taker, TransferError
from ringserve.files.table import FileTable
from ringserve.http.response import FileSlice, Response, SharedDescriptor
from ringserve.responders.policy import Sites
from ringserve.ring.tasks import Task
from ringserve.ring.world import Pinned

FD = 7


class MockTransport:
    """Notes what it is given. after: what it takes before it breaks off with `error`."""

    taker: Taker
    peer_name = "192.0.2.1"

    def __init__(self, after: int = 1_000_000, error: Exception | None = None) -> None:
        self.given: list[object] = []
        self.room = after
        self.error = error

    def _take(self, count: int) -> None:
        taken = min(count, self.room)
        self.room -= taken
        self.taker.took(taken)
        if taken < count and self.error is not None:
            raise self.error

    async def send(self, data: bytes) -> None:
        self.given.append(data)
        self._take(len(data))

    async def send_file(self, file_fd: int, offset: int, length: int, *, last: bool) -> None:
        self.given.append((file_fd, offset, length, last))
        self._take(length)

    def begin(self, received: object) -> None:
        raise NotImplementedError

    def nothing(self) -> None:
        """Of what a connection does beside sending."""

    receive_once = receive = receive_no_more = await_arrival = finish = end = nothing

    def throw_away(self, bytes_max: int) -> int:
        return bytes_max

    def send_prepared(self, data: Pinned, start: int = 0) -> None:
        raise NotImplementedError

    def unacknowledged_bytes(self) -> int:
        return 0

    def close(self, *, armed: bool, resets: bool) -> None:
        raise NotImplementedError


def respond(*_arguments: object) -> Generator[Any, Any, Response]:
    yield from ()
    return Response(200, (), (b"body",), 4)


def listening_of(transport: Any = None) -> Listening:
    _ring, tasks, _world = scripted_tasks()
    config = Config(directory=".", log_format="off", cache_bytes_max=1024 * 1024)
    shared = Shared(config, tasks, cast(FileTable, None), PipePool(tasks, 1, PIPE_BYTES), None)
    return Listening(config, config.listeners[0], Sites(config), cast(Any, respond), shared, transport)


def run(body: Coroutine[Any, Any, None]) -> None:
    """To its end: nothing here waits."""
    with pytest.raises(StopIteration):
        body.send(None)


class Sender:
    """Outbound, its transport, and what it told of each response: status, bytes of its body, whether it broke off."""

    def __init__(self, transport: MockTransport) -> None:
        self.transport = transport
        self.told: list[tuple[int, int, bool]] = []
        self.outbound = Outbound(listening_of(), transport, self._finished)

    def _finished(self, record: Record, body_bytes: int, aborted: bool) -> None:
        self.told.append((record.status, body_bytes, aborted))


def test_responses_leave_together_in_one_send_in_their_order() -> None:
    sender = Sender(MockTransport())
    for status in (200, 404):
        sender.outbound.put_response(None, Response(status, (), (b"body",), 4), None, 0.0)
    assert not sender.outbound.is_due
    run(sender.outbound.send())
    (data,) = sender.transport.given
    assert isinstance(data, bytes)
    assert data.count(b"\r\n\r\nbody") == 2
    assert data.index(b" 200 ") < data.index(b" 404 ")
    assert sender.told == [(200, 4, False), (404, 4, False)]


def test_a_file_follows_its_head_and_is_given_up_once() -> None:
    closed: list[int] = []
    file = SharedDescriptor(5, closed.append)
    parts = b"head", FileSlice(file, 10, 20), FileSlice(file, 40, 2)
    sender = Sender(MockTransport())
    sender.outbound.put_response(None, Response(206, (), parts, 26), b"close", 0.0)
    file.retire()
    assert sender.outbound.is_due
    assert not closed
    run(sender.outbound.send())
    assert sender.transport.given[1:] == [b"head", (5, 10, 20, False), (5, 40, 2, True)]
    assert closed == [5]
    assert sender.told == [(206, 26, False)]


def test_what_is_too_much_to_wait_is_due() -> None:
    sender = Sender(MockTransport())
    sender.outbound.put_response(None, Response(200, (), (bytes(OUTPUT_BYTES_MAX),)), None, 0.0)
    assert sender.outbound.is_due


@pytest.mark.parametrize("error", [TransferError("send", -errno.ECONNRESET), OSError(errno.EMFILE, "none left")])
def test_of_what_broke_off_it_is_told_how_much_was_taken(error: Exception) -> None:
    probe = Sender(MockTransport())
    probe.outbound.put_response(None, Response(200, (), (b"body",), 4), None, 0.0)
    run(probe.outbound.send())
    whole = len(cast(bytes, probe.transport.given[0]))
    for after, told in ((whole, [(200, 4, False), (404, 0, True)]), (whole - 3, [(200, 1, True)])):
        sender = Sender(MockTransport(after, error))
        for status in (200, 404):
            sender.outbound.put_response(None, Response(status, (), (b"body",), 4), None, 0.0)
        with pytest.raises(ConnectionOverError) as over:
            sender.outbound.send().send(None)
        assert over.value.event is BROKEN
        assert sender.told == told


def test_what_was_not_sent_when_the_connection_ended_is_told_once() -> None:
    sender = Sender(MockTransport())
    sender.outbound.put_response(None, Response(200, (), (b"body",), 4), None, 0.0)
    sender.outbound.break_off()
    sender.outbound.break_off()
    assert sender.told == [(200, 0, True)]


class Whispering(Plain):
    """A transport that changes what goes over the wire, in both directions: it turns the bytes around."""

    async def send(self, data: bytes) -> None:
        await super().send(data[::-1])


def test_a_listener_says_what_its_connections_speak() -> None:
    made: list[tuple[Task, int]] = []

    def make(task: Task, fd: int) -> Whispering:
        made.append((task, fd))
        return Whispering(task, fd, listening.shared.pipes)

    listening = listening_of(make)
    connection = Connection(listening, FD)
    assert made == [(connection, FD)]
    tasks = listening.shared.tasks
    ring = cast(ScriptedRing, tasks.ring)
    tasks.turn(0)
    ring.complete("receive_once", FD, 18, data=b"GET / HTTP/1.0\r\n\r\n")
    tasks.turn(0)
    tasks.turn(0)
    (operation,) = [each for each in ring.in_flight.values() if each.verb == "send"]
    assert operation.data.startswith(b"ydob")
    assert operation.data.endswith(b"1.1/PTTH")
    ring.complete("send", FD, len(operation.data))
    tasks.turn(0)
    tasks.turn(0)
    ring.end_cancelled()
    tasks.turn(0)
    assert connection.state is CLOSED
