"""One client, from accept to close.

A connection is a coroutine that reads top to bottom: wait for a request, find the response, transmit it, log it,
again (`_serve`). Its receive is armed all the while and fills the reader; every wait has a deadline.

The hot path is a shortcut through that: while the coroutine waits for a request and nothing is in flight, one complete
head arrives, both halves of it are remembered, and a response is prepared and fresh. It is sent from the completion
handler without resuming the coroutine, and the very bytes are those that the general path renders. The coroutine and
the reader are made when something first takes the general path: a connection that only ever asks for what is prepared,
for one file perhaps, has neither.

The first receive takes one piece; it becomes a multishot one when there is an answer after which more may come. So a
connection for a single request never has a receive that must be cancelled.

A static server needs no request body. A request that has one is answered from its head, and is the last of its
connection: no byte behind such a head is ever parsed, so that no framing of a body can smuggle a request. The client
may be in the middle of sending, and a close with bytes unread would reset the connection before the client has read
the answer (RFC 9112 9.6). So the connection lingers: what still comes is thrown away, without a copy and without
memory, until the client is silent for a while. Lingering connections are the first to be closed when room is needed.

States
    PREFACE    waits for what a trusted proxy says of its client before anything else        header limit
    IDLE       waits for the first byte of a request, nothing in flight but the receive      keep-alive limit
    READING    part of a request has arrived                                                 header limit
    HOT        a prepared response is being sent; the coroutine still waits for input        write limit
    BUSY       the coroutine finds or transmits a response                                   write limit
    LINGERING  the last response is out; what the peer still sends is thrown away            linger limits
    ENDING     nothing more is done for the peer; the receive is being ended

Invariants
 1. Responses leave in the order of their requests; those of pipelined requests leave in one send where they can.
 2. When a descriptor is closed, only one operation may still be pending on it: the receive, and its cancel must be
    queued before the close in the same batch. (A close with an uncancelled receive sends no FIN.) The connection stays
    in the count until that receive has completed.
What holds of the sending half is in `connection/outbound.py`.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from enum import Enum
from types import coroutine

from ringserve.connection.listening import Listening
from ringserve.connection.outbound import ConnectionOverError, Record, Sender
from ringserve.connection.remembered import KnownHead, Prepared
from ringserve.http.proxies import ProxyError, read_preface
from ringserve.http.request import RequestError, RequestReader
from ringserve.observe.access_log import AccessLog
from ringserve.ring.tasks import Kind
from ringserve.ring.world import NO_ROOM, Pinned, errno_name

INPUT_PENDING_MAX = 128 * 1024
"""Bytes that a peer may have sent ahead of their being read; beyond it the receive pauses. Four full heads."""
LINGER_S = 30.0
"""How long a connection lingers in all: time for a client that sends 100 MiB at 4 MB/s before it reads anything."""
REQUEST_ARRIVES_S = 0.1
"""For this time a new connection makes no room for others: its request is on its way."""


Hot = tuple[KnownHead, Prepared]
"""A prepared response on its way, and the head that it answers."""


class State(Enum):
    """See the module."""

    PREFACE = 0
    IDLE = 1
    READING = 2
    HOT = 3
    BUSY = 4
    LINGERING = 5
    ENDING = 6


PREFACE, IDLE, READING, HOT, BUSY, LINGERING, ENDING = State
"""As constants of the module: to look a member up in its class takes 58 ns on Python 3.11, four times a hot request."""


class Connection(Sender):
    """See the module.

    _revalidates: a hint only: the last request was a revalidation, so try that lookup first.
    """

    __slots__ = (
        "_awaiting_input", "_hot", "_last", "_lingers", "_receive_user_data", "_requests_left",
        "_revalidates", "_sending", "input_ended", "reader", "receiving", "refused", "state",
    )  # fmt: skip

    def __init__(self, listening: Listening, fd: int, *, refused: bool = False) -> None:
        """refused: the server is full; the peer is told so by a 503, and the connection ends."""
        super().__init__(listening, fd)
        self.refused = refused
        # With a preface to come, nothing is a request yet, and the hot path must not take it for one.
        has_preface = listening.config.proxy_protocol and self._client is not None and not refused
        self.state = PREFACE if has_preface else READING if refused else IDLE
        self.reader: RequestReader | None = None
        self.receiving = True
        self.input_ended = False
        self._awaiting_input = False
        self._last = refused
        self._lingers = refused
        self._requests_left = listening.config.requests_max
        self._revalidates = False
        self._hot: Hot | None = None
        self._sending: Pinned | None = None
        self._receive_user_data = self.tasks.register(Kind.RECEIVE, self._received)
        listening.shared.began(self)
        self.ring.receive_once(self._receive_user_data, fd)
        if has_preface or refused:
            self.begin(self._serve(has_preface))

    def __repr__(self) -> str:
        return f"<Connection fd={self.fd} {self.state.name}>"

    # -- input --------------------------------------------------------------------------------------------------

    def _arm_receive(self) -> None:
        self.receiving = True
        self.ring.receive(self._receive_user_data, self.fd)

    def _received(self, res: int, buffer: int, more: bool) -> None:
        if not more:
            self.receiving = False
        if res > 0:
            data = self.ring.received(buffer, res)
            # Not one that is about to be ended: its coroutine is on its way to close what a send would be in flight on.
            if self.state is IDLE and self._interruption is None and self._answer_hot(data):
                return
            self._take_input(data)
        elif res == NO_ROOM and not self._last and self.state is not ENDING:
            self._arm_receive()
            return
        elif res not in (-errno.ECANCELED, NO_ROOM):
            self.input_ended = True
            if res < 0:
                self.interrupt(ConnectionOverError(errno_name(res)))
        if self.state is ENDING:
            if not self.receiving:
                self._ended()
        elif self.state is not HOT:
            self._go_on()

    def _take_input(self, data: bytes) -> None:
        if self._last or self.state is ENDING:
            return  # nothing behind the last request is one
        reader = self._reader()
        reader.feed(data)
        if self.state is IDLE:
            self.state = READING
            self.waiting_since = self.ring.now
        elif reader.pending_bytes > INPUT_PENDING_MAX and self.receiving:
            self.ring.cancel(self._receive_user_data)

    def _reader(self) -> RequestReader:
        if self.reader is None:
            self.reader = RequestReader(self._listening.limits)
        return self.reader

    @property
    def pending_bytes(self) -> int:
        """How many bytes arrived that no request has taken."""
        return 0 if self.reader is None else self.reader.pending_bytes

    def _go_on(self) -> None:
        """Resume the coroutine if it waits for input, or begin it. If there is none yet, and nothing left to answer,
        the connection ends without one.
        """
        if self._body is None:
            if self._interruption is None and not self.pending_bytes:
                if self.input_ended or self._listening.closes_idle:
                    self._close()
                return
            if not self.receiving and not self.input_ended:
                self._arm_receive()  # so that a peer that leaves is noticed while its answer is looked for
            self._body = self._serve(False)
        elif not self._awaiting_input:
            return  # it is busy, and looks by itself
        self._awaiting_input = False
        self.resume()

    @coroutine
    def _more_input(self) -> Generator[None, None, None]:
        """Suspend until something arrived, the peer ended its side, or an interruption came."""
        self.take_interruption()
        if not self.receiving and not self.input_ended:
            self._arm_receive()
        self._awaiting_input = True
        yield
        self.take_interruption()

    def interrupt(self, reason: BaseException) -> None:
        """See `Task.interrupt`."""
        if self.state is HOT:
            # The coroutine must not run while the prepared response is in flight; `_sent` resumes it.
            if self._interruption is None:
                self._interruption = reason
                self.ring.cancel(self.user_data)
            return
        if self.state is ENDING:
            return
        if self.state is LINGERING:
            self._close()
            return
        if self._body is None:
            self.begin(self._serve(False))
        super().interrupt(reason)
        if self._awaiting_input:
            self._awaiting_input = False
            self.tasks.make_ready(self)

    # -- the hot path -------------------------------------------------------------------------------------------

    def _answer_hot(self, data: bytes) -> bool:
        """Send the prepared response for exactly one remembered head; False if the general path has to look."""
        listening = self._listening
        head = listening.memory.recall(data, self._revalidates)
        if head is None:
            return False
        line, block, apart = head
        self._revalidates = apart is not None
        prepared = line.prepared.get(block.selection if apart is None else (block.selection, apart))
        if prepared is None or not block.plain or listening.draining:
            return False
        ring = self.ring
        now = ring.now
        if prepared.freshness.until <= now and not listening.answers.is_still_true(prepared, now):
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
            if not self.receiving:
                self._arm_receive()
        else:
            self._last = True
            pinned = prepared.render_last(clock.second, clock.date, ring.pin)
        self.state = HOT
        self.began = self.waiting_since = now
        self._hot = head, prepared
        self._sending = pinned
        self._sent_bytes = 0
        ring.send(self.user_data, self.fd, pinned)
        return True

    def _completed(self, res: int, buffer: int, more: bool) -> None:
        """A prepared response, or a part of it, has gone; or an operation of the coroutine's has ended."""
        if self.state is not HOT:
            super()._completed(res, buffer, more)
            return
        sending, hot = self._sending, self._hot
        assert sending is not None
        assert hot is not None
        aborted = res < 0
        if not aborted:
            self._sent_bytes += res
            if self._sent_bytes < sending.length:
                if self._sent_bytes == res:  # the first part: only what needs several is measured
                    self._begin_taking(self.began)
                self._took(res)
                if self._interruption is None:
                    self.ring.send(self.user_data, self.fd, sending, self._sent_bytes)
                    return
                aborted = True
        listening = self._listening
        self._sending = None
        self._hot = None
        self.state = IDLE
        self.waiting_since = self.ring.now
        if not aborted:
            listening.hot_answers += 1
        if listening.log is not None:
            self._log_hot(listening.log, *hot, sending.length - self._sent_bytes, aborted)
        if aborted and self._interruption is None:
            self._interruption = ConnectionOverError(errno_name(res))
        if self._last and self._interruption is None:
            if self._body is None:
                self._close()
                return
            self._interruption = ConnectionOverError("the peer wanted no more")
        reader = self.reader  # not `pending_bytes`, which takes another call
        if reader is not None and reader.pending_bytes:
            self.state = READING
            self._go_on()
        elif self._interruption is not None or self.input_ended or listening.closes_idle:
            self._go_on()

    def _log_hot(self, log: AccessLog, head: KnownHead, prepared: Prepared, missing: int, aborted: bool) -> None:
        if aborted:
            body_bytes = max(0, prepared.body_bytes - missing)
            record = Record(head, prepared.status, prepared.coding, self.began, 0, 0)
            self._log(record, body_bytes, aborted=True)
            return
        outcome = prepared.log_piece
        if outcome is None:
            outcome = prepared.log_piece = log.form.outcome(
                prepared.status, prepared.body_bytes, False, prepared.coding
            )
        client = self._client_piece if self._client is None else self._client_piece_of(head[1])
        log.record(client, head, outcome, self.began)

    # -- the general path ---------------------------------------------------------------------------------------

    async def _serve(self, has_preface: bool) -> None:
        lingers = False
        try:
            refused_status = 503 if self.refused else None
            try:
                if has_preface:
                    await self._take_preface()
                while not self._last:
                    head = await self._next_head()
                    if head is None:
                        break
                    await self._answer(head)
                await self._flush()
            except RequestError as error:
                refused_status = error.status
            if refused_status is not None:
                await self._answer_error(refused_status)
            lingers = self._lingers and not self.input_ended
        except ConnectionOverError as over:
            if over.resets:
                self.tasks.system.reset_on_close(self.fd)
            self._log_broken()
        finally:
            if lingers:
                self._linger()
            else:
                self._close()

    async def _take_preface(self) -> None:
        """What a trusted proxy says of its client before the first request. Raises RequestError."""
        while True:
            try:
                preface = read_preface(self._reader().peek())
            except ProxyError as error:
                raise RequestError(400, str(error)) from error
            if preface is not None:
                break
            if self.input_ended:
                raise ConnectionOverError("the proxy ended its side before its preface")
            await self._more_input()
        self._reader().skip(preface.length)
        if not self.receiving and not self.input_ended:
            self._arm_receive()  # as `_go_on` does for who has no preface
        self.state = READING
        self.waiting_since = self.ring.now
        if preface.client is not None:
            self.told_client = preface.client
            self._name_client(preface.client)

    async def _next_head(self) -> KnownHead | None:
        """That of the next request; None when the peer or the server wants no more. Raises RequestError."""
        reader = self._reader()
        while True:
            head_bytes = reader.next_head()
            if head_bytes is not None:
                head = self._listening.memory.read(head_bytes)
                self._begin_answer()
                return head
            if self._output:
                # Nothing more to gather responses for; and what arrives meanwhile is looked at afterwards.
                await self._flush()
                continue
            if self.input_ended or self._listening.closes_idle:
                return None
            if self.state is BUSY:
                self.waiting_since = self.ring.now
            self.state = READING if reader.pending_bytes else IDLE
            await self._more_input()

    def _begin_answer(self) -> None:
        """A request is here, or what is answered as if it were one. It began with its first byte, if that did not come
        with an earlier request.
        """
        waited = self.state in (READING, PREFACE)
        self.began = self.waiting_since if waited else self.ring.now
        self.state = BUSY
        self.waiting_since = self.ring.now

    async def _answer(self, head: KnownHead) -> None:
        """Find the response to one request and transmit it, or put it with those that wait to be sent."""
        block = head[1].block
        self._requests_left -= 1
        if block.has_body:
            self._hear_no_more()
        response = await self._listening.answers.find(self, head)
        ends = self._last or self._listening.draining or self._requests_left <= 0
        if isinstance(response, Prepared):
            if block.plain and block.persistent and not ends:
                await self._put_prepared(head, response)
                return
            response = response.response
        connection: bytes | None = b"close"
        if not block.persistent:
            self._last = True
        elif ends:
            self._hear_no_more()  # a peer that did not ask for the end may have sent more requests already
        else:
            connection = b"keep-alive" if block.says_keep_alive else None
        await self._put_response(head, response, connection)

    def _hear_no_more(self) -> None:
        """What still comes is no request: no byte of it is parsed, and none is kept. It waits in the kernel, which
        takes only so much of it, until the answer is out.
        """
        self._last = self._lingers = True
        self.reader = None
        if self.receiving:
            self.ring.cancel(self._receive_user_data)

    async def _answer_error(self, status: int) -> None:
        """The last words to a peer whose bytes are not read on."""
        self._hear_no_more()
        self._begin_answer()
        await self._put_response(None, self._listening.answers.error(status), b"close")
        await self._flush()

    # -- the end ------------------------------------------------------------------------------------------------

    def _linger(self) -> None:
        """Throw away what the peer still sends, so that it can read our last words: closing with bytes unread
        resets the connection, and the reset overtakes the response (RFC 9112 9.6).
        """
        self.reader = None
        self.tasks.system.finish(self.fd)
        self.state = LINGERING
        self.tasks.handlers[self._receive_user_data] = self._linger_on
        self.began = self.waiting_since = self.ring.now
        if self.receiving:
            self.ring.cancel(self._receive_user_data)
        else:
            self._await_waste()

    def _await_waste(self) -> None:
        self.receiving = True
        self.ring.arrival(self._receive_user_data, self.fd)

    def _linger_on(self, res: int, buffer: int, more: bool) -> None:
        """The receive from before has ended, or there is something to throw away. A handler of its own, so that the hot
        path need not ask.
        """
        if more:
            return
        self.receiving = False
        if self.state is ENDING:
            self._ended()
        elif buffer >= 0 or res in (-errno.ECANCELED, NO_ROOM):
            self._await_waste()
        elif res > 0:
            self._listening.shared.talking.append(self)  # a turn throws away only so much of all
        else:
            self._close()

    def throw_away(self, bytes_max: int) -> int:
        """Throw away what has come since the connection lingers. Returns how many bytes that were."""
        if self.state is not LINGERING:
            return 0
        res = self.tasks.system.throw_away(self.fd, bytes_max)
        if res <= 0 and res != -errno.EAGAIN:
            self._close()
            return 0
        self.waiting_since = self.ring.now
        self._await_waste()
        return max(0, res)

    def _close(self) -> None:
        """Close the descriptor; the connection has ended when the receive has, if there is one."""
        if self._body is None and self.state is not LINGERING:
            self.tasks.forget(self.user_data)  # no coroutine has done it
        self.state = ENDING
        self.ring.close(self.fd, self._receive_user_data if self.receiving else None)
        if not self.receiving:
            self._ended()

    def _ended(self) -> None:
        self.tasks.forget(self._receive_user_data)
        self._listening.shared.ended(self)

    @property
    def spare_rank(self) -> int | None:
        """How little is lost if this connection ends: 0 for one that lingers, 1 for one that waits for its next
        request, 2 for one that has not sent a whole head in the time that it had. None: something is lost.
        """
        state = self.state
        if self._interruption is not None:
            return None  # it ends already
        if state is LINGERING:
            return 0
        if state is IDLE and self._requests_left < self._listening.config.requests_max:
            return 1
        unasked = state in (IDLE, READING, PREFACE)
        return 2 if unasked and self.ring.now >= self.waiting_since + REQUEST_ARRIVES_S else None

    def finish_soon(self) -> None:
        """The server drains, or room is needed. A connection that waits for a request, or for the rest of one, ends
        now, and so does one that lingers. Another ends after its response.
        """
        if self.state in (IDLE, READING, PREFACE, LINGERING):
            if self._body is None:
                self._close()
            else:
                self.interrupt(ConnectionOverError("the server stops, or needs room"))

    # -- deadlines ----------------------------------------------------------------------------------------------

    def check_deadline(self) -> None:
        """Called at intervals (`Server`). The hot path and every other wait only note when they began, so that a
        request costs one assignment, and no timer.
        """
        config, state = self._listening.config, self.state
        if state is IDLE:
            limit_s = config.keep_alive_timeout_s
        elif state in (READING, PREFACE):
            limit_s = config.header_timeout_s
        elif state is LINGERING:
            # In a drain there is time for a client to read its answer, and not for one that goes on sending.
            longest_s = config.linger_timeout_s if self._listening.closes_idle else LINGER_S
            limit_s = min(config.linger_timeout_s, self.began + longest_s - self.waiting_since)
        elif state is ENDING:
            return
        else:
            self.check_pace()
            return
        if self.ring.now < self.waiting_since + limit_s:
            return
        if state in (READING, PREFACE):
            self.interrupt(RequestError(408, "the request did not arrive in time"))
        else:
            self.interrupt(ConnectionOverError("no progress"))
