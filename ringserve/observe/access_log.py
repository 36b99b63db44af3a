"""The access log: one line a response, after it ended, in batches, and never in the way of serving.

A line is the concatenation of five pieces, each of which changes on its own clock: the client (once a connection), the
time (once a second), the request line and the header block (remembered with what h11 said of them), and the outcome
(prepared with the response). Most lines are thus put together from bytes that exist already.

A file gets a batch by one write through the ring; if processes share it, it appends (`append_always`). Any other sink
gets a batch in pieces: whole lines, of at most PIPE_BUF bytes, which a pipe takes whole or not at all (pipe(7)). So no
line on a pipe is within another, whoever else writes there. For this, long fields of a line are shortened. A call that
does not wait writes the pieces, as many in a row as the sink takes. A sink without such a call, such as a terminal,
gets one piece at a time through the ring.

A sink that does not keep up (a pipe nobody reads) leaves a write or a poll in flight. A sink that refuses what is
written (a full disk, a pipe that nobody has open) is tried again each second, from the line at which the batch was cut.
Lines gather meanwhile, up to a limit. Beyond it they are lost and counted. The loss is reported at once, and the number
when the sink takes lines again.

Rejected: a lock for each batch (until 2026-11-27): more code, and a worker that was killed left half a line. One piece
in each turn of the ring: too slow for thousands of clients. A chain of linked writes: Linux 6.18 begins one of them in
each turn.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from typing import NamedTuple

from ringserve.http.dates import iso_date, log_date
from ringserve.http.heads import RequestLine, Told
from ringserve.ring.tasks import Kind, Tasks
from ringserve.ring.world import PIPE_BUF, Pinned, errno_name

LINES_WAITING_MAX = 100_000
"""Lines in memory while the sink does not take them: about 20 MiB, or a second of full load."""
PIECES = 5
FLUSH_AFTER_S = 0.1
"""How long a line may wait for company. Short enough for a person who watches."""
FLUSH_LINES = 500
"""A batch of this many is written without waiting longer."""
REFUSED_S = 1.0
"""After a sink refused a write, until it is tried again."""
PIECES_AT_ONCE = 64
"""Writes in a row, of a microsecond or two each."""

METHOD_BYTES_MAX, TARGET_BYTES_MAX, RANGE_BYTES_MAX = 32, 1700, 150
HOST_BYTES_MAX, REFERER_BYTES_MAX, USER_AGENT_BYTES_MAX = 270, 900, 500
"""How long fields may be in a line, as they stand there: a line has at most 4,000 bytes then, in every format."""

_UNSAFE = re.compile(rb'[^\x20-\x7e]|["\\]')
_WHOLE = re.compile(rb"(?:[^\\]|\\x..|\\u....|\\[^xu])*+")
"""Characters and whole escapes, of either kind."""


def escape(value: bytes) -> bytes:
    """Bytes from a peer as they may stand between quotes in a log: no quote, control or non-ASCII character is left
    as it is, so that a line cannot be forged nor a terminal driven.
    """
    return _UNSAFE.sub(lambda match: b"\\x%02x" % match[0][0], value)


def _escape_json(value: bytes) -> bytes:
    return json.dumps(value.decode("latin-1"))[1:-1].encode()


class Shortened(bytes):
    """A piece of a line, some field of which is not whole."""


def shorten(value: bytes, bytes_max: int, escape: Callable[[bytes], bytes] = escape) -> bytes:
    """The escaped value; if that has more than `bytes_max` bytes, its beginning and `...`. No escape is cut."""
    escaped = escape(value[: bytes_max + 1])  # escaping makes nothing shorter
    if len(escaped) <= bytes_max:
        return escaped
    whole = _WHOLE.match(escaped, 0, bytes_max - len(b"..."))
    assert whole, "no character is one"
    return Shortened(whole[0] + b"...")


def _put(template: bytes, *fields: bytes) -> bytes:
    """A piece with these fields."""
    piece = template % fields
    return Shortened(piece) if any(isinstance(field, Shortened) for field in fields) else piece


class CommonFormat:
    """How the five pieces of a line look. This is the format that NCSA httpd had, and every tool reads; the others are
    made from it. An aborted response shows by its byte count alone.

    detailed: the outcome tells the content coding, and how long the request took, so that it is made for each line.
    """

    detailed = False

    def client(self, peer: str) -> bytes:
        """First: the client's address."""
        return b"%s - - [" % peer.encode()

    def stamp(self, seconds: float) -> bytes:
        """Second: when the response ended, in UTC."""
        return log_date(seconds) + b'] "'

    def line(self, line: RequestLine | None) -> bytes:
        """Third: the request line; None for a request that could not be read."""
        if line is None:
            return b'-" '
        method, target = shorten(line.method, METHOD_BYTES_MAX), shorten(line.target, TARGET_BYTES_MAX)
        return b'%s %s HTTP/%s" ' % (method, target, line.version)

    def outcome(self, status: int, body_bytes: int, aborted: bool, coding: bytes | None) -> bytes:  # noqa: ARG002
        """Fourth: what was answered. aborted: the connection broke before the response was complete."""
        return b"%d %d" % (status, body_bytes)

    def details(self, duration_s: float, asked_range: bytes | None, shortened: bool) -> bytes:  # noqa: ARG002
        """What a detailed outcome ends with: the time from the first byte of the request to the last of the answer, and
        the range that was asked for. shortened: a field of the request line or of the header block is not whole.
        """
        return b""

    def block(self, told: Told) -> bytes:  # noqa: ARG002
        """Last, with the line end: what the header fields say of the client."""
        return b"\n"


class CombinedFormat(CommonFormat):
    """The format that nginx and Apache call combined: the common one, and what led the client here."""

    def block(self, told: Told) -> bytes:
        referer = b"-" if told.referer is None else shorten(told.referer, REFERER_BYTES_MAX)
        agent = b"-" if told.user_agent is None else shorten(told.user_agent, USER_AGENT_BYTES_MAX)
        return b' "%s" "%s"\n' % (referer, agent)


def _json(value: bytes | None, bytes_max: int) -> bytes:
    return b"null" if value is None else _put(b'"%s"', shorten(value, bytes_max, _escape_json))


class JsonFormat(CommonFormat):
    """One JSON object a line, keys in a fixed order. range: what was asked for; the status tells what came of it.
    shortened: some field is not whole; the key is absent otherwise.
    """

    detailed = True

    def client(self, peer: str) -> bytes:
        return b'{"client":%s,"time":"' % json.dumps(peer).encode()

    def stamp(self, seconds: float) -> bytes:
        return iso_date(seconds).encode() + b'",'

    def line(self, line: RequestLine | None) -> bytes:
        if line is None:
            return b'"method":null,"target":null,"protocol":null,'
        method, target = _json(line.method, METHOD_BYTES_MAX), _json(line.target, TARGET_BYTES_MAX)
        return _put(b'"method":%s,"target":%s,"protocol":"HTTP/%s",', method, target, line.version)

    def outcome(self, status: int, body_bytes: int, aborted: bool, coding: bytes | None) -> bytes:
        return b'"status":%d,"bytes":%d,"coding":%s,"aborted":%s,' % (
            status, body_bytes, b"null" if coding is None else b'"%s"' % coding, b"true" if aborted else b"false",
        )  # fmt: skip

    def details(self, duration_s: float, asked_range: bytes | None, shortened: bool) -> bytes:
        range_ = _json(asked_range, RANGE_BYTES_MAX)
        mark = b'"shortened":true,' if shortened or isinstance(range_, Shortened) else b""
        return b'"duration":%.6f,"range":%s,%s' % (duration_s, range_, mark)

    def block(self, told: Told) -> bytes:
        return _put(
            b'"host":%s,"referer":%s,"user_agent":%s}\n',
            _json(told.host, HOST_BYTES_MAX),
            _json(told.referer, REFERER_BYTES_MAX),
            _json(told.user_agent, USER_AGENT_BYTES_MAX),
        )


LOG_FORMATS: dict[str, type[CommonFormat]] = {"common": CommonFormat, "combined": CombinedFormat, "json": JsonFormat}


class Sink(NamedTuple):
    """An open descriptor that lines are written to."""

    fd: int
    is_file: bool
    """A regular file: a write to it may wait for a disk, so it goes through the ring."""


class AccessLog:
    """Gathers lines and writes them to a descriptor.

    sink: a file, a pipe, a socket or a terminal. owned: it is closed in the end, and when it is replaced.
    """

    def __init__(self, tasks: Tasks, sink: Sink, form: CommonFormat, *, owned: bool = False) -> None:
        self.form = form
        self.lost = 0
        self._tasks = tasks
        self._fd, self._is_file = sink
        self._owned = owned
        self.stamp = b""
        self._not_before = 0.0
        self._next: Sink | None = None
        self._user_data = tasks.register(Kind.SHARED, self._written)
        self._poll_user_data = tasks.register(Kind.SHARED, self._has_room)

        self._pieces: list[bytes] = []
        self._batch = b""
        """Whole lines: those being written, or those that the sink refused. Before them a line end if the last line in
        the sink is not whole."""
        self._written_bytes = 0
        self._writing = False
        """A write or a poll is in flight."""
        self._pinned: Pinned | None = None
        self._due = 0.0
        self._refused = False

    def set_time(self, seconds: float) -> None:
        """Tell the time of the lines that follow. seconds: since the epoch."""
        self.stamp = self.form.stamp(seconds)

    def replace_sink(self, sink: Sink) -> None:
        """Write to `sink`, which is the log's own, from the next batch on, or the one that is refused so far.

        What kind of file it is comes with it: on a network file system fstat(2) may wait, and the loop with it.
        """
        if self._next is not None:
            self._tasks.ring.close(self._next.fd)
        self._next = sink
        if not self._writing:
            self._take_next_sink()

    def _take_next_sink(self) -> None:
        if self._next is None:
            return
        if self._owned:
            self._tasks.ring.close(self._fd)
        (self._fd, self._is_file), self._next = self._next, None
        self._owned = True
        self._batch = self._batch.lstrip(b"\n")
        self._not_before = 0.0

    def shut(self) -> None:
        """Close the sink if it is the log's own. After the last `flush`: lines that are not written now are lost."""
        self.lost += self._batch[self._written_bytes :].lstrip(b"\n").count(b"\n")
        self.lost += len(self._pieces) // PIECES
        self._batch, self._pieces = b"", []
        self._report_lost()
        if self._next is not None:
            self._tasks.ring.close(self._next.fd)
            self._next = None
        if self._owned:
            self._tasks.ring.close(self._fd)
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

    @property
    def now(self) -> float:
        """The time, by the ring's clock."""
        return self._tasks.ring.now

    @property
    def idle(self) -> bool:
        """Whether everything is written, or the sink refuses it."""
        return not self._writing and (self._refused or not (self._batch or self._pieces))

    def flush_if_due(self) -> float | None:
        """Write a batch that is large or old enough. Returns when to call again at the latest, or None."""
        if self._writing or not (self._pieces or self._batch):
            return None
        if not self._batch and self._tasks.ring.now < self._due and len(self._pieces) < FLUSH_LINES * PIECES:
            return self._due
        return self.flush()

    def flush(self) -> float | None:
        """Write what is there, unless a write is in flight. Returns when to call again if it is not yet time to."""
        if self._writing or not (self._batch or self._pieces):
            return None
        if self._tasks.ring.now < self._not_before:
            return self._not_before
        if not self._batch:
            pieces, self._pieces = self._pieces, []
            self._batch = b"".join(pieces)
        self._write()
        return None

    def _write(self) -> None:
        """Write on, from where the batch has been written to."""
        if self._is_file:
            self._write_by_ring(self._batch[self._written_bytes :])
            return
        for _write in range(PIECES_AT_ONCE):
            start = self._written_bytes
            piece = self._batch[start : self._batch.rfind(b"\n", start, start + PIPE_BUF) + 1]
            res = self._tasks.system.write_now(self._fd, piece)
            if res == -errno.EOPNOTSUPP:
                self._write_by_ring(piece)
                return
            if not self._goes_on(res):
                return
        self._await_room()

    def _write_by_ring(self, data: bytes) -> None:
        self._pinned = self._tasks.ring.pin(data)
        self._tasks.ring.write(self._user_data, self._fd, self._pinned)
        self._writing = True

    def _await_room(self) -> None:
        self._tasks.ring.room(self._poll_user_data, self._fd)
        self._writing = True

    def _has_room(self, _res: int, _buffer: int, _more: bool) -> None:
        assert self._writing, "only for a batch in flight is room awaited"
        self._writing = False
        if self._batch:  # it was not shut
            self._write()

    def _written(self, res: int, _buffer: int, _more: bool) -> None:
        assert self._writing, "only a write in flight can complete"
        self._writing, self._pinned = False, None
        # If it was shut, what was not written by then has been counted.
        if self._batch and self._goes_on(res):
            self._write()

    def _goes_on(self, res: int) -> bool:
        """Heed the result of a write. Whether there is more of the batch to write, and the sink takes it."""
        if res in (-errno.EAGAIN, -errno.EINTR):
            self._await_room()  # an inherited descriptor may be non-blocking
            return False
        if res <= 0:
            self._keep_batch(errno_name(res) if res else "the sink takes nothing")
            return False
        self._written_bytes += res
        if self._written_bytes < len(self._batch):
            return True
        self._batch = b""
        self._written_bytes = 0
        self._take_next_sink()
        if self._refused:
            self._refused = False
            self._tasks.report("access log: lines are written again")
        self._report_lost()
        self.flush()
        return False

    def _keep_batch(self, reason: str) -> None:
        """EPIPE, ENOSPC: the batch was refused or cut. What is not written of it, in whole lines, is tried again."""
        if not self._refused:
            self._refused = True
            self._tasks.report("access log: {}; the server tries again each second", reason)
            self._report_lost()
        begin = self._batch.rfind(b"\n", 0, self._written_bytes) + 1
        mend = b"\n" if begin < self._written_bytes else b""
        self._batch = mend + self._batch[begin:]
        self._written_bytes = 0
        self._not_before = self._tasks.ring.now + REFUSED_S
        self._take_next_sink()

    def _report_lost(self) -> None:
        if self.lost:
            self._tasks.report("access log: {} lines lost, because the sink did not take them", self.lost)
            self.lost = 0
