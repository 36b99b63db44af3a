"""Answers that were prepared: whole responses in memory, for whoever asks for the same again."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Protocol

from ringserve.files.entries import Entry, Freshness, Key
from ringserve.http.response import CRLF, Response, head_parts
from ringserve.observe.responses import Outcome
from ringserve.ring.world import Pinned

PREPARED_PER_PATH_MAX = 32
"""Prepared responses of a path: the combinations of conditional fields that clients really send are few."""
PREPARED_BYTES = 640
"""What a prepared response takes beside its head and its body: the object, and its places in tables."""
RENDERINGS_SHARE = 4
"""Of what prepared responses may take, one part of as many is for renderings, in which a body is a second time."""


class Fresh(Protocol):
    """Tells until when something may be answered from memory (`Freshness`)."""

    @property
    def until(self) -> float:
        """By the ring's clock; 0 if never again."""


class FreshTogether:
    """The freshness of what several entries were looked at for: it ends with the first of theirs."""

    __slots__ = ("_first", "_others")

    def __init__(self, first: Freshness, *others: Freshness) -> None:
        self._first = first
        self._others = others

    @property
    def until(self) -> float:
        """See `Fresh`."""
        until = self._first.until
        for each in self._others:  # 0.4 us less than by `min` of a list
            if each.until < until:
                until = each.until
        return until


class Prepared(Outcome):
    """A whole response in memory, and the rendering of it with the Date of the second. The time-dependent line is kept
    apart, so that the bytes are put together once a second and not once a request.

    It holds the freshness of the entries that it was made from, which tells whether it is still true, and not the
    entries, which may hold more bytes than it does. The body is that of a file, mostly, and shared with its entry.

    before, after: its head but for the Date line, and for a Connection field before the empty line.
    keys, made_from: of the entries that were looked at for it: where they are, and their freshness.
    memory_bytes: what it counts for, retired or not, without its renderings.
    data, pinned: its rendering of `second`. is_kept: `Renderings` knows that there is one.
    """

    __slots__ = (
        "_last", "_last_second", "_renderings", "after", "before", "body", "body_bytes", "data", "freshness", "is_kept",
        "keys",
        "made_from", "memory_bytes", "pinned", "second",
    )  # fmt: skip

    def __init__(
        self, response: Response, server: bytes, looked_at: Mapping[Entry, Key], renderings: Renderings
    ) -> None:
        super().__init__(response.status, response.coding)
        self.before, self.after = head_parts(response, server, None)
        body = [segment for segment in response.body if isinstance(segment, bytes)]
        self.body = body[0] if len(body) == 1 else b"".join(body)
        self.body_bytes = len(self.body)
        self.memory_bytes = PREPARED_BYTES + len(self.after) + self.body_bytes
        self.keys = tuple(looked_at.values())
        self.made_from = tuple(entry.freshness for entry in looked_at)
        self.freshness: Fresh = self.made_from[0] if len(self.made_from) == 1 else FreshTogether(*self.made_from)
        self._renderings = renderings
        self.is_kept = False
        self.second = self._last_second = -1
        self.data = b""
        self.pinned: Pinned | None = None
        self._last: Pinned | None = None

    def says_the_same(self, other: Prepared) -> bool:
        """Whether it is the same response, made from the same."""
        return (
            self.after == other.after
            and self.before == other.before
            and self.made_from == other.made_from
            and self.body == other.body
        )

    def render(self, second: int, date: bytes, pin: Callable[[bytes], Pinned]) -> Pinned:
        """The bytes with this second's Date. The earlier ones live on for as long as a send refers to them."""
        self.data = self.rendered(date)
        self.pinned = pinned = pin(self.data)
        self.second = second
        self._renderings.keep(self)
        return pinned

    def render_last(self, second: int, date: bytes, pin: Callable[[bytes], Pinned]) -> Pinned:
        """As `render`, for a client that wants no more: `Connection: close` is the last field."""
        last = self._last
        if last is None or self._last_second != second:
            self._last = last = pin(self.rendered(date, b"close"))
            self._last_second = second
            self._renderings.keep(self)
        return last

    def rendered(self, date: bytes, connection: bytes | None = None) -> bytes:
        """The bytes with a Date line, and with a Connection field if there is a value for it."""
        if connection is None:
            return b"".join((self.before, date, self.after, self.body))
        field = b"Connection: %s\r\n\r\n" % connection
        return b"".join((self.before, date, self.after[: -len(CRLF)], field, self.body))

    def cool(self) -> None:
        """Drop its renderings: a send in flight has its own reference to what it sends."""
        self.is_kept = False
        self.second = self._last_second = -1
        self.data = b""
        self.pinned = self._last = None

    def retire(self) -> None:
        """Never answer again, and give the memory back: request lines may refer to this for long after its file is
        forgotten, and must not keep the file's bytes.
        """
        self.freshness = NEVER
        self.keys, self.made_from = (), ()
        self.after = self.body = b""
        self.cool()


class Renderings:
    """Which responses are rendered, in the order in which they were. bytes_max: for all of them."""

    def __init__(self, bytes_max: int) -> None:
        self._kept: deque[tuple[Prepared, int]] = deque()
        self._bytes = 0
        self._bytes_max = bytes_max

    def keep(self, prepared: Prepared) -> None:
        """Keep what was rendered of a response until others need the room. What is dropped is rendered again."""
        if prepared.is_kept:
            return
        prepared.is_kept = True
        count = len(prepared.after) + prepared.body_bytes
        self._kept.append((prepared, count))
        self._bytes += count
        while self._bytes > self._bytes_max and len(self._kept) > 1:
            first, count = self._kept.popleft()
            self._bytes -= count
            first.cool()


NEVER = Freshness(0.0)


class PreparedResponses:
    """The prepared responses, by the path of the entry that was looked at last for them. Request lines only refer to
    them: one that is retired gives its memory back, whoever refers to it.

    Nobody tells them that an entry is no more. A response whose entry is gone is found when it is asked for again, when
    another is prepared for its path, or when its path is the one that was prepared for longest ago and room is needed.

    server: the value of the Server field. paths_max, bytes_max: bounds; those of the file table do, since there is
    little else that responses are made from.
    """

    def __init__(self, server: bytes, paths_max: int, bytes_max: int) -> None:
        self._server = server
        self._paths_max = paths_max
        self.bytes_max = bytes_max
        self._renderings = Renderings(bytes_max // RENDERINGS_SHARE)
        self._bytes = 0
        self._by_key: OrderedDict[Key, list[Prepared]] = OrderedDict()

    def share(self, response: Response, looked_at: dict[Entry, Key]) -> Prepared:
        """The response prepared from what was looked at for it, in that order. Equal responses share one object, so
        that a client cannot fill memory by varying a field that changes nothing.
        """
        key = next(reversed(looked_at.values()))
        of_key = self._by_key.pop(key, [])
        self._retire([each for each in of_key if not each.freshness.until])
        of_key = [each for each in of_key if each.freshness.until]
        prepared = self.of_its_own(response, looked_at)
        known = next(filter(prepared.says_the_same, of_key), None)
        if known is not None:
            prepared = known
        else:
            if len(of_key) >= PREPARED_PER_PATH_MAX:
                self._retire(of_key)
                of_key = []
            self._bytes += prepared.memory_bytes
            of_key.append(prepared)
        self._by_key[key] = of_key
        while len(self._by_key) > 1 and (len(self._by_key) > self._paths_max or self._bytes > self.bytes_max):
            self._retire(self._by_key.popitem(last=False)[1])
        return prepared

    def of_its_own(self, response: Response, looked_at: dict[Entry, Key]) -> Prepared:
        """A response that is not shared, and not counted."""
        return Prepared(response, self._server, looked_at, self._renderings)

    def _retire(self, prepared: list[Prepared]) -> None:
        for each in prepared:
            self._bytes -= each.memory_bytes
            each.retire()
