"""One client, from accept to close.

A connection is a coroutine that reads top to bottom: wait for a request, find the response, send it, again (`_serve`).
Its receive is armed all the while and fills the reader; every wait has a limit. What follows what is a table
(`states.py`).

A request whose response is prepared takes a shortcut through that (`connection/hot_path.py`). The coroutine, the reader
and the outbound half are made when something first takes the general path: a connection that only ever asks for what is
prepared, for one file perhaps, has none of them.

A static server needs no request body. A request that has one is answered from its head, and is the last of its
connection: no byte behind such a head is ever parsed, so that no framing of a body can smuggle a request. The client
may be in the middle of sending, and a close with bytes unread would reset the connection before the client has read
the answer (RFC 9112 9.6). So the connection lingers: what still comes is thrown away, without a copy and without
memory, until the client is silent for a while. Lingering connections are the first to be closed when room is needed.

Invariants
 1. Responses leave in the order of their requests; those of pipelined requests leave in one send where they can.
 2. When a descriptor is closed, only one operation may still be pending on it: the receive, and its cancel must be
    queued before the close in the same batch. (A close with an uncancelled receive sends no FIN.) The connection stays
    in the count until that receive has completed.
"""

from __future__ import annotations

import errno

from ringserve.connection.hot_path import HotPath
from ringserve.connection.listening import Listening
from ringserve.connection.outbound import ConnectionOverError
from ringserve.connection.prepared import Prepared
from ringserve.connection.remembered import KnownHead
from ringserve.connection.states import (
    ABORTED,
    BAD,
    BROKEN,
    BYTES,
    CLOSE,
    CLOSED,
    CLOSING,
    DISMISSED,
    ENDED,
    FINDING,
    GATHERED,
    HEAD,
    HOT,
    IDLE,
    INPUT_ENDED,
    INTRODUCED,
    KEEP,
    LATE,
    LINGER,
    LINGERING,
    NOTHING,
    PAUSED,
    PREFACE,
    READING,
    RECEIVE_OVER,
    SENDING,
    Event,
)
from ringserve.http.proxies import ProxyError, read_preface
from ringserve.http.request import RequestError
from ringserve.ring.world import NO_ROOM

LINGER_S = 30.0
"""How long a connection lingers in all: time for a client that sends 100 MiB at 4 MB/s before it reads anything."""
REQUEST_ARRIVES_S = 0.1
"""For this time a new connection makes no room for others: its request is on its way."""


class Connection(HotPath):
    """See the module."""

    __slots__ = ()

    def __init__(self, listening: Listening, fd: int, *, refused: bool = False) -> None:
        """refused: the server is full; the peer is told so by a 503, and the connection ends."""
        super().__init__(listening, fd)
        # With a preface to come, nothing is a request yet, and the hot path must not take it for one.
        has_preface = listening.config.proxy_protocol and self.proxy is not None
        self.state = SENDING if refused else PREFACE if has_preface else IDLE
        self.ending = KEEP
        listening.shared.began(self)
        if not refused:
            self.inbound.receive_once()
        if self.state is not IDLE:
            self.begin(self._live())

    def __repr__(self) -> str:
        return f"<Connection fd={self.fd} {self.state}>"

    # -- input --------------------------------------------------------------------------------------------------

    def _received(self, res: int, buffer: int, more: bool) -> None:
        if not more:
            self.inbound.state = PAUSED
        # Not one that is about to be ended: its coroutine is on its way to close what a send would be in flight on.
        if res > 0 and self.state is IDLE and self._interruption is None:
            data = self.ring.received(buffer, res)
            if not self._answer_hot(data):
                self.state = self.state.on[BYTES]
                self.waiting_since = self.ring.now
                self._take(data)
        elif self.state is CLOSING:
            if not more:
                self._closed()
        elif self.state is LINGERING:
            if not more:
                self._linger_on(res, buffer)
        elif res > 0:
            self._take(self.ring.received(buffer, res))
        elif res == NO_ROOM:
            if self.ending is KEEP:
                self.inbound.arm()
        elif res != -errno.ECANCELED:
            self.inbound.state = ENDED
            if res < 0:
                self.end(BROKEN)
            elif self.state is IDLE and self._body is None:
                self._close(INPUT_ENDED)
            else:
                self._wake()

    def _take(self, data: bytes) -> None:
        if self.ending is KEEP:  # nothing behind the last request is one
            self.inbound.take(data, self._listening.limits)
            self._wake()

    def _wake(self) -> None:
        """Resume the coroutine at the end of this batch, if it waits for input, or begin it. Not while a prepared
        response is in flight: then `_completed` does.
        """
        if self.state is HOT:
            return
        if self._body is not None:
            self.inbound.raise_()
        else:
            self.inbound.arm()  # so that a peer that leaves is noticed while its answer is looked for
            self.begin(self._live())

    # -- the general path ---------------------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            await self._serve()
            if self.ending is LINGER:
                self.take_interruption()
                self._linger()
            else:
                self._close(CLOSE)
        except ConnectionOverError as over:
            if self._outbound is not None:
                self._outbound.break_off()
            self._close(over.event, resets=over.resets)
        except Exception:  # ours; the task reports it
            self._close(ABORTED)
            raise

    async def _serve(self) -> None:
        try:
            if self.state is SENDING:
                await self._send_error(503)  # the server is full
                return
            if self.state is PREFACE:
                await self._hear_preface()
            while self.ending is KEEP:
                await self._answer(await self._next_head())
            return
        except RequestError as error:
            event, status = BAD, error.status
        except ConnectionOverError as over:
            if self.state.on[over.event] is not SENDING:
                raise
            event, status = over.event, self.state.late_status
        # Not in the handlers: what h11 raises is a circle, which would last for as long as the peer takes.
        await self._refuse(event, status)

    async def _hear_preface(self) -> None:
        """What a trusted proxy says of its client before the first request. Raises RequestError."""
        reader = self.inbound.reading(self._listening.limits)
        while True:
            try:
                preface = read_preface(reader.peek())
            except ProxyError as error:
                raise RequestError(400, str(error)) from error
            if preface is not None:
                break
            if self.inbound.state is ENDED:
                raise ConnectionOverError(INPUT_ENDED)
            await self.inbound.more(self)
        reader.skip(preface.length)
        if preface.client is not None:
            self.told_client = preface.client
            self._name_client(preface.client)
        self.inbound.arm()  # as `_wake` does for who has no preface
        self.state = self.state.on[INTRODUCED]
        self._rest()

    async def _next_head(self) -> KnownHead:
        """That of the next request. Raises RequestError, and ConnectionOverError when the peer or the server wants no
        more.
        """
        inbound = self.inbound
        reader = inbound.reading(self._listening.limits)
        while True:
            head_bytes = reader.next_head()
            if head_bytes is not None:
                head = self._listening.memory.read(head_bytes)
                self._begin_answer(HEAD)
                return head
            if self.state is FINDING:
                # Nothing more to gather responses for; and what arrives meanwhile is looked at afterwards.
                self.state = self.state.on[GATHERED]
                await self._send()
                continue
            if self.state is READING and not reader.pending_bytes:
                self.state = self.state.on[NOTHING]
            if inbound.state is ENDED:
                raise ConnectionOverError(INPUT_ENDED)
            if self._listening.closes_idle:
                raise ConnectionOverError(DISMISSED)
            await inbound.more(self)

    def _begin_answer(self, event: Event) -> None:
        """A request is here, or what is answered as if it were one. It began with its first byte, if that did not come
        with an earlier request.
        """
        waited = self.state is READING or self.state is PREFACE
        self.began = self.waiting_since if waited else self.ring.now
        self.state = self.state.on[event]
        self.waiting_since = self.ring.now

    async def _answer(self, head: KnownHead) -> None:
        """Find the response to one request. Send it, or put it with those that wait to be sent."""
        block, listening, outbound = head[1].block, self._listening, self.outbound
        self._requests_left -= 1
        if block.has_body:
            self._hear_no_more()
        try:
            response = await listening.answers.find(self, head)
            if self._interruption is not None:
                self.take_interruption()  # one that came too late for what was waited for
        except ConnectionOverError as over:
            if over.event is not LATE:
                raise
            self._hear_no_more()
            response = listening.answers.error(self.state.late_status, head)
            self.state = self.state.on[LATE]
        ends = self.ending is not KEEP or listening.draining or self._requests_left <= 0
        connection: bytes | None = b"close"
        if block.persistent and not ends:
            connection = b"keep-alive" if block.says_keep_alive else None
        elif block.persistent:
            self._hear_no_more()  # a peer that did not ask for the end may have sent more requests already
        elif self.ending is KEEP:
            self.ending = CLOSE
        if isinstance(response, Prepared):
            outbound.put_prepared(head, response, connection, self.began)
        else:
            outbound.put_response(head, response, connection, self.began)
        if self.ending is not KEEP or outbound.is_due:
            if self.state is FINDING:
                self.state = self.state.on[GATHERED]
            await self._send()

    async def _send(self) -> None:
        """Send what has gathered. Then, unless it is at its end, the connection is where it was before a request."""
        self.waiting_since = self.ring.now
        await self.outbound.send()
        if self.ending is KEEP:
            if self._interruption is not None:
                self.take_interruption()  # what was sent is sent, all the same
            self.state = self.state.on[KEEP]
            self._rest()

    def _rest(self) -> None:
        self.waiting_since = self.ring.now
        reader = self.inbound.reader
        if reader is not None and reader.pending_bytes:
            self.state = self.state.on[BYTES]

    def _hear_no_more(self) -> None:
        """What still comes is no request: no byte of it is parsed, and none is kept. It waits in the kernel, which
        takes only so much of it, until the answer is out.
        """
        if self.ending is not LINGER:
            self.ending = LINGER
            self.inbound.reader = None
            self.inbound.pause()

    async def _refuse(self, event: Event, status: int) -> None:
        """The last words to a peer whose bytes are not read on."""
        self._begin_answer(event)
        await self._send_error(status)

    async def _send_error(self, status: int) -> None:
        self._hear_no_more()
        self.outbound.put_response(None, self._listening.answers.error(status), b"close", self.began)
        await self._send()

    # -- the end ------------------------------------------------------------------------------------------------

    def _linger(self) -> None:
        """Throw away what the peer still sends, so that it can read our last words: closing with bytes unread
        resets the connection, and the reset overtakes the response (RFC 9112 9.6).
        """
        self.state = self.state.on[LINGER]
        if self.inbound.state is ENDED:
            self._close(INPUT_ENDED)
            return
        self.transport.finish()
        self.began = self.waiting_since = self.ring.now
        if self.inbound.is_receiving:
            self.inbound.pause()
        else:
            self.inbound.await_waste()

    def _linger_on(self, res: int, buffer: int) -> None:
        """The receive from before has ended, or there is something to throw away."""
        if buffer >= 0 or res in (-errno.ECANCELED, NO_ROOM):
            self.inbound.await_waste()
        elif res > 0:
            self._listening.shared.talking.append(self)  # a turn throws away only so much of all
        else:
            self._close(INPUT_ENDED)

    def throw_away(self, bytes_max: int) -> int:
        """Throw away what has come since the connection lingers. Returns how many bytes that were."""
        if self.state is not LINGERING:
            return 0
        res = self.transport.throw_away(bytes_max)
        if res <= 0 and res != -errno.EAGAIN:
            self._close(INPUT_ENDED)
            return 0
        self.state = self.state.on[BYTES]
        self.waiting_since = self.ring.now
        self.inbound.await_waste()
        return max(0, res)

    def end(self, event: Event, *, resets: bool = False) -> None:
        """End because of `event`: now, or when the operation in flight has ended. resets: see ConnectionOverError."""
        state = self.state
        if state is CLOSING or state is CLOSED:
            return
        if state is HOT:
            # The coroutine must not run while the prepared response is in flight.
            if self._interruption is None:
                self._interruption = ConnectionOverError(event, resets=resets)
                self.ring.cancel(self.user_data)
        elif self._body is None:
            self._close(event, resets=resets)
        else:
            self.interrupt(ConnectionOverError(event, resets=resets))

    def _close(self, event: Event, *, resets: bool = False) -> None:
        """Close the descriptor; the connection has ended when the receive has, if there is one."""
        if self._body is None and self.state is not LINGERING:
            self.tasks.forget(self.user_data)  # no coroutine has done it
        self.state = self.state.on[event]
        if self.inbound.is_receiving:
            self.transport.close(armed=True, resets=resets)
        else:
            self.transport.close(armed=False, resets=resets)
            self._closed()

    def _closed(self) -> None:
        self.state = self.state.on[RECEIVE_OVER]
        self.inbound.end()
        self._listening.shared.ended(self)
        # No circle may be left: the collector does not look at what outlived a full collection (`processes/worker.py`).
        if self._outbound is not None:
            self._outbound.end()
            self._outbound = None
        del self.transport

    @property
    def spare_rank(self) -> int | None:
        """How little is lost if this connection ends: 0 for one that lingers, 1 for one that waits for its next
        request, 2 for one that has not sent a whole head in the time that it had. None: something is lost.
        """
        state = self.state
        if self._interruption is not None or DISMISSED not in state.on:
            return None  # it ends already, or has something to do
        if state is LINGERING:
            return 0
        if state is IDLE and self._requests_left < self._listening.config.requests_max:
            return 1
        return 2 if self.ring.now >= self.waiting_since + REQUEST_ARRIVES_S else None

    def finish_soon(self) -> None:
        """The server drains, or room is needed. A connection that waits for a request, or for the rest of one, ends
        now, and so does one that lingers. Another ends after its response.
        """
        if DISMISSED in self.state.on:
            self.end(DISMISSED)

    # -- deadlines ----------------------------------------------------------------------------------------------

    def check_deadline(self) -> None:
        """Called at intervals (`Server`). The hot path and every other wait only note when they began, so that a
        request costs one assignment, and no timer.
        """
        config, state = self._listening.config, self.state
        if state is HOT or state is SENDING:
            over = self.outbound.look_at_pace(self.began)
            if over is not None:
                self.end(over.event, resets=over.resets)
            return
        if state.limit:
            limit_s: float = getattr(config, state.limit)
        elif state is LINGERING:
            # In a drain there is time for a client to read its answer, and not for one that goes on sending.
            longest_s = config.linger_timeout_s if self._listening.closes_idle else LINGER_S
            limit_s = min(config.linger_timeout_s, self.began + longest_s - self.waiting_since)
        else:
            return
        if self.ring.now >= self.waiting_since + limit_s:
            self.end(LATE)
