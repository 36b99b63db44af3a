"""Which file system a descriptor is on, and which one a path will reach. No file system is asked, since it may hang.

A descriptor's mount is told by /proc/self/fdinfo. Rejected: statx(2) with AT_STATX_DONT_SYNC, which some file systems
(9p) do not heed; and statfs(2), which asks the server.
"""

from __future__ import annotations

import os
import select

from ringserve.ring.linux.mountinfo import MEMORY, Mount, MountTable, parse

READ_BYTES = 1 << 20
NOWHERE = Mount(0, 0, b"", "unknown", b"0:0")


class Place:
    """A mount, and what may be asked of it. local: see `mountinfo`. read_flags: of preadv2(2), so that a read of a
    local file does not wait; what is in memory alone knows no RWF_NOWAIT, and needs none.
    """

    __slots__ = ("local", "mount", "read_flags")

    def __init__(self, mount: Mount, local: bool) -> None:
        self.mount = mount
        self.local = local
        self.read_flags = 0 if mount.kind in MEMORY else os.RWF_NOWAIT


class Mounts:
    """The mounts as of each question. Where there is no /proc nothing is known to be local."""

    def __init__(self) -> None:
        self._table = MountTable(iter(()))
        self._places: dict[int, Place] = {}
        self._changed = select.poll()
        self._fd = -1
        try:
            self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        self._changed.register(self._fd, select.POLLPRI)
        self._read()

    def of(self, fd: int) -> Place:
        """Where a descriptor's file is."""
        self._read_again()
        return self._place(self._mount_of(fd))

    def reached(self, start: Place, directory: int, path: bytes) -> Place:
        """Where a path leads below a directory that is at `start`, if no symbolic link is on it."""
        above, mounts = self._below(start, directory)
        if not mounts:
            return start
        return self._place(self._table.reached(start.mount, above, os.path.normpath(os.path.join(above, path))))

    def has_others(self, start: Place, directory: int) -> bool:
        """Whether there are other mounts below a directory that is at `start`."""
        return bool(self._below(start, directory)[1])

    def foreign_in(self, start: Place, directory: int) -> Place | None:
        """One that may hang and is mounted on a name of a directory that is at `start`."""
        above, mounts = self._below(start, directory)
        return next(
            (
                place
                for place in map(self._place, mounts)
                if not place.local and os.path.dirname(place.mount.point) == above
            ),
            None,
        )

    def _below(self, start: Place, directory: int) -> tuple[bytes, list[Mount]]:
        """The path of a directory, and what is mounted below it."""
        self._read_again()
        if not self._table.has_mounts(start.mount):
            return b"", []
        try:
            above = os.readlink(b"/proc/self/fd/%d" % directory)
        except OSError:
            return b"", []
        return above, self._table.below(start.mount, above)

    def close(self) -> None:
        """Nobody asks any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _mount_of(self, fd: int) -> Mount:
        try:
            info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return NOWHERE
        try:
            _before, _name, rest = os.read(info, 4096).partition(b"mnt_id:\t")
        finally:
            os.close(info)
        return self._table.get(int(rest.split(b"\n", 1)[0])) or NOWHERE

    def _place(self, mount: Mount) -> Place:
        place = self._places.get(mount.number)
        if place is None:
            place = self._places[mount.number] = Place(mount, self._table.is_local(mount))
        return place

    def _read_again(self) -> None:
        if self._fd >= 0 and self._changed.poll(0):
            self._read()

    def _read(self) -> None:
        pieces = []
        position = 0
        while piece := os.pread(self._fd, READ_BYTES, position):
            pieces.append(piece)
            position += len(piece)
        self._table = MountTable(parse(b"".join(pieces)))
        self._places = {}
