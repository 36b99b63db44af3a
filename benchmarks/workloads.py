"""The workloads: what is asked for, by how many, what has to come back, and what ringserve wants to reach.

A workload is a sequence of exchanges that wrk repeats (wrk/replay.lua); the kind says what happens beside it. A request
with SERIAL in it never repeats: wrk puts another number there each time. To each workload that keeps the server full
there is one with the access log on, named with `-log`.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import corpus

LOG_SUFFIX = "-log"
MIX_REQUESTS = 20_000
"""In the sequence of the mix: some 15 MB in wrk's memory. Of 1,000 successive ones a tenth equal an earlier one."""
SERIAL = "__serial__"
"""Where a request has a number that no other has; as long as the number is, and fit for a target or a field."""
SERIAL_STEP = 10_000_000
"""Numbers of a round, far more than it has requests: ten digits are enough for a thousand rounds."""
UNIQUE_REQUESTS, MISSING_REQUESTS = 5_000, 100
"""In the sequence, whose requests come again with other numbers."""
ROTATION = 61_803
"""Each cycle begins so many requests later in the sequence than the cycle before. Otherwise each round would begin with
the paths that a server remembers from the last one, and would measure no long tail."""
RANGES = 20_000
RANGE_BYTES = 64 * corpus.KIB
PIPELINE_DEPTH = 16
IDLE_CONNECTIONS, ACTIVE_CONNECTIONS = 9_000, 1_000
STALLED_READERS = 500
COLD_CLIENTS = 4
COLD_INTERVAL_S = 0.1
"""Each of the clients begins a file so often, 160 MiB/s together if the disk can: the same load for every server. As
fast as they can, the p99 of the others would say how much a server reads from the disk, and not whether it waits."""
PAUSE_MS = 5
"""Between requests of a connection where latency beside others is measured. A server that is kept full has a queue of
its own making, in which the p99 hides what the others do to it."""


class Exchange(NamedTuple):
    """A request, and the part of a file that has to come back."""

    request: bytes
    target: str
    status: int
    offset: int
    length: int


class Kind(enum.Enum):
    """What is done in a round."""

    FULL = "the server is kept full"
    LATENCY = "one connection, one request at a time"
    MANY = "idle connections beside"
    STALLED = "readers that read nothing beside"
    APPLICATION = "a front end loaded in a browser"
    COLD = "fetching of files that are not in the page cache beside"


class Measure(enum.Enum):
    """What a goal is about; the values are the names in the JSON. Computed in figures.py."""

    RATIO = "requests/s against nginx"
    CPU_RATIO = "CPU time per request against nginx"
    P50_RATIO = "p50 against nginx"
    P99_RATIO = "p99 against nginx"
    BESIDE = "p99 beside the others against p99 alone"
    IDLE_KIB = "resident KiB per idle connection"


class Goal(NamedTuple):
    """What ringserve wants to reach: the median at least, or at most, so much."""

    measure: Measure
    bound: float
    at_least: bool

    def met(self, median: float) -> bool:
        return median >= self.bound if self.at_least else median <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


ETags = Mapping[str, str]
"""The entity-tag of each target, as the server at hand made it."""
Exchanges = Callable[[ETags], Sequence[Exchange]]


@dataclass(frozen=True)
class Workload:
    """`depth`: requests that wrk sends at once. `conditional`: the exchanges need ETags of the server. `besides`: files
    that others than wrk ask for. `warm_s`: of a round that comes before those that count.
    """

    name: str
    about: str
    connections: int
    exchanges: Exchanges
    goals: tuple[Goal, ...] = ()
    kind: Kind = Kind.FULL
    depth: int = 1
    pause_ms: int = 0
    conditional: bool = False
    logged: bool = False
    besides: tuple[str, ...] = ()
    warm_s: int = 0

    @property
    def base_name(self) -> str:
        return self.name.removesuffix(LOG_SUFFIX)

    def targets(self) -> list[str]:
        """All files that have to exist for it."""
        sample = [exchange for exchange in self.exchanges(NoETags()) if exchange.status < 400]
        return [*dict.fromkeys(exchange.target for exchange in sample), *self.besides]


class NoETags(dict[str, str]):
    """For the time when only the targets matter."""

    def __missing__(self, target: str) -> str:
        return '"none"'


def at_least(bound: float, measure: Measure = Measure.RATIO) -> Goal:
    return Goal(measure, bound, True)


def at_most(bound: float, measure: Measure) -> Goal:
    return Goal(measure, bound, False)


def get(target: str, fields: str = "") -> bytes:
    """A request as wrk would send it, and as little: what browsers send beyond it is in the mix."""
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode()


def whole_file(name: str, fields: str = "") -> Exchanges:
    """One file, again and again."""
    target = corpus.single(name)
    exchange = Exchange(get(target, fields), target, 200, 0, corpus.SINGLE_FILES[name])
    return lambda _: [exchange]


def mix(_: ETags) -> list[Exchange]:
    return [
        Exchange(get(file.target, browser), file.target, 200, 0, file.file_bytes)
        for file, browser in corpus.mix_sequence(MIX_REQUESTS)
    ]


def revalidate(etags: ETags) -> list[Exchange]:
    return [
        Exchange(get(file.target, f"{browser}If-None-Match: {etags[file.target]}\r\n"), file.target, 304, 0, 0)
        for file, browser in corpus.mix_sequence(MIX_REQUESTS)
    ]


def rotation(cycle: int, length: int) -> int:
    """The place in a sequence of this length that a cycle begins at."""
    return cycle * ROTATION % length


def unique(_: ETags) -> list[Exchange]:
    """Browsers behind a proxy that numbers requests: three fields of each head are its own."""
    chance = random.Random("unique")
    targets, browsers = corpus.unique_targets(), corpus.browser_blocks(SERIAL)
    wanted = chance.choices(targets, k=UNIQUE_REQUESTS - len(targets))
    return [
        Exchange(
            get(target, f"X-Request-Id: {SERIAL}\r\n{chance.choice(browsers)}"), target, 200, 0, corpus.UNIQUE_BYTES
        )
        for target in [*targets, *wanted]
    ]


def query(_: ETags) -> list[Exchange]:
    target = corpus.single("1k.bin")
    return [Exchange(get(f"{target}?v={SERIAL}"), target, 200, 0, corpus.SINGLE_FILES["1k.bin"])]


def missing(_: ETags) -> list[Exchange]:
    """Of all types, in the directory of `unique`, which has a thousand other names."""
    chance = random.Random("missing")
    targets = [f"{corpus.PREFIX}/unique/{SERIAL}.{chance.choice(corpus.MIX_TYPES)}" for _ in range(MISSING_REQUESTS)]
    return [Exchange(get(target), target, 404, 0, 0) for target in targets]


def tail(count: int) -> Exchanges:
    """Each file once, and as many again, without any order."""

    def exchanges(_: ETags) -> list[Exchange]:
        chance = random.Random("tail")
        targets = corpus.tail_targets(count)
        wanted = chance.sample(targets, count) + chance.choices(targets, k=count)
        return [Exchange(get(target), target, 200, 0, corpus.TAIL_BYTES) for target in wanted]

    return exchanges


def application(_: ETags) -> list[Exchange]:
    return [Exchange(get(name), name, 200, 0, len(data)) for name, data in corpus.application_files().items()]


def ranges(_: ETags) -> list[Exchange]:
    chance = random.Random("ranges")
    target = corpus.single("1g.bin")
    firsts = [chance.randrange(corpus.GIB - RANGE_BYTES) for _ in range(RANGES)]
    return [
        Exchange(get(target, f"Range: bytes={first}-{first + RANGE_BYTES - 1}\r\n"), target, 206, first, RANGE_BYTES)
        for first in firsts
    ]


_QUIET = (
    Workload(
        "small", "a file of 1 KiB, 64 keep-alive connections", 64, whole_file("1k.bin"), (at_least(1.75),)
    ),
    Workload(
        "mix",
        "1,000 files of 64 B to 60 KiB (log-normal), by Zipf, from 200 browsers with cookies; 64 connections",
        64, mix, (at_least(1.4),),
    ),
    Workload(
        "revalidate",
        "the mix with If-None-Match, all 304; 64 connections",
        64, revalidate, (at_least(1.5),), conditional=True,
    ),
    Workload(
        "unique",
        "1,000 files of 1 KiB, each head with an X-Request-Id, Referer and Cookie of its own; 64 connections",
        64, unique, (at_most(1.3, Measure.CPU_RATIO),),
    ),
    Workload(
        "query", "a file of 1 KiB, each time with another query; 64 connections",
        64, query, (at_most(1.2, Measure.CPU_RATIO),),
    ),
    Workload(
        "missing", "names that there are not, each time another; 64 connections",
        64, missing, (at_most(1.5, Measure.CPU_RATIO),), besides=tuple(corpus.unique_targets()),
    ),
    Workload(
        "tail", f"{corpus.TAIL_FILES:,} files of {corpus.TAIL_BYTES} bytes, evenly; 64 connections",
        64, tail(corpus.TAIL_FILES), (at_most(1.5, Measure.CPU_RATIO),), warm_s=10,
    ),
    Workload(
        "longtail", f"{corpus.LONGTAIL_FILES:,} files of {corpus.TAIL_BYTES} bytes, evenly; 64 connections",
        64, tail(corpus.LONGTAIL_FILES), (at_most(3.0, Measure.CPU_RATIO),), warm_s=30,
    ),
    Workload("64k", "a file of 64 KiB, 64 connections", 64, whole_file("64k.bin"), (at_least(1.25),)),
    Workload("256k", "a file of 256 KiB, 64 connections", 64, whole_file("256k.bin"), (at_least(1.3),)),
    # Large files fill the loopback with few connections; more would only wait.
    Workload("1m", "a file of 1 MiB, 16 connections", 16, whole_file("1m.bin"), (at_least(1.0),)),
    Workload(
        "20m", "a file of 20 MiB, 4 connections", 4, whole_file("20m.bin"),
        (at_least(1.0), at_most(1.0, Measure.CPU_RATIO)),
    ),
    Workload("range", "random ranges of 64 KiB of a file of 1 GiB, 64 connections", 64, ranges, (at_least(1.0),)),
    Workload(
        "churn", "a file of 1 KiB, a connection for each request, 64 at a time",
        64, whole_file("1k.bin", "Connection: close\r\n"), (at_least(0.9),),
    ),
    Workload(
        "pipeline", f"a file of 1 KiB, {PIPELINE_DEPTH} requests at once on each of 64 connections",
        64, whole_file("1k.bin"), (at_least(1.5),), depth=PIPELINE_DEPTH,
    ),
    Workload(
        "many", f"{IDLE_CONNECTIONS:,} idle connections, a file of 1 KiB on {ACTIVE_CONNECTIONS:,} others",
        ACTIVE_CONNECTIONS, whole_file("1k.bin"),
        (at_most(1.0, Measure.P99_RATIO), at_most(4.0, Measure.IDLE_KIB)), Kind.MANY,
    ),
    Workload(
        "stalled", f"{STALLED_READERS} readers of 20 MiB that read nothing, a file of 1 KiB on 64 other connections",
        64, whole_file("1k.bin"), (at_most(1.5, Measure.BESIDE),), Kind.STALLED,
        pause_ms=PAUSE_MS, besides=(corpus.single("20m.bin"),),
    ),
    Workload(
        "cold", f"{corpus.COLD_FILES} files of 4 MiB fetched from the disk, a file of 1 KiB on 64 other connections",
        64, whole_file("1k.bin"), (at_most(1.5, Measure.BESIDE),), Kind.COLD,
        pause_ms=PAUSE_MS, besides=tuple(corpus.cold_targets()),
    ),
    Workload(
        "latency", "a file of 1 KiB, one connection: the round trip", 1, whole_file("1k.bin"),
        (at_most(1.0, Measure.P50_RATIO),), Kind.LATENCY,
    ),
    Workload(
        "latency-unique", "`unique` on one connection: the round trip of heads that never repeat", 1, unique,
        (at_most(1.0, Measure.P50_RATIO),), Kind.LATENCY,
    ),
    Workload(
        "application", "a front end of 217 files in Chromium with an empty cache, load by load; access log on",
        6, application, (at_most(1.3, Measure.CPU_RATIO),), Kind.APPLICATION, logged=True,
    ),
)  # fmt: skip
_LOG_GOALS = {"small": (at_least(1.5),)}

WORKLOADS = {workload.name: workload for workload in _QUIET} | {
    workload.name + LOG_SUFFIX: replace(
        workload,
        name=workload.name + LOG_SUFFIX,
        about=f"{workload.about}; access log on",
        logged=True,
        goals=_LOG_GOALS.get(workload.name, ()),
    )
    for workload in _QUIET
    if workload.kind is Kind.FULL
}
DEFAULT = [*(workload.name for workload in _QUIET), "small-log", "unique-log", "mix-log", "64k-log"]
"""The log matters where requests are many; the other workloads have one too, for who wants to know."""


def named(names: Sequence[str]) -> list[Workload]:
    """The workloads of these names, each once. Raises KeyError with the first name that there is not."""
    return [WORKLOADS[name] for name in dict.fromkeys(names)]
