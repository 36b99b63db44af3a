"""Which directories inotify watches, and what its events mean for the table of files.

Every directory on the way to a path is watched before the path is opened, the root first; no file is watched itself,
since a file is mostly replaced by a rename, and a watch would stay with the one that is gone. What a watch does not
show is found by the look after a second (`table.py`).
"""

from __future__ import annotations

import errno
from typing import Protocol

from ringserve.files.entries import Key
from ringserve.ring.tasks import Kind, Task, Tasks
from ringserve.ring.world import ChangeKind, errno_name

WATCHES_MAX = 4096
"""Directories that are watched; deeper trees rely on the look after a second."""
BURST_EVENTS = 512
"""As many events in one read: a deploy. Dropping everything is cheaper than looking for each."""


class Load(Protocol):
    """A path that is being loaded. spoiled: it changed meanwhile."""

    spoiled: bool


class Table(Protocol):
    """What is told of changes, and opens directories."""

    def changed(self, key: Key) -> None:
        """What is at `key` is not what it was."""

    def changed_below(self, prefix: Key | None) -> None:
        """Every path that begins with `prefix` may stand for something else now. None: every path there is."""

    async def watch(self, task: Task, key: Key) -> int:
        """Have changes in a directory noticed; see `Ring.watch`. Raises OSError."""


class Watches:
    """Which directories inotify watches, and what its events mean for the table."""

    def __init__(self, table: Table, tasks: Tasks) -> None:
        self._table = table
        self._tasks = tasks
        self._ring = tasks.ring
        self._said: set[str] = set()
        self._by_key: dict[Key, int] = {}
        self._by_watch: dict[int, dict[Key, None]] = {}
        """In the order in which they came: a set would be ordered by a seed of the process."""
        self._missing: set[Key] = set()
        self._watching = False
        self._user_data = 0

    def start(self) -> None:
        """Begin to hear of changes; where there are no events it is said once, and nothing is watched."""
        self._watching = True
        self._user_data = self._tasks.register(Kind.SHARED, self._changed)
        self._ring.await_changes(self._user_data)

    def covers(self, key: Key) -> bool:
        """Whether every directory on the way to `key` is watched, or none can be."""
        return not self._watching or Key(key.root, key.path[: key.path.rfind(b"/") + 1]) in self._by_key

    async def cover(self, task: Task, key: Key, load: Load) -> None:
        """Watch every directory on the way to `key`, the root first.

        If a directory is replaced after it was opened and before it is watched, the load is marked stale and the watch
        is dropped (it would be on the old directory).
        """
        if not self._watching:
            return
        parts = key.path.split(b"/")[:-1]
        for depth in range(len(parts) + 1):
            prefix = Key(key.root, b"".join(part + b"/" for part in parts[:depth]))
            if prefix in self._by_key:
                continue
            if len(self._by_key) >= WATCHES_MAX:
                self._say_unwatched(f"{WATCHES_MAX} directories are watched, and no more will be")
                return
            try:
                watch = await self._table.watch(task, prefix)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    self._say_unwatched("no more directories can be watched; raise fs.inotify.max_user_watches")
                elif error.errno != errno.EACCES:  # one that may be entered and not read
                    self._say_unwatched(f"a directory cannot be watched ({error.strerror})")
                return
            if watch < 0:
                # It has no files to be served from. But a symbolic link in its place may come to stand for one that
                # has, and the event of its coming does not say that it is a directory.
                if len(self._missing) >= WATCHES_MAX:
                    self._missing.clear()
                self._missing.add(prefix)
                return
            if load.spoiled or not self._watching:
                if watch not in self._by_watch:
                    self._ring.unwatch(watch)
                return
            # Two paths to one directory, through a symbolic link, share the watch.
            self._by_key[prefix] = watch
            self._by_watch.setdefault(watch, {})[prefix] = None

    def _say_unwatched(self, why: str) -> None:
        """Once for each reason: the look after a second remains."""
        if why not in self._said:
            self._said.add(why)
            self._tasks.report("{}: changes of files in the others are noticed within a second, not at once", why)

    def _changed(self, res: int, _buffer: int, more: bool) -> None:
        if not more:
            self._tasks.forget(self._user_data)
            if not self._watching:
                return  # it was stopped
            self._watching = False
            limit = "; raise fs.inotify.max_user_instances" if res == -errno.EMFILE else ""
            self._tasks.report(
                "no inotify ({}): changed files are noticed within a second, not at once{}", errno_name(res), limit
            )
            return
        changes = self._ring.changes()
        if changes is None or len(changes) >= BURST_EVENTS:
            self._drop_everything()
            return
        for change in changes:
            self._apply(*change)

    def _drop_everything(self) -> None:
        """The events tell less than what happened: directories may have been replaced, so the watches go too."""
        self._table.changed_below(None)
        self._forget_below(None)

    def _apply(self, watch: int, kind: ChangeKind, name: bytes) -> None:
        for prefix in tuple(self._by_watch.get(watch, ())):
            if kind is ChangeKind.GONE:
                self._table.changed_below(prefix)
                self._forget_below(prefix)
                continue
            if kind is ChangeKind.ALTERED:
                self._table.changed_below(prefix)
                continue
            key = Key(prefix.root, prefix.path + name)
            self._table.changed(key)
            below = Key(key.root, key.path + b"/")
            is_known = below in self._by_key or below in self._missing
            if kind is ChangeKind.DIRECTORY or (kind is ChangeKind.NAME and is_known):
                # A directory, or a symbolic link that stood for one or may do so now, is another one.
                self._table.changed_below(below)
                self._forget_below(below)
                self._missing.discard(below)

    def _forget_below(self, prefix: Key | None) -> None:
        for key in [key for key in self._by_key if key.is_below(prefix)]:
            watch = self._by_key.pop(key)
            keys = self._by_watch[watch]
            del keys[key]
            if not keys:
                del self._by_watch[watch]
                self._ring.unwatch(watch)

    def shut(self) -> None:
        """Stop all watches."""
        if self._watching:
            self._watching = False
            self._forget_below(None)
            self._tasks.ring.cancel(self._user_data)
