"""Listening sockets: made before a loop starts, which may wait for a name server, or handed over."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import stat
from pathlib import Path
from typing import NamedTuple

PORT_ATTEMPTS = 5
"""With port 0, the port that is free for the first address of a name may be taken for the second."""
LISTEN_BACKLOG = 4096
"""Connections that the kernel holds while the loop is busy; capped by net.core.somaxconn (4096 since Linux 5.4)."""


def append_always(fd: int) -> None:
    """Let no process write over another's lines, if `fd` is a file. One that a shell opened without O_APPEND has one
    position for all processes, and io_uring moves it without a lock. The shell shares this flag, as it would
    O_NONBLOCK; but a program that only appends sees no difference.
    """
    if stat.S_ISREG(os.fstat(fd).st_mode):
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one, as servers do, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def descriptor_limit() -> int:
    """How many descriptors this process may have now: the soft limit."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def descriptors_open() -> int:
    """How many descriptors this process has; without /proc, more than it has by itself."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 32


def highest_descriptor() -> int:
    """The highest descriptor of this process; without /proc, the highest that it could have."""
    try:
        return max(map(int, os.listdir("/proc/self/fd")))
    except OSError:
        return descriptor_limit()


class ListenError(Exception):
    """A listener could not be made; the message is one line that names the fix."""


class Listener(NamedTuple):
    """A listening socket and how a client would name it. rule: which of `Config.listeners` it is of."""

    fd: int
    url: str
    unix_path: str | None
    rule: int = 0


def listen_tcp(host: str, port: int, *, shared: bool = False) -> list[Listener]:
    """Listening sockets for every address that `host` stands for. Port 0: the kernel picks one, the same for all.

    shared: `share_listener` may add others to each.

    Runs before the loop starts, so a name may be resolved here. Raises ListenError.
    """
    for _attempt in range(PORT_ATTEMPTS - 1 if port == 0 else 0):
        try:
            return _listen_tcp(host, port, shared)
        except ListenError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
                raise
    return _listen_tcp(host, port, shared)


def _listen_tcp(host: str, port: int, shared: bool) -> list[Listener]:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ListenError(f"cannot listen on host {host!r}: {error.strerror}; give --host an address") from error
    listeners: list[Listener] = []
    try:
        for family, kind, protocol, _name, address in dict.fromkeys(found):
            chosen = (address[0], port, *address[2:])
            try:
                listener = _bind(family, kind, protocol, chosen, shared)
            except OSError as error:
                # A host without IPv6 still resolves "::1"; what matters is that one address of a name works.
                if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and len(found) > 1:
                    continue
                raise ListenError(_why_not(host, port, error)) from error
            port = listener.getsockname()[1]
            listeners.append(Listener(listener.detach(), _url(str(address[0]), port), None))
        if not listeners:
            raise ListenError(f"none of the addresses of {host!r} is on this machine; give --host an address of it")
    except ListenError:
        for made in listeners:
            os.close(made.fd)
        raise
    return listeners


UNSENT_BYTES_MAX = 96 * 1024
"""What a socket takes beyond what is on its way to the peer. A socket that is filled to its megabytes sends when an
acknowledgement comes, as much as the window has then: by then the pages have left the processor's cache, for the peer
too if it is on the same machine, and for a slow reader they are memory of the kernel's that is held for nothing. Files
of 1 MiB by loopback: 128 KiB, 96 and 64 gave 2.0, 2.4 and 2.3 times nginx's requests per second, and without a limit
1.1; 16 KiB let some of four downloads starve (docs/performance.md)."""
TCP_NOTSENT_LOWAT = 25  # tcp(7), Linux 3.12; Python's socket module has no name for it


def tune_listener(listener: Listener) -> None:
    """Set what its accepted sockets inherit, for one that was handed over as well: no delay of small segments, and
    no more than UNSENT_BYTES_MAX that is not on its way.
    """
    with socket.socket(fileno=os.dup(listener.fd)) as borrowed:
        _tune(borrowed)


def _tune(listener: socket.socket) -> None:
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)


def share_listener(listener: Listener) -> Listener:
    """Another socket on the address of a listener that is `shared`; the kernel spreads connections over those that
    listen. This one does not yet: see `begin_listening`. Raises ListenError.
    """
    with socket.socket(fileno=os.dup(listener.fd)) as first:
        family, kind, protocol, address = first.family, first.type, first.proto, first.getsockname()
    try:
        another = _bind(family, kind, protocol, address, shared=True, joins=True)
    except OSError as error:
        raise ListenError(_why_not(str(address[0]), address[1], error)) from error
    return Listener(another.detach(), listener.url, None)


def _bind(
    family: int, kind: int, protocol: int, address: tuple[object, ...], shared: bool, joins: bool = False
) -> socket.socket:
    """joins: add a socket to an address that is already bound. The first socket is bound without SO_REUSEPORT so that a
    second server, started by mistake, gets EADDRINUSE and does not silently take a part of the connections. The first
    socket gets the option between bind and listen.
    """
    listener = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # One socket per family: what listens on :: does not also take IPv4, so that the two never collide.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if joins:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        _tune(listener)  # before it listens: a connection has what its listener had when the kernel took it
        if shared and not joins:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if not joins:
            listener.listen(LISTEN_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def begin_listening(listener: Listener) -> None:
    """Let connections come, to a socket of `share_listener`; nothing changes for one that listens. Raises OSError."""
    borrowed = socket.socket(fileno=listener.fd)
    try:
        borrowed.listen(LISTEN_BACKLOG)
    finally:
        borrowed.detach()


def _why_not(host: str, port: int, error: OSError) -> str:
    where = f"{host or '*'}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {where}: the port is in use; stop what uses it or choose another with --port"
    if error.errno == errno.EACCES:
        return (
            f"cannot listen on {where}: no permission for a port below 1024; choose one above with --port, "
            "or grant CAP_NET_BIND_SERVICE"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {where}: this machine has no such address; give --host one that it has"
    return f"cannot listen on {where}: {error.strerror}"


def _url(address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}/" if port == 80 else f"http://{host}:{port}/"


def listen_unix(path: str) -> Listener:
    """A listening unix socket. A socket file that nobody listens on any more is replaced. Raises ListenError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_abandoned(path):
                raise
            os.unlink(path)
            listener.bind(path)
        listener.listen(LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ListenError(f"cannot listen on {path}: in use by another process; choose another --unix") from error
        if error.errno in (errno.EACCES, errno.ENOENT, errno.ENOTDIR):
            raise ListenError(
                f"cannot make the socket {path}: {error.strerror}; give --unix a path in a directory that exists "
                "and that this user can write"
            ) from error
        raise ListenError(f"cannot listen on {path}: {error.strerror or error}") from error
    return Listener(listener.detach(), f"unix:{path}", path)


def _is_abandoned(path: str) -> bool:
    """True for a socket file whose listener is gone: a connection to it is refused."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            return probe.connect_ex(path) == errno.ECONNREFUSED
    except OSError:
        return False


def close_listener(listener: Listener) -> None:
    """Close a listener; the file of a unix socket goes with it."""
    os.close(listener.fd)
    if listener.unix_path is not None:
        Path(listener.unix_path).unlink(missing_ok=True)
