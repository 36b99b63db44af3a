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
from ringserve.ring.uring.library import FilledMemory, Memory, ffi, lib
from ringserve.ring.world import FileStatus, Loaded, Names, Rank, Root

OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""Non-blocking, so that opening a FIFO does not wait for its writer; what is not a regular file is closed again."""
LOOK_FLAGS = os.O_PATH | os.O_CLOEXEC
DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
OPEN_ATTEMPTS = 8
"""RESOLVE_BENEATH answers EAGAIN when a rename anywhere raced with it (openat2(2)); it is tried this often."""
READ_ATTEMPTS = 3
"""A small file that keeps changing while it is read is handed over without its bytes."""
DIRECTORIES = "directories"
"""The helpers' lane that reads them."""

STATUS = struct.Struct("=QQQqqq")  # ringserve_status of shim.h, in the order of FileStatus
OPEN_HOW = struct.Struct("=QQQ")  # struct open_how of openat2(2): flags, mode, resolve
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08


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
        self._how: dict[tuple[int, int], Memory] = {}
        self._status = ffi.new("ringserve_status *")
        self._status_memory = ffi.buffer(self._status)

    def look_now(self, root: Root, path: bytes) -> FileStatus | int:
        """The status of a path that the kernel knows without asking a file system; else -EAGAIN."""
        result = lib.ringserve_status_cached(root.directory, path, _resolve(root), self._status)
        return result or FileStatus._make(STATUS.unpack(self._status_memory))

    def look(self, root: Root, path: bytes) -> Chain[FileStatus | int]:
        """See `Ring.look`."""
        fd = yield from self._open(root, path, LOOK_FLAGS)
        if fd < 0:
            return fd
        try:
            return status_of(os.fstat(fd))
        finally:
            self._close(fd)

    def load(self, root: Root, path: bytes, body_bytes_max: int, closed_bytes_max: int) -> Chain[Loaded | int]:
        """See `Ring.load`."""
        fd = yield from self._open(root, path, OPEN_FLAGS)
        if fd < 0:
            return fd
        try:
            status = status_of(os.fstat(fd))
            if not stat.S_ISREG(status.mode):
                return Loaded(status, None, None, trusted=False)
            body = None
            for _attempt in range(READ_ATTEMPTS):
                if status.size > body_bytes_max:
                    break
                read = yield from self._read(fd, status.size)
                before, status = status, status_of(os.fstat(fd))
                if status == before and len(read) == status.size:
                    body = read
                    break
            if body is not None and status.size <= closed_bytes_max:
                return Loaded(status, body, None, trusted=False)
            file, fd = fd, -1
            return Loaded(status, body, file, trusted=False)
        finally:
            if fd >= 0:
                self._close(fd)

    def names(self, root: Root, path: bytes, names_max: int, rank: Rank) -> Chain[Names | int]:
        """See `Ring.names`."""
        fd = yield from self._open(root, path, OPEN_FLAGS)
        if fd < 0:
            return fd
        look = partial(_look_and_wait, root, path)

        held = [fd]

        def read() -> Names:
            mine = held.pop()  # the helper's from here on, who may outlive everybody else
            try:
                return directory.read_names(mine, names_max, rank, look)
            finally:
                os.close(mine)

        try:
            answer: Names | int = yield Call(read, DIRECTORIES)
            return answer
        finally:
            if held:
                self._close(held.pop())

    def watch(self, root: Root, path: bytes, notifier: int) -> Chain[int]:
        """See `Ring.watch`. notifier: the descriptor of inotify(7)."""
        fd = yield from self._open(root, path, DIRECTORY_FLAGS)
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

    def _open(self, root: Root, path: bytes, flags: int) -> Chain[int]:
        resolve = _resolve(root)
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
