"""A connection on a world that does what the case says: no kernel, no time. The table of states is taken row by row."""

from __future__ import annotations

import copy
import errno
import inspect
from collections.abc import Generator
from typing import Any, cast

import pytest
from scripted import PIPE_BYTES, ScriptedRing, note_rows, scripted_tasks

from ringserve.config.settings import Config
from ringserve.conn import LINGER_S, Connection
from ringserve.connection.listening import Listening, Shared
from ringserve.connection.outbound import OUTPUT_BYTES_MAX
from ringserve.connection.plain import PipePool
from ringserve.connection.states import (
    ABORTED,
    ARMED,
    CLOSED,
    CLOSING,
    ENDED,
    FINDING,
    HOT,
    IDLE,
    LINGERING,
    ONCE,
    PAUSED,
    PREFACE,
    READING,
    SENDING,
    STATES,
    State,
)
from ringserve.files.entries import Entry, Key
from ringserve.files.table import FileTable
from ringserve.http.response import FileSlice, Response, SharedDescriptor
from ringserve.responders.policy import Sites
from ringserve.responders.steps import Lookup
from ringserve.ring.tasks import Signal, Task
from ringserve.ring.world import NO_ROOM

FD = 7
FILE_BYTES = 5 * PIPE_BYTES
PREFACE_LINE = b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n"


def get(path: str, *fields: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", "Host: test", *fields, "")).encode()


class Files:
    """A table in which a slow path is found when the case says so."""

    def __init__(self, ring: ScriptedRing) -> None:
        self._ring = ring
        self.found = Signal()

    def find_now(self, key: Key) -> Entry | None:
        """Nothing, so that what is new takes the general path."""

    async def find(self, task: Task, key: Key) -> Entry:
        if key.path.startswith(b"slow"):
            await task.wait(self.found)
        entry = Entry(key.path)
        entry.freshness.until = self._ring.now + 1e6
        return entry


def respond(request: Any, _site: object, _now: float) -> Generator[Any, Any, Response]:
    path = request.line.target.removeprefix(b"/")
    yield Lookup(Key(0, path))
    if path == b"file":
        return Response(200, (), (FileSlice(SharedDescriptor(1, lambda _fd: None), 0, FILE_BYTES),), FILE_BYTES)
    body = bytes(OUTPUT_BYTES_MAX) if path == b"big" else path
    return Response(200, (), (body,), len(body))


class Peer:
    """One client of a server, and the server's side of it."""

    def __init__(self, *, refused: bool = False, **settings: Any) -> None:
        self.fd = FD
        self.ring, self.tasks, self.world = scripted_tasks()
        config = Config(directory=".", log_format="off", cache_bytes_max=1024 * 1024, **settings)
        self.files = Files(self.ring)
        pipes = PipePool(self.tasks, 1, PIPE_BYTES)
        self.shared = Shared(config, self.tasks, cast(FileTable, self.files), pipes, None)
        self.listening = Listening(config, config.listeners[0], Sites(config), cast(Any, respond), self.shared)
        self.connection = Connection(self.listening, FD, refused=refused)
        self.turn()

    @classmethod
    def beside(cls, other: Peer) -> Peer:
        """Another client of the same server."""
        peer = copy.copy(other)
        peer.fd = other.fd + 1
        peer.connection = Connection(other.listening, peer.fd)
        return peer

    def turn(self) -> None:
        self.tasks.turn(0)
        assert not self.tasks.faults, self.world.diagnostics.take(self.ring.now)
        assert (self.fd in self.ring.closed) is (self.state in (CLOSING, CLOSED))
        assert (self.connection in self.shared.connections) is (self.state is not CLOSED)

    @property
    def state(self) -> State:
        return self.connection.state

    @property
    def doing(self) -> list[str]:
        """What is in flight on its descriptor."""
        return sorted(self.ring.doing(self.fd))

    @property
    def answers(self) -> list[str]:
        """Their statuses and their last lines, as far as the socket took them; each time the new ones."""
        data = bytes(self.ring.sent.pop(self.fd, b""))
        return [part.split(b" ", 1)[0].decode() for part in data.split(b"HTTP/1.1 ")[1:]]

    def sends(self, data: bytes, *, more: bool = True) -> None:
        """Bytes come in. more: the receive goes on, if it is one that can."""
        verb = next(verb for verb in ("receive", "receive_once") if verb in self.doing)
        self.ring.complete(verb, self.fd, len(data), data=data, more=more and verb == "receive")
        self.turn()

    def ends_its_side(self) -> None:
        verb = next(verb for verb in ("receive", "receive_once") if verb in self.doing)
        self.ring.complete(verb, self.fd, 0)
        self.turn()

    def breaks(self) -> None:
        verb = next(verb for verb in ("receive", "receive_once") if verb in self.doing)
        self.ring.complete(verb, self.fd, -errno.ECONNRESET)
        self.turn()

    def takes(self, count: int | None = None) -> None:
        """The socket takes what is being sent, or so many bytes of it."""
        (operation,) = (each for each in self.ring.in_flight.values() if each.verb == "send")
        self.ring.complete("send", self.fd, len(operation.data) if count is None else count)
        self.turn()

    def asks(self, request: bytes) -> None:
        self.sends(request)
        self.takes()

    def warms_up(self) -> None:
        """Ask for what is prepared from then on."""
        self.asks(get("/page"))
        self.asks(get("/page", "Connection: keep-alive"))  # which is another head
        assert self.answers == ["200", "200"]
        self.is_idle()

    def is_idle(self) -> None:
        assert (self.state, self.doing) == (IDLE, ["receive"])

    def waits(self, seconds: float) -> None:
        self.ring.now += seconds
        self.turn()
        self.connection.check_deadline()
        self.turn()

    def drain(self) -> None:
        self.listening.draining = self.listening.closes_idle = True
        self.connection.finish_soon()
        self.turn()

    def abort(self) -> None:
        self.connection.end(ABORTED, resets=True)
        self.turn()
        if self.ring.cancelled:
            self.ring.end_cancelled()
            self.turn()

    def is_over(self, *, by_reset: bool = False) -> None:
        """Closed, and everything has ended."""
        if self.ring.cancelled:
            assert self.state is CLOSING
            self.ring.end_cancelled()
            self.turn()
        assert (self.state, self.doing) == (CLOSED, [])
        assert bool(self.ring.reset) is by_reset
        # Whatever is still said to it changes nothing.
        self.connection.check_deadline()
        self.connection.finish_soon()
        self.connection.end(ABORTED)
        assert self.connection.spare_rank is None
        assert self.connection.throw_away(1) == 0


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def proxy() -> Peer:
    return proxied()


def proxied() -> Peer:
    return Peer(proxy_protocol=True, trusted_proxy=("192.0.2.1",))


# -- nothing was asked yet ----------------------------------------------------------------------------------------


def test_who_asks_nothing_is_let_go_without_a_word(peer: Peer) -> None:
    assert (peer.state, peer.doing, peer.connection.inbound.state) == (IDLE, ["receive_once"], ONCE)
    peer.waits(75)
    peer.is_over()
    assert peer.answers == []


def test_who_ends_its_side_without_a_request_is_let_go(peer: Peer) -> None:
    peer.ends_its_side()
    peer.is_over()


def test_a_connection_that_breaks_before_a_request_is_closed(peer: Peer) -> None:
    peer.breaks()
    peer.is_over()


def test_a_drain_ends_who_has_not_asked(peer: Peer) -> None:
    peer.drain()
    peer.is_over()


def test_an_abort_ends_who_has_not_asked(peer: Peer) -> None:
    peer.abort()
    peer.is_over(by_reset=True)


# -- a preface ------------------------------------------------------------------------------------------------------


def test_a_preface_names_the_client_of_the_requests_behind_it(proxy: Peer) -> None:
    proxy.sends(PREFACE_LINE[:10])
    assert proxy.state is PREFACE
    proxy.sends(PREFACE_LINE[10:] + get("/page"))
    assert proxy.state is SENDING
    proxy.takes()
    assert proxy.answers == ["200"]
    proxy.is_idle()
    assert proxy.connection.told_client == "203.0.113.7"


def test_behind_a_preface_a_connection_may_be_idle(proxy: Peer) -> None:
    proxy.sends(PREFACE_LINE)
    proxy.is_idle()


def test_what_is_no_preface_gets_400(proxy: Peer) -> None:
    proxy.sends(get("/page"))
    proxy.takes()
    assert proxy.answers == ["400"]
    assert proxy.state is LINGERING


def test_a_preface_that_does_not_end_gets_408(proxy: Peer) -> None:
    proxy.sends(PREFACE_LINE[:10])
    proxy.waits(10)
    proxy.takes()
    assert proxy.answers == ["408"]
    assert proxy.state is LINGERING


def test_a_proxy_that_ends_its_side_within_its_preface_is_let_go(proxy: Peer) -> None:
    proxy.sends(PREFACE_LINE[:10])
    proxy.ends_its_side()
    proxy.is_over()


def test_a_connection_that_breaks_within_its_preface_is_closed(proxy: Peer) -> None:
    proxy.sends(PREFACE_LINE[:10])
    proxy.breaks()
    proxy.is_over()


def test_a_drain_does_not_wait_for_half_a_preface(proxy: Peer) -> None:
    proxy.sends(PREFACE_LINE[:10])
    proxy.drain()
    proxy.is_over()


def test_an_abort_does_not_wait_for_half_a_preface(proxy: Peer) -> None:
    proxy.sends(PREFACE_LINE[:10])
    proxy.abort()
    proxy.is_over(by_reset=True)


# -- part of a request ----------------------------------------------------------------------------------------------


def test_a_head_in_two_pieces_is_one_request(peer: Peer) -> None:
    peer.sends(b"GET /pa")
    assert (peer.state, peer.doing) == (READING, ["receive"])
    peer.asks(get("/page")[7:])
    assert peer.answers == ["200"]
    peer.is_idle()


def test_an_empty_line_is_no_request(peer: Peer) -> None:
    peer.sends(b"\r\n")
    peer.is_idle()


def test_what_is_no_request_gets_400_and_the_connection_lingers(peer: Peer) -> None:
    peer.asks(b"garbage\r\n\r\n")
    assert (peer.answers, peer.state, peer.ring.finished) == (["400"], LINGERING, [FD])


def test_a_head_that_does_not_end_gets_408(peer: Peer) -> None:
    peer.sends(b"GET /pa")
    peer.waits(10)
    peer.takes()
    assert (peer.answers, peer.state) == (["408"], LINGERING)


def test_who_ends_its_side_within_a_head_is_let_go(peer: Peer) -> None:
    peer.sends(b"GET /pa")
    peer.ends_its_side()
    peer.is_over()


def test_a_connection_that_breaks_within_a_head_is_closed(peer: Peer) -> None:
    peer.sends(b"GET /pa")
    peer.breaks()
    peer.is_over()


def test_a_drain_does_not_wait_for_half_a_head(peer: Peer) -> None:
    peer.sends(b"GET /pa")
    peer.drain()
    peer.is_over()


def test_an_abort_does_not_wait_for_half_a_head(peer: Peer) -> None:
    peer.sends(b"GET /pa")
    peer.abort()
    peer.is_over(by_reset=True)


# -- the hot path ---------------------------------------------------------------------------------------------------


def test_what_is_prepared_is_sent_without_the_coroutine(peer: Peer) -> None:
    peer.warms_up()
    peer.sends(get("/page"))
    assert (peer.state, peer.listening.hot_answers) == (HOT, 0)
    peer.takes()
    assert (peer.answers, peer.listening.hot_answers) == (["200"], 1)
    peer.is_idle()


def test_a_prepared_response_may_leave_in_parts(peer: Peer) -> None:
    peer.warms_up()
    peer.sends(get("/page"))
    peer.takes(10)
    assert peer.state is HOT
    peer.takes()
    assert peer.answers == ["200"]
    peer.is_idle()


def test_what_comes_while_a_prepared_response_is_sent_is_answered_behind_it(peer: Peer) -> None:
    peer.warms_up()
    peer.sends(get("/page"))
    peer.sends(get("/other"))
    assert peer.state is HOT
    peer.takes()
    assert peer.state is SENDING
    peer.takes()
    assert peer.answers == ["200", "200"]


def test_who_wanted_no_more_is_let_go_behind_a_prepared_response(peer: Peer) -> None:
    last = get("/page", "Connection: close")
    peer.asks(last)
    peer.is_over()
    without_coroutine = Peer.beside(peer)
    without_coroutine.sends(last)
    assert without_coroutine.state is HOT
    without_coroutine.takes()
    without_coroutine.is_over()
    with_coroutine = Peer.beside(without_coroutine)
    with_coroutine.asks(get("/other"))
    with_coroutine.sends(last)
    assert with_coroutine.state is HOT
    with_coroutine.takes()
    with_coroutine.is_over()


def test_a_half_closed_client_gets_its_prepared_response_and_is_let_go(peer: Peer) -> None:
    peer.warms_up()
    peer.sends(get("/page"))
    peer.ends_its_side()
    assert (peer.state, peer.connection.inbound.state) == (HOT, ENDED)
    peer.takes()
    assert peer.answers == ["200"]
    peer.is_over()


def test_a_drain_lets_a_prepared_response_out(peer: Peer) -> None:
    peer.warms_up()
    peer.sends(get("/page"))
    peer.drain()
    assert peer.state is HOT
    peer.takes()
    peer.is_over()


def test_a_broken_prepared_response_ends_the_connection(peer: Peer) -> None:
    peer.warms_up()
    peer.sends(get("/page"))
    peer.takes(-errno.EPIPE)
    peer.is_over()


def test_an_abort_cancels_a_prepared_response(peer: Peer) -> None:
    peer.warms_up()
    peer.sends(get("/page"))
    peer.abort()
    peer.is_over(by_reset=True)


def test_a_prepared_response_that_went_out_whole_before_the_abort_counts(peer: Peer) -> None:
    peer.warms_up()
    peer.sends(get("/page"))
    peer.connection.end(ABORTED, resets=True)
    peer.takes()
    assert (peer.answers, peer.listening.hot_answers) == (["200"], 1)
    peer.is_over(by_reset=True)


def stalls(peer: Peer) -> None:
    """Take nothing, of what is being sent, for as long as may be."""
    peer.ring.unacknowledged = 1000
    peer.connection.check_deadline()
    peer.waits(60)
    peer.ring.end_cancelled()
    peer.turn()
    peer.is_over(by_reset=True)


def crawls(peer: Peer) -> None:
    """Take a byte of it, and be given up for it in time."""
    peer.ring.unacknowledged = 1000
    peer.connection.check_deadline()
    peer.ring.now += 59
    peer.ring.unacknowledged = 999
    peer.connection.check_deadline()
    peer.waits(58)
    peer.ring.end_cancelled()
    peer.turn()
    peer.is_over(by_reset=True)


def test_a_client_that_takes_nothing_of_a_prepared_response_is_given_up(peer: Peer) -> None:
    peer.warms_up()
    peer.sends(get("/page"))
    stalls(peer)


def test_a_client_that_takes_too_little_of_a_prepared_response_is_given_up(peer: Peer) -> None:
    peer.warms_up()
    peer.sends(get("/page"))
    crawls(peer)


# -- finding ----------------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_one_send(peer: Peer) -> None:
    peer.sends(get("/a") + get("/b") + get("/c") + b"GET /d")
    assert (peer.state, peer.doing) == (SENDING, ["receive", "send"])
    peer.takes()
    assert (peer.answers, peer.state) == (["200"] * 3, READING)


def test_a_bad_head_is_answered_behind_what_had_gathered(peer: Peer) -> None:
    peer.asks(get("/a") + b"garbage\r\n\r\n")
    assert (peer.answers, peer.state) == (["200", "400"], LINGERING)


def test_what_is_not_found_in_time_is_503(peer: Peer) -> None:
    peer.sends(get("/a") + get("/slow"))
    assert (peer.state, peer.doing) == (FINDING, ["receive"])
    peer.waits(30)
    assert (peer.state, peer.connection.inbound.state) == (SENDING, ARMED)
    peer.takes()
    assert (peer.answers, peer.state) == (["200", "503"], LINGERING)


def test_what_is_found_after_a_while_is_sent(peer: Peer) -> None:
    peer.sends(get("/slow"))
    peer.waits(29)
    assert peer.state is FINDING
    peer.files.found.raise_()
    peer.turn()
    peer.takes()
    assert peer.answers == ["200"]
    peer.is_idle()


def test_a_half_closed_client_gets_what_is_being_found(peer: Peer) -> None:
    peer.sends(get("/slow"))
    peer.ends_its_side()
    assert peer.state is FINDING
    peer.files.found.raise_()
    peer.turn()
    peer.takes()
    assert peer.answers == ["200"]
    peer.is_over()


def test_a_connection_that_breaks_while_something_is_found_is_closed(peer: Peer) -> None:
    peer.sends(get("/a") + get("/slow"))
    peer.breaks()
    peer.is_over()


def test_an_abort_ends_what_is_being_found(peer: Peer) -> None:
    peer.sends(get("/slow"))
    peer.abort()
    peer.is_over(by_reset=True)


# -- sending ----------------------------------------------------------------------------------------------------------


def test_a_file_is_sent_behind_what_had_gathered_through_a_pipe(peer: Peer) -> None:
    peer.sends(get("/a") + get("/file") + get("/b"))
    peer.takes()
    assert len(peer.ring.sent[FD]) > FILE_BYTES
    peer.takes()
    assert peer.answers == ["200"] * 3
    peer.is_idle()


def test_what_has_gathered_is_sent_when_there_is_enough_of_it(peer: Peer) -> None:
    peer.sends(get("/big") + get("/b"))
    peer.takes()
    assert (peer.answers, peer.state) == (["200"], SENDING)
    peer.takes()
    assert peer.answers == ["200"]


def test_the_last_request_ends_the_connection(peer: Peer) -> None:
    peer.asks(get("/a", "Connection: close") + get("/b"))
    assert peer.answers == ["200"]
    peer.is_over()


def test_a_connection_that_breaks_while_it_is_sent_to_is_closed(peer: Peer) -> None:
    peer.sends(get("/a") + get("/b"))
    peer.takes(-errno.EPIPE)
    peer.is_over()


def test_an_abort_cancels_what_is_sent(peer: Peer) -> None:
    peer.sends(get("/a"))
    peer.abort()
    peer.is_over(by_reset=True)


def test_a_client_that_takes_nothing_is_given_up(peer: Peer) -> None:
    peer.sends(get("/a"))
    stalls(peer)


def test_a_client_that_takes_too_little_is_given_up(peer: Peer) -> None:
    peer.sends(get("/a"))
    crawls(peer)


def test_a_full_socket_is_waited_for(peer: Peer) -> None:
    peer.ring.full.add(FD)
    peer.sends(get("/file"))
    peer.takes()
    assert peer.doing == ["receive", "room"]
    peer.ring.full.clear()
    peer.ring.complete("room", FD, 0)
    peer.turn()
    peer.is_idle()
    assert len(peer.ring.sent[FD]) > FILE_BYTES


def test_a_refused_client_is_told_so_and_nothing_of_it_is_read() -> None:
    peer = Peer(refused=True)
    assert (peer.state, peer.doing, peer.connection.inbound.state) == (SENDING, ["send"], PAUSED)
    peer.takes()
    assert (peer.answers, peer.state, peer.doing) == (["503"], LINGERING, ["arrival"])


# -- lingering --------------------------------------------------------------------------------------------------------


def lingers(peer: Peer) -> None:
    peer.asks(get("/a", "Content-Length: 9"))
    assert (peer.answers, peer.state, peer.ring.finished) == (["200"], LINGERING, [FD])
    peer.ring.end_cancelled()
    peer.turn()
    assert peer.doing == ["arrival"]


def throws_away(peer: Peer, count: int) -> None:
    peer.ring.waiting[FD] = count
    peer.ring.complete("arrival", FD, 1)
    peer.turn()
    assert peer.shared.talking.popleft() is peer.connection
    assert peer.connection.throw_away(1000) == count


def test_what_still_comes_is_thrown_away_until_the_client_is_silent(peer: Peer) -> None:
    lingers(peer)
    throws_away(peer, 9)
    peer.waits(1.9)
    assert peer.state is LINGERING
    peer.waits(0.1)
    peer.is_over()


def test_a_client_that_goes_on_sending_is_left_in_the_end(peer: Peer) -> None:
    lingers(peer)
    for _second in range(int(LINGER_S) - 1):
        peer.waits(1)
        throws_away(peer, 9)
    assert peer.state is LINGERING
    peer.waits(1)
    peer.is_over()


def test_a_client_that_ends_its_side_is_waited_for_no_longer(peer: Peer) -> None:
    lingers(peer)
    throws_away(peer, 0)
    peer.is_over()


def test_a_client_that_has_ended_its_side_is_not_waited_for(peer: Peer) -> None:
    peer.sends(get("/slow", "Content-Length: 9"))
    peer.ends_its_side()
    peer.files.found.raise_()
    peer.turn()
    peer.takes()
    peer.is_over()


def test_a_drain_ends_who_lingers(peer: Peer) -> None:
    lingers(peer)
    peer.drain()
    peer.is_over()


def test_an_abort_ends_who_lingers(peer: Peer) -> None:
    lingers(peer)
    peer.abort()
    peer.is_over(by_reset=True)


# -- input ------------------------------------------------------------------------------------------------------------


def test_a_receive_that_found_no_buffer_is_asked_for_again(peer: Peer) -> None:
    peer.ring.complete("receive_once", FD, NO_ROOM)
    peer.turn()
    peer.is_idle()
    assert peer.connection.inbound.state is ARMED


def test_nothing_is_received_behind_a_request_with_a_body(peer: Peer) -> None:
    peer.sends(get("/slow", "Content-Length: 9"))
    assert peer.ring.cancelled
    peer.ring.complete("receive", FD, NO_ROOM)
    peer.turn()
    assert (peer.doing, peer.connection.inbound.state) == ([], PAUSED)


def test_input_pauses_while_much_of_it_waits(peer: Peer) -> None:
    peer.sends(get("/slow"))
    peer.sends(bytes(200_000))
    assert peer.ring.cancelled
    peer.ring.end_cancelled()
    peer.turn()
    assert (peer.doing, peer.connection.inbound.state) == ([], PAUSED)


def test_how_little_is_lost_by_the_end_of_a_connection(peer: Peer) -> None:
    assert peer.connection.spare_rank is None, "its request is on its way"
    peer.ring.now += 1
    assert peer.connection.spare_rank == 2
    peer.warms_up()
    assert peer.connection.spare_rank == 1
    peer.sends(get("/page"))
    assert peer.connection.spare_rank is None
    peer.takes()
    assert peer.answers == ["200"]
    lingers(peer)
    assert peer.connection.spare_rank == 0


# -- the table --------------------------------------------------------------------------------------------------------


def test_every_row_of_the_table_is_taken_by_a_case_above(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = note_rows(monkeypatch, STATES)
    for name, case in tuple(globals().items()):
        wanted = list(inspect.signature(case).parameters) if name.startswith("test_") else []
        if wanted == ["peer"]:
            case(Peer())
        elif wanted == ["proxy"]:
            case(proxied())
    assert seen == {(state, event) for state in STATES for event in state.on}
