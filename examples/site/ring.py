"""Draws ring.png, beside this file: a ring of segments, some of them lit. Only the standard library is needed.

python3 ring.py
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

SIZE = 720
"""Pixels each way: twice what the page shows, for dense screens."""
SEGMENTS = 24
OUTER, INNER = 0.97, 0.66
"""Radii of the ring, as parts of half the width."""
GAP = 0.022
"""Between two segments, in the same unit, so that its sides are parallel."""
CONTROL, DATA, INTERRUPT = (60, 130, 230), (25, 160, 140), (226, 140, 46)
DARK = (142, 152, 168)
DARK_OPACITY = 0.26
LIT = (
    dict.fromkeys(range(7), CONTROL)
    | dict.fromkeys((9, 10, 12), DATA)
    | dict.fromkeys(range(15, 19), INTERRUPT)
)  # fmt: skip


def pixel(x: int, y: int) -> tuple[int, int, int, int]:
    """Red, green, blue and opacity of one pixel. Edges are softened over the width of a pixel."""
    across, down = (x + 0.5) * 2 / SIZE - 1, (y + 0.5) * 2 / SIZE - 1
    radius = math.hypot(across, down)
    turn = (math.atan2(across, -down) / math.tau) % 1 * SEGMENTS
    segment = int(turn) % SEGMENTS
    to_side = min(turn % 1, 1 - turn % 1) * math.tau / SEGMENTS * radius - GAP / 2
    inside = min(OUTER - radius, radius - INNER, to_side)
    coverage = min(1.0, max(0.0, inside * SIZE / 2 + 0.5))
    # Sixteen steps of coverage keep the file small; the eye does not see them on an edge.
    steps = round(coverage * 16 * (1 if segment in LIT else DARK_OPACITY))
    return (*LIT.get(segment, DARK), steps * 255 // 16)


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file: its length, name, data and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def draw() -> bytes:
    """The file: a signature, a header, the pixels, and an end."""
    clear = bytes(4)
    rows = b""
    for y in range(SIZE):
        pixels = (pixel(x, y) for x in range(SIZE))
        rows += b"\0"  # this row is stored without a filter
        rows += b"".join(bytes(value) if value[3] else clear for value in pixels)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 8, 6, 0, 0, 0)),  # 8 bits a channel, with opacity
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in parts)


if __name__ == "__main__":
    Path(__file__).with_name("ring.png").write_bytes(draw())
