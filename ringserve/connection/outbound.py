"""What leaves a connection: responses gathered and sent, files behind them, and each told of when it is finished.

Responses to pipelined requests gather until there is no further request to answer, or enough of them; then they leave
in one send. A body that is not all in memory is sent by itself, behind what had gathered.

Invariants
 1. At most one operation of a transport is in flight, so that bytes leave in order.
 2. A response is finished once: after its last byte was taken, or when it broke off.
 3. A body is as long as its Content-Length says, or the connection breaks: never a wrong length passed off as whole.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ringserve.connection.listening import Listening
from ringserve.connection.pace import Pace, look
from ringserve.connection.remembered import KnownHead, Prepared
from ringserve.connection.states import BROKEN, LATE, SLOW, Event
from ringserve.connection.transport import TransferError, Transport
from ringserve.http.response import Response, head_parts

OUTPUT_BYTES_MAX = 256 * 1024
"""Responses to pipelined requests gather up to this much before they are sent."""
PEER_IS_GONE = frozenset((errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ECONNABORTED))


class ConnectionOverError(Exception):
    """Nothing more can or shall be sent on this connection, because of `event`.

    resets: what the kernel still has for the peer is thrown away with it. A reader that takes nothing would otherwise
    keep megabytes of the kernel's memory after it was cut off.
    """

    def __init__(self, event: Event, *, resets: bool = False) -> None:
        super().__init__(event)
        self.event = event
        self.resets = resets


class Record(NamedTuple):
    """A response: what to tell of it, and where in the bytes that gathered its body begins and ends.

    head: of its request; None for one that could not be read. began: when that did, by the ring's clock.
    """

    head: KnownHead | None
    status: int
    coding: bytes | None
    began: float
    body_start: int
    end: int


class Gathered:
    """Responses that leave in one send."""

    __slots__ = ("_pieces", "_records", "length")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._records: list[Record] = []
        self.length = 0

    def put(self, piece: bytes) -> None:
        """Add bytes."""
        self._pieces.append(piece)
        self.length += len(piece)

    def end_response(
        self, response: Response | Prepared, head: KnownHead | None, began: float, body_start: int
    ) -> None:
        """The bytes from `body_start` on are the body of a response that is whole with the last ones put."""
        self._records.append(Record(head, response.status, response.coding, began, body_start, self.length))

    def joined(self) -> bytes:
        """All the bytes."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def outcomes(self, sent_bytes: int) -> Iterator[tuple[Record, int, bool]]:
        """Each response, how many bytes of its body went, and whether it broke off; none behind one that did."""
        for record in self._records:
            aborted = sent_bytes < record.end
            yield record, max(record.body_start, min(sent_bytes, record.end)) - record.body_start, aborted
            if aborted:
                return


class Outbound:
    """The sending half of a connection; see the module.

    taken_bytes: of the answer that is being sent.
    finished: told of each response, the bytes of its body that were taken, and whether it broke off.
    """

    __slots__ = (
        "_finished", "_gathered", "_listening", "_pace", "_streamed", "_taken_since", "_transport", "taken_bytes",
    )  # fmt: skip

    def __init__(
        self, listening: Listening, transport: Transport, finished: Callable[[Record, int, bool], None]
    ) -> None:
        self._listening = listening
        self._transport = transport
        self._finished = finished
        self._gathered: Gathered | None = None
        self._streamed: tuple[Record, Response] | None = None
        self.begin_taking(listening.shared.tasks.ring.now)
        transport.taker = self

    # -- gathering ----------------------------------------------------------------------------------------------

    def put_prepared(self, head: KnownHead, prepared: Prepared, began: float) -> None:
        """Add a prepared response."""
        clock = self._listening.clock
        if prepared.second != clock.second:
            prepared.render(clock.second, clock.date, self._listening.shared.tasks.ring.pin)
        gathered = self._gathered
        if gathered is None:
            gathered = self._gathered = Gathered()
        gathered.put(prepared.data)
        gathered.end_response(prepared, head, began, gathered.length - prepared.body_bytes)

    def put_response(self, head: KnownHead | None, response: Response, connection: bytes | None, began: float) -> None:
        """Add a response. connection: the value of that field. If its body is not all in memory, it is the last to
        be added before `send`.
        """
        before, after = head_parts(response, self._listening.server, connection)
        gathered = self._gathered
        if gathered is None:
            gathered = self._gathered = Gathered()
        gathered.put(before + self._listening.clock.date + after)
        in_memory = [segment for segment in response.body if isinstance(segment, bytes)]
        if len(in_memory) < len(response.body):
            for segment in response.body:
                if not isinstance(segment, bytes):
                    segment.hold()
            self._streamed = Record(head, response.status, response.coding, began, 0, 0), response
            return
        body_start = gathered.length
        for piece in in_memory:
            gathered.put(piece)
        gathered.end_response(response, head, began, body_start)

    @property
    def is_due(self) -> bool:
        """Whether what has gathered has to be sent before more is added."""
        gathered = self._gathered
        return self._streamed is not None or (gathered is not None and gathered.length >= OUTPUT_BYTES_MAX)

    # -- sending ------------------------------------------------------------------------------------------------

    async def send(self) -> None:
        """Send what has gathered, in one send, and then the body that is not all in memory, if there is
        one. Raises ConnectionOverError.
        """
        try:
            if self._streamed is None:
                await self._send_gathered()
            else:
                await self._send_streamed(*self._streamed)
        except TransferError as error:
            if -error.res not in PEER_IS_GONE:
                self._report("{}; the connection is closed", error)
            raise ConnectionOverError(BROKEN) from error
        except OSError as error:
            self._report("no pipe to send a file with: {}; the connection is closed", error.strerror)
            raise ConnectionOverError(BROKEN) from error

    def _report(self, template: str, value: object) -> None:
        self._listening.shared.tasks.report(template, value)

    async def _send_gathered(self) -> None:
        # How fast the client takes it, and the body that may follow, is measured from here: not from when it asked.
        self.begin_taking(self._listening.shared.tasks.ring.now)
        gathered, self._gathered = self._gathered, None
        assert gathered is not None, "a response is at least its head"
        try:
            await self._transport.send(gathered.joined())
        finally:
            self._finish(gathered, self.taken_bytes)

    async def _send_streamed(self, record: Record, response: Response) -> None:
        self._streamed = None
        assert self._gathered is not None, "the head of this response is there"
        body_start = self._gathered.length
        aborted = True
        try:
            await self._send_gathered()
            for number, segment in enumerate(response.body, start=1):
                if isinstance(segment, bytes):
                    await self._transport.send(segment)
                else:
                    await segment.send(self._transport, last=number == len(response.body))
            aborted = False
        finally:
            for segment in response.body:
                if not isinstance(segment, bytes):
                    segment.release()
            self._finished(record, max(0, self.taken_bytes - body_start), aborted)

    def break_off(self) -> None:
        """The connection is over: what had gathered will not be sent."""
        gathered, self._gathered = self._gathered, None
        if gathered is not None:
            self._finish(gathered, 0)

    def _finish(self, gathered: Gathered, sent_bytes: int) -> None:
        for record, body_bytes, aborted in gathered.outcomes(sent_bytes):
            self._finished(record, body_bytes, aborted)

    # -- how fast it is taken -----------------------------------------------------------------------------------

    def begin_taking(self, since: float) -> None:
        """An answer begins to be sent. Its pace is measured from `since`."""
        self._taken_since = since
        self.taken_bytes = 0
        self._pace: Pace | None = None

    def took(self, count: int) -> None:
        """See `Taker`."""
        self.taken_bytes += count

    def look_at_pace(self, began: float) -> ConnectionOverError | None:
        """Look at what the client has acknowledged of an answer: why to end with it, if it is too slow (`pace.py`). The
        socket alone would not tell: it has room again only once its peer has taken some 64 KiB.

        began: when the request did that is being answered. What was seen before says nothing of its answer.
        """
        now, config = self._listening.shared.tasks.ring.now, self._listening.config
        since = max(began, self._taken_since)
        seen = self._pace if self._pace is not None and self._pace.began >= since else None
        unacknowledged = self._transport.unacknowledged_bytes()
        acknowledged = self.taken_bytes - unacknowledged
        pace = self._pace = look(seen, now, acknowledged, config.write_timeout_s, config.rate_bytes_min)
        if now < pace.until:
            return None
        if pace.seems_stalled(now, config.write_timeout_s):
            return ConnectionOverError(LATE, resets=True)
        # A client that reads gets by FIN what it takes soon; more would be the kernel's memory for hours.
        return ConnectionOverError(SLOW, resets=not pace.drains(now, unacknowledged, config.write_timeout_s))
