"""The ring on liburing: the one module that imports the cffi extension.

Theory of operation. A verb is one call into the shim, which writes one submission into the queue; the kernel learns of
the batch when `turn` enters it, and the same crossing waits and brings back what finished. With DEFER_TASKRUN the
kernel posts completions only inside that crossing, so there is nothing to be gained by looking at the queue between
turns. The completions are copied as an array of 16-byte records and decoded by `struct.iter_unpack`: 30 ns each, where
a call for each would cost 150.

Where a submission cannot be queued (the queue is full and the kernel, short of memory or with an overflown completion
queue, takes nothing), the call is kept with its arguments and repeated at the next turn, in order: a cancel must never
overtake the submission that it is for.

Rejected: packing submissions in Python with `struct.pack_into`. It measures the same as a call (110 ns for the pack,
230 with the bounds check around it, against 150 to 170), and the layout of a submission is liburing's business.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from ringserve.ring.capability import circumstances, explain_refusal
from ringserve.ring.helpers import Helpers
from ringserve.ring.interrupt import WAIT, Interrupt
from ringserve.ring.linux.inotify import WATCH_MASK, parse_inotify
from ringserve.ring.world import (
    NANOSECONDS,
    SPLICE_MOVE,
    Completion,
    FileStatus,
    Ring,
    RingBrokenError,
    RingOptions,
    RingRefusedError,
    Watched,
    errno_name,
)

try:
    from ringserve.ring.uring._uring import ffi, lib
except ImportError as missing:  # pragma: no cover - a checkout that was never built
    raise ImportError(
        "ringserve's extension is not built; run `make install` in the checkout, or `pip install ringserve`"
    ) from missing

OWN = 1 << 63  # RINGSERVE_OWN of shim.c
WAKE = OWN | 0
COMPLETION = struct.Struct("=Qih?x")  # ringserve_completion of shim.c
STATUS = struct.Struct("=QQQqqq")  # ringserve_status of shim.h, in the order of FileStatus
OPEN_HOW = struct.Struct("=QQQ")  # struct open_how of openat2(2): flags, mode, resolve
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08
LONGEST_SLEEP_S = 3600.0
_COMMON = lib.IORING_SETUP_CLAMP | lib.IORING_SETUP_CQSIZE
SETUP_LADDER = (
    lib.IORING_SETUP_SINGLE_ISSUER | lib.IORING_SETUP_DEFER_TASKRUN | lib.IORING_SETUP_SUBMIT_ALL | _COMMON,
    lib.IORING_SETUP_COOP_TASKRUN | lib.IORING_SETUP_SUBMIT_ALL | _COMMON,
    _COMMON,
)
"""From the best to what every kernel with io_uring takes. SUBMIT_ALL: one bad submission must not strand the rest of
its batch. The kernel answers EINVAL to a flag that it does not know, and the next rung is tried."""
KERNEL_THREAD_LADDER = (
    lib.IORING_SETUP_SQPOLL | lib.IORING_SETUP_SINGLE_ISSUER | lib.IORING_SETUP_SUBMIT_ALL | _COMMON,
    lib.IORING_SETUP_SQPOLL | _COMMON,
)


def _create(options: RingOptions, interrupt: Interrupt) -> Any:
    """A new kernel ring by the first rung of the ladder that the kernel accepts. Raises RingRefusedError."""
    holder = ffi.new("ringserve_ring **")
    result = -errno.EINVAL
    for flags in KERNEL_THREAD_LADDER if interrupt.kernel_thread else SETUP_LADDER:
        result = lib.ringserve_ring_create(
            holder, options.submission_entries, options.completion_entries, flags, interrupt.kernel_thread_idle_ms
        )
        if result == 0:
            return holder[0]
        if result != -errno.EINVAL:
            break
    raise RingRefusedError(explain_refusal(-result, circumstances()))


class Memory:
    """Pinned bytes, and where they are."""

    __slots__ = ("_owner", "address", "length")

    def __init__(self, data: bytes | bytearray) -> None:
        self._owner = ffi.from_buffer(data)  # keeps `data` referenced; an exported bytearray cannot be resized or move
        self.address = int(ffi.cast("uintptr_t", self._owner))
        self.length = len(data)


class FilledMemory(Memory):
    """A buffer, and where it is."""

    __slots__ = ("memory",)

    def __init__(self, length: int) -> None:
        self.memory = bytearray(length)
        super().__init__(self.memory)


def _checked(result: int) -> int:
    """The result of a call that is answered at once, or its errno as OSError."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


class UringRing(Ring):
    """A ring of the kernel. See `Ring` for the contract, and the module for how it is kept."""

    def __init__(self, options: RingOptions | None = None, interrupt: Interrupt = WAIT) -> None:
        self._options = options = options or RingOptions()
        self._ring = _create(options, interrupt)
        self._wait_for = int(interrupt.sleeps)
        self._deferred: deque[tuple[Callable[..., int], tuple[int, ...]]] = deque()
        self._send = lib.ringserve_send
        self._how: dict[tuple[int, bool], Memory] = {}
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._wake_write, False)
        self._wake_buffer = self.buffer(64)
        self._helpers = Helpers(self.wake)
        self._status = ffi.new("ringserve_status *")
        self._status_memory = ffi.buffer(self._status)
        self.now = time.monotonic()
        try:
            self._prepare()
        except BaseException:
            self.shut()
            raise

    def _prepare(self) -> None:
        options = self._options
        figures = lib.ringserve_ring_figures(self._ring)
        if not figures.features & lib.IORING_FEAT_EXT_ARG or not figures.features & lib.IORING_FEAT_NODROP:
            raise RingRefusedError(explain_refusal(errno.EINVAL, circumstances()))
        result = lib.ringserve_buffers_create(self._ring, options.buffers, options.buffer_bytes)
        if result < 0:
            raise RingRefusedError(explain_refusal(-result, circumstances()))
        self._buffer_bytes = options.buffer_bytes
        self._memory = ffi.buffer(lib.ringserve_buffers_memory(self._ring), options.buffers * options.buffer_bytes)
        self._completions = ffi.buffer(
            lib.ringserve_completions_memory(self._ring), figures.completion_entries * COMPLETION.size
        )
        # Only an economy of a few ns per crossing; a kernel without it (before 5.18) does as well.
        lib.ringserve_ring_register_descriptor(self._ring)
        lib.ringserve_ring_limit_workers(self._ring, options.workers, options.workers)
        self._check_receive()
        self._await_wake()

    def _check_receive(self) -> None:
        """A real receive through the ring: the one proof that multishot and provided buffers both work (6.0)."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.receive_multishot(0, ours.fileno())
            theirs.send(b"?")
            for _attempt in range(10):  # completions may take a turn to show where task work is not deferred
                finished = list(self.turn(0.1))
                if finished:
                    break
            answered = [(res, buffer >= 0) for _user_data, res, buffer, _more in finished]
            if answered != [(1, True)]:
                raise RingRefusedError(explain_refusal(errno.EINVAL, circumstances()))
            ours.shutdown(socket.SHUT_RDWR)
            # The end of the receive, or the next user of its user_data would be surprised by it.
            if not any(not more for _attempt in range(10) for _user, _res, _buffer, more in self.turn(0.1)):
                raise RingRefusedError(explain_refusal(errno.EINVAL, circumstances()))

    # -- control plane ------------------------------------------------------------------------------------------

    def turn(self, timeout_s: float) -> Iterable[Completion]:
        if self._deferred:
            self._queue_deferred()
        if timeout_s > LONGEST_SLEEP_S:
            timeout_s = LONGEST_SLEEP_S
        # Not with submissions that did not fit: what is waited for may be among them.
        wait_for = self._wait_for if timeout_s > 0 and not self._deferred else 0
        count = lib.ringserve_turn(self._ring, wait_for, int(timeout_s * NANOSECONDS))
        if count < 0:
            raise RingBrokenError(f"io_uring_enter: {errno_name(count)}")
        self.now = time.monotonic()
        if count >> 32:
            return self._with_own(count & 0xFFFFFFFF, count >> 32)
        return COMPLETION.iter_unpack(self._completions[: count * 16])

    def _with_own(self, count: int, own: int) -> Iterable[Completion]:
        """A turn's completions, and what those of the ring's own bring about."""
        finished = COMPLETION.iter_unpack(self._completions[: count * 16])
        for user_data, *_result in COMPLETION.iter_unpack(self._completions[-own * 16 :]):
            assert user_data == WAKE, "nothing else of the ring's own is in flight"
            self._await_wake()
            return chain(finished, self._helpers.completions())
        return finished

    def _await_wake(self) -> None:
        self.read(WAKE, self._wake_read, self._wake_buffer, 0, -1)

    def _queue(self, function: Callable[..., int], *arguments: int) -> None:
        if self._deferred or function(self._ring, *arguments) < 0:
            self._deferred.append((function, arguments))

    def _queue_deferred(self) -> None:
        while self._deferred:
            function, arguments = self._deferred[0]
            if function(self._ring, *arguments) < 0:
                return
            self._deferred.popleft()

    def accept(self, user_data: int, fd: int) -> None:
        self._queue(lib.ringserve_accept, user_data, fd)

    def accept_multishot(self, user_data: int, fd: int) -> None:
        self._queue(lib.ringserve_accept_multishot, user_data, fd)

    def receive(self, user_data: int, fd: int) -> None:
        self._queue(lib.ringserve_receive, user_data, fd)

    def receive_multishot(self, user_data: int, fd: int) -> None:
        self._queue(lib.ringserve_receive_multishot, user_data, fd)

    def send(self, user_data: int, fd: int, data: Memory, offset: int = 0) -> None:  # type: ignore[override]  # its own
        # As `_queue`, without the way of a call through arguments in a tuple: a tenth of a microsecond a request.
        address, length = data.address + offset, data.length - offset
        if self._deferred or self._send(self._ring, user_data, fd, address, length) < 0:
            self._deferred.append((self._send, (user_data, fd, address, length)))

    def splice(self, user_data: int, file_fd: int, offset: int, pipe_fd: int, length: int) -> None:
        self._queue(lib.ringserve_splice, user_data, file_fd, offset, pipe_fd, length, SPLICE_MOVE)

    def poll(self, user_data: int, fd: int, events: int) -> None:
        self._queue(lib.ringserve_poll, user_data, fd, events)

    def open_beneath(  # type: ignore[override]  # its own
        self, user_data: int, directory_fd: int, path: Memory, flags: int, follow_symlinks: bool = False
    ) -> None:
        how = self._how.get((flags, follow_symlinks))
        if how is None:
            resolve = RESOLVE_NO_MAGICLINKS if follow_symlinks else RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH
            how = self.pin(OPEN_HOW.pack(flags, 0, resolve))
            self._how[flags, follow_symlinks] = how
        self._queue(lib.ringserve_open_beneath, user_data, directory_fd, path.address, how.address)

    def read(self, user_data: int, fd: int, buffer: FilledMemory, start: int, offset: int) -> None:  # type: ignore[override]  # its own
        self._queue(lib.ringserve_read, user_data, fd, buffer.address + start, buffer.length - start, offset)

    def write(self, user_data: int, fd: int, data: Memory, start: int = 0) -> None:  # type: ignore[override]  # its own
        self._queue(lib.ringserve_write, user_data, fd, data.address + start, data.length - start)

    def close(self, user_data: int, fd: int) -> None:
        self._queue(lib.ringserve_close, user_data, fd)

    def call(self, user_data: int, job: Callable[[], object], lane: str, origin: str = "") -> None:
        self._helpers.call(user_data, job, lane, origin)

    def take(self, user_data: int) -> object:
        return self._helpers.take(user_data)

    def cancel(self, user_data: int, target_user_data: int) -> None:
        self._queue(lib.ringserve_cancel, user_data, target_user_data)

    # -- data plane ---------------------------------------------------------------------------------------------

    def received(self, buffer: int, count: int) -> bytes:
        start = buffer * self._buffer_bytes
        data: bytes = self._memory[start : start + count]
        return data

    def pin(self, data: bytes) -> Memory:
        return Memory(data)

    def buffer(self, length: int) -> FilledMemory:
        return FilledMemory(length)

    def status_cached(self, directory_fd: int, path: bytes, follow_symlinks: bool = False) -> FileStatus | int:
        resolve = RESOLVE_NO_MAGICLINKS if follow_symlinks else RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH
        result = lib.ringserve_status_cached(directory_fd, path, resolve, self._status)
        return result or FileStatus._make(STATUS.unpack(self._status_memory))

    def splice_now(self, fd_in: int, fd_out: int, length: int, flags: int) -> int:
        return lib.ringserve_splice_now(fd_in, fd_out, length, flags)

    def splice_resident(self, fd: int, offset: int, pipe_fd: int, length: int) -> int:
        return lib.ringserve_splice_resident(fd, offset, pipe_fd, length)

    def watch_open(self) -> int:
        # Non-blocking: a read of it then waits by poll and completes in the turn of the event. A blocking inotify
        # descriptor is read by a kernel worker instead, and a request could overtake the event (seen on 6.18).
        return _checked(lib.ringserve_inotify_open())

    def watch_add(self, watch_fd: int, directory_fd: int) -> int:
        # By the open descriptor, so that the name is not looked up a second time and cannot have changed meanwhile.
        return _checked(lib.ringserve_inotify_add(watch_fd, b"/proc/self/fd/%d" % directory_fd, WATCH_MASK))

    def watch_remove(self, watch_fd: int, watch: int) -> None:
        lib.ringserve_inotify_remove(watch_fd, watch)  # EINVAL: it ended by itself

    def watch_events(self, data: bytes) -> list[Watched]:
        return parse_inotify(data)

    # -- interrupt ----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        # Full of earlier wakes: one is enough.
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

    @property
    def wake_fd(self) -> int:
        return self._wake_write

    # -- clock and end ------------------------------------------------------------------------------------------

    def in_flight(self) -> int:
        waits_for_wake = 1
        return lib.ringserve_ring_in_flight(self._ring) + len(self._deferred) + self._helpers.running() - waits_for_wake

    def shut(self) -> None:
        if self._ring is None:
            return
        self._helpers.shut()
        lib.ringserve_ring_destroy(self._ring)
        self._ring = None
        os.close(self._wake_read)
        os.close(self._wake_write)

    @property
    def buffer_count(self) -> int:
        return self._options.buffers

    @property
    def figures(self) -> dict[str, int]:
        found = lib.ringserve_ring_figures(self._ring)
        return {
            "setup_flags": found.setup_flags,
            "features": found.features,
            "submission_entries": found.submission_entries,
            "completion_entries": found.completion_entries,
            "enters": found.enters,
            "early_submits": found.early_submits,
            "overflows": found.overflows,
            "interrupted": found.interrupted,
            "refused": found.refused,
        }
