"""What happens when a response is finished: it is counted and logged, by one event.

The counts are integers of the process, and of one listener. Nothing is made for a response that is only counted.
"""

from __future__ import annotations

from typing import Protocol

from ringserve.http.heads import Apart, HeaderBlock, Request, RequestLine, Told, told_of
from ringserve.observe.access_log import AccessLog, Shortened

STATUSES = 1000


class LoggedLine(Protocol):
    """A request line, and its piece, which is kept with it once it is made."""

    log_piece: bytes | None

    @property
    def line(self) -> RequestLine:
        """What it says."""


class LoggedBlock(Protocol):
    """A header block, and its pieces, which are kept with it once they are made: its own, and that of the client that
    it names, with the proxy that sent it.
    """

    block: HeaderBlock
    header_bytes: bytes
    log_piece: bytes | None
    client_piece: tuple[str, bytes] | None


class Peer(Protocol):
    """Who was answered.

    proxy: its address, if it may speak for others. client_piece: itself in the log.
    """

    proxy: str | None
    client_piece: bytes

    def piece_for(self, block: LoggedBlock) -> bytes:
        """In the log, the client that a proxy speaks for in a request with this header block."""


class Outcome:
    """What is told of a response. log_piece: in the log, of one that went out whole, once it is made."""

    __slots__ = ("coding", "log_piece", "status")

    def __init__(self, status: int, coding: bytes | None) -> None:
        self.status = status
        self.coding = coding
        self.log_piece: bytes | None = None


class Responses:
    """The finished responses of a listener.

    by_status: how many there were. body_bytes: how much of their bodies was taken. aborted: how many broke off.
    log: None if they are not logged.
    """

    __slots__ = ("_log", "aborted", "body_bytes", "by_status")

    def __init__(self, log: AccessLog | None) -> None:
        self._log = log
        self.by_status = [0] * STATUSES
        self.body_bytes = 0
        self.aborted = 0

    def finished(
        self,
        peer: Peer,
        head: tuple[LoggedLine, LoggedBlock, Apart | None] | None,
        outcome: Outcome,
        body_bytes: int,
        began: float,
        aborted: bool,
    ) -> None:
        """A response is out, or has broken off.

        head: None for a request that could not be read. body_bytes: how much of its body was taken; all that it will
        ever be of a whole one with this outcome. began: when the request's first byte came, by the ring's clock.
        """
        # The hot path counts by itself where there is no log (`hot_path.py`).
        self.by_status[outcome.status] += 1
        self.body_bytes += body_bytes
        if aborted:
            self.aborted += 1
        log = self._log
        if log is None:
            return
        form = log.form
        piece = None if aborted else outcome.log_piece
        if piece is None:
            piece = form.outcome(outcome.status, body_bytes, aborted, outcome.coding)
            if not aborted:
                outcome.log_piece = piece
        if head is None:
            client, line_piece, block_piece = peer.client_piece, form.line(None), form.block(Told())
        else:
            line, block, _apart = head
            client = peer.client_piece if peer.proxy is None else peer.piece_for(block)
            if line.log_piece is None:
                line.log_piece = form.line(line.line)
            if block.log_piece is None:
                block.log_piece = form.block(told_of(block.header_bytes))
            line_piece, block_piece = line.log_piece, block.log_piece
        if form.detailed:
            asked_range = None if head is None else Request(head[0].line, head[1].block, head[2]).asked_range
            shortened = isinstance(line_piece, Shortened) or isinstance(block_piece, Shortened)
            piece += form.details(log.now - began, asked_range, shortened)
        log.add(client, log.stamp, line_piece, piece, block_piece)
