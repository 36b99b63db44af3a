"""What comes into a connection: its receive, and the bytes that no request has taken yet.

The first receive takes one piece; it becomes a multishot one when there is an answer after which more may come. So a
connection for a single request never has a receive that must be cancelled. What is not received waits in the kernel,
which takes only so much of it.
"""

from __future__ import annotations

from collections.abc import Awaitable

from ringserve.connection.states import ARMED, ONCE, PAUSED
from ringserve.connection.transport import Transport
from ringserve.http.request import Limits, RequestReader
from ringserve.ring.tasks import Handler, Signal, Task

INPUT_PENDING_MAX = 128 * 1024
"""Bytes that a peer may have sent ahead of their being read; beyond it the receive pauses. Four full heads."""


class Inbound(Signal):
    """The receiving half of a connection; see the module. As a signal, it is raised when there is something new.

    state: what becomes of what the peer sends. reader: what has come, if it was not answered at once.
    """

    __slots__ = ("_transport", "_waiter", "reader", "state")

    def __init__(self, transport: Transport, received: Handler) -> None:
        self._transport = transport
        self._waiter: Task | None = None
        self.state = PAUSED
        self.reader: RequestReader | None = None
        transport.begin(received)

    # -- its one waiter -----------------------------------------------------------------------------------------

    def raise_(self) -> None:
        """See `Signal`."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.resume_soon()

    def wait_with(self, task: Task) -> None:
        """See `Signal`."""
        self._waiter = task

    def leave(self, task: Task) -> None:
        """See `Signal`."""
        assert task is self._waiter, "there is one"
        self._waiter = None

    # -- the receive --------------------------------------------------------------------------------------------

    @property
    def is_receiving(self) -> bool:
        """Whether a receive is in flight, though it may have been cancelled."""
        return self.state is ONCE or self.state is ARMED

    def receive_once(self) -> None:
        """Receive the first piece."""
        self.state = ONCE
        self._transport.receive_once()

    def arm(self) -> None:
        """Receive what comes, if that is not done already."""
        if self.state is PAUSED:
            self.state = ARMED
            self._transport.receive()

    def pause(self) -> None:
        """Receive no more for now. What comes until the receive has ended is taken all the same."""
        if self.is_receiving:
            self._transport.receive_no_more()

    def await_waste(self) -> None:
        """Learn of what comes, without receiving it."""
        self.state = ARMED
        self._transport.await_arrival()

    def end(self) -> None:
        """Nothing is in flight any more: know the transport no longer, which knows the connection."""
        self._transport.end()
        del self._transport

    # -- what has come ------------------------------------------------------------------------------------------

    def reading(self, limits: Limits) -> RequestReader:
        """The reader, which is made when it is first needed."""
        if self.reader is None:
            self.reader = RequestReader(limits)
        return self.reader

    def take(self, data: bytes, limits: Limits) -> None:
        """Keep what came for who reads."""
        reader = self.reading(limits)
        reader.feed(data)
        if reader.pending_bytes > INPUT_PENDING_MAX:
            self.pause()

    def more(self, task: Task) -> Awaitable[None]:
        """Wait until something arrived, the peer ended its side, or an interruption came."""
        self.arm()
        return task.wait(self)
