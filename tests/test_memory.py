"""What a flood of requests that are all different leaves in the memory of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Serving
from supervised import Running
from wire import Wire, get

MIB = 1024 * 1024
CACHE_BYTES = 8 * MIB
"""What a container of 64 MiB has by default: an eighth of it, for files, and as much for responses."""
GROWTH_BYTES_MAX = 24 * MIB
"""Both of them, and what the allocator keeps. A supervisor and a worker have 28 MiB before."""


@pytest.fixture
def flooded(io_uring: None, site: Path) -> Iterator[Callable[[Iterator[str]], int]]:  # noqa: ARG001
    """Asks a worker for paths, and returns by how many bytes it has grown."""
    running = Running(site, "--port", "0", "--listing", "--log-format", "off", "--cache-bytes-max", f"{CACHE_BYTES}")

    def memory_bytes() -> int:
        (pid,) = running.workers
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

    def flood(paths: Iterator[str]) -> int:
        with Wire(running.url) as wire:
            wire.ask(get("/"))
            before = memory_bytes()
            for path in paths:
                assert wire.ask(get(path)).status in (200, 404)
            return memory_bytes() - before

    yield flood
    assert running.end() == 0


@pytest.mark.parametrize("known", [True, False])
def test_long_names_that_are_missing_fill_no_memory(
    site: Path, flooded: Callable[[Iterator[str]], int], known: bool
) -> None:
    if not known:  # too many for their names to be kept
        for number in range(4000):
            (site / f"{number:012}").touch()
    assert flooded("/" + f"{number:0200}/" * 35 for number in range(6000)) < GROWTH_BYTES_MAX


def test_listings_in_every_order_fill_no_memory(site: Path, flooded: Callable[[Iterator[str]], int]) -> None:
    for directory in range(30):
        (site / f"{directory}").mkdir()
        for number in range(300):
            (site / f"{directory}" / f"{number:050}").touch()
    orders = [f"?sort={sort}&order={order}" for sort in ("name", "size", "modified") for order in ("asc", "desc")]
    views = (f"/{number % 30}/{orders[number % 6]}&page={number % 2 + 1}&{number}" for number in range(900))
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
