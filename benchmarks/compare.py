"""ringserve against other servers on one CPU: interleaved rounds of wrk, the median of same-cycle ratios.

    .venv/bin/python benchmarks/compare.py [--workloads small,mix] [--cycles 15] [--peers nginx,ringserve]
    .venv/bin/python benchmarks/compare.py --revisions ../before . --workloads small,mix

The method and its limits are in benchmarks/README.md. Exit status: 0, 1 if a round had errors or a server failed, 2 if
it cannot run.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import application
import click
import corpus
import report
import results
import revisions
from figures import Table
from measure import DISTURBED
from peers import BASE, HERE, OURS, PEERS, Peer
from processes import CLIENT_CPU, BenchmarkError, check_machine, raise_descriptor_limit
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from run import Fleet, run_workload
from workloads import DEFAULT, WORKLOADS, Kind, Workload, named

CYCLES = 15
RESULTS = HERE / "results"
DESCRIPTORS_MIN = 12_000
"""What a server needs for the connections of `many`, and the crowd of idle clients too."""


class Display:
    """How far it is: a bar on a terminal, a line for each cycle elsewhere."""

    def __init__(self, workloads: Sequence[Workload]) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("{task.fields[part]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.description}"), console=self.console, transient=True,
        )  # fmt: skip
        self.parts = {workload.name: f"{number}/{len(workloads)}" for number, workload in enumerate(workloads, 1)}
        self.task: TaskID | None = None

    def begin(self, workload: str, rounds: int) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(workload, total=rounds, part=self.parts[workload])
        if not self.console.is_terminal:
            self.say(f"{self.parts[workload]} {workload}: {rounds} rounds")

    def step(self, text: str) -> None:
        assert self.task is not None, "a round belongs to a workload"
        self.bar.update(self.task, advance=1, description=text)
        if not self.console.is_terminal:
            self.say(text)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)


class Stage(NamedTuple):
    """Where the servers run."""

    fleet: Fleet
    display: Display


@contextmanager
def stage(workloads: Sequence[Workload], directory: Path | None) -> Iterator[Stage]:
    """The site, room for the servers, and the display, while the block runs."""
    # Not /tmp, which is in memory on many systems: nothing there is ever cold, and splice works otherwise.
    with (
        tempfile.TemporaryDirectory(prefix="ringserve-bench-", dir=directory or "/var/tmp") as work_name,
        # Logs are real files, but no disk is to decide about them.
        tempfile.TemporaryDirectory(prefix="ringserve-bench-", dir=_memory_directory()) as log_name,
    ):
        work, logs = Path(work_name), Path(log_name)
        for path in (work, logs):
            path.chmod(0o755)  # Started by root, nginx's worker is nobody.
        targets = [target for workload in workloads for target in workload.targets()]
        site = corpus.make(work / "site", targets)
        names = {HERE: "benchmarks", Path(sys.executable).parent: "BIN"}
        display = Display(workloads)
        display.say(f"files on {results.file_system(site.root)}")
        fleet = Fleet(work, logs, site, names)
        try:
            with display.bar:
                yield Stage(fleet, display)
        finally:
            fleet.close()


def _memory_directory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def choose_workloads(_: click.Context, __: click.Parameter, value: str) -> list[Workload]:
    names = list(WORKLOADS) if value == "all" else [name for name in value.split(",") if name]
    try:
        return named(names or DEFAULT)
    except KeyError as error:
        raise click.BadParameter(f"there is no workload {error}; there are {', '.join(WORKLOADS)}") from error


def choose_peers(_: click.Context, __: click.Parameter, value: str) -> list[Peer]:
    names = [name for name in value.split(",") if name] or list(PEERS)
    if unknown := [name for name in names if name not in PEERS]:
        raise click.BadParameter(f"there is no {unknown[0]}; there are {', '.join(PEERS)}")
    return [peer for name, peer in PEERS.items() if name in {BASE, *names}]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--workloads", default="", callback=choose_workloads, help="Names with commas, or `all`.")
@click.option(
    "--peers", default="", callback=choose_peers, help="Names with commas; default: all. nginx is always one."
)
@click.option("--cycles", default=CYCLES, show_default=True, type=click.IntRange(1), help="Rounds of each server.")
@click.option("--seconds", default=1, show_default=True, type=click.IntRange(1), help="Length of a round.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON with every round; tables and plots go beside it. Default: results/latest.json if all was asked "
    "for, else results/quick.json.",
)
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the site is made (up to 2 GiB, deleted afterwards); on a disk. Default: /var/tmp.",
)
@click.option(
    "--revisions",
    "checkouts",
    nargs=2,
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="Compare two checkouts of ringserve instead, each with two servers of its own, which shows the noise.",
)
def main(
    workloads: list[Workload],
    peers: list[Peer],
    cycles: int,
    seconds: int,
    output: Path | None,
    directory: Path | None,
    checkouts: tuple[Path, Path] | None,
) -> None:  # fmt: skip
    """Measure ringserve beside other servers: all on one CPU, wrk on another, rounds in turn."""
    # So that the servers are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        check_machine(["wrk", "taskset"])
        limit = raise_descriptor_limit()
        if limit < DESCRIPTORS_MIN and any(workload.base_name == "many" for workload in workloads):
            raise BenchmarkError(f"`many` needs {DESCRIPTORS_MIN} open files, and {limit} are allowed (ulimit -Hn)")
        if any(workload.kind is Kind.APPLICATION for workload in workloads):
            application.check_browser()
        os.sched_setaffinity(0, {CLIENT_CPU})  # This script must not take time from the servers either.
        if checkouts:
            sys.exit(compare_revisions(checkouts, workloads, cycles, seconds, output, directory))
        sys.exit(compare(peers, workloads, cycles, seconds, output, directory))
    except BenchmarkError as error:
        click.echo(f"compare.py: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("interrupted; nothing was written", err=True)
        sys.exit(130)


def present(peers: Sequence[Peer]) -> tuple[list[Peer], dict[str, str]]:
    """Those that are installed, and what the others need. Raises BenchmarkError if one is missing that has to be."""
    missing = {peer.name: peer.needs for peer in peers if peer.version() is None}
    for name, needs in missing.items():
        click.echo(f"MISSING: {name} is not measured; it needs {needs} (benchmarks/install-peers)", err=True)
    if required := [name for name in (BASE, OURS) if name in missing]:
        raise BenchmarkError(f"nothing can be compared without {' and '.join(required)}")
    return [peer for peer in peers if peer.name not in missing], missing


def compare(
    peers: Sequence[Peer],
    workloads: Sequence[Workload],
    cycles: int,
    seconds: int,
    output: Path | None,
    directory: Path | None,
) -> int:
    """Measure, write the results, print the tables; the exit status."""
    peers, missing = present(peers)
    asked_for_all = len(peers) + len(missing) == len(PEERS) and set(DEFAULT) <= {one.name for one in workloads}
    everything = asked_for_all and cycles >= CYCLES
    output = output or RESULTS / ("latest.json" if everything else "quick.json")
    with stage(workloads, directory) as (fleet, display):
        names = ",".join(workload.name for workload in workloads)
        # Without --output and --directory, which would name paths of this machine.
        command = f"benchmarks/compare.py --workloads {names} --cycles {cycles} --seconds {seconds}"
        circumstances = results.circumstances(command, peers, missing, fleet.site.root)
        tables = [run_workload(fleet, workload, peers, cycles, seconds, display) for workload in workloads]
        # Before the site is deleted: 200,000 files take minutes on a disk that is mounted with `discard`.
        document = results.Document(circumstances, tables)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(results.as_json(document))
        report.write_beside(output, document)
    click.echo(report.summary(document))
    click.echo(f"every server: {_shown(output.with_suffix('.md'))}; every round: {_shown(output)}", err=True)
    return judge(tables)


def _shown(path: Path) -> str:
    return os.path.relpath(path)


def judge(tables: Sequence[Table]) -> int:
    """Say what was not valid; the exit status."""
    problems = [
        f"{table.name}, {name}: {problem}"
        for table in tables
        for name, outcome in table.outcomes.items()
        for problem in outcome.problems
    ]
    problems += [f"{table.name}, {name}: {reason}" for table in tables for name, reason in table.failed.items()]
    if problems:
        click.echo(f"{len(problems)} PROBLEMS; rounds that had one do not count:", err=True)
        for problem in problems:
            click.echo(f"  {problem}", err=True)
    every = [one for table in tables for outcome in table.outcomes.values() for one in outcome.rounds + outcome.alone]
    if disturbed := sum(DISTURBED in one.notes for one in every):
        click.echo(f"The machine was not quiet: in {disturbed} of {len(every)} rounds {DISTURBED}.", err=True)
    return 1 if problems else 0


def compare_revisions(
    directories: tuple[Path, Path],
    workloads: Sequence[Workload],
    cycles: int,
    seconds: int,
    output: Path | None,
    directory: Path | None,
) -> int:
    """Measure two checkouts, and print what differs; the exit status."""
    peers = revisions.peers(directories)
    with stage(workloads, directory) as (fleet, display):
        circumstances = results.circumstances("benchmarks/compare.py --revisions A B", peers, {}, fleet.site.root)
        tables = [run_workload(fleet, workload, peers, cycles, seconds, display) for workload in workloads]
    if output:
        output.write_text(results.as_json(results.Document(circumstances, tables)))
    click.echo(revisions.markdown(tables))
    return judge(tables)


if __name__ == "__main__":
    main()
