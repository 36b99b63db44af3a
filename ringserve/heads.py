"""What is remembered of request heads: of the request line and of the header block, each under its exact bytes.

h11 is the one parser (`request.py`). It costs 11 us for a bare head and 28 us for a browser's, so its *results* are
remembered. A browser sends the same header block for every file of a page, and every browser asks for the same paths,
so that two small tables cover their product.

Why that is sound
 1. Only a head that h11 accepted whole, and for which it consumed exactly the bytes up to and including the first
    CRLF CRLF, is remembered. Neither half contains a blank line except at its very end.
 2. h11 reads a request line by itself, and header fields by themselves; the only rule that joins the two is that
    HTTP/1.1 needs a Host, so header blocks are remembered separately for each version.
 3. What is stricter than h11 (`request.py`) looks at one half at a time as well, so its verdict is part of what is
    remembered.
 4. What follows a head with a body is never parsed (`conn.py`), so that nothing of such a head decides where the next
    one begins.
 5. Some fields make a header block like no other: what a browser asks about its copy, and which range it wants. So the
    lines of If-None-Match, If-Modified-Since, Range and If-Range are *set apart*, taken out of the block before it is
    looked up, if their values are plain: printable ASCII without spaces at the ends or two in a row.
    h11's verdict on the block without them still holds for the whole. h11 reads each field by itself, has no rule about
    these four, and takes a plain value as it is (a test holds plain values against h11). The limits of number and size
    are checked for the whole.
    A line is taken out only if two line ends follow its value, that of the line and that of the empty line. In
    `Host: a CRLF CRLF Range: bytes=0-1 CRLF` the Range stands behind the end of the head and belongs to no request;
    taken out, it would leave `Host: a CRLF CRLF`, which is a whole block.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar, Union

from ringserve.response import CRLF, Prepared
from ringserve.semantics import Conditions, Location, TargetError, locate

HEAD_END = CRLF + CRLF

REMEMBERED_LINES = 8192
"""Request lines in memory, in each of two generations. As many as a busy site has paths."""
REMEMBERED_BLOCKS = 2048
"""Header blocks in memory for each version and generation: the distinct browsers of a while, not their visits."""
REMEMBERED_BYTES_MAX = 4096
"""A longer line or block is parsed each time, so that hostile heads cannot fill the memory: 2 x (8192 + 2 x 2048)
entries of 4 KiB are the ceiling, 96 MiB, and of the 200 bytes that are usual 5 MiB."""
SELECTION_BYTES_MAX = 1024
"""Of the fields that select; a browser's have 300. A request line keeps 16 (`answers.PREPARED_PER_LINE_MAX`), so that
hostile ones can take 2 x 8192 x 16 KiB, 256 MiB; and were they as long as a head, 8 GiB."""

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """The most recently used values by key, about: two generations, of which the older is dropped when the younger
    is full.

    A lookup that hits the young generation is one dictionary lookup and moves nothing, where a strict LRU pays for
    moving the entry each time. `young` is read directly by the hot path.
    """

    __slots__ = ("_entries_max", "_key_bytes_max", "_old", "young")

    def __init__(self, entries_max: int, key_bytes_max: int = REMEMBERED_BYTES_MAX) -> None:
        self.young: dict[bytes, Value] = {}
        self._old: dict[bytes, Value] = {}
        self._entries_max = entries_max
        self._key_bytes_max = key_bytes_max

    def get(self, key: bytes) -> Value | None:
        """The value, which becomes young again, or None."""
        value = self.young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: bytes, value: Value) -> bool:
        """Remember `value`, unless its key is too long to be worth it."""
        if len(key) > self._key_bytes_max:
            return False
        if len(self.young) >= self._entries_max:
            self._old, self.young = self.young, {}
        self.young[key] = value
        return True


class Selection:
    """The fields of a request that decide which representation, and how much of it, is answered.

    Equal ones are one object (`Memory.intern`), so that a response can be looked up by identity: two hundred browsers
    whose cookies differ ask for the same thing.

    host and all after it: None also if the configuration ignores the field (`Memory`). fetch_mode: that of
        Sec-Fetch-Mode; empty if it is absent, and Sec-Fetch-Dest or Sec-Fetch-Site is not.
    is_shared: this object is the interned one. An object that is not shared must not be used as a cache key.
    """

    __slots__ = (
        "accept", "accept_encoding", "authorization", "conditions", "fetch_mode", "host", "is_shared", "origin",
    )  # fmt: skip

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
        self.is_shared = False

    def with_apart(self, apart: Apart) -> Selection:
        """The selection that has these fields beside its own."""
        if_none_match, range_, if_range = apart
        conditions = self.conditions._replace(if_none_match=if_none_match, range=range_, if_range=if_range)
        if if_none_match is not None:
            conditions = conditions._replace(if_modified_since=None)
        return Selection(
            conditions, self.accept_encoding, self.host, self.authorization, self.origin, self.accept, self.fetch_mode
        )


Key = Union["Selection", tuple["Selection", "Apart"]]
"""What a prepared response is found by: a selection, with what was set apart from it, if anything."""


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
    joinable: it may have the fields that are set apart beside its own.
    x_forwarded_for: for whom a proxy asks. client_piece: that in the access log, by the peer that said so.
    """

    __slots__ = (
        "client_piece", "has_body", "host", "joinable", "log_piece", "persistent", "plain",
        "preflight", "referer", "says_keep_alive", "selection", "user_agent", "x_forwarded_for",
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
        self.joinable = False
        self.log_piece: bytes | None = None
        self.client_piece: tuple[str, bytes] | None = None


class RequestLine:
    """A request line, and what follows from it alone.

    blocks: the memory of header blocks for this HTTP version.
    prepared: the hot path's answers to this line by the selection that came with it.
    """

    __slots__ = ("blocks", "http_10", "location", "log_piece", "method", "prepared", "target", "version")

    def __init__(self, method: bytes, target: bytes, version: bytes, blocks: Remembered[HeaderBlock]) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.http_10 = version == b"1.0"
        self.blocks = blocks
        self.prepared: dict[Key, Prepared] = {}
        self.log_piece: bytes | None = None
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
    def key(self) -> Key:
        """What its prepared response is found by."""
        selection = self.block.selection
        return selection if self.apart is None else (selection, self.apart)

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


class Memory:
    """What h11 said of the request lines and header blocks that it accepted, for all connections of a server.

    enabled: False makes every head take the general path through h11; the tests compare the two.
    heeded: those of `CONFIGURED_FIELDS` by which the configuration makes a difference; by the others none is made.
    """

    def __init__(self, enabled: bool = True, heeded: tuple[bytes, ...] = ()) -> None:
        self.enabled = enabled
        self._names = (*SELECTING_FIELDS, *(name if name in heeded else None for name in CONFIGURED_FIELDS))
        self.lines: Remembered[RequestLine] = Remembered(REMEMBERED_LINES)
        self._blocks: dict[bool, Remembered[HeaderBlock]] = {
            http_10: Remembered(REMEMBERED_BLOCKS) for http_10 in (False, True)
        }
        self._tails: Remembered[Apart] = Remembered(REMEMBERED_LINES, TAIL_BYTES_MAX)
        self._selections: Remembered[Selection] = Remembered(REMEMBERED_BLOCKS, SELECTION_BYTES_MAX)

    def join(self, line: RequestLine, block_bytes: bytes, room_bytes: int) -> tuple[HeaderBlock, Apart] | None:
        """The header block of a request and what is set apart from it, if the block without that is remembered.

        room_bytes: how long the whole block may be beside its line.
        """
        if len(block_bytes) > room_bytes:
            return None
        start = block_bytes.rfind(IF_NONE_MATCH)
        if start >= 0:
            # All browsers that have the same copy of a file end their heads in the same way.
            apart = self._tails.young.get(block_bytes[start:])
            if apart is not None:
                block = line.blocks.young.get(block_bytes[:start] + HEAD_END)
                if block is not None:
                    return (block, apart) if block.joinable else None
        found = set_apart(block_bytes)
        if found is None:
            return None
        rest, apart = found
        if start >= 0 and rest == block_bytes[:start] + HEAD_END:
            self._tails.put(block_bytes[start:], apart)
        block = line.blocks.get(rest)
        return (block, apart) if block is not None and block.joinable else None

    def blocks(self, http_10: bool) -> Remembered[HeaderBlock]:
        """Those of HTTP/1.0, or of 1.1 and later."""
        return self._blocks[http_10]

    def intern(self, fields: dict[bytes, bytes]) -> Selection:
        """The one selection object for these fields."""
        if FETCH_MODE in self._names and any(name in fields for name in (b"sec-fetch-dest", b"sec-fetch-site")):
            fields.setdefault(FETCH_MODE, b"")
        values = tuple(None if name is None else fields.get(name) for name in self._names)
        key = repr(values).encode()
        selection = self._selections.get(key)
        if selection is None:
            selection = Selection(Conditions(*values[:CONDITIONS]), *values[CONDITIONS:])
            selection.is_shared = self._selections.put(key, selection)
        return selection


APART_NAMES = (b"\r\nIf-None-Match: ", b"\r\nRange: ", b"\r\nIf-Range: ", b"\r\nIf-Modified-Since: ")
"""As browsers write them; what is spelled otherwise stays where it is."""
APART_BYTES_MAX = 128
"""Longer values are left in their block: what is prepared is kept by them, and a tag of ours has 40 bytes."""
_PLAIN_VALUE = re.compile(rb"[!-~]+(?: [!-~]+)*")

IF_NONE_MATCH, _RANGE, IF_RANGE, _IF_MODIFIED_SINCE = APART_NAMES
TAIL_BYTES_MAX = 512
"""Of the end of a head that consists of what is set apart."""
Apart = tuple[bytes | None, bytes | None, bytes | None]
"""The values of If-None-Match, Range and If-Range that were set apart. If-Modified-Since is not among them: it says
nothing beside If-None-Match (RFC 9110 13.1.3), and without that it is not set apart."""


def set_apart(block: bytes) -> tuple[bytes, Apart] | None:
    """A header block without the fields that are set apart, and their values; None if it has none of them."""
    values: list[bytes | None] = []
    rest = block
    for name in APART_NAMES[:-1]:
        # One search for two: If-Range is nothing without Range.
        rest, value = (rest, None) if name == IF_RANGE and values[1] is None else _take_out(rest, name)
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


@lru_cache(REMEMBERED_LINES)
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
