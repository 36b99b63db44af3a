"""Questions of files on the ring: each is a chain of submissions, and what can be had at once by a call.

Theory of operation. A path is opened once by openat2(2) below the root's descriptor, so that no path string is trusted
twice, and what was opened is asked for its status. On a local file system what the kernel has cached is answered at
once; what it has not, the ring's workers find.

A file system that hangs must hold up nobody but those who ask it. So the loop's thread asks nothing that may not be
local, and what leaves the root's mount does so in a lane (`linux/lanes.py`). A path that leads to another mount by its
names is known before it is opened. One that does so by a symbolic link shows, since it is opened with RESOLVE_NO_XDEV
first, which is refused; such paths share the lane of the mount that the link is on.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from ringserve.ring.linux import directory
from ringserve.ring.linux.directory import status_of
from ringserve.ring.linux.inotify import WATCH_MASK
from ringserve.ring.linux.lanes import Lane
from ringserve.ring.linux.mountinfo import Mount
from ringserve.ring.linux.mounts import Mounts, Place
from ringserve.ring.linux.system import LinuxSystem
from ringserve.ring.uring.chains import Call, Chain, Enter, Submit
from ringserve.ring.uring.library import FilledMemory, Memory, ffi, lib
from ringserve.ring.world import NANOSECONDS, FileStatus, Loaded, Names, Pipe, Rank, Root

OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""Non-blocking, so that opening a FIFO does not wait for its writer; what is not a regular file is closed again."""
LOOK_FLAGS = os.O_PATH | os.O_CLOEXEC
DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
READ_AT_ONCE_BYTES_MAX = 256 * 1024
"""To copy it takes the loop 30 us. A larger file is read by the ring."""
OPEN_ATTEMPTS = 8
"""RESOLVE_BENEATH answers EAGAIN when a rename anywhere raced with it (openat2(2)); it is tried this often."""
READ_ATTEMPTS = 3
"""A small file that keeps changing while it is read is handed over without its bytes."""
DIRECTORIES = "directories"
"""The helpers' lane that reads them."""

STATUS = struct.Struct("=QQQqqqQ")  # ringserve_status of shim.h, in the order of FileStatus, and the links
LOADED = struct.Struct("=QQQqqqQii")  # ringserve_loaded of shim.h
STATX = struct.Struct("=16x I 8x H 2x Q Q 16x 16x 16x q I 4x q I 4x 8x I I 112x")  # struct statx
OPEN_HOW = struct.Struct("=QQQ")  # struct open_how of openat2(2): flags, mode, resolve
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_CACHED = 0x20
UNKNOWN = (-errno.EXDEV, -errno.ELOOP)
"""What openat2(2) answers to a path that is not to lead elsewhere, or over a symbolic link; and to some others."""
RESOLVE_AT_ONCE = RESOLVE_CACHED | RESOLVE_NO_XDEV
"""RESOLVE_CACHED bounds the walk only: the open itself asks the file system, so that it has to be a local one."""


class Opened(NamedTuple):
    """fd: a descriptor, or a negative errno. place: where it is. lane: in which the chain is, if in any."""

    fd: int
    place: Place
    lane: Lane[Any] | None


def _resolve(root: Root) -> int:
    return RESOLVE_NO_MAGICLINKS if root.follow_symlinks else RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH


class Files:
    """The chains.

    close: closes a descriptor, and waits for nothing. lane_of: takes a mount. places: by descriptor,
    where a root is, and what was opened on a mount that may hang, until it is closed. mounts_changed: somebody said so.
    """

    def __init__(self, close: Callable[[int], None], lane_of: Callable[[Mount], Lane[Any]]) -> None:
        self._close = close
        self._lane_of = lane_of
        self.mounts = Mounts()
        self.mounts_changed = False
        self.places: dict[int, Place] = {}
        self._how: dict[tuple[int, int], Memory] = {}
        self._status = ffi.new("ringserve_status *")
        self._status_memory = ffi.buffer(self._status)
        self._loaded = ffi.new("ringserve_loaded *")
        self._loaded_memory = ffi.buffer(self._loaded)
        self._body = ffi.new("char[]", READ_AT_ONCE_BYTES_MAX + 1)
        self._body_memory = ffi.buffer(self._body)

    def look_now(self, root: Root, path: bytes) -> FileStatus | int:
        """What `look` answers, if that is known without waiting; else -EAGAIN."""
        place, at_once = self._start(root, path)
        if not place.local:
            return -errno.EAGAIN
        result = lib.ringserve_look(root.directory, path or b".", LOOK_FLAGS, _resolve(root) | at_once, self._status)
        if result == 0:
            return FileStatus._make(STATUS.unpack(self._status_memory)[:6])
        return -errno.EAGAIN if result in UNKNOWN else result

    def load_now(self, root: Root, path: bytes, body_bytes_max: int, closed_bytes_max: int) -> Loaded | int:
        """What `load` answers, if that is known without waiting; else -EAGAIN."""
        found = self._load_now(root, path, body_bytes_max, closed_bytes_max)
        if isinstance(found, int) or found.body is not None:
            return found
        unread = _unread(found, body_bytes_max)
        if unread is None:
            return found
        os.close(unread)
        return -errno.EAGAIN

    def _load_now(self, root: Root, path: bytes, body_bytes_max: int, closed_bytes_max: int) -> Loaded | int:
        """The same, but a file whose bytes are not in memory is returned without them."""
        place, at_once = self._start(root, path)
        if not place.local:
            return -errno.EAGAIN
        if body_bytes_max > READ_AT_ONCE_BYTES_MAX:
            body_bytes_max = READ_AT_ONCE_BYTES_MAX
        at_once |= _resolve(root)
        for resolve in (at_once | RESOLVE_NO_SYMLINKS, at_once):
            result = lib.ringserve_load(
                root.directory,
                path or b".",
                OPEN_FLAGS,
                resolve,
                place.read_flags,
                body_bytes_max,
                closed_bytes_max,
                self._body,
                self._loaded,
            )
            if result != -errno.ELOOP:
                break
        if result:
            return -errno.EAGAIN if result in UNKNOWN else result
        mode, device, inode, size, modified_ns, changed_ns, links, file, read = LOADED.unpack(self._loaded_memory)
        return Loaded(
            FileStatus(mode, device, inode, size, modified_ns, changed_ns),
            self._body_memory[:size] if read == size else None,
            file if file >= 0 else None,
            links == 1 and resolve & RESOLVE_NO_SYMLINKS != 0 and stat.S_ISREG(mode),
        )

    def _is_direct(self, root: Root, path: bytes) -> bool:
        """Whether no symbolic link is on a path to a local file; not if that cannot be told without waiting."""
        place, at_once = self._start(root, path)
        if not place.local:
            return False
        fd = lib.ringserve_openat2(root.directory, path, LOOK_FLAGS, at_once | RESOLVE_NO_SYMLINKS)
        if fd >= 0:
            os.close(fd)
        return bool(fd >= 0)

    def look(self, root: Root, path: bytes) -> Chain[FileStatus | int]:
        """See `Ring.look`."""
        found = self.look_now(root, path)
        if found != -errno.EAGAIN:
            return found
        fd, place, _lane = yield from self._open_waiting(root, path, LOOK_FLAGS)
        if fd < 0:
            return fd
        try:
            status, _links = yield from self._status_of(fd, place)
            return status
        finally:
            self._close(fd)

    def load(self, root: Root, path: bytes, body_bytes_max: int, closed_bytes_max: int) -> Chain[Loaded | int]:
        """See `Ring.load`."""
        place, _at_once = self._start(root, path)
        found = self._load_now(root, path, body_bytes_max, closed_bytes_max)
        if found == -errno.EAGAIN:
            fd, place, _lane = yield from self._open_waiting(root, path, OPEN_FLAGS)
            if fd < 0:
                return fd
            found = yield from self._loaded_of(fd, place)
            if found.trusted and not self._is_direct(root, path):
                found = found._replace(trusted=False)
        unread = _unread(found, body_bytes_max)
        if isinstance(found, int) or unread is None:
            return found
        fd, status = unread, found.status
        try:
            for _attempt in range(READ_ATTEMPTS):
                read = yield from self._read(fd, status.size, place)
                before, (status, _links) = status, (yield from self._status_of(fd, place))
                if status == before and len(read) == status.size:
                    if status.size <= closed_bytes_max:
                        return Loaded(status, read, None, found.trusted)
                    file, fd = fd, -1
                    return Loaded(status, read, file, found.trusted)
                if status.size > body_bytes_max:
                    break
            file, fd = fd, -1
            return Loaded(status, None, file, found.trusted)
        finally:
            if fd >= 0:
                self._close(fd)

    def _loaded_of(self, fd: int, place: Place) -> Chain[Loaded]:
        """What was opened, without its bytes. Raises OSError."""
        file = fd
        try:
            status, links = yield from self._status_of(fd, place)
            if stat.S_ISREG(status.mode):
                file = -1
                return Loaded(status, None, fd, trusted=place.local and links == 1)
            return Loaded(status, None, None, trusted=False)
        finally:
            if file >= 0:
                self._close(file)

    def _status_of(self, fd: int, place: Place) -> Chain[tuple[FileStatus, int]]:
        """The status of what is open, and how many names it has. Raises OSError."""
        if place.local:
            result = lib.ringserve_status_of(fd, self._status)
            if result < 0:
                raise OSError(-result, os.strerror(-result))
            *status, links = STATUS.unpack(self._status_memory)
            return FileStatus._make(status), links
        memory = FilledMemory(STATX.size)
        result = yield Submit(lib.ringserve_statx, (fd, memory.address))
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        (
            links, mode, inode, size, changed_s, changed_ns, modified_s, modified_ns, major, minor
        ) = STATX.unpack(memory.memory)  # fmt: skip
        return FileStatus(
            mode,
            os.makedev(major, minor),
            inode,
            size,
            modified_s * NANOSECONDS + modified_ns,
            changed_s * NANOSECONDS + changed_ns,
        ), links

    def names(self, root: Root, path: bytes, names_max: int, rank: Rank) -> Chain[Names | int]:
        """See `Ring.names`. A directory that is local is read again in a lane, if a link in it leads elsewhere."""
        crossed: list[bytes] = []

        def look(name: bytes) -> FileStatus | int:
            found = _look_and_wait(root, path + name, RESOLVE_NO_XDEV if lane is None else 0)
            if found == -errno.EXDEV:
                crossed.append(name)
            return found

        def read(fd: int) -> Names:
            return directory.read_names(fd, names_max, rank, look)

        fd, _place, lane = yield from self._open(root, path, OPEN_FLAGS)
        if fd < 0:
            return fd
        foreign = self._foreign_in(self._place_of(root), path) if lane is None else None
        if foreign is None:
            answer: Names | int = yield from self._call(fd, read, lane)
            if lane is not None or not crossed or not self._leads_elsewhere(root):
                return answer
            fd, foreign, lane = yield from self._open(root, path, OPEN_FLAGS)
            if fd < 0:
                return fd
        if lane is None:
            lane = self._lane_of(foreign.mount)
            refused: int = yield from self._enter_with(fd, lane)
            if refused:
                return refused
        answer = yield from self._call(fd, read, lane)
        return answer

    def inventory(self, root: Root, path: bytes, bytes_max: int) -> Chain[frozenset[bytes] | int]:
        """See `Ring.inventory`."""
        fd, _place, lane = yield from self._open_local(root, path, OPEN_FLAGS | os.O_DIRECTORY)
        if fd < 0:
            return fd
        answer: frozenset[bytes] | int = yield from self._call(fd, lambda fd: directory.inventory(fd, bytes_max), lane)
        return answer

    def watch(self, root: Root, path: bytes, notifier: int) -> Chain[int]:
        """See `Ring.watch`. notifier: the descriptor of inotify(7)."""
        fd, _place, _lane = yield from self._open_local(root, path, DIRECTORY_FLAGS)
        if fd < 0:
            return fd
        try:
            # By the open descriptor, so that the name is not looked up a second time and cannot have changed meanwhile.
            result = lib.ringserve_inotify_add(notifier, b"/proc/self/fd/%d" % fd, WATCH_MASK)
            if result < 0:
                raise OSError(-result, os.strerror(-result))
            return result
        finally:
            self._close(fd)

    def fill(self, place: Place, pipe: Pipe, file: int, offset: int, length: int) -> Chain[int]:
        """See `Ring.fill`; of a file that is at `place`, which may hang."""
        refused: int = yield Enter(self._lane_of(place.mount))
        if refused:
            return refused
        # By a pipe of its own, so that who gives up has an empty one back, which others may use.
        system = LinuxSystem()
        try:
            own = system.pipe(pipe.capacity_bytes)
        except OSError as error:
            return -(error.errno or errno.EIO)
        try:
            count: int = yield Submit(lib.ringserve_splice, (file, offset, own.write_fd, length))
            return system.empty(own, pipe.write_fd, count, more=False) if count > 0 else count
        finally:
            system.discard(own)

    def close(self, fd: int, lane: Lane[Any]) -> Chain[int]:
        """Close what may hang. Nobody waits for it."""
        yield Enter(lane, closes=True)
        result: int = yield Submit(lib.ringserve_close, (fd,))
        return result

    def shut(self) -> None:
        """Give back what is open. No chain goes on."""
        self.mounts.close()

    def look_at_mounts(self) -> None:
        """Know of all that have come and gone."""
        self.mounts_changed = False
        if self.mounts.look():
            for fd, place in self.places.items():
                if place.nested is not None:
                    self.places[fd] = self.mounts.of_root(fd)

    def _place_of(self, root: Root) -> Place:
        """Where a root is. It stays there, whatever is mounted later."""
        place = self.places.get(root.directory)
        if place is None:
            self.look_at_mounts()
            place = self.places[root.directory] = self.mounts.of_root(root.directory)
        return place

    def _start(self, root: Root, path: bytes) -> tuple[Place, int]:
        """Where a path leads if no symbolic link is on it, and by which flags of openat2(2) only that is asked."""
        place = self.places.get(root.directory) or self._place_of(root)
        if place.nested and self.mounts_changed:
            self.look_at_mounts()
            place = self.places[root.directory]
        for prefix, mount in place.nested or ():
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"/", b""):
                return self.mounts.place(mount), RESOLVE_CACHED | RESOLVE_NO_SYMLINKS
        return place, RESOLVE_AT_ONCE

    def _foreign_in(self, place: Place, path: bytes) -> Place | None:
        """What may hang and is mounted on a name in a directory below a root, which is at `place`."""
        above = path.rstrip(b"/")
        inside = (self.mounts.place(mount) for prefix, mount in place.nested or () if os.path.dirname(prefix) == above)
        return next((there for there in inside if not there.local), None)

    def _leads_elsewhere(self, root: Root) -> bool:
        """Whether a path below a root can lead to another mount."""
        self.look_at_mounts()
        return root.follow_symlinks or bool(self._place_of(root).nested)

    def _open(self, root: Root, path: bytes, flags: int) -> Chain[Opened]:
        """At once, if that is known without waiting."""
        place, at_once = self._start(root, path)
        if place.local:
            fd = lib.ringserve_openat2(root.directory, path or b".", flags, _resolve(root) | at_once)
            if fd != -errno.EAGAIN and fd not in UNKNOWN:
                return Opened(fd, place, None)
        return (yield from self._open_waiting(root, path, flags))

    def _open_local(self, root: Root, path: bytes, flags: int) -> Chain[Opened]:
        """The same; -EOPNOTSUPP if the path leads to where others write as well."""
        there, _at_once = self._start(root, path)
        if not there.local:
            return Opened(-errno.EOPNOTSUPP, there, None)
        opened = yield from self._open(root, path, flags)
        if opened.fd < 0 or opened.place.local:
            return opened
        self._close(opened.fd)
        return opened._replace(fd=-errno.EOPNOTSUPP)

    def _open_waiting(self, root: Root, path: bytes, flags: int) -> Chain[Opened]:
        place = self._place_of(root)
        there, _at_once = self._start(root, path)
        if there is place and place.local:
            # On this mount alone nothing hangs; a symbolic link that leads to another one is not followed yet.
            fd = yield from self._submit_open(root, path, flags, RESOLVE_NO_XDEV)
            if fd != -errno.EXDEV or not self._leads_elsewhere(root):
                return Opened(fd, place, None)
        lane = self._lane_of(there.mount)
        refused: int = yield Enter(lane)
        if refused:
            return Opened(refused, there, None)
        fd = yield from self._submit_open(root, path, flags, 0)
        if fd >= 0:
            self.look_at_mounts()
            there = self.mounts.of(fd)
            if not there.local and not flags & os.O_PATH:
                self.places[fd] = there
        return Opened(fd, there, lane)

    def _enter_with(self, fd: int, lane: Lane[Any]) -> Chain[int]:
        """Enter a lane with a descriptor, which is closed if that is refused or given up."""
        entered = False
        try:
            refused: int = yield Enter(lane)
            entered = not refused
            return refused
        finally:
            if not entered:
                self._close(fd)

    def _call(self, fd: int, job: Callable[[int], object], lane: Lane[Any] | None) -> Chain[Any]:
        """Have a helper do something with a descriptor, and close it."""
        held = [fd]

        def run() -> object:
            mine = held.pop()  # the helper's from here on, who may outlive everybody else
            try:
                return job(mine)
            finally:
                self.places.pop(mine, None)
                os.close(mine)

        try:
            return (yield Call(run, DIRECTORIES if lane is None else f"{DIRECTORIES} {lane.number}"))
        finally:
            if held:
                self._close(held.pop())

    def _submit_open(self, root: Root, path: bytes, flags: int, resolve: int) -> Chain[int]:
        resolve |= _resolve(root)
        how = self._how.get((flags, resolve))
        if how is None:
            how = self._how[flags, resolve] = Memory(OPEN_HOW.pack(flags, 0, resolve))
        name = Memory((path or b".") + b"\0")
        for _attempt in range(OPEN_ATTEMPTS):
            fd: int = yield Submit(lib.ringserve_open_beneath, (root.directory, name.address, how.address), opens=True)
            if fd != -errno.EAGAIN:
                return fd
        return -errno.EAGAIN

    def _read(self, fd: int, size: int, place: Place) -> Chain[bytes]:
        """Up to `size` bytes from the start of a file. Raises OSError."""
        buffer = FilledMemory(size)
        flags = 0 if place.local else lib.IOSQE_ASYNC
        filled = 0
        while filled < size:
            res = yield Submit(lib.ringserve_read, (fd, buffer.address + filled, size - filled, filled, flags))
            if res < 0:
                raise OSError(-res, os.strerror(-res))
            if res == 0:
                break
            filled += res
        return bytes(buffer.memory[:filled])


def _unread(found: Loaded | int, body_bytes_max: int) -> int | None:
    """The file whose bytes are wanted and not there."""
    if isinstance(found, int) or found.body is not None or found.status.size > body_bytes_max:
        return None
    return found.file


def _look_and_wait(root: Root, path: bytes, resolve: int) -> FileStatus | int:
    """The status of a path, on the way that requests take. It may wait for a disk."""
    for _attempt in range(OPEN_ATTEMPTS):
        fd = lib.ringserve_openat2(root.directory, path, LOOK_FLAGS, _resolve(root) | resolve)
        if fd != -errno.EAGAIN:
            break
    if fd < 0:
        return fd
    try:
        return status_of(os.fstat(fd))
    finally:
        os.close(fd)
