"""The names in watched directories: what is not among them is not there, and nobody has to be asked.

A directory is read once, as a whole, by a task of its own, when something in it was asked for. Its watch is there
before, and it is the directory that is read: between two looks that find the same device and inode, the watch of that
path is asked for once more, and has the same number. From then on each event adds its name. A name is never taken out,
since an event does not say whether its name came or went; that a name is known only says that it is to be asked for.

Once a second, when it is used, the path is looked at: whether it still leads to that directory.

What is prepared from a missing name is fresh as long as the directory has no new name.
"""

from __future__ import annotations

import contextlib
import errno
import math
from typing import Protocol

from ringserve.files.entries import Failure, Freshness
from ringserve.files.tree import Place, Tree, missing
from ringserve.ring.tasks import Task, Tasks
from ringserve.ring.world import FileStatus

FRESH_S = 1.0
"""How old an answer from memory may be, and how long a directory is believed to be where it was."""
NAME_BYTES = 112
"""What a name takes in a set, beside its bytes."""
SHARE_OF_ONE = 4
"""A directory may take this part of the memory for names; a larger one is not known."""
READ_AGAIN_S = 60.0
"""When a directory that could not be known is tried again."""


class Watched(Protocol):
    """Who watches the directories."""

    async def is_watched(self, task: Task, tree: Tree, prefix: bytes) -> bool:
        """Whether the watch of a place is on what its path leads to now. Raises OSError."""

    def moved(self, tree: Tree, prefix: bytes) -> None:
        """A path leads to another directory than it did, and no event told of it."""


class NamesEndedError(Exception):
    """The table was shut."""


class Names:
    """See the module. bytes_max: memory for all names."""

    def __init__(self, tasks: Tasks, watched: Watched, bytes_max: int) -> None:
        self._tasks = tasks
        self._watched = watched
        self._ring = tasks.ring
        self._bytes_max = bytes_max
        self.memory_bytes = 0
        self._known: dict[Place, None] = {}
        """In the order in which they were read."""
        self._wanted: dict[Place, tuple[Tree, bytes]] = {}
        self._reader: Task | None = None

    def missing(self, tree: Tree, path: bytes) -> Failure | None:
        """The failure that a path stands for, if it or a directory on its way is known not to be there."""
        end = len(path) - path.endswith(b"/")
        while end > 0:
            at = path.rfind(b"/", 0, end) + 1
            prefix = path[:at]
            place = tree.places.get(prefix)
            if place is not None:
                names = self.known(tree, prefix, place)
                return None if names is None or path[at:end] in names else missing(path, place.freshness)
            end = at - 1
        return None

    def known(self, tree: Tree, prefix: bytes, place: Place) -> set[bytes] | None:
        """The names in a directory: what is not among them is not there. If they are not known, it is read later."""
        now = self._ring.now
        names = place.names
        if names is None:
            if place.read_again_at <= now:
                self._want(tree, prefix, place)
            return None
        if place.freshness.until > now:
            return names
        found = self._ring.look(None, tree.root, prefix or b".")
        if not isinstance(found, FileStatus) or (found.device, found.inode) != place.identity:
            self.forget(place)
            self._want(tree, prefix, place)
            return None
        place.freshness.until = now + FRESH_S
        return names

    def came(self, place: Place, name: bytes) -> None:
        """There may be a name that was not there before."""
        if place.came is not None:
            place.came.append(name)
        names = place.names
        if names is None or name in names:
            return
        names.add(name)
        place.freshness.until = 0.0
        place.freshness = Freshness(self._ring.now + FRESH_S)
        self._count(place, NAME_BYTES + len(name))
        if place.names_bytes > self._bytes_max // SHARE_OF_ONE:
            self.forget(place)  # mostly of what is gone; it is read anew

    def forget(self, place: Place) -> None:
        """Its names are not known any more."""
        place.freshness.until = 0.0
        if place.came is not None:
            place.came = None  # who reads it finds out
        if place.names is not None:
            place.names = None
            self._count(place, -place.names_bytes)
            del self._known[place]

    def _count(self, place: Place, count: int) -> None:
        place.names_bytes += count
        self.memory_bytes += count

    # -- reading ------------------------------------------------------------------------------------------------

    def _want(self, tree: Tree, prefix: bytes, place: Place) -> None:
        """Have a directory read, one after the other."""
        place.read_again_at = math.inf
        self._wanted[place] = tree, prefix
        if self._reader is None or self._reader.finished:
            self._reader = Task(self._tasks)
            self._reader.begin(self._read_all(self._reader))

    async def _read_all(self, task: Task) -> None:
        with contextlib.suppress(NamesEndedError):
            while self._wanted:
                place, (tree, prefix) = next(iter(self._wanted.items()))
                del self._wanted[place]
                if tree.places.get(prefix) is place:
                    await self._read_one(task, tree, prefix, place)

    async def _read_one(self, task: Task, tree: Tree, prefix: bytes, place: Place) -> None:
        place.came = []
        tree.hold()
        try:
            found = await self._read(task, tree, prefix, place)
        except OSError:
            found = -errno.EIO
        finally:
            tree.release()
        came, place.came = place.came, None
        place.read_again_at = 0.0
        if isinstance(found, int):
            place.read_again_at = self._ring.now + (FRESH_S if found == -errno.EAGAIN else READ_AGAIN_S)
        elif came is not None and tree.places.get(prefix) is place:
            self._keep(place, set(found).union(came))

    async def _read(self, task: Task, tree: Tree, prefix: bytes, place: Place) -> frozenset[bytes] | int:
        """Every name in a directory. -EAGAIN: it is another one meanwhile. Raises OSError."""
        root, path = tree.root, prefix or b"."
        before = await task.look(root, path)
        if isinstance(before, int) or not await self._watched.is_watched(task, tree, prefix):
            self._watched.moved(tree, prefix)
            return -errno.EAGAIN
        names = await task.inventory(root, prefix, self._bytes_max // SHARE_OF_ONE)
        if isinstance(names, int):
            return -errno.EAGAIN if names == -errno.EBUSY else names
        after = await task.look(root, path)
        place.identity = before.device, before.inode
        is_same = not isinstance(after, int) and (after.device, after.inode) == place.identity
        return names if is_same else -errno.EAGAIN

    def _keep(self, place: Place, names: set[bytes]) -> None:
        held = sum(map(len, names)) + NAME_BYTES * len(names)
        if held > self._bytes_max // SHARE_OF_ONE:
            place.read_again_at = self._ring.now + READ_AGAIN_S
            return
        place.names = names
        place.freshness = Freshness(self._ring.now + FRESH_S)
        self._known[place] = None
        self._count(place, held)
        while self.memory_bytes > self._bytes_max:
            oldest = next(iter(self._known))
            self.forget(oldest)
            oldest.read_again_at = self._ring.now + READ_AGAIN_S

    def shut(self) -> None:
        """Read no more."""
        self._wanted.clear()
        if self._reader is not None:
            self._reader.interrupt(NamesEndedError())
