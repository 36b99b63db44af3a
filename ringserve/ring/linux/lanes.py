"""Who may ask a file system that may hang, and who waits. Pure.

The kernel's workers and our helpers know no mounts: each question that hangs holds one of them, whoever gives up. So
each such mount has a lane. Few are in a lane at a time, until they have ended; the others wait for as long as a client
may wait. Thus one mount that hangs holds up nobody who asks another.

Rejected: a limit of time for a question that is with the kernel. It cannot be taken back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from ringserve.ring.linux.mountinfo import Mount

IN_LANE_MAX = 4
"""Questions of one mount that are with the kernel or a helper. A few, so that a slow server is kept busy; each may cost
a thread for as long as the mount hangs."""
LANES_MAX = 8
"""Mounts that have a lane of their own; more share. With IN_LANE_MAX it bounds the threads that may hang."""
WAITING_MAX = 256
"""Questions that wait for a lane. A server that takes 50 ms for each answers the last in 3 s. More would wait in
vain, and hold what all files share: loads and descriptors."""
WAIT_S = 5.0
"""How long one waits. Its client has most of the answer limit left, and may ask again."""

Item = TypeVar("Item")


class Lane(Generic[Item]):
    """A lane. number: its place among the lanes. closes: those that wait to give something back; they come first, and
    wait for as long as it takes.
    """

    __slots__ = ("closes", "inside", "mount", "number", "waiting")

    def __init__(self, number: int, mount: Mount) -> None:
        self.number = number
        self.mount = mount
        self.inside = 0
        self.waiting: deque[tuple[float, Item]] = deque()
        self.closes: deque[Item] = deque()

    def is_idle(self) -> bool:
        """Nobody is in it, and nobody waits."""
        return not (self.inside or self.waiting or self.closes)


class Lanes(Generic[Item]):
    """The lanes, by mount. waiting: how many items wait in all."""

    def __init__(self) -> None:
        self._lanes: list[Lane[Item]] = []
        self.waiting = 0

    def __len__(self) -> int:
        return len(self._lanes)

    def of(self, mount: Mount) -> Lane[Item]:
        """The lane of a mount."""
        for lane in self._lanes:
            if lane.mount.number == mount.number:
                return lane
        if len(self._lanes) < LANES_MAX:
            self._lanes.append(Lane(len(self._lanes), mount))
            return self._lanes[-1]
        lane = next(filter(Lane.is_idle, self._lanes), self._lanes[mount.number % LANES_MAX])
        if lane.is_idle():
            lane.mount = mount
        return lane

    def busy(self) -> tuple[Mount, ...]:
        """The mounts that have not answered."""
        return tuple(lane.mount for lane in self._lanes if lane.inside)

    def enter(self, lane: Lane[Item], item: Item, now: float, closes: bool = False) -> bool | None:
        """Whether an item may go on. False: it waits, and `leave` or `late` will name it; None: too many wait."""
        if lane.inside < IN_LANE_MAX:
            lane.inside += 1
            return True
        if closes:
            lane.closes.append(item)
        elif len(lane.waiting) < WAITING_MAX:
            lane.waiting.append((now + WAIT_S, item))
        else:
            return None
        self.waiting += 1
        return False

    def leave(self, lane: Lane[Item]) -> Item | None:
        """One has ended. Returns the one that goes on in its place."""
        if not lane.closes and not lane.waiting:
            lane.inside -= 1
            return None
        self.waiting -= 1
        return lane.closes.popleft() if lane.closes else lane.waiting.popleft()[1]

    def give_up(self, lane: Lane[Item], item: Item) -> None:
        """An item waits no longer."""
        lane.waiting = deque(each for each in lane.waiting if each[1] is not item)
        self.waiting -= 1

    def deadline(self) -> float | None:
        """When the next of them has waited for too long."""
        return min((lane.waiting[0][0] for lane in self._lanes if lane.waiting), default=None)

    def late(self, now: float) -> Iterator[Item]:
        """Those that have waited for too long, which wait no longer."""
        for lane in self._lanes:
            while lane.waiting and lane.waiting[0][0] <= now:
                self.waiting -= 1
                yield lane.waiting.popleft()[1]
