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

The kernel is a subsystem that runs by itself and reports back. Nothing here is a call that one sits and waits for:
a verb returns before its operation began, and its result comes out of a later `turn` under the same user_data.

Invariants that every implementation keeps and `tests/ring/test_ring_contract.py` checks
 1. A submission ends with the first of its completions whose `more` is false. Until then its memory and its
    descriptors belong to the kernel as well: whoever queued it keeps them, cancelled or not.
 2. A turn's completions are copied out before the first of them is handed over. A handler may queue submissions;
    it may not turn the ring.
 3. A provided buffer is the kernel's or ours. A completion that names one makes it ours until the next `turn`, which
    gives it back exactly once, whatever `res` says.
 4. Results are those of the kernel: `res` is a count or a descriptor, or a negative errno. A short count is normal.
 5. `now` changes in `turn` only, so that all of a batch happens at one instant.

What is *not* here: retries, time-outs of single operations, buffering. They are policy and live above.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ringserve.ring.diagnostics import Diagnostics

POLL_IN = 0x001
POLL_OUT = 0x004
POLL_ERROR_OR_HANGUP = 0x018

PIPE_BUF = 4096
"""So many bytes a pipe takes whole or not at all, and no other's come in between (pipe(7))."""

SPLICE_MOVE = 1
SPLICE_NONBLOCK = 2
SPLICE_MORE = 4

NANOSECONDS = 1_000_000_000
DISCARD_BYTES_MAX = 256 * 1024

Completion = tuple[int, int, int, bool]
"""user_data, res, buffer, more. A plain tuple, since a class costs four times as much to make.

buffer: where received bytes lie, for `Ring.received`; -1 for none. It means something until the next `turn`.
more: the submission goes on, and completes again.
"""


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


class Buffer(Protocol):
    """Memory that `read` fills. It is looked at only after the read has completed."""

    @property
    def memory(self) -> bytearray:
        """The bytes."""


class FileStatus(NamedTuple):
    """What `status` says of an open descriptor: the fields of stat(2) that serving needs."""

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


class Watched(NamedTuple):
    """One inotify event: the watch, what happened (IN_* bits), and the name within the watched directory."""

    watch: int
    mask: int
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
        """Take one connection from the listener `fd`. res: its descriptor, non-blocking and close-on-exec."""

    @abstractmethod
    def accept_multishot(self, user_data: int, fd: int) -> None:
        """As `accept`, again and again, until a completion says that there is no more."""

    @abstractmethod
    def receive(self, user_data: int, fd: int) -> None:
        """Receive once into a provided buffer, as `receive_multishot` does again and again. The completion never has
        more.
        """

    @abstractmethod
    def receive_multishot(self, user_data: int, fd: int) -> None:
        """Receive into provided buffers until a completion has no more: at end of stream (res 0), an error, or
        -ENOBUFS, which says nothing bad of the socket.
        """

    @abstractmethod
    def send(self, user_data: int, fd: int, data: Pinned, offset: int = 0) -> None:
        """Send `data` from `offset` to its end. It waits for room in the socket; res may be short of the whole."""

    @abstractmethod
    def splice(self, user_data: int, file_fd: int, offset: int, pipe_fd: int, length: int) -> None:
        """Move up to `length` bytes of a file from `offset` to an empty pipe. It may wait for the disk. res: how many;
        0 at the end of the file.
        """

    @abstractmethod
    def poll(self, user_data: int, fd: int, events: int) -> None:
        """Complete once when one of `events` (POLL_*) holds. res: the events."""

    @abstractmethod
    def open_beneath(
        self, user_data: int, directory_fd: int, path: Pinned, flags: int, follow_symlinks: bool = False
    ) -> None:
        """openat2(2) with RESOLVE_BENEATH and no magic links. `path` is relative and ends with a NUL. res: the
        descriptor. follow_symlinks: they may lead elsewhere, so that `path` must have no `..` of its own.
        """

    @abstractmethod
    def read(self, user_data: int, fd: int, buffer: Buffer, start: int, offset: int) -> None:
        """Read into `buffer` from its index `start` to its end. `offset`: position in the file, or -1 for the
        current one (pipes, inotify).
        """

    @abstractmethod
    def write(self, user_data: int, fd: int, data: Pinned, start: int = 0) -> None:
        """Write `data` from its index `start` at the descriptor's current position."""

    @abstractmethod
    def close(self, user_data: int, fd: int) -> None:
        """Close `fd`. Nothing else may be in flight on it: a close with a receive pending sends no FIN."""

    @abstractmethod
    def call(self, user_data: int, job: Callable[[], object], lane: str, origin: str = "") -> None:
        """Have a helper call `job`, which may block. It completes in a later turn: with 0, and `take` has what came of
        it; or with -EAGAIN if it was not called, because too much waits in its lane. It cannot be cancelled.

        lane: jobs of one kind, which wait for each other and for no other kind. origin: whom the job is for. Origins
        have their turns one after the other, and the newest job of the one with most of them has to go.
        """

    @abstractmethod
    def take(self, user_data: int) -> object:
        """What the job of a completion with 0 returned; what it raised is raised. Once."""

    @abstractmethod
    def cancel(self, user_data: int, target_user_data: int) -> None:
        """Ask that the operations of `target_user_data` end. They still complete by themselves, before or after
        this one does. res: 0, -ENOENT (nothing there) or -EALREADY (running, and will end).
        """

    # -- data plane: memory -------------------------------------------------------------------------------------

    @abstractmethod
    def received(self, buffer: int, count: int) -> bytes:
        """A copy of the `count` bytes that a receive put in its provided buffer. Only until the next turn."""

    @abstractmethod
    def pin(self, data: bytes) -> Pinned:
        """The bytes, with what the kernel needs to reach them."""

    @abstractmethod
    def buffer(self, length: int) -> Buffer:
        """Zeroed memory that `read` can fill."""

    # -- data plane: descriptors --------------------------------------------------------------------------------
    # Calls that are answered at once and never wait for a disk, a peer or a name server.

    @abstractmethod
    def status_cached(self, directory_fd: int, path: bytes, follow_symlinks: bool = False) -> FileStatus | int:
        """`status` of what `open_beneath` would open, if the kernel knows the path without asking a file system; else a
        negative errno: -EAGAIN if it does not (openat2(2), RESOLVE_CACHED), -ENOENT if it knows that nothing is there.
        `path` has no final NUL.
        """

    @abstractmethod
    def splice_now(self, fd_in: int, fd_out: int, length: int, flags: int) -> int:
        """splice(2) from a pipe to a non-blocking socket. A count, or a negative errno: -EAGAIN when it is full,
        -EINTR when a signal came before anything had moved (splice(2) does not say so; the kernel does it).
        """

    @abstractmethod
    def splice_resident(self, fd: int, offset: int, pipe_fd: int, length: int) -> int:
        """splice(2) of a file's bytes into a pipe, if they are in the page cache: a count, perhaps short, or a negative
        errno. -EAGAIN: some are not, or it cannot be told (a file system without a page cache of its own), or the pipe
        is full; then `splice` is for them, which may wait.
        """

    @abstractmethod
    def watch_open(self) -> int:
        """An inotify descriptor to be read through the ring. Raises OSError."""

    @abstractmethod
    def watch_add(self, watch_fd: int, directory_fd: int) -> int:
        """Watch an open directory's names. Returns the watch's number. Raises OSError (ENOSPC at the limit)."""

    @abstractmethod
    def watch_remove(self, watch_fd: int, watch: int) -> None:
        """Stop a watch; one that ended by itself is not an error."""

    @abstractmethod
    def watch_events(self, data: bytes) -> list[Watched]:
        """What a read from a `watch_open` descriptor says."""

    # -- interrupt ----------------------------------------------------------------------------------------------

    @abstractmethod
    def wake(self) -> None:
        """End the sleep of `turn`, or of the next one. From any thread, and from a signal handler."""

    @property
    @abstractmethod
    def wake_fd(self) -> int:
        """The descriptor to which a written byte does what `wake` does (`signal.set_wakeup_fd`)."""

    # -- clock and end ------------------------------------------------------------------------------------------

    @abstractmethod
    def in_flight(self) -> int:
        """How many submissions will complete again."""

    @abstractmethod
    def shut(self) -> None:
        """Give the ring back. Operations still in flight are ended by the kernel."""

    @property
    @abstractmethod
    def buffer_count(self) -> int:
        """How many provided buffers there are: as many receives can complete in one turn."""

    @property
    @abstractmethod
    def figures(self) -> dict[str, int]:
        """Counters since the start, by name, for diagnosis."""


class System(ABC):
    """What is answered at once: it takes no user_data, touches no file system, and waits for no peer."""

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
    def discard(self, pipe: Pipe) -> None:
        """Close both ends of a pipe, with what is in it. Nothing may be in flight on it."""

    @abstractmethod
    def write_now(self, fd: int, data: bytes) -> int:
        """Write to a pipe or a socket what it takes at once: a count, or a negative errno. -EAGAIN: it is full.
        -EOPNOTSUPP: the kernel cannot tell (a terminal, a FIFO that has a name, a pipe before Linux 6.4); then `write`
        is for it.
        """

    @abstractmethod
    def status(self, fd: int) -> FileStatus:
        """fstat(2). Raises OSError."""

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
    import errno

    return f"{errno.errorcode.get(-res, f'errno {-res}')} ({os.strerror(-res)})"
