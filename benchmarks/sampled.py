"""ringserve, with a timer that looks where its loop is.

    python benchmarks/sampled.py COUNTS [ARGUMENT]...

runs `ringserve ARGUMENT...`. In each worker a timer of the CPU time of the loop's thread (timer_create(2)) raises a
signal, whose handler counts the step that the innermost known function belongs to. COUNTS is a file that the counts are
mapped to. The kernel looks at such timers at its ticks, so that there are as many samples in a second as it has ticks,
mostly 250: that costs next to nothing, and a step costs what it costs without. (A profiler that is called for each
function doubles the cost of what consists of many small ones.)
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import signal
import sys
import time
from pathlib import Path
from types import CodeType, FrameType

TURN = "turn of the ring: receive and send"
LOOP = "loop and connection"
HEAD = "head"
DECIDE = "decide"
LOOK_UP = "look up"
FILES = "open, status, read"
RENDER = "render and prepare"
SEND = "send"
LOG = "count and log"
STEPS = (TURN, LOOP, HEAD, DECIDE, LOOK_UP, FILES, RENDER, SEND, LOG)

RULES = (
    ("ring/uring/ring.py", "UringRing.turn", TURN),
    ("ring/uring/ring.py", "UringRing.send", SEND),
    ("ring/uring/ring.py", "UringRing.pin", SEND),
    ("ring/uring/ring.py", "UringRing.receive", LOOP),
    ("ring/uring/ring.py", "", FILES),  # look, load, names and what leads their chains on
    ("ring/uring/library.py", "", SEND),  # memory that is pinned
    ("ring/uring/", "", FILES),
    ("ring/linux/listeners.py", "", LOOP),
    ("ring/linux/system.py", "", LOOP),
    ("ring/linux/", "", FILES),
    ("http/request.py", "", HEAD),
    ("http/heads.py", "", HEAD),
    ("connection/prepared.py", "", RENDER),
    ("connection/remembered.py", "Memory.prepare", RENDER),
    ("connection/remembered.py", "", HEAD),
    ("http/response.py", "", RENDER),
    ("http/", "", None),  # arithmetic that several steps use: it is its caller's
    ("static.py", "", DECIDE),
    ("responders/", "", DECIDE),
    ("connection/answers.py", "", DECIDE),
    ("files/", "", LOOK_UP),
    ("connection/outbound.py", "", SEND),
    ("connection/plain.py", "", SEND),
    ("observe/", "", LOG),
    ("", "", LOOP),
)
"""The step of a function, by the beginning of its module's path and of its own name: the first rule that fits. None:
its caller decides, as for a function outside of the package.
"""

INTERVAL_NS = 1_000_000
"""Shorter than the ticks of most kernels; there is one signal a tick."""
SLOT_BYTES = 8
SLOTS = len(STEPS) + 1
"""A count for each step, and the CPU time of the loop's thread in ns."""


@functools.cache
def step_of(path: str, function: str) -> str | None:
    """That of a function of a file."""
    _before, package, module = path.rpartition("/ringserve/")
    if not package:
        return None
    return next(step for start, name, step in RULES if module.startswith(start) and function.startswith(name))


def step_of_stack(functions: list[tuple[str, str]]) -> str:
    """That of a stack of files and functions, the innermost first."""
    return next((step for path, name in functions if (step := step_of(path, name))), LOOP)


class Sampler:
    """Counts into a file; see the module."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(SLOTS * SLOT_BYTES))
        with path.open("r+b") as file:
            self._slots = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        self._places: dict[CodeType, int | None] = {}

    def start(self) -> None:
        """Sample the calling thread, which has to be the main one. Raises OSError."""
        signal.signal(signal.SIGPROF, self._look)
        library = ctypes.CDLL(None, use_errno=True)
        timer = ctypes.c_void_p()
        # struct sigevent: a value, the signal, SIGEV_SIGNAL (0), and room.
        event = (ctypes.c_int32 * 16)(0, 0, signal.SIGPROF, 0)
        # struct itimerspec: seconds and nanoseconds of the interval and of the first time.
        times = (ctypes.c_long * 4)(0, INTERVAL_NS, 0, INTERVAL_NS)
        if library.timer_create(time.CLOCK_THREAD_CPUTIME_ID, event, ctypes.byref(timer)):
            raise OSError(ctypes.get_errno(), "timer_create")
        if library.timer_settime(timer, 0, times, None):
            raise OSError(ctypes.get_errno(), "timer_settime")

    def _look(self, _signal: int, frame: FrameType | None) -> None:
        place: int | None = None
        while frame is not None and place is None:
            code = frame.f_code
            if code not in self._places:
                step = step_of(code.co_filename, code.co_qualname)
                self._places[code] = None if step is None else STEPS.index(step)
            place = self._places[code]
            frame = frame.f_back
        self._slots[STEPS.index(LOOP) if place is None else place] += 1
        self._slots[-1] = time.thread_time_ns()


def read(path: Path) -> list[int]:
    """The counts so far, one for each step, and the CPU time in ns."""
    return memoryview(path.read_bytes()).cast("Q").tolist()


def main() -> None:
    """Run ringserve with a sampler in each of its workers."""
    from ringserve.__main__ import main as run

    sampler = Sampler(Path(sys.argv.pop(1)))
    os.register_at_fork(after_in_child=sampler.start)
    run()


if __name__ == "__main__":
    main()
