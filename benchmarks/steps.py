"""The cost of each step of a request that never repeats: CPU time, and as a part of the time of nginx's request.

    .venv/bin/python benchmarks/steps.py
    .venv/bin/python benchmarks/steps.py --checkout ../before --workloads unique,query --seconds 20

ringserve runs in `sampled.py`, which looks some hundred times in a second of CPU time where the loop is. Rounds of
ringserve and of nginx take turns. Microseconds follow the machine; to compare two runs, take the ratios to nginx.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import click
import sampled
from compare import choose_workloads, stage
from measure import Plan, measure, plan, warm_up
from peers import BASE, HERE, OURS, PEERS, Peer, Place, checkout
from processes import CLIENT_CPU, BenchmarkError, Server, check_machine
from run import Fleet
from workloads import Workload

ROUNDS = 5
WORKLOADS = "unique,query,missing,tail"
WARM_S = 2
BESIDE = "the kernel's threads and helpers"
COUNTS = "counts"


class Steps(NamedTuple):
    """One workload. us: by step, of a request; samples: how many there were; base_us: of nginx's request."""

    name: str
    us: dict[str, float]
    samples: int
    base_us: float


def sampled_peer(directory: Path) -> Peer:
    """A peer: ringserve of a checkout, sampled. Raises BenchmarkError if it is not built."""
    peer = checkout(OURS, directory)
    if peer.version() is None:
        raise BenchmarkError(f"ringserve does not run; it needs {peer.needs}")

    def command(place: Place) -> list[str]:
        python, _m, _ringserve, *arguments = peer.command(place)
        return [python, str(HERE / "sampled.py"), str(place.own / COUNTS), *arguments]

    return replace(peer, command=command)


def by_step(counts: Sequence[int], loop_s: float, cpu_s: float, requests: int) -> dict[str, float]:
    """Microseconds of a request by step. The loop's time is shared out by the samples; what the processes had beyond
    it is that of other threads.
    """
    samples = sum(counts)
    us = {step: loop_s * 1e6 / requests * count / samples for step, count in zip(sampled.STEPS, counts, strict=True)}
    return us | {BESIDE: max(0.0, cpu_s - loop_s) * 1e6 / requests}


def _prepared(fleet: Fleet, workload: Workload, peer: Peer) -> tuple[Server, Plan]:
    server = fleet.start_for(workload, peer)
    directory = server.errors.parent / f"{workload.name}-requests"
    directory.mkdir()
    planned = plan(server, workload, fleet.site, directory)
    warm_up(server, planned, max(WARM_S, workload.warm_s))
    return server, planned


def steps_of(fleet: Fleet, workload: Workload, ours: Peer, seconds: int) -> Steps:
    """Measure one workload. Raises BenchmarkError if a round was not valid."""
    pairs = [_prepared(fleet, workload, peer) for peer in (ours, PEERS[BASE])]
    counted = pairs[0][0].errors.parent / COUNTS
    totals = [[0.0, 0.0], [0.0, 0.0]]
    before = sampled.read(counted)
    for cycle in range(ROUNDS):
        for (server, planned), total in zip(pairs, totals, strict=True):
            one = measure(server, planned, cycle, max(1, seconds // ROUNDS))
            if one.problems:
                raise BenchmarkError(f"{workload.name}, {server.name}: {'; '.join(one.problems)}")
            total[0] += one.cpu_s
            total[1] += one.requests
    *counts, loop_ns = (now - then for now, then in zip(sampled.read(counted), before, strict=True))
    (cpu_s, requests), (base_s, base_requests) = totals
    us = by_step(counts, min(cpu_s, loop_ns / 1e9), cpu_s, int(requests))
    return Steps(workload.name, us, sum(counts), base_s * 1e6 / base_requests)


def markdown(found: Sequence[Steps]) -> str:
    """A row for each step, a column for each workload: microseconds, and the part of nginx's request."""

    def cell(us: float, one: Steps) -> str:
        return f"{us:.1f} ({us / one.base_us:.2f})"

    lines = [
        f"| step | {' | '.join(one.name for one in found)} |",
        "|---|" + "---|" * len(found),
        *(f"| {step} | {' | '.join(cell(one.us[step], one) for one in found)} |" for step in (*sampled.STEPS, BESIDE)),
        f"| **ringserve's request** | {' | '.join(cell(sum(one.us.values()), one) for one in found)} |",
        f"| nginx's request | {' | '.join(cell(one.base_us, one) for one in found)} |",
    ]
    fewest = min(one.samples for one in found)
    lines += [
        "",
        "CPU microseconds a request, and in brackets the part of nginx's in the same rounds. At least "
        f"{fewest:,} samples a workload: a step of a half is known to {100 / sqrt(fewest):.0f} % of the whole.",
    ]
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--workloads", default=WORKLOADS, show_default=True, callback=choose_workloads, help="Names with commas.")
@click.option("--seconds", default=10, show_default=True, type=click.IntRange(ROUNDS), help="Of each workload.")
@click.option(
    "--checkout", "source", default=HERE.parent,
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="Of ringserve; default: this one.",
)  # fmt: skip
@click.option(
    "--directory", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where the site is made."
)
def main(workloads: list[Workload], seconds: int, source: Path, directory: Path | None) -> None:
    """Print a table of what each step of a request costs."""
    try:
        check_machine(["wrk", "taskset"])
        os.sched_setaffinity(0, {CLIENT_CPU})
        ours = sampled_peer(source)
        found = []
        with stage(workloads, directory) as (fleet, display):
            for workload in workloads:
                display.say(workload.name)
                found.append(steps_of(fleet, workload, ours, seconds))
    except BenchmarkError as error:
        click.echo(f"steps.py: {error}", err=True)
        sys.exit(2)
    click.echo(markdown(found))


if __name__ == "__main__":
    main()
