"""The workloads in which something happens beside wrk: idle crowds, readers that read nothing, files from the disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from clients import CrowdReport, crowd
from corpus import Site, single
from figures import Outcome, Round
from measure import Plan, measure
from processes import BenchmarkError, Server, resident_kib
from workloads import (
    COLD_CLIENTS,
    COLD_INTERVAL_S,
    IDLE_CONNECTIONS,
    STALLED_READERS,
    Kind,
    Workload,
    get,
)

SETTLE_S = 0.2
"""For the server to notice that a crowd has come or gone, before a round begins that should not be about that."""
COLD_SHARE_MIN = 0.9
"""Of the files fetched, those that really had to come from the disk. On a tmpfs none has."""


@contextmanager
def idle_crowd(server: Server, outcome: Outcome) -> Iterator[CrowdReport]:
    """The idle connections of `many`, there for all of its rounds. Writes what they cost in memory to the outcome."""
    request = get(single("1k.bin")).decode()
    # What the first request brings in is not the connections'.
    with crowd(server.name, kind="idle", port=server.port, count=1, request=request):
        time.sleep(SETTLE_S)
        before_kib = resident_kib(server.pid)
    with crowd(server.name, kind="idle", port=server.port, count=IDLE_CONNECTIONS, request=request) as report:
        time.sleep(SETTLE_S)
        outcome.idle_kib = round((resident_kib(server.pid) - before_kib) / IDLE_CONNECTIONS, 3)
        yield report


def measure_beside(
    server: Server, workload: Workload, plan: Plan, site: Site, cycle: int, seconds: int
) -> tuple[Round, Round]:
    """A round alone, and one with the others beside it."""
    alone = measure(server, plan, cycle, seconds)
    time.sleep(SETTLE_S)
    try:
        with others(server, workload, site) as report:
            time.sleep(SETTLE_S)
            beside = measure(server, plan, cycle, seconds)
    except BenchmarkError as error:
        return alone, Round(cycle, problems=(str(error),))
    time.sleep(SETTLE_S)
    return alone, replace(beside, problems=(*beside.problems, *problems_of(report)))


@contextmanager
def others(server: Server, workload: Workload, site: Site) -> Iterator[CrowdReport]:
    """Those who read nothing, or want what is on the disk."""
    if workload.kind is Kind.STALLED:
        request = get(workload.besides[0]).decode()
        with crowd(server.name, kind="stalled", port=server.port, count=STALLED_READERS, request=request) as report:
            yield report
        return
    assert workload.kind is Kind.COLD, workload
    files = {get(target).decode(): str(site.path(target)) for target in workload.besides}
    with crowd(
        server.name, kind="fetch", port=server.port, files=files, clients=COLD_CLIENTS, interval_s=COLD_INTERVAL_S
    ) as report:
        yield report


def problems_of(report: CrowdReport) -> list[str]:
    """Why what a crowd was there for did not come about."""
    problems = list(report.errors)
    if report.closed_by_server:
        problems.append(f"{report.closed_by_server} connections of the others were closed by the server")
    if report.cold < COLD_SHARE_MIN * report.files:
        problems.append(f"only {report.cold} of {report.files} files were not in the page cache")
    return problems
