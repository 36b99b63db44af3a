"""What a path stands for, as the table of files remembers it: a file, a directory, or a failure."""

from __future__ import annotations

from typing import NamedTuple

from ringserve.files.directory import Item
from ringserve.http.media_types import content_type
from ringserve.http.response import SharedDescriptor
from ringserve.http.semantics import validators_of
from ringserve.ring.world import FileStatus

RACY_NS = 2_000_000_000
"""A file changed less than this before it was read may change again within the same tick of its file system's clock:
4 ms on ext4, a second or two elsewhere. Two seconds for all: such a file is read once more, and no harm is done.
`semantics.is_young` asks the same more exactly, since its answer makes a tag weak."""


class Key(NamedTuple):
    """What the table of files looks up: the number of a root, and a path below it. That of the root itself is empty."""

    root: int
    path: bytes

    def is_below(self, prefix: Key | None) -> bool:
        """Whether its path begins with that of `prefix`. None: with that of any."""
        return prefix is None or (self.root == prefix.root and self.path.startswith(prefix.path))


class Freshness:
    """Until when something that was looked up may be answered from memory, by the ring's clock.

    0: never. Of an entry that was fresh once it means that the table has dropped it, and that it stays so.
    """

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


class Entry:
    """What a path stands for. path: below its root."""

    __slots__ = ("freshness", "path")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.freshness = Freshness(0.0)


class File(Entry):
    """A regular file: either its bytes, or a descriptor to splice them from.

    coding: the content coding of its bytes, or nothing. siblings: the precompressed ones of it, by coding.
    """

    __slots__ = ("body", "coding", "content_type", "descriptor", "racy", "siblings", "size", "status", "validators")

    def __init__(
        self,
        path: bytes,
        status: FileStatus,
        body: bytes | None,
        descriptor: SharedDescriptor | None,
        now_ns: int,
        coding: bytes = b"",
        digest: bytes | None = None,
    ) -> None:
        """now_ns: nanoseconds since the epoch when the file was read. digest: see `validators_of`."""
        super().__init__(path)
        self.status = status
        self.size = status.size
        self.body = body
        self.descriptor = descriptor
        self.racy = now_ns - max(status.modified_ns, status.changed_ns) < RACY_NS
        self.content_type = content_type(path)
        self.coding = coding
        self.siblings: dict[bytes, File] = {}
        self.validators = validators_of(status.modified_ns, status.changed_ns, status.size, now_ns, coding, digest)

    def retire(self) -> None:
        """Close the descriptors, its own and its siblings', when the last transfer is done with them."""
        for file in (self, *self.siblings.values()):
            if file.descriptor is not None:
                file.descriptor.retire()


class Directory(Entry):
    """A directory. items: what is in it, if it was looked up with its final slash; truncated: and more than that."""

    __slots__ = ("items", "truncated")

    def __init__(self, path: bytes, items: tuple[Item, ...] = (), truncated: bool = False) -> None:
        super().__init__(path)
        self.items = items
        self.truncated = truncated


class Failure(Entry):
    """A path that cannot be served, and the status that says why."""

    __slots__ = ("status",)

    def __init__(self, path: bytes, status: int) -> None:
        super().__init__(path)
        self.status = status
