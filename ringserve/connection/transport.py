"""How the bytes of a connection get to its peer: the interface of a transport.

*plain* (`plain.py`) gives them to the socket as they are. A connection knows neither pipes nor what goes over the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ringserve.ring.tasks import Handler, Task
from ringserve.ring.world import Pinned, errno_name


class TransferError(Exception):
    """A transport broke off. `res` is the result of `operation`; 0 means that the file has no more bytes."""

    def __init__(self, operation: str, res: int) -> None:
        super().__init__(f"{operation}: {errno_name(res) if res else 'the file became shorter'}")
        self.res = res


class Taker(Protocol):
    """Who is told of a transport's progress."""

    def took(self, count: int) -> None:
        """So many more bytes were taken."""


class Transport(Protocol):
    """How bytes get to a peer. All counts are of the bytes that are given to it, whatever goes over the wire.

    taker: told of the progress of `send` and `send_file`.
    """

    taker: Taker

    @property
    def peer_name(self) -> str:
        """See `System.peer_name`."""

    def begin(self, received: Handler) -> None:
        """Make known who takes what is received: bytes as they are given to a peer's transport."""

    def receive_once(self) -> None:
        """Receive one piece."""

    def receive(self) -> None:
        """Receive piece after piece."""

    def receive_no_more(self) -> None:
        """End the receive. What comes until it has ended is received."""

    def await_arrival(self) -> None:
        """Tell whoever takes what is received that something came, and leave it where it is."""

    def throw_away(self, bytes_max: int) -> int:
        """Throw away what came. See `System.throw_away`."""

    def send_prepared(self, data: Pinned, start: int = 0) -> None:
        """Begin to send `data` from `start`. The completion is the connection's, and says how many bytes were taken."""

    async def send(self, data: bytes) -> None:
        """Send all of `data`. Raises TransferError."""

    async def send_file(self, file_fd: int, offset: int, length: int, *, last: bool) -> None:
        """Send `length` bytes of a file from `offset`. last: nothing follows at once. Raises TransferError, and OSError
        when the system grants no pipe.
        """

    def unacknowledged_bytes(self) -> int:
        """What was taken and the peer has not acknowledged."""

    def finish(self) -> None:
        """Tell the peer that nothing follows, behind what was sent."""

    def close(self, *, armed: bool, resets: bool) -> None:
        """Give the descriptor up. armed: a receive is still in flight; nothing else may be. resets: throw away what the
        peer has not taken.
        """

    def end(self) -> None:
        """Nothing is in flight any more."""


MakeTransport = Callable[[Task, int], Transport]
"""Makes the transport of a connection, which is the task, over its socket."""
