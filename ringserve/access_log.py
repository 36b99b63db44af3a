"""The access log: one line a response, after it ended, in batches, and never in the way of serving.

A line is the concatenation of five pieces, each of which changes on its own clock: the client (once a connection), the
time (once a second), the request line and the header block (remembered with what h11 said of them), and the outcome
(prepared with the response). Most lines are thus put together from bytes that exist already.

The batch is written through the ring, one write at a time. A sink that does not keep up (a pipe nobody reads) leaves
that write in flight; one that refuses it (a full disk, a pipe that nobody has open) is tried again each second, with
the line at which the batch was cut first. Lines gather meanwhile, up to a limit. Beyond it they are lost and counted;
that they are is reported at once, and how many when the sink takes lines again.

Where several processes share the sink, one of them writes at a time (`turns.py`). Who waits for its turn serves on, and
its lines gather as they do behind a slow sink.
"""

from __future__ import annotations

import errno
import json
import re
import time
from abc import ABC, abstractmethod

from ringserve.heads import HeaderBlock, RequestLine
from ringserve.ring.interface import POLL_OUT, Pinned, errno_name
from ringserve.ring.tasks import Kind, Tasks
from ringserve.turns import Turns

LINES_WAITING_MAX = 100_000
"""Lines in memory while the sink does not take them: about 20 MiB, or a second of full load."""
PIECES = 5
FLUSH_AFTER_S = 0.1
"""How long a line may wait for company. Short enough for a person who watches."""
FLUSH_LINES = 500
"""A batch of this many is written without waiting longer."""
RETRY_S, RETRY_LAST_S = 0.002, 0.05
"""Between two tries to have the turn at a shared sink: doubled each time, since a stuck sink may keep it."""
REFUSED_S = 1.0
"""After a sink refused a write, until it is tried again."""
REST_S = 0.06
"""After a turn that others wanted. Longer than they wait between tries, shorter than a person notices."""

_UNSAFE = re.compile(rb'[^\x20-\x7e]|["\\]')


def escape(value: bytes) -> bytes:
    """Bytes from a peer as they may stand between quotes in a log: no quote, control or non-ASCII character is left
    as it is, so that a line cannot be forged nor a terminal driven.
    """
    return _UNSAFE.sub(lambda match: b"\\x%02x" % match[0][0], value)


class LogFormat(ABC):
    """How the five pieces of a line look.

    detailed: the outcome tells the content coding, and how long the request took, so that it is made for each line.
    """

    detailed = False

    @abstractmethod
    def client(self, peer: str) -> bytes:
        """First: the client's address."""

    @abstractmethod
    def stamp(self, seconds: float) -> bytes:
        """Second: when the response ended, in UTC."""

    @abstractmethod
    def line(self, line: RequestLine | None) -> bytes:
        """Third: the request line; None for a request that could not be read."""

    @abstractmethod
    def outcome(self, status: int, body_bytes: int, aborted: bool, coding: bytes | None) -> bytes:
        """Fourth: what was answered. aborted: the connection broke before the response was complete."""

    def details(self, duration_s: float, asked_range: bytes | None) -> bytes:  # noqa: ARG002
        """What a detailed outcome ends with: the time from the first byte of the request to the last of the answer, and
        the range that was asked for.
        """
        return b""

    @abstractmethod
    def block(self, block: HeaderBlock | None) -> bytes:
        """Last, with the line end: what the header fields say of the client."""


class CommonFormat(LogFormat):
    """The format that NCSA httpd had, and every tool reads. An aborted response shows by its byte count alone."""

    def client(self, peer: str) -> bytes:
        return b"%s - - [" % peer.encode()

    def stamp(self, seconds: float) -> bytes:
        # Not strftime: its month names depend on the locale.
        moment = time.gmtime(seconds)
        month = b"JanFebMarAprMayJunJulAugSepOctNovDec"[moment.tm_mon * 3 - 3 : moment.tm_mon * 3]
        return b'%02d/%s/%d:%02d:%02d:%02d +0000] "' % (
            moment.tm_mday, month, moment.tm_year, moment.tm_hour, moment.tm_min, moment.tm_sec,
        )  # fmt: skip

    def line(self, line: RequestLine | None) -> bytes:
        if line is None:
            return b'-" '
        return b'%s %s HTTP/%s" ' % (escape(line.method), escape(line.target), line.version)

    def outcome(self, status: int, body_bytes: int, aborted: bool, coding: bytes | None) -> bytes:  # noqa: ARG002
        return b"%d %d" % (status, body_bytes)

    def block(self, block: HeaderBlock | None) -> bytes:  # noqa: ARG002
        return b"\n"


class CombinedFormat(CommonFormat):
    """The format that nginx and Apache call combined: the common one, and what led the client here."""

    def block(self, block: HeaderBlock | None) -> bytes:
        referer = escape(block.referer) if block and block.referer is not None else b"-"
        agent = escape(block.user_agent) if block and block.user_agent is not None else b"-"
        return b' "%s" "%s"\n' % (referer, agent)


def _json(value: bytes | None) -> bytes:
    return b"null" if value is None else json.dumps(value.decode("latin-1")).encode()


class JsonFormat(LogFormat):
    """One JSON object a line, keys in a fixed order. range: what was asked for; the status tells what came of it."""

    detailed = True

    def client(self, peer: str) -> bytes:
        return b'{"client":%s,"time":"' % json.dumps(peer).encode()

    def stamp(self, seconds: float) -> bytes:
        return time.strftime('%Y-%m-%dT%H:%M:%SZ",', time.gmtime(seconds)).encode()

    def line(self, line: RequestLine | None) -> bytes:
        if line is None:
            return b'"method":null,"target":null,"protocol":null,'
        return b'"method":%s,"target":%s,"protocol":"HTTP/%s",' % (
            _json(line.method), _json(line.target), line.version,
        )  # fmt: skip

    def outcome(self, status: int, body_bytes: int, aborted: bool, coding: bytes | None) -> bytes:
        return b'"status":%d,"bytes":%d,"coding":%s,"aborted":%s,' % (
            status, body_bytes, _json(coding), b"true" if aborted else b"false",
        )  # fmt: skip

    def details(self, duration_s: float, asked_range: bytes | None) -> bytes:
        return b'"duration":%.6f,"range":%s,' % (duration_s, _json(asked_range))

    def block(self, block: HeaderBlock | None) -> bytes:
        return b'"host":%s,"referer":%s,"user_agent":%s}\n' % (
            _json(block.host if block else None),
            _json(block.referer if block else None),
            _json(block.user_agent if block else None),
        )


LOG_FORMATS: dict[str, type[LogFormat]] = {"common": CommonFormat, "combined": CombinedFormat, "json": JsonFormat}


class AccessLog:
    """Gathers lines and writes them to a descriptor.

    fd: the sink. It may be a file, a pipe or a terminal. owned: it is closed in the end, and when it is replaced.
    turns: where other processes write there too, and take turns with this one.
    """

    def __init__(
        self, tasks: Tasks, fd: int, form: LogFormat, *, owned: bool = False, turns: Turns | None = None
    ) -> None:
        self.form = form
        self.lost = 0
        self._tasks = tasks
        self._fd = fd
        self._owned = owned
        self._turns = turns
        self._not_before = 0.0
        self._retry_s = RETRY_S
        self._next_fd: int | None = None
        self._user_data = tasks.register(Kind.SHARED, self._written)
        self._poll_user_data = tasks.register(Kind.SHARED, self._has_room)

        self._pieces: list[bytes] = []
        self._batch = b""
        """Whole lines: those in flight, or those that the sink refused."""
        self._mended_bytes = 0
        self._writing: Pinned | None = None
        self._written_bytes = 0
        self._due = 0.0
        self._refused = False
        self._was_cut = False
        """The last line in the sink is not whole."""

    def replace_sink(self, fd: int) -> None:
        """Write to `fd`, which is the log's own, from the next batch on, or the one that is refused so far."""
        if self._next_fd is not None:
            self._tasks.close(self._next_fd)
        self._next_fd = fd
        if self._writing is None:
            self._take_next_sink()

    def _take_next_sink(self) -> None:
        if self._next_fd is None:
            return
        if self._owned:
            self._tasks.close(self._fd)
        self._fd, self._next_fd = self._next_fd, None
        self._owned = True
        self._was_cut = False
        self._not_before = 0.0

    def shut(self) -> None:
        """Close the sink if it is the log's own. After the last `flush`: lines that are not written now are lost."""
        self.lost += self._batch.count(b"\n", max(0, self._written_bytes - self._mended_bytes))
        self.lost += len(self._pieces) // PIECES
        self._batch, self._pieces = b"", []
        self._report_lost()
        if self._next_fd is not None:
            self._tasks.close(self._next_fd)
            self._next_fd = None
        if self._owned:
            self._tasks.close(self._fd)
            self._owned = False

    def add(self, client: bytes, stamp: bytes, line: bytes, outcome: bytes, block: bytes) -> None:
        """One line."""
        pieces = self._pieces
        if not pieces:
            self._due = self._tasks.ring.now + FLUSH_AFTER_S
        elif len(pieces) >= LINES_WAITING_MAX * PIECES:
            if not self.lost:
                self._tasks.report("access log: the sink does not take its lines; from now on lines are lost")
            self.lost += 1
            return
        pieces += (client, stamp, line, outcome, block)

    def record(
        self,
        client: bytes,
        stamp: bytes,
        line: RequestLine | None,
        block: HeaderBlock | None,
        outcome: bytes,
    ) -> None:
        """One line, of what is remembered with the request line and the header block; None for one never read."""
        if line is None:
            line_piece = self.form.line(None)
        else:
            if line.log_piece is None:
                line.log_piece = self.form.line(line)
            line_piece = line.log_piece
        if block is None:
            block_piece = self.form.block(None)
        else:
            if block.log_piece is None:
                block.log_piece = self.form.block(block)
            block_piece = block.log_piece
        self.add(client, stamp, line_piece, outcome, block_piece)

    @property
    def idle(self) -> bool:
        """Whether everything is written, or the sink refuses it."""
        return self._writing is None and (self._refused or not (self._batch or self._pieces))

    def flush_if_due(self) -> float | None:
        """Write a batch that is large or old enough. Returns when to call again at the latest, or None."""
        if self._writing is not None or not (self._pieces or self._batch):
            return None
        if not self._batch and self._tasks.ring.now < self._due and len(self._pieces) < FLUSH_LINES * PIECES:
            return self._due
        return self.flush()

    def flush(self) -> float | None:
        """Write what is there, unless a write is in flight. Returns when to call again if it is not yet time to."""
        if self._writing is not None or not (self._batch or self._pieces):
            return None
        if self._tasks.ring.now < self._not_before:
            return self._not_before
        if self._turns is not None:
            if not self._take_turn(self._turns):
                return self._not_before
            self._was_cut = self._turns.begin()
        if not self._batch:
            pieces, self._pieces = self._pieces, []
            self._batch = b"".join(pieces)
        mend = b"\n" if self._was_cut else b""
        self._mended_bytes = len(mend)
        self._writing = self._tasks.ring.pin(mend + self._batch)
        self._written_bytes = 0
        self._tasks.ring.write(self._user_data, self._fd, self._writing)
        return None

    def _take_turn(self, turns: Turns) -> bool:
        if turns.take():
            self._retry_s = RETRY_S
            return True
        self._not_before = self._tasks.ring.now + self._retry_s
        self._retry_s = min(RETRY_LAST_S, self._retry_s * 2)
        return False

    def _give_turn(self) -> None:
        """The batch has been written, or the sink refuses it."""
        if self._turns is not None and self._turns.give(not self._was_cut):
            self._not_before = self._tasks.ring.now + REST_S

    def _has_room(self, _res: int, _flags: int) -> None:
        assert self._writing is not None, "only for a write in flight is room awaited"
        if not self._batch:
            return  # it was shut
        self._tasks.ring.write(self._user_data, self._fd, self._writing, self._written_bytes)

    def _written(self, res: int, _flags: int) -> None:
        assert self._writing is not None, "only a write in flight can complete"
        if not self._batch:
            return  # it was shut, and what was not written by then has been counted
        if res in (-errno.EAGAIN, -errno.EINTR):
            # An inherited descriptor may be non-blocking: then a full pipe answers so instead of waiting.
            self._tasks.ring.poll(self._poll_user_data, self._fd, POLL_OUT)
            return
        if res <= 0:
            self._keep_batch(errno_name(res) if res else "the sink takes nothing")
            return
        self._written_bytes += res
        if self._written_bytes < self._writing.length:
            self._tasks.ring.write(self._user_data, self._fd, self._writing, self._written_bytes)
            return
        self._was_cut = False
        self._give_turn()
        self._batch = b""
        self._writing = None
        self._take_next_sink()
        if self._refused:
            self._refused = False
            self._tasks.report("access log: it is written again")
        self._report_lost()
        self.flush()

    def _keep_batch(self, reason: str) -> None:
        """EPIPE, ENOSPC: the batch was refused or cut. What is not written of it, in whole lines, is tried again."""
        if not self._refused:
            self._refused = True
            self._tasks.report("access log: {}; it is tried again each second", reason)
            self._report_lost()
        self._writing = None
        if self._written_bytes:
            written = self._written_bytes - self._mended_bytes
            begin = self._batch.rfind(b"\n", 0, written) + 1
            self._was_cut = begin < written
            self._batch = self._batch[begin:]
            self._written_bytes = 0
        self._give_turn()
        self._not_before = self._tasks.ring.now + REFUSED_S
        self._take_next_sink()

    def _report_lost(self) -> None:
        if self.lost:
            self._tasks.report("access log: {} lines lost, because the sink did not take them", self.lost)
            self.lost = 0
