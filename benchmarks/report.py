"""What is kept of the rounds: their summary, the table, and under which circumstances they were measured."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from processes import tool

from ringserve.version import __version__

BASE = "nginx"
"""The server that the others are divided by."""
SERVERS = (BASE, "ringserve")


@dataclass(frozen=True)
class Round:
    """One server under one workload for some seconds."""

    cycle: int
    requests: int
    requests_per_s: float
    cpu_us_per_request: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    problems: tuple[str, ...]
    notes: tuple[str, ...]


class Spread(NamedTuple):
    """The quartiles of some figures."""

    lower: float
    median: float
    upper: float


def spread(figures: Sequence[float]) -> Spread:
    if len(figures) == 1:
        return Spread(figures[0], figures[0], figures[0])
    return Spread(*statistics.quantiles(figures, n=4, method="inclusive"))


def ratios(rounds: Sequence[Round], base: Sequence[Round]) -> list[float]:
    """Requests per second against the base, cycle by cycle: what slows the machine down for a while divides out."""
    return [one.requests_per_s / other.requests_per_s for one, other in zip(rounds, base, strict=True)]


def summary(rounds: Sequence[Round], base: Sequence[Round]) -> dict[str, object]:
    cpu_us = [one.cpu_us_per_request for one in rounds]
    return {
        "ratio_to_nginx": spread(ratios(rounds, base))._asdict(),
        "requests_per_s": spread([one.requests_per_s for one in rounds])._asdict(),
        "cpu_us_per_request": spread(cpu_us)._asdict(),
        "cpu_us_per_request_best": min(cpu_us),
        "p50_ms": spread([one.p50_ms for one in rounds])._asdict(),
        "p99_ms": spread([one.p99_ms for one in rounds])._asdict(),
        "max_ms": max(one.max_ms for one in rounds),
    }


def table(results: Mapping[str, Mapping[str, Sequence[Round]]]) -> str:
    """The summary in Markdown; the figures of the servers are medians of the rounds."""
    columns = ["workload", "requests/s against nginx [quartiles]"]
    columns += [f"CPU us/request, {name}" for name in SERVERS] + [f"p99 ms, {name}" for name in SERVERS]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for workload, rounds in results.items():
        ratio = spread(ratios(rounds["ringserve"], rounds[BASE]))
        cells = [workload, f"**{ratio.median:.2f}** [{ratio.lower:.2f}, {ratio.upper:.2f}]"]
        cells += [f"{spread([one.cpu_us_per_request for one in rounds[name]]).median:.1f}" for name in SERVERS]
        cells += [f"{spread([one.p99_ms for one in rounds[name]]).median:.2f}" for name in SERVERS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def output_of(command: Sequence[str]) -> str:
    """What a program says on both streams; empty if there is no such program."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


def circumstances(command_line: str) -> dict[str, object]:
    """What a reader needs in order to repeat the run. No path of this machine is in it."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    nginx = re.search(r"nginx/(\S+)", output_of([tool("nginx"), "-v"]))
    wrk_version = re.search(r"^wrk (\S+)", output_of([tool("wrk"), "-v"]))
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    revision = output_of([*git, "rev-parse", "--verify", "--quiet", "HEAD"]).strip()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line,
        "git_revision": revision if re.fullmatch(r"[0-9a-f]{40,64}", revision) else None,
        "git_has_changes": bool(output_of([*git, "status", "--porcelain", "--untracked-files=no"]).strip()),
        "kernel": platform.release(),
        "cpu_model": model[1] if model else platform.machine(),
        "cpus": os.cpu_count(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "versions": {
            "ringserve": __version__,
            "python": platform.python_version(),
            "nginx": nginx[1] if nginx else None,
            "wrk": wrk_version[1] if wrk_version else None,
        },
    }
