"""One round of wrk, and its report as values."""

from __future__ import annotations

import re
import subprocess
from typing import NamedTuple

from processes import CLIENT_CPU, BenchmarkError, tool

_LATENCY_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
_SIZE_BYTES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


class Report(NamedTuple):
    """What wrk says. `errors` has its lines on socket errors and statuses of 400 and above, as they are."""

    requests: int
    requests_per_s: float
    body_and_head_bytes: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: tuple[str, ...]


def run(url: str, connections: int, seconds: int) -> Report:
    """Load `url` for a while. Raises BenchmarkError if wrk fails or its report is not understood."""
    pinned = [tool("taskset"), "-c", str(CLIENT_CPU), tool("wrk")]
    command = [*pinned, "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--latency", url]
    try:
        # Wrk ends by itself; the limit is for one that does not.
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"wrk did not end 30 s after its {seconds} s") from error
    if done.returncode != 0:
        raise BenchmarkError(f"wrk ended with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return parse(done.stdout)


def parse(text: str) -> Report:
    """The report in wrk's output. Raises BenchmarkError if a figure is missing."""
    count = _find(r"(\d+) requests in \S+, ([\d.]+)([KMGT]?B) read", text)
    longest = _find(r"Latency +\S+ +\S+ +([\d.]+)(us|ms|s|m) ", text)
    p50, p99 = (_find(rf" {percent}% +([\d.]+)(us|ms|s|m)\n", text) for percent in (50, 99))
    errors = re.findall(r"^ +((?:Socket errors|Non-2xx or 3xx responses): .*)$", text, re.MULTILINE)
    return Report(
        requests=int(count[1]),
        requests_per_s=float(_find(r"Requests/sec: +([\d.]+)", text)[1]),
        body_and_head_bytes=float(count[2]) * _SIZE_BYTES[count[3]],
        p50_ms=float(p50[1]) * _LATENCY_MS[p50[2]],
        p99_ms=float(p99[1]) * _LATENCY_MS[p99[2]],
        max_ms=float(longest[1]) * _LATENCY_MS[longest[2]],
        errors=tuple(errors),
    )


def _find(pattern: str, text: str) -> re.Match[str]:
    found = re.search(pattern, text)
    if found is None:
        raise BenchmarkError(f"no {pattern!r} in what wrk said:\n{text}")
    return found
