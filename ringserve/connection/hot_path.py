"""The hot path: a prepared response for a remembered head, sent without the coroutine.

It is a shortcut, and not a second server: the very bytes are those that the general path renders. While the connection
is idle one complete head arrives, both halves of it are remembered, and a response is prepared and fresh, or is found
and prepared without waiting for anything. It is sent from the handler of the receive's completion.

It is one object with the connection, since each step from one object to another would be paid for by every request.
"""

from __future__ import annotations

from ringserve.connection.inbound import Inbound
from ringserve.connection.listening import Listening
from ringserve.connection.outbound import ConnectionOverError, Outbound, Record
from ringserve.connection.prepared import Prepared
from ringserve.connection.remembered import KnownHead
from ringserve.connection.states import (
    BROKEN,
    BYTES,
    CLOSE,
    DISMISSED,
    ENDED,
    HOT,
    INPUT_ENDED,
    KEEP,
    PAUSED,
    RECALLED,
    Event,
    State,
)
from ringserve.connection.transport import Transport
from ringserve.connection.verifier import Asker
from ringserve.http.heads import Told, told_of
from ringserve.observe.responses import LoggedBlock, Outcome
from ringserve.ring.world import Pinned


class HotPath(Asker):
    """What a connection has, and how it answers by itself; see the module.

    ending: what follows its response: KEEP, CLOSE or LINGER.
    waiting_since: when the wait began that its state has a limit for. began: when the request that is being answered
    did, or lingering.
    proxy, client_piece: see `Peer`.
    told_client: whom a proxy named before the first request, in a preface.
    """

    __slots__ = (
        "_hot", "_listening", "_outbound", "_requests_left", "_sending", "_sent_bytes", "began",
        "client_piece", "ending", "fd", "inbound", "proxy", "state", "told_client", "transport", "waiting_since",
    )  # fmt: skip

    state: State
    ending: Event

    def __init__(self, listening: Listening, fd: int) -> None:
        super().__init__(listening.shared.tasks)
        self._listening = listening
        self.fd = fd
        self.transport: Transport = listening.transport(self, fd)
        self.inbound = Inbound(self.transport, self._received)
        self._outbound: Outbound | None = None
        self.began = self.waiting_since = self.ring.now
        self._requests_left = listening.config.requests_max
        self._hot: tuple[KnownHead, Prepared] | None = None
        self._sending: Pinned | None = None
        self._sent_bytes = 0
        # Now, while the peer is there: a broken connection has no peer name any more, and is logged all the same.
        self.proxy: str | None = None
        self.told_client: str | None = None
        self.client_piece = b""
        if listening.log is not None or listening.proxies is not None:
            self._name_client(self.transport.peer_name)

    @property
    def outbound(self) -> Outbound:
        """Its sending half, which is made when it is first needed."""
        if self._outbound is None:
            self._outbound = Outbound(self._listening, self.transport, self._finished)
        return self._outbound

    # -- what the general path does of it -----------------------------------------------------------------------

    def _received(self, res: int, buffer: int, more: bool) -> None:
        raise NotImplementedError

    def _wake(self) -> None:
        raise NotImplementedError

    def end(self, event: Event, *, resets: bool = False) -> None:
        """End because of `event`: now, or when the operation in flight has ended. resets: see ConnectionOverError."""
        raise NotImplementedError

    def _close(self, event: Event, *, resets: bool = False) -> None:
        raise NotImplementedError

    # -- an answer ----------------------------------------------------------------------------------------------

    def _answer_hot(self, data: bytes) -> bool:
        """Send the prepared response for exactly one remembered head; False if the general path has to look."""
        listening = self._listening
        head = listening.memory.recall(data)
        if head is None:
            return False
        line, block, apart = head
        prepared = line.prepared.get(block.selection if apart is None else (block.selection, apart))
        if not block.plain or listening.draining:
            return False
        ring = self.ring
        now = ring.now
        if prepared is None or (prepared.freshness.until <= now and not listening.answers.is_still_true(prepared, now)):
            prepared = listening.answers.find_now(head, now, self.tasks.system.wall_time_s())
            if prepared is None:
                return False
        left = self._requests_left - 1
        if not left:
            return False  # the last one says `Connection: close`, and the client may have sent more
        self._requests_left = left
        clock = listening.clock
        if block.persistent:
            pinned = prepared.pinned
            if pinned is None or prepared.second != clock.second:
                pinned = prepared.render(clock.second, clock.date, ring.pin)
            if self.inbound.state is PAUSED:
                self.inbound.arm()
        else:
            self.ending = CLOSE
            pinned = prepared.render_last(clock.second, clock.date, ring.pin)
        self.state = self.state.on[RECALLED]
        self.began = self.waiting_since = now
        self._hot = head, prepared
        self._sending = pinned
        self.transport.send_prepared(pinned)
        return True

    def _completed(self, res: int, buffer: int, more: bool) -> None:
        """A prepared response, or a part of it, has gone; or an operation of the coroutine's has ended."""
        if self.state is not HOT:
            super()._completed(res, buffer, more)
            return
        sending, hot = self._sending, self._hot
        assert sending is not None
        assert hot is not None
        missing = sending.length - res
        if missing:
            missing = self._send_rest(sending, res)
            if missing < 0:
                return
        listening = self._listening
        self._sending = self._hot = None
        responses, prepared = listening.responses, hot[1]
        if missing:
            responses.finished(self, hot[0], prepared, max(0, prepared.body_bytes - missing), self.began, True)
        elif listening.log is not None:
            responses.finished(self, hot[0], prepared, prepared.body_bytes, self.began, False)
        else:  # what `finished` does without a log; the call would take 80 ns more
            responses.by_status[prepared.status] += 1
            responses.body_bytes += prepared.body_bytes
        if self._interruption is not None or self.ending is not KEEP:
            self._end_hot()
            return
        self.state = self.state.on[KEEP]
        self.waiting_since = self.ring.now
        inbound = self.inbound
        if inbound.reader is not None and inbound.reader.pending_bytes:
            self.state = self.state.on[BYTES]
            self._wake()
        elif inbound.state is ENDED:
            self.end(INPUT_ENDED)
        elif listening.closes_idle:
            self.end(DISMISSED)

    def _send_rest(self, sending: Pinned, res: int) -> int:
        """After a send that was not of the whole: -1 if what is left is being sent, or how many bytes will never be."""
        if res < 0:
            if self._interruption is None:
                self._interruption = ConnectionOverError(BROKEN)
        else:
            if not self._sent_bytes:  # only what needs several sends is measured
                self.outbound.begin_taking(self.began)
            self.outbound.took(res)
            self._sent_bytes += res
            if self._sent_bytes < sending.length and self._interruption is None:
                self.transport.send_prepared(sending, self._sent_bytes)
                return -1
        sent_bytes, self._sent_bytes = self._sent_bytes, 0
        return sending.length - sent_bytes

    def _end_hot(self) -> None:
        """The prepared response was the last one, or has broken off; or went out whole before an interruption."""
        over, self._interruption = self._interruption, None
        if over is None and self._body is None:
            self._close(CLOSE)
            return
        over = over or ConnectionOverError(CLOSE)
        assert isinstance(over, ConnectionOverError), "no other reason is given"
        if self._body is None:
            self._close(over.event, resets=over.resets)
        else:
            self.interrupt(over)

    # -- who it is, and what is told of it ----------------------------------------------------------------------

    def _name_client(self, client: str) -> None:
        """Who the log's lines are about. Kept as text only if it may speak for others: as `proxy`."""
        listening = self._listening
        if listening.log is not None:
            self.client_piece = listening.log.form.client(client)
        trusted = listening.proxies is not None and listening.proxies.trusts(client)
        self.proxy = client if trusted else None

    def client_of(self, told: Told) -> str:
        """See `Asker`. Without a log nobody has noted the peer's name: it is asked for when it matters."""
        proxies, client = self._listening.proxies, self.proxy
        if proxies is None or client is None:
            return self.told_client or self.transport.peer_name
        return proxies.client_of(client, told.x_forwarded_for)

    def piece_for(self, block: LoggedBlock) -> bytes:
        """See `Peer`."""
        log, proxy = self._listening.log, self.proxy
        assert log is not None, "nobody else asks"
        assert proxy is not None, "it is asked of a proxy"
        known = block.client_piece
        if known is None or known[0] != proxy:
            known = block.client_piece = proxy, log.form.client(self.client_of(told_of(block.header_bytes)))
        return known[1]

    def _finished(self, record: Record, body_bytes: int, aborted: bool) -> None:
        """A response of the general path is out, or has broken off."""
        self._listening.general_answers += 1
        outcome = Outcome(record.status, record.coding)
        self._listening.responses.finished(self, record.head, outcome, body_bytes, record.began, aborted)
