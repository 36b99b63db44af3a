"""What inotify(7) says, in bytes and bits."""

from __future__ import annotations

import struct

from ringserve.ring.world import Watched

INOTIFY_EVENT = struct.Struct("iIII")  # inotify(7): wd, mask, cookie, len

IN_MODIFY = 0x002
IN_ATTRIB = 0x004
IN_MOVED_FROM = 0x040
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x01000000
IN_ISDIR = 0x40000000

WATCH_MASK = (
    IN_MODIFY | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF
) | IN_ONLYDIR


def parse_inotify(data: bytes) -> list[Watched]:
    """The events of one read, per inotify(7): a fixed part and a name padded with NUL."""
    events = []
    position = 0
    while position < len(data):
        watch, mask, _cookie, length = INOTIFY_EVENT.unpack_from(data, position)
        position += INOTIFY_EVENT.size
        events.append(Watched(watch, mask, data[position : position + length].rstrip(b"\0")))
        position += length
    return events
