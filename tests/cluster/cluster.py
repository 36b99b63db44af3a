"""Three hosts behind HAProxy under load, while hosts are drained, reloaded, killed, and lose their network.

    sudo .venv/bin/python tests/cluster/cluster.py

Makes the network (network.py), starts three ringserve and HAProxy with haproxy.cfg in it (machines.py), and loads them
by wrk (load.lua) and by clients that compare every byte (checker.py). Each scenario is run under that load and judged
by what has to hold. Prints a table; ends with status 1 if something did not hold, and with 2 if it could not be tried.
What it made is taken away again, however it ends.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from checker import FORGED, FRESH, LASTING, SLOW, Asked
from machines import CONNECTIONS, HERE, Cluster, Load
from network import BACK, CLIENT, HOSTS, ClusterError, until

LOAD_S = 5.0
"""A scenario is under load for at least so long."""
PROMPT_S = 0.9
"""An answer at once: before any of the balancer's limits can have run out, of which the shortest is a second."""
WENT_AWAY_S = 4.5
"""For a request that went to a host whose network is gone, before the checks have taken that out. TCP sends it again
after 0.2, 0.6, 1.4 and 3.0 s, and notices at the last of these that `tcp-ut` (2 s) is over; another host is asked then.
A request that had to wait for `timeout server` would take 10 s.
"""
IN_FLIGHT = CONNECTIONS + LASTING + FRESH + SLOW
"""Each client's connection has one request at most in flight."""
VICTIM = "two"
"""The host to which things happen."""


class Figures(NamedTuple):
    """What was counted in a scenario.

    failed: by wrk, by kind. wrk_slowest_s: its slowest answer. asked: by the checking clients. event: when it happened.
    retried: attempts that the balancer made again. remarks: for the table.
    """

    requests: int
    failed: dict[str, int]
    wrk_slowest_s: float
    asked: list[Asked]
    event: float
    retried: int
    remarks: str

    @property
    def checked_failures(self) -> list[Asked]:
        """What the checking clients saw fail."""
        return [asked for asked in self.asked if asked.failure]

    @property
    def failures(self) -> int:
        """All that failed."""
        return sum(self.failed.values()) + len(self.checked_failures)

    def after_the_event(self) -> list[Asked]:
        """What was asked by checking clients after it."""
        return [asked for asked in self.asked if asked.began > self.event]

    def slowest_s(self) -> float:
        """Of the checked requests after the event that are no downloads at a bounded rate."""
        return max((asked.took_s for asked in self.after_the_event() if asked.kind != "slow"), default=0.0)


class Happened(NamedTuple):
    """event: when it happened, by the monotonic clock. remarks: figures for the table."""

    event: float
    remarks: str = ""


def measure(cluster: Cluster, act: Callable[[Cluster], Happened]) -> Figures:
    """Run one scenario under load. The load is there before it, and for a while after it."""
    cluster.wait_until_all_are_well()
    retried = cluster.balancer.retried()
    load = Load(cluster)
    cluster.wait_until_all_answer()
    began = time.monotonic()
    event, remarks = act(cluster)
    time.sleep(max(0.0, began + LOAD_S - time.monotonic()))
    requests, failed, wrk_slowest_s, asked = load.end()
    retried = cluster.balancer.retried() - retried
    return Figures(requests + len(asked), failed, wrk_slowest_s, asked, event, retried, remarks)


# -- what happens -----------------------------------------------------------------------------------------------


def steady(_cluster: Cluster) -> Happened:
    """Nothing."""
    return Happened(time.monotonic())


def drained(cluster: Cluster) -> Happened:
    """How a host is taken out of service: the balancer is told, the host is ended and started, the balancer is told."""
    return ended(cluster, is_told=True)


def told_by_nobody(cluster: Cluster) -> Happened:
    """A host is ended, and the balancer is not told."""
    return ended(cluster, is_told=False)


def ended(cluster: Cluster, *, is_told: bool) -> Happened:
    """A host is ended while a download is in flight, and started again. is_told: the balancer, before and after."""
    host = cluster.hosts[VICTIM]
    cluster.wait_for_a_download(host.name)
    event = time.monotonic()
    if is_told:
        cluster.balancer.tell(f"set server hosts/{host.name} state drain")
    host.process.signal(signal.SIGTERM)
    took_s = host.wait()
    host.start()
    if is_told:
        cluster.balancer.tell(f"set server hosts/{host.name} state ready")
    cluster.wait_until_all_are_well()
    cluster.wait_until_all_answer()
    return Happened(event, f"ended {took_s:.1f} s after SIGTERM")


def reloaded(cluster: Cluster) -> Happened:
    """A host reads its configuration anew."""
    host = cluster.hosts[VICTIM]
    cluster.wait_for_a_download(host.name)
    event = time.monotonic()
    host.reload()
    new_s = time.monotonic() - event
    old_s = new_s + until("the old worker has ended", lambda: len(host.workers()) == 1)
    cluster.wait_until_all_answer()
    return Happened(event, f"new worker after {new_s:.2f} s; the old one ended after {old_s:.1f} s")


def killed(cluster: Cluster) -> Happened:
    """A host's processes are killed, and started again when the balancer has taken it out."""
    host = cluster.hosts[VICTIM]
    cluster.wait_for_a_download(host.name)
    host.process.kill()
    event = time.monotonic()
    noticed_s = until("the balancer takes it out", lambda: cluster.balancer.is_down(host.name))
    host.start()
    recovered_s = cluster.wait_until_all_are_well()
    cluster.wait_until_all_answer()
    return Happened(event, f"out after {noticed_s:.1f} s; in {recovered_s:.1f} s after its start")


def unplugged(cluster: Cluster) -> Happened:
    """A host's network goes away, and comes back when all that the host had in flight is over."""
    host = cluster.hosts[VICTIM]
    cluster.wait_for_a_download(host.name)
    cluster.network.pull(host.name)
    event = time.monotonic()
    noticed_s = until("the balancer takes it out", lambda: cluster.balancer.is_down(host.name))
    over_s = noticed_s + until("all that it had is over", lambda: cluster.balancer.in_flight(host.name) == 0)
    cluster.network.plug(host.name)
    recovered_s = cluster.wait_until_all_are_well()
    cluster.wait_until_all_answer()
    return Happened(
        event, f"out after {noticed_s:.1f} s; its last request over after {over_s:.1f} s; in {recovered_s:.1f} s after"
    )


def all_killed(cluster: Cluster) -> Happened:
    """Nobody is left who could answer: what counts failures has to count them."""
    for host in cluster.hosts.values():
        host.process.kill()
    event = time.monotonic()
    until("the balancer takes all out", lambda: all(cluster.balancer.is_down(name) for name in HOSTS))
    return Happened(event)


# -- what has to hold -------------------------------------------------------------------------------------------


def too_slow(figures: Figures, slowest_s: float) -> list[str]:
    """Whether an answer kept its client waiting for longer."""
    took_s = max(figures.slowest_s(), figures.wrk_slowest_s)
    return [f"an answer took {took_s:.2f} s, which is more than {slowest_s:g} s"] if took_s > slowest_s else []


def none_failed(figures: Figures) -> list[str]:
    """Not one request, and none had to wait: one that a host lets in and does not answer is asked again of another, but
    only when that has become clear.
    """
    wrong = [f"{figures.failures} requests failed, and none may"] if figures.failures else []
    return wrong + too_slow(figures, PROMPT_S)


def only_what_was_in_flight(figures: Figures, slowest_s: float) -> list[str]:
    """What the host had in flight may fail: its answer had begun, and nobody can take that back. What is asked
    afterwards is answered by others.
    """
    wrong = []
    if figures.failures > IN_FLIGHT:
        wrong.append(f"{figures.failures} requests failed: more than the {IN_FLIGHT} that can have been in flight")
    later = [asked for asked in figures.after_the_event() if asked.failure]
    if later:
        wrong.append(f"{len(later)} requests that were asked afterwards failed, such as {later[0]}")
    return wrong + too_slow(figures, slowest_s)


def killed_holds(figures: Figures) -> list[str]:
    """Others answer at once: a host without its server refuses, and nothing has to time out."""
    return only_what_was_in_flight(figures, PROMPT_S)


def unplugged_holds(figures: Figures) -> list[str]:
    """Others answer, after the balancer's limits."""
    return only_what_was_in_flight(figures, WENT_AWAY_S)


def all_failed(figures: Figures) -> list[str]:
    """By both counts."""
    wrong = []
    after = figures.after_the_event()
    well = [asked for asked in after if not asked.failure]
    if well or not after:
        wrong.append(f"{len(well)} of {len(after)} requests were answered well, and nobody was there to answer")
    if not figures.failed.get("status"):
        wrong.append("wrk saw no failure, and nobody was there to answer")
    return wrong


class Scenario(NamedTuple):
    """title: for the table. act: what happens. judge: what is wrong with the figures, in words."""

    title: str
    act: Callable[[Cluster], Happened]
    judge: Callable[[Figures], list[str]]


SCENARIOS = (
    Scenario("steady", steady, none_failed),
    Scenario("drain, SIGTERM, start, ready", drained, none_failed),
    Scenario("SIGTERM, nobody told, start", told_by_nobody, none_failed),
    Scenario("SIGHUP", reloaded, none_failed),
    Scenario("SIGKILL, start", killed, killed_holds),
    Scenario("network away, and back", unplugged, unplugged_holds),
)
CONTROL = Scenario("all hosts killed (do the counts count?)", all_killed, all_failed)
BY_PROXY_PROTOCOL = Scenario("steady, by the PROXY protocol", steady, none_failed)


def who_was_logged(cluster: Cluster) -> list[str]:
    """What is wrong with the clients in the hosts' access logs: the balancer's clients have to be there, and nobody
    whom they name themselves.
    """
    wrong = []
    for host in cluster.hosts.values():
        logged: Counter[tuple[str, str]] = Counter()
        for line in host.log.read_text().splitlines():
            client, _, rest = line.partition(" ")
            logged["checks" if rest.endswith('"haproxy-check"') else "clients", client] += 1
        if set(logged) != {("checks", BACK), ("clients", CLIENT)}:
            wrong.append(
                f"{host.name} logged {dict(logged)}; it should be {CLIENT}, {BACK} for checks, and never {FORGED}"
            )
    return wrong


def what_was_said(cluster: Cluster) -> list[str]:
    """What ringserve complained of, which it has no cause to."""
    usual = re.compile(r"ringserve \S+ serves |  http://|Stop it with Ctrl-C|ringserve: reloaded: ")
    return [
        f"{host.name} said: {line}"
        for host in cluster.hosts.values()
        for line in host.words.read_text().splitlines()
        if not usual.match(line)
    ]


# -- the run ----------------------------------------------------------------------------------------------------

TITLE_WIDTH = 40
WIDTHS = (9, 7, 6, 8, 7, 7)


def tell(*cells: object) -> None:
    """A line of the table: words, then figures, then what else there is to say."""
    first, *rest = map(str, cells)
    figures = [cell.rjust(width) for cell, width in zip(rest, WIDTHS, strict=False)]
    print(" ".join([first.ljust(TITLE_WIDTH), *figures, "", *rest[len(WIDTHS) :]]).rstrip(), flush=True)


def run(cluster: Cluster, scenario: Scenario) -> list[str]:
    """Measure, tell, judge. Returns what does not hold."""
    figures = measure(cluster, scenario.act)
    wrong = scenario.judge(figures)
    kinds = Counter(re.sub(r"\d+ of \d+", "some", asked.failure) for asked in figures.checked_failures)
    kinds.update({f"wrk: {kind}": count for kind, count in figures.failed.items()})
    details = [figures.remarks] if figures.remarks else []
    details += [f"{count} x {kind}" for kind, count in kinds.items()]
    tell(
        scenario.title, figures.requests, figures.failures, "WRONG" if wrong else "ok", figures.retried,
        round(figures.wrk_slowest_s * 1000), round(figures.slowest_s() * 1000), "; ".join(details),
    )  # fmt: skip
    return [f"{scenario.title}: {words}" for words in wrong]


def with_proxy_protocol(configuration: Path, to: Path) -> Path:
    """The configuration, changed as its last comment says."""
    text = configuration.read_text()
    for old, new in (
        ("    option forwardfor\n", ""),
        ("    default-server check ", "    default-server send-proxy-v2 check-send-proxy check "),
    ):
        if text.count(old) != 1:
            raise ClusterError(f"haproxy.cfg does not have {old.strip()!r} once")
        text = text.replace(old, new)
    to.write_text(text)
    return to


def run_all(cluster: Cluster) -> list[str]:
    """Every scenario. Returns what does not hold."""
    wrong = []
    tell("", "requests", "failed", "", "retried", "wrk ms", "ms")
    configuration = HERE / "haproxy.cfg"
    cluster.serve(configuration)
    for scenario in SCENARIOS:
        wrong += run(cluster, scenario)
    wrong += run(cluster, CONTROL)
    wrong += who_was_logged(cluster)
    cluster.end()
    for host in cluster.hosts.values():
        host.log.unlink()
    cluster.serve(with_proxy_protocol(configuration, cluster.directory / "proxy.cfg"), "--proxy-protocol")
    wrong += run(cluster, BY_PROXY_PROTOCOL)
    cluster.end()
    wrong += who_was_logged(cluster)
    wrong += what_was_said(cluster)
    return wrong


def stop(number: int, _frame: FrameType | None) -> None:
    """Leave as Ctrl-C does."""
    sys.exit(128 + number)


def main() -> int:
    """See the module. Returns the exit status."""
    if os.geteuid():
        print("cluster.py makes network namespaces, which only root may: sudo make cluster-test", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        with Cluster() as cluster:
            wrong = run_all(cluster)
    except ClusterError as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for words in wrong:
        print(f"DOES NOT HOLD: {words}", file=sys.stderr)
    if not wrong:
        print("All holds. ms: the slowest answer, for wrk, and for the checking clients after the event.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
