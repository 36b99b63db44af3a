"""The data plane's descriptors on a real kernel: calls that are answered at once.

Shared by the implementations that run on Linux. Nothing here can wait for a disk, a peer or a name server: fstat and
shutdown of an open descriptor, making a pipe, adding a watch by an open descriptor. What can wait is a verb of the
ring.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
import struct
import termios

from ringserve.ring.world import DISCARD_BYTES_MAX, FileStatus, Pipe, Ring, Watched

F_SETPIPE_SZ = 1031  # fcntl(2); in Python's fcntl module as of 3.10, but not in its typed stub on every platform
F_GETPIPE_SZ = 1032

INOTIFY_EVENT = struct.Struct("iIII")  # inotify(7): wd, mask, cookie, len

INT = struct.Struct("i")
WASTE = mmap.mmap(-1, DISCARD_BYTES_MAX)
"""Where thrown away bytes of a unix socket go, which knows no MSG_TRUNC. Nothing reads it, and TCP never touches it."""

NO_LINGER = struct.pack("ii", 1, 0)  # struct linger: on, for no time

IN_MODIFY = 0x002
IN_ATTRIB = 0x004
IN_MOVED_FROM = 0x040
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x01000000
IN_ISDIR = 0x40000000

WATCH_MASK = (
    IN_MODIFY | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF
) | IN_ONLYDIR


def parse_inotify(data: bytes) -> list[Watched]:
    """The events of one read, per inotify(7): a fixed part and a name padded with NUL."""
    events = []
    position = 0
    while position < len(data):
        watch, mask, _cookie, length = INOTIFY_EVENT.unpack_from(data, position)
        position += INOTIFY_EVENT.size
        events.append(Watched(watch, mask, data[position : position + length].rstrip(b"\0")))
        position += length
    return events


class Descriptors(Ring):
    """The calls of `Ring` that need no queue, for implementations on Linux."""

    def status(self, fd: int) -> FileStatus:
        found = os.fstat(fd)
        return FileStatus(
            found.st_mode, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        )

    def discard(self, fd: int, bytes_max: int) -> int:
        borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
        try:
            return borrowed.recv_into(WASTE, bytes_max, socket.MSG_TRUNC | socket.MSG_DONTWAIT)
        except OSError as error:
            return -(error.errno or errno.EIO)
        finally:
            borrowed.detach()

    def shutdown_sending(self, fd: int) -> None:
        borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
        try:
            borrowed.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET):
                raise
        finally:
            borrowed.detach()

    def reset_on_close(self, fd: int) -> None:
        borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
        try:
            borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        finally:
            borrowed.detach()

    def unacknowledged_bytes(self, fd: int) -> int:
        found: int = INT.unpack(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(INT.size)))[0]
        return found

    def peer_name(self, fd: int) -> str:
        # Python asks the kernel for the socket's family: told a wrong one, it would read the address cut off.
        borrowed = socket.socket(fileno=fd)
        try:
            name = borrowed.getpeername()
        except OSError:
            return "-"
        finally:
            borrowed.detach()
        if isinstance(name, tuple):
            address = str(name[0])
            return address.removeprefix("::ffff:") if "." in address else address
        return "unix"

    def write_now(self, fd: int, data: bytes) -> int:
        try:
            return os.pwritev(fd, [data], -1, os.RWF_NOWAIT)  # -1: at its position, which a pipe has not (pwritev2(2))
        except OSError as error:
            return -(error.errno or errno.EIO)

    def pipe(self, capacity_bytes: int) -> Pipe:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            granted = fcntl.fcntl(write_fd, F_SETPIPE_SZ, capacity_bytes)
        except OSError:
            # EPERM: above fs.pipe-max-size, or the user holds more pipe pages than pipe-user-pages-soft allows
            # (pipe(7)). The pipe works, only smaller.
            granted = fcntl.fcntl(write_fd, F_GETPIPE_SZ)
        return Pipe(read_fd, write_fd, granted)

    def watch_events(self, data: bytes) -> list[Watched]:
        return parse_inotify(data)

    def reserve(self) -> int:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def close_now(self, fd: int) -> None:
        os.close(fd)

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)
