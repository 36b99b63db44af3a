"""The world: all that a server knows of the outside, whatever is behind it.

One rule parts what it can do. A verb that takes a user_data is a submission, and belongs to `Ring`; what takes none
never waits, and belongs to `System`. `Diagnostics` is where it says what an operator should know.

The ring is an io_uring-like interface to the kernel, in three sections.

Control plane
    Verbs that queue a submission, and `turn`, which hands the whole batch over and comes back with what finished.
    One crossing into the kernel per turn.
Data plane
    The memory that both sides see: provided buffers, pinned bytes, and the descriptors that name files, sockets
    and pipes.
Interrupt
    How completion is noticed: sleep, poll, or a kernel thread (`interrupt.py`), and `wake`, by which another thread
    or a signal ends a sleep.

What is behind the ring runs by itself and reports back. Nothing here is a call that one sits and waits for: a verb
returns at once, and what comes of it is told by a completion of a later `turn`, under the same user_data. Only a
question of files may have its answer when it returns, if nothing had to be waited for.

Invariants that every implementation keeps and `tests/ring/test_ring_contract.py` checks
 1. A submission ends with the first of its completions whose `more` is false. Until then its memory and its
    descriptors belong to the kernel as well: whoever queued it keeps them, cancelled or not.
 2. A turn's completions are copied out before the first of them is handed over. A handler may queue submissions;
    it may not turn the ring.
 3. A provided buffer is the kernel's or ours. A completion that names one makes it ours until the next `turn`, which
    gives it back exactly once, whatever `res` says.
 4. Results are those of the kernel: `res` is a count or a descriptor, or a negative errno. A short count is normal.
 5. `now` changes in `turn` only, so that all of a batch happens at one instant.
 6. Completions of one user_data come in their order; between two there is none, except that changes come first. What
    is called in a turn does not complete in it.

What is *not* here: retries, time-outs of single operations, buffering. They are policy and live above.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol

from ringserve.ring.diagnostics import Diagnostics

PIPE_BUF = 4096
"""So many bytes a pipe takes whole or not at all, and no other's come in between (pipe(7))."""

NANOSECONDS = 1_000_000_000
DISCARD_BYTES_MAX = 256 * 1024

Completion = tuple[int, int, int, bool]
"""user_data, res, buffer, more. A plain tuple, since a class costs four times as much to make.

buffer: where received bytes lie, for `Ring.received`; -1 for none. It means something until the next `turn`.
more: the submission goes on, and completes again.
"""


NO_ROOM = -errno.ENOBUFS
"""The result of a receive that found no buffer."""


class RingRefusedError(Exception):
    """The kernel, or a filter in front of it, does not let this process have a ring.

    The message is one line that says who refused and what to do about it.
    """


class RingBrokenError(Exception):
    """The ring lost a completion (EBADR) or failed in a way that leaves its state unknown. Nothing can be saved."""


class Pinned(Protocol):
    """Bytes that stay where they are for as long as this value is referenced. A ring takes only those that it made."""

    @property
    def length(self) -> int:
        """How many."""


class FileStatus(NamedTuple):
    """What serving needs of stat(2)."""

    mode: int
    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class Pipe(NamedTuple):
    """A pipe that carries pages from a file to a socket."""

    read_fd: int
    write_fd: int
    capacity_bytes: int


class Root(NamedTuple):
    """A directory that is served. follow_symlinks: names may lead out of it by symbolic links."""

    directory: int
    follow_symlinks: bool = False


class Loaded(NamedTuple):
    """What a path stands for. file: of a regular file an open descriptor, which is to be closed; None if its body is
    all that is wanted. body: its bytes as of the status, if there are few and they do not change while they are read.
    trusted: it is a regular file with one name, on a file system that no one else writes to, and no symbolic link is on
    its path: a watch of its directory tells of every change, except those that send no event (a write by mmap(2), a
    mount over a directory).
    """

    status: FileStatus
    body: bytes | None
    file: int | None
    trusted: bool


class Named(NamedTuple):
    """A name in a directory, and the status of the file or directory that it stands for."""

    name: bytes
    status: FileStatus


class Names(NamedTuple):
    """What is in a directory. truncated: and more than that."""

    found: tuple[Named, ...]
    truncated: bool


Rank = Callable[[bytes, bool], Any]
"""The place of a name in a directory: takes the name, and whether it is one of a directory. What it returns sorts; None
leaves the name out.
"""


class ChangeKind(Enum):
    """What changed in a watched directory."""

    CONTENT = 0
    """What is in the file of a name."""
    NAME = 1
    """A name came or went, or its file has other permissions."""
    DIRECTORY = 2
    """The same of the name of a directory."""
    ALTERED = 3
    """The watched directory has other permissions."""
    GONE = 4
    """The watched directory has no name, or another one; or the watch has ended."""


class Change(NamedTuple):
    """One change: the watch, and the name within the watched directory, or nothing."""

    watch: int
    kind: ChangeKind
    name: bytes


@dataclass(frozen=True)
class RingOptions:
    """How large a ring is and how its completions are noticed.

    submission_entries: one batch of submissions; a larger batch costs one extra crossing, nothing else.
    completion_entries: results that the kernel can hold between turns. Overflow is not lost but slow, and ends
        multishot operations, so this is a good deal larger than the submission queue.
    buffers, buffer_bytes: provided buffers for receives. A power of two of them, since the kernel masks the index.
        Few, because the kernel walks them in order and each one touched is memory that is no longer in the cache.
    workers: the cap on kernel threads for operations that may block (IORING_REGISTER_IOWQ_MAX_WORKERS).
    """

    submission_entries: int = 512
    completion_entries: int = 8192
    buffers: int = 256
    buffer_bytes: int = 4096
    workers: int = 8


class Ring(ABC):
    """One ring. It belongs to the thread that made it; only `wake` may be called from elsewhere."""

    now: float
    """Seconds of a clock that never goes back, as of the last turn."""

    # -- control plane ------------------------------------------------------------------------------------------

    @abstractmethod
    def turn(self, timeout_s: float) -> Iterable[Completion]:
        """Hand over what is queued, wait for a completion for at most `timeout_s` seconds (0: do not sleep), and
        return what finished, perhaps nothing, to be gone through once and before the next turn. Raises RingBrokenError.
        """

    @abstractmethod
    def accept(self, user_data: int, fd: int) -> None:
        """Take connections from the listener `fd`, again and again. res: the descriptor of one, non-blocking and
        close-on-exec.
        """

    @abstractmethod
    def accept_once(self, user_data: int, fd: int) -> None:
        """Take one connection."""

    @abstractmethod
    def accept_waiting(self, user_data: int, fd: int) -> None:
        """Take one connection that waits already. res: its descriptor, or a negative errno if there is none."""

    @abstractmethod
    def receive(self, user_data: int, fd: int) -> None:
        """Receive into buffers of the ring, again and again, until the end of the stream (res 0) or an error. NO_ROOM:
        all of them were in use. Nothing is wrong with the socket; `receive` it again, and the ring finds a buffer.
        """

    @abstractmethod
    def receive_once(self, user_data: int, fd: int) -> None:
        """Receive one piece."""

    @abstractmethod
    def send(self, user_data: int, fd: int, data: Pinned, offset: int = 0) -> None:
        """Send `data` from `offset` to its end. It waits for room in the socket; res may be short of the whole."""

    @abstractmethod
    def room(self, user_data: int, fd: int) -> None:
        """Complete once when a socket, a pipe or a terminal takes more, or is broken. res: not negative."""

    @abstractmethod
    def arrival(self, user_data: int, fd: int) -> None:
        """Complete once when there is something to be taken from a socket, or nothing will come. res: not negative."""

    @abstractmethod
    def write(self, user_data: int, fd: int, data: Pinned, start: int = 0) -> None:
        """Write `data` from its index `start` at the descriptor's current position."""

    @abstractmethod
    def close(self, fd: int, armed: int | None = None) -> None:
        """Close `fd`, and tell nobody. armed: the user_data of a receive that is in flight on it, and ends by this.
        Nothing else may be. An error that a file system reports late goes to the diagnostics.
        """

    @abstractmethod
    def call(self, user_data: int, job: Callable[[], object], lane: str, origin: str = "") -> None:
        """Have a helper call `job`, which may block. It completes in a later turn: with 0, and `take` has what came of
        it; or with -EBUSY if it was not called, because too much waits in its lane. It cannot be cancelled.

        lane: jobs of one kind, which wait for each other and for no other kind. origin: whom the job is for. Origins
        have their turns one after the other, and the newest job of the one with most of them has to go.
        """

    @abstractmethod
    def take(self, user_data: int) -> Any:
        """What a completion with 0 left: what a job returned, or the answer to a question; what a job raised, or what
        went wrong with a disk, is raised. Once.
        """

    @abstractmethod
    def cancel(self, user_data: int) -> None:
        """Ask that the operation of `user_data` end. It still completes by itself, with -ECANCELED or with what came
        of it; one that has ended is not an error.
        """

    # -- control plane: files -----------------------------------------------------------------------------------
    # Questions. An answer that is there at once is returned. None: with a user_data, a completion will tell, and if its
    # `res` is 0, `take` has the answer; without one, it cannot be told without waiting. A negative errno is an answer.
    # Paths are relative to a root, and lead out of it only if it follows symbolic links; then they must have no `..`.

    @abstractmethod
    def look(self, user_data: int | None, root: Root, path: bytes) -> FileStatus | int | None:
        """The status of what a path stands for."""

    @abstractmethod
    def load(
        self, user_data: int | None, root: Root, path: bytes, body_bytes_max: int, closed_bytes_max: int
    ) -> Loaded | int | None:
        """What a path stands for, opened if it is a regular file, and read if it has at most `body_bytes_max`. One of
        at most `closed_bytes_max` that was read is closed again. What `take` raises: it cannot be read.
        """

    @abstractmethod
    def names(self, user_data: int, root: Root, path: bytes, names_max: int, rank: Rank) -> Names | int | None:
        """What is in a directory: the first `names_max` by their rank, and of those the files and directories that
        could be read and are within the root. A helper reads it: -EBUSY if none is free. What `take` raises: it cannot
        be read.
        """

    @abstractmethod
    def inventory(
        self, user_data: int | None, root: Root, path: bytes, bytes_max: int
    ) -> frozenset[bytes] | int | None:
        """Every name in a directory. To be asked for when the directory is watched, so that what is not among them is
        not there until a change tells of it. -EOPNOTSUPP: a name that is not among them may be there all the same (it
        may have come from elsewhere, or in letters of another case); -EACCES: the directory cannot be read; -E2BIG:
        the names have more than `bytes_max` bytes; -EBUSY: no helper is free. What `take` raises: it cannot be read.
        """

    @abstractmethod
    def watch(self, user_data: int, root: Root, path: bytes) -> int | None:
        """Have changes in a directory noticed: the watch's number. Two paths to one directory have the same. An errno:
        it cannot be opened, or -EOPNOTSUPP, others change it too, of whom no watch would tell. What `take` raises: it
        cannot be watched (ENOSPC: no more can be).
        """

    @abstractmethod
    def await_changes(self, user_data: int) -> None:
        """Complete again and again when something changed in a watched directory, before all else that completes in the
        same turn: what comes of a request that was sent after a change comes after the change. Once, and before
        `watch`. A negative errno: changes are not noticed, or not any more.
        """

    @abstractmethod
    def fill(self, user_data: int, pipe: Pipe, file: int, offset: int, length: int) -> int | None:
        """Move up to `length` bytes of a file from `offset` to an empty pipe: a count, 0 at the end of the file."""

    # -- data plane ---------------------------------------------------------------------------------------------

    @abstractmethod
    def changes(self) -> list[Change] | None:
        """What has changed in watched directories since it was last asked; None: more than is known."""

    @abstractmethod
    def unwatch(self, watch: int) -> None:
        """Stop a watch; one that ended by itself is not an error."""

    @abstractmethod
    def received(self, buffer: int, count: int) -> bytes:
        """A copy of the `count` bytes that a receive put in its provided buffer. Only until the next turn."""

    @abstractmethod
    def pin(self, data: bytes) -> Pinned:
        """The bytes, with what the kernel needs to reach them."""

    # -- interrupt ----------------------------------------------------------------------------------------------

    @abstractmethod
    def wake(self) -> None:
        """End the sleep of `turn`, or of the next one; after `shut`, do nothing. From any thread, and from a signal
        handler.
        """

    # -- the end ------------------------------------------------------------------------------------------------

    @abstractmethod
    def in_flight(self) -> int:
        """How many submissions, closes and cancels have not ended; after `shut`, how many had not."""

    @abstractmethod
    def hanging(self) -> tuple[str, ...]:
        """Which file systems owe an answer, and may never give it, by where they are; after `shut`, which did."""

    @abstractmethod
    def shut(self) -> None:
        """Give the ring back. Operations still in flight are ended by the kernel."""


class System(ABC):
    """What is answered at once: it takes no user_data, asks no file system for a path, and waits for no peer."""

    @abstractmethod
    def peer_name(self, fd: int) -> str:
        """The peer's address as text: an IP address, `unix`, or `-` when the peer is gone already."""

    @abstractmethod
    def finish(self, fd: int) -> None:
        """Send FIN after what is queued: shutdown(2) with SHUT_WR. A peer that is gone is not an error."""

    @abstractmethod
    def reset_on_close(self, fd: int) -> None:
        """Let the close of a socket discard what is queued and send RST: SO_LINGER with no time (socket(7))."""

    @abstractmethod
    def unacknowledged_bytes(self, fd: int) -> int:
        """What a socket was given and its peer has not acknowledged: SIOCOUTQ (tcp(7)). Of a unix socket it is the
        memory of what its peer has not read (unix(7)), which falls in the same way.
        """

    @abstractmethod
    def throw_away(self, fd: int, bytes_max: int) -> int:
        """Throw away up to `bytes_max` bytes, at most DISCARD_BYTES_MAX, that wait in a stream socket. TCP does it
        without a copy (MSG_TRUNC, tcp(7)). Returns how many; 0 at the end of the stream; or a negative errno, -EAGAIN
        if there are none.
        """

    @abstractmethod
    def pipe(self, capacity_bytes: int) -> Pipe:
        """A non-blocking pipe of the given capacity, or of what the system grants. Raises OSError."""

    @abstractmethod
    def empty(self, pipe: Pipe, socket: int, length: int, more: bool) -> int:
        """Move up to `length` bytes from a pipe to a non-blocking socket. more: others follow at once. A count, or a
        negative errno: -EAGAIN when it is full.
        """

    @abstractmethod
    def discard(self, pipe: Pipe) -> None:
        """Close both ends of a pipe, with what is in it. Nothing may be in flight on it."""

    @abstractmethod
    def write_now(self, fd: int, data: bytes) -> int:
        """Write to a pipe or a socket what it takes at once: a count, or a negative errno. -EAGAIN: it is full.
        -EOPNOTSUPP: the kernel cannot tell (a terminal, a FIFO that has a name, a pipe before Linux 6.4); then `write`
        is for it.
        """

    @abstractmethod
    def reserve(self) -> int:
        """A descriptor to have one in reserve. Raises OSError."""

    @abstractmethod
    def give_up(self, reserve: int) -> None:
        """Make room for another descriptor, at once."""

    @abstractmethod
    def wall_time_s(self) -> float:
        """Seconds since the epoch, now."""

    @abstractmethod
    def random_bytes(self, count: int) -> bytes:
        """Bytes that nobody can guess."""


@dataclass(frozen=True)
class World:
    """All that a server knows of the outside."""

    ring: Ring
    system: System
    diagnostics: Diagnostics


def errno_name(res: int) -> str:
    """`ECONNRESET (Connection reset by peer)` for the result -104."""
    return f"{errno.errorcode.get(-res, f'errno {-res}')} ({os.strerror(-res)})"
