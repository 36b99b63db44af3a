"""What it means for a request that a path could not be opened, and how that is said."""

from __future__ import annotations

import errno
from collections.abc import Callable

from ringserve.files.entries import Entry, Failure
from ringserve.ring.world import errno_name

NOT_FOUND = frozenset(
    (
        errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EINVAL,
        errno.EXDEV,
    )
)  # fmt: skip


def is_passing(entry: Entry) -> bool:
    """Whether it is a failure that says nothing of the path (no descriptor left, a disk error), and is not kept."""
    return isinstance(entry, Failure) and entry.status >= 500


def shown(path: bytes) -> str:
    """A path below a root for people, on one line."""
    name = path.decode(errors="backslashreplace")
    return "/" + "".join(character if character.isprintable() else ascii(character)[1:-1] for character in name)


def status_of_open(report: Callable[..., None], path: bytes, res: int) -> int:
    """The HTTP status for an open that failed with `res`. report: told of what is not the client's mistake."""
    if -res in NOT_FOUND:
        return 404
    if -res == errno.EBUSY:
        return 503  # too many wait for what is slow, or hangs
    name = shown(path)
    if -res in (errno.EACCES, errno.EPERM):
        return 403
    if -res in (errno.EMFILE, errno.ENFILE, errno.EAGAIN):
        report("cannot open {}: {}; if it goes on, raise the limit of open files (ulimit -n)", name, errno_name(res))
        return 503
    report("cannot open {}: {}", name, errno_name(res))
    return 500
