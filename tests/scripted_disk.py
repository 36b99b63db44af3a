"""A world of files that is what a test says: some are known at once, and others take a turn. It counts what is asked.

It is no file system: there is one level of links, and nothing is checked that the table does not rely on.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from fakes import world_of

from ringserve.ring.tasks import Tasks
from ringserve.ring.world import Change, ChangeKind, Completion, FileStatus, Loaded, Names, Rank, Root

WALL_S = 1_700_000_000.0
OLD_NS = 1_600_000_000 * 10**9
ROOT = Root(3)


class Node(NamedTuple):
    """A file, or a directory if it has no body."""

    inode: int
    body: bytes | None
    modified_ns: int = OLD_NS
    trusted: bool = True

    @property
    def status(self) -> FileStatus:
        mode = stat.S_IFDIR | 0o755 if self.body is None else stat.S_IFREG | 0o644
        return FileStatus(mode, 1, self.inode, len(self.body or b""), self.modified_ns, self.modified_ns)


class ScriptedDisk:
    """Ring and system in one.

    nodes: by path without a final slash; the root has none. at_once: whether questions without a user_data are
    answered. trusted: whether watches and inventories are given. asked: the verbs and their paths.
    meanwhile: called once, when an inventory has been read and before it is handed over.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.nodes: dict[bytes, Node] = {b"": Node(1, None)}
        self.at_once = True
        self.trusted = True
        self.asked: list[tuple[str, bytes]] = []
        self.closed: list[int] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.unwatched: list[int] = []
        self._inode = 1
        self._fd = 100
        self._changes: list[Change] | None = []
        self._owner = 0
        self._answers: dict[int, object] = {}
        self._completions: list[Completion] = []

    # -- the test's side ----------------------------------------------------------------------------------------

    def put(self, path: bytes, body: bytes | None = b"body", **rest: Any) -> None:
        """A file, or a directory, comes or is replaced, and nobody is told."""
        self._inode += 1
        self.nodes[path] = Node(self._inode, body, **rest)

    def tell(self, path: bytes, kind: ChangeKind = ChangeKind.NAME) -> None:
        """The event of a name in its directory."""
        directory, _slash, name = path.rpartition(b"/")
        if self._changes is not None:
            self._changes.append(Change(self.nodes[directory].inode, kind, name))

    def tell_of(self, directory: bytes, kind: ChangeKind) -> None:
        """The event of a directory itself."""
        assert self._changes is not None
        self._changes.append(Change(self.nodes[directory].inode, kind, b""))

    def lose_changes(self) -> None:
        """More happened than is known."""
        self._changes = None

    def _found(self, path: bytes) -> Node | int:
        node = self.nodes.get(path.rstrip(b"/") if path != b"." else b"", -errno.ENOENT)
        is_file = isinstance(node, Node) and node.body is not None
        return -errno.ENOTDIR if is_file and path.endswith(b"/") else node

    def _answer(self, user_data: int | None, answer: Any) -> Any:
        if user_data is None:
            return answer if self.at_once else None
        if isinstance(answer, int):
            self._completions.append((user_data, answer, -1, False))
        else:
            self._answers[user_data] = answer
            self._completions.append((user_data, 0, -1, False))
        return None

    # -- the ring -----------------------------------------------------------------------------------------------

    def turn(self, timeout_s: float) -> Iterable[Completion]:
        assert timeout_s >= 0
        completions, self._completions = self._completions, []
        if self._owner and self._changes != []:
            completions.insert(0, (self._owner, 0, -1, True))
        return completions

    def take(self, user_data: int) -> object:
        answer = self._answers.pop(user_data)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def call(self, user_data: int, job: Callable[[], object], _lane: str, _origin: str) -> None:
        self._answer(user_data, job())

    def look(self, user_data: int | None, _root: Root, path: bytes) -> FileStatus | int | None:
        self.asked.append(("look", path))
        found = self._found(path)
        answer: FileStatus | int | None = self._answer(user_data, found.status if isinstance(found, Node) else found)
        return answer

    def load(
        self, user_data: int | None, root: Root, path: bytes, body_bytes_max: int, closed_bytes_max: int
    ) -> Loaded | int | None:
        assert root.directory not in self.closed
        self.asked.append(("load", path))
        found = self._found(path)
        if isinstance(found, Node):
            body, fd = found.body, None
            if body is not None and len(body) > min(body_bytes_max, closed_bytes_max):
                self._fd += user_data is not None or self.at_once
                fd = self._fd
            held = body if body is not None and len(body) <= body_bytes_max else None
            found = Loaded(found.status, held, fd, found.trusted)  # type: ignore[assignment]
        answer: Loaded | int | None = self._answer(user_data, found)
        return answer

    def names(self, user_data: int, root: Root, path: bytes, names_max: int, rank: Rank) -> Names | int | None:
        raise NotImplementedError

    def inventory(
        self, user_data: int | None, _root: Root, path: bytes, bytes_max: int
    ) -> frozenset[bytes] | int | None:
        assert user_data is not None, "the table has a task for it"
        self.asked.append(("inventory", path))
        below = [name[len(path) :] for name in self.nodes if name.startswith(path) and name]
        names = frozenset(name for name in below if b"/" not in name)
        answer: frozenset[bytes] | int = names if sum(map(len, names)) <= bytes_max else -errno.E2BIG
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        self._answer(user_data, answer if self.trusted else -errno.EOPNOTSUPP)
        return None

    def watch(self, user_data: int, _root: Root, path: bytes) -> int | None:
        self.asked.append(("watch", path))
        found = self._found(path)
        number = found.inode if isinstance(found, Node) else found
        self._answer(user_data, number if self.trusted else -errno.EOPNOTSUPP)
        return None

    def await_changes(self, user_data: int) -> None:
        self._owner = user_data

    def changes(self) -> list[Change] | None:
        found, self._changes = self._changes, []
        return found

    def unwatch(self, watch: int) -> None:
        self.unwatched.append(watch)

    def cancel(self, user_data: int) -> None:
        raise NotImplementedError

    def close(self, fd: int) -> None:
        assert fd not in self.closed
        self.closed.append(fd)

    # -- the system ---------------------------------------------------------------------------------------------

    def wall_time_s(self) -> float:
        return WALL_S


def disk_tasks() -> tuple[ScriptedDisk, Tasks]:
    """A disk, and tasks on it."""
    disk = ScriptedDisk()
    return disk, Tasks(world_of(disk))
