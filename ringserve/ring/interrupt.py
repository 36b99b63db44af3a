"""How the kernel tells us that something finished: the third part of the interface.

Three ways, chosen at start-up. Each is a value that the ring reads once when it is made; the loop has no branch
for them.
"""

from __future__ import annotations

from typing import NamedTuple


class Interrupt(NamedTuple):
    """A strategy.

    sleeps: whether `turn` may wait inside the kernel for the next completion.
    kernel_thread: whether a thread of the kernel takes submissions, so that queuing one needs no crossing (SQPOLL,
        io_uring_setup(2)). It excludes DEFER_TASKRUN and keeps a core busy until `kernel_thread_idle_ms` without work.
    """

    name: str
    sleeps: bool
    kernel_thread: bool
    kernel_thread_idle_ms: int
    meaning: str


WAIT = Interrupt("wait", True, False, 0, "sleep in the kernel until something finishes; the default")
BUSY_POLL = Interrupt("busy-poll", False, False, 0, "never sleep; burns a core for the lowest latency")
KERNEL_THREAD = Interrupt(
    "kernel-thread", True, True, 100, "a kernel thread takes submissions (SQPOLL); burns a second core"
)

STRATEGIES = {strategy.name: strategy for strategy in (WAIT, BUSY_POLL, KERNEL_THREAD)}
