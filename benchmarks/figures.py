"""Rounds as they were counted, and what is computed of them: medians with quartiles, and ratios of the same cycle."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from workloads import Goal, Measure

GENERATOR_FULL = 0.95
"""Part of its CPU from which on wrk may be what limits a round. It never reads 1: a round begins and ends."""
SERVER_FULL = 0.9
"""Part of its CPU below which a server was not what limited a round."""


@dataclass(frozen=True)
class Round:
    """One server under one workload for some seconds. Invalid if there is a problem; notes are only to be known."""

    cycle: int
    requests: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    foreign_s: float = 0.0
    """Of the server's CPU, taken by anything but the server."""
    generator_cpu_s: float = 0.0
    bytes_read: int = 0
    p50_us: int = 0
    """Like the others 0 where the generator has none, see `Plan.batched`."""
    p99_us: int = 0
    max_us: int = 0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_us_per_request(self) -> float:
        return self.cpu_s * 1e6 / self.requests


@dataclass
class Outcome:
    """All rounds of one server under one workload. `alone`: those without the others, where there are others beside."""

    command: str
    rounds: list[Round] = field(default_factory=list)
    alone: list[Round] = field(default_factory=list)
    idle_kib: float | None = None
    """Resident KiB per idle connection."""

    @property
    def valid(self) -> list[Round]:
        return [one for one in self.rounds if not one.problems]

    @property
    def problems(self) -> list[str]:
        return [f"cycle {one.cycle + 1}: {problem}" for one in self.rounds + self.alone for problem in one.problems]

    @property
    def notes(self) -> list[str]:
        counts = Counter(note for one in self.rounds + self.alone for note in one.notes)
        return [f"{note} (in {count} rounds)" for note, count in sorted(counts.items())]


@dataclass
class Table:
    """One workload and all servers. `left_out`: who did not take part, and why; `failed`: who should have."""

    name: str
    about: str
    logged: bool
    goals: tuple[Goal, ...]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class Spread(NamedTuple):
    """The quartiles of some figures."""

    lower: float
    median: float
    upper: float


def spread(figures: Sequence[float]) -> Spread:
    if len(figures) == 1:
        return Spread(figures[0], figures[0], figures[0])
    return Spread(*statistics.quantiles(figures, n=4, method="inclusive"))


def median_interval(figures: Sequence[float]) -> tuple[float, float]:
    """Bounds between which the true median lies, with 95 % confidence if the figures are enough (6) for that.

    Of the ordered figures the k-th from either end, with the largest k for which the binomial distribution allows it:
    nothing is assumed of how the figures are distributed.
    """
    ordered = sorted(figures)
    count = len(ordered)
    outside, rank = 0.0, 0
    while rank < count // 2:
        outside += 2 * math.comb(count, rank) / 2**count
        if outside > 0.05:
            break
        rank += 1
    rank = max(rank, 1)
    return ordered[rank - 1], ordered[count - rank]


def same_cycle(rounds: Iterable[Round], base: Iterable[Round]) -> list[tuple[Round, Round]]:
    """Pairs of valid rounds a few seconds apart: what slows the machine down for a while divides out of their ratio."""
    others = {one.cycle: one for one in base if not one.problems}
    return [(one, others[one.cycle]) for one in rounds if not one.problems and one.cycle in others]


def ratios(rounds: Iterable[Round], base: Iterable[Round], of: Callable[[Round], float]) -> list[float]:
    return [of(one) / of(other) for one, other in same_cycle(rounds, base) if of(other) > 0]


def measures(outcome: Outcome, base: Outcome | None) -> Mapping[Measure, Spread]:
    """What goals are about, as far as the rounds have it."""
    found: dict[Measure, list[float]] = {}
    if base is not None:
        rates = ratios(outcome.rounds, base.rounds, lambda one: one.requests_per_s)
        found[Measure.RATIO] = rates
        found[Measure.P50_RATIO] = ratios(outcome.rounds, base.rounds, lambda one: one.p50_us)
        found[Measure.CPU_RATIO] = ratios(outcome.rounds, base.rounds, lambda one: one.cpu_us_per_request)
        found[Measure.P99_RATIO] = ratios(outcome.rounds, base.rounds, lambda one: one.p99_us)
    found[Measure.BESIDE] = ratios(outcome.rounds, outcome.alone, lambda one: one.p99_us)
    found[Measure.IDLE_KIB] = [] if outcome.idle_kib is None else [outcome.idle_kib]
    return {measure: spread(figures) for measure, figures in found.items() if figures}


PLAIN: Mapping[str, Callable[[Round], float]] = {
    "requests_per_s": lambda one: one.requests_per_s,
    "mib_per_s": lambda one: one.bytes_read / one.seconds / (1 << 20),
    "cpu_us_per_request": lambda one: one.cpu_us_per_request,
    # On loopback each of the two does a part of the other's work: what acknowledges data also sends more of it.
    "both_cpus_us_per_request": lambda one: (one.cpu_s + one.generator_cpu_s) * 1e6 / one.requests,
    "p50_us": lambda one: one.p50_us,
    "p99_us": lambda one: one.p99_us,
    "max_us": lambda one: one.max_us,
    "server_cpu": lambda one: one.cpu_s / one.seconds,
    "generator_cpu": lambda one: one.generator_cpu_s / one.seconds,
}
"""What is read off a single round."""


def plain(rounds: Sequence[Round]) -> Mapping[str, Spread]:
    """The spread of each of the PLAIN figures; `rounds` are valid ones, at least one."""
    return {name: spread([of(one) for one in rounds]) for name, of in PLAIN.items()}


def bound_by_generator(rounds: Sequence[Round]) -> bool:
    """Whether wrk's CPU was full while the server's was not: then the server could do more than the figures say."""
    middle = plain(rounds)
    return middle["generator_cpu"].median >= GENERATOR_FULL and middle["server_cpu"].median < SERVER_FULL
