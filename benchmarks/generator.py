"""One round of wrk, and its report as values."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from processes import CLIENT_CPU, HOST, BenchmarkError, tool

REPLAY = Path(__file__).resolve().parent / "wrk" / "replay.lua"
END_S = 30.0
"""wrk ends by itself, a tenth of a second after its time; the limit is for one that does not."""


class Report(NamedTuple):
    """The counts of wrk. `cpu_s`: its own CPU time. `errors`: in words. `refused`: answers of 400 or more."""

    requests: int
    seconds: float
    bytes_read: int
    cpu_s: float
    p50_us: int
    p99_us: int
    max_us: int
    refused: int
    errors: tuple[str, ...]


def write_requests(path: Path, requests: Sequence[bytes]) -> None:
    """The file that replay.lua reads; that says what is in it."""
    with path.open("wb") as file:
        file.write(b"%d\n" % len(requests))
        for request in requests:
            file.write(b"%d\n%b" % (len(request), request))


def run(
    port: int, requests: Path, connections: int, seconds: int, pause_ms: int = 0, first: int = 0, serial: int = 0
) -> Report:
    """Load a server for a while, from the request `first` on. Raises BenchmarkError if wrk fails or its report is not
    understood.

    serial: the first of the numbers for requests that never repeat (`workloads.SERIAL`).
    """
    command = [
        tool("taskset"), "-c", str(CLIENT_CPU), tool("wrk"), "-t", "1", "-c", str(connections), "-d", f"{seconds}s",
        "-s", str(REPLAY), f"http://{HOST}:{port}/", "--", str(requests), str(pause_ms),
        str(first), str(serial),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + END_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"wrk did not end {END_S:.0f} s after its {seconds} s") from error
    said = done.stderr.strip() or done.stdout.strip()
    if done.returncode != 0:
        raise BenchmarkError(f"wrk ended with status {done.returncode}: {said}")
    for line in done.stdout.splitlines():
        if line.startswith("REPORT "):
            return _report(line.removeprefix("REPORT "))
    raise BenchmarkError(f"no report in what wrk said: {said}")


def _report(text: str) -> Report:
    counted = json.loads(text)
    refused = counted["errors"].pop("status of 400 or more")
    return Report(
        requests=counted["requests"],
        seconds=counted["seconds"],
        bytes_read=counted["bytes"],
        cpu_s=counted["cpu_s"],
        p50_us=counted["p50_us"],
        p99_us=counted["p99_us"],
        max_us=counted["max_us"],
        refused=refused,
        errors=tuple(f"{number} errors: {kind}" for kind, number in counted["errors"].items() if number),
    )
