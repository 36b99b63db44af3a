"""The plots: a row for each workload, a mark for each server. As SVG, which browsers show.

matplotlib, because it is there to stay and draws what is wanted: a logarithmic axis on which twice as fast is as far
from 1 as half as fast, and quartiles as bars. Its SVG is the same for the same figures.
"""

# mypy: disable-error-code="import-not-found"
# The linters do not need it installed.

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
from figures import Outcome, Spread, Table, measures, plain
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from peers import BASE, OURS, PEERS
from results import Document
from workloads import WORKLOADS, Kind, Measure

_COLORS = {
    OURS: "#c2185b", "ringserve-busy-poll": "#f06292", BASE: "#2e7d32", "nginx-cache": "#81c784", "lighttpd": "#1565c0",
    "h2o": "#00acc1", "caddy": "#6a1b9a", "floor": "#000000", "http.server": "#78909c",
}  # fmt: skip
_MARKERS = {OURS: "D", BASE: "|", "floor": "x"}
_INCHES_PER_ROW = 0.34


class Row(NamedTuple):
    """A workload: what each server reached, and the bound of its goal, if it has one."""

    name: str
    spreads: Mapping[str, Spread]
    goal: float | None


def draw(document: Document) -> dict[str, str]:
    """The SVG of each plot, by its name."""
    with mpl.rc_context():
        # Ids in the SVG are hashes; with a salt of our own they are the same each time.
        mpl.rcParams["svg.hashsalt"] = "ringserve"
        # Text as text: smaller, and to be searched.
        mpl.rcParams["svg.fonttype"] = "none"
        mpl.rcParams["font.size"] = 9.0
        full = [table for table in document.tables if WORKLOADS[table.name].kind is Kind.FULL]
        throughput = [_row(table, _ratio_of(table, Measure.RATIO), Measure.RATIO) for table in full]
        cpu = [_row(table, _ratio_of(table, Measure.CPU_RATIO), Measure.CPU_RATIO) for table in full]
        p99 = [_row(table, _p99_ms, None) for table in document.tables]
        pictures = {"p99": _svg(p99, "p99 latency, ms (less is better)", None)}
        if full:
            pictures["throughput"] = _svg(throughput, "Requests per second against nginx (more is better)", 1.0)
            pictures["cpu"] = _svg(cpu, "CPU time per request against nginx (less is better)", 1.0)
        return pictures


def _ratio_of(table: Table, measure: Measure) -> Callable[[Outcome], Spread | None]:
    return lambda outcome: measures(outcome, table.outcomes.get(BASE)).get(measure)


def _p99_ms(outcome: Outcome) -> Spread | None:
    if not outcome.valid:
        return None
    return Spread(*(figure / 1000 for figure in plain(outcome.valid)["p99_us"]))


def _row(table: Table, of: Callable[[Outcome], Spread | None], goal_of: Measure | None) -> Row:
    found = {name: of(outcome) for name, outcome in table.outcomes.items()}
    goal = next((goal.bound for goal in table.goals if goal.measure is goal_of), None)
    return Row(table.name, {name: figures for name, figures in found.items() if figures and figures.lower > 0}, goal)


def _svg(rows: Sequence[Row], title: str, line: float | None) -> str:
    figure = Figure(figsize=(8.5, 1.4 + _INCHES_PER_ROW * max(1, len(rows))), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xscale("log")
    axes.grid(axis="x", which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    if line is not None:
        axes.axvline(line, color=_COLORS[BASE], linewidth=1)
    for name in PEERS:
        _series(axes, rows, name)
    if goals := [(row.goal, place) for place, row in enumerate(rows) if row.goal is not None]:
        places = [place for _, place in goals]
        axes.vlines(
            [goal for goal, _ in goals], [place - 0.3 for place in places], [place + 0.3 for place in places],
            color=_COLORS[OURS], linewidth=2, alpha=0.35, label=f"goal of {OURS}",
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower left", ncols=6, frameon=False, fontsize=8)
    output = io.StringIO()
    # No date, so that nothing differs but the figures.
    figure.savefig(output, format="svg", metadata={"Date": None})
    # A white ground of its own is in it, so it can be read on a dark page too. matplotlib leaves blanks at line ends.
    return "\n".join(text.rstrip() for text in output.getvalue().splitlines()) + "\n"


def _series(axes: Axes, rows: Sequence[Row], name: str) -> None:
    """The marks of a server. Ours has its quartiles; a dozen servers with them could not be told apart."""
    points = [(row.spreads[name], place) for place, row in enumerate(rows) if name in row.spreads]
    if not points:
        return
    ours = name == OURS
    places = [place for _, place in points]
    medians = [figures.median for figures, _ in points]
    axes.plot(
        medians, places, linestyle="none", marker=_MARKERS.get(name, "o"), color=_COLORS[name], label=name,
        markersize=7 if ours else 5, zorder=3 if ours else 2, alpha=1.0 if ours else 0.8,
    )  # fmt: skip
    if ours:
        axes.hlines(
            places, [figures.lower for figures, _ in points], [figures.upper for figures, _ in points],
            color=_COLORS[name], linewidth=1.5,
        )  # fmt: skip
