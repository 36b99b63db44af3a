"""Raw clients: exact bytes in, exact bytes out."""

from __future__ import annotations

import socket
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

TIMEOUT_S = 20.0
"""No wait of a test is longer; each ends earlier by an event."""


class Answer(NamedTuple):
    """One response as it came. raw: every byte of it."""

    status: int
    fields: dict[str, str]
    body: bytes
    raw: bytes

    def masked(self) -> bytes:
        """The bytes with the Date taken out, to compare two responses of different seconds."""
        lines = self.raw.split(b"\r\n")
        return b"\r\n".join(line for line in lines if not line.startswith(b"Date: "))


class Wire:
    """One connection of a client that sees bytes."""

    def __init__(self, url: str, *, receive_bytes: int | None = None, source: str | None = None) -> None:
        """receive_bytes: the socket's receive buffer, for a reader that is slow; must be set before connecting.
        source: the address that it comes from.
        """
        parts = urlsplit(url)
        if parts.scheme == "unix":
            self.socket = socket.socket(socket.AF_UNIX)
            address: Any = parts.path
        else:
            self.socket = socket.socket(socket.AF_INET6 if ":" in (parts.hostname or "") else socket.AF_INET)
            address = (parts.hostname, parts.port)
        self.socket.settimeout(TIMEOUT_S)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            if source is not None:
                self.socket.bind((source, 0))
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending = bytearray()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """All of it."""
        self.socket.sendall(data)

    def ask(self, request: bytes, *, method: str | None = None) -> Answer:
        """One request and its response."""
        self.send(request)
        return self.answer(method=method or request.split(b" ", 1)[0].decode("latin-1"))

    def answer(self, *, method: str = "GET") -> Answer:
        """The next response. Fails if the connection ends within it."""
        while (head_bytes := self._pending.find(b"\r\n\r\n")) < 0:
            self._more()
        lines = self._pending[:head_bytes].split(b"\r\n")
        status = int(lines[0].split(b" ")[1])
        fields: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.decode("latin-1").partition(": ")
            assert name.lower() not in fields, f"{name} comes twice"
            fields[name.lower()] = value
        length = 0 if method == "HEAD" or status in (204, 304) else int(fields["content-length"])
        end = head_bytes + 4 + length
        while len(self._pending) < end:
            self._more()
        raw = bytes(self._pending[:end])
        del self._pending[:end]
        return Answer(status, fields, raw[head_bytes + 4 :], raw)

    def put_back(self, data: bytes) -> None:
        """The beginning of a response, which was received from the socket itself."""
        self._pending[:0] = data

    def _more(self) -> None:
        data = self.socket.recv(65536)
        assert data, f"the connection ended after {bytes(self._pending[:200])!r}"
        self._pending += data

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        while more := self.socket.recv(65536):
            self._pending += more
        data = bytes(self._pending)
        self._pending.clear()
        return data

    def at_end(self) -> bool:
        """Whether the server has ended the connection cleanly, with nothing more to say."""
        return self.rest() == b""


def get(path: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request's bytes."""
    lines = [f"{method} {path} HTTP/{version}", "Host: test", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def eventually(what: str, condition: object, within_s: float = TIMEOUT_S) -> None:
    """Wait for something that has no event of its own: a thread's or the kernel's state. Fails loudly."""
    assert callable(condition)
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.005)
