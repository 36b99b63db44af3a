"""The world that a server is given: an io_uring-like ring, what the system answers at once, and where it reports.

Here live the interface, its implementations, and the coroutines over it. Everything above opens its world here, and
knows of the outside what is declared in `world.py`.
"""

from __future__ import annotations

from ringserve.ring.diagnostics import Diagnostics
from ringserve.ring.interrupt import WAIT, Interrupt
from ringserve.ring.world import RingOptions, World


def open_world(
    options: RingOptions | None = None, interrupt: Interrupt = WAIT, diagnostics: Diagnostics | None = None
) -> World:
    """A world of the machine, with a ring of its kernel. Raises RingRefusedError with a line that says who refuses it
    and the remedy.
    """
    from ringserve.ring.linux.system import LinuxSystem
    from ringserve.ring.uring.ring import UringRing

    diagnostics = diagnostics or Diagnostics()
    return World(UringRing(options, interrupt, diagnostics), LinuxSystem(), diagnostics)
