"""The transport of plain bytes: what is in memory is sent as it is, what is in files goes through a pipe of a pool.

Theory of operation. A body that is not in memory goes file -> pipe -> socket. A first hop that may wait for the disk
belongs to the ring, where a splice always runs on a kernel thread; what is in the page cache needs no thread and is
taken at once. The second hop never waits: what the socket does not take stays in the pipe, and the connection polls.

A stalled reader must not keep a pipe that other readers need. So a holder that polls *parks* its pipe, and when the
pool is empty the pipe that has been parked longest is taken away: its bytes are discarded with it, and its holder, when
its socket has room again, begins anew at the offset that its peer has really received. A page in a pipe is a reference
to the page cache, so what is discarded was cheap.

Invariants
 1. At most `pipes_max` pipes exist.
 2. A pipe in the pool is empty; one with bytes left in it is closed, not reused.
 3. A pipe is closed only while no operation is in flight on it: a parked one has none, its holder polls the socket.
 4. A transfer moves exactly the bytes asked for, or fails.
"""

from __future__ import annotations

import errno
from collections import OrderedDict

from ringserve.connection.transport import Taker, TransferError
from ringserve.ring.tasks import Handler, Kind, Signal, Task, Tasks
from ringserve.ring.world import Pinned, Pipe

BURST_BYTES = 512 * 1024
"""What one transfer moves before the others have a turn, if the client takes it as fast as it comes: 0.2 to 0.3 ms on
loopback, where sending includes the peer's receiving. With 2 MiB, as nginx has it, turns took up to 3 ms, and files of
1 MiB were no faster (docs/performance.md)."""


RETRY_S = 0.1
"""Between attempts to make the first pipe while the system has no descriptors."""


class Lease:
    """One connection's use of a pipe. `pipe` is None after it was taken away."""

    __slots__ = ("filled", "pipe")

    def __init__(self, pipe: Pipe) -> None:
        self.pipe: Pipe | None = pipe
        self.filled = 0


class PipePool:
    """See the module."""

    def __init__(self, tasks: Tasks, pipes_max: int, pipe_bytes: int) -> None:
        self._tasks = tasks
        self._pipes_max = pipes_max
        self._pipe_bytes = pipe_bytes
        self._free: list[Pipe] = []
        self._count = 0
        self._parked: OrderedDict[int, Lease] = OrderedDict()
        self._returned = Signal()
        self._retry_at = 0.0

    @property
    def count(self) -> int:
        """How many pipes exist."""
        return self._count

    async def acquire(self, task: Task) -> Lease:
        """An empty pipe, as soon as there is one. Raises OSError when the system grants none for another reason than a
        want of descriptors.
        """
        while True:
            if self._free:
                return Lease(self._free.pop())
            if self._count < self._pipes_max:
                try:
                    pipe = self._tasks.system.pipe(self._pipe_bytes)
                except OSError as error:
                    # Out of descriptors, though this process has kept some for pipes: others have taken those of the
                    # system. The pipes that exist will do; without one it is tried again.
                    if error.errno not in (errno.EMFILE, errno.ENFILE):
                        raise
                    if self._count == 0:
                        self._retry_soon()
                else:
                    self._count += 1
                    return Lease(pipe)
            if not self._take_parked():
                await task.wait(self._returned)

    def _retry_soon(self) -> None:
        now = self._tasks.ring.now
        if self._retry_at <= now:
            self._retry_at = now + RETRY_S
            self._tasks.call_at(self._retry_at, self._returned.raise_)

    def _take_parked(self) -> bool:
        if not self._parked:
            return False
        _key, lease = self._parked.popitem(last=False)
        assert lease.pipe is not None, "a parked lease has its pipe"
        self._destroy(lease.pipe)
        lease.pipe = None
        lease.filled = 0
        return True

    def park(self, lease: Lease) -> None:
        """The holder waits for its socket; the pipe may be taken from it."""
        self._parked[id(lease)] = lease
        self._returned.raise_()

    def unpark(self, lease: Lease) -> bool:
        """The holder's socket has room. False: the pipe was taken away."""
        self._parked.pop(id(lease), None)  # the lease lives as long as its place here, so the id is its own
        return lease.pipe is not None

    def release(self, lease: Lease) -> None:
        """The holder is done with the pipe, or gives it up with bytes in it."""
        self._parked.pop(id(lease), None)
        pipe, lease.pipe = lease.pipe, None
        if pipe is None:
            return
        if lease.filled:
            self._destroy(pipe)
        else:
            self._free.append(pipe)
        self._returned.raise_()

    def _destroy(self, pipe: Pipe) -> None:
        self._count -= 1
        self._tasks.system.discard(pipe)

    def shut(self) -> None:
        """Close the pipes that nobody holds."""
        while self._free:
            self._destroy(self._free.pop())


class Plain:
    """A connection's transport that gives its bytes to the socket as they are; see `Transport`.

    task: the connection. fd: its socket, which is closed by `close`.
    """

    __slots__ = ("_fd", "_pipes", "_received", "_task", "taker")

    taker: Taker

    def __init__(self, task: Task, fd: int, pipes: PipePool) -> None:
        self._task = task
        self._fd = fd
        self._pipes = pipes

    @property
    def peer_name(self) -> str:
        """See `Transport`."""
        return self._task.tasks.system.peer_name(self._fd)

    def begin(self, received: Handler) -> None:
        """See `Transport`. What comes needs no change, so that nothing is added to its way."""
        self._received = self._task.tasks.register(Kind.RECEIVE, received)

    def receive_once(self) -> None:
        """See `Transport`."""
        self._task.ring.receive_once(self._received, self._fd)

    def receive(self) -> None:
        """See `Transport`."""
        self._task.ring.receive(self._received, self._fd)

    def receive_no_more(self) -> None:
        """See `Transport`."""
        self._task.ring.cancel(self._received)

    def await_arrival(self) -> None:
        """See `Transport`."""
        self._task.ring.arrival(self._received, self._fd)

    def throw_away(self, bytes_max: int) -> int:
        """See `Transport`."""
        return self._task.tasks.system.throw_away(self._fd, bytes_max)

    def send_prepared(self, data: Pinned, start: int = 0) -> None:
        """See `Transport`."""
        task = self._task
        task.ring.send(task.user_data, self._fd, data, start)

    async def send(self, data: bytes) -> None:
        """See `Transport`."""
        task = self._task
        pinned = task.ring.pin(data)
        sent = 0
        while sent < pinned.length:
            res = await task.send(self._fd, pinned, sent)
            if res < 0:
                raise TransferError("send", res)
            sent += res
            self.taker.took(res)

    async def send_file(self, file_fd: int, offset: int, length: int, *, last: bool) -> None:
        """See `Transport`. One pipe at a time. A filling that waits for the disk is a turn of the ring, and so is a
        socket that is full; where neither happens, a turn comes after BURST_BYTES, so that others get theirs.
        """
        end = offset + length
        burst = 0
        while offset < end:
            lease = await self._pipes.acquire(self._task)
            try:
                filled = await self._fill(lease, file_fd, offset, end - offset)
                # MORE only while more follows: on the last hop it would hold the last segment back for 40 ms and more.
                more = not (last and filled == end - offset)
                offset += await self._empty(lease, more)
            finally:
                self._pipes.release(lease)
            burst += filled
            if burst >= BURST_BYTES and offset < end:
                burst = 0
                await self._task.room(self._fd)  # a turn of the ring

    async def _fill(self, lease: Lease, file_fd: int, offset: int, remaining: int) -> int:
        pipe = lease.pipe
        assert pipe is not None, "a fresh lease has its pipe"
        filled = await self._task.fill(pipe, file_fd, offset, min(remaining, pipe.capacity_bytes))
        if filled <= 0:
            raise TransferError("splice from the file", filled)
        lease.filled = filled
        return filled

    async def _empty(self, lease: Lease, more: bool) -> int:
        """How many bytes the socket took: fewer than were filled if the pipe was taken away meanwhile."""
        moved = 0
        while lease.pipe is not None and lease.filled:
            res = self._task.tasks.system.empty(lease.pipe, self._fd, lease.filled, more)
            if res == -errno.EAGAIN:
                self._pipes.park(lease)
                await self._task.room(self._fd)
                self._pipes.unpark(lease)
                continue
            if res <= 0:
                raise TransferError("splice to the socket", res)
            lease.filled -= res
            moved += res
            self.taker.took(res)
        return moved

    def unacknowledged_bytes(self) -> int:
        """See `Transport`."""
        return self._task.tasks.system.unacknowledged_bytes(self._fd)

    def finish(self) -> None:
        """See `Transport`."""
        self._task.tasks.system.finish(self._fd)

    def close(self, *, armed: bool, resets: bool) -> None:
        """See `Transport`."""
        if resets:
            self._task.tasks.system.reset_on_close(self._fd)
        self._task.ring.close(self._fd, self._received if armed else None)

    def end(self) -> None:
        """See `Transport`."""
        self._task.tasks.forget(self._received)
