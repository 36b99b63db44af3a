"""Reading a directory: its names, and what each of them stands for. It blocks, so a helper does it."""

from __future__ import annotations

import errno
import fcntl
import heapq
import os
import stat
import struct
from collections.abc import Callable

from ringserve.ring.world import FileStatus, Named, Names, Rank

Look = Callable[[bytes], FileStatus | int]
LONG = struct.Struct("l")
FS_IOC_GETFLAGS = 2 << 30 | LONG.size << 16 | ord("f") << 8 | 1  # ioctl_iflags(2)
FS_CASEFOLD_FL = 0x40000000


def status_of(found: os.stat_result) -> FileStatus:
    """What serving needs of stat(2)."""
    return FileStatus(found.st_mode, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read_names(fd: int, names_max: int, rank: Rank, look: Look) -> Names:
    """See `Ring.names`. Touches nothing but the descriptor, which stays the caller's. All names are read, and
    `names_max` of them are kept. look: the status that a name has on the way that requests take. Raises OSError.
    """
    if not _may(fd, b".", os.X_OK):
        # The names could be read, but nothing behind them: this would look like an empty directory.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with os.scandir(fd) as entries:
        # A name of a descriptor's is text, and `fsencode` is how it came by that.
        names = ((os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries)
        ranked = ((rank(*name), name[0]) for name in names)
        first = heapq.nsmallest(names_max + 1, (each for each in ranked if each[0] is not None))
    found = (_look(fd, name, look) for _rank, name in first[:names_max])
    return Names(tuple(named for named in found if named is not None), len(first) > names_max)


def _look(fd: int, name: bytes, look: Look) -> Named | None:
    """What a name stands for; None if there is nothing that could be read."""
    try:
        # Not following comes first: were a file replaced by a link after we had been told that it is none, we would
        # show the size of something outside of the root.
        status: FileStatus | int = status_of(os.stat(name, dir_fd=fd, follow_symlinks=False))
    except OSError:
        return None  # it has vanished
    if not isinstance(status, int) and stat.S_ISLNK(status.mode):
        status = look(name)
    if isinstance(status, int):
        return None  # a link to nothing, in a circle, or to where we may not go
    is_directory = stat.S_ISDIR(status.mode)
    if not is_directory and not stat.S_ISREG(status.mode):
        return None
    # A directory that can be entered but not read may have an index, so entering is what counts.
    if not _may(fd, name, os.X_OK if is_directory else os.R_OK):
        return None
    return Named(name, status)


def inventory(fd: int, bytes_max: int) -> frozenset[bytes] | int:
    """See `Ring.inventory`. Touches nothing but the descriptor, which stays the caller's. Raises OSError."""
    if not _may(fd, b".", os.X_OK):
        return -errno.EACCES
    if _folds_case(fd):
        return -errno.EOPNOTSUPP
    names = []
    size = 0
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            size += len(name)
            if size > bytes_max:
                return -errno.E2BIG
            names.append(name)
    return frozenset(names)


def _folds_case(fd: int) -> bool:
    try:
        (flags,) = LONG.unpack(fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(LONG.size)))
    except OSError:
        return False  # a file system that has no flags has not this one
    return bool(flags & FS_CASEFOLD_FL)


def _may(fd: int, name: bytes, mode: int) -> bool:
    """Whether this process could, by the ids that the kernel would look at."""
    return os.access(name, mode, dir_fd=fd, effective_ids=True)
