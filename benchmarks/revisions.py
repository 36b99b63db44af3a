"""Two revisions of ringserve against each other, each twice: a difference counts only if it is larger than the noise.

Two servers of one revision differ by nothing but chance: where their memory lies, what the machine did meanwhile. How
far apart they come out is what a difference of revisions has to be measured by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path

from figures import Outcome, Round, Table, median_interval, plain, ratios, same_cycle, spread
from peers import Peer, checkout
from processes import BenchmarkError

SAME = 0.03
"""Part by which revisions may differ and still count as the same."""
SERVERS = ("A1", "B1", "A2", "B2")
CYCLES_MIN = 6
"""From so many cycles on, an interval of 95 % confidence exists at all."""


def peers(directories: tuple[Path, Path]) -> list[Peer]:
    """Two servers of each checkout. Raises BenchmarkError if one is not built."""
    found = [checkout(name, directories[name[0] == "B"]) for name in SERVERS]
    for peer in found[:2]:
        if peer.version() is None:
            raise BenchmarkError(f"ringserve of revision {peer.name[0]} does not run; it needs {peer.needs}")
    return found


def _rate(one: Round) -> float:
    return one.requests_per_s


def _cpu(one: Round) -> float:
    return one.cpu_us_per_request


def between(table: Table, of: Callable[[Round], float]) -> list[float]:
    """B against A in each cycle in which all four rounds are valid: the geometric mean of both pairs."""
    first = dict(_ratios_by_cycle(table.outcomes["B1"], table.outcomes["A1"], of))
    second = dict(_ratios_by_cycle(table.outcomes["B2"], table.outcomes["A2"], of))
    return [sqrt(first[cycle] * second[cycle]) for cycle in first if cycle in second]


def _ratios_by_cycle(outcome: Outcome, base: Outcome, of: Callable[[Round], float]) -> list[tuple[int, float]]:
    return [(one.cycle, of(one) / of(other)) for one, other in same_cycle(outcome.rounds, base.rounds)]


def verdict(figures: Sequence[float]) -> str:
    """Whether the revisions cost the same, as far as the rounds can tell."""
    low, high = median_interval(figures)
    bounds = f"{low - 1:+.1%} to {high - 1:+.1%}"
    if len(figures) < CYCLES_MIN:
        return f"too few cycles ({bounds})"
    if low >= 1 - SAME and high <= 1 + SAME:
        return f"the same within {SAME:.0%} ({bounds})"
    if low > 1:
        return f"**B costs more** ({bounds})"
    if high < 1:
        return f"**B costs less** ({bounds})"
    return f"not to be told ({bounds}): more cycles"


def markdown(tables: Sequence[Table]) -> str:
    lines = [
        "CPU time per request; the interval has the median of B/A with 95 % confidence. A2/A1 and B2/B1 are the noise.",
        "",
        "| workload | B/A [quartiles] | verdict | A2/A1 | B2/B1 | requests/s, B/A | CPU us, A and B |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(table) for table in tables]
    return "\n".join(lines)


def _row(table: Table) -> str:
    if any(name not in table.outcomes for name in SERVERS) or not (figures := between(table, _cpu)):
        return f"| {table.name} | failed |" + " |" * 5
    ratio, rate = spread(figures), spread(between(table, _rate))
    noise = [
        f"{spread(found).median - 1:+.1%}" if (found := ratios(two.rounds, one.rounds, _cpu)) else "failed"
        for one, two in ((table.outcomes[f"{name}1"], table.outcomes[f"{name}2"]) for name in "AB")
    ]
    cpu_us = [
        plain([*table.outcomes[f"{name}1"].valid, *table.outcomes[f"{name}2"].valid])["cpu_us_per_request"].median
        for name in "AB"
    ]
    cells = [
        table.name,
        f"{ratio.median:.3f} [{ratio.lower:.3f}, {ratio.upper:.3f}]",
        verdict(figures),
        *noise,
        f"{rate.median:.3f} [{rate.lower:.3f}, {rate.upper:.3f}]",
        f"{cpu_us[0]:.2f}, {cpu_us[1]:.2f}",
    ]
    return f"| {' | '.join(cells)} |"
