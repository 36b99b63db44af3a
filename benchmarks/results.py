"""What a run leaves behind, as JSON: every round, its summary, and under which circumstances it was measured."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from figures import Outcome, Round, Table, bound_by_generator, measures, plain
from peers import BASE, OURS, Peer, output_of
from processes import tool
from workloads import Goal, Measure

_LINE_END = re.compile(r"\n\s*")


@dataclass(frozen=True)
class Document:
    """A whole run. `circumstances` is what a reader needs in order to repeat it; no path of a machine is in it."""

    circumstances: Mapping[str, object]
    tables: Sequence[Table]


def circumstances(command: str, peers: Sequence[Peer], missing: Mapping[str, str], site: Path) -> dict[str, object]:
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    wrk = re.search(r"^wrk (\S+)", output_of([tool("wrk"), "-v"]))
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    revision = output_of([*git, "rev-parse", "--verify", "--quiet", "HEAD"]).strip()
    versions = {peer.name: peer.version() for peer in peers}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "git_revision": revision if re.fullmatch(r"[0-9a-f]{40,64}", revision) else None,
        "git_has_changes": bool(output_of([*git, "status", "--porcelain", "--untracked-files=no"]).strip()),
        "kernel": platform.release(),
        "cpu_model": model[1] if model else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "file_system": file_system(site),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), "wrk": wrk[1] if wrk else None, **versions},
        "missing": dict(missing),
    }


def file_system(path: Path) -> str:
    """The type of the file system of a path, as the longest mount point above it has it."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, this, *_ = line.split()
        if len(mount) > len(best) and path.resolve().is_relative_to(mount):
            best, kind = mount, this
    return kind


def as_json(document: Document) -> str:
    """Indented, but with each column of figures on one line, so that a difference of two results can be read."""
    workloads = {table.name: _table(table) for table in document.tables}
    text = json.dumps({**document.circumstances, "workloads": workloads}, indent=1, ensure_ascii=False)
    return re.sub(r"\[\s+((?:[^][{}]|\[\])*?)\s+\]", lambda found: f"[{re.sub(_LINE_END, ' ', found[1])}]", text) + "\n"


def _table(table: Table) -> dict[str, object]:
    base = table.outcomes.get(BASE)
    ours = table.outcomes.get(OURS)
    reached = measures(ours, base) if ours else {}
    return {
        "about": table.about,
        "logged": table.logged,
        "goals": [
            _goal(goal, reached[goal.measure].median if goal.measure in reached else None) for goal in table.goals
        ],
        "left_out": table.left_out,
        "failed": table.failed,
        "servers": {name: _outcome(outcome, base) for name, outcome in table.outcomes.items()},
    }


def _goal(goal: Goal, median: float | None) -> dict[str, object]:
    met = None if median is None else goal.met(median)
    return {"measure": goal.measure.name, "bound": goal.bound, "at_least": goal.at_least, "median": median, "met": met}


def _outcome(outcome: Outcome, base: Outcome | None) -> dict[str, object]:
    summary: dict[str, object] = {}
    if outcome.valid:
        # Each as lower quartile, median, upper quartile.
        summary = {name: _rounded(figures) for name, figures in plain(outcome.valid).items()}
        found = measures(outcome, base)
        summary |= {measure.name.lower(): _rounded(figures) for measure, figures in found.items()}
        summary["bound_by_generator"] = bound_by_generator(outcome.valid)
    return {
        "command": outcome.command,
        "idle_kib": outcome.idle_kib,
        "summary": summary,
        "rounds": _columns(outcome.rounds),
        "alone": _columns(outcome.alone),
    }


def _rounded(figures: Iterable[float]) -> list[float]:
    return [float(f"{figure:.5g}") for figure in figures]


def _columns(rounds: Sequence[Round]) -> dict[str, list[object]]:
    """Columns rather than objects: the names once, and a third of the size."""
    rows = [asdict(one) for one in rounds]
    return {field.name: [row[field.name] for row in rows] for field in fields(Round)} if rows else {}


def from_json(text: str) -> Document:
    """What as_json wrote; summaries are computed anew."""
    loaded = json.loads(text)
    tables = []
    for name, one in loaded.pop("workloads").items():
        goals = tuple(Goal(Measure[goal["measure"]], goal["bound"], goal["at_least"]) for goal in one["goals"])
        table = Table(name, one["about"], one["logged"], goals, left_out=one["left_out"], failed=one["failed"])
        for server, outcome in one["servers"].items():
            table.outcomes[server] = Outcome(
                outcome["command"], _rounds(outcome["rounds"]), _rounds(outcome["alone"]), outcome["idle_kib"]
            )
        tables.append(table)
    return Document(loaded, tables)


def _rounds(columns: Mapping[str, list[Any]]) -> list[Round]:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [Round(**row | {"problems": tuple(row["problems"]), "notes": tuple(row["notes"])}) for row in rows]
