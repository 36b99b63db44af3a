"""Results as Markdown and plots.

    .venv/bin/python benchmarks/report.py benchmarks/results/latest.json

makes the tables and plots of a result again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click
from figures import Outcome, Spread, Table, bound_by_generator, measures, plain, spread
from measure import DISTURBED
from peers import BASE, OURS, PEERS
from results import Document, from_json
from workloads import WORKLOADS, Goal, Kind, Measure

GENERATOR_MARK = "†"
GENERATOR_NOTE = f"{GENERATOR_MARK} wrk's CPU was full and the server's was not: the server can do more than this says."


def kind(table: Table) -> Kind:
    return WORKLOADS[table.name].kind


def write_beside(path: Path, document: Document) -> None:
    """The tables and plots of a result, beside its JSON and with its name."""
    path.with_suffix(".md").write_text(markdown(document))
    try:
        import plots  # The only module that needs matplotlib
    except ModuleNotFoundError as error:
        click.echo(f"MISSING: no plots are drawn: {error}; pip install 'ringserve[bench]'", err=True)
        return
    for name, svg in plots.draw(document).items():
        path.with_name(f"{path.stem}-{name}.svg").write_text(svg)


# -- Cells -------------------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _ratio(figures: Spread | None) -> str:
    return "" if figures is None else f"{figures.median:.2f} [{figures.lower:.2f}, {figures.upper:.2f}]"


def _median(outcome: Outcome | None, name: str, scale: float = 1.0, digits: int = 2) -> str:
    """The median of a plain figure; the largest of all rounds for the maximum."""
    if outcome is None or not outcome.valid:
        return ""
    middle = max(one.max_us for one in outcome.valid) if name == "max_us" else plain(outcome.valid)[name].median
    return f"{middle * scale:,.{digits}f}" if middle else "–"


def _found(table: Table, server: str, measure: Measure) -> Spread | None:
    outcome = table.outcomes.get(server)
    return measures(outcome, table.outcomes.get(BASE)).get(measure) if outcome else None


def _mark(outcome: Outcome) -> str:
    return GENERATOR_MARK if outcome.valid and bound_by_generator(outcome.valid) else ""


def _goal(table: Table, goal: Goal) -> str:
    """The goal and whether it is met."""
    reached = _found(table, OURS, goal.measure)
    if reached is None:
        return f"{goal}"
    return f"{goal} {'✓' if goal.met(reached.median) else '✗'}"


def _alone(outcome: Outcome | None) -> str:
    valid = [one for one in outcome.alone if not one.problems] if outcome else []
    return f"{spread([one.p99_us for one in valid]).median / 1000:,.2f}" if valid else ""


# -- The summary -------------------------------------------------------------------------------------------------------


def summary(document: Document) -> str:
    """Our server against nginx, with its goals; then all servers; then what is not about throughput."""
    quiet = [table for table in document.tables if kind(table) is Kind.FULL and not table.logged]
    logged = [table for table in document.tables if kind(table) is Kind.FULL and table.logged]
    other = [table for table in document.tables if kind(table) is not Kind.FULL]
    parts: list[str] = []
    if full := quiet + logged:
        parts.append(_against_nginx(full))
    if other:
        parts.append(_besides(other))
    for title, tables in (("access log off", quiet), ("access log on", logged)):
        if tables:
            parts += [
                f"All servers, {title}: {measure.value} [quartiles].\n\n{_everybody(tables, measure)}"
                for measure in (Measure.CPU_RATIO, Measure.RATIO)
            ]
    marked = any(_mark(outcome) for table in document.tables for outcome in table.outcomes.values())
    return "\n\n".join([*parts, *([GENERATOR_NOTE] if marked else []), *_gaps(document)])


def _against_nginx(tables: Sequence[Table]) -> str:
    head = ["workload", "CPU time per request against nginx [quartiles]", "requests/s against nginx", "goal"]
    head += ["CPU us/request, nginx", "ringserve"]
    head += ["p50 ms, nginx", "ringserve", "p99 ms, nginx", "ringserve", "max ms, nginx", "ringserve"]
    rows = []
    for table in tables:
        base, ours = (table.outcomes.get(name) for name in (BASE, OURS))
        cpu, rate = (_ratio(_found(table, OURS, measure)) or "failed" for measure in (Measure.CPU_RATIO, Measure.RATIO))
        row = [table.name, f"**{cpu}**", f"{rate}{_mark(ours) if ours else ''}"]
        row.append(", ".join(_goal_of_full(table, goal) for goal in table.goals))
        row += [_median(outcome, "cpu_us_per_request", digits=1) for outcome in (base, ours)]
        for name in ("p50_us", "p99_us", "max_us"):
            row += [_median(outcome, name, 1e-3) for outcome in (base, ours)]
        rows.append(row)
    return _table(head, rows)


def _goal_of_full(table: Table, goal: Goal) -> str:
    named = {Measure.RATIO: "requests/s", Measure.CPU_RATIO: "CPU"}.get(goal.measure, goal.measure.value)
    return f"{named} {_goal(table, goal)}"


def _besides(tables: Sequence[Table]) -> str:
    """What is not about throughput: a row for each goal, and beside it what the others reach."""
    rows = []
    names = [name for name in PEERS if any(name in table.outcomes for table in tables)]
    for table in tables:
        for goal in table.goals:
            reached = [_found(table, name, goal.measure) for name in names]
            cells = [_ratio(figures) for figures in reached]
            rows.append([table.name, goal.measure.value, _goal(table, goal), *cells])
    return _table(["workload", "what", "goal", *names], rows)


def _everybody(tables: Sequence[Table], measure: Measure) -> str:
    names = [name for name in PEERS if any(name in table.outcomes for table in tables)]
    rows = []
    for name in names:
        if name == BASE:
            continue
        row = [name]
        for table in tables:
            found, outcome = _found(table, name, measure), table.outcomes.get(name)
            mark = _mark(outcome) if outcome and measure is Measure.RATIO else ""
            row.append(f"{_ratio(found)}{mark}" if found else "–")
        rows.append(row)
    return _table(["server", *(table.name for table in tables)], rows)


def _gaps(document: Document) -> list[str]:
    """Who is missing, and who failed: said where the figures are."""
    missing = document.circumstances.get("missing")
    lines = [f"MISSING: {name} ({needs})" for name, needs in missing.items()] if isinstance(missing, dict) else []
    for table in document.tables:
        lines += [f"FAILED: {name} in {table.name}: {reason}" for name, reason in table.failed.items()]
        for name, outcome in table.outcomes.items():
            if invalid := len(outcome.rounds) - len(outcome.valid):
                lines.append(f"INVALID: {invalid} of {len(outcome.rounds)} rounds of {name} in {table.name}")
    rounds = [one for table in document.tables for outcome in table.outcomes.values() for one in outcome.rounds]
    if disturbed := sum(DISTURBED in one.notes for one in rounds):
        lines.append(f"NOT QUIET: in {disturbed} of {len(rounds)} rounds {DISTURBED}")
    return ["\n".join(f"- {line}" for line in lines)] if lines else []


# -- Everything --------------------------------------------------------------------------------------------------------


def markdown(document: Document) -> str:
    """All servers in all workloads."""
    parts = [
        "# Results",
        f"Made by `{document.circumstances.get('command')}`.",
        _machine(document),
        _versions(document),
    ]
    parts += [summary(document), *(_workload(table) for table in document.tables)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(document: Document) -> str:
    about = document.circumstances
    changes = " with changes" if about.get("git_has_changes") else ""
    return (
        f"{about.get('cpus')} CPUs ({about.get('cpu_model')}), Linux {about.get('kernel')}, "
        f"files on {about.get('file_system')}; {str(about.get('date'))[:10]}, "
        f"revision {str(about.get('git_revision'))[:12]}{changes}."
    )


def _versions(document: Document) -> str:
    versions = document.circumstances.get("versions")
    assert isinstance(versions, dict), "as circumstances() made it"
    return "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items() if version) + "."


def _workload(table: Table) -> str:
    """One workload: all servers, all figures."""
    base = table.outcomes.get(BASE)
    columns: list[tuple[str, Callable[[Outcome], str]]] = [
        ("CPU time against nginx [quartiles]", lambda one: _ratio(measures(one, base).get(Measure.CPU_RATIO))),
        ("requests/s against nginx", lambda one: _ratio(measures(one, base).get(Measure.RATIO)) + _mark(one)),
        ("requests/s", lambda one: _median(one, "requests_per_s", digits=0)),
        ("MiB/s", lambda one: _median(one, "mib_per_s", digits=1)),
        ("CPU us/request", lambda one: _median(one, "cpu_us_per_request", digits=2)),
        ("with wrk's", lambda one: _median(one, "both_cpus_us_per_request", digits=2)),
        ("server's CPU %", lambda one: _median(one, "server_cpu", 100, 0)),
        ("wrk's CPU %", lambda one: _median(one, "generator_cpu", 100, 0)),
        ("p50 ms", lambda one: _median(one, "p50_us", 1e-3, 3)),
        ("p99 ms", lambda one: _median(one, "p99_us", 1e-3, 3)),
        ("max ms", lambda one: _median(one, "max_us", 1e-3, 3)),
    ]
    if kind(table) is Kind.LATENCY:
        columns.insert(2, ("p50 against nginx", lambda one: _ratio(measures(one, base).get(Measure.P50_RATIO))))
    if kind(table) is Kind.MANY:
        columns.append(("KiB/idle connection", lambda one: "" if one.idle_kib is None else f"{one.idle_kib:.2f}"))
    if any(outcome.alone for outcome in table.outcomes.values()):
        columns.append(("p99 ms alone", _alone))
        columns.append(("beside/alone", lambda one: _ratio(measures(one, base).get(Measure.BESIDE))))
    rows = [[name, *(cell(outcome) for _, cell in columns)] for name, outcome in table.outcomes.items()]
    parts = [f"## {table.name}", f"{table.about[0].upper()}{table.about[1:]}."]
    parts.append(_table(["server", *(name for name, _ in columns)], rows))
    if table.left_out:
        parts.append("Left out: " + "; ".join(f"{name} ({reason})" for name, reason in table.left_out.items()) + ".")
    notes = [f"{name}: {note}" for name, outcome in table.outcomes.items() for note in outcome.notes]
    commands = [f"- {name}: `{outcome.command}`" for name, outcome in table.outcomes.items()]
    return "\n\n".join([*parts, *notes, "\n".join(commands)])


@click.command()
@click.argument("result", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(result: Path) -> None:
    """Make the tables and plots of a result again."""
    write_beside(result, from_json(result.read_text()))


if __name__ == "__main__":
    main()
