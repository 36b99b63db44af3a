"""What leaves a connection: bytes gathered and sent, files spliced, and each response logged when it has gone.

Responses to pipelined requests gather until there is no further request to answer, or enough of them; then they leave
in one send. A body with parts of files in it is transmitted by itself, after what had gathered.

Invariants
 1. At most one send, splice or poll is in flight, so that bytes leave in order.
 2. A response is logged once, after its last byte was taken by the kernel, or when it broke off.
 3. A body is as long as its Content-Length says, or the connection breaks: never a wrong length passed off as whole.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from ringserve.connection.answers import Asker
from ringserve.connection.listening import Listening
from ringserve.connection.pace import Pace, look
from ringserve.connection.pipes import TransferError
from ringserve.connection.remembered import KnownBlock, KnownHead, Prepared
from ringserve.http.heads import HeaderBlock
from ringserve.http.response import FileSlice, Response, head_parts
from ringserve.ring.world import errno_name

OUTPUT_BYTES_MAX = 256 * 1024
"""Responses to pipelined requests gather up to this much before they are sent."""
PEER_IS_GONE = frozenset((errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ECONNABORTED))


class ConnectionOverError(Exception):
    """Nothing more can or shall be sent on this connection.

    resets: what the kernel still has for the peer is thrown away with it. A reader that takes nothing would otherwise
    keep megabytes of the kernel's memory after it was cut off.
    """

    def __init__(self, reason: str, *, resets: bool = False) -> None:
        super().__init__(reason)
        self.resets = resets


class Record(NamedTuple):
    """A response whose bytes wait to be sent: what to log of it, and where in the batch its body begins and ends.

    head: of its request; None for one that could not be read. began: when that did, by the ring's clock.
    """

    head: KnownHead | None
    status: int
    coding: bytes | None
    began: float
    body_start: int
    end: int


class Sender(Asker):
    """The sending half of a connection; see the module.

    waiting_since: when the client last took something. began: when the request that is being answered did.
    told_client: whom a proxy named before the first request, in a preface.
    _taken_since, _taken_bytes: when its answer began to be sent, and what the socket took of it.
    """

    __slots__ = (
        "_body_sent", "_client", "_client_piece", "_listening", "_output", "_output_bytes", "_pace", "_records",
        "_sent_bytes", "_taken_bytes", "_taken_since", "began", "fd", "told_client", "waiting_since",
    )  # fmt: skip

    def __init__(self, listening: Listening, fd: int) -> None:
        super().__init__(listening.shared.tasks)
        self._listening = listening
        self.fd = fd
        self.began = self.waiting_since = self._taken_since = self.ring.now
        self._taken_bytes = 0
        self._pace: Pace | None = None
        self._body_sent = 0
        self._sent_bytes = 0
        self._output: list[bytes] = []
        self._output_bytes = 0
        self._records: list[Record] = []
        # Now, while the peer is there: a broken connection has no peer name any more, and is logged all the same.
        self._client: str | None = None
        self.told_client: str | None = None
        self._client_piece = b""
        if listening.log is not None or listening.proxies is not None:
            self._name_client(self.tasks.system.peer_name(fd))

    def _name_client(self, client: str) -> None:
        """Who the log's lines are about. Kept as text only if it may speak for others."""
        listening = self._listening
        if listening.log is not None:
            self._client_piece = listening.log.form.client(client)
        trusted = listening.proxies is not None and listening.proxies.trusts(client)
        self._client = client if trusted else None

    # -- output -------------------------------------------------------------------------------------------------

    async def _put_prepared(self, head: KnownHead, prepared: Prepared) -> None:
        clock = self._listening.clock
        if prepared.second != clock.second:
            prepared.render(clock.second, clock.date, self.ring.pin)
        self._output.append(prepared.data)
        end = self._output_bytes + len(prepared.data)
        self._output_bytes = end
        self._records.append(
            Record(
                head,
                prepared.status,
                prepared.coding,
                self.began,
                end - prepared.body_bytes,
                end,
            )
        )
        if end >= OUTPUT_BYTES_MAX:
            await self._flush()

    async def _put_response(self, head: KnownHead | None, response: Response, connection: bytes | None) -> None:
        before, after = head_parts(response, self._listening.server, connection)
        self._output.append(before + self._listening.clock.date + after)
        self._output_bytes += len(self._output[-1])
        body_start = self._output_bytes
        slices = [segment for segment in response.body if isinstance(segment, FileSlice)]
        if not slices:
            for segment in response.body:
                assert isinstance(segment, bytes), "what is no slice is bytes"
                self._output.append(segment)
                self._output_bytes += len(segment)
            end = self._output_bytes
            self._records.append(Record(head, response.status, response.coding, self.began, body_start, end))
            if self._output_bytes >= OUTPUT_BYTES_MAX:
                await self._flush()
            return
        for file_slice in slices:
            file_slice.file.hold()
        try:
            await self._transmit(head, response)
        finally:
            for file_slice in slices:
                file_slice.file.release()

    async def _transmit(self, head: KnownHead | None, response: Response) -> None:
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
                    await self._listening.shared.pipes.transfer(
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
                self.tasks.report("{}; the connection is closed", error)
            raise ConnectionOverError(str(error)) from error
        except OSError as error:
            self.tasks.report("no pipe to send a file with: {}; the connection is closed", error.strerror)
            raise ConnectionOverError("no pipe") from error
        finally:
            body_start, end = 0, self._body_sent
            self._log(
                Record(head, response.status, response.coding, self.began, body_start, end),
                end,
                aborted=not complete,
            )

    async def _flush(self) -> None:
        """Send what has gathered, in one send, and log it. How fast the client takes it, and the body that may follow,
        is measured from here: not from when it asked.
        """
        self._begin_taking(self.ring.now)
        if not self._output:
            return
        output, self._output = self._output, []
        self._output_bytes = 0
        data = output[0] if len(output) == 1 else b"".join(output)
        self._sent_bytes = 0
        await self._send_all(data)
        records, self._records = self._records, []
        for record in records:
            self._log(record, record.end - record.body_start, aborted=False)

    async def _send_all(self, data: bytes) -> None:
        """Send bytes to the last one. Raises ConnectionOverError."""
        pinned = self.ring.pin(data)
        sent = 0
        self.waiting_since = self.ring.now
        while sent < pinned.length:
            res = await self.send(self.fd, pinned, sent)
            if res < 0:
                self._broken(res, "send")
            sent += res
            self._sent_bytes = sent
            self._took(res)

    def _progressed(self, count: int) -> None:
        """The socket took `count` bytes of a body, or has room again."""
        self._body_sent += count
        self._took(count)

    def _begin_taking(self, since: float) -> None:
        self._taken_since = since
        self._taken_bytes = 0
        self._pace = None

    def _took(self, count: int) -> None:
        """The socket took something of an answer."""
        self.waiting_since = self.ring.now
        self._taken_bytes += count

    def check_pace(self) -> None:
        """Look at what the client has acknowledged of an answer, and end with one that is too slow (`pace.py`). The
        socket alone would not tell: it has room again only once its peer has taken some 64 KiB.
        """
        now, config = self.ring.now, self._listening.config
        since = max(self.began, self._taken_since)  # what was seen before says nothing of this answer
        seen = self._pace if self._pace is not None and self._pace.began >= since else None
        unacknowledged = self.tasks.system.unacknowledged_bytes(self.fd)
        acknowledged = self._taken_bytes - unacknowledged
        pace = self._pace = look(seen, now, acknowledged, config.write_timeout_s, config.rate_bytes_min)
        if now < pace.until:
            return
        if pace.seems_stalled(now, config.write_timeout_s):
            self.interrupt(ConnectionOverError("no progress", resets=True))
        else:
            # A client that reads gets by FIN what it takes soon; more would be the kernel's memory for hours.
            drains = pace.drains(now, unacknowledged, config.write_timeout_s)
            self.interrupt(ConnectionOverError("too slow", resets=not drains))

    def _broken(self, res: int, operation: str) -> None:
        """Raise ConnectionOverError for a failed operation; one that the peer did not cause is reported."""
        if -res not in PEER_IS_GONE:
            self.tasks.report("{}: {}", operation, errno_name(res))
        raise ConnectionOverError(errno_name(res))

    # -- logging ------------------------------------------------------------------------------------------------

    def client_of(self, block: HeaderBlock | None) -> str:
        """See `Asker`. Without a log nobody has noted the peer's name: it is asked for when it matters."""
        proxies, client = self._listening.proxies, self._client
        if proxies is None or client is None or block is None:
            return self.told_client or self.tasks.system.peer_name(self.fd)
        return proxies.client_of(client, block.x_forwarded_for)

    def _client_piece_of(self, block: KnownBlock | None) -> bytes:
        """The client of a request in the log."""
        log, client = self._listening.log, self._client
        if log is None or client is None or block is None:
            return self._client_piece
        known = block.client_piece
        if known is None or known[0] != client:
            known = block.client_piece = client, log.form.client(self.client_of(block.block))
        return known[1]

    def _log(self, record: Record, body_bytes: int, *, aborted: bool) -> None:
        log = self._listening.log
        if log is None:
            return
        outcome = log.form.outcome(record.status, body_bytes, aborted, record.coding)
        client = self._client_piece_of(None if record.head is None else record.head[1])
        log.record(client, record.head, outcome, record.began)

    def _log_broken(self) -> None:
        """Log what had gathered when the connection broke: what went out whole, and what had begun."""
        records, self._records = self._records, []
        sent_bytes = 0 if self._output else self._sent_bytes  # those that still gather wait for a send of their own
        for record in records:
            if record.end <= sent_bytes:
                self._log(record, record.end - record.body_start, aborted=False)
            else:
                self._log(record, max(0, sent_bytes - record.body_start), aborted=True)
                break
