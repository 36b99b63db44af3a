"""The cffi extension, which nothing else imports, and memory whose address it can be told."""

from __future__ import annotations

try:
    from ringserve.ring.uring._uring import ffi, lib
except ImportError as missing:  # pragma: no cover - a checkout that was never built
    raise ImportError(
        "ringserve's extension is not built; run `make install` in the checkout, or `pip install ringserve`"
    ) from missing

__all__ = ["FilledMemory", "Memory", "ffi", "lib"]


class Memory:
    """Pinned bytes, and where they are."""

    __slots__ = ("_owner", "address", "length")

    def __init__(self, data: bytes | bytearray) -> None:
        self._owner = ffi.from_buffer(data)  # keeps `data` referenced; an exported bytearray cannot be resized or move
        self.address = int(ffi.cast("uintptr_t", self._owner))
        self.length = len(data)


class FilledMemory(Memory):
    """Zeroed memory for the kernel to fill, and where it is."""

    __slots__ = ("memory",)

    def __init__(self, length: int) -> None:
        self.memory = bytearray(length)
        super().__init__(self.memory)
