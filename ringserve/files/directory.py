"""Directories: what is in one, and the order of names. `read_directory` blocks; the rest is pure."""

from __future__ import annotations

import errno
import heapq
import os
import re
import stat
from typing import NamedTuple

from ringserve.http.semantics import NANOSECONDS, is_hidden


class Item(NamedTuple):
    """One name in a directory.

    name: as the file system has it; any bytes but the slash and NUL. size: in bytes; 0 for directories.
    modified: seconds since the epoch. is_link: a symbolic link, of which kind, size and time are the target's; the
        caller checks where it leads before it is shown.
    """

    name: bytes
    is_directory: bool
    size: int
    modified: int
    is_link: bool = False


_NUMBER = re.compile(r"[0-9]+")


def _weigh(number: re.Match[str]) -> str:
    # A number with more digits is the larger one, so with their count before them numbers compare as text does.
    digits = number[0].lstrip("0")
    return f"0{chr(len(digits))}{digits}"


def name_order(name: bytes) -> tuple[str, bytes]:
    """As people look for names: without case, and `part 9` before `part 10`. The bytes decide between equals."""
    text = name.decode("utf-8", "surrogateescape").casefold()
    return _NUMBER.sub(_weigh, text), name


_ABOVE = b"directory/"
"""Stands for the path of a directory that is not the root, which decides nothing but that it is none."""


def read_directory(fd: int, entries_max: int, at_root: bool) -> tuple[list[Item], bool]:
    """What may be shown of a directory, and whether there was more than `entries_max`: then those are the first in the
    order of names, directories before all else, and what may be shown is looked for among them. Raises OSError.

    It blocks, so it runs on a helper thread, and touches nothing but the descriptor, which stays the caller's. All
    names are read, and `entries_max` of them are kept.
    at_root: whether this is the root of the site, where `.well-known` is for everybody (RFC 8615).
    """
    if not _may(fd, b".", os.X_OK):
        # The names could be read, but nothing behind them: this would look like an empty directory.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with os.scandir(fd) as entries:
        # A name of a descriptor's is text, and `fsencode` is how it came by that.
        names = ((not entry.is_dir(follow_symlinks=False), os.fsencode(entry.name)) for entry in entries)
        shown = (name for name in names if not is_hidden(name[1] if at_root else _ABOVE + name[1]))
        first = heapq.nsmallest(entries_max + 1, shown, key=lambda name: (name[0], name_order(name[1])))
    looked_at = (_look(fd, name) for _is_no_directory, name in first[:entries_max])
    return [item for item in looked_at if item is not None], len(first) > entries_max


def _look(fd: int, name: bytes) -> Item | None:
    """What a name stands for; None if there is nothing that a visitor could read."""
    try:
        # Not following comes first: were a file replaced by a link after we had been told that it is none, we would
        # show the size of something outside of the root.
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        is_link = stat.S_ISLNK(status.st_mode)
        if is_link:
            status = os.stat(name, dir_fd=fd)
    except OSError:
        return None  # it has vanished, or is a link to nothing, in a circle, or to where we may not go
    is_directory = stat.S_ISDIR(status.st_mode)
    if not is_directory and not stat.S_ISREG(status.st_mode):
        return None
    # A directory that can be entered but not read may have an index, so entering is what counts.
    if not _may(fd, name, os.X_OK if is_directory else os.R_OK):
        return None
    return Item(name, is_directory, 0 if is_directory else status.st_size, status.st_mtime_ns // NANOSECONDS, is_link)


def _may(fd: int, name: bytes, mode: int) -> bool:
    """Whether this process could, by the ids that the kernel would look at."""
    return os.access(name, mode, dir_fd=fd, effective_ids=True)
