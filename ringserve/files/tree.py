"""What is known below one root: its entries, its watched directories, and who is looking something up."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from ringserve.files.entries import Entry, Failure, File, Freshness
from ringserve.ring.tasks import Signal
from ringserve.ring.world import Root


class Load:
    """A path being loaded: who waits for it, and whether it changed meanwhile."""

    __slots__ = ("signal", "spoiled")

    def __init__(self) -> None:
        self.signal = Signal()
        self.spoiled = False


class Place:
    """A directory that is watched.

    names: every name in it, and perhaps some that are gone; None: not known. freshness: of what is not among them, and
    until when it is certain that the path leads to this directory. identity: its device and inode.
    came: the names of the events that came while it was read; None while nobody reads it.
    read_again_at: when it may be read, by the ring's clock.
    """

    __slots__ = ("came", "freshness", "identity", "names", "names_bytes", "read_again_at", "watch")

    def __init__(self, watch: int) -> None:
        self.watch = watch
        self.names: set[bytes] | None = None
        self.names_bytes = 0
        self.freshness = Freshness(0.0)
        self.identity = (0, 0)
        self.came: list[bytes] | None = None
        self.read_again_at = 0.0


class Held:
    """What all trees hold together."""

    __slots__ = ("entries", "memory_bytes")

    def __init__(self) -> None:
        self.entries = self.memory_bytes = 0


class Tree:
    """See the module.

    held: of all trees. lost: there is no directory at the moment.
    entries: by path, in the order of their last look. holders: those of them that keep descriptors.
    places: the watched directories. unwatched: directories that were asked for and are not watched.
    memory_bytes: of the entries.
    """

    __slots__ = (
        "_close", "_held", "_users", "entries", "holders", "loading", "lost", "memory_bytes", "number", "places",
        "root", "unwatched",
    )  # fmt: skip

    def __init__(self, root: Root, number: int, held: Held) -> None:
        self.root = root
        self.number = number
        self.lost = False
        self._held = held
        self._users = 0
        self._close: Callable[[int], None] | None = None
        self.entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.holders: dict[bytes, Entry] = {}
        self.loading: dict[bytes, Load] = {}
        self.places: dict[bytes, Place] = {}
        self.unwatched: set[bytes] = set()
        self.memory_bytes = 0

    def hold(self) -> None:
        """One more asks below the root's descriptor, and may wait."""
        self._users += 1

    def release(self) -> None:
        """One fewer."""
        self._users -= 1
        self._close_if_done()

    def retire(self, close: Callable[[int], None]) -> None:
        """Another takes its place; `close` gets the root's descriptor when nobody uses it."""
        self._close = close
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._close is not None and not self._users:
            self._close(self.root.directory)

    def size(self) -> int:
        """Bytes of the entries."""
        return self.memory_bytes

    def holding(self) -> int:
        """How many entries keep descriptors."""
        return len(self.holders)

    def store(self, entry: Entry) -> None:
        """Keep an entry in place of another."""
        path = entry.path
        if path in self.entries:
            self.drop(path)
        self.entries[path] = entry
        held, memory_bytes = self._held, entry.memory_bytes
        held.entries += 1
        held.memory_bytes += memory_bytes
        self.memory_bytes += memory_bytes
        if isinstance(entry, File) and entry.has_descriptor:
            self.holders[path] = entry

    def drop(self, path: bytes) -> None:
        """Forget an entry; what was prepared from it is not fresh any more, wherever that is remembered."""
        entry = self.entries.pop(path, None)
        if entry is None:
            return
        entry.freshness.until = 0.0
        held, memory_bytes = self._held, entry.memory_bytes
        held.entries -= 1
        held.memory_bytes -= memory_bytes
        self.memory_bytes -= memory_bytes
        if isinstance(entry, File):
            self.holders.pop(path, None)
            entry.retire()

    def changed(self, path: bytes) -> None:
        """What is at a path is not what it was."""
        self.drop(path)
        load = self.loading.get(path)
        if load is not None:
            load.spoiled = True

    def changed_below(self, prefixes: tuple[bytes, ...]) -> None:
        """Every path that begins with one of `prefixes` may stand for something else now."""
        for path in [path for path in (*self.entries, *self.loading) if path.startswith(prefixes)]:
            self.changed(path)


def directory_of(path: bytes) -> bytes:
    """The directory in which a path is looked up, or nothing for the root's own."""
    return path[: path.rfind(b"/") + 1]


def missing(path: bytes, freshness: Freshness) -> Failure:
    """What is not there."""
    return Failure(path, 404, freshness)
