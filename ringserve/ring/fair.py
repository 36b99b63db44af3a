"""A queue that serves its origins in turn, so that none keeps the others out. Pure.

An origin is a client, by its address. Each origin has its turn, for one job, however many it has waiting. When the
queue is full, the origin with the most in it loses its newest; so an origin that fills the queue only ever refuses
itself, and a newcomer is refused only while everybody has as little as it has.

Rejected: a bound for each origin. Taking turns makes it needless against a flood, and it would refuse an office behind
one address that has the queue to itself.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """See the module. waiting_max: how many items there may be."""

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._by_origin: OrderedDict[str, deque[Item]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, origin: str, item: Item) -> Item | None:
        """Put `item` in. Returns what there is no room for then, which may be `item` itself."""
        self._by_origin.setdefault(origin, deque()).append(item)
        self._count += 1
        if self._count <= self._waiting_max:
            return None
        # Among equals, the origin that would wait longest: a newcomer.
        longest = max(reversed(self._by_origin), key=lambda name: len(self._by_origin[name]))
        return self._leave(longest, self._by_origin[longest].pop())

    def take(self) -> Item:
        """The next one, which leaves. There has to be one. Its origin's next comes after those of all others."""
        origin = next(iter(self._by_origin))
        self._by_origin.move_to_end(origin)
        return self._leave(origin, self._by_origin[origin].popleft())

    def _leave(self, origin: str, item: Item) -> Item:
        self._count -= 1
        if not self._by_origin[origin]:
            del self._by_origin[origin]
        return item
