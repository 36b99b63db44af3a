"""All servers up at once, and the rounds of a workload in turn among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from application import measure_loads
from beside import idle_crowd, measure_beside, problems_of
from clients import CrowdReport
from corpus import Site
from figures import Outcome, Round, Table
from measure import Plan, frozen_but_for, measure, plan, warm_up
from peers import Peer, Place
from processes import BenchmarkError, Server, end, free_port, freeze, launch, published, wait_until_it_accepts
from workloads import Kind, Workload


class Progress(Protocol):
    """Who is told how far it is."""

    def begin(self, workload: str, rounds: int) -> None:
        """A workload begins, and so many rounds are to come."""

    def step(self, text: str) -> None:
        """A round is over."""

    def say(self, text: str) -> None:
        """A line that stays."""


class Runs(NamedTuple):
    """A server that takes part in a workload."""

    peer: Peer
    server: Server
    plan: Plan
    outcome: Outcome


class Fleet:
    """The servers that are up. `names` says by which words paths of this machine are published."""

    def __init__(self, work: Path, logs: Path, site: Site, names: Mapping[Path, str]) -> None:
        self.work = work
        self.logs = logs
        self.site = site
        self.names = {work: "WORK", logs: "LOGS", **names}
        self.running: dict[tuple[str, bool], Server] = {}
        self.broken: dict[tuple[str, bool], BenchmarkError] = {}

    def start(self, peer: Peer, logged: bool, purpose: str = "") -> Server:
        """Start a server, with files of its own. Raises BenchmarkError, or OSError, if it does not come up."""
        name = "-".join(filter(None, (peer.name, "log" if logged else "", purpose)))
        own = self.work / name
        own.mkdir()
        log = self.logs / f"{name}.log" if logged else None
        if log:
            log.touch()
        place = Place(own, self.site.root, free_port(), log)
        command = peer.prepare(place)
        output = log if peer.log_to_stdout else None
        server = launch(peer.name, command, place.port, own, log, output, peer.environment(place))
        try:
            wait_until_it_accepts(server)
        except BenchmarkError:
            end([server])
            raise
        return server

    def start_for(self, workload: Workload, peer: Peer) -> Server:
        """The server that is up for this and other workloads; it is started the first time."""
        key = peer.name, workload.logged
        if key in self.broken:
            raise self.broken[key]
        if key not in self.running:
            try:
                server = self.start(peer, workload.logged)
            except BenchmarkError as error:
                self.broken[key] = error
                raise
            self.running[key] = server
            if peer.frozen:
                freeze(server)
        return self.running[key]

    @contextmanager
    def serving(self, workload: Workload, peer: Peer) -> Iterator[Server]:
        """The server for a workload. For `many` a new one: what earlier work left in its memory is not to be reused."""
        if workload.kind is not Kind.MANY:
            yield self.start_for(workload, peer)
            return
        server = self.start(peer, workload.logged, workload.name)
        try:
            yield server
        finally:
            end([server])

    def published(self, text: str) -> str:
        """On one line, and without paths of this machine."""
        return published(" ".join(text.split()), self.names)

    def close(self) -> None:
        end(self.running.values())


def run_workload(
    fleet: Fleet, workload: Workload, peers: Sequence[Peer], cycles: int, seconds: int, progress: Progress
) -> Table:
    """All cycles of a workload. A server that does not come up, or answers wrongly, fails; the others go on."""
    table = Table(workload.name, workload.about, workload.logged, workload.goals)
    with ExitStack() as stack:
        runs, crowds = [], {}
        for peer in peers:
            if reason := peer.left_out_of(workload):
                table.left_out[peer.name] = reason
            elif peer.takes_part_in(workload):
                try:
                    one = _prepare(stack, fleet, workload, peer)
                    if workload.kind is Kind.MANY:
                        crowds[peer.name] = stack.enter_context(idle_crowd(one.server, one.outcome))
                except (BenchmarkError, OSError) as error:
                    table.failed[peer.name] = fleet.published(str(error))
                    progress.say(f"PROBLEM: {workload.name}, {peer.name}: {error}")
                else:
                    runs.append(one)
                    table.outcomes[peer.name] = one.outcome
        _cycles(workload, runs, fleet.site, cycles, seconds, progress)
    _judge_crowds(table, crowds, progress)
    return table


def _prepare(stack: ExitStack, fleet: Fleet, workload: Workload, peer: Peer) -> Runs:
    server = stack.enter_context(fleet.serving(workload, peer))
    directory = fleet.work / f"{peer.name}-requests"
    directory.mkdir(exist_ok=True)
    plans: list[Plan] = []

    def check() -> Round:
        plans.append(plan(server, workload, fleet.site, directory))
        if workload.warm_s:
            warm_up(server, plans[0], workload.warm_s)
        return Round(0)

    frozen_but_for(server, peer.frozen, check)
    return Runs(peer, server, plans[0], Outcome(fleet.published(" ".join(server.command))))


def _cycles(
    workload: Workload, runs: Sequence[Runs], site: Site, cycles: int, seconds: int, progress: Progress
) -> None:
    """Every second cycle goes through the servers backwards, so that none is always first."""
    order = [(cycle, one) for cycle in range(cycles) for one in (runs if cycle % 2 == 0 else runs[::-1])]
    progress.begin(workload.name, len(order))
    for cycle, one in order:
        measured = _measure(workload, one, site, cycle, seconds)
        for problem in measured.problems:
            progress.say(f"PROBLEM: {workload.name}, {one.peer.name}, cycle {cycle + 1}: {problem}")
        rate = f"{measured.requests_per_s:,.0f}/s" if measured.requests else "failed"
        progress.step(f"{workload.name} {cycle + 1}/{cycles}: {one.peer.name} {rate}")


def _measure(workload: Workload, one: Runs, site: Site, cycle: int, seconds: int) -> Round:
    """A round, written down with the outcome."""
    if workload.kind in (Kind.STALLED, Kind.COLD):
        alone, measured = measure_beside(one.server, workload, one.plan, site, cycle, seconds)
        one.outcome.alone.append(alone)
    elif workload.kind is Kind.APPLICATION:
        measured = measure_loads(one.server, cycle)
    else:
        measured = frozen_but_for(
            one.server, one.peer.frozen, lambda: measure(one.server, one.plan, cycle, seconds)
        )  # fmt: skip
    one.outcome.rounds.append(measured)
    return measured


def _judge_crowds(table: Table, crowds: Mapping[str, CrowdReport], progress: Progress) -> None:
    """What went wrong with a crowd is known when it has gone, and makes all rounds beside it invalid."""
    for name, report in crowds.items():
        if problems := problems_of(report):
            outcome = table.outcomes[name]
            outcome.rounds = [replace(one, problems=(*one.problems, *problems)) for one in outcome.rounds]
            progress.say(f"PROBLEM: {table.name}, {name}: {'; '.join(problems)}")
