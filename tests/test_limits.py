"""How many requests a connection may bring, and how fast its client has to take what it asked for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Serving
from wire import TIMEOUT_S, Wire, eventually, get

from ringserve.conn import LINGER_S, Connection
from ringserve.connection.outbound import ConnectionOverError
from ringserve.connection.states import HOT, IDLE, LATE, LINGERING, READING, SLOW, Event, State
from ringserve.library import RunningServer
from ringserve.ring.uring import ring as uring

MIB = 1024 * 1024
EACH_PATH = pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "general"])


@pytest.fixture(autouse=True)
def _pages(site: Path) -> None:
    (site / "page").write_bytes(b"page")


def warm_up(running: RunningServer) -> None:
    """Have the page remembered, by connections of its own."""
    for _ in range(2):
        with Wire(running.url) as wire:
            wire.ask(get("/page"))
    eventually("they are gone", lambda: not running.server.shared.connections)


# -- requests on a connection -----------------------------------------------------------------------------------


@EACH_PATH
@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_the_last_request_of_a_connection_is_told_so_and_ends_it(serving: Serving, most: int, hot_path: bool) -> None:
    running = serving(requests_max=most, hot_path=hot_path)
    warm_up(running)
    for _connection in range(3):  # each has a count of its own
        with Wire(running.url) as wire:
            answers = [wire.ask(get("/page")) for _ in range(most)]
            assert {answer.body for answer in answers} == {b"page"}
            assert [answer.fields.get("connection") for answer in answers] == [None] * (most - 1) + ["close"]
            assert wire.at_end()
    assert running.server.listening[0].hot_answers >= (3 * (most - 1) if hot_path else 0)


@EACH_PATH
@pytest.mark.parametrize("most", [1, 2, 3])
def test_what_is_pipelined_beyond_the_last_request_is_not_answered(serving: Serving, most: int, hot_path: bool) -> None:
    running = serving(requests_max=most, hot_path=hot_path)
    warm_up(running)
    for ahead in (0, most - 1):  # the hot path has had that many
        with Wire(running.url) as wire:
            for _ in range(ahead):
                assert "connection" not in wire.ask(get("/page")).fields
            wire.send(get("/page") * (most - ahead) + get("/missing") * 5)
            answers = [wire.answer() for _ in range(most - ahead)]
            assert [answer.fields.get("connection") for answer in answers][-1] == "close"
            assert [answer.body for answer in answers] == [b"page"] * (most - ahead)
            assert wire.at_end()


def test_a_client_that_pipelines_far_beyond_can_still_read_its_last_answer(serving: Serving, site: Path) -> None:
    # Were the connection closed with requests unread, the reset would overtake the answer (RFC 9112 9.6).
    (site / "big").write_bytes(bytes(1 * MIB))
    running = serving(requests_max=2)
    beyond = get("/missing") * 4000
    assert len(beyond) > 128 * 1024
    with Wire(running.url) as wire:
        sender = threading.Thread(target=wire.send, args=(get("/page") + get("/big") + beyond,))
        sender.start()
        assert wire.answer().body == b"page"
        last = wire.answer()
        sender.join(TIMEOUT_S)
        assert len(last.body) == 1 * MIB
        assert last.fields["connection"] == "close"
        wire.send(get("/missing") * 100)  # and it may even go on
        assert wire.at_end()


def test_requests_of_every_kind_count(serving: Serving, site: Path) -> None:
    (site / "big").write_bytes(bytes(1 * MIB))
    kinds = [
        (get("/page", method="HEAD"), 200),
        (get("/missing"), 404),
        (get("/big"), 200),
        (get("/page", "If-None-Match: *"), 304),
        (get("/page", method="DELETE"), 405),
        (get("/big", "Range: bytes=0-4,9-12"), 206),
    ]
    for last in range(len(kinds)):
        with Wire(serving(requests_max=len(kinds)).url) as wire:
            for number, (request, status) in enumerate(kinds[last:] + kinds[:last], start=1):
                answer = wire.ask(request)
                assert answer.status == status
                assert answer.fields.get("connection") == ("close" if number == len(kinds) else None)
            assert wire.at_end()


def test_the_last_request_of_http_1_0_is_not_promised_that_the_connection_stays(serving: Serving) -> None:
    with Wire(serving(requests_max=2).url) as wire:
        request = b"GET /page HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        assert wire.ask(request).fields["connection"] == "keep-alive"
        assert wire.ask(request).fields["connection"] == "close"
        assert wire.at_end()


def test_a_client_that_does_not_end_its_side_after_the_last_request_is_left(serving: Serving) -> None:
    running = serving(requests_max=1, linger_timeout_s=0.2, keep_alive_timeout_s=60)
    with Wire(running.url) as wire:
        assert wire.ask(get("/page")).fields["connection"] == "close"
        assert wire.at_end()
        eventually("it is closed on the server's side too", lambda: not running.server.shared.connections)


def test_a_client_that_asked_for_the_end_is_not_waited_for(serving: Serving) -> None:
    running = serving(linger_timeout_s=30)
    with Wire(running.url) as wire:
        assert wire.ask(get("/page", "Connection: close")).fields["connection"] == "close"
        assert wire.at_end()
        eventually("it is closed on the server's side too", lambda: not running.server.shared.connections, 5)


# -- the rate ---------------------------------------------------------------------------------------------------

SIZE = 12 * MIB
"""Of a body that no socket buffer holds, and that may just be kept in memory."""
LIMIT_S = 60.0
"""The default of `write_timeout_s`."""
PACE_S = 50.0
"""A reader that pauses so long makes progress within each limit of time, and has had one after two pauses."""
FASTEST = 1024 * MIB
"""Bytes a second that no reader with pauses takes."""


class Clock:
    """The ring's clocks, which stand still until a test puts them forward: minutes pass at once, and how busy the
    machine is changes nothing.
    """

    def __init__(self) -> None:
        self._monotonic = time.monotonic()
        self._wall = time.time()

    def monotonic(self) -> float:
        return self._monotonic

    def time(self) -> float:
        return self._wall

    def put_forward(self, seconds: float) -> None:
        self._monotonic += seconds
        self._wall += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(uring, "time", made)
    return made


KINDS = {
    "spliced": {"cached_file_bytes_max": 0},
    "spliced-unix": {"cached_file_bytes_max": 0, "unix": True},
    "memory-unix": {"cached_file_bytes_max": 16 * MIB, "hot_path": False, "unix": True},
    "hot": {"cached_file_bytes_max": 16 * MIB},
    "hot-unix": {"cached_file_bytes_max": 16 * MIB, "unix": True},
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def reasons(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why connections were ended."""
    said: list[str] = []
    initialize = ConnectionOverError.__init__

    def note(self: ConnectionOverError, event: Event, *, resets: bool = False) -> None:
        said.append(event)
        initialize(self, event, resets=resets)

    monkeypatch.setattr(ConnectionOverError, "__init__", note)
    return said


class Reader:
    """A client in the middle of a download, and the server's side of it."""

    def __init__(self, running: RunningServer, wire: Wire, clock: Clock) -> None:
        self.url = running.url
        self._clock = clock
        self._socket = wire.socket
        self._connection = self._connection_of(running)
        self.received = 0
        self.was_cut_off = False

    @staticmethod
    def _connection_of(running: RunningServer) -> Connection:
        eventually("it is accepted", lambda: len(running.server.shared.connections) == 1)
        (connection,) = running.server.shared.connections
        assert isinstance(connection, Connection)
        return connection

    @property
    def state(self) -> State:
        return self._connection.state

    def wake_the_server(self) -> None:
        """It sleeps by another clock."""
        self._connection.ring.wake()

    def read(self) -> bool:
        """Some more; False at the end."""
        try:
            count = len(self._socket.recv(32768))
        except ConnectionResetError:
            count = 0
        self.received += count
        self.was_cut_off = not count
        return bool(count)

    def read_to(self, most: int) -> None:
        while self.received < most and self.read():
            pass

    def read_until_the_server_goes_on(self) -> None:
        """As little as it takes for there to be room in the socket, which is what the server sees of a reader."""
        before = self._taken_bytes()
        while self._taken_bytes() == before and self.received < SIZE and self.read():
            time.sleep(0.001)  # the server's turn: else much more would be taken before it notices

    def _taken_bytes(self) -> int:
        """How many the server's socket took of this answer, as far as is known."""
        outbound = self._connection._outbound
        return -1 if outbound is None else outbound.taken_bytes

    def was_heard(self) -> bool:
        """Whether the server has taken something since the clock was put forward."""
        self.wake_the_server()
        return self._connection.waiting_since == self._clock.monotonic()

    def read_on_in_paces(self, most: int) -> None:
        """Read a little just often enough not to be taken for stalled."""
        for _pace in range(most):
            if self.was_cut_off:
                return
            self._clock.put_forward(PACE_S)
            self.read_until_the_server_goes_on()


@pytest.fixture
def downloading(clock: Clock, serving: Serving, site: Path, tmp_path: Path) -> Callable[..., Any]:
    (site / "big").write_bytes(bytes(SIZE))

    @contextmanager
    def start(kind: str, **settings: Any) -> Iterator[Reader]:
        """A download of this kind that has begun, and has filled the socket's buffers."""
        settings = {**KINDS[kind], **settings}
        if settings.pop("unix", False):
            settings["unix"] = str(tmp_path / "socket")
        running = serving(**settings)
        if kind.startswith("hot"):
            with Wire(running.url) as wire:
                wire.send(get("/big"))
                Reader(running, wire, clock).read_to(SIZE)
            eventually("it is gone", lambda: not running.server.shared.connections)
        with Wire(running.url, receive_bytes=65536) as wire:
            wire.send(get("/big"))
            reader = Reader(running, wire, clock)
            reader.read()
            assert (reader.state is HOT) is kind.startswith("hot")
            yield reader
        running.stop()

    return start


Downloading = Callable[..., Any]


@EACH_KIND
def test_a_reader_that_takes_a_little_whenever_its_time_is_nearly_up_is_cut_off(
    downloading: Downloading, reasons: list[str], kind: str
) -> None:
    with downloading(kind, rate_bytes_min=FASTEST) as reader:
        reader.read_on_in_paces(10)
        while reader.read():
            pass
        assert reader.was_cut_off
        assert reader.received < SIZE
    assert SLOW in reasons
    assert LATE not in reasons


@EACH_KIND
def test_a_reader_that_is_fast_enough_is_not_cut_off(downloading: Downloading, reasons: list[str], kind: str) -> None:
    with downloading(kind, rate_bytes_min=1000) as reader:
        reader.read_on_in_paces(3)
        reader.read_to(SIZE)
        assert not reader.was_cut_off
    assert SLOW not in reasons


@EACH_KIND
def test_a_reader_that_takes_nothing_is_cut_off_whatever_the_rate(
    downloading: Downloading, clock: Clock, reasons: list[str], kind: str
) -> None:
    with downloading(kind, rate_bytes_min=0) as reader:

        def is_cut_off() -> bool:
            # Again and again, since at first the buffers may still be filling.
            clock.put_forward(LIMIT_S + 1)
            reader.wake_the_server()
            return LATE in reasons

        eventually("it is cut off", is_cut_off)
        while reader.read():
            pass
        assert reader.received < SIZE


def test_a_client_that_was_quiet_before_is_not_slow(clock: Clock, serving: Serving, reasons: list[str]) -> None:
    # What counts is how fast an answer is taken, from when it is sent: not since the answer before.
    running = serving(rate_bytes_min=100 * MIB)
    for request, status in ((get("/page"), 200), (b"garbage\r\n\r\n", 400), (get("/page", "Content-Length: 3"), 200)):
        with Wire(running.url) as wire:
            connection = Reader(running, wire, clock)
            assert wire.ask(get("/page")).status == 200
            eventually("the server knows that it was taken", lambda: connection.state is IDLE)  # noqa: B023
            clock.put_forward(LIMIT_S + 1)
            assert wire.ask(request, method="GET").status == status
            if request == get("/page"):
                assert wire.ask(get("/page")).body == b"page"
            else:
                assert wire.at_end()
        eventually("it is gone", lambda: not running.server.shared.connections)
    assert SLOW not in reasons


def test_a_client_that_sends_its_request_slowly_is_no_slow_reader(
    clock: Clock, serving: Serving, reasons: list[str]
) -> None:
    running = serving(rate_bytes_min=100 * MIB, header_timeout_s=600, keep_alive_timeout_s=600)
    with Wire(running.url) as wire:
        connection = Reader(running, wire, clock)
        for _again in range(2):
            wire.send(get("/page")[:-2])
            eventually("its head has begun", lambda: connection.state is READING)
            clock.put_forward(LIMIT_S + 1)
            assert wire.ask(get("/page")[-2:], method="GET").body == b"page"
            assert wire.ask(get("/page")).body == b"page"
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.at_end()
    assert SLOW not in reasons


@EACH_KIND
def test_a_steady_reader_stays_though_it_acknowledges_nothing_for_longer_than_the_write_timeout(
    downloading: Downloading, clock: Clock, reasons: list[str], kind: str
) -> None:
    # As `curl --limit-rate 1k`, whose kernel makes no room before 95 KB are read.
    with downloading(kind) as reader:
        for _pace in range(8):
            reader.read_to(reader.received + MIB // 4)
            for silent_s in (PACE_S, LIMIT_S * 1.6):  # the first look sees what it has read, the second one nothing
                clock.put_forward(silent_s)
                for _turn in range(2):  # so that the server has looked
                    with Wire(reader.url) as other:
                        assert other.ask(get("/page", "Connection: close")).body == b"page"
        reader.read_to(SIZE)
        assert not reader.was_cut_off
    assert LATE not in reasons
    assert SLOW not in reasons


# -- what comes after the last answer ---------------------------------------------------------------------------


def test_a_client_that_goes_on_sending_after_its_last_answer_is_left_in_the_end(clock: Clock, serving: Serving) -> None:
    running = serving(linger_timeout_s=2)
    with Wire(running.url) as wire:
        client = Reader(running, wire, clock)
        assert wire.ask(get("/page", f"Content-Length: {MIB}")).body == b"page"
        eventually("it lingers", lambda: client.state is LINGERING)
        for _again in range(int(LINGER_S / 1.5) - 1):
            clock.put_forward(1.5)
            wire.send(b"x")
            eventually("it was heard", client.was_heard)
        assert client.state is LINGERING
        clock.put_forward(1.9)  # it was silent for less than its limit

        def is_left() -> bool:
            running.server.tasks.ring.wake()
            return not running.server.shared.connections

        eventually("it is left", is_left)
