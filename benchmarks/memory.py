"""What an idle connection costs ringserve in resident memory, and whether the memory is reused afterwards.

    .venv/bin/python benchmarks/memory.py [--connections 5000] [--kib-max 6]

Two waves of keep-alive connections, each of which makes one request and then rests. Exit status: 0, 1 if a connection
costs too much or the second wave needs more than the first, 2 if it cannot run. How much memory goes back to the system
after a wave is printed and decides nothing: allocators keep arenas in which anything lives, to use them again.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import click
from clients import not_open, open_connections
from peers import Place, ringserve_command
from processes import (
    BenchmarkError,
    Server,
    check_machine,
    descriptors,
    free_port,
    raise_descriptor_limit,
    resident_kib,
    started,
)

TIMEOUT_S = 20.0
"""For the memory to come back."""
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


def wave(server: Server, count: int, baseline_kib: int, baseline_descriptors: int) -> Wave:
    """Open, measure, close, and measure when the server has closed all and gives no more memory back; 10 s at most."""
    with ExitStack() as stack:
        connections = open_connections(stack, server.port, count, REQUEST)
        open_kib = resident_kib(server.pid)
        if closed := not_open(connections):
            # Fewer were measured than are claimed.
            raise BenchmarkError(f"{closed} connections did not rest after their answers")
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
        command = ringserve_command(sys.executable)(Place(work, site, port, None))
        server = stack.enter_context(started("ringserve", command, port, work))
        with ExitStack() as first:
            # So that the code and tables that every first request brings in are not counted as the connections'.
            open_connections(first, port, 1, REQUEST)
            baseline_descriptors = descriptors(server.pid) - 1
        baseline_kib = resident_kib(server.pid)
        return baseline_kib, [wave(server, count, baseline_kib, baseline_descriptors) for _ in range(2)]


@click.command()
@click.option("--connections", default=5000, show_default=True, type=click.IntRange(1), help="Connections in a wave.")
@click.option("--kib-max", default=6.0, show_default=True, help="Largest cost of a connection.")
def main(connections: int, kib_max: float) -> None:
    """Measure the memory of idle connections."""
    # So that the server is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        check_machine(["taskset"])
        if (limit := raise_descriptor_limit()) < connections + SPARE_DESCRIPTORS:
            raise BenchmarkError(f"at most {limit} open files are allowed; raise the hard limit or lower --connections")
        baseline_kib, waves = measure(connections)
    except (BenchmarkError, OSError) as error:
        click.echo(f"memory.py: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(judge(connections, kib_max, baseline_kib, waves))


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
    main()
