"""Whether the paths of the roots still lead to the directories that are served, and what is done if not.

A deploy may replace the whole directory: `rm -rf dist; mkdir dist`, a rename, another target of a symbolic link, a
mount. Then the descriptor that was opened at the start is that of a directory which nobody sees any more. So each path
is looked at twice a second, and at once when the watch of the directory says that it has another name or none. What is
another directory is opened, by a helper, and takes the place of the old one; the descriptor of that is closed when
nobody uses it. While it is open its inode is not given to another.

A path that leads to nothing is perhaps about to be replaced: what is there no more is served until the next look. Then
everything is 404 until a directory is there again.

Rejected: a watch of the directory above, which may be a busy one (/tmp), and each of its events would wake the loop.
"""

from __future__ import annotations

import contextlib
import errno
import math
import stat
from collections.abc import Callable, Sequence
from typing import Protocol

from ringserve.ring.tasks import HelpersBusyError, Signal, Task, Tasks
from ringserve.ring.world import FileStatus, Root, errno_name

LOOK_EVERY_S = 0.5
"""So that another directory is served within a second."""
GONE_AFTER_S = 0.3
"""For which a path has to lead to nothing: longer than a deploy takes between two renames, and less than a look."""
ROOTS = "roots"
"""The helpers' lane that opens them."""
GONE = (-errno.ENOENT, -errno.ENOTDIR)


class Table(Protocol):
    """What is told of roots."""

    def replace_root(self, number: int, root: Root) -> None:
        """Another directory is served from now on; the descriptor of the old one is closed when nobody uses it."""

    def lose_root(self, number: int) -> None:
        """There is no directory."""


class RootsEndedError(Exception):
    """Nobody looks after the roots any more."""


class Roots:
    """See the module.

    roots: by their numbers, as they are now. paths: theirs, from the top of the file system and without the slash
    before them. top: that directory. open_directory: opens one by such a path, with that slash; raises OSError.
    """

    def __init__(
        self, tasks: Tasks, table: Table, roots: list[Root], paths: Sequence[bytes], top: Root,
        open_directory: Callable[[bytes], int],
    ) -> None:  # fmt: skip
        self._tasks = tasks
        self._ring = tasks.ring
        self._table = table
        self._roots = roots
        self._paths = paths
        self._top = top
        self._open_directory = open_directory
        self._due = Signal()
        self._keepers: list[Task] = []
        self._said: set[int] = set()
        self._over = False

    def start(self) -> None:
        """Begin to look after them."""
        for number in range(len(self._roots)):
            keeper = Task(self._tasks)
            keeper.begin(self._keep(keeper, number))
            self._keepers.append(keeper)
        self._tasks.call_at(self._ring.now + LOOK_EVERY_S, self._look_later)

    def look(self) -> None:
        """Look at all of them now."""
        self._due.raise_()

    def _look_later(self) -> float | None:
        self.look()
        return None if self._over else self._ring.now + LOOK_EVERY_S

    async def _keep(self, task: Task, number: int) -> None:
        missing_since = math.inf
        with contextlib.suppress(RootsEndedError):
            served = identity_of(await task.look(self._roots[number], b"."))
            while True:
                await task.wait(self._due)
                found = await task.look(self._top, self._paths[number])
                if found in GONE:
                    missing_since = min(missing_since, self._ring.now)
                    if served is not None and self._ring.now - missing_since >= GONE_AFTER_S:
                        self._table.lose_root(number)
                        served = None
                    continue
                missing_since = math.inf
                identity = identity_of(found)
                if identity is not None and identity != served:
                    served = await self._replace(task, number) or served
                elif isinstance(found, int) and found != -errno.EBUSY:  # its file system hangs, or is slow
                    self._say(number, errno_name(found))

    async def _replace(self, task: Task, number: int) -> tuple[int, int] | None:
        """Open what a path leads to now, and have it served. Returns its identity, if that was done."""
        path = b"/" + self._paths[number]
        opened: list[int] = []

        def leave() -> None:
            if self._over:
                self._close(opened)

        try:
            await self._tasks.call(lambda: opened.append(self._open_directory(path)), ROOTS, cleanup=leave).result(task)
            root = self._roots[number]._replace(directory=opened[0])
            identity = identity_of(await task.look(root, b"."))
        except HelpersBusyError:
            return None  # the next look tries again
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                self._say(number, errno_name(-(error.errno or errno.EIO)))
            self._close(opened)
            return None
        except RootsEndedError:
            self._close(opened)
            raise
        self._roots[number] = root
        self._table.replace_root(number, root)
        self._said.discard(number)
        return identity

    def _close(self, opened: list[int]) -> None:
        while opened:
            self._ring.close(opened.pop())

    def _say(self, number: int, why: str) -> None:
        """Once, until it can be opened."""
        if number not in self._said:
            self._said.add(number)
            name = (b"/" + self._paths[number]).decode(errors="backslashreplace")
            self._tasks.report("cannot open {} anew: {}; what was opened at the start is served", name, why)

    def shut(self) -> None:
        """Look no more."""
        self._over = True
        for keeper in self._keepers:
            keeper.interrupt(RootsEndedError())


def identity_of(found: FileStatus | int) -> tuple[int, int] | None:
    """Device and inode of a directory; None of anything else."""
    return (found.device, found.inode) if isinstance(found, FileStatus) and stat.S_ISDIR(found.mode) else None
