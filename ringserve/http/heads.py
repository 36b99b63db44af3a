"""What is parsed of a request's head: its request line, its header block, and what of them decides an answer.

h11 is the one parser (`request.py`). What is remembered of its results is elsewhere (`remembered.py`), and is why some
fields are *set apart* (`set_apart`): they make a header block like no other.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from ringserve.http.response import CRLF
from ringserve.http.semantics import Conditions, Location, TargetError, locate

HEAD_END = CRLF + CRLF


class Selection:
    """The fields of a request that decide which representation, and how much of it, is answered.

    host and all after it: None also if the configuration ignores the field (`Parser`). fetch_mode: that of
        Sec-Fetch-Mode; empty if it is absent, and Sec-Fetch-Dest or Sec-Fetch-Site is not.
    """

    __slots__ = ("accept", "accept_encoding", "authorization", "conditions", "fetch_mode", "host", "origin")

    def __init__(
        self,
        conditions: Conditions,
        accept_encoding: bytes | None,
        host: bytes | None = None,
        authorization: bytes | None = None,
        origin: bytes | None = None,
        accept: bytes | None = None,
        fetch_mode: bytes | None = None,
    ) -> None:
        self.conditions = conditions
        self.accept_encoding = accept_encoding
        self.host = host
        self.authorization = authorization
        self.origin = origin
        self.accept = accept
        self.fetch_mode = fetch_mode

    def values(self) -> tuple[bytes | None, ...]:
        """All of it; equal ones have equal values."""
        return (
            *self.conditions, self.accept_encoding, self.host, self.authorization, self.origin, self.accept,
            self.fetch_mode,
        )  # fmt: skip

    def with_apart(self, apart: Apart) -> Selection:
        """The selection that has these fields beside its own."""
        if_none_match, range_, if_range = apart
        conditions = self.conditions._replace(if_none_match=if_none_match, range=range_, if_range=if_range)
        if if_none_match is not None:
            conditions = conditions._replace(if_modified_since=None)
        return Selection(conditions, *self.values()[CONDITIONS:])


class Preflight(NamedTuple):
    """What a browser asks before a script of another origin may send a request."""

    method: bytes
    field_names: bytes | None


_CLOSE, _KEEP_ALIVE = (
    re.compile(rb"(?:\A|,)[ \t]*+" + token + rb"[ \t]*+(?:,|\Z)", re.IGNORECASE) for token in (b"close", b"keep-alive")
)
"""A token of Connection. Looked for and not split: there may be 15,000 others."""


class HeaderBlock:
    """The header fields of a head, as far as a static server heeds them.

    persistent: whether the peer wants the connection to go on after this request (RFC 9112 9.3).
    says_keep_alive: an HTTP/1.0 peer asked for it, and expects to be told.
    has_body: bytes follow that are no request. How they are framed (RFC 9112 6.3) does not matter: none is parsed.
    plain: nothing beside `selection` and `persistent` bears on the response, so that a prepared one may answer.
    x_forwarded_for: for whom a proxy asks.
    """

    __slots__ = (
        "has_body", "host", "persistent", "plain", "preflight", "referer", "says_keep_alive", "selection", "user_agent",
        "x_forwarded_for",
    )  # fmt: skip

    def __init__(self, fields: dict[bytes, bytes], http_10: bool, selection: Selection) -> None:
        connection = fields.get(b"connection", b"")
        self.says_keep_alive = http_10 and _KEEP_ALIVE.search(connection) is not None
        self.persistent = not _CLOSE.search(connection) and (not http_10 or self.says_keep_alive)
        self.has_body = b"transfer-encoding" in fields or fields.get(b"content-length", b"").strip(b"0") != b""
        self.plain = not self.says_keep_alive and not self.has_body
        self.host = fields.get(b"host")
        self.referer = fields.get(b"referer")
        self.user_agent = fields.get(b"user-agent")
        self.x_forwarded_for = fields.get(b"x-forwarded-for")
        method = fields.get(b"access-control-request-method")
        self.preflight = None if method is None else Preflight(method, fields.get(b"access-control-request-headers"))
        self.selection = selection


class RequestLine:
    """A request line, and what follows from it alone."""

    __slots__ = ("http_10", "location", "method", "target", "version")

    def __init__(self, method: bytes, target: bytes, version: bytes) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.http_10 = version == b"1.0"
        self.location: Location | TargetError
        try:
            self.location = locate(target)
        except TargetError as error:
            self.location = error


class Request(NamedTuple):
    """One request's head. apart: what was set apart from its header block, if anything."""

    line: RequestLine
    block: HeaderBlock
    apart: Apart | None = None

    @property
    def asked_range(self) -> bytes | None:
        """The value of Range."""
        return self.block.selection.conditions.range if self.apart is None else self.apart[1]

    @property
    def selection(self) -> Selection:
        """That of its header block, with what was set apart from it."""
        selection = self.block.selection
        return selection if self.apart is None else selection.with_apart(self.apart)

    @property
    def is_head(self) -> bool:
        """Whether the response has to go without its body."""
        return self.line.method == b"HEAD"


APART_NAMES = (b"\r\nIf-None-Match: ", b"\r\nRange: ", b"\r\nIf-Range: ", b"\r\nIf-Modified-Since: ")
"""As browsers write them; what is spelled otherwise stays where it is."""
APART_BYTES_MAX = 128
"""Longer values are left in their block: what is prepared is kept by them, and a tag of ours has 40 bytes."""
PLAIN_VALUES_MAX = 8192
"""Values of which it is remembered whether they are plain."""
_PLAIN_VALUE = re.compile(rb"[!-~]+(?: [!-~]+)*")

IF_NONE_MATCH, _RANGE, _IF_RANGE, _IF_MODIFIED_SINCE = APART_NAMES
Apart = tuple[bytes | None, bytes | None, bytes | None]
"""The values of If-None-Match, Range and If-Range that were set apart. If-Modified-Since is not among them: it says
nothing beside If-None-Match (RFC 9110 13.1.3), and without that it is not set apart."""


def set_apart(block: bytes) -> tuple[bytes, Apart] | None:
    """A header block without the fields that are set apart, and their values; None if it has none of them."""
    values: list[bytes | None] = []
    rest = block
    for name in APART_NAMES[:-1]:
        # One search for two: If-Range is nothing without Range.
        rest, value = (rest, None) if name == _IF_RANGE and values[1] is None else _take_out(rest, name)
        values.append(value)
    if values[0] is not None:
        rest, _unheeded = _take_out(rest, APART_NAMES[-1])
    return None if len(rest) == len(block) else (rest, (values[0], values[1], values[2]))


def _take_out(block: bytes, name: bytes) -> tuple[bytes, bytes | None]:
    """The block without a field, and the field's value; the block as it is and None if it does not have it, or not so
    that it can be taken out.
    """
    start = block.rfind(name)  # from the end, where browsers and load generators put what they add
    if start < 0:
        return block, None
    end = block.find(CRLF, start + len(CRLF))
    value = block[start + len(name) : end]
    if end < 0 or len(block) - end < len(HEAD_END) or len(value) > APART_BYTES_MAX or not _is_plain(value):
        return block, None
    return block[:start] + block[end:], value


@lru_cache(PLAIN_VALUES_MAX)
def _is_plain(value: bytes) -> bool:
    """The same values come again and again, and a match takes half a microsecond."""
    return _PLAIN_VALUE.fullmatch(value) is not None


SELECTING_FIELDS = (
    b"if-match",
    b"if-none-match",
    b"if-modified-since",
    b"if-unmodified-since",
    b"range",
    b"if-range",
    b"accept-encoding",
)
"""In the order of `Conditions`, and then what negotiation reads."""
CONDITIONS = len(Conditions._fields)
FETCH_MODE = b"sec-fetch-mode"
CONFIGURED_FIELDS = (b"host", b"authorization", b"origin", b"accept", FETCH_MODE)
"""In the order of `Selection`."""
