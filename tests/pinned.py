"""Pinned bytes for tests without a ring."""

from __future__ import annotations

from typing import NamedTuple


class PinnedBytes(NamedTuple):
    data: bytes

    @property
    def length(self) -> int:
        return len(self.data)
