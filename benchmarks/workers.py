"""Two workers on two CPUs against one: interleaved rounds of wrk, which runs on the same two CPUs.

    .venv/bin/python benchmarks/workers.py [--cycles 15] [--seconds 2]

There are two CPUs for all of it, so that the load generator takes from the servers what they would need for more. What
it took is measured and told: the CPU time of servers and generator for a request, and how much of the two CPUs was
busy. From these follow what two workers could do at most beside this generator, and how they would scale with CPUs of
their own: twice, times the CPU time for a request with one worker by that with two.
Exit status: 0, 1 if a round had errors, 2 if it cannot run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import click
from processes import HOST, BenchmarkError, check_machine, cpu_seconds, free_port, raise_descriptor_limit, tool

CPUS = (0, 1)
THREADS = 2
CONNECTIONS = 64
START_S = 10.0
FILES = {"1k": 1024, "16k": 16 * 1024}
FRESH = Path(__file__).resolve().parent / "wrk" / "fresh.lua"
WORKLOADS = {
    "1 KiB": ("1k", ()),
    "16 KiB": ("16k", ()),
    "1 KiB, every target new": ("1k", ("-s", str(FRESH))),
    "1 KiB, every connection new": ("1k", ("-H", "Connection: close")),
}
"""Which file, and what wrk is told: from little of the server's work for a request to much."""
ASKED = re.compile(r"(\d+) requests in ([\d.]+)(m?)s")


class Sample(NamedTuple):
    """One round. The times are CPU time, of all processes of the servers and of wrk."""

    requests: int
    seconds: float
    server_s: float
    generator_s: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def server_us(self) -> float:
        return self.server_s / self.requests * 1e6

    @property
    def generator_us(self) -> float:
        return self.generator_s / self.requests * 1e6


class Server(NamedTuple):
    """One that runs."""

    workers: int
    port: int
    process: subprocess.Popen[bytes]


@contextmanager
def serving(site: Path, workers: int) -> Iterator[Server]:
    """A ringserve with its defaults and no access log, on both CPUs."""
    port = free_port()
    process = subprocess.Popen(
        [tool("taskset"), "-c", ",".join(map(str, CPUS)), sys.executable, "-m", "ringserve", str(site), "--config", "",
         "--host", HOST, "--port", str(port), "--workers", str(workers), "--log-format", "off"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        # All workers serve when it says how to stop it; if it cannot start, the lines end.
        said = b""
        for line in process.stderr:
            said += line
            if b"Ctrl-C" in line:
                break
        else:
            raise BenchmarkError(f"ringserve did not start: {said.decode(errors='replace').strip()}")
        yield Server(workers, port, process)
    finally:
        process.terminate()
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()


def measure(server: Server, target: str, options: Sequence[str], seconds: int) -> Sample:
    """One round. Raises BenchmarkError if an answer was missing or wrong."""
    command = [
        tool("taskset"), "-c", ",".join(map(str, CPUS)), tool("wrk"), "-t", str(THREADS), "-c", str(CONNECTIONS),
        "-d", f"{seconds}s", *options, f"http://{HOST}:{server.port}/{target}",
    ]  # fmt: skip
    before_s = cpu_seconds(server.process.pid)
    wrk = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert wrk.stdout is not None
    with wrk.stdout:
        said = wrk.stdout.read()
    # Not `wait`, which does not tell what the process used.
    _pid, status, used = os.wait4(wrk.pid, 0)
    wrk.returncode = os.waitstatus_to_exitcode(status)
    found = ASKED.search(said)
    if wrk.returncode or found is None or "Non-2xx" in said or "Socket errors" in said:
        raise BenchmarkError(f"wrk: {said.strip()}")
    return Sample(
        int(found[1]),
        float(found[2]) / (1000 if found[3] else 1),
        cpu_seconds(server.process.pid) - before_s,
        used.ru_utime + used.ru_stime,
    )


def spread(values: Sequence[float], form: str) -> str:
    """Median and quartiles."""
    low, _, high = quantiles(values, n=4)
    return f"{median(values):{form}} [{low:{form}}, {high:{form}}]"


def row(name: str, rounds: Sequence[tuple[Sample, Sample]]) -> str:
    """A line of the table."""
    one, two = zip(*rounds, strict=True)
    ratio = [second.rate / first.rate for first, second in rounds]
    busy = median((each.server_s + each.generator_s) / each.seconds / len(CPUS) for each in two)
    together_us = median(each.server_us + each.generator_us for each in two)
    share = median(each.generator_s / (each.server_s + each.generator_s) for each in two)
    alone = median(each.server_us for each in one) / median(each.server_us for each in two)
    return (
        f"| {name} | {median(each.rate for each in one):,.0f} | {median(each.rate for each in two):,.0f} "
        f"| **{spread(ratio, '.2f')}** "
        f"| {median(each.server_us for each in one):.1f} | {median(each.server_us for each in two):.1f} "
        f"| {median(each.generator_us for each in two):.1f} | {share:.0%} | {busy:.0%} "
        f"| {len(CPUS) * 1e6 / together_us:,.0f} | {len(CPUS) * alone:.2f} |"
    )


HEAD = (
    "| workload | 1 worker, requests/s | 2 workers | ratio [quartiles] | CPU us/request, 1 worker | 2 workers "
    "| wrk, with 2 | wrk's share | busy of both CPUs, with 2 | most that both CPUs allow beside wrk "
    "| ratio by the servers' CPU time alone |\n|" + "---|" * 11
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--cycles", default=15, show_default=True, type=click.IntRange(2), help="Rounds of each server.")
@click.option("--seconds", default=2, show_default=True, type=click.IntRange(1), help="Length of a round.")
def main(cycles: int, seconds: int) -> None:
    """Measure two workers against one, on two CPUs that the load generator shares with them."""
    try:
        check_machine(["wrk", "taskset"])
        raise_descriptor_limit()
        with ExitStack() as stack:
            site = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ringserve-bench-")))
            for name, size in FILES.items():
                (site / name).write_bytes(os.urandom(size))
            servers = [stack.enter_context(serving(site, count)) for count in (1, 2)]
            click.echo(HEAD)
            for name, (target, options) in WORKLOADS.items():
                rounds = []
                for cycle in range(-1, cycles):  # the first one warms up
                    order = servers if cycle % 2 else servers[::-1]
                    found = {server.workers: measure(server, target, options, seconds) for server in order}
                    if cycle >= 0:
                        rounds.append((found[1], found[2]))
                    time.sleep(0.05)
                click.echo(row(name, rounds))
    except BenchmarkError as error:
        click.echo(f"workers.py: {error}", err=True)
        sys.exit(1 if "wrk:" in str(error) else 2)


if __name__ == "__main__":
    main()
