"""ringserve against Debian's nginx on one CPU: interleaved rounds of wrk, the median of same-cycle ratios.

    .venv/bin/python benchmarks/compare.py [--workloads small,1m] [--cycles 15] [--seconds 1] [--output FILE]

The method and its limits are in benchmarks/README.md. Exit status: 0, 1 if a round had errors, 2 if it cannot run.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import wrk
from processes import (
    CLIENT_CPU,
    HOST,
    BenchmarkError,
    Server,
    check_machine,
    cpu_seconds,
    free_port,
    published,
    ringserve_command,
    started,
    stray_threads,
    tool,
)
from report import BASE, SERVERS, Round, circumstances, summary, table

HERE = Path(__file__).resolve().parent
KIB, MIB = 1024, 1024 * 1024
LOG_DELAY_S = 2.0
"""For the last lines of a round to reach the log; ringserve writes in batches."""


class Workload(NamedTuple):
    """A file that is asked for over and over. Large files fill the loopback with few connections; more only wait."""

    name: str
    file_bytes: int
    connections: int
    logged: bool = False

    @property
    def target(self) -> str:
        return f"/{self.file_bytes}.bin"


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("small", 1 * KIB, 64),
        Workload("small-log", 1 * KIB, 64, logged=True),
        Workload("64k", 64 * KIB, 64),
        Workload("256k", 256 * KIB, 64),
        Workload("1m", 1 * MIB, 16),
        Workload("20m", 20 * MIB, 4),
    )
}


def make_site(root: Path, workloads: Sequence[Workload]) -> None:
    """One file for each size; of random bytes, so that nothing can be gained by compressing or sharing."""
    root.mkdir()
    for file_bytes in {workload.file_bytes for workload in workloads}:
        (root / f"{file_bytes}.bin").write_bytes(random.Random(file_bytes).randbytes(file_bytes))


def command_of(name: str, logged: bool, port: int, site: Path, own: Path) -> list[str]:
    """The command line that starts a server; `own` is its directory to write to."""
    if name == "ringserve":
        return ringserve_command(site, port, "combined" if logged else "off")
    assert name == "nginx", name
    configuration = (HERE / "peers" / "nginx.conf").read_text()
    access_log = str(own / "access.log") if logged else "off"
    replacements = {"@WORK@": str(own), "@ROOT@": str(site), "@PORT@": str(port), "@ACCESS_LOG@": access_log}
    for placeholder, value in replacements.items():
        configuration = configuration.replace(placeholder, value)
    (own / "nginx.conf").write_text(configuration)
    return [tool("nginx"), "-p", str(own), "-c", str(own / "nginx.conf")]


def log_of(server: Server) -> Path:
    """Where the server's access log goes."""
    return server.output if server.name == "ringserve" else server.output.with_name("access.log")


def start_all(stack: ExitStack, work: Path, workloads: Sequence[Workload]) -> dict[tuple[str, bool], Server]:
    """All servers that the workloads need, by name and whether they log. Those that log are processes of their own."""
    servers = {}
    for logged in sorted({workload.logged for workload in workloads}):
        for name in SERVERS:
            own = work / (f"{name}-log" if logged else name)
            own.mkdir()
            port = free_port()
            command = command_of(name, logged, port, work / "site", own)
            servers[name, logged] = stack.enter_context(started(name, command, port, own))
    return servers


def check_answer(server: Server, workload: Workload, site: Path) -> None:
    """Raise BenchmarkError unless the server answers with exactly the bytes of the file."""
    expected = hashlib.sha256((site / workload.target[1:]).read_bytes()).hexdigest()
    connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
    try:
        connection.request("GET", workload.target)
        response = connection.getresponse()
        answered = hashlib.sha256(response.read()).hexdigest()
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"{server.name} does not answer {workload.target}: {error!r}") from error
    finally:
        connection.close()
    if response.status != 200 or answered != expected:
        raise BenchmarkError(f"{server.name} answers {workload.target} with {response.status} and sha256 {answered}")


def measure(server: Server, workload: Workload, cycle: int, seconds: int) -> Round:
    """One round. What makes it invalid is in `problems` of the result; BenchmarkError if nothing was answered."""
    if workload.logged:
        os.truncate(log_of(server), 0)
    cpu_before_s = cpu_seconds(server.pid)
    report = wrk.run(f"http://{HOST}:{server.port}{workload.target}", workload.connections, seconds)
    cpu_s = cpu_seconds(server.pid) - cpu_before_s
    strays = stray_threads(server.pid)
    if report.requests == 0:
        raise BenchmarkError(f"nothing was answered: {', '.join(report.errors)}")
    problems = list(report.errors)
    # Wrk counts only statuses from 400 on as errors; an answer without the body (a 304, say) shows in the bytes.
    if report.body_and_head_bytes < 0.99 * report.requests * workload.file_bytes:
        problems.append(f"{report.requests} answers had only {report.body_and_head_bytes:.0f} bytes")
    if workload.logged and (lines := logged_lines(log_of(server), report.requests)) < report.requests:
        problems.append(f"{report.requests} answers, but {lines} lines in the access log")
    return Round(
        cycle=cycle,
        requests=report.requests,
        requests_per_s=report.requests_per_s,
        cpu_us_per_request=round(cpu_s * 1e6 / report.requests, 3),
        p50_ms=report.p50_ms,
        p99_ms=report.p99_ms,
        max_ms=report.max_ms,
        problems=tuple(problems),
        notes=tuple(f"thread {name} is not pinned" for name in sorted(set(strays))),
    )


def logged_lines(log: Path, wanted: int) -> int:
    """The lines in a log, once there are as many as wanted or the delay is over."""
    deadline = time.monotonic() + LOG_DELAY_S
    while (lines := log.read_bytes().count(b"\n")) < wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return lines


def run_workload(
    workload: Workload, servers: Mapping[tuple[str, bool], Server], cycles: int, seconds: int
) -> dict[str, list[Round]]:
    """All cycles of a workload. Every second cycle goes through the servers backwards, so that none is always first."""
    rounds: dict[str, list[Round]] = {name: [] for name in SERVERS}
    for cycle in range(cycles):
        for name in SERVERS if cycle % 2 == 0 else SERVERS[::-1]:
            try:
                result = measure(servers[name, workload.logged], workload, cycle, seconds)
            except BenchmarkError as error:
                raise BenchmarkError(f"PROBLEM: {workload.name}, {name}, cycle {cycle + 1}: {error}") from error
            rounds[name].append(result)
            for problem in result.problems:
                say(f"PROBLEM: {workload.name}, {name}, cycle {cycle + 1}: {problem}")
        latest = ", ".join(f"{name} {rounds[name][-1].requests_per_s:.0f}/s" for name in SERVERS)
        progress(f"{workload.name}: cycle {cycle + 1} of {cycles}: {latest}", last=cycle + 1 == cycles)
    return rounds


def progress(line: str, last: bool) -> None:
    """A line on stderr that a terminal shows in place of the one before."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)


def say(line: str) -> None:
    """A line on stderr that stays."""
    print(f"\r\x1b[K{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)


def as_json(
    results: Mapping[str, Mapping[str, Sequence[Round]]], servers: Mapping[tuple[str, bool], Server], work: Path
) -> dict[str, object]:
    return {
        name: {
            "file_bytes": WORKLOADS[name].file_bytes,
            "connections": WORKLOADS[name].connections,
            "servers": {
                server: {
                    "command": published(servers[server, WORKLOADS[name].logged].command, work),
                    "summary": summary(own, rounds[BASE]),
                    "rounds": [asdict(one) for one in own],
                }
                for server, own in rounds.items()
            },
        }
        for name, rounds in results.items()
    }


def command_line(options: argparse.Namespace) -> str:
    """How to start the same run again. Without --output, which would name a path of this machine."""
    workloads = ",".join(options.workloads)
    return f"benchmarks/compare.py --workloads {workloads} --cycles {options.cycles} --seconds {options.seconds}"


def parse_options() -> argparse.Namespace:
    def workload_names(text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(WORKLOADS):
            known = ", ".join(WORKLOADS)
            raise argparse.ArgumentTypeError(f"no workload {', '.join(sorted(unknown))}; there are {known}")
        return list(dict.fromkeys(names))

    def positive(text: str) -> int:
        if not text.isdecimal() or int(text) == 0:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
        return int(text)

    parser = argparse.ArgumentParser(description="Compare ringserve with nginx on one CPU.")
    parser.add_argument("--workloads", type=workload_names, default=list(WORKLOADS), help="default: all of them")
    parser.add_argument("--cycles", type=positive, default=15, help="rounds of each server (%(default)s)")
    parser.add_argument("--seconds", type=positive, default=1, help="length of a round (%(default)s)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "latest.json", help="JSON with every round")
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # So that the servers are ended.
    workloads = [WORKLOADS[name] for name in options.workloads]
    status_of_error = 2
    try:
        check_machine(["nginx", "wrk", "taskset"])
        document = circumstances(command_line(options))
        os.sched_setaffinity(0, {CLIENT_CPU})  # This script must not take time from the servers either.
        with tempfile.TemporaryDirectory(prefix="ringserve-bench-") as directory, ExitStack() as stack:
            work = Path(directory)
            work.chmod(0o755)  # Started by root, nginx's worker is nobody.
            make_site(work / "site", workloads)
            servers = start_all(stack, work, workloads)
            for workload in workloads:
                for name in SERVERS:
                    check_answer(servers[name, workload.logged], workload, work / "site")
            status_of_error = 1
            results = {one.name: run_workload(one, servers, options.cycles, options.seconds) for one in workloads}
    except BenchmarkError as error:
        say(f"compare.py: {error}")
        return status_of_error
    except KeyboardInterrupt:
        say("interrupted; nothing was written")
        return 130
    document["workloads"] = as_json(results, servers, work)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.output.with_name(options.output.name + ".tmp")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(options.output)
    print(table(results))
    every = [one for rounds in results.values() for own in rounds.values() for one in own]
    for note in sorted({note for one in every for note in one.notes}):
        say(f"note: {note}")
    if invalid := sum(bool(one.problems) for one in every):
        say(f"{invalid} of {len(every)} rounds had PROBLEMS (see above); the figures are not valid")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
