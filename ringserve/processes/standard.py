"""Descriptors 0 to 2, which the parent may have closed."""

from __future__ import annotations

import os
import sys


def open_standard_descriptors() -> None:
    """Open those that are closed on /dev/null, for this process and what it starts, before anything else is opened: a
    socket that became one of them would get what is written to stderr. Python has no stream for a closed one.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest that is free is this one: open(2).
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
