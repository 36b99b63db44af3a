"""Descriptors 0 to 2, which whoever started the process may have closed."""

from __future__ import annotations

import os


def open_standard_descriptors() -> bool:
    """Open those that are closed on /dev/null, for this process and what it starts. True if there were any."""
    were_closed = False
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest that is free is this one: open(2).
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            were_closed = True
    return were_closed
