"""Whose turn it is to write to a sink that several processes share.

Workers share standard output, and so do old and new ones in a reload. A write of more than 4 KiB into a pipe may be cut
where the pipe is full, and another's lines come in between (pipe(7)); a file that a shell opened without O_APPEND has
one position for all, which io_uring moves without a lock, so that lines are overwritten. So a batch is written by the
one process that has the turn, from its first byte to its last.

Theory of operation. The turn is a record lock (fcntl(2), F_SETLK) on a file in memory that the supervisor made and all
workers inherited. It belongs to a process, and the kernel takes it from one that ends, however it does. It is only ever
tried, never waited for: who does not get it goes on serving and tries again a little later. Beside it are two bytes in
shared memory:

  MIDWAY  whoever has the turn is in the middle of a batch. Found set by the next one, it says that the one before died
          there, perhaps within a line: then a line end goes first, and no line is made of two.
  WANTED  somebody tried in vain. Whoever gives the turn up then rests before it takes it again, for longer than the
          others wait between two tries, so that none of them starves at a sink that is always behind.

Rejected: writes of at most 4 KiB, which a pipe takes whole (a line may have 40 KiB, and would have to be cut; and there
would be 25 writes where there is one); a pipe for each worker to the supervisor, which writes for all (every line is
copied twice more, and a dead supervisor takes the lines along); a token in a pipe (who dies with it has it for ever).
"""

from __future__ import annotations

import fcntl
import mmap
import os

MIDWAY, WANTED = range(2)


class Turns:
    """Made by a process; it and all those that it forks can have the turn."""

    def __init__(self) -> None:
        # Only the lock is on the file. Mapped, it would have a second descriptor, whose closing would end the lock.
        self._fd = os.memfd_create("ringserve-turns")
        self._shared = mmap.mmap(-1, 2)

    def take(self) -> bool:
        """Have the turn, if nobody else does. Never waits."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # EAGAIN, EACCES; or ENOLCK, when the system has no more locks: that passes too
            self._shared[WANTED] = 1
            return False
        return True

    def begin(self) -> bool:
        """Begin a batch, with the turn. True if somebody died in the middle of one."""
        midway = self._shared[MIDWAY] != 0
        self._shared[MIDWAY] = 1
        return midway

    def give(self, whole: bool) -> bool:
        """Give the turn up. whole: what was written ends with a line. True if somebody else wants it."""
        wanted = self._shared[WANTED] != 0
        self._shared[WANTED] = 0
        if whole:
            self._shared[MIDWAY] = 0
        fcntl.lockf(self._fd, fcntl.LOCK_UN)
        return wanted

    def close(self) -> None:
        """Give all back; for who made it, when no process has the turn any more."""
        os.close(self._fd)
        self._shared.close()
