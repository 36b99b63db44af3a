"""Clients that compare every byte of every answer, and tell what failed, when it was asked, and how long it took.

    python checker.py ADDRESS DIRECTORY

They ask the server at ADDRESS, port 80, for the files of DIRECTORY until standard input ends; then each finishes the
request that it is at, so that no request is left without a verdict. The report is one line of JSON.

Three kinds of clients, each a thread with a connection: *lasting* ones keep theirs, *fresh* ones take a new one for
each request, *slow* ones read the largest file at a bounded rate, so that there always are downloads in flight. No
client asks again for what has failed: what this counts is what a program without retries of its own would see.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

LASTING = 4
FRESH = 2
SLOW = 6
PAUSE_S = 0.02
"""Between two requests of a client: two processors carry all of this beside wrk, the balancer and three hosts."""
SLOW_BYTES_PER_S = 4 * 1024 * 1024
SLOW_BUFFER_BYTES = 64 * 1024
"""The receive buffer of those who read slowly. One that grows would take megabytes at once, and the host be done."""
TIMEOUT_S = 20.0
"""A client that hears nothing for so long has failed. Longer than every limit of the balancer."""
HEAD_BYTES_MAX = 16 * 1024
FORGED = "203.0.113.66"
"""Every request claims to be asked for this client; the hosts' logs must not believe it."""


class Asked(NamedTuple):
    """One request. began: by the system's monotonic clock, which all processes share. failure: in words, or empty."""

    kind: str
    path: str
    began: float
    took_s: float
    failure: str


class FailedError(Exception):
    """An answer that is not what it should be; in words."""


class Client:
    """One connection at a time to the server. rate: bytes a second at most, or 0 for as fast as they come."""

    def __init__(self, address: str, kind: str, rate: int, port: int = 80) -> None:
        self._address = (address, port)
        self._kind = kind
        self._rate = rate
        self._socket: socket.socket | None = None

    def ask(self, path: str, expected: bytes) -> Asked:
        """One request, and what became of it."""
        began = time.monotonic()
        failure = ""
        try:
            closes = self._exchange(path, expected)
        except (OSError, FailedError) as error:
            failure, closes = (str(error) or repr(error)), True
        if closes or self._kind == "fresh":
            self.close()
        return Asked(self._kind, path, began, time.monotonic() - began, failure)

    def close(self) -> None:
        """Nothing is left open."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, path: str, expected: bytes) -> bool:
        """True if the server closes the connection after its answer. Raises FailedError and OSError."""
        if self._socket is None:
            self._socket = socket.socket()
            self._socket.settimeout(TIMEOUT_S)
            if self._rate:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER_BYTES)
            self._socket.connect(self._address)
        self._socket.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: cluster.test\r\nUser-Agent: checker\r\nX-Forwarded-For: {FORGED}\r\n"
            "\r\n".encode()
        )
        head, body = self._head(self._socket)
        status, fields = (
            head[0],
            {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])},
        )
        if not status.startswith("HTTP/1.1 200 "):
            raise FailedError(status)
        if fields.get("content-length") != str(len(expected)):
            raise FailedError(f"Content-Length {fields.get('content-length')} for {len(expected)} bytes")
        self._body(self._socket, body, expected)
        return fields.get("connection", "").lower() == "close"

    @staticmethod
    def _head(connection: socket.socket) -> tuple[list[str], bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                raise FailedError("the connection ended before the answer" if not data else "it ended within the head")
            data += more
            if b"\r\n\r\n" not in data and len(data) > HEAD_BYTES_MAX:
                raise FailedError("the head does not end")
        head, _, body = data.partition(b"\r\n\r\n")
        return head.decode("latin-1").split("\r\n"), body

    def _body(self, connection: socket.socket, first: bytes, expected: bytes) -> None:
        began, got = time.monotonic(), len(first)
        if first != expected[:got]:
            raise FailedError("other bytes than the file's")
        while got < len(expected):
            if self._rate:
                time.sleep(max(0.0, began + got / self._rate - time.monotonic()))
            more = connection.recv(65536)
            if not more:
                raise FailedError(f"cut off after {got} of {len(expected)} bytes")
            if more != expected[got : got + len(more)]:
                raise FailedError("other bytes than the file's")
            got += len(more)


def main(address: str, directory: Path) -> None:
    """See the module."""
    files = {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
    largest = max(files, key=lambda name: len(files[name]))
    others = [name for name in files if name != largest]
    over = threading.Event()
    asked: list[Asked] = []

    def go_on(kind: str, first: int) -> None:
        client = Client(address, kind, SLOW_BYTES_PER_S if kind == "slow" else 0)
        turn = first
        while not over.is_set():
            name = largest if kind == "slow" else others[turn % len(others)]
            asked.append(client.ask(name, files[name]))
            turn += 1
            over.wait(PAUSE_S)
        client.close()

    kinds = ["lasting"] * LASTING + ["fresh"] * FRESH + ["slow"] * SLOW
    threads = [threading.Thread(target=go_on, args=(kind, index)) for index, kind in enumerate(kinds)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    print(json.dumps(asked))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
