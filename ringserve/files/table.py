"""The file table: from a path below the root to an open file, its validators and, if it is small, its bytes.

Theory of operation. A path is opened once by openat2(2) below the root's descriptor, so that no path string is trusted
twice, and what was opened is asked for its status. The result is an entry: a file, a directory, or a failure, which is
remembered as well. An entry may be answered from memory while it is *fresh*.

What can be told without waiting is told so (`find_now`): a fresh entry; an entry whose file is what it was; a name that
is not among those of its directory (`names.py`); a file that the kernel has in memory, opened and read by one call.
Everything else is found by a coroutine (`find`).

Freshness has two guards
 1. inotify: every directory on the way to an entry is watched before the entry is opened, so that no change after the
    open goes unseen. An event drops the entries it concerns at once; a burst of them, or an overflow of the kernel's
    queue, drops everything.
 2. A look after a while, for what sends no event. Where events tell of all but a few kinds of changes (`Loaded`), the
    while is TRUSTED_S. It is FRESH_S for what lies on file systems that others write to, in directories that are not
    watched, or behind a symbolic link; and for directories and failures.

A look costs one open by path (O_PATH) and a status. The same device, inode, size, mtime and ctime mean the same file,
unless it was modified so shortly before it was read that a second change could bear the same time. (git's index has the
same problem.) Such an entry is read again.

A file of at most CONTENT_TAG_BYTES_MAX is read when it is loaded, whether or not its bytes are kept: its tag is of its
content, and must not depend on what fits into memory.

Invariants
 1. An entry whose path changed while it was being loaded answers the requests that were waiting for it, and nobody
    after them: it is stored stale.
 2. A path is loaded by one task at a time; others wait for it. If that task is interrupted, one of them takes over.
 3. Memory, descriptors and the number of entries are bounded; what was not looked at for longest goes first, of the
    root that has most. A descriptor outlives its entry for as long as a transfer reads it, and counts for as long. A
    load has one more open at a time.
"""

from __future__ import annotations

import contextlib
import errno
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ringserve.files.directory import items_of, ranking
from ringserve.files.entries import Directory, Entry, Failure, File, Key
from ringserve.files.names import FRESH_S
from ringserve.files.refusals import is_passing, shown, status_of_open
from ringserve.files.siblings import ENDINGS, NO_CODINGS, codings_of, fault_of
from ringserve.files.tree import Held, Load, Place, Tree, directory_of, missing
from ringserve.files.watches import Watches
from ringserve.http.media_types import is_compressible
from ringserve.http.negotiation import CODINGS
from ringserve.http.response import SharedDescriptor
from ringserve.http.semantics import CONTENT_TAG_BYTES_MAX, content_hash
from ringserve.ring.tasks import HelpersBusyError, Signal, Task, Tasks
from ringserve.ring.world import NANOSECONDS, FileStatus, Loaded, Root

TRUSTED_S = 10.0
"""How old an answer from memory may be where events tell of all but a few kinds of changes; else it is FRESH_S."""
HASHED_AT_ONCE_BYTES_MAX = 16 * 1024
"""Up to this size a file is hashed on the loop's thread: it takes 13 us, less than the way to a helper and back."""
HASHES = "hashes"
"""A lane of helpers: a directory that hangs, in another, must not keep a file from being hashed and served."""
LISTED_MAX = 10_000
"""Names of a directory that are listed, the first by their order: half a second's work for a helper, and 4 MiB."""
SAID_MAX = 1024
"""Paths remembered as reported already, at most."""
NAMES_SHARE = 8
"""Of the table's memory, one part of as many is for the names of directories."""

OUT_OF_DESCRIPTORS = (-errno.EMFILE, -errno.ENFILE)


class FileLimits(NamedTuple):
    """Bounds of the table.

    entries_max: paths remembered, missing ones included. memory_bytes_max: for all that is remembered.
    body_bytes_max: up to this size a file is kept in memory.
    descriptors_max: larger files that are kept open. files_max: all that are open, in use by transfers or being opened.
    """

    entries_max: int
    body_bytes_max: int
    memory_bytes_max: int
    descriptors_max: int
    files_max: int


class FileTable:
    """See the module.

    roots: the directories, by their numbers; they are not closed here. They share the table, its limits and its
    watches.
    """

    def __init__(self, tasks: Tasks, roots: Sequence[Root], limits: FileLimits) -> None:
        self._tasks = tasks
        self._ring = tasks.ring
        self._limits = limits
        self._read_bytes_max = max(limits.body_bytes_max, CONTENT_TAG_BYTES_MAX)
        self._held = Held()
        self._trees = [Tree(root, number, self._held) for number, root in enumerate(roots)]
        self._loads = 0
        self._load_ended = Signal()
        self._descriptors = 0
        self._turn, self._turn_ns = -1.0, 0
        self._said: set[tuple[Tree, bytes]] = set()
        names_bytes_max = limits.memory_bytes_max // NAMES_SHARE
        self._memory_bytes_max = limits.memory_bytes_max - names_bytes_max
        self._watches = Watches(self, tasks, names_bytes_max)
        self._names = self._watches.names

    # -- looking up at once -------------------------------------------------------------------------------------

    def find_now(self, key: Key) -> Entry | None:
        """What a key stands for, fresh at the time of the call; None if that cannot be told without waiting."""
        number, path = key
        tree = self._trees[number]
        entry = tree.entries.get(path)
        if entry is not None and (entry.freshness.until > self._ring.now or self._look_again(tree, path, entry)):
            return entry
        if tree.lost:
            return Failure(path, 404)
        at = path.rfind(b"/") + 1
        prefix = path[:at]
        place, names = tree.places.get(prefix), None
        if place is None or at == len(path):  # what is in a directory takes a helper
            gone = self._names.missing(tree, path)
            if gone is not None or at == len(path) or not self._watches.covers(tree, path):
                return gone
        else:
            names = self._names.known(tree, prefix, place)
            if names is not None and path[at:] not in names:
                return missing(path, place.freshness)
        return None if path in tree.loading else self._load_now(tree, path, place, names)

    def look_again(self, key: Key) -> bool:
        """Whether what was found for a key is fresh again, because a look that waits for nothing showed that it is what
        it was. True says what `find` would have found, and False says nothing.
        """
        number, path = key
        tree = self._trees[number]
        entry = tree.entries.get(path)
        return self._names.missing(tree, path) is not None if entry is None else self._look_again(tree, path, entry)

    def _look_again(self, tree: Tree, path: bytes, known: Entry) -> bool:
        if not isinstance(known, File) or path in tree.loading or not self._watches.covers(tree, path):
            return False
        root, look, siblings = tree.root, self._ring.look, known.siblings
        if not known.is_as(look(None, root, path)):
            return False
        for coding, file in siblings.items():
            if not file.is_as(look(None, root, path + CODINGS[coding])):
                return False
        place = tree.places.get(directory_of(path))
        codings = self._codings(tree, known, place)
        for coding, ending in codings.items():
            # That it is not there; what else may be said of a sibling, `_is_family_unchanged` looks at.
            if coding not in siblings and look(None, root, path + ending) != -errno.ENOENT:
                return False
        tree.entries.move_to_end(path)
        self._refresh(known, place, codings)
        return True

    def _codings(self, tree: Tree, source: File, place: Place | None) -> Mapping[bytes, bytes]:
        """See `codings_of`."""
        if place is None or not is_compressible(source.content_type):
            return codings_of(source, None)
        return codings_of(source, self._names.known(tree, directory_of(source.path), place))

    def _refresh(self, entry: Entry, place: Place | None, codings: Mapping[bytes, bytes]) -> None:
        # Where no names are known, a missing sibling may be a link to nothing, and no event tells when there is
        # something.
        trusted = place is not None and isinstance(entry, File) and entry.trusted and codings is not CODINGS
        entry.freshness.until = self._ring.now + (TRUSTED_S if trusted else FRESH_S)

    def _load_now(self, tree: Tree, path: bytes, place: Place | None, names: set[bytes] | None) -> Entry | None:
        """What is at a path that is covered, if it can be opened and read without waiting."""
        if self._descriptors + self._loads >= self._limits.files_max:
            return None
        entry = self._open_now(tree, path)
        if entry is None:
            return None
        codings = NO_CODINGS
        if isinstance(entry, File):
            codings = codings_of(entry, names)
            for coding, ending in codings.items():
                sibling = self._open_now(tree, path + ending, coding)
                if sibling is None:
                    entry.retire()
                    return None
                self._consider(tree, entry, coding, sibling)
        elif is_passing(entry):
            return entry
        self._store(tree, entry)
        self._refresh(entry, place, codings)
        return entry

    def _open_now(self, tree: Tree, path: bytes, coding: bytes = b"") -> Entry | None:
        loaded = self._ring.load(None, tree.root, path, HASHED_AT_ONCE_BYTES_MAX, self._limits.body_bytes_max)
        if not isinstance(loaded, Loaded):
            return None if loaded is None or loaded in OUT_OF_DESCRIPTORS else self._refused(tree, path, loaded)
        status, body, fd, trusted = loaded
        if body is not None and fd is None:
            return File(path, status, body, None, self._now_ns(), coding, content_hash(body), trusted)
        if body is None and fd is not None and status.size <= self._read_bytes_max:
            self._ring.close(fd)  # it is read by the ring, or hashed by a helper
            return None
        return self._entry_of(path, loaded, self._now_ns(), coding, None if body is None else content_hash(body))

    def _now_ns(self) -> int:
        """The time as of this turn, in nanoseconds since the epoch: no later than any look at a file that follows, so
        that a file that changes meanwhile counts as younger than it is.
        """
        now = self._ring.now
        if now != self._turn:
            self._turn, self._turn_ns = now, int(self._tasks.system.wall_time_s() * NANOSECONDS)
        return self._turn_ns

    def _entry_of(self, path: bytes, loaded: Loaded, now_ns: int, coding: bytes, digest: bytes | None) -> Entry:
        status, body, fd, trusted = loaded
        if fd is not None:  # A bad disk shows when the descriptor is spliced.
            self._descriptors += 1
            return File(
                path, status, None, SharedDescriptor(fd, self._descriptor_done), now_ns, coding, digest, trusted
            )
        if body is not None:
            return File(path, status, body, None, now_ns, coding, digest, trusted)
        return Directory(path) if stat.S_ISDIR(status.mode) else Failure(path, 404)

    # -- looking up ---------------------------------------------------------------------------------------------

    async def find(self, task: Task, key: Key) -> Entry:
        """What a key stands for, fresh at the time of the call or later."""
        asked_at = self._ring.now
        number, path = key
        while True:
            tree = self._trees[number]
            entry = tree.entries.get(path)
            if entry is None or entry.freshness.until <= asked_at:
                entry = self.find_now(key)
            if entry is not None:
                return entry
            load = tree.loading.get(path)
            if load is None and self._has_place():
                found = await self._load_alone(task, tree, path)
                if self._is_served(tree):
                    return found
            else:
                await task.wait(self._load_ended if load is None else load.signal)

    def _has_place(self) -> bool:
        """Whether one more path may be loaded: one that is open in the meantime, and one that may be kept. A
        single load is always allowed, since there is nothing to wait for.
        """
        loads = self._loads
        return not loads or self._descriptors + 2 * (loads + 1) <= self._limits.files_max

    async def _load_alone(self, task: Task, tree: Tree, path: bytes) -> Entry:
        load = tree.loading[path] = Load()
        self._loads += 1
        tree.hold()
        try:
            return await self._load(task, tree, path, load)
        finally:
            self._loads -= 1
            del tree.loading[path]
            tree.release()
            load.signal.raise_()
            self._load_ended.raise_()

    async def _load(self, task: Task, tree: Tree, path: bytes, load: Load) -> Entry:
        known = tree.entries.get(path)
        await self._watches.cover(task, tree, path, load)
        place, codings = tree.places.get(directory_of(path)), NO_CODINGS
        unchanged = isinstance(known, File) and await self._is_family_unchanged(task, tree, known)
        # While that was looked at, an event or the limits may have dropped the entry, and its descriptor with it.
        if isinstance(known, File) and unchanged and tree.entries.get(path) is known:
            entry: Entry = known
            codings = self._codings(tree, known, place)
            tree.entries.move_to_end(path)
        else:
            entry = await self._open(task, tree, path)
            if isinstance(entry, File):
                codings = self._codings(tree, entry, place)
                try:
                    for coding, ending in codings.items():
                        self._consider(tree, entry, coding, await self._open(task, tree, path + ending, coding))
                except BaseException:
                    entry.retire()  # nobody will store it, so nobody else would close it
                    raise
            if is_passing(entry):
                return entry
            if self._is_served(tree):
                self._store(tree, entry)
            elif isinstance(entry, File):
                entry.retire()
        if not load.spoiled:
            self._refresh(entry, place, codings)
        return entry

    def _is_served(self, tree: Tree) -> bool:
        """Whether it is that of a directory which is still its root's."""
        return tree is self._trees[tree.number] and not tree.lost

    @property
    def _is_full(self) -> bool:
        """Whether the files' share of descriptors is used up."""
        return self._descriptors + self._loads > self._limits.files_max

    async def _look(self, task: Task, tree: Tree, path: bytes) -> FileStatus | int:
        return -errno.EMFILE if self._is_full else await task.look(tree.root, path)

    def _consider(self, tree: Tree, source: File, coding: bytes, sibling: Entry) -> None:
        """Keep what was found as a precompressed sibling. One that cannot stand for its source is said once, until it
        can.
        """
        path = sibling.path
        if isinstance(sibling, Failure) and sibling.status == 403:
            self._say_once(tree, path, "may not be read and is not served; give it the permissions of its file")
        if not isinstance(sibling, File):
            source.trusted = False  # there is something, about which no event may tell
            return
        source.trusted = source.trusted and sibling.trusted
        fault = fault_of(sibling.status, source.status)
        if fault is None:
            source.siblings = {**source.siblings, coding: sibling}
            self._said.discard((tree, path))
        else:
            sibling.retire()
            self._say_once(tree, path, f"{fault} and is not served; `ringserve compress` makes it anew")

    def _say_once(self, tree: Tree, path: bytes, what: str) -> None:
        if (tree, path) not in self._said:
            if len(self._said) >= SAID_MAX:
                self._said.clear()
            self._said.add((tree, path))
            self._tasks.report("{} " + what, shown(path))

    async def _is_family_unchanged(self, task: Task, tree: Tree, known: File) -> bool:
        """Whether a file and its siblings are what they were, and no other sibling has come."""
        path = known.path
        if not known.is_as(await self._look(task, tree, path)):
            return False
        if not is_compressible(known.content_type):
            return True
        for coding, ending in CODINGS.items():
            sibling = known.siblings.get(coding)
            status = await self._look(task, tree, path + ending)
            if sibling is not None:
                if not sibling.is_as(status):
                    return False
            elif not isinstance(status, int) and stat.S_ISREG(status.mode) and fault_of(status, known.status) is None:
                return False
        return True

    async def _open(self, task: Task, tree: Tree, path: bytes, coding: bytes = b"") -> Entry:
        is_listed = not path or path.endswith(b"/")
        try:
            answer = await (self._list(task, tree, path) if is_listed else self._content(task, tree, path, coding))
            if answer in OUT_OF_DESCRIPTORS and self.give_up_descriptors():
                answer = await (self._list(task, tree, path) if is_listed else self._content(task, tree, path, coding))
        except OSError as error:  # a bad disk
            self._tasks.report("cannot read {}: {}", shown(path), error.strerror)
            return Failure(path, 500)
        return answer if isinstance(answer, Entry) else self._refused(tree, path, answer)

    def _refused(self, tree: Tree, path: bytes, res: int) -> Failure:
        """What a path stands for of which the open failed."""
        if res == -errno.EXDEV:
            self._say_once(
                tree,
                path,
                "leads out of the root through a symbolic link and is not served (--follow-symlinks would follow it)",
            )
        return Failure(path, status_of_open(self._tasks.report, path, res))

    async def _list(self, task: Task, tree: Tree, path: bytes) -> Entry | int:
        """What is in a directory, without what a request for it would be refused."""
        if self._is_full:
            return -errno.EMFILE
        try:
            names = await task.names(tree.root, path, LISTED_MAX, ranking(not path))
        except OSError as error:
            # It can be read but not entered (EACCES), there is no descriptor left to read it by, or the disk is bad.
            return -(error.errno or errno.EIO)
        return names if isinstance(names, int) else Directory(path, items_of(names), names.truncated)

    async def _content(self, task: Task, tree: Tree, path: bytes, coding: bytes) -> Entry | int:
        """A file, or what else a path stands for. Raises OSError if it cannot be read."""
        if self._is_full:
            return -errno.EMFILE
        now_ns = self._now_ns()
        loaded = await task.load(tree.root, path, self._read_bytes_max, self._limits.body_bytes_max)
        if isinstance(loaded, int):
            return loaded
        try:
            digest = None if loaded.body is None else await self._hash(task, loaded.body)
        except BaseException:
            if loaded.file is not None:
                self._ring.close(loaded.file)
            raise
        return self._entry_of(path, loaded, now_ns, coding, digest)

    async def _hash(self, task: Task, body: bytes) -> bytes | None:
        """The `content_hash`; None for what is too large to get its tag from it."""
        if len(body) > CONTENT_TAG_BYTES_MAX:
            return None
        if len(body) > HASHED_AT_ONCE_BYTES_MAX:
            # Where no helper can take it, it costs the loop 0.2 ms; the tag is the same.
            with contextlib.suppress(HelpersBusyError):
                return await self._tasks.call(lambda: content_hash(body), HASHES).result(task)
        return content_hash(body)

    # -- storing and dropping -----------------------------------------------------------------------------------

    def _store(self, tree: Tree, entry: Entry) -> None:
        tree.store(entry)
        limits, held = self._limits, self._held
        while held.memory_bytes > self._memory_bytes_max or held.entries > limits.entries_max:
            largest = max(self._trees, key=Tree.size)
            oldest = next(iter(largest.entries.values()))
            if oldest is entry:
                break
            largest.drop(oldest.path)
        while self._descriptors > limits.descriptors_max:
            holding = max(self._trees, key=Tree.holding)
            oldest = next(iter(holding.holders.values()), entry)
            if oldest is entry:
                break  # Descriptors that transfers hold count too, but dropping this entry would free none of them.
            holding.drop(oldest.path)

    def _descriptor_done(self, fd: int) -> None:
        self._descriptors -= 1
        self._ring.close(fd)

    def give_up_descriptors(self) -> bool:
        """Out of descriptors: drop what holds some. True if there was any."""
        holders = [(tree, path) for tree in self._trees for path in tree.holders]
        for tree, path in holders:
            tree.drop(path)
        return bool(holders)

    def changed(self, tree: Tree, path: bytes) -> None:
        """What is at `path` is not what it was. If it is a precompressed sibling, neither is its source's entry; and
        the directory that it lies in is listed differently.
        """
        tree.changed(path)
        source = next((path.removesuffix(ending) for ending in ENDINGS if path.endswith(ending)), path)
        if source is not path:
            tree.changed(source)
        tree.changed(path[: path.rfind(b"/", 0, -1) + 1])

    def start_watching(self, root_gone: Callable[[], None] = lambda: None) -> None:
        """Begin to read the kernel's events. Without inotify the look after a second is the only guard. root_gone:
        called when the directory of a root has another name, or none.
        """
        self._watches.start(root_gone)

    def replace_root(self, number: int, root: Root) -> None:
        """Another directory is served from now on; the descriptor of the old one is closed when nobody uses it."""
        old, self._trees[number] = self._trees[number], Tree(root, number, self._held)
        self._watches.drop_below(old, (b"",))
        old.retire(self._ring.close)

    def lose_root(self, number: int) -> None:
        """There is no directory: everything is 404 until there is one."""
        tree = self._trees[number]
        tree.lost = True
        self._watches.drop_below(tree, (b"",))

    def shut(self) -> None:
        """Drop every entry and stop watching."""
        for tree in self._trees:
            self._watches.drop_below(tree, (b"",))
        self._watches.shut()

    # -- for the watches ----------------------------------------------------------------------------------------

    async def watch(self, task: Task, tree: Tree, prefix: bytes) -> int:
        """Have changes in a directory noticed; see `Ring.watch`. Raises OSError."""
        return -errno.EMFILE if self._is_full else await task.watch(tree.root, prefix)
