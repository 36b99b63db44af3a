"""The io_uring-like interface and its implementations. The server opens its ring here; the doctor has its own."""

from __future__ import annotations

from ringserve.ring.interrupt import WAIT, Interrupt
from ringserve.ring.world import Ring, RingOptions


def open_ring(options: RingOptions | None = None, interrupt: Interrupt = WAIT) -> Ring:
    """A ring of this machine's kernel. Raises RingRefusedError with a line that says who refuses it and the remedy."""
    from ringserve.ring.uring.ring import UringRing

    return UringRing(options, interrupt)
