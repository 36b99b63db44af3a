"""Which file systems are mounted where, as /proc/self/mountinfo tells it (proc(5)), and which of them are local. Pure.

A file system is *local* if only this kernel writes to it and it never waits for a process or another machine: then a
question whose answer is cached is answered at once, and inotify tells of every change. All others may hang, for ever.

What is known to be local is listed, since what is not listed includes file systems that nobody has written yet. A block
device behind one of them may hang as well, if it comes over a network; no process can tell that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MEMORY = frozenset(("tmpfs", "ramfs"))
LOCAL = MEMORY | {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"}
IMAGES = frozenset(("squashfs", "iso9660", "erofs"))
"""Local if they are on a block device, whose number says so. An erofs may be a file of another file system instead."""
OVERLAY = "overlay"
LAYERS = frozenset((b"lowerdir", b"lowerdir+", b"datadir+", b"upperdir"))

_ESCAPE = re.compile(rb"\\([0-7]{3})")
_COMMA = re.compile(rb"(?<!\\),")
_COLON = re.compile(rb"(?<!\\):")


class Mount(NamedTuple):
    """A mounted file system. number: the kernel's, for as long as it is mounted. point: its path in this process's
    view. layers: the directories that an overlay is made of, as whoever mounted it called them.
    """

    number: int
    parent: int
    point: bytes
    kind: str
    device: bytes
    layers: tuple[bytes, ...] = ()


def parse(text: bytes) -> Iterator[Mount]:
    """The mounts of /proc/self/mountinfo."""
    for line in text.splitlines():
        # How many optional fields there are is told by the hyphen behind them.
        before, _hyphen, after = line.partition(b" - ")
        number, parent, device, _root, point, *_options = before.split(b" ")
        kind, _source, options = after.split(b" ", 2)
        layers = tuple(_layers(_plain(options))) if kind == b"overlay" else ()
        yield Mount(int(number), int(parent), _plain(point), kind.decode(errors="replace"), device, layers)


def _plain(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda octal: bytes((int(octal[1], 8) & 0xFF,)), field)


def _layers(options: bytes) -> Iterator[bytes]:
    for option in _COMMA.split(options):
        name, _equals, value = option.partition(b"=")
        if name in LAYERS:
            yield from (layer.replace(b"\\", b"") for layer in _COLON.split(value) if layer)


class MountTable:
    """The mounts, by number and by path."""

    def __init__(self, mounts: Iterator[Mount]) -> None:
        self._by_number = {mount.number: mount for mount in mounts}
        self._on: dict[int, list[Mount]] = {}
        tops = []
        for mount in self._by_number.values():
            if mount.parent in self._by_number and mount.parent != mount.number:
                self._on.setdefault(mount.parent, []).append(mount)
            else:
                tops.append(mount)
        self._top = tops[0] if tops else None
        for children in self._on.values():
            children.sort(key=lambda mount: len(mount.point))

    def get(self, number: int) -> Mount | None:
        """The mount of a number."""
        return self._by_number.get(number)

    def below(self, start: Mount, above: bytes) -> list[Mount]:
        """What can be reached below a directory of the mount `start` that is called `above`."""
        found = []
        entered = [(start, above)]
        for mount, point in entered:
            covered: set[bytes] = set()
            for child in self._on.get(mount.number, ()):
                if (mount is start and child.point == above) or not _is_below(child.point, point):
                    continue
                if covered.isdisjoint(_way_to(child.point)):
                    covered.add(child.point)
                    entered.append((child, child.point))
            if mount is not start and point not in covered:
                found.append(mount)
        return found

    def reached(self, start: Mount, above: bytes, path: bytes) -> Mount:
        """Where a path leads that begins in a directory of the mount `start`, called `above`, if no symbolic link is on
        it.
        """
        found, passed = start, len(above)
        while True:
            # A mount on `above` itself is not entered, since the path begins below it.
            for child in self._on.get(found.number, ()):
                if passed < len(child.point) and _is_below(path, child.point):
                    break
            else:
                return found
            found, passed = child, len(child.point) - 1  # another one may be mounted on top of it

    def is_local(self, mount: Mount, above: tuple[Mount, ...] = ()) -> bool:
        """See the module. An overlay is, unless one of its layers can be seen to be on something else. above: overlays
        that have it as a layer.
        """
        if mount.kind in IMAGES:
            return not mount.device.startswith(b"0:")
        if mount.kind != OVERLAY:
            return mount.kind in LOCAL
        # In a container the layers are not to be seen: their paths are the host's, and lead to the overlay itself.
        return mount in above or all(
            self.is_local(self.reached(self._top, b"", layer), (*above, mount))
            for layer in mount.layers
            if self._top is not None and layer.startswith(b"/")
        )


def _way_to(point: bytes) -> Iterator[bytes]:
    """The directories on the way to one, and itself."""
    while point != b"/":
        yield point
        point = point[: point.rfind(b"/")] or b"/"
    yield point


def _is_below(path: bytes, point: bytes) -> bool:
    return path == point or path.startswith(point if point.endswith(b"/") else point + b"/")
