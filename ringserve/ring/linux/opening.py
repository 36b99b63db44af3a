"""What is opened before a loop starts or by a helper, and closed when there is no loop. It may wait for a disk."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


class NotEnterableError(PermissionError):
    """A directory can be read, but nothing in it."""


def open_directory(path: str | bytes) -> int:
    """A descriptor of a directory that is to be served. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if not os.access(".", os.X_OK, dir_fd=fd):
        os.close(fd)
        raise NotEnterableError(errno.EACCES, os.strerror(errno.EACCES), path)
    return fd


def absolute(path: str) -> bytes:
    """A path from the top of the file system. Where the working directory was removed, it is by the name that it had,
    which may be that of another one by now. Raises OSError.
    """
    try:
        above = os.getcwd()
    except FileNotFoundError:
        above = os.readlink("/proc/self/cwd").removesuffix(" (deleted)")
    return os.fsencode(Path(above, path))


def is_regular_file(fd: int) -> bool:
    """Whether a descriptor is that of one. Raises OSError."""
    return stat.S_ISREG(os.fstat(fd).st_mode)


def open_top() -> int:
    """A descriptor of `/`, from which paths are looked up; nobody has to be allowed to read it. Raises OSError."""
    return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def close(fd: int) -> None:
    """Close a descriptor that no ring knows any more."""
    os.close(fd)
