"""Clients of our own: exact exchanges, for checking answers, and crowds, which wrk cannot be.

A crowd is a process of its own beside wrk, on the same CPU, so that it costs the server's CPU nothing:

    clients.py '{"kind": "idle", "port": 8080, "count": 9000, "request": "GET /..."}'

It prints `ready`, stays as it is until its standard input ends, then prints a JSON object and goes.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from processes import CLIENT_CPU, HOST, BenchmarkError, raise_descriptor_limit, tool

BATCH = 100
"""Connections opened at a time, well below every listen backlog, so that none is dropped and retried a second later."""
TIMEOUT_S = 20.0
"""For an answer. A server whose processor is shared may be slow; it must not be waited for forever."""
READY_S = 120.0
"""For a crowd to be there: 9,000 connections to the slowest server take some seconds."""
STALLED_BUFFER_BYTES = 4096
"""Receive buffer of a reader that reads nothing, so that the server cannot get rid of the answer."""
FETCH_BYTES = 1 << 20
TCP_ESTABLISHED = 1
NICENESS = 19


class Answer(NamedTuple):
    """A response. `overhead_bytes` is all that came over the wire and is not the body."""

    status: int
    fields: Mapping[str, str]
    body: bytes
    overhead_bytes: int


def read_answer(stream: BinaryIO) -> Answer:
    """Read one response to a GET. Raises BenchmarkError if it is none, or ends too early."""
    line = _line(stream)
    parts = line.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        raise BenchmarkError(f"not an answer: {line[:100]!r}")
    status = int(parts[1])
    overhead_bytes = len(line)
    fields: dict[str, str] = {}
    while (line := _line(stream)) != b"\r\n":
        name, _, value = line.partition(b":")
        fields[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        overhead_bytes += len(line)
    overhead_bytes += 2
    if status in (204, 304):
        return Answer(status, fields, b"", overhead_bytes)
    if "content-length" not in fields:
        raise BenchmarkError("an answer without Content-Length")
    return Answer(status, fields, _exactly(stream, int(fields["content-length"])), overhead_bytes)


def _line(stream: BinaryIO) -> bytes:
    line = stream.readline(65536)
    if not line.endswith(b"\n"):
        raise BenchmarkError("the connection was closed in the middle of an answer")
    return line


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise BenchmarkError("the connection was closed in the middle of an answer")
    return data


@contextmanager
def connected(port: int) -> Iterator[tuple[socket.socket, BinaryIO]]:
    """A connection, and its stream to read answers from."""
    with socket.create_connection((HOST, port), TIMEOUT_S) as connection, connection.makefile("rb") as stream:
        yield connection, stream


def ask(port: int, requests: Sequence[bytes]) -> Iterator[Answer]:
    """The answers to requests, one after the other on as few connections as the server allows."""
    remaining = list(reversed(requests))
    while remaining:
        with connected(port) as (connection, stream):
            closing = False
            while remaining and not closing:
                request = remaining.pop()
                connection.sendall(request)
                answer = read_answer(stream)
                closing = answer.fields.get("connection", "").lower() == "close" or b"\r\nConnection: close" in request
                yield answer


def open_connections(stack: ExitStack, port: int, count: int, request: bytes) -> list[socket.socket]:
    """Connections that made one request each, which was answered with 200, and rest now."""
    connections: list[socket.socket] = []
    while len(connections) < count:
        size = min(BATCH, count - len(connections))
        batch = [stack.enter_context(socket.create_connection((HOST, port), TIMEOUT_S)) for _ in range(size)]
        for connection in batch:
            connection.sendall(request)
        for connection in batch:
            # Nothing follows the answer, so that the stream takes no byte too many.
            with connection.makefile("rb") as stream:
                if (status := read_answer(stream).status) != 200:
                    raise BenchmarkError(f"an answer of status {status}")
        connections += batch
    return connections


def open_stalled(stack: ExitStack, port: int, count: int, request: bytes) -> list[socket.socket]:
    """Connections whose answer has begun to arrive, and that read nothing of it."""
    connections: list[socket.socket] = []
    while len(connections) < count:
        batch = []
        for _ in range(min(BATCH, count - len(connections))):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_BUFFER_BYTES)
            connection.settimeout(TIMEOUT_S)
            connection.connect((HOST, port))
            connection.sendall(request)
            batch.append(connection)
        for connection in batch:
            if not connection.recv(1, socket.MSG_PEEK):
                raise BenchmarkError("a connection was closed instead of answered")
        connections += batch
    return connections


def not_open(connections: Sequence[socket.socket]) -> int:
    """How many of the connections the server closed: then fewer were measured than are claimed."""
    # The state is the first byte of struct tcp_info.
    states = (one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] for one in connections)
    return sum(1 for state in states if state != TCP_ESTABLISHED)


class Fetched(NamedTuple):
    """What came of fetching cold files."""

    files: int
    cold: int


class Fetcher(threading.Thread):
    """Fetches its files in turn, each dropped from the page cache just before; rests until its next time is due."""

    def __init__(self, port: int, files: Sequence[tuple[bytes, Path]], interval_s: float) -> None:
        super().__init__()
        self.port = port
        self.files = files
        self.interval_s = interval_s
        self.stopping = threading.Event()
        self.warm = threading.Event()
        self.fetched = Fetched(0, 0)
        self.error = ""

    def run(self) -> None:
        try:
            with connected(self.port) as (connection, _):
                while not self.stopping.is_set():
                    self._round(connection)
        except (OSError, BenchmarkError) as error:
            self.error = str(error)
        finally:
            self.warm.set()

    def _round(self, connection: socket.socket) -> None:
        for request, path in self.files:
            due = time.monotonic() + self.interval_s
            drop(path)
            was_cold = not is_cached(path)
            connection.sendall(request)
            discard_answer(connection)
            self.fetched = Fetched(self.fetched.files + 1, self.fetched.cold + was_cold)
            self.warm.set()
            if self.stopping.wait(max(0.0, due - time.monotonic())):
                return


def discard_answer(connection: socket.socket) -> None:
    """Take a whole answer without copying its body, so that this costs the generator's CPU next to nothing."""
    head = b""
    while b"\r\n\r\n" not in head:
        # The head is looked at before it is taken, and bytes of the body are left alone.
        head = connection.recv(4096, socket.MSG_PEEK)
        if not head:
            raise BenchmarkError("the connection was closed instead of answered")
    head = connection.recv(head.index(b"\r\n\r\n") + 4)
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    if not head.startswith(b"HTTP/1.1 200 ") or not lengths:
        raise BenchmarkError(f"not the answer that was expected: {head[:100]!r}")
    missing = int(lengths[0].partition(b":")[2])
    buffer = bytearray(FETCH_BYTES)
    while missing > 0:
        # MSG_TRUNC on TCP takes bytes without storing them, tcp(7).
        taken = connection.recv_into(buffer, min(missing, FETCH_BYTES), socket.MSG_TRUNC)
        if taken == 0:
            raise BenchmarkError("the connection was closed in the middle of an answer")
        missing -= taken


def drop(path: Path) -> None:
    """Drop a file from the page cache. Only clean pages go, so the site is synced when it is made."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def is_cached(path: Path) -> bool:
    """Whether the page in the file's middle is in the page cache; mincore(2), which reads nothing in."""
    library = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        anchor = ctypes.c_char.from_buffer(mapped)
        middle = len(mapped) // 2 // mmap.PAGESIZE * mmap.PAGESIZE
        vector = (ctypes.c_ubyte * 1)()
        address = ctypes.c_void_p(ctypes.addressof(anchor) + middle)
        failed = library.mincore(address, ctypes.c_size_t(mmap.PAGESIZE), vector)
        del anchor  # Or the mapping could not be closed.
    if failed:
        raise BenchmarkError(f"mincore: {os.strerror(ctypes.get_errno())}")
    return bool(vector[0] & 1)


@dataclass
class CrowdReport:
    """What a crowd said at its end; empty until then. Which fields mean something depends on its kind."""

    closed_by_server: int = 0
    files: int = 0
    cold: int = 0
    errors: list[str] = field(default_factory=list)


@contextmanager
def crowd(name: str, **description: object) -> Iterator[CrowdReport]:
    """Have a crowd at a server while the block runs. Raises BenchmarkError if the crowd does not come about."""
    command = [
        tool("taskset"), "-c", str(CLIENT_CPU), sys.executable, str(Path(__file__).resolve()), json.dumps(description)
    ]  # fmt: skip
    report = CrowdReport()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        overdue = threading.Timer(READY_S, process.kill)
        overdue.start()
        try:
            said = process.stdout.readline().decode().strip()
            overdue.cancel()
            if said != "ready":
                raise BenchmarkError(f"{description['kind']} clients of {name}: {said or 'not ready in time'}")
            yield report
        finally:
            overdue.cancel()
            process.stdin.close()
            try:
                process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
        # One short line, so that it fits into the pipe while nobody reads.
        for key, value in json.loads(process.stdout.read() or b'{"errors": ["the crowd said nothing"]}').items():
            setattr(report, key, value)


def _keep(opened: Sequence[socket.socket]) -> dict[str, object]:
    print("ready", flush=True)
    sys.stdin.buffer.read()
    return {"closed_by_server": not_open(opened)}


def _fetch(port: int, files: Mapping[str, str], clients: int, interval_s: float) -> dict[str, object]:
    """`files` has the path of each request."""
    pairs = [(request.encode(), Path(path)) for request, path in files.items()]
    fetchers = [Fetcher(port, pairs[first::clients], interval_s) for first in range(clients)]
    for fetcher in fetchers:
        fetcher.start()
    for fetcher in fetchers:
        fetcher.warm.wait(TIMEOUT_S)
    print("ready", flush=True)
    sys.stdin.buffer.read()
    for fetcher in fetchers:
        fetcher.stopping.set()
    for fetcher in fetchers:
        fetcher.join(TIMEOUT_S)
    return {
        "files": sum(fetcher.fetched.files for fetcher in fetchers),
        "cold": sum(fetcher.fetched.cold for fetcher in fetchers),
        "errors": [fetcher.error for fetcher in fetchers if fetcher.error],
    }


def main() -> None:
    description = json.loads(sys.argv[1])
    kind = description.pop("kind")
    raise_descriptor_limit()
    # It shares a CPU with wrk, which would count the time that it waits for this one as the server's latency.
    os.nice(NICENESS)
    try:
        with ExitStack() as stack:
            if kind == "fetch":
                report = _fetch(**description)
            else:
                opening = {"idle": open_connections, "stalled": open_stalled}[kind]
                port, count, request = description["port"], description["count"], description["request"].encode()
                report = _keep(opening(stack, port, count, request))
            print(json.dumps(report), flush=True)
    except (OSError, BenchmarkError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
