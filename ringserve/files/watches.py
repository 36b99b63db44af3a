"""Which directories inotify watches, and what its events mean for the table of files.

Every directory on the way to a path is watched before the path is opened, the root first; no file is watched itself,
since a file is mostly replaced by a rename, and a watch would stay with the one that is gone. What a watch does not
show is found by the look after a while (`table.py`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from ringserve.files.names import Names
from ringserve.files.tree import Load, Place, Tree, directory_of
from ringserve.ring.tasks import Kind, Task, Tasks
from ringserve.ring.world import ChangeKind, errno_name

WATCHES_MAX = 4096
"""Directories that are watched; deeper trees rely on the look after a second."""
UNWATCHED_BYTES_MAX = 512
"""A longer path of one that is not watched is found out anew each time."""
BURST_EVENTS = 512
"""As many events in one read: a deploy. Dropping everything is cheaper than looking for each."""
BELOW_MAX = 32
"""And as many directories of a root that went or came at once: each entry would be held against all of them."""


class Table(Protocol):
    """What is told of changes, and opens directories."""

    def changed(self, tree: Tree, path: bytes) -> None:
        """What is at a path is not what it was."""

    async def watch(self, task: Task, tree: Tree, prefix: bytes) -> int:
        """Have changes in a directory noticed; see `Ring.watch`. Raises OSError."""


class Watches:
    """Which directories inotify watches, and what its events mean for the table.

    names: what is in the directories, as far as it is known. watching: whether there are events.
    """

    def __init__(self, table: Table, tasks: Tasks, names_bytes_max: int) -> None:
        self._table = table
        self._tasks = tasks
        self._ring = tasks.ring
        self.names = Names(tasks, self, names_bytes_max)
        self.watching = False
        self._root_gone: Callable[[], None] = lambda: None
        self._said: set[str] = set()
        self._by_watch: dict[int, dict[tuple[Tree, bytes], None]] = {}
        """In the order in which they came: a set would be ordered by a seed of the process."""
        self._count = 0
        self._user_data = 0

    def start(self, root_gone: Callable[[], None]) -> None:
        """Begin to hear of changes; where there are no events it is said once, and nothing is watched. root_gone:
        called when a root's directory has another name, or none.
        """
        self.watching = True
        self._root_gone = root_gone
        self._user_data = self._tasks.register(Kind.SHARED, self._changed)
        self._ring.await_changes(self._user_data)

    def covers(self, tree: Tree, path: bytes) -> bool:
        """Whether every directory on the way to `path` is watched, or cannot be."""
        prefix = directory_of(path)
        return not self.watching or prefix in tree.places or prefix in tree.unwatched

    async def cover(self, task: Task, tree: Tree, path: bytes, load: Load) -> None:
        """Watch every directory on the way to a path, the root first.

        If a directory is replaced after it was opened and before it is watched, the load is marked stale and the watch
        is dropped (it would be on the old directory).
        """
        if self.covers(tree, path):
            return
        end = 0
        while end >= 0:
            prefix = path[:end]
            if prefix not in tree.places and not await self._cover_one(task, tree, prefix, load):
                if not load.spoiled:
                    self._note_unwatched(tree, prefix, directory_of(path))
                return
            end = path.find(b"/", end) + 1 or -1

    async def _cover_one(self, task: Task, tree: Tree, prefix: bytes, load: Load) -> bool:
        if self._count >= WATCHES_MAX:
            self._say_unwatched(f"{WATCHES_MAX} directories are watched, and no more will be")
            return False
        try:
            watch = await self._table.watch(task, tree, prefix)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                self._say_unwatched("no more directories can be watched; raise fs.inotify.max_user_watches")
            elif error.errno != errno.EACCES:  # one that may be entered and not read
                self._say_unwatched(f"a directory cannot be watched ({error.strerror})")
            return False
        if watch < 0:
            # It has no files to be served from. But a symbolic link in its place may come to stand for one that
            # has, and the event of its coming does not say that it is a directory.
            return False
        if load.spoiled or not self.watching:
            self._unwatch(watch)
            return False
        if prefix not in tree.places:  # by another task meanwhile
            tree.places[prefix] = Place(watch)
            self._count += 1
            # Two paths to one directory, through a symbolic link, share the watch.
            self._by_watch.setdefault(watch, {})[tree, prefix] = None
        return True

    @staticmethod
    def _note_unwatched(tree: Tree, prefix: bytes, directory: bytes) -> None:
        """prefix: what is not watched on the way to a directory."""
        if len(tree.unwatched) >= WATCHES_MAX:
            tree.unwatched.clear()
        tree.unwatched.update(each for each in (prefix, directory) if len(each) <= UNWATCHED_BYTES_MAX)

    def _unwatch(self, watch: int) -> None:
        if watch not in self._by_watch:
            self._ring.unwatch(watch)

    def _say_unwatched(self, why: str) -> None:
        """Once for each reason: the look after a second remains."""
        if why not in self._said:
            self._said.add(why)
            self._tasks.report("{}: changes of files in the others are noticed within a second, not at once", why)

    async def is_watched(self, task: Task, tree: Tree, prefix: bytes) -> bool:
        """See `Watched`."""
        watch = await self._table.watch(task, tree, prefix)
        if watch < 0:
            return False
        place = tree.places.get(prefix)
        if place is None or place.watch != watch:
            self._unwatch(watch)
            return False
        return True

    # -- events -------------------------------------------------------------------------------------------------

    def _changed(self, res: int, _buffer: int, more: bool) -> None:
        if not more:
            self._tasks.forget(self._user_data)
            if not self.watching:
                return  # it was stopped
            self.watching = False
            limit = "; raise fs.inotify.max_user_instances" if res == -errno.EMFILE else ""
            self._tasks.report(
                "no inotify ({}): changed files are noticed within a second, not at once{}", errno_name(res), limit
            )
            return
        changes = self._ring.changes()
        if changes is None or len(changes) >= BURST_EVENTS:
            # The events tell less than what happened: directories may have been replaced, so the watches go too.
            for tree in {tree: None for keys in self._by_watch.values() for tree, _prefix in keys}:
                self.drop_below(tree, (b"",))
            return
        below: dict[Tree, dict[bytes, None]] = {}
        for change in changes:
            for tree, prefix in self._by_watch.get(change.watch, ()):
                gone = self._apply(tree, prefix, change.kind, change.name)
                if gone is not None:
                    below.setdefault(tree, {})[gone] = None
        for tree, prefixes in below.items():
            self.drop_below(tree, tuple(prefixes) if len(prefixes) <= BELOW_MAX else (b"",))

    def _apply(self, tree: Tree, prefix: bytes, kind: ChangeKind, name: bytes) -> bytes | None:
        """What a change means for one path that leads to its directory. Returns the prefix of all paths that may stand
        for something else now, if there is one.
        """
        if kind is ChangeKind.GONE or kind is ChangeKind.ALTERED:
            if kind is ChangeKind.GONE and not prefix:
                self._root_gone()
            return prefix
        path = prefix + name
        self._table.changed(tree, path)
        if kind is ChangeKind.CONTENT:
            return None
        place = tree.places.get(prefix)
        if place is not None:
            self.names.came(place, name)
        # A directory, or a symbolic link that stood for one or may do so now, is another one.
        below = path + b"/"
        return below if below in tree.places or below in tree.unwatched else None

    def drop_below(self, tree: Tree, prefixes: tuple[bytes, ...]) -> None:
        """Forget what is known below some directories, and watch them no more."""
        tree.changed_below(prefixes)
        for prefix in [prefix for prefix in tree.unwatched if prefix.startswith(prefixes)]:
            tree.unwatched.discard(prefix)
        for prefix in [prefix for prefix in tree.places if prefix.startswith(prefixes)]:
            place = tree.places.pop(prefix)
            self._count -= 1
            self.names.forget(place)
            keys = self._by_watch[place.watch]
            del keys[tree, prefix]
            if not keys:
                del self._by_watch[place.watch]
                self._ring.unwatch(place.watch)

    def moved(self, tree: Tree, prefix: bytes) -> None:
        """See `Watched`."""
        self.drop_below(tree, (prefix,))

    def shut(self) -> None:
        """Stop all watches."""
        self.names.shut()
        if self.watching:
            self.watching = False
            self._tasks.ring.cancel(self._user_data)
