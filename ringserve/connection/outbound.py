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
from collections.abc import Callable
from typing import NamedTuple

from ringserve.connection.listening import Listening
from ringserve.connection.pace import Pace, look
from ringserve.connection.prepared import Prepared
from ringserve.connection.remembered import KnownHead
from ringserve.connection.states import BROKEN, LATE, SLOW, Event
from ringserve.connection.transport import TransferError, Transport
from ringserve.http.response import Response, Segment, head_parts

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


Finished = Callable[[Record, int, bool], None]
"""Told of a response, of how many bytes of its body were taken, and whether it broke off."""


class Gathered:
    """Responses that leave in one send.

    body: of the last of them, if that is not all in memory; it leaves by itself, behind the others. length: of what
    leaves in one send.
    """

    __slots__ = ("_pieces", "_records", "body", "length")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._records: list[Record] = []
        self.body: tuple[Segment, ...] = ()
        self.length = 0

    def put(
        self,
        data: bytes,
        head_bytes: int,
        later_bytes: int,
        response: Prepared | Response,
        head: KnownHead | None,
        began: float,
    ) -> None:
        """Add a response. data: its head, of `head_bytes`, and its body, unless that is later to leave by itself."""
        self._pieces.append(data)
        body_start = self.length + head_bytes
        self.length += len(data)
        self._records.append(
            Record(head, response.status, response.coding, began, body_start, self.length + later_bytes)
        )

    def joined(self) -> bytes:
        """What leaves in one send."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def tell(self, sent_bytes: int, finished: Finished, *, over: bool) -> None:
        """Tell of each response that has gone whole, once. over: and of the one that will not."""
        records = self._records
        while records and records[0].end <= sent_bytes:
            record = records.pop(0)
            finished(record, record.end - record.body_start, False)
        if over and records:
            finished(records[0], max(0, sent_bytes - records[0].body_start), True)


class Outbound:
    """The sending half of a connection; see the module.

    taken_bytes: of the answer that is being sent.
    """

    __slots__ = ("_finished", "_gathered", "_listening", "_pace", "_taken_since", "_transport", "taken_bytes")

    def __init__(self, listening: Listening, transport: Transport, finished: Finished) -> None:
        self._listening = listening
        self._transport = transport
        self._finished = finished
        self._gathered: Gathered | None = None
        self.begin_taking(listening.shared.tasks.ring.now)
        transport.taker = self

    # -- gathering ----------------------------------------------------------------------------------------------

    def put_prepared(self, head: KnownHead, prepared: Prepared, connection: bytes | None, began: float) -> None:
        """Add a prepared response. connection: the value of that field."""
        clock = self._listening.clock
        if connection is None and prepared.second != clock.second:
            prepared.render(clock.second, clock.date, self._listening.shared.tasks.ring.pin)
        if self._gathered is None:
            self._gathered = Gathered()
        data = prepared.data if connection is None else prepared.rendered(clock.date, connection)
        self._gathered.put(data, len(data) - prepared.body_bytes, 0, prepared, head, began)

    def put_response(self, head: KnownHead | None, response: Response, connection: bytes | None, began: float) -> None:
        """Add a response. connection: the value of that field."""
        if self._gathered is None:
            self._gathered = Gathered()
        before, after = head_parts(response, self._listening.server, connection)
        rendered = before + self._listening.clock.date + after
        in_memory = [segment for segment in response.body if isinstance(segment, bytes)]
        if len(in_memory) == len(response.body):
            data = b"".join((rendered, *in_memory))
            self._gathered.put(data, len(rendered), 0, response, head, began)
            return
        for segment in response.body:
            if not isinstance(segment, bytes):
                segment.hold()
        self._gathered.body = response.body
        self._gathered.put(rendered, len(rendered), response.body_bytes, response, head, began)

    @property
    def is_due(self) -> bool:
        """Whether what has gathered has to be sent before more is added."""
        gathered = self._gathered
        return gathered is not None and (gathered.length >= OUTPUT_BYTES_MAX or bool(gathered.body))

    # -- sending ------------------------------------------------------------------------------------------------

    async def send(self) -> None:
        """Send what has gathered, in one send, and then the body that is not all in memory, if there is one. Raises
        ConnectionOverError.
        """
        gathered, self._gathered = self._gathered, None
        assert gathered is not None, "a response is at least its head"
        # How fast the client takes it, and the body that may follow, is measured from here: not from when it asked.
        self.begin_taking(self._listening.shared.tasks.ring.now)
        try:
            await self._transport.send(gathered.joined())
            if gathered.body:
                gathered.tell(self.taken_bytes, self._finished, over=False)
                await self._send_body(gathered.body)
        except TransferError as error:
            if -error.res not in PEER_IS_GONE:
                self._report("{}; the connection is closed", error)
            raise ConnectionOverError(BROKEN) from error
        except OSError as error:
            self._report("no pipe to send a file with: {}; the connection is closed", error.strerror)
            raise ConnectionOverError(BROKEN) from error
        finally:
            gathered.tell(self.taken_bytes, self._finished, over=True)
            for segment in gathered.body:
                if not isinstance(segment, bytes):
                    segment.release()

    async def _send_body(self, body: tuple[Segment, ...]) -> None:
        for number, segment in enumerate(body, start=1):
            if isinstance(segment, bytes):
                await self._transport.send(segment)
            else:
                await segment.send(self._transport, last=number == len(body))

    def _report(self, template: str, value: object) -> None:
        self._listening.shared.tasks.report(template, value)

    def break_off(self) -> None:
        """The connection is over: what has gathered will not be sent."""
        if self._gathered is not None:
            self._gathered.tell(0, self._finished, over=True)
            self._gathered = None

    def end(self) -> None:
        """Nothing is in flight any more: know the transport no longer, which tells this of its progress."""
        del self._transport

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
