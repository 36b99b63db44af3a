"""One workload: the servers' answers checked, then rounds in turn. What happens beside the rounds is in `beside.py`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import generator
from clients import Answer, ask
from corpus import Site
from figures import Round
from processes import (
    SERVER_CPU,
    BenchmarkError,
    Server,
    busy_seconds,
    cpu_seconds,
    freeze,
    last_words,
    stray_threads,
    thaw,
)
from workloads import SERIAL_STEP, Exchange, Workload, get, rotation

LOG_DELAY_S = 2.0
"""For the last lines of a round to reach the log; some servers write in batches."""
LINES_KEPT_MAX = 100
"""Lines that a server may still hold in a buffer of some KiB. lighttpd does so until there are more."""
TARGETS_CHECKED_MAX = 2_000
"""Of files that differ in their bytes only: to ask for 200,000 one by one would take as long as all rounds."""
RANGES_CHECKED = 50
"""Exchanges with the same file that are checked. Another range of a file is no other path through a server."""
FOREIGN_MAX = 0.1
"""Of the server's CPU, that others may have in a round. Timers and ticks of 10 ms make up some per cent."""
DISTURBED = f"something else had more than {FOREIGN_MAX:.0%} of the server's CPU"
TOLERANCE = 0.01
"""Of the bytes that should have arrived: heads differ by some digits."""


class Plan(NamedTuple):
    """What wrk sends to one server, and how many bytes have to come back for the first n answers."""

    requests: Path
    connections: int
    pause_ms: int
    batched: bool
    answered_bytes: Sequence[int]
    most_in_flight_bytes: int
    refused: bool

    def first(self, cycle: int) -> int:
        """The request that a cycle begins with."""
        return rotation(cycle, len(self.answered_bytes))

    def expected_bytes(self, first: int, answers: int) -> int:
        """For so many answers from the first on in the sequence's order, which is repeated when it is at its end."""
        return self._until(first + answers) - self._until(first)

    def _until(self, end: int) -> int:
        whole, rest = divmod(end, len(self.answered_bytes))
        return whole * self.answered_bytes[-1] + (self.answered_bytes[rest - 1] if rest else 0)


def etags(server: Server, workload: Workload) -> Mapping[str, str]:
    """The entity-tags that the server gives the files of a workload."""
    targets = workload.targets()
    tags = {}
    for target, answer in zip(targets, ask(server.port, [get(target) for target in targets]), strict=True):
        if answer.status != 200 or "etag" not in answer.fields:
            raise BenchmarkError(f"no ETag for {target} (status {answer.status})")
        tags[target] = answer.fields["etag"]
    return tags


def plan(server: Server, workload: Workload, site: Site, directory: Path) -> Plan:
    """Check the server's answers, and write down what wrk will send. Raises BenchmarkError for a wrong answer."""
    exchanges = workload.exchanges(etags(server, workload) if workload.conditional else {})
    overheads = check(server, exchanges, site)
    unchecked = round(fmean(overheads.values()))
    sizes = [overheads.get(exchange.target, unchecked) + exchange.length for exchange in exchanges]
    requests = directory / f"{workload.name}.requests"
    # wrk is given the requests of a batch as one.
    generator.write_requests(requests, [exchange.request * workload.depth for exchange in exchanges])
    in_flight = workload.connections * workload.depth * max(sizes)
    refused = all(exchange.status >= 400 for exchange in exchanges)
    return Plan(
        requests,
        workload.connections,
        workload.pause_ms,
        workload.depth > 1,
        list(accumulate(sizes)),
        in_flight,
        refused,
    )


def check(server: Server, exchanges: Sequence[Exchange], site: Site) -> Mapping[str, int]:
    """Compare answers with the files, byte by byte; how many bytes each target's answer has beside the body."""
    checked: list[Exchange] = []
    seen: dict[str, int] = {}
    for exchange in exchanges:
        if exchange.target not in seen and len(seen) == TARGETS_CHECKED_MAX:
            continue
        seen[exchange.target] = seen.get(exchange.target, 0) + 1
        # Of a file that is asked for in one way only (all but ranges), once is enough.
        if seen[exchange.target] == 1 or (exchange.status == 206 and seen[exchange.target] <= RANGES_CHECKED):
            checked.append(exchange)
    overheads: dict[str, int] = {}
    answers = ask(server.port, [exchange.request for exchange in checked])
    for exchange, answer in zip(checked, answers, strict=True):
        _compare(exchange, answer, site)
        overheads[exchange.target] = answer.overhead_bytes + len(answer.body) - exchange.length
    return overheads


def _compare(exchange: Exchange, answer: Answer, site: Site) -> None:
    if answer.status != exchange.status:
        raise BenchmarkError(f"answers {exchange.target} with {answer.status} instead of {exchange.status}")
    if exchange.status >= 400:
        return  # each server has an error page of its own
    if len(answer.body) != exchange.length:
        raise BenchmarkError(f"answers {exchange.target} with {len(answer.body)} bytes instead of {exchange.length}")
    if answer.body != site.body(exchange.target, exchange.offset, exchange.length):
        raise BenchmarkError(f"answers {exchange.target} with other bytes than the file has")


def warm_up(server: Server, plan: Plan, seconds: int) -> None:
    """A round before those that count. Raises BenchmarkError."""
    generator.run(server.port, plan.requests, plan.connections, seconds)


def measure(server: Server, plan: Plan, cycle: int, seconds: int) -> Round:
    """One round. What makes it invalid is in `problems`."""
    if (status := server.process.poll()) is not None:
        return Round(cycle, problems=(f"the server ended with status {status}: {last_words(server)[-300:]}",))
    if server.log:
        os.truncate(server.log, 0)
    cpu_before_s, busy_before_s = cpu_seconds(server.pid), busy_seconds(SERVER_CPU)
    try:
        report = generator.run(
            server.port, plan.requests, plan.connections, seconds, plan.pause_ms,
            plan.first(cycle), (cycle + 1) * SERIAL_STEP,
        )  # fmt: skip
    except BenchmarkError as error:
        return Round(cycle, problems=(str(error),))
    cpu_s = cpu_seconds(server.pid) - cpu_before_s
    foreign_s = max(0.0, busy_seconds(SERVER_CPU) - busy_before_s - cpu_s)
    if report.requests == 0:
        return Round(cycle, problems=("nothing was answered", *report.errors))
    problems = [*report.errors, *_refused(plan, report), *_missing_bytes(plan, report, cycle)]
    problems += missing_lines(server, report.requests)
    return Round(
        cycle=cycle,
        requests=report.requests,
        seconds=report.seconds,
        cpu_s=round(cpu_s, 6),
        foreign_s=round(foreign_s, 2),
        generator_cpu_s=report.cpu_s,
        bytes_read=report.bytes_read,
        # Of requests sent at once wrk takes one time for all, and corrects it as if each had its own: no latency.
        p50_us=0 if plan.batched else report.p50_us,
        p99_us=0 if plan.batched else report.p99_us,
        max_us=0 if plan.batched else report.max_us,
        problems=tuple(problems),
        notes=(
            *(f"thread {name} is not pinned" for name in sorted(set(stray_threads(server.pid)))),
            *([DISTURBED] if foreign_s > FOREIGN_MAX * report.seconds else []),
        ),
    )


def frozen_but_for(server: Server, never_sleeps: bool, round_of: Callable[[], Round]) -> Round:
    """A round of a server that is stopped at other times, if it is one of those that never sleep."""
    if not never_sleeps:
        return round_of()
    thaw(server)
    try:
        return round_of()
    finally:
        freeze(server)


def _refused(plan: Plan, report: generator.Report) -> list[str]:
    expected = report.requests if plan.refused else 0
    if report.refused == expected:
        return []
    return [f"{report.refused} of {report.requests} answers had a status of 400 or more instead of {expected}"]


def _missing_bytes(plan: Plan, report: generator.Report, cycle: int) -> list[str]:
    """For wrk only statuses from 400 on are errors. A 200 for a 304, or a body that is missing, shows in the bytes."""
    expected = plan.expected_bytes(plan.first(cycle), report.requests)
    # Answers overtake each other on different connections, and of the last ones wrk read a part and counted none.
    low = expected * (1 - TOLERANCE) - plan.most_in_flight_bytes
    high = expected * (1 + TOLERANCE) + plan.most_in_flight_bytes
    if low <= report.bytes_read <= high:
        return []
    return [f"{report.requests} answers had {report.bytes_read} bytes instead of about {expected}"]


def missing_lines(server: Server, answers: int) -> list[str]:
    """An answer without a line in the log would be a cheap one."""
    if server.log is None:
        return []
    deadline = time.monotonic() + LOG_DELAY_S
    wanted = answers - LINES_KEPT_MAX
    while (lines := _lines(server.log)) < wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return [f"{answers} answers, but {lines} lines in the log"] if lines < wanted else []


def _lines(log: Path) -> int:
    with log.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
