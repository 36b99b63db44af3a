"""What an idle connection costs ringserve in resident memory, and whether the memory is reused afterwards.

    .venv/bin/python benchmarks/memory.py [--connections 5000] [--kib-max 6]

Two waves of keep-alive connections, each of which makes one request and then rests. Exit status: 0, 1 if a connection
costs too much or the second wave needs more than the first, 2 if it cannot run. How much memory goes back to the system
after a wave is printed and decides nothing: allocators keep arenas in which anything lives, to use them again.
"""

from __future__ import annotations

import argparse
import re
import resource
import signal
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from processes import HOST, BenchmarkError, Server, check_machine, free_port, ringserve_command, started

BATCH = 100
"""Connections opened at a time, well below every listen backlog, so that none is dropped and retried a second later."""
TIMEOUT_S = 20.0
"""For an answer, and for the memory to come back."""
KEPT = 0.25
"""The part of what a wave added at which the memory counts as given back."""
STEADY_S = 10.0
"""Memory that did not shrink for so long is not going to. The server gives it back some seconds after a crowd left."""
GROWTH_MAX = 1.05
"""The second wave's resident size against the first's. A leak of a whole connection would show as up to 2."""
SPARE_DESCRIPTORS = 64
REQUEST = b"GET /1k.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Wave(NamedTuple):
    """Resident sizes of the server: all connections open, and after all were closed."""

    open_kib: int
    closed_kib: int


def resident_kib(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None, "the kernel reports VmRSS for every process that is not a zombie"
    return int(found[1])


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def read_answer(connection: socket.socket) -> None:
    """Read one whole 200. Raises BenchmarkError for anything else."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += receive(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if not head.startswith(b"HTTP/1.1 200 ") or length is None:
        raise BenchmarkError(f"ringserve answered {head[:100]!r}")
    missing = int(length[1]) - len(body)
    while missing > 0:
        missing -= len(receive(connection))


def receive(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    if not received:
        raise BenchmarkError("ringserve closed a connection in the middle of an answer")
    return received


def open_connections(stack: ExitStack, port: int, count: int) -> list[socket.socket]:
    """Connections that made one request each and rest now."""
    connections: list[socket.socket] = []
    while len(connections) < count:
        size = min(BATCH, count - len(connections))
        batch = [stack.enter_context(socket.create_connection((HOST, port), TIMEOUT_S)) for _ in range(size)]
        for connection in batch:
            connection.sendall(REQUEST)
        for connection in batch:
            read_answer(connection)
        connections += batch
    return connections


def check_still_open(connections: list[socket.socket]) -> None:
    """Raise BenchmarkError if the server closed one, since then fewer were measured than are claimed."""
    for connection in connections:
        connection.setblocking(False)
        try:
            rest = connection.recv(1)
        except BlockingIOError:
            continue
        raise BenchmarkError(f"a connection did not rest after its answer: {rest!r}")


def wave(server: Server, count: int, baseline_kib: int, baseline_descriptors: int) -> Wave:
    """Open, measure, close, and measure when the server has closed all and gives no more memory back; 10 s at most."""
    with ExitStack() as stack:
        connections = open_connections(stack, server.port, count)
        open_kib = resident_kib(server.pid)
        check_still_open(connections)
    began = steady_since = time.monotonic()
    enough_kib = baseline_kib + KEPT * (open_kib - baseline_kib)
    least_kib = open_kib
    while time.monotonic() < began + TIMEOUT_S:
        now_kib = resident_kib(server.pid)
        if now_kib < least_kib or descriptors(server.pid) > baseline_descriptors:
            least_kib, steady_since = min(now_kib, least_kib), time.monotonic()
        elif now_kib <= enough_kib or time.monotonic() > steady_since + STEADY_S:
            break
        time.sleep(0.1)
    settled_s = time.monotonic() - began
    if (left := descriptors(server.pid) - baseline_descriptors) > 0:
        raise BenchmarkError(f"{left} descriptors are still open {settled_s:.0f} s after the clients closed")
    return Wave(open_kib, resident_kib(server.pid))


def measure(count: int) -> tuple[int, list[Wave]]:
    """The resident size after a first request, and two waves."""
    with tempfile.TemporaryDirectory(prefix="ringserve-bench-") as directory, ExitStack() as stack:
        work = Path(directory)
        site = work / "site"
        site.mkdir()
        (site / "1k.bin").write_bytes(bytes(1024))
        port = free_port()
        server = stack.enter_context(started("ringserve", ringserve_command(site, port, "off"), port, work))
        with ExitStack() as first:
            # So that the code and tables that every first request brings in are not counted as the connections'.
            open_connections(first, port, 1)
            baseline_descriptors = descriptors(server.pid) - 1
        baseline_kib = resident_kib(server.pid)
        return baseline_kib, [wave(server, count, baseline_kib, baseline_descriptors) for _ in range(2)]


def raise_descriptor_limit(count: int) -> None:
    """For this process, and for the server, which inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + SPARE_DESCRIPTORS:
        raise BenchmarkError(f"at most {hard} open files are allowed; raise the hard limit or lower --connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the memory of idle connections.")
    parser.add_argument("--connections", type=int, default=5000, help="in a wave (%(default)s)")
    parser.add_argument("--kib-max", type=float, default=6.0, help="largest cost of a connection (%(default)s)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # So that the server is ended.
    try:
        check_machine(["taskset"])
        raise_descriptor_limit(options.connections)
        baseline_kib, waves = measure(options.connections)
    except (BenchmarkError, OSError) as error:
        print(f"memory.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return judge(options.connections, options.kib_max, baseline_kib, waves)


def judge(count: int, kib_max: float, baseline_kib: int, waves: list[Wave]) -> int:
    """Print the figures and what is wrong with them."""
    failures = []
    print(f"resident after the first request: {baseline_kib} KiB; then waves of {count} idle connections\n")
    print("| wave | resident, KiB | KiB/connection | resident after closing, KiB | of the addition kept |")
    print("|---|---|---|---|---|")
    for number, one in enumerate(waves, 1):
        added_kib = one.open_kib - baseline_kib
        kept = (one.closed_kib - baseline_kib) / max(1, added_kib)
        each_kib = added_kib / count
        cells = (number, one.open_kib, f"{each_kib:.2f}", one.closed_kib, f"{kept:.0%}")
        print(f"| {' | '.join(map(str, cells))} |")
        if each_kib > kib_max:
            failures.append(f"wave {number}: {each_kib:.2f} KiB a connection, more than {kib_max:g}")
        if kept > KEPT:
            failures.append(f"wave {number}: {kept:.0%} of the memory did not come back")
    if waves[1].open_kib > GROWTH_MAX * waves[0].open_kib:
        failures.append(f"the second wave needs {waves[1].open_kib / waves[0].open_kib:.2f} times the first's memory")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
