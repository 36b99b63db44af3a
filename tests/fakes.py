"""What stands in for parts of the world in tests."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from ringserve.ring.diagnostics import Diagnostics
from ringserve.ring.world import Ring, System, World


class PinnedBytes(NamedTuple):
    data: bytes

    @property
    def length(self) -> int:
        return len(self.data)


def world_of(ring: Any, system: Any = None) -> World:
    """A world with this ring, which is its system too if there is no other."""
    return World(cast(Ring, ring), cast(System, ring if system is None else system), Diagnostics())
