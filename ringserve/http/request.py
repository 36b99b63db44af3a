"""From bytes to requests: a connection's bytes cut into heads, and a head as h11 reads it.

h11 reads every head, or has read its halves before (`remembered.py`); there is no second parser to disagree with it.

Stricter than h11, because two readings of the same bytes are how requests are smuggled (RFC 9112 11.2): every line
ends with CRLF (h11 takes a bare LF), no field is folded onto a second line (h11 joins them), no control character is in
a field (h11 takes most of them), Content-Length and Transfer-Encoding do not come together, and a Host names a host.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import h11

from ringserve.http.heads import (
    APART_NAMES,
    CONDITIONS,
    CONFIGURED_FIELDS,
    FETCH_MODE,
    HEAD_END,
    SELECTING_FIELDS,
    Apart,
    HeaderBlock,
    Request,
    RequestLine,
    Selection,
    sieve,
)
from ringserve.http.response import CRLF
from ringserve.http.semantics import LIST_MEMBERS_MAX, Conditions, is_authority

CR = 0x0D


class RequestError(Exception):
    """The peer sent what we will not read on from. `status` is what to answer before closing."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Limits(NamedTuple):
    """What a head may measure. Each has a flag of its own; the reasons stand with the flags."""

    head_bytes_max: int
    target_bytes_max: int
    fields_max: int


_CONTROLS = bytes(byte for byte in range(0x80) if not chr(byte).isprintable() and byte not in b"\t\r\n")
"""What no part of a head may hold (RFC 9110 5.5). Bare CR and LF are looked for separately."""
_SPLIT_BY_H11 = re.compile(rb"\r\n(?:connection|content-length|expect|upgrade):([^\r]*+)", re.IGNORECASE)
"""Fields that h11 takes to pieces."""


class RequestReader:
    """One connection's bytes, cut into heads. No I/O: `feed` takes what arrived, `next_head` says what is whole."""

    __slots__ = ("_buffer", "_limits", "_searched", "_start")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._start = 0
        self._searched = 0

    def feed(self, data: bytes) -> None:
        """More bytes from the peer."""
        if self._start:
            del self._buffer[: self._start]
            self._start = self._searched = 0
        self._buffer += data

    @property
    def pending_bytes(self) -> int:
        """How many bytes are here that no request has taken."""
        return len(self._buffer) - self._start

    def peek(self) -> bytes:
        """What no request has taken yet."""
        return bytes(self._buffer[self._start :])

    def skip(self, length: int) -> None:
        """Take bytes that belong to no request: what a proxy says before the first."""
        self._start += length
        self._searched = self._start

    def next_head(self) -> bytes | None:
        """The head of the next request with its end, or None while it is incomplete. What follows the head of a request
        that has a body is none. Raises RequestError if no good head can come of what is here.
        """
        buffer = self._buffer
        while buffer.startswith(CRLF, self._start):
            self._start += 2  # an empty line before a request line is skipped (RFC 9112 2.2)
        end = buffer.find(HEAD_END, max(self._start, self._searched))
        if end < 0:
            self._searched = max(self._start, len(buffer) - len(HEAD_END) + 1)
            self._check_incomplete()
            return None
        end += len(HEAD_END)
        head = bytes(buffer[self._start : end])
        self._start = self._searched = end
        return head

    def _check_incomplete(self) -> None:
        """Refuse what cannot become a good head any more, without waiting for its end."""
        # No memoryview: the traceback of the error would keep it, and a buffer with a view cannot grow.
        pending_bytes = self.pending_bytes
        if not pending_bytes or (pending_bytes == 1 and self._buffer[self._start] == CR):
            return
        if self._buffer[self._start] < 0x21:
            # A control character: a TLS hello, most of the time.
            raise RequestError(400, "this is not HTTP; a TLS client, perhaps")
        newline = self._buffer.find(b"\n", self._start)
        if newline > self._start and self._buffer[newline - 1] != CR:
            raise RequestError(400, "a line of the head ends without CR")
        if newline < 0 and pending_bytes > self._limits.target_bytes_max + LONGEST_METHOD_AND_VERSION:
            raise RequestError(414, "the request line is too long")
        if pending_bytes > self._limits.head_bytes_max:
            raise RequestError(431, "the head is too large")


class Parser:
    """Heads through h11 and the rules of ours.

    heeded: those of `CONFIGURED_FIELDS` by which the configuration makes a difference; by the others none is made.
    sieve: takes all other fields out of a header block (`heads.sieve`).
    """

    def __init__(self, limits: Limits, heeded: tuple[bytes, ...] = ()) -> None:
        self.limits = limits
        self.sieve = sieve(heeded)
        self._names = (*SELECTING_FIELDS, *(name if name in heeded else None for name in CONFIGURED_FIELDS))

    def parse(self, head: bytes, sifted: bytes = b"", found: tuple[bytes, Apart] | None = None) -> Request:
        """The request of a whole head. Raises RequestError.

        sifted: its header block without what decides nothing. found: by `set_apart` in that. It is set apart in the
        request too, unless h11 found more of it.
        """
        limits = self.limits
        if head.find(CRLF) > limits.target_bytes_max + LONGEST_METHOD_AND_VERSION:
            raise RequestError(414, "the request line is too long")
        if len(head) > limits.head_bytes_max:
            raise RequestError(431, "the head is too large")
        if head.count(b"\n") != head.count(CRLF):
            raise RequestError(400, "a line of the head ends without CR")
        if b"\n " in head or b"\n\t" in head:
            raise RequestError(400, "a field is folded onto a second line")
        if len(head.translate(None, _CONTROLS)) != len(head):
            raise RequestError(400, "a control character in the head")
        field_count = head.count(CRLF) - LINES_BESIDE_FIELDS
        if field_count > limits.fields_max:
            raise RequestError(431, "too many fields")
        if sum(match[1].count(b",") for match in _SPLIT_BY_H11.finditer(head)) >= LIST_MEMBERS_MAX:
            raise RequestError(431, "too many members in a list")
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes_max)
        parser.receive_data(head)
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError as error:
            raise RequestError(error.error_status_hint, str(error)) from error
        if not isinstance(event, h11.Request) or parser.trailing_data[0]:
            raise AssertionError("h11 takes what ends with the first blank line as one head")
        if event.http_version[:1] != b"1":
            raise RequestError(505, "not HTTP/1")
        fields = _combined(event)
        apart = None if found is None else _take_apart(sifted, *found, event, fields)
        if b"if-none-match" in fields:
            fields.pop(b"if-modified-since", None)  # it is not to be heeded beside the other (RFC 9110 13.1.3)
        line = RequestLine(event.method, event.target, event.http_version)
        _check_fields(fields, line.http_10)
        if len(line.target) > limits.target_bytes_max:
            raise RequestError(414, "the target is too long")
        return Request(line, HeaderBlock(fields, line.http_10, self._selection(fields)), apart)

    def _selection(self, fields: dict[bytes, bytes]) -> Selection:
        if FETCH_MODE in self._names and any(name in fields for name in (b"sec-fetch-dest", b"sec-fetch-site")):
            fields.setdefault(FETCH_MODE, b"")
        values = [None if name is None else fields.get(name) for name in self._names]
        return Selection(Conditions(*values[:CONDITIONS]), *values[CONDITIONS:])


def _take_apart(
    block: bytes, rest: bytes, apart: Apart, event: h11.Request, fields: dict[bytes, bytes]
) -> Apart | None:
    """What was set apart, taken out of `fields`; None if there is more of it, which belongs together with it.

    rest: the header block without it.
    """
    names = [name for name, _value in event.headers]
    if any(names.count(name) != (value is not None) for name, value in zip(SET_APART, apart, strict=True)):
        return None  # a second one, or one that is spelled otherwise
    taken = list(SET_APART)
    if apart[0] is not None:
        if names.count(b"if-modified-since") != block.count(APART_NAMES[-1]) - rest.count(APART_NAMES[-1]):
            return None
        taken.append(b"if-modified-since")
    for name in taken:
        fields.pop(name, None)
    return apart


SET_APART = (b"if-none-match", b"range", b"if-range")
"""In the order of `Apart`."""
LINES_BESIDE_FIELDS = 2
"""The request line and the empty one."""
LONGEST_METHOD_AND_VERSION = 64
"""What a request line has beside its target: a method, two spaces and the version."""


def _combined(event: h11.Request) -> dict[bytes, bytes]:
    """The fields by lower-case name; repeated ones joined as a list (RFC 9110 5.2)."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in event.headers:
        fields.setdefault(name, []).append(value)
    return {name: b", ".join(values) for name, values in fields.items()}


def _check_fields(fields: dict[bytes, bytes], http_10: bool) -> None:
    """What has to hold of a header block beyond h11's own rules. Raises RequestError."""
    host = fields.get(b"host")
    if host is None and not http_10:
        raise RequestError(400, "HTTP/1.1 without a Host field")
    if host and not is_authority(host):  # an empty one is that of a target without a host (RFC 9112 3.2)
        raise RequestError(400, "a malformed Host field")
    if b"transfer-encoding" in fields:
        if b"content-length" in fields:
            raise RequestError(400, "both Content-Length and Transfer-Encoding")
        if http_10:
            raise RequestError(400, "Transfer-Encoding in HTTP/1.0")
