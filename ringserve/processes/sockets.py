"""The listening sockets, which are the supervisor's: by address and slot, or from the service manager."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import MutableMapping

from ringserve.config.settings import Address, Config
from ringserve.ring.linux.listeners import (
    Listener,
    ListenError,
    close_listener,
    listen_tcp,
    listen_unix,
    share_listener,
)

SYSTEMD_FIRST_FD = 3  # sd_listen_fds(3)

SO_ATTACH_FILTER = 26  # socket(7)
NO_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the flags; a socket filter sees the segment from its TCP header on
    (0x54, 0, 0, 0x02),  # SYN
    (0x15, 1, 0, 0),  # not set: skip one
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # keep it whole
)
"""A program for the kernel's packet filter: code, two jumps, operand (struct sock_filter of linux/filter.h)."""


class Sockets:
    """The listening sockets by address and slot. Those that systemd handed over are shared by all slots.

    _current, _handed: the addresses of the configuration in force, each with the number of its listener there; and the
    sockets of systemd's, which know theirs.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._inherited = inherited_listeners(environment)
        self._by_address: dict[Address, list[list[Listener]]] = {}
        self._current: dict[Address, int] = {}
        self._handed: list[Listener] = []
        self._before: tuple[dict[Address, int], list[Listener], dict[Address, int]] = ({}, [], {})

    def prepare(self, config: Config, slots: int) -> None:
        """Bind where the configuration says, `slots` times. Raises ListenError or OSError, and changes nothing then.

        Of each address the first socket listens already, so that a port that is in use is known. The others only do
        when their worker serves: one that listens gets connections.
        """
        handed = self._hand_out(config)
        wanted = {address: number for number, rule in enumerate(config.listeners) for address in rule.addresses}
        if handed and not config.listen:
            wanted = {}  # the unit says where to listen, and not the defaults
        made: dict[Address, list[list[Listener]]] = {}
        try:
            for key in wanted:
                host, port, unix = key
                there, more = self._by_address.get(key, []), made.setdefault(key, [])
                if not there:
                    # Port 0 is picked anew for each host, as it is without workers.
                    more.append([listen_unix(unix)] if unix is not None else listen_tcp(host, port, shared=True))
                first = (there or more)[0]
                while unix is None and len(there) + len(more) < slots:
                    # One at a time, so that what was made is known if the next one fails.
                    more.append([])
                    for listener in first:
                        more[-1].append(share_listener(listener))
        except BaseException:
            # Nobody would accept from them, so that their clients would wait for ever.
            _close(made)
            raise
        self._before = self._current, self._handed, {key: len(there) for key, there in self._by_address.items()}
        for key, more in made.items():
            self._by_address.setdefault(key, []).extend(more)
        self._current, self._handed = wanted, handed

    def _hand_out(self, config: Config) -> list[Listener]:
        """Systemd's sockets, each to the [[listen]] of its name; all to the one listener if there are no tables."""
        if not config.listen:
            return [listener for _name, listener in self._inherited]
        numbers = {rule.systemd: number for number, rule in enumerate(config.listen) if rule.systemd is not None}
        missing = numbers.keys() - {name for name, _listener in self._inherited}
        for name in sorted(missing):
            raise ListenError(
                f"systemd hands over no socket {name!r}, which a [[listen]] takes; name it so in the socket unit "
                f"(FileDescriptorName={name})"
            )
        for name, listener in self._inherited:
            if name not in numbers:
                raise ListenError(
                    f"systemd hands over {listener.url} as {name!r}, which no [[listen]] takes; write one with "
                    f'systemd = "{name}"'
                )
        return [listener._replace(rule=numbers[name]) for name, listener in self._inherited]

    def revert(self) -> None:
        """Take the last `prepare` back: close what it made, of which nobody accepts."""
        self._current, self._handed, counts = self._before
        for key in list(self._by_address):
            made, count = self._by_address[key], counts.get(key, 0)
            _close({key: made[count:]})
            del made[count:]
            if not made:
                del self._by_address[key]

    def of(self, slot: int, slots: int) -> list[Listener]:
        """What a worker of a slot listens on."""
        listeners = list(self._handed)
        for key, number in self._current.items():
            made = self._by_address[key]
            mine = made[:1] if key.unix is not None else [made[index] for index in range(slot, len(made), slots)]
            listeners += [each._replace(rule=number) for several in mine for each in several]
        return listeners

    @property
    def urls(self) -> list[str]:
        """Where clients reach the server."""
        return [listener.url for listener in (*self._handed, *self._first())]

    def _first(self) -> list[Listener]:
        return [listener for key in self._current for listener in self._by_address[key][0]]

    def close_unwanted(self) -> bool:
        """Close what the configuration in force does not name any more. True if there was any. Workers that still
        accept there have descriptors of their own, so that the last of them closes the socket.

        No client may arrive between the last accept and the close. From now on the kernel drops new SYNs; a client
        sends another one after a second, and is then refused, or accepted by the next server. The file of a unix socket
        is removed.
        """
        unwanted = {key: made for key, made in self._by_address.items() if key not in self._current}
        for key, made in unwanted.items():
            del self._by_address[key]
            for listener in (listener for listeners in made for listener in listeners if key.unix is None):
                _drop_arrivals(listener)
        _close(unwanted)
        return bool(unwanted)

    def close(self) -> None:
        """Close all, as `close_unwanted` does. What systemd handed over stays: it is the next process's too."""
        self._current = {}
        self.close_unwanted()


def _drop_arrivals(listener: Listener) -> None:
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in NO_SYN))
    borrowed = socket.socket(fileno=listener.fd)
    try:
        # A kernel without filters (gVisor) closes with what is in the queue, as all others do without this.
        with contextlib.suppress(OSError):
            borrowed.setsockopt(
                socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(NO_SYN), ctypes.addressof(program))
            )
    finally:
        borrowed.detach()


def _close(by_address: dict[Address, list[list[Listener]]]) -> None:
    for made in by_address.values():
        for listeners in made:
            for listener in listeners:
                close_listener(listener)


def inherited_listeners(environment: MutableMapping[str, str]) -> list[tuple[str, Listener]]:
    """The sockets that systemd hands over (sd_listen_fds(3)), each with its name; none where it does not. The variables
    are taken away, so that no child takes them for its own.
    """
    mine = environment.pop("LISTEN_PID", "") == str(os.getpid())
    count = environment.pop("LISTEN_FDS", "0")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if not mine or not count.isdigit():
        return []
    listeners = []
    for index in range(int(count)):
        fd = SYSTEMD_FIRST_FD + index
        os.set_inheritable(fd, False)
        borrowed = socket.socket(fileno=fd)
        try:
            name = borrowed.getsockname()
        finally:
            borrowed.detach()
        if isinstance(name, tuple):
            host = f"[{name[0]}]" if ":" in str(name[0]) else name[0]
            url = f"http://{host}:{name[1]}/"
        else:
            url = f"unix:{name if isinstance(name, str) else name.decode(errors='replace')}"
        listeners.append((names[index] if index < len(names) else "", Listener(fd, url, None)))
    return listeners
