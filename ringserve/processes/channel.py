"""A supervisor and its worker talk over a pair of sockets: one message a packet, with at most one descriptor.

SOCK_SEQPACKET, so that a message is whole or not there, and a descriptor is its own message's (SCM_RIGHTS, unix(7)).
The end of file is the other's death, seen in the same place as what it said before.

Nobody waits for the other: what cannot be sent now is kept and sent later. It cannot be sent only where the other has
not read for minutes, because it is stopped or stuck, or where the kernel has too many descriptors under way.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections import deque

from ringserve.processes.messages import Kind, Message

WAITING_MAX = 64
"""Messages that are kept for somebody who does not read; the newest are given up."""
GONE = frozenset((errno.EPIPE, errno.ECONNRESET))
DESCRIPTOR_BYTES = array.array("i").itemsize


class ChannelEndedError(Exception):
    """The other end is closed: its process has ended."""


class Channel:
    """One end of a channel, by its descriptor. One that was closed has ended, and nobody hears what is sent."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._waiting: deque[Message] = deque()

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Both ends of a channel."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours.detach()), cls(theirs.detach())

    @property
    def fd(self) -> int:
        """Its descriptor; -1 if it is closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it, and give up what waits."""
        self._socket.close()
        while self._waiting:
            self._drop(self._waiting.popleft())

    def send(self, message: Message) -> None:
        """Send a message, now or by a later `flush`. A descriptor stays the caller's. Nobody hears it if the other end
        is closed. Raises OSError if it has to wait and there is no descriptor to keep it with.
        """
        if self.fd < 0 or (not self._waiting and self._send_now(message)):
            return
        # Only the last log counts. It takes the place of the one before: what serves without any writes to stdout.
        place = next((at for at, each in enumerate(self._waiting) if message.kind is each.kind is Kind.LOG), None)
        if place is None and len(self._waiting) >= WAITING_MAX:
            return
        kept = message._replace(fd=message.fd if message.fd < 0 else os.dup(message.fd))
        if place is None:
            self._waiting.append(kept)
        else:
            self._drop(self._waiting[place])
            self._waiting[place] = kept

    def flush(self) -> bool:
        """Send what waits. False if it still cannot be sent."""
        while self._waiting and self._send_now(self._waiting[0]):
            self._drop(self._waiting.popleft())
        return not self._waiting

    @staticmethod
    def _drop(message: Message) -> None:
        if message.fd >= 0:
            os.close(message.fd)

    def _send_now(self, message: Message) -> bool:
        packet = message.kind.value + message.text.encode(errors="surrogateescape")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [message.fd]))] if message.fd >= 0 else []
        try:
            # Not socket.send_fds, which Python 3.11 has forget its flags.
            self._socket.sendmsg([packet], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            # All others pass: no room, no memory, or ETOOMANYREFS. A user who is not privileged may have as many
            # descriptors under way, in all processes, as the limit of open files is (unix(7)).
            return error.errno in GONE
        return True

    def receive(self) -> Message | None:
        """The next message; None if there is none now. Its descriptor is the caller's, and -1 if there was none to be
        had. Raises ChannelEndedError.
        """
        return self._receive(socket.MSG_DONTWAIT)

    def wait(self) -> Message:
        """The next message, however long it takes. Raises ChannelEndedError."""
        message = self._receive(0)
        assert message is not None, "it has waited"
        return message

    def _receive(self, flags: int) -> Message | None:
        if self.fd < 0:
            raise ChannelEndedError
        space = socket.CMSG_SPACE(DESCRIPTOR_BYTES)
        try:
            # Its length first: memory for the longest would be a hundred times what is received, and stay ours.
            length = self._socket.recv_into(bytearray(1), 1, flags | socket.MSG_PEEK | socket.MSG_TRUNC)
            packet, ancillary, _flags, _peer = self._socket.recvmsg(length, space, flags | socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            # The other end was closed with something unread. That is told once, before what it said.
            return self._receive(flags)
        if not packet:
            raise ChannelEndedError
        fds = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[:DESCRIPTOR_BYTES])
        return Message(Kind(packet[:1]), packet[1:].decode(errors="surrogateescape"), fds[0] if fds else -1)
