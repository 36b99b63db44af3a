"""What a path stands for, as the table of files remembers it: a file, a directory, or a failure.

Two hundred thousand of them may live at a time, so that each object counts: what can be made again is not kept, and
what many have in common is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from types import MappingProxyType
from typing import NamedTuple

from ringserve.files.directory import Item
from ringserve.http.media_types import content_type
from ringserve.http.response import SharedDescriptor
from ringserve.http.semantics import Validators, validators_of
from ringserve.ring.world import FileStatus

RACY_NS = 2_000_000_000
"""A file changed less than this before it was read may change again within the same tick of its file system's clock:
4 ms on ext4, a second or two elsewhere. Two seconds for all: such a file is read once more, and no harm is done.
`semantics.is_young` asks the same more exactly, since its answer makes a tag weak."""
FAILURE_BYTES = 300
FILE_BYTES = 660
DIRECTORY_BYTES = 380
ITEM_BYTES = 280
"""What an entry takes beside its path and its body, and an item beside its name, in the table and its dictionaries: as
tracemalloc(3) tells of 50,000 of them, rounded up. An item has a place in each of six orders as well."""

_MARK = Struct("=QQQqqq")


class Key(NamedTuple):
    """What the table of files looks up: the number of a root, and a path below it. That of the root itself is empty."""

    root: int
    path: bytes


class Freshness:
    """Until when something that was looked up may be answered from memory, by the ring's clock.

    0: never. Of an entry that was fresh once it means that the table has dropped it, and that it stays so.
    """

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


class Entry:
    """What a path stands for. path: below its root. freshness: its own, if it does not share one."""

    __slots__ = ("freshness", "path")

    def __init__(self, path: bytes, freshness: Freshness | None = None) -> None:
        self.path = path
        self.freshness = freshness or Freshness(0.0)

    @property
    def memory_bytes(self) -> int:
        """What the table takes for it, keys included."""
        return FAILURE_BYTES + len(self.path)


NO_SIBLINGS: Mapping[bytes, File] = MappingProxyType({})
"""What most files have."""


class File(Entry):
    """A regular file: either its bytes, or a descriptor to splice them from.

    coding: the content coding of its bytes, or nothing. siblings: the precompressed ones of it, by coding.
    trusted: events tell of every change that is to be noticed at once; see `Loaded`.
    """

    __slots__ = (
        "_entity_tag", "_mark", "_modified", "body", "coding", "content_type", "descriptor", "racy", "siblings", "size",
        "trusted",
    )  # fmt: skip

    def __init__(
        self,
        path: bytes,
        status: FileStatus,
        body: bytes | None,
        descriptor: SharedDescriptor | None,
        now_ns: int,
        coding: bytes = b"",
        digest: bytes | None = None,
        trusted: bool = False,
    ) -> None:
        """now_ns: nanoseconds since the epoch when the file was read. digest: see `validators_of`."""
        self.path = path
        self.freshness = Freshness(0.0)
        _mode, _device, _inode, self.size, modified_ns, changed_ns = status
        self._mark = _MARK.pack(*status)  # a third of the status's memory
        self.body = body
        self.descriptor = descriptor
        self.racy = now_ns - (modified_ns if modified_ns > changed_ns else changed_ns) < RACY_NS
        self.content_type = content_type(path)
        self.coding = coding
        self.siblings = NO_SIBLINGS
        self.trusted = trusted
        self._entity_tag, self._modified = validators_of(modified_ns, changed_ns, self.size, now_ns, coding, digest)

    @property
    def validators(self) -> Validators:
        """What names its bytes, and their time. Each object that is kept is one more for the collector of cycles."""
        return Validators(self._entity_tag, self._modified)

    @property
    def status(self) -> FileStatus:
        """When it was read."""
        return FileStatus._make(_MARK.unpack(self._mark))

    def is_as(self, found: FileStatus | int | None) -> bool:
        """Whether its status is what it was when it was read, and says so."""
        return type(found) is FileStatus and not self.racy and _MARK.pack(*found) == self._mark

    @property
    def memory_bytes(self) -> int:
        """See `Entry`; with its siblings."""
        held = FILE_BYTES + len(self.path)
        if self.body is not None:
            held += len(self.body)
        if self.siblings:
            held += sum(sibling.memory_bytes for sibling in self.siblings.values())
        return held

    @property
    def has_descriptor(self) -> bool:
        """Whether it or a sibling keeps one open."""
        if self.siblings:
            return any(file.descriptor is not None for file in (self, *self.siblings.values()))
        return self.descriptor is not None

    def retire(self) -> None:
        """Close the descriptors, its own and its siblings', when the last transfer is done with them."""
        for file in (self, *self.siblings.values()):
            if file.descriptor is not None:
                file.descriptor.retire()


class Directory(Entry):
    """A directory. items: what is in it, if it was looked up with its final slash; truncated: and more than that.

    orders: the items as listings have arranged them, by what they were arranged for.
    """

    __slots__ = ("_items_bytes", "items", "orders", "truncated")

    def __init__(self, path: bytes, items: tuple[Item, ...] = (), truncated: bool = False) -> None:
        super().__init__(path)
        self.items = items
        self.truncated = truncated
        self.orders: dict[tuple[str, bool], list[Item]] = {}
        self._items_bytes = sum(ITEM_BYTES + len(item.name) for item in items)

    @property
    def memory_bytes(self) -> int:
        """See `Entry`."""
        return DIRECTORY_BYTES + len(self.path) + self._items_bytes


class Failure(Entry):
    """A path that cannot be served, and the status that says why."""

    __slots__ = ("status",)

    def __init__(self, path: bytes, status: int, freshness: Freshness | None = None) -> None:
        super().__init__(path, freshness)
        self.status = status
