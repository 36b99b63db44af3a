"""One client, from accept to close.

A connection is a coroutine that reads top to bottom: wait for a request, find the response, transmit it, log it,
again (`_serve`). Its receive is armed all the while and fills the reader; every wait has a deadline.

The hot path is a shortcut through that: while the coroutine waits for a request and nothing is in flight, one complete
head arrives, both halves of it are remembered, and a response is prepared and fresh. It is sent from the completion
handler without resuming the coroutine, and the very bytes are those that the general path renders.

States
    IDLE       waits for the first byte of a request, nothing in flight but the receive      keep-alive limit
    READING    part of a request has arrived                                                 header limit
    HOT        a prepared response is being sent; the coroutine still waits for input        write limit
    BUSY       the coroutine finds or transmits a response                                   write limit
    LINGERING  the last response is out; what the peer still sends is read and dropped       linger limit
    ENDING     nothing more is done for the peer; the receive is being ended

Invariants
 1. At most one send, splice or poll is in flight, so that bytes leave in order.
 2. Responses leave in the order of their requests; those of pipelined requests leave in one send where they can.
 3. The descriptor is closed after everything in flight on it has ended: a close with a receive pending sends no FIN.
 4. A response is logged once, after its last byte was taken by the kernel, or when it broke off.
 5. A body is as long as its Content-Length says, or the connection breaks: never a wrong length passed off as whole.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from enum import Enum
from types import coroutine
from typing import NamedTuple

from ringserve import static
from ringserve.access_log import AccessLog
from ringserve.files import Entry
from ringserve.pipes import TransferError
from ringserve.request import Framing, HeaderBlock, Request, RequestError, RequestLine, RequestReader, Selection
from ringserve.response import (
    CONTINUE,
    FileSlice,
    Prepared,
    Response,
    error_response,
    head_parts,
)
from ringserve.ring.interface import (
    F_MORE,
    Pinned,
    errno_name,
)
from ringserve.ring.tasks import Kind, Task, report
from ringserve.service import Service

OUTPUT_BYTES_MAX = 256 * 1024
"""Responses to pipelined requests gather up to this much before they are sent."""
INPUT_PENDING_MAX = 128 * 1024
"""Bytes that a peer may have sent ahead of their being read; beyond it the receive pauses. Four full heads."""
LINGER_BYTES_MAX = 1024 * 1024
"""Bytes that are dropped after an error before the connection is cut."""
PREPARED_PER_LINE_MAX = 8
"""Selections remembered with a request line; more than that is not a browser."""
PEER_IS_GONE = frozenset((errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ECONNABORTED))


class State(Enum):
    """See the module."""

    IDLE = 0
    READING = 1
    HOT = 2
    BUSY = 3
    LINGERING = 4
    ENDING = 5


class ConnectionOverError(Exception):
    """Nothing more can or shall be sent on this connection.

    resets: what the kernel still has for the peer is thrown away with it. A reader that takes nothing would otherwise
    keep megabytes of the kernel's memory after it was cut off.
    """

    def __init__(self, reason: str, *, resets: bool = False) -> None:
        super().__init__(reason)
        self.resets = resets


def _can_be_prepared(response: Response, entry: Entry, selection: Selection) -> bool:
    """Whether `response` is the answer to every request with this method and selection while `entry` is fresh."""
    in_memory = not any(isinstance(segment, FileSlice) for segment in response.body)
    # A part is a copy of its own, and there are as many parts as clients can think of. (And a date in If-Range counts
    # only once it is a second old, so that the answer may change while the file does not.)
    is_part = selection.conditions.range is not None
    return in_memory and not is_part and entry.ignores_query and entry.freshness.until > 0


class Record(NamedTuple):
    """A response whose bytes wait to be sent: what to log of it, and where in the batch its body begins and ends."""

    line: RequestLine | None
    block: HeaderBlock | None
    status: int
    body_start: int
    end: int


class Connection(Task):
    """See the module."""

    __slots__ = (
        "_awaiting_input", "_body_sent", "_client_piece", "_dropped_bytes", "_hot", "_last", "_lingers", "_output",
        "_output_bytes", "_receive_user_data", "_records", "_send_user_data", "_sending", "_sent_bytes", "_service",
        "_starved", "fd", "input_ended", "reader", "receiving", "refused", "state", "waiting_since",
    )  # fmt: skip

    def __init__(self, service: Service, fd: int, *, refused: bool = False) -> None:
        """refused: the server is full; the peer is told so by a 503, and the connection ends."""
        super().__init__(service.tasks)
        self._service = service
        self.fd = fd
        self.refused = refused
        self.state = State.READING if refused else State.IDLE
        self.waiting_since = self.ring.now
        self.reader = RequestReader(service.memory, service.limits)
        self.receiving = False
        self.input_ended = False
        self._awaiting_input = False
        self._last = refused
        self._lingers = refused
        self._starved = False
        self._dropped_bytes = 0
        self._body_sent = 0
        self._hot: tuple[RequestLine, HeaderBlock, Prepared] | None = None
        self._sending: Pinned | None = None
        self._sent_bytes = 0
        self._output: list[bytes] = []
        self._output_bytes = 0
        self._records: list[Record] = []
        # Now, while the peer is there: a broken connection has no peer name any more, and is logged all the same.
        log = service.log
        self._client_piece = b"" if log is None else log.form.client(self.ring.peer_name(fd))
        self._receive_user_data = self.tasks.register(Kind.RECEIVE, self._received)
        self._send_user_data = self.tasks.register(Kind.SEND, self._sent)
        service.began(self)
        self._arm_receive()
        self.begin(self._serve())
        self.tasks.call_at(self.ring.now + service.shortest_limit_s, self._check_deadline)

    def __repr__(self) -> str:
        return f"<Connection fd={self.fd} {self.state.name}>"

    # -- input --------------------------------------------------------------------------------------------------

    def _arm_receive(self) -> None:
        self.receiving = True
        self.ring.receive_multishot(self._receive_user_data, self.fd)

    def rearm_receive(self) -> None:
        """Buffers are back: receive again (`Service.starved`)."""
        self._starved = False
        if not self.receiving and not self.input_ended and self.state is not State.ENDING:
            self._arm_receive()

    def _received(self, res: int, flags: int) -> None:
        if not flags & F_MORE:
            self.receiving = False
        if res > 0:
            data = self.ring.received(res, flags)
            if self.state is State.IDLE and self._answer_hot(data):
                if not self.receiving:
                    self._arm_receive()
                return
            self._take_input(data)
        elif res == -errno.ENOBUFS and self.state is not State.ENDING:
            # The socket is healthy. The server arms as many as it has buffers, in turn, so that all get theirs.
            self._starved = True
            self._service.starved.append(self)
            return
        elif res not in (-errno.ECANCELED, -errno.ENOBUFS):
            self.input_ended = True
            if res < 0:
                self.interrupt(ConnectionOverError(errno_name(res)))
        if self._awaiting_input and self.state is not State.HOT:
            self._awaiting_input = False
            self.resume()

    def _take_input(self, data: bytes) -> None:
        if self.state in (State.LINGERING, State.ENDING):
            self._dropped_bytes += len(data)
            if self._dropped_bytes > LINGER_BYTES_MAX:
                self.input_ended = True  # of what is listened to
            return
        self.reader.feed(data)
        if self.state is State.IDLE:
            self.state = State.READING
            self.waiting_since = self.ring.now
        elif self.reader.pending_bytes > INPUT_PENDING_MAX and self.receiving:
            self.tasks.cancel(self._receive_user_data)

    @coroutine
    def _more_input(self) -> Generator[None, None, None]:
        """Suspend until something arrived, the peer ended its side, or an interruption came."""
        self.take_interruption()
        if not self.receiving and not self._starved and not self.input_ended:
            self._arm_receive()
        self._awaiting_input = True
        yield
        self.take_interruption()

    def interrupt(self, reason: BaseException) -> None:
        """See `Task.interrupt`."""
        if self.state is State.HOT:
            # The coroutine must not run while the prepared response is in flight; `_sent` resumes it.
            if self._interruption is None:
                self._interruption = reason
                self.tasks.cancel(self._send_user_data)
            return
        super().interrupt(reason)
        if self._awaiting_input:
            self._awaiting_input = False
            self.tasks.make_ready(self)

    # -- the hot path -------------------------------------------------------------------------------------------

    def _answer_hot(self, data: bytes) -> bool:
        """Send the prepared response for exactly one remembered head; False if the general path has to look."""
        service = self._service
        line_end = data.find(b"\n") + 1
        line = service.memory.lines.young.get(data[:line_end])
        if line is None:
            return False
        block = line.blocks.young.get(data[line_end:])
        if block is None or not block.plain:
            return False
        prepared = line.prepared.get(block.selection)
        if prepared is None or prepared.freshness.until <= self.ring.now or service.draining:
            return False
        clock = service.clock
        pinned = prepared.pinned
        if pinned is None or prepared.second != clock.second:
            pinned = prepared.render(clock.second, clock.date, self.ring.pin)
        self.state = State.HOT
        self._hot = (line, block, prepared)
        self._sending = pinned
        self._sent_bytes = 0
        self.waiting_since = self.ring.now
        self.ring.send(self._send_user_data, self.fd, pinned)
        return True

    def _sent(self, res: int, _flags: int) -> None:
        """A prepared response, or a part of it, has gone."""
        sending, hot = self._sending, self._hot
        assert self.state is State.HOT, "only a hot send completes here"
        assert sending is not None
        assert hot is not None
        aborted = res < 0
        if not aborted:
            self._sent_bytes += res
            if self._sent_bytes < sending.length:
                if self._interruption is None:
                    self.waiting_since = self.ring.now
                    self.ring.send(self._send_user_data, self.fd, sending, self._sent_bytes)
                    return
                aborted = True
        service = self._service
        self._sending = None
        self._hot = None
        self.state = State.IDLE
        self.waiting_since = self.ring.now
        if not aborted:
            service.hot_answers += 1
        if service.log is not None:
            self._log_hot(service.log, hot, sending.length - self._sent_bytes, aborted)
        if aborted and self._interruption is None:
            self._interruption = ConnectionOverError(errno_name(res))
        if self._interruption is not None or self.reader.pending_bytes or self.input_ended or service.draining:
            if self.reader.pending_bytes:
                self.state = State.READING
            self._awaiting_input = False
            self.resume()

    def _log_hot(
        self, log: AccessLog, hot: tuple[RequestLine, HeaderBlock, Prepared], missing: int, aborted: bool
    ) -> None:
        line, block, prepared = hot
        if aborted:
            self._log_line(line, block, prepared.status, max(0, prepared.body_bytes - missing), aborted=True)
            return
        outcome = prepared.log_piece
        if outcome is None:
            outcome = prepared.log_piece = log.form.outcome(prepared.status, prepared.body_bytes, False)
        log.record(self._client_piece, self._service.clock.stamp, line, block, outcome)

    # -- the general path ---------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            refused_status = 503 if self.refused else None
            try:
                while not self._last:
                    request = await self._next_request()
                    if request is None:
                        break
                    await self._answer(request)
                await self._flush()
            except RequestError as error:
                refused_status = error.status
            if refused_status is not None:
                await self._answer_error(refused_status)
            if self._lingers and not self.input_ended:
                await self._linger()
        except ConnectionOverError as over:
            if over.resets:
                self.ring.reset_on_close(self.fd)
            self._log_broken()
        finally:
            await self._end_connection()

    async def _next_request(self) -> Request | None:
        """The next request; None when the peer or the server wants no more. Raises RequestError."""
        while True:
            request = self.reader.next_request()
            if request is not None:
                self.state = State.BUSY
                self.waiting_since = self.ring.now
                return request
            if self._output:
                # Nothing more to gather responses for; and what arrives meanwhile is looked at afterwards.
                await self._flush()
                continue
            if self.input_ended or (self._service.draining and not self.reader.pending_bytes):
                return None
            idle = not self.reader.pending_bytes
            if self.state is State.BUSY:
                self.waiting_since = self.ring.now
            self.state = State.IDLE if idle else State.READING
            await self._more_input()

    async def _answer(self, request: Request) -> None:
        """Find the response to one request and transmit it, or put it with those that wait to be sent."""
        block = request.block
        refusal = self._refusal(request)
        if refusal is not None:
            self._lingers = True  # its body may be on the way
        elif block.framing is not Framing.NONE:
            await self._read_over_body(request)
        response = refusal or await self._respond(request)
        if isinstance(response, Prepared) and block.plain and not self._service.draining:
            await self._put_prepared(request, response)
            return
        if isinstance(response, Prepared):
            response = response.response
        closes = response.closes or not block.persistent or self._service.draining
        if closes:
            self._last = True
            connection: bytes | None = b"close"
        else:
            connection = b"keep-alive" if block.says_keep_alive else None
        await self._put_response(request.line, request.block, response, connection)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request whose body is not going to be read (RFC 9110 10.1.1)."""
        block = request.block
        if block.content_length > self._service.limits.body_bytes_max:
            return error_response(413, head=request.is_head, closes=True)
        if block.expect is not None and not request.line.http_10:
            if block.expect.lower() != b"100-continue":
                return error_response(417, head=request.is_head, closes=True)
            readable = request.line.method in (b"GET", b"HEAD", b"OPTIONS")
            if block.framing is not Framing.NONE and not readable:
                early = static.plan(request)
                assert isinstance(early, Response), "a method that is not served is answered without a look"
                return early._replace(closes=True)
        return None

    async def _read_over_body(self, request: Request) -> None:
        self.state = State.READING
        if request.block.expect is not None and not request.line.http_10 and not self.reader.pending_bytes:
            await self._flush()
            await self._send_all(CONTINUE)
        while not self.reader.skip_body():
            if self.input_ended:
                raise ConnectionOverError("the peer ended its side before its request's body")
            await self._more_input()
        self.state = State.BUSY
        self.waiting_since = self.ring.now

    async def _respond(self, request: Request) -> Response | Prepared:
        service = self._service
        wanted = static.plan(request)
        if isinstance(wanted, Response):
            return wanted
        entry = await service.files.find(self, wanted.path)
        line, selection = request.line, request.block.selection
        prepared = entry.prepared.get((line.method, selection))
        if prepared is None:
            response = static.answer(request, entry, self.ring.wall_time())
            if not service.memory.enabled or not _can_be_prepared(response, entry, selection):
                return response
            prepared = entry.prepare(line.method, selection, response, service.server)
        if len(line.prepared) >= PREPARED_PER_LINE_MAX:
            line.prepared.clear()
        line.prepared[selection] = prepared
        return prepared

    async def _answer_error(self, status: int) -> None:
        """The last words to a peer whose bytes are not read on."""
        self._last = True
        self._lingers = True
        self.state = State.BUSY
        self.waiting_since = self.ring.now
        await self._put_response(None, None, error_response(status), b"close")
        await self._flush()

    # -- output -------------------------------------------------------------------------------------------------

    async def _put_prepared(self, request: Request, prepared: Prepared) -> None:
        clock = self._service.clock
        if prepared.second != clock.second:
            prepared.render(clock.second, clock.date, self.ring.pin)
        self._output.append(prepared.data)
        end = self._output_bytes + len(prepared.data)
        self._output_bytes = end
        self._records.append(Record(request.line, request.block, prepared.status, end - prepared.body_bytes, end))
        if end >= OUTPUT_BYTES_MAX:
            await self._flush()

    async def _put_response(
        self, line: RequestLine | None, block: HeaderBlock | None, response: Response, connection: bytes | None
    ) -> None:
        before, after = head_parts(response, self._service.server, connection)
        head = before + self._service.clock.date + after
        self._output.append(head)
        self._output_bytes += len(head)
        body_start = self._output_bytes
        slices = [segment for segment in response.body if isinstance(segment, FileSlice)]
        if not slices:
            for segment in response.body:
                assert isinstance(segment, bytes), "what is no slice is bytes"
                self._output.append(segment)
                self._output_bytes += len(segment)
            self._records.append(Record(line, block, response.status, body_start, self._output_bytes))
            if self._output_bytes >= OUTPUT_BYTES_MAX:
                await self._flush()
            return
        for file_slice in slices:
            file_slice.file.hold()
        try:
            await self._transmit(line, block, response)
        finally:
            for file_slice in slices:
                file_slice.file.release()

    async def _transmit(self, line: RequestLine | None, block: HeaderBlock | None, response: Response) -> None:
        """What has gathered, the head of this response last, and then its body, which has parts of files in it."""
        self._body_sent = 0
        complete = False
        try:
            await self._flush()
            for index, segment in enumerate(response.body, start=1):
                if isinstance(segment, bytes):
                    await self._send_all(segment)
                    self._body_sent += len(segment)
                else:
                    await self._service.pipes.transfer(
                        self,
                        segment.file.fd,
                        self.fd,
                        segment.offset,
                        segment.length,
                        ends_response=index == len(response.body),
                        progress=self._progressed,
                    )
            complete = True
        except TransferError as error:
            if -error.res not in PEER_IS_GONE:
                report(f"{error}; the connection is closed")
            raise ConnectionOverError(str(error)) from error
        except OSError as error:
            report(f"no pipe to send a file with: {error.strerror}; the connection is closed")
            raise ConnectionOverError("no pipe") from error
        finally:
            self._log_line(line, block, response.status, self._body_sent, aborted=not complete)

    async def _flush(self) -> None:
        """Send what has gathered, in one send, and log it."""
        if not self._output:
            return
        output, self._output = self._output, []
        self._output_bytes = 0
        data = output[0] if len(output) == 1 else b"".join(output)
        self._sent_bytes = 0
        await self._send_all(data)
        records, self._records = self._records, []
        for record in records:
            self._log_line(record.line, record.block, record.status, record.end - record.body_start, aborted=False)

    async def _send_all(self, data: bytes) -> None:
        """Send bytes to the last one. Raises ConnectionOverError."""
        pinned = self.ring.pin(data)
        sent = 0
        while sent < pinned.length:
            self.waiting_since = self.ring.now
            res = await self.send(self.fd, pinned, sent)
            if res < 0:
                self._broken(res, "send")
            sent += res
            self._sent_bytes = sent

    def _progressed(self, count: int) -> None:
        """The socket took `count` bytes of a body, or has room again."""
        self.waiting_since = self.ring.now
        self._body_sent += count

    def _broken(self, res: int, operation: str) -> None:
        """Raise ConnectionOverError for a failed operation; one that the peer did not cause is reported."""
        if -res not in PEER_IS_GONE:
            report(f"{operation}: {errno_name(res)}")
        raise ConnectionOverError(errno_name(res))

    # -- the end ------------------------------------------------------------------------------------------------

    async def _linger(self) -> None:
        """Read and drop what the peer still sends, so that it can read our last words: closing with bytes unread
        resets the connection, and the reset overtakes the response (RFC 9112 9.6).
        """
        self.ring.shutdown_sending(self.fd)
        self.state = State.LINGERING
        self.waiting_since = self.ring.now
        while not self.input_ended:
            await self._more_input()

    async def _end_connection(self) -> None:
        self.state = State.ENDING
        if self.receiving:
            self.tasks.cancel(self._receive_user_data)
            await self._end_of_receive()
        self.tasks.forget(self._receive_user_data)
        self.tasks.forget(self._send_user_data)
        self.tasks.close(self.fd)
        self._service.ended(self)

    @coroutine
    def _end_of_receive(self) -> Generator[None, None, None]:
        while self.receiving:
            self._awaiting_input = True
            yield
        self._awaiting_input = False

    def finish_soon(self) -> None:
        """The server drains: an idle connection ends now, another after its response."""
        if self.state is State.IDLE and not self.reader.pending_bytes:
            self.interrupt(ConnectionOverError("the server stops"))

    # -- deadlines ----------------------------------------------------------------------------------------------

    def _check_deadline(self) -> float | None:
        """Called by the timer. It looks again after the shortest limit at the latest, so that a wait that begins in
        between cannot run out unseen; the hot path therefore sets no timer but only notes the time.
        """
        service = self._service
        state = self.state
        if state is State.ENDING:
            return None
        config = service.config
        if state is State.IDLE:
            limit_s = config.keep_alive_timeout_s
        elif state is State.READING:
            limit_s = config.header_timeout_s
        elif state is State.LINGERING:
            limit_s = config.linger_timeout_s
        else:
            limit_s = config.write_timeout_s
        now = self.ring.now
        due = self.waiting_since + limit_s
        if due <= now:
            if state is State.READING:
                self.interrupt(RequestError(408, "the request did not arrive in time"))
            else:
                stalled = state in (State.BUSY, State.HOT)
                self.interrupt(ConnectionOverError("no progress", resets=stalled))
        return min(due, now + service.shortest_limit_s) if due > now else now + service.shortest_limit_s

    # -- logging ------------------------------------------------------------------------------------------------

    def _log_line(
        self, line: RequestLine | None, block: HeaderBlock | None, status: int, body_bytes: int, *, aborted: bool
    ) -> None:
        log = self._service.log
        if log is None:
            return
        outcome = log.form.outcome(status, body_bytes, aborted)
        log.record(self._client_piece, self._service.clock.stamp, line, block, outcome)

    def _log_broken(self) -> None:
        """Log what had gathered when the connection broke: what went out whole, and what had begun."""
        records, self._records = self._records, []
        for record in records:
            if record.end <= self._sent_bytes:
                size = record.end - record.body_start
                self._log_line(record.line, record.block, record.status, size, aborted=False)
            else:
                size = max(0, self._sent_bytes - record.body_start)
                self._log_line(record.line, record.block, record.status, size, aborted=True)
                break
