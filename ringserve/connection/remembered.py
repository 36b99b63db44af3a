"""What is remembered of requests: of the request line and of the header block, each under its bytes, and what hangs on
them.

h11 is the one parser (`request.py`). It costs 11 us for a bare head and 28 us for a browser's, so its *results* are
remembered. A browser sends the same header block for every file of a page, and every browser asks for the same paths,
so that two small tables cover their product. The answers that were prepared, and pieces of log lines, are kept with
what is remembered.

A header block is looked up twice: as it came, and then without what decides nothing (`heads.sieve`) and what is set
apart (`heads.set_apart`). A request with an id or a cookie of its own is found at the second look, which costs 4 us. A
block that comes again is found at the first one from then on.

Why that is sound
 1. Only a head that h11 accepted whole, and for which it consumed exactly the bytes up to and including the first
    CRLF CRLF, is remembered. Neither half contains a blank line except at its very end.
 2. h11 reads a request line by itself, and header fields by themselves; the only rule that joins the two is that
    HTTP/1.1 needs a Host, so header blocks are remembered separately for each version.
 3. What is stricter than h11 (`request.py`) looks at one half at a time as well, so its verdict is part of what is
    remembered.
 4. What follows a head with a body is never parsed (`conn.py`), so that nothing of such a head decides where the next
    one begins.
 5. What is taken out of a block changes no verdict on the rest (`heads.py`). The rest was accepted by h11 as part of a
    whole head, and the limits of number and size are checked for the whole that came.
 6. Some fields make a header block like no other: what a browser asks about its copy, and which range it wants. So the
    lines of If-None-Match, If-Modified-Since, Range and If-Range are *set apart*, if their values are plain: printable
    ASCII without spaces at the ends or two in a row. h11 has no rule about these four, and takes a plain value as it is
    (a test holds plain values against h11).
 7. A request line that is new is taken without h11 if it is plain (`heads.PLAIN_LINE`). Lines with the same path share
    the answers that were made without the query (`RequestLine.query_heeded`).
"""

from __future__ import annotations

from typing import Generic, TypeVar
from zlib import crc32

from ringserve.connection.prepared import Prepared, PreparedResponses
from ringserve.files.entries import Entry, Key
from ringserve.http.heads import (
    HEAD_END,
    IF_NONE_MATCH,
    PLAIN_LINE,
    Apart,
    HeaderBlock,
    Request,
    RequestLine,
    Selection,
    set_apart,
)
from ringserve.http.request import Parser
from ringserve.http.response import Response

LINES_SHARE = 2
"""Request lines may take one part of as many of what prepared responses may."""
LINE_BYTES = 520
"""What a request line takes in memory beside its own bytes, with a dictionary of one answer and a piece of the log."""
BLOCKS_BYTES = 4 * 1024 * 1024
"""For the header blocks of a version, as they came, and as much without what decides nothing: the distinct browsers of
a while, not their visits."""
BLOCK_BYTES = 760
"""What a header block takes beside its own bytes, with what h11 said of it and a selection of its own."""
KEY_BYTES_MAX = 4096
"""A longer line or block is looked at each time: what hostile heads fill the memory with goes sooner."""
SELECTIONS_BYTES = 2 * 1024 * 1024
SELECTION_BYTES_MAX = 1024
"""Of the fields that select; a browser's have 300. A request line keeps 16 (`PREPARED_PER_LINE_MAX`)."""
TAILS_BYTES = 4 * 1024 * 1024
TAIL_BYTES = 360
"""For the ends of heads that are set apart, and what one takes beside its own bytes. `tests/connection/test_counted.py`
holds these figures against what tracemalloc says."""
SEEN = 4096
"""Of so many keys it is known whether they came before. One that comes once is not worth being remembered whole."""
PREPARED_PER_LINE_MAX = 16
"""Selections remembered with a request line: the kinds of browsers there are, not their number. What is remembered is
a reference, since those that get the same answer share it."""

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """The most recently used values by key, about: two generations, of which the older is dropped when the younger
    has half of the memory.

    A lookup that hits the recent generation is one dictionary lookup and moves nothing, where a strict LRU pays for
    moving the entry each time. `recent` and `old` are read directly by `Memory`.

    bytes_max: for all keys and values. value_bytes: what a value is counted as, with its places in dictionaries.
    """

    __slots__ = ("_bytes", "_generation_bytes_max", "_key_bytes_max", "_value_bytes", "old", "recent")

    def __init__(self, bytes_max: int, value_bytes: int, key_bytes_max: int = KEY_BYTES_MAX) -> None:
        self.recent: dict[bytes, Value] = {}
        self.old: dict[bytes, Value] = {}
        self._bytes = 0
        self._generation_bytes_max = bytes_max // 2
        self._value_bytes = value_bytes
        self._key_bytes_max = key_bytes_max

    def get(self, key: bytes) -> Value | None:
        """The value, which becomes recent again, or None."""
        value = self.recent.get(key)
        if value is None:
            value = self.old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: bytes, value: Value) -> bool:
        """Remember `value`, unless its key is too long to be worth it."""
        key_bytes = len(key)
        if key_bytes > self._key_bytes_max:
            return False
        self._bytes += key_bytes + self._value_bytes  # of a key that is there already too: it happens seldom
        if self._bytes > self._generation_bytes_max:
            self.old, self.recent = self.recent, {}
            self._bytes = key_bytes + self._value_bytes
        self.recent[key] = value
        return True


class KnownBlock:
    """A header block, and what is remembered with it.

    header_bytes: as it came, for the log; of a block that several share, as it came first.
    joinable: it may have the fields that are set apart beside its own.
    selection, plain, persistent: those of the block, as near as the hot path needs them.
    log_piece: in the access log. client_piece: the client that it names there, by the peer that said so.
    """

    __slots__ = (
        "block", "client_piece", "header_bytes", "joinable", "log_piece", "persistent", "plain", "selection",
    )  # fmt: skip

    def __init__(self, block: HeaderBlock, header_bytes: bytes, joinable: bool) -> None:
        self.block = block
        self.header_bytes = header_bytes
        self.joinable = joinable
        self.selection = block.selection
        self.plain = block.plain
        self.persistent = block.persistent
        self.log_piece: bytes | None = None
        self.client_piece: tuple[str, bytes] | None = None


class Blocks:
    """Header blocks that came with one version. whole: as they came. sifted: without what decides nothing."""

    __slots__ = ("sifted", "whole")

    def __init__(self) -> None:
        self.whole: Remembered[tuple[KnownBlock, Apart | None]] = Remembered(BLOCKS_BYTES, BLOCK_BYTES)
        self.sifted: Remembered[KnownBlock] = Remembered(BLOCKS_BYTES, BLOCK_BYTES)


AnswerKey = Selection | tuple[Selection, Apart]
"""What a prepared response is found by: a selection, with what was set apart from it, if anything."""


class KnownLine:
    """A request line, and what is remembered with it.

    line_bytes: as it came, but for its last byte. blocks: those of its HTTP version. log_piece: in the access log.
    prepared: the answers to it. shared: those that are answers whatever the query. They are the same dictionary until
    an answer to this line heeds its query. came_before: it got the answer that all missing names share.
    is_streamed: the last answer to it was not all in memory.
    """

    __slots__ = (
        "_is_plain",
        "_line",
        "blocks",
        "came_before",
        "is_streamed",
        "line_bytes",
        "log_piece",
        "prepared",
        "shared",
    )

    def __init__(
        self, line_bytes: bytes, blocks: Blocks, shared: dict[AnswerKey, Prepared], line: RequestLine | None = None
    ) -> None:
        self.line_bytes = line_bytes
        self.blocks = blocks
        self.shared = self.prepared = shared
        self.came_before = self.is_streamed = False
        self.log_piece: bytes | None = None
        self._is_plain = line is None
        self._line = line

    @property
    def line(self) -> RequestLine:
        """What it says. That of a plain one is made when it is needed, which an answer from memory does not."""
        line = self._line
        if line is None:
            method, target, _version = self.line_bytes.split(b" ")
            line = self._line = RequestLine(method, target, b"1.1")
        return line

    def forget(self) -> None:
        """Drop what can be made again."""
        if self._is_plain:
            self._line = None


KnownHead = tuple[KnownLine, KnownBlock, Apart | None]
"""The head of a request: its line, its block, and what was set apart from that. A plain tuple, because to make one with
names costs as much as to find a response."""


def request_of(head: KnownHead) -> Request:
    """The request, as far as an answer depends on it."""
    line, block, apart = head
    return Request(line.line, block.block, apart, block.header_bytes)


def key_of(head: KnownHead) -> AnswerKey:
    """What its prepared response is found by. (The hot path has this by itself.)"""
    _line, block, apart = head
    return block.selection if apart is None else (block.selection, apart)


class Memory:
    """What is remembered of the heads that h11 accepted, for all connections of a listener.

    enabled: False makes every head go through h11; the tests compare the two. tells: what header blocks tell beside
    what decides is asked for, by a log, or for whom a proxy asks.
    """

    def __init__(
        self, parser: Parser, prepared: PreparedResponses, *, enabled: bool = True, tells: bool = True
    ) -> None:
        self.enabled = enabled
        self._tells = tells
        self._parser = parser
        self._prepared = prepared
        self._limits = parser.limits
        self._line_bytes_max = parser.limits.target_bytes_max + len(b"GET  HTTP/1.1\r")
        self._sieve = parser.sieve
        self.lines: Remembered[KnownLine] = Remembered(prepared.bytes_max // LINES_SHARE, LINE_BYTES)
        self.blocks_10 = Blocks()
        self.blocks = Blocks()
        """Those of HTTP/1.1 and later."""
        self._seen = [0] * SEEN
        self._tails: Remembered[Apart] = Remembered(TAILS_BYTES, TAIL_BYTES)
        self._selections: Remembered[Selection] = Remembered(SELECTIONS_BYTES, SELECTION_BYTES_MAX, SELECTION_BYTES_MAX)

    def recall(self, head: bytes) -> KnownHead | None:
        """What is remembered of exactly this head; None if that is not all of it."""
        line_bytes, _end, block_bytes = head.partition(b"\n")  # 190 ns less than to find and to slice
        line = self.lines.recent.get(line_bytes)
        blocks = self.blocks if line is None else line.blocks
        known = blocks.whole.recent.get(block_bytes)
        if known is None:
            known = self._sift(blocks, head, block_bytes)
            if known is None:
                return None
        if line is None:
            line = self._new_line(line_bytes)
            if line is None:
                return None
        return line, known[0], known[1]

    def _sift(self, blocks: Blocks, head: bytes, block_bytes: bytes) -> tuple[KnownBlock, Apart | None] | None:
        """The block, if what is left of it is remembered, and what was set apart from it."""
        limits = self._limits
        if (
            not self.enabled
            or head.find(HEAD_END) != len(head) - len(HEAD_END)
            or len(head) > limits.head_bytes_max
            or block_bytes.count(b"\n") - 1 > limits.fields_max
        ):
            return None
        start = block_bytes.rfind(IF_NONE_MATCH)
        bare = block_bytes[:start] + HEAD_END if start >= 0 else b""
        if bare:
            revalidating = self._before_tail(blocks, block_bytes, bare)
            if revalidating is not None:
                return revalidating
        rest = b"".join(self._sieve(block_bytes))
        found = set_apart(rest)
        block, apart = None, None
        if found is not None:
            block, apart = blocks.sifted.get(found[0]), found[1]
        if block is None or not block.joinable:
            block, apart = blocks.sifted.get(rest), None
        if block is None:
            return None
        if self._tells:
            block = KnownBlock(block.block, block_bytes, block.joinable)
        known = block, apart
        if self._came_before(block_bytes):
            blocks.whole.put(block_bytes, known)
        elif bare and apart is not None and self._came_before(bare) and self._tail(block_bytes, bare) is not None:
            blocks.whole.put(bare, (block, None))
        return known

    def _before_tail(self, blocks: Blocks, block_bytes: bytes, bare: bytes) -> tuple[KnownBlock, Apart] | None:
        """The block before its If-None-Match, if it is remembered as it came, and what is set apart behind it. All
        browsers that have the same copy of a file end their heads in the same way, so the two are known apart.
        """
        known = blocks.whole.recent.get(bare)
        if known is None or known[1] is not None or not known[0].joinable:
            return None
        apart = self._tail(block_bytes, bare)
        return None if apart is None else (known[0], apart)

    def _tail(self, block_bytes: bytes, bare: bytes) -> Apart | None:
        """What is set apart from a block, if nothing else is behind `bare`."""
        tail = block_bytes[len(bare) - len(HEAD_END) :]
        apart = self._tails.recent.get(tail)
        if apart is None:
            found = set_apart(block_bytes)
            if found is None or found[0] != bare:
                return None
            apart = found[1]
            self._tails.put(tail, apart)
        return apart

    def _came_before(self, key: bytes) -> bool:
        """Whether a key came before, and not long ago."""
        code = crc32(key)  # and no hash, which is another in each process
        slot = code % SEEN
        if self._seen[slot] == code:
            return True
        self._seen[slot] = code
        return False

    def _new_line(self, line_bytes: bytes) -> KnownLine | None:
        """What is remembered of a line of HTTP/1.1 that did not come lately, or is plain."""
        lines = self.lines
        line = lines.old.get(line_bytes)
        if line is not None:
            if line.blocks is not self.blocks:
                return None
            lines.put(line_bytes, line)
            return line
        if PLAIN_LINE.fullmatch(line_bytes) is None or len(line_bytes) > self._line_bytes_max:
            return None
        mark = line_bytes.find(b"?")
        if mark < 0:
            line = KnownLine(line_bytes, self.blocks, {})
            lines.put(line_bytes, line)
            return line
        path_bytes = line_bytes[:mark] + b" HTTP/1.1\r"
        of_path = lines.recent.get(path_bytes) or self._new_line(path_bytes)
        assert of_path is not None, "a plain line is one without its query too"
        line = KnownLine(line_bytes, self.blocks, of_path.shared)
        if self._came_before(line_bytes):
            lines.put(line_bytes, line)
        return line

    def read(self, head: bytes) -> KnownHead:
        """What is remembered of a whole head, or what h11 says of it, which is remembered. Raises RequestError."""
        if not self.enabled:
            return self._unknown(self._parser.parse(head), *head.split(b"\n", 1))
        known = self.recall(head)
        if known is not None:
            return known
        line_bytes, _end, block_bytes = head.partition(b"\n")
        rest = b"".join(self._sieve(block_bytes))
        found = set_apart(rest)
        request = self._parser.parse(head, rest, found)
        selection = self._interned(request.block.selection)
        if selection is None:
            return self._unknown(request, line_bytes, block_bytes)
        request.block.selection = selection
        conditions = selection.conditions
        joinable = conditions.if_none_match is None and conditions.range is None and conditions.if_range is None
        block = KnownBlock(request.block, block_bytes, joinable)
        blocks = self.blocks_10 if request.line.http_10 else self.blocks
        line = self.lines.get(line_bytes) or (None if request.line.http_10 else self._new_line(line_bytes))
        if line is None:
            line = KnownLine(line_bytes, blocks, {}, request.line)
            self.lines.put(line_bytes, line)
        self._came_before(block_bytes)
        blocks.sifted.put(rest if found is None or request.apart is None else found[0], block)
        return line, block, request.apart

    def _unknown(self, request: Request, line_bytes: bytes, block_bytes: bytes) -> KnownHead:
        """A head of which nothing is found again: what is kept with its line goes with it."""
        blocks = self.blocks_10 if request.line.http_10 else self.blocks
        line = KnownLine(line_bytes, blocks, {}, request.line)
        return line, KnownBlock(request.block, block_bytes, joinable=False), request.apart

    def _interned(self, selection: Selection) -> Selection | None:
        """The one object for all selections that are equal, so that a response can be looked up by identity: two
        hundred browsers whose cookies differ ask for the same thing. None for one that is too long to be kept.
        """
        key = repr(selection.values()).encode()
        known = self._selections.get(key)
        if known is None and self._selections.put(key, selection):
            known = selection
        return known

    def of_its_own(self, response: Response, looked_at: dict[Entry, Key]) -> Prepared:
        """A response that no request line and no bound of the others knows of."""
        return self._prepared.of_its_own(response, looked_at)

    def prepare(self, head: KnownHead, response: Response, looked_at: dict[Entry, Key]) -> Prepared:
        """The response as it answers every request with this line and selection while what was looked at is fresh; and
        with every query, if it does not heed that.
        """
        line = head[0]
        if line.line.query_heeded and line.prepared is line.shared:
            line.prepared = {}
        if len(line.prepared) >= PREPARED_PER_LINE_MAX:
            line.prepared.clear()
        prepared = line.prepared[key_of(head)] = self._prepared.share(response, looked_at)
        line.forget()
        return prepared
