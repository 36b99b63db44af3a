"""What inotify(7) says, in bytes and bits."""

from __future__ import annotations

import struct

from ringserve.ring.world import Change, ChangeKind

EVENT = struct.Struct("iIII")  # wd, mask, cookie, len

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


def changes_of(data: bytes) -> list[Change] | None:
    """The events of one read: each is a fixed part and a name padded with NUL. None: the kernel lost some."""
    changes = []
    position = 0
    while position < len(data):
        watch, mask, _cookie, length = EVENT.unpack_from(data, position)
        position += EVENT.size
        if mask & IN_Q_OVERFLOW:
            return None
        name = data[position : position + length].rstrip(b"\0")
        changes.append(Change(watch, _kind_of(mask, name), name))
        position += length
    return changes


def _kind_of(mask: int, name: bytes) -> ChangeKind:
    if mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED):
        return ChangeKind.GONE
    if not name:
        return ChangeKind.ALTERED
    if mask & IN_ISDIR:
        return ChangeKind.DIRECTORY
    return ChangeKind.CONTENT if mask & IN_MODIFY else ChangeKind.NAME
