"""Which directories inotify watches, and what its events mean for the table of files.

Every directory on the way to a path is watched before the path is opened, the root first; no file is watched itself,
since a file is mostly replaced by a rename, and a watch would stay with the one that is gone. What a watch does not
show is found by the look after a second (`table.py`).
"""

from __future__ import annotations

import errno
from typing import Protocol

from ringserve.files.entries import Key
from ringserve.ring.linux.inotify import IN_DELETE_SELF, IN_IGNORED, IN_ISDIR, IN_MODIFY, IN_MOVE_SELF, IN_Q_OVERFLOW
from ringserve.ring.tasks import Task, Tasks
from ringserve.ring.world import Watched, errno_name

WATCHES_MAX = 4096
"""Directories that are watched; deeper trees rely on the look after a second."""
BURST_EVENTS = 512
"""As many events in one read: a deploy. Dropping everything is cheaper than looking for each."""
EVENT_BUFFER_BYTES = 65536


class Load(Protocol):
    """A path that is being loaded. spoiled: it changed meanwhile."""

    spoiled: bool


class Table(Protocol):
    """What is told of changes, and opens directories."""

    def changed(self, key: Key) -> None:
        """What is at `key` is not what it was."""

    def changed_below(self, prefix: Key | None) -> None:
        """Every path that begins with `prefix` may stand for something else now. None: every path there is."""

    async def open_directory(self, task: Task, key: Key) -> int:
        """A descriptor that only names a directory, or a negative errno."""

    def close(self, fd: int) -> None:
        """Give a descriptor of `open_directory` back."""


class Watches:
    """Which directories inotify watches, and what its events mean for the table."""

    def __init__(self, table: Table, tasks: Tasks) -> None:
        self._table = table
        self._fd = -1
        self._tasks = tasks
        self._ring = tasks.ring
        self._said: set[str] = set()
        self._by_key: dict[Key, int] = {}
        self._by_watch: dict[int, dict[Key, None]] = {}
        self._missing: set[Key] = set()
        self._task: Task | None = None

    def start(self) -> None:
        """Begin to read the kernel's events; without inotify it is said once, and nothing is watched."""
        try:
            self._fd = self._ring.watch_open()
        except OSError as error:
            limit = "; raise fs.inotify.max_user_instances" if error.errno == errno.EMFILE else ""
            self._tasks.report(
                "no inotify ({}): changed files are noticed within a second, not at once{}", error.strerror, limit
            )
            return
        self._task = self._tasks.start(self._read_events())

    def covers(self, key: Key) -> bool:
        """Whether every directory on the way to `key` is watched, or none can be."""
        return self._fd < 0 or Key(key.root, key.path[: key.path.rfind(b"/") + 1]) in self._by_key

    async def cover(self, task: Task, key: Key, load: Load) -> None:
        """Watch every directory on the way to `key`, the root first.

        If a directory is replaced after it was opened and before it is watched, the load is marked stale and the watch
        is dropped (it would be on the old directory).
        """
        if self._fd < 0:
            return
        parts = key.path.split(b"/")[:-1]
        for depth in range(len(parts) + 1):
            prefix = Key(key.root, b"".join(part + b"/" for part in parts[:depth]))
            if prefix in self._by_key:
                continue
            if len(self._by_key) >= WATCHES_MAX:
                self._say_unwatched(f"{WATCHES_MAX} directories are watched, and no more will be")
                return
            fd = await self._table.open_directory(task, prefix)
            if fd < 0:
                # It has no files to be served from. But a symbolic link in its place may come to stand for one that
                # has, and the event of its coming does not say that it is a directory.
                if len(self._missing) >= WATCHES_MAX:
                    self._missing.clear()
                self._missing.add(prefix)
                return
            try:
                if load.spoiled or self._fd < 0:
                    return
                watch = self._ring.watch_add(self._fd, fd)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    self._say_unwatched("no more directories can be watched; raise fs.inotify.max_user_watches")
                elif error.errno != errno.EACCES:  # one that may be entered and not read
                    self._say_unwatched(f"a directory cannot be watched ({error.strerror})")
                return
            finally:
                self._table.close(fd)
            # Two paths to one directory, through a symbolic link, share the kernel's watch.
            self._by_key[prefix] = watch
            self._by_watch.setdefault(watch, {})[prefix] = None

    def _say_unwatched(self, why: str) -> None:
        """Once for each reason: the look after a second remains."""
        if why not in self._said:
            self._said.add(why)
            self._tasks.report("{}: changes of files in the others are noticed within a second, not at once", why)

    async def _read_events(self) -> None:
        task = self._task
        assert task is not None
        buffer = self._ring.buffer(EVENT_BUFFER_BYTES)
        try:
            while True:
                res = await task.read(self._fd, buffer, 0, -1)
                if res <= 0:
                    self._tasks.report(
                        "inotify: {}; changed files are noticed within a second, not at once", errno_name(res)
                    )
                    break
                self._take(self._ring.watch_events(bytes(buffer.memory[:res])))
        except WatchEndedError:
            pass
        fd, self._fd = self._fd, -1
        self._table.close(fd)

    def _take(self, events: list[Watched]) -> None:
        if len(events) >= BURST_EVENTS or any(event.mask & IN_Q_OVERFLOW for event in events):
            self._drop_everything()
            return
        for event in events:
            self._apply(event.watch, event.mask, event.name)

    def _drop_everything(self) -> None:
        """The events tell less than what happened: directories may have been replaced, so the watches go too."""
        self._table.changed_below(None)
        self._forget_below(None)

    def _apply(self, watch: int, mask: int, name: bytes) -> None:
        for prefix in tuple(self._by_watch.get(watch, ())):
            if mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED):
                self._table.changed_below(prefix)
                self._forget_below(prefix)
                continue
            if not name:  # the directory itself: its permissions, say
                self._table.changed_below(prefix)
                continue
            key = Key(prefix.root, prefix.path + name)
            self._table.changed(key)
            below = Key(key.root, key.path + b"/")
            if mask & IN_ISDIR or (not mask & IN_MODIFY and (below in self._by_key or below in self._missing)):
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
                self._ring.watch_remove(self._fd, watch)

    def shut(self) -> None:
        """Stop all watches, and the reading."""
        if self._fd >= 0:
            self._forget_below(None)
            if self._task is not None:
                self._task.interrupt(WatchEndedError())


class WatchEndedError(Exception):
    """The server stops."""
