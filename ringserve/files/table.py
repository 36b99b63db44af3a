"""The file table: from a path below the root to an open file, its validators and, if it is small, its bytes.

Theory of operation. A path is opened once by openat2(2) below the root's descriptor, so that no path string is trusted
twice, and what was opened is asked for its status. The result is an entry: a file, a directory, or a failure, which is
remembered as well. An entry may be answered from memory while it is *fresh*.

Freshness has two guards
 1. inotify: every directory on the way to an entry is watched before the entry is opened, so that no change after the
    open goes unseen. An event drops the entries it concerns at once; a burst of them, or an overflow of the kernel's
    queue, drops everything.
 2. A second after the last look an entry is looked at again, for file systems that send no events and for what a
    directory's watch does not show (a file reached by a symbolic link or by another hard link).

A look costs one open by path (O_PATH) and a status. The same device, inode, size, mtime and ctime mean the same file,
unless it was modified so shortly before it was read that a second change could bear the same time. (git's index has the
same problem.) Such an entry is read again.

A file of at most CONTENT_TAG_BYTES_MAX is read when it is loaded, whether or not its bytes are kept: its tag is of its
content, and must not depend on what fits into memory.

Invariants
 1. An entry whose path changed while it was being loaded answers the requests that were waiting for it, and nobody
    after them: it is stored stale.
 2. A path is loaded by one task at a time; others wait for it. If that task is interrupted, one of them takes over.
 3. Memory, descriptors and the number of entries are bounded; the entry unused for longest goes first. A descriptor
    outlives its entry for as long as a transfer reads it, and counts for as long. A load has one more open at a time.
"""

from __future__ import annotations

import contextlib
import errno
import stat
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ringserve.files.directory import items_of, ranking
from ringserve.files.entries import Directory, Entry, Failure, File, Key
from ringserve.files.watches import Watches
from ringserve.http.media_types import is_compressible
from ringserve.http.response import SharedDescriptor
from ringserve.http.semantics import CODINGS, CONTENT_TAG_BYTES_MAX, content_hash, fault_of_sibling
from ringserve.ring.tasks import HelpersBusyError, Signal, Task, Tasks
from ringserve.ring.world import NANOSECONDS, FileStatus, Root, errno_name

FRESH_S = 1.0
"""How old an answer from memory may be."""
HASHED_AT_ONCE_BYTES_MAX = 16 * 1024
"""Up to this size a file is hashed on the loop's thread: it takes 13 us, less than the way to a helper and back."""
HASHES = "hashes"
"""A lane of helpers: a directory that hangs, in another, must not keep a file from being hashed and served."""
LISTED_MAX = 10_000
"""Names of a directory that are listed, the first by their order: half a second's work for a helper, and 2 MiB."""
SAID_MAX = 1024
"""Paths remembered as reported already, at most."""

NOT_FOUND = frozenset(
    (
        errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EINVAL,
        errno.EXDEV,
    )
)  # fmt: skip


class FileLimits(NamedTuple):
    """Bounds of the table.

    entries_max: paths remembered, missing ones included.
    body_bytes_max: up to this size a file is kept in memory. memory_bytes_max: all of them together.
    descriptors_max: larger files that are kept open. files_max: all that are open, in use by transfers or being opened.
    """

    entries_max: int
    body_bytes_max: int
    memory_bytes_max: int
    descriptors_max: int
    files_max: int


class _Load:
    """A path being loaded: who waits for it, and whether it changed meanwhile."""

    __slots__ = ("signal", "spoiled")

    def __init__(self) -> None:
        self.signal = Signal()
        self.spoiled = False


class FileTable:
    """See the module.

    roots: the directories, by their numbers; they are not closed here. They share the table, its limits and its
    watches.
    """

    def __init__(self, tasks: Tasks, roots: Sequence[Root], limits: FileLimits) -> None:
        self._tasks = tasks
        self._roots = roots
        self._limits = limits
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._loading: dict[Key, _Load] = {}
        self._load_ended = Signal()
        self._memory_bytes = 0
        self._descriptors = 0
        self._said: set[Key] = set()
        self._watches = Watches(self, tasks)

    # -- looking up ---------------------------------------------------------------------------------------------

    async def find(self, task: Task, key: Key) -> Entry:
        """What a key stands for, fresh at the time of the call or later."""
        asked_at = self._tasks.ring.now
        while True:
            entry = self._entries.get(key)
            if entry is not None and (entry.freshness.until > asked_at or self.look_again(key)):
                return entry
            load = self._loading.get(key)
            if load is None and self._has_place():
                break
            await task.wait(self._load_ended if load is None else load.signal)
        load = self._loading[key] = _Load()
        try:
            return await self._load(task, key, entry, load)
        finally:
            del self._loading[key]
            load.signal.raise_()
            self._load_ended.raise_()

    def _has_place(self) -> bool:
        """Whether one more path may be loaded: one that is open in the meantime, and one that may be kept. A
        single load is always allowed, since there is nothing to wait for.
        """
        loads = len(self._loading)
        return not loads or self._descriptors + 2 * (loads + 1) <= self._limits.files_max

    def look_again(self, key: Key) -> bool:
        """Whether the entry of a key is fresh again, because a look that waits for nothing showed that its file is
        what it was. A shortcut through `_load`: True says what that would have found, and False says nothing.
        """
        known = self._entries.get(key)
        if not isinstance(known, File) or key in self._loading or not self._watches.covers(key):
            return False
        root, below = self._roots[key.root], key.path
        look = self._tasks.ring.look
        for file in (known, *known.siblings.values()):
            ending = CODINGS[file.coding] if file is not known else b""
            if file.racy or look(None, root, below + ending) != file.status:
                return False
        if is_compressible(known.content_type):
            for coding, ending in CODINGS.items():
                # That it is not there; what else may be said of a sibling, `_is_family_unchanged` looks at.
                if coding not in known.siblings and look(None, root, below + ending) != -errno.ENOENT:
                    return False
        self._entries.move_to_end(key)
        known.freshness.until = self._tasks.ring.now + FRESH_S
        return True

    async def _load(self, task: Task, key: Key, known: Entry | None, load: _Load) -> Entry:
        await self._watches.cover(task, key, load)
        unchanged = isinstance(known, File) and await self._is_family_unchanged(task, key, known)
        # While that was looked at, an event or the limits may have dropped the entry, and its descriptor with it.
        if known is not None and unchanged and self._entries.get(key) is known:
            entry = known
            self._entries.move_to_end(key)
        else:
            entry = await self._open(task, key)
            if isinstance(entry, File):
                try:
                    await self._open_siblings(task, key, entry)
                except BaseException:
                    entry.retire()  # nobody will store it, so nobody else would close it
                    raise
            if not self._is_passing(entry):
                self._store(key, entry)
        if not load.spoiled and not self._is_passing(entry):
            entry.freshness.until = self._tasks.ring.now + FRESH_S
        return entry

    @staticmethod
    def _is_passing(entry: Entry) -> bool:
        """A failure that says nothing of the path (no descriptor left, a disk error) is not remembered."""
        return isinstance(entry, Failure) and entry.status >= 500

    @property
    def _is_full(self) -> bool:
        """Whether the files' share of descriptors is used up."""
        return self._descriptors + len(self._loading) > self._limits.files_max

    async def _look(self, task: Task, key: Key) -> FileStatus | int:
        return -errno.EMFILE if self._is_full else await task.look(self._roots[key.root], key.path)

    async def _open_siblings(self, task: Task, key: Key, source: File) -> None:
        """Find the precompressed siblings. One that cannot stand for its source is said once, until it can."""
        if not is_compressible(source.content_type):
            return
        for coding, ending in CODINGS.items():
            sibling_key = Key(key.root, key.path + ending)
            sibling = await self._open(task, sibling_key, coding)
            if isinstance(sibling, Failure) and sibling.status == 403:
                self._say_once(sibling_key, "may not be read and is not served; give it the permissions of its file")
            if not isinstance(sibling, File):
                continue
            fault = _fault_of(sibling.status, source.status)
            if fault is None:
                source.siblings[coding] = sibling
                self._said.discard(sibling_key)
            else:
                sibling.retire()
                self._say_once(sibling_key, f"{fault} and is not served; `ringserve compress` makes it anew")

    def _say_once(self, key: Key, what: str) -> None:
        if key not in self._said:
            if len(self._said) >= SAID_MAX:
                self._said.clear()
            self._said.add(key)
            self._tasks.report("{} " + what, shown(key.path))

    async def _is_family_unchanged(self, task: Task, key: Key, known: File) -> bool:
        """Whether a file and its siblings are what they were, and no other sibling has come."""
        if known.racy or not await self._is_unchanged(task, key, known):
            return False
        if not is_compressible(known.content_type):
            return True
        for coding, ending in CODINGS.items():
            sibling, sibling_key = known.siblings.get(coding), Key(key.root, key.path + ending)
            if sibling is not None:
                if sibling.racy or not await self._is_unchanged(task, sibling_key, sibling):
                    return False
                continue
            status = await self._look(task, sibling_key)
            if not isinstance(status, int) and stat.S_ISREG(status.mode) and _fault_of(status, known.status) is None:
                return False
        return True

    async def _is_unchanged(self, task: Task, key: Key, known: File) -> bool:
        return await self._look(task, key) == known.status

    async def _open(self, task: Task, key: Key, coding: bytes = b"") -> Entry:
        path = key.path
        question = self._names if names_directory(path) else self._content
        try:
            answer = await question(task, key, coding)
            if answer in (-errno.EMFILE, -errno.ENFILE) and self.give_up_descriptors():
                answer = await question(task, key, coding)
        except OSError as error:  # a bad disk
            self._tasks.report("cannot read {}: {}", shown(path), error.strerror)
            return Failure(path, 500)
        if isinstance(answer, Entry):
            return answer
        if answer == -errno.EXDEV:
            self._say_once(
                key,
                "leads out of the root through a symbolic link and is not served (--follow-symlinks would follow it)",
            )
        return Failure(path, status_of_open(self._tasks.report, path, answer))

    async def _names(self, task: Task, key: Key, _coding: bytes) -> Entry | int:
        """What is in a directory, without what a request for it would be refused."""
        if self._is_full:
            return -errno.EMFILE
        root, path = self._roots[key.root], key.path
        try:
            names = await task.names(root, path, LISTED_MAX, ranking(not path))
        except OSError as error:
            # It can be read but not entered (EACCES), there is no descriptor left to read it by, or the disk is bad.
            return -(error.errno or errno.EIO)
        if names == -errno.EBUSY:
            return Failure(path, 503)
        return names if isinstance(names, int) else Directory(path, items_of(names), names.truncated)

    async def _content(self, task: Task, key: Key, coding: bytes) -> Entry | int:
        """A file, or what else a path stands for. Raises OSError if it cannot be read."""
        if self._is_full:
            return -errno.EMFILE
        # Before it is looked at, so that a file that changes meanwhile counts as younger than it is.
        now_ns = int(self._tasks.system.wall_time_s() * NANOSECONDS)
        path, body_bytes_max = key.path, self._limits.body_bytes_max
        loaded = await task.load(
            self._roots[key.root], path, max(body_bytes_max, CONTENT_TAG_BYTES_MAX), body_bytes_max
        )
        if isinstance(loaded, int):
            return loaded
        status, body, fd, _trusted = loaded
        if fd is None and body is None:
            return Directory(path) if stat.S_ISDIR(status.mode) else Failure(path, 404)
        try:
            digest = None if body is None else await self._hash(task, body)
            if fd is None:
                return File(path, status, body, None, now_ns, coding, digest)
            # A bad disk shows when the descriptor is spliced.
            shared = SharedDescriptor(fd, self._descriptor_done)
            self._descriptors += 1
            fd = None
            return File(path, status, None, shared, now_ns, coding, digest)
        finally:
            if fd is not None:
                self._tasks.ring.close(fd)

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

    def _store(self, key: Key, entry: Entry) -> None:
        self._drop(key)
        self._entries[key] = entry
        self._memory_bytes += _memory_of(entry)
        limits = self._limits
        while len(self._entries) > limits.entries_max or (
            len(self._entries) > 1
            and (self._memory_bytes > limits.memory_bytes_max or self._descriptors > limits.descriptors_max)
        ):
            oldest = next(iter(self._entries))
            if oldest == key:
                break  # Descriptors that transfers hold count too, but dropping this entry would free none of them.
            self._drop(oldest)

    def _drop(self, key: Key) -> None:
        """Forget an entry; what was prepared from it is not fresh any more, wherever that is remembered."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        entry.freshness.until = 0.0
        self._memory_bytes -= _memory_of(entry)
        if isinstance(entry, File):
            entry.retire()

    def _descriptor_done(self, fd: int) -> None:
        self._descriptors -= 1
        self._tasks.ring.close(fd)

    def give_up_descriptors(self) -> bool:
        """Out of descriptors: drop what holds some. True if there was any."""
        holders = [
            key
            for key, entry in self._entries.items()
            if isinstance(entry, File) and (entry.descriptor or any(one.descriptor for one in entry.siblings.values()))
        ]
        for key in holders:
            self._drop(key)
        return bool(holders)

    def changed(self, key: Key) -> None:
        """What is at `key` is not what it was. If it is a precompressed sibling, neither is its source's entry; and
        the directory that it lies in is listed differently.
        """
        path = key.path
        source = next((path.removesuffix(ending) for ending in CODINGS.values() if path.endswith(ending)), path)
        directory = path[: path.rfind(b"/", 0, -1) + 1]
        for name in dict.fromkeys((path, source, directory)):
            self._changed(Key(key.root, name))

    def changed_below(self, prefix: Key | None) -> None:
        """Every path that begins with `prefix` may stand for something else now. None: every path there is."""
        for key in [key for key in (*self._entries, *self._loading) if key.is_below(prefix)]:
            self._changed(key)

    def _changed(self, key: Key) -> None:
        self._drop(key)
        load = self._loading.get(key)
        if load is not None:
            load.spoiled = True

    def start_watching(self) -> None:
        """Begin to read the kernel's events. Without inotify the look after a second is the only guard."""
        self._watches.start()

    def shut(self) -> None:
        """Drop every entry and stop watching."""
        self.changed_below(None)
        self._watches.shut()

    # -- for the watches ----------------------------------------------------------------------------------------

    async def watch(self, task: Task, key: Key) -> int:
        """Have changes in a directory noticed; see `Ring.watch`. Raises OSError."""
        return -errno.EMFILE if self._is_full else await task.watch(self._roots[key.root], key.path)


def _memory_of(entry: Entry) -> int:
    """Bytes of memory that count against the limit: the body twice, since a rendering with its head is kept too."""
    if not isinstance(entry, File):
        return 0
    return sum(2 * len(file.body) for file in (entry, *entry.siblings.values()) if file.body is not None)


def names_directory(path: bytes) -> bool:
    """Whether a path ends with a slash, or is that of a root."""
    return not path or path.endswith(b"/")


def shown(path: bytes) -> str:
    """A path below a root for people, on one line."""
    name = path.decode(errors="backslashreplace")
    return "/" + "".join(character if character.isprintable() else ascii(character)[1:-1] for character in name)


def _fault_of(sibling: FileStatus, source: FileStatus) -> str | None:
    return fault_of_sibling(sibling.modified_ns, sibling.size, source.modified_ns, source.size)


def status_of_open(report: Callable[..., None], path: bytes, res: int) -> int:
    """The HTTP status for an open that failed with `res`. report: told of what is not the client's mistake."""
    if -res in NOT_FOUND:
        return 404
    name = shown(path)
    if -res in (errno.EACCES, errno.EPERM):
        return 403
    if -res in (errno.EMFILE, errno.ENFILE, errno.EAGAIN):
        report("cannot open {}: {}; if it goes on, raise the limit of open files (ulimit -n)", name, errno_name(res))
        return 503
    report("cannot open {}: {}", name, errno_name(res))
    return 500
