"""What a flood of requests that are all different leaves in the memory of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Serving
from supervised import Running
from wire import Wire, get

from ringserve import server
from ringserve.config.settings import Config
from ringserve.server import MEMORY_SHARE

MIB = 1024 * 1024
CACHE_BYTES = 64 * MIB // MEMORY_SHARE
"""What a container of 64 MiB has by default for files; responses and heads have one and a half times as much."""
GROWTH_BYTES_MAX = 24 * MIB
"""All of that, and what the allocator keeps. A supervisor and a worker have 28 MiB before."""


@pytest.fixture
def flooded(io_uring: None, site: Path) -> Iterator[Callable[[Iterator[bytes]], int]]:  # noqa: ARG001
    """Asks a worker for paths, and returns by how many bytes it has grown."""
    running = Running(site, "--port", "0", "--listing", "--log-format", "off", "--cache-bytes-max", f"{CACHE_BYTES}")

    def memory_bytes() -> int:
        (pid,) = running.workers
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

    def flood(requests: Iterator[bytes]) -> int:
        with Wire(running.url) as wire:
            wire.ask(get("/"))
            before = memory_bytes()
            for request in requests:
                assert wire.ask(request).status in (200, 404)
            return memory_bytes() - before

    yield flood
    assert running.end() == 0


@pytest.mark.parametrize("known", [True, False])
def test_long_names_that_are_missing_fill_no_memory(
    site: Path, flooded: Callable[[Iterator[bytes]], int], known: bool
) -> None:
    if not known:  # too many for their names to be kept
        for number in range(4000):
            (site / f"{number:012}").touch()
    assert flooded(get("/" + f"{number:0200}/" * 35) for number in range(6000)) < GROWTH_BYTES_MAX


@pytest.mark.parametrize(
    "ask",
    [
        lambda number: get(f"/{number:03900}"),
        lambda number: get(f"/?{number:03900}"),
        lambda number: get("/", f"X-Nothing: {number:03900}"),
        lambda number: get(f"/{number % 100}", f"Accept-Encoding: {number:0900}", f"Range: bytes={number:090}-"),
    ],
    ids=["names", "queries", "fields", "selections"],
)
def test_heads_that_are_all_different_fill_no_memory(
    flooded: Callable[[Iterator[bytes]], int], ask: Callable[[int], bytes]
) -> None:
    assert flooded(map(ask, range(8000))) < GROWTH_BYTES_MAX


def test_listings_in_every_order_fill_no_memory(site: Path, flooded: Callable[[Iterator[bytes]], int]) -> None:
    for directory in range(30):
        (site / f"{directory}").mkdir()
        for number in range(300):
            (site / f"{directory}" / f"{number:050}").touch()
    orders = [f"?sort={sort}&order={order}" for sort in ("name", "size", "modified") for order in ("asc", "desc")]
    views = (get(f"/{number % 30}/{orders[number % 6]}&page={number % 2 + 1}&{number}") for number in range(900))
    assert flooded(views) < GROWTH_BYTES_MAX


def test_after_a_flood_the_table_holds_no_more_than_it_may(serving: Serving, site: Path) -> None:
    for number in range(2000):
        (site / f"{number}.bin").write_bytes(bytes(1000))
    running = serving(cache_bytes_max=MIB, listing=True)
    table = running.server.shared.files
    with Wire(running.url) as wire:
        for number in range(2000):
            assert wire.ask(get(f"/{number}.bin")).status == 200
            assert wire.ask(get(f"/{number}" + "x" * 100)).status == 404
    (tree,) = table._trees
    assert table._held.memory_bytes == tree.memory_bytes == sum(entry.memory_bytes for entry in tree.entries.values())
    assert table._held.memory_bytes + table._names.memory_bytes <= MIB
    assert len(tree.entries) > 400


@pytest.mark.parametrize(("processes", "cache_bytes"), [(1, 64 * MIB // MEMORY_SHARE), (4, 16 * MIB // MEMORY_SHARE)])
def test_what_is_remembered_follows_from_the_memory_that_there_is(
    site: Path, monkeypatch: pytest.MonkeyPatch, processes: int, cache_bytes: int
) -> None:
    monkeypatch.setattr(server, "available_memory", lambda: 64 * MIB)
    config = Config(directory=str(site), port=0)
    made = server.Server(config, processes=processes)
    made.close()
    assert made.config.cache_bytes_max == cache_bytes
    monkeypatch.setattr(server, "available_memory", lambda: 1024 * 1024 * MIB)
    made = server.Server(config, processes=processes)
    made.close()
    assert made.config.cache_bytes_max == server.CACHE_BYTES_MAX
    made = server.Server(replace(config, cache_bytes_max=1), processes=processes)
    made.close()
    assert made.config.cache_bytes_max == 1
