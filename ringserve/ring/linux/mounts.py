"""Which file system a descriptor is on, and which one a path will reach. No file system is asked, since it may hang.

A descriptor's mount is told by /proc/self/fdinfo. Rejected: statx(2) with AT_STATX_DONT_SYNC, which a file system is
free not to heed; and statfs(2), which asks the server.
"""

from __future__ import annotations

import os
import select

from ringserve.ring.linux.mountinfo import MEMORY, Mount, MountTable, parse

MOUNTINFO = "/proc/self/mountinfo"
READ_BYTES = 1 << 20
FDINFO_BYTES = 4096
"""The mount's number is in the fourth line (proc(5)); how much follows depends on the kind of file."""
NOWHERE = Mount(0, 0, b"", "unknown", b"0:0")


class Place:
    """A mount, and what may be asked of it. local: see `mountinfo`. read_flags: of preadv2(2), so that a read of a
    local file does not wait; what is in memory alone knows no RWF_NOWAIT, and needs none. nested: of a root, what is
    mounted below it, by the path from there; None of what is no root.
    """

    __slots__ = ("local", "mount", "nested", "read_flags")

    def __init__(self, mount: Mount, local: bool, nested: tuple[tuple[bytes, Mount], ...] | None = None) -> None:
        self.mount = mount
        self.local = local
        self.read_flags = 0 if mount.kind in MEMORY else os.RWF_NOWAIT
        self.nested = nested


class Mounts:
    """The mounts as of the last look at them. Where there is no /proc nothing is known to be local.

    changes: a descriptor on which poll(2) tells of changes; -1 if there is none.
    """

    def __init__(self) -> None:
        self._table = MountTable(iter(()))
        self._places: dict[int, Place] = {}
        self._changed = select.poll()
        self._fd = self.changes = -1
        try:
            self._fd = os.open(MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
            self.changes = os.open(MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)  # each tells of a change once
        except OSError:
            return
        self._changed.register(self._fd, select.POLLPRI)
        self._read()

    def look(self) -> bool:
        """Whether they have changed."""
        if self._fd < 0 or not self._changed.poll(0):
            return False
        self._read()
        return True

    def of(self, fd: int) -> Place:
        """Where a descriptor's file is."""
        return self.place(self._mount_of(fd))

    def of_root(self, directory: int) -> Place:
        """The same of a directory, with what is mounted below it, the deepest first."""
        place = self.of(directory)
        try:
            path = os.readlink(b"/proc/self/fd/%d" % directory)
        except OSError:
            path = b"/"
        above = path.rstrip(b"/") + b"/"
        below = sorted(self._table.below(place.mount, path), key=lambda mount: -len(mount.point))
        nested = tuple((mount.point.removeprefix(above), mount) for mount in below)
        return Place(place.mount, place.local, nested)

    def close(self) -> None:
        """Nobody asks any more."""
        for fd in (self._fd, self.changes):
            if fd >= 0:
                os.close(fd)
        self._fd = self.changes = -1

    def _mount_of(self, fd: int) -> Mount:
        try:
            info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return NOWHERE
        try:
            _before, _name, rest = os.read(info, FDINFO_BYTES).partition(b"mnt_id:\t")
        finally:
            os.close(info)
        return self._table.get(int(rest.split(b"\n", 1)[0])) or NOWHERE

    def place(self, mount: Mount) -> Place:
        """That of a mount which there is now."""
        place = self._places.get(mount.number)
        if place is None:
            place = self._places[mount.number] = Place(mount, self._table.is_local(mount))
        return place

    def _read(self) -> None:
        pieces = []
        position = 0
        while piece := os.pread(self._fd, READ_BYTES, position):
            pieces.append(piece)
            position += len(piece)
        self._table = MountTable(parse(b"".join(pieces)))
        self._places = {}
