"""The access log's file. Whoever starts a server opens it, and opens it anew when it was renamed; a server has only its
descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping

from ringserve.config.settings import Config
from ringserve.observe.access_log import Sink
from ringserve.server import StartError

LOG_MODE = 0o640
"""Who may read the access log: its owner and its group. It holds the addresses of people."""

Opened = Mapping[str, Sink | OSError]
"""By path."""


def log_path(config: Config) -> str | None:
    """The path of the log's file, if it goes to one."""
    return None if config.log_format == "off" else config.log_file


def open_log(path: str) -> Sink:
    """Open the file to append to it; it is made if there is none. Does not wait for the reader of a FIFO, but perhaps
    for a disk. Raises OSError.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, LOG_MODE)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(os.stat(path).st_mode):
            raise OSError(error.errno, "it is a FIFO that nobody reads; start its reader first") from error
        raise
    try:
        # A file system without support for it would answer each write through the ring with EAGAIN.
        os.set_blocking(fd, True)
        return Sink(fd, stat.S_ISREG(os.fstat(fd).st_mode))
    except OSError:
        os.close(fd)
        raise


def open_first_log(config: Config) -> Sink | None:
    """The log's file at the start, if it goes to one. Raises StartError."""
    path = log_path(config)
    if path is None:
        return None
    try:
        return open_log(path)
    except OSError as error:
        raise StartError(why_no_log(path, error)) from error


def why_no_log(path: str, error: OSError) -> str:
    """One line."""
    return f"cannot open the access log {path!r}: {error.strerror}; see --log-file"


class LogOpener:
    """Opens logs by a thread: on a network file system that may take its time, and nobody is to wait for it. One at a
    time, or the file that was opened first could come last.

    wake: called, by the thread, when `deliver` has something to do.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._last: threading.Thread | None = None
        self._ready: deque[Callable[[], None]] = deque()

    def ask(self, paths: Collection[str], then: Callable[[Opened], None]) -> None:
        """Open them, and have `deliver` call `then` with what came of it."""
        before = self._last

        def run() -> None:
            if before is not None:
                before.join()
            opened = {path: _open(path) for path in paths}
            self._ready.append(lambda: then(opened))
            self._wake()

        # It ends when it is done, so that a fork mostly finds none.
        self._last = threading.Thread(target=run, name="ringserve-log", daemon=True)
        try:
            self._last.start()
        except RuntimeError:  # no thread can be had (pids.max, ulimit -u)
            run()

    def deliver(self) -> None:
        """Hand out what has been opened."""
        while self._ready:
            self._ready.popleft()()


def _open(path: str) -> Sink | OSError:
    try:
        return open_log(path)
    except OSError as error:
        return error
