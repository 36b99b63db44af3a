"""What is parsed of a request's head: its request line, its header block, and what of them decides an answer.

h11 is the one parser (`request.py`) of all that decides. Its results are remembered (`remembered.py`) under the bytes
that they follow from. So that these bytes come again, what decides nothing is taken out of them first (`sieve`), and
what makes a header block like no other is *set apart* (`set_apart`).

Why taking out is sound. A head is a request line, field lines, and an empty line, which is its end.
 1. A line is taken out if it is a whole one: `name: value` with CRLF, where the name is a token that is not kept, and
    the value has no control character but the tab. h11 takes each such line wherever it stands: it reads field lines
    one by one, and has rules about names that are kept only (`KEPT_FIELDS`). A property test holds this against h11.
 2. All other lines stay, in their order: those of kept names, and whatever is odd. So doubles of what decides are still
    doubles, and a folded line, a bare CR or LF, or a control character is in what is left. What is left is looked up by
    its exact bytes, and those were once accepted by h11: none of these is in there.
 3. So the lines that were taken out stand between lines of a good head. None of them is behind its end, because what is
    looked up ends with the first empty line (`Memory.recall` looks for that).
 4. Our own limits of size and of number are checked with the whole.
A request line that says GET or HEAD, a target of visible characters, and HTTP/1.1, is one for h11 as well
(`PLAIN_LINE`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from ringserve.http.response import CRLF
from ringserve.http.semantics import NO_FRAGMENT, PLAIN_SEGMENTS, Conditions, Location, TargetError, locate

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
    """

    __slots__ = ("has_body", "persistent", "plain", "preflight", "says_keep_alive", "selection")

    def __init__(self, fields: dict[bytes, bytes], http_10: bool, selection: Selection) -> None:
        connection = fields.get(b"connection", b"")
        self.says_keep_alive = http_10 and _KEEP_ALIVE.search(connection) is not None
        self.persistent = not _CLOSE.search(connection) and (not http_10 or self.says_keep_alive)
        self.has_body = b"transfer-encoding" in fields or fields.get(b"content-length", b"").strip(b"0") != b""
        self.plain = not self.says_keep_alive and not self.has_body
        method = fields.get(b"access-control-request-method")
        self.preflight = None if method is None else Preflight(method, fields.get(b"access-control-request-headers"))
        self.selection = selection


class Told(NamedTuple):
    """What a header block tells and nothing is decided by: for the log, and for who asks through a proxy."""

    host: bytes | None = None
    referer: bytes | None = None
    user_agent: bytes | None = None
    x_forwarded_for: bytes | None = None


_TOLD = re.compile(rb"\n(host|referer|user-agent|x-forwarded-for):[ \t]*+([^\r]*)", re.IGNORECASE)


def told_of(header_bytes: bytes) -> Told:
    """What is told by a header block that h11 accepted, read when it is needed: a few microseconds, which a request
    that is not logged does not pay.
    """
    found: dict[bytes, bytes] = {}
    for name, value in _TOLD.findall(b"\n" + header_bytes):
        name, value = name.lower(), value.rstrip(b" \t")
        found[name] = b"%s, %s" % (found[name], value) if name in found else value  # a list (RFC 9110 5.2)
    return Told(*map(found.get, (b"host", b"referer", b"user-agent", b"x-forwarded-for")))


PLAIN_FILE_LINE = re.compile(rb"(GET|HEAD) (%s) HTTP/1\.1\r" % PLAIN_SEGMENTS)
"""Of one that stands for itself, and for no directory: its method and its target, which is a slash and a path."""
PLAIN_LINE = re.compile(rb"(?:GET|HEAD) /[!-\"$-~]*+ HTTP/1\.1\r")


class RequestLine:
    """A request line, and what follows from it alone.

    target: whole, for the log. asked: without its query. query_heeded: an answer was made of the query too. One that
    was not is the answer to every query, so whoever makes answers asks for `query`, and never for `target`.
    """

    __slots__ = ("_location", "_query", "asked", "http_10", "method", "query_heeded", "target", "version")

    def __init__(self, method: bytes, target: bytes, version: bytes) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.http_10 = version == b"1.0"
        self.asked, mark, query = target.partition(b"?")
        self._query = mark + query
        self.query_heeded = False
        self._location: Location | TargetError | None = None

    @property
    def query(self) -> bytes:
        """What follows the path of the target, with its question mark, or nothing."""
        self.query_heeded = True
        return self._query

    @property
    def location(self) -> Location | TargetError:
        """Where the target points, whatever its query."""
        location = self._location
        if location is None:
            try:
                location = locate(self.asked)
                if b"#" in self._query:
                    raise TargetError(NO_FRAGMENT)
            except TargetError as error:
                location = error
            self._location = location
        return location


class Request(NamedTuple):
    """One request's head. apart: what was set apart from its header block, if anything. header_bytes: that block."""

    line: RequestLine
    block: HeaderBlock
    apart: Apart | None = None
    header_bytes: bytes = b""

    @property
    def told(self) -> Told:
        """What the header block tells."""
        return told_of(self.header_bytes)

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

KEPT_FIELDS = (
    b"host", b"connection", b"content-length", b"transfer-encoding", b"expect", b"upgrade", *SELECTING_FIELDS,
)  # fmt: skip
"""Those that decide an answer whatever is configured, and those that h11 has rules about."""
_KEPT_WITH = {
    b"origin": (b"access-control-request-method", b"access-control-request-headers"),
    FETCH_MODE: (b"sec-fetch-dest", b"sec-fetch-site"),
}
"""What is read of a request because a field is heeded."""
_NAME_BYTES = rb"-!#$%&'*+.^_`|~0-9A-Za-z"


def sieve(heeded: Iterable[bytes] = ()) -> Callable[[bytes], list[bytes]]:
    """What finds the parts of a header block that stay, in order, where fields that decide nothing are taken out.

    heeded: those of `CONFIGURED_FIELDS` that the configuration reads. One expression, since a loop over the lines costs
    three times as much: each match is a run of lines that are taken out, or one that stays.
    """
    names = {*KEPT_FIELDS, *heeded, *(name for each in heeded for name in _KEPT_WITH.get(each, ()))}
    initials = b"".join(sorted({name[:1] + name[:1].upper() for name in names}))
    other_initials = bytes(
        byte for byte in range(0x21, 0x7F) if re.match(rb"[%s]" % _NAME_BYTES, bytes((byte,))) and byte not in initials
    )
    # Most names begin like none that is kept, which one look into a set tells.
    name = rb"(?:[%s]|(?!(?i:%s):)[%s])[%s]*+" % (
        re.escape(other_initials), _as_tree(sorted(names)), _NAME_BYTES, _NAME_BYTES,
    )  # fmt: skip
    expression = rb"(?:%s:[\t -~\x80-\xff]*+\r\n)++|([^\n]*+\n)" % name
    return re.compile(expression).findall


def _as_tree(words: list[bytes]) -> bytes:
    """An expression for any of the words, in which each letter that several begin with is tried once."""
    branches = []
    for initial, group in groupby(words, lambda word: word[:1]):
        rests = [word[1:] for word in group]
        branches.append(re.escape(initial) + (_as_tree(rests) if any(rests) else b""))
    return b"(?:%s)" % b"|".join(branches)
