"""`python -m ringserve` and the `ringserve` command."""

from __future__ import annotations

import os
import sys

from ringserve.standard import open_standard_descriptors

ALLOCATOR = "PYTHONMALLOC"


def main() -> None:
    """Entry point of both.

    The interpreter is started once more with the C library's allocator, unless the environment names one. Python's own
    keeps whatever a crowd of connections needed: one object that stays pins the megabyte around it, and of 10 MB for
    5,000 connections 3 to 7 never went back to the system. The C library's gives all of it back, and a request of the
    hot path allocates so little that no difference in speed could be measured (docs/decisions.md). The allocator has
    to be chosen before the interpreter starts; this costs 20 ms, once, and the process stays the same one. A health
    check, which runs again and again and ends at once, goes without.

    Descriptors 0 to 2 are open before anything else is. A socket that became one of them would get what is written to
    stderr. It is started once more for them too, since Python has no sys.stdout for a descriptor that was closed.
    """
    were_closed = open_standard_descriptors()
    if were_closed or (ALLOCATOR not in os.environ and sys.argv[1:2] != ["healthcheck"]):
        os.environ.setdefault(ALLOCATOR, "malloc")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    from ringserve.cli import main as run

    run()


if __name__ == "__main__":
    main()
