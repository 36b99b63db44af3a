"""Questions of files on the ring: each is a chain of submissions, and what can be had at once by a call.

Theory of operation. A path is opened once by openat2(2) below the root's descriptor, so that no path string is trusted
twice, and what was opened is asked for its status. A chain is a generator that yields what is to be submitted next and
is sent the result; what it returns, or raises, is the answer. It keeps the memory that its submission needs. A chain
that is cancelled ends when the submission in flight has ended: its generator is closed, and closes its descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ringserve.ring.linux import directory
from ringserve.ring.linux.directory import status_of
from ringserve.ring.linux.inotify import WATCH_MASK
from ringserve.ring.linux.mounts import Mounts, Place
from ringserve.ring.uring.library import FilledMemory, Memory, ffi, lib
from ringserve.ring.world import FileStatus, Loaded, Names, Rank, Root

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
OPEN_HOW = struct.Struct("=QQQ")  # struct open_how of openat2(2): flags, mode, resolve
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08
RESOLVE_CACHED = 0x20
RESOLVE_AT_ONCE = RESOLVE_CACHED | RESOLVE_NO_XDEV
"""RESOLVE_CACHED bounds the walk only: the open itself asks the file system, so that it has to be a local one."""


class Call(NamedTuple):
    """A step of a chain that a helper makes."""

    function: Callable[[], object]
    lane: str


Answer = TypeVar("Answer")
Step = tuple[Callable[..., int], *tuple[int, ...]]
"""A step of a chain that is submitted: the function of the library, and its arguments behind ring and user_data."""
Chain = Generator[Step | Call, Any, Answer]
"""It is sent the result of a submission; of a call what it returned, or -EBUSY."""


def _resolve(root: Root) -> int:
    return RESOLVE_NO_MAGICLINKS if root.follow_symlinks else RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH


class Files:
    """The chains. close: closes a descriptor through the ring, and waits for nothing."""

    def __init__(self, close: Callable[[int], None]) -> None:
        self._close = close
        self._mounts = Mounts()
        self._roots: dict[int, Place] = {}
        self._how: dict[tuple[int, int], Memory] = {}
        self._status = ffi.new("ringserve_status *")
        self._status_memory = ffi.buffer(self._status)
        self._loaded = ffi.new("ringserve_loaded *")
        self._loaded_memory = ffi.buffer(self._loaded)
        self._body = ffi.new("char[]", READ_AT_ONCE_BYTES_MAX + 1)
        self._body_memory = ffi.buffer(self._body)

    def look_now(self, root: Root, path: bytes) -> FileStatus | int:
        """What `look` answers, if that is known without waiting; else -EAGAIN."""
        if not self._place_of(root).local:
            return -errno.EAGAIN
        resolve = _resolve(root) | RESOLVE_AT_ONCE
        result = lib.ringserve_look(root.directory, path or b".", LOOK_FLAGS, resolve, self._status)
        if result == 0:
            return FileStatus._make(STATUS.unpack(self._status_memory)[:6])
        return -errno.EAGAIN if result == -errno.EXDEV else result

    def load_now(self, root: Root, path: bytes, body_bytes_max: int, closed_bytes_max: int) -> Loaded | int:
        """What `load` answers, if that is known without waiting; else -EAGAIN."""
        found = self._load_now(root, path, body_bytes_max, closed_bytes_max)
        unread = _unread(found, body_bytes_max)
        if unread is None:
            return found
        os.close(unread)
        return -errno.EAGAIN

    def _load_now(self, root: Root, path: bytes, body_bytes_max: int, closed_bytes_max: int) -> Loaded | int:
        """The same, but a file whose bytes are not in memory is returned without them."""
        place = self._place_of(root)
        if not place.local:
            return -errno.EAGAIN
        result = lib.ringserve_load(
            root.directory,
            path or b".",
            OPEN_FLAGS,
            _resolve(root) | RESOLVE_AT_ONCE,
            place.read_flags,
            min(body_bytes_max, READ_AT_ONCE_BYTES_MAX),
            closed_bytes_max,
            self._body,
            self._loaded,
        )
        if result:
            return -errno.EAGAIN if result == -errno.EXDEV else result
        mode, device, inode, size, modified_ns, changed_ns, links, file, read = LOADED.unpack(self._loaded_memory)
        return Loaded(
            FileStatus(mode, device, inode, size, modified_ns, changed_ns),
            self._body_memory[:size] if read == size else None,
            file if file >= 0 else None,
            trusted=links == 1 and stat.S_ISREG(mode),
        )

    def shut(self) -> None:
        """Give back what is open. No chain goes on."""
        self._mounts.close()

    def _place_of(self, root: Root) -> Place:
        """Where a root is. It stays there, whatever is mounted later."""
        place = self._roots.get(root.directory)
        if place is None:
            place = self._roots[root.directory] = self._mounts.of(root.directory)
        return place

    def look(self, root: Root, path: bytes) -> Chain[FileStatus | int]:
        """See `Ring.look`."""
        found = self.look_now(root, path)
        if found != -errno.EAGAIN:
            return found
        fd, _place = yield from self._open_waiting(root, path, LOOK_FLAGS)
        if fd < 0:
            return fd
        try:
            return self._status_of(fd)[0]
        finally:
            self._close(fd)

    def load(self, root: Root, path: bytes, body_bytes_max: int, closed_bytes_max: int) -> Chain[Loaded | int]:
        """See `Ring.load`."""
        found = self._load_now(root, path, body_bytes_max, closed_bytes_max)
        if found == -errno.EAGAIN:
            fd, place = yield from self._open_waiting(root, path, OPEN_FLAGS)
            found = self._loaded_of(fd, place) if fd >= 0 else fd
        unread = _unread(found, body_bytes_max)
        if isinstance(found, int) or unread is None:
            return found
        fd, status = unread, found.status
        try:
            for _attempt in range(READ_ATTEMPTS):
                read = yield from self._read(fd, status.size)
                before, (status, _links) = status, self._status_of(fd)
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

    def _loaded_of(self, fd: int, place: Place) -> Loaded:
        """What was opened, without its bytes. Raises OSError."""
        try:
            status, links = self._status_of(fd)
        except OSError:
            self._close(fd)
            raise
        if stat.S_ISREG(status.mode):
            return Loaded(status, None, fd, trusted=place.local and links == 1)
        self._close(fd)
        return Loaded(status, None, None, trusted=False)

    def _status_of(self, fd: int) -> tuple[FileStatus, int]:
        """The status of what is open, and how many names it has. Raises OSError."""
        result = lib.ringserve_status_of(fd, self._status)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        *status, links = STATUS.unpack(self._status_memory)
        return FileStatus._make(status), links

    def names(self, root: Root, path: bytes, names_max: int, rank: Rank) -> Chain[Names | int]:
        """See `Ring.names`."""
        fd, _place = yield from self._open(root, path, OPEN_FLAGS)
        if fd < 0:
            return fd
        look = partial(_look_and_wait, root, path)
        answer: Names | int = yield from self._call(fd, lambda fd: directory.read_names(fd, names_max, rank, look))
        return answer

    def inventory(self, root: Root, path: bytes, bytes_max: int) -> Chain[frozenset[bytes] | int]:
        """See `Ring.inventory`."""
        if not self._place_of(root).local:
            return -errno.EOPNOTSUPP
        fd, place = yield from self._open(root, path, OPEN_FLAGS | os.O_DIRECTORY)
        if fd < 0:
            return fd
        if not place.local:
            self._close(fd)
            return -errno.EOPNOTSUPP
        answer: frozenset[bytes] | int = yield from self._call(fd, lambda fd: directory.inventory(fd, bytes_max))
        return answer

    def _call(self, fd: int, job: Callable[[int], object]) -> Chain[Any]:
        """Have a helper do something with a descriptor, and close it."""
        held = [fd]

        def run() -> object:
            mine = held.pop()  # the helper's from here on, who may outlive everybody else
            try:
                return job(mine)
            finally:
                os.close(mine)

        try:
            return (yield Call(run, DIRECTORIES))
        finally:
            if held:
                self._close(held.pop())

    def watch(self, root: Root, path: bytes, notifier: int) -> Chain[int]:
        """See `Ring.watch`. notifier: the descriptor of inotify(7)."""
        if not self._place_of(root).local:
            return -errno.EOPNOTSUPP
        fd, place = yield from self._open(root, path, DIRECTORY_FLAGS)
        if fd < 0:
            return fd
        try:
            if not place.local:
                return -errno.EOPNOTSUPP
            # By the open descriptor, so that the name is not looked up a second time and cannot have changed meanwhile.
            result = lib.ringserve_inotify_add(notifier, b"/proc/self/fd/%d" % fd, WATCH_MASK)
            if result < 0:
                raise OSError(-result, os.strerror(-result))
            return result
        finally:
            self._close(fd)

    def _open(self, root: Root, path: bytes, flags: int) -> Chain[tuple[int, Place]]:
        """A descriptor or a negative errno, and where it is; at once if that is known without waiting."""
        place = self._place_of(root)
        if place.local:
            resolve = _resolve(root) | RESOLVE_AT_ONCE
            fd = lib.ringserve_openat2(root.directory, path or b".", flags, resolve)
            if fd not in (-errno.EAGAIN, -errno.EXDEV):
                return fd, place
        return (yield from self._open_waiting(root, path, flags))

    def _open_waiting(self, root: Root, path: bytes, flags: int) -> Chain[tuple[int, Place]]:
        """A descriptor or a negative errno, and where it is."""
        place = self._place_of(root)
        fd = -errno.EXDEV
        if place.local:
            fd = yield from self._submit_open(root, path, flags, RESOLVE_NO_XDEV)
        if fd == -errno.EXDEV:
            fd = yield from self._submit_open(root, path, flags, 0)
            if fd >= 0:
                place = self._mounts.of(fd)
        return fd, place

    def _submit_open(self, root: Root, path: bytes, flags: int, resolve: int) -> Chain[int]:
        resolve |= _resolve(root)
        how = self._how.get((flags, resolve))
        if how is None:
            how = self._how[flags, resolve] = Memory(OPEN_HOW.pack(flags, 0, resolve))
        name = Memory((path or b".") + b"\0")
        for _attempt in range(OPEN_ATTEMPTS):
            fd: int = yield lib.ringserve_open_beneath, root.directory, name.address, how.address
            if fd != -errno.EAGAIN:
                break
        return fd

    def _read(self, fd: int, size: int) -> Chain[bytes]:
        """Up to `size` bytes from the start of a file. Raises OSError."""
        buffer = FilledMemory(size)
        filled = 0
        while filled < size:
            res = yield lib.ringserve_read, fd, buffer.address + filled, size - filled, filled
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


def _look_and_wait(root: Root, path: bytes, name: bytes) -> FileStatus | int:
    """The status of a name in a directory, on the way that requests take. It may wait for a disk."""
    for _attempt in range(OPEN_ATTEMPTS):
        fd = lib.ringserve_openat2(root.directory, path + name, LOOK_FLAGS, _resolve(root))
        if fd != -errno.EAGAIN:
            break
    if fd < 0:
        return fd
    try:
        return status_of(os.fstat(fd))
    finally:
        os.close(fd)
