"""Calls on a real kernel that are answered at once. Nothing here can wait for a disk, a peer or a name server."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
import struct
import termios
import time

from ringserve.ring.world import DISCARD_BYTES_MAX, Pipe, System

F_SETPIPE_SZ = 1031  # fcntl(2); in Python's fcntl module as of 3.10, but not in its typed stub on every platform
F_GETPIPE_SZ = 1032

INT = struct.Struct("i")
WASTE = mmap.mmap(-1, DISCARD_BYTES_MAX)
"""Where thrown away bytes of a unix socket go, which knows no MSG_TRUNC. Nothing reads it, and TCP never touches it."""

NO_LINGER = struct.pack("ii", 1, 0)  # struct linger: on, for no time


class LinuxSystem(System):
    """See `System`."""

    def throw_away(self, fd: int, bytes_max: int) -> int:
        borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
        try:
            return borrowed.recv_into(WASTE, bytes_max, socket.MSG_TRUNC | socket.MSG_DONTWAIT)
        except OSError as error:
            return -(error.errno or errno.EIO)
        finally:
            borrowed.detach()

    def finish(self, fd: int) -> None:
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

    def empty(self, pipe: Pipe, socket: int, length: int, more: bool) -> int:
        flags = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MORE if more else os.SPLICE_F_NONBLOCK
        try:
            return os.splice(pipe.read_fd, socket, length, flags=flags)
        except OSError as error:
            return -(error.errno or errno.EIO)

    def discard(self, pipe: Pipe) -> None:
        os.close(pipe.read_fd)
        os.close(pipe.write_fd)

    def reserve(self) -> int:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def give_up(self, reserve: int) -> None:
        os.close(reserve)

    def wall_time_s(self) -> float:
        return time.time()

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)
