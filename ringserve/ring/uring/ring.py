"""The ring on liburing.

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
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from ringserve.ring.capability import circumstances, explain_refusal
from ringserve.ring.diagnostics import Diagnostics
from ringserve.ring.helpers import Helpers
from ringserve.ring.interrupt import WAIT, Interrupt
from ringserve.ring.linux.inotify import changes_of
from ringserve.ring.linux.lanes import IN_LANE_MAX, Lane
from ringserve.ring.linux.mountinfo import Mount
from ringserve.ring.uring.chains import CANCEL, OWN, Chain, Chains
from ringserve.ring.uring.files import Files
from ringserve.ring.uring.library import FilledMemory, Memory, ffi, lib
from ringserve.ring.world import (
    NANOSECONDS,
    Change,
    Completion,
    FileStatus,
    Loaded,
    Names,
    Pipe,
    Rank,
    Ring,
    RingBrokenError,
    RingOptions,
    RingRefusedError,
    Root,
    errno_name,
)

CLOSE, CHANGES = OWN | 1, OWN | 5  # of shim.c
WAKE, CHANGED, MOUNTED = OWN | 3, OWN | 4, OWN | 6
COMPLETION = struct.Struct("=Qih?x")  # ringserve_completion of shim.c
POLL_IN, POLL_PRI, POLL_OUT = 1, 2, 4
CHANGES_BYTES_MAX = 256 * 1024
"""Of one turn. When more happens at once, it is cheaper to look at everything again."""

FIGURES = (
    "setup_flags", "features", "submission_entries", "completion_entries", "enters", "early_submits", "overflows",
    "interrupted", "refused",
)  # fmt: skip

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


class UringRing(Ring):
    """A ring of the kernel. See `Ring` for the contract, and the module for how it is kept."""

    def __init__(
        self,
        options: RingOptions | None = None,
        interrupt: Interrupt = WAIT,
        diagnostics: Diagnostics | None = None,
    ) -> None:
        self._options = options = options or RingOptions()
        self._ring = _create(options, interrupt)
        self._wait_for = int(interrupt.sleeps)
        self._deferred: deque[tuple[Callable[..., int], tuple[int, ...]]] = deque()
        self._send = lib.ringserve_send
        self._diagnostics = diagnostics or Diagnostics()
        self._files = Files(self.close, self._lane_of)
        self._places = self._files.places
        self._due: list[Completion] = []
        """Completions for the next turn that are none of the kernel's."""
        self._held: deque[tuple[Callable[..., int], int, int]] = deque()
        """Receives that wait for buffers."""
        self._results: dict[int, tuple[object, BaseException | None]] = {}
        """For `take`."""
        self._left = 0
        """What was in flight when the ring was shut."""
        self._notifier = -1
        self._changes: list[Change] | None = []
        self._changes_owner: int | None = None
        # Reentrant, since a signal handler may wake the ring wherever its own thread happens to be.
        self._wake_lock = threading.RLock()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._wake_write, False)
        self._wake_buffer = FilledMemory(64)
        self._changes_buffer: FilledMemory | None = None
        self._helpers = Helpers(self.wake)
        self._chains = Chains(self._helpers, self._queue, self._close_in, self._tell, lambda: self.now)
        self._lanes = self._chains.lanes
        self.now = time.monotonic()
        try:
            self._prepare()
        except BaseException:
            self.shut()
            raise

    def _prepare(self) -> None:
        options = self._options
        figures = self._figures = lib.ringserve_ring_figures(self._ring)
        if not figures.features & lib.IORING_FEAT_EXT_ARG or not figures.features & lib.IORING_FEAT_NODROP:
            raise RingRefusedError(explain_refusal(errno.EINVAL, circumstances()))
        result = lib.ringserve_buffers_create(self._ring, options.buffers, options.buffer_bytes)
        if result < 0:
            raise RingRefusedError(explain_refusal(-result, circumstances()))
        self._buffer_bytes = options.buffer_bytes
        self._memory = ffi.buffer(lib.ringserve_buffers_memory(self._ring), options.buffers * options.buffer_bytes)
        self._completions = ffi.buffer(
            lib.ringserve_completions_memory(self._ring), (figures.completion_entries + 1) * COMPLETION.size
        )
        # Only an economy of a few ns per crossing; a kernel without it (before 5.18) does as well.
        lib.ringserve_ring_register_descriptor(self._ring)
        lib.ringserve_ring_limit_workers(self._ring, options.workers, options.workers)
        self._check_receive()
        self._await_wake()
        self._await_mounted()

    def _check_receive(self) -> None:
        """A real receive through the ring: the one proof that multishot and provided buffers both work (6.0)."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.receive(0, ours.fileno())
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
        if self._held:
            self._queue_held()
        if self._lanes.waiting:
            timeout_s = min(timeout_s, self._refuse_late())
        if timeout_s > LONGEST_SLEEP_S:
            timeout_s = LONGEST_SLEEP_S
        # Not with submissions that did not fit: what is waited for may be among them.
        wait_for = self._wait_for if timeout_s > 0 and not (self._deferred or self._due or self._held) else 0
        count = lib.ringserve_turn(self._ring, wait_for, int(timeout_s * NANOSECONDS))
        if count < 0:
            raise RingBrokenError(f"io_uring_enter: {errno_name(count)}")
        self.now = time.monotonic()
        if count >> 32 or self._due:
            return self._with_own(count & 0xFFFFFFFF, count >> 32)
        return COMPLETION.iter_unpack(self._completions[: count * 16])

    def _with_own(self, count: int, own: int) -> Iterable[Completion]:
        """A turn's completions, and what those of the ring's own bring about."""
        kernels = COMPLETION.iter_unpack(self._completions[: count * 16])
        first: list[Completion] = []
        its_own = COMPLETION.iter_unpack(self._completions[len(self._completions) - own * 16 :])
        for user_data, res, _buffer, _more in reversed(list(its_own)):
            if user_data == WAKE:
                self._await_wake()
                self._end_calls()
            elif user_data == CHANGED:
                if res < 0:
                    first.append(self._end_changes(res))
                else:
                    self._await_changed()
            elif user_data == MOUNTED:
                self._files.mounts_changed = True  # they are read when somebody needs to know: there may be thousands
                self._await_mounted()
            elif user_data == CHANGES:
                if self._changes_owner is not None:
                    first.append(self._note_changes(res))
            elif user_data != CLOSE:
                self._chains.finished(user_data, res)
            else:
                # EIO and the like come from a file system that reports late; the descriptor is gone all the same.
                self._diagnostics.report(self.now, "close: {}", errno_name(res))
        due, self._due = self._due, []
        return chain(first, kernels, due)

    def _refuse_late(self) -> float:
        """Tell those who wait for a lane since too long. Returns when that is to be done again: in so many seconds."""
        self._chains.refuse_late()
        deadline = self._lanes.deadline()
        return LONGEST_SLEEP_S if deadline is None else max(0.0, deadline - time.monotonic())

    def _await_wake(self) -> None:
        buffer = self._wake_buffer
        self._queue(lib.ringserve_read, WAKE, self._wake_read, buffer.address, buffer.length, -1, 0)

    def _await_mounted(self) -> None:
        if self._files.mounts.changes >= 0:
            self._queue(lib.ringserve_poll, MOUNTED, self._files.mounts.changes, POLL_PRI)
        else:
            self._diagnostics.report(self.now, "cannot read /proc/self/mountinfo: every file may hang")

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
        self._queue(lib.ringserve_accept_multishot, user_data, fd)

    def accept_once(self, user_data: int, fd: int) -> None:
        self._queue(lib.ringserve_accept, user_data, fd)

    def accept_waiting(self, user_data: int, fd: int) -> None:
        # It takes what is there at once; the cancel behind it ends one that finds nothing.
        self._queue(lib.ringserve_accept, user_data, fd)
        self._queue(lib.ringserve_cancel, CANCEL, user_data)

    def receive(self, user_data: int, fd: int) -> None:
        self._receive(lib.ringserve_receive_multishot, user_data, fd)

    def receive_once(self, user_data: int, fd: int) -> None:
        self._receive(lib.ringserve_receive, user_data, fd)

    def _receive(self, function: Callable[..., int], user_data: int, fd: int) -> None:
        # While all buffers are lent it would end at once. Others wait already: it is their turn first.
        if self._held or self._figures.lent == self._options.buffers:
            self._held.append((function, user_data, fd))
        else:
            self._queue(function, user_data, fd)

    def _queue_held(self) -> None:
        """Queue as many receives as there are buffers, all of which the turn that begins gives back."""
        for _receive in range(min(len(self._held), self._options.buffers)):
            self._queue(*self._held.popleft())

    def send(self, user_data: int, fd: int, data: Memory, offset: int = 0) -> None:  # type: ignore[override]  # its own
        # As `_queue`, without the way of a call through arguments in a tuple: a tenth of a microsecond a request.
        address, length = data.address + offset, data.length - offset
        if self._deferred or self._send(self._ring, user_data, fd, address, length) < 0:
            self._deferred.append((self._send, (user_data, fd, address, length)))

    def room(self, user_data: int, fd: int) -> None:
        self._queue(lib.ringserve_poll, user_data, fd, POLL_OUT)

    def arrival(self, user_data: int, fd: int) -> None:
        self._queue(lib.ringserve_poll, user_data, fd, POLL_IN)

    def write(self, user_data: int, fd: int, data: Memory, start: int = 0) -> None:  # type: ignore[override]  # its own
        self._queue(lib.ringserve_write, user_data, fd, data.address + start, data.length - start)

    def close(self, fd: int, armed: int | None = None) -> None:
        if self._ring is None:
            os.close(fd)
            return
        if armed is not None:
            self.cancel(armed)  # before it and in one batch: a close with a receive that goes on sends no FIN
        if fd in self._places:
            place = self._places.pop(fd)
            self._close_in(fd, None if place.local else self._lane_of(place.mount))
        else:
            self._queue(lib.ringserve_close, CLOSE, fd)

    def _close_in(self, fd: int, lane: Lane[Any] | None) -> None:
        if lane is None:
            self._queue(lib.ringserve_close, CLOSE, fd)
        else:
            self._chains.ask(None, self._files.close(fd, lane))

    def call(self, user_data: int, job: Callable[[], object], lane: str, origin: str = "") -> None:
        self._helpers.call(user_data, job, lane, origin)

    def take(self, user_data: int) -> Any:
        result, failure = self._results.pop(user_data)
        if failure is not None:
            raise failure
        return result

    def cancel(self, user_data: int) -> None:
        if self._chains.cancel(user_data):
            return
        if user_data == self._changes_owner:
            user_data = CHANGED
        elif self._held:
            for receive in self._held:
                if receive[1] == user_data:
                    self._held.remove(receive)
                    self._due.append((user_data, -errno.ECANCELED, -1, False))
                    return
        self._queue(lib.ringserve_cancel, CANCEL, user_data)

    def _end_calls(self) -> None:
        for token, res, result, failure in self._helpers.ended():
            if self._chains.finished(token, res or result, failure):
                continue
            if res == 0:
                self._results[token] = result, failure
            self._due.append((token, res, -1, False))

    # -- control plane: files -----------------------------------------------------------------------------------

    def look(self, user_data: int | None, root: Root, path: bytes) -> FileStatus | int | None:
        if user_data is None:
            known = self._files.look_now(root, path)
            return None if known == -errno.EAGAIN else known
        return self._chains.ask(user_data, self._files.look(root, path))

    def load(
        self, user_data: int | None, root: Root, path: bytes, body_bytes_max: int, closed_bytes_max: int
    ) -> Loaded | int | None:
        if user_data is None:
            known = self._files.load_now(root, path, body_bytes_max, closed_bytes_max)
            return None if known == -errno.EAGAIN else known
        return self._chains.ask(user_data, self._files.load(root, path, body_bytes_max, closed_bytes_max))

    def names(self, user_data: int, root: Root, path: bytes, names_max: int, rank: Rank) -> Names | int | None:
        return self._chains.ask(user_data, self._files.names(root, path, names_max, rank))

    def inventory(
        self, user_data: int | None, root: Root, path: bytes, bytes_max: int
    ) -> frozenset[bytes] | int | None:
        return None if user_data is None else self._chains.ask(user_data, self._files.inventory(root, path, bytes_max))

    def watch(self, user_data: int, root: Root, path: bytes) -> int | None:
        return self._chains.ask(user_data, self._watch(root, path))

    def _watch(self, root: Root, path: bytes) -> Chain[int]:
        watch = yield from self._files.watch(root, path, self._notifier)
        if watch >= 0 and self._changes_buffer is None:
            buffer = self._changes_buffer = FilledMemory(CHANGES_BYTES_MAX)
            lib.ringserve_ring_read_changes(self._ring, self._notifier, buffer.address, buffer.length)
        return watch

    def _tell(self, owner: int, answer: object, failure: BaseException | None) -> None:
        res = answer if isinstance(answer, int) else 0
        if not isinstance(answer, int):
            self._results[owner] = answer, failure
        self._due.append((owner, res, -1, False))

    def _lane_of(self, mount: Mount) -> Lane[Any]:
        lanes = self._lanes
        count = len(lanes)
        lane = lanes.of(mount)
        if len(lanes) > count:
            # Whatever hangs in a lane leaves as many workers to local files as there were.
            workers = self._options.workers + IN_LANE_MAX * len(lanes)
            lib.ringserve_ring_limit_workers(self._ring, workers, workers)
        return lane

    def await_changes(self, user_data: int) -> None:
        notifier = lib.ringserve_inotify_open()
        if notifier < 0:
            self._due.append((user_data, notifier, -1, False))
            return
        self._notifier, self._changes_owner = notifier, user_data
        self._await_changed()

    def _await_changed(self) -> None:
        # It only ends the sleep. What happened is read behind each turn's completions, since a request that was sent
        # after a change may come before this one does.
        self._queue(lib.ringserve_poll, CHANGED, self._notifier, POLL_IN)

    def _note_changes(self, res: int) -> Completion:
        assert self._changes_owner is not None, "somebody awaits changes"
        assert self._changes_buffer is not None, "something is watched"
        found = changes_of(bytes(self._changes_buffer.memory[:res])) if res > 0 else None
        self._changes = None if found is None or self._changes is None else self._changes + found
        return self._changes_owner, 0, -1, True

    def _end_changes(self, res: int) -> Completion:
        owner, self._changes_owner = self._changes_owner, None
        assert owner is not None, "somebody awaited changes"
        lib.ringserve_ring_read_changes(self._ring, -1, 0, 0)
        self.close(self._notifier)
        self._notifier = -1
        return owner, res, -1, False

    def changes(self) -> list[Change] | None:
        found, self._changes = self._changes, []
        return found

    def unwatch(self, watch: int) -> None:
        lib.ringserve_inotify_remove(self._notifier, watch)  # EINVAL: it ended by itself

    def fill(self, user_data: int, pipe: Pipe, file: int, offset: int, length: int) -> int | None:
        place = self._places.get(file)
        if place is not None:
            return self._chains.ask(user_data, self._files.fill(place, pipe, file, offset, length))
        count = -errno.EINTR
        while count == -errno.EINTR:  # a signal came: nothing has moved, and its handler has run by now
            count = lib.ringserve_splice_resident(file, offset, pipe.write_fd, length)
        if count != -errno.EAGAIN:
            return count
        self._queue(lib.ringserve_splice, user_data, file, offset, pipe.write_fd, length)
        return None

    # -- data plane ---------------------------------------------------------------------------------------------

    def received(self, buffer: int, count: int) -> bytes:
        start = buffer * self._buffer_bytes
        data: bytes = self._memory[start : start + count]
        return data

    def pin(self, data: bytes) -> Memory:
        return Memory(data)

    # -- interrupt ----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        with self._wake_lock:
            if self._ring is not None:
                # Full of earlier wakes: one is enough.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b"\0")

    # -- the end ------------------------------------------------------------------------------------------------

    def in_flight(self) -> int:
        if self._ring is None:
            return self._left
        # The reads that wait for a wake, for changes and for mounts.
        its_own = 1 + (self._notifier >= 0) + (self._files.mounts.changes >= 0)
        kernels = lib.ringserve_ring_in_flight(self._ring) + len(self._deferred) - its_own
        return kernels + self._helpers.running() + len(self._due) + len(self._held) + self._lanes.waiting

    def hanging(self) -> tuple[str, ...]:
        return tuple(os.fsdecode(mount.point) for mount in self._lanes.busy())

    def shut(self) -> None:
        if self._ring is None:
            return
        self._left = self.in_flight()
        self._helpers.shut()
        with self._wake_lock:
            lib.ringserve_ring_destroy(self._ring)
            self._ring = None
        self._chains.shut()
        self._files.shut()
        for fd in (self._wake_read, self._wake_write, self._notifier):
            if fd >= 0:
                os.close(fd)

    @property
    def figures(self) -> dict[str, int]:
        """Counters since the start, by name."""
        return {name: getattr(self._figures, name) for name in FIGURES}
