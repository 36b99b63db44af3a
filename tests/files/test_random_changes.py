"""Whatever happens to a tree, a request that is sent afterwards is answered with what is there. From seeds."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Serving
from wire import Wire, get

from ringserve.http.semantics import fault_of_sibling

NAMES = ("a", "b", "c.css", "c.css.gz", "d")
STEPS = 400


def paths(depth: int = 3) -> list[str]:
    """Every path that the tree may have."""
    if depth == 0:
        return []
    return [*NAMES, *(f"{name}/{below}" for name in NAMES for below in paths(depth - 1))]


PATHS = paths()


class Tree:
    """Does one thing or another to a directory."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root = root
        self.chance = chance
        self.count = 0

    def any(self) -> Path:
        return self.root / self.chance.choice(PATHS)

    def write(self) -> None:
        path = self.any()
        if path.parent.is_dir() and not path.is_dir():
            self.count += 1
            path.write_bytes(b"%d" % self.count)

    def make_directory(self) -> None:
        path = self.any()
        if path.parent.is_dir() and not path.exists():
            path.mkdir()

    def remove(self) -> None:
        path = self.any()
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True) if path.parent.is_dir() else None

    def rename(self) -> None:
        old, new = self.any(), self.any()
        if old.exists() and new.parent.is_dir() and old not in (new, *new.parents) and new not in old.parents:
            if new.is_dir():
                shutil.rmtree(new)
            elif new.exists() and old.is_dir():
                new.unlink()
            old.rename(new)

    def replace(self) -> None:
        path = self.any()
        if path.is_file():
            self.count += 1
            (self.root / "new").write_bytes(b"%d" % self.count)
            os.replace(self.root / "new", path)

    def change(self) -> None:
        steps: list[Callable[[], None]] = [
            self.write, self.write, self.write, self.make_directory, self.make_directory, self.remove, self.rename,
            self.replace,
        ]  # fmt: skip
        self.chance.choice(steps)()


def chosen(page: Path) -> Path:
    """What is served to who accepts gzip."""
    coded = page.with_name(page.name + ".gz")
    if page.suffix != ".css" or not coded.is_file():
        return page
    mine, its = coded.stat(), page.stat()
    return page if fault_of_sibling(mine.st_mtime_ns, mine.st_size, its.st_mtime_ns, its.st_size) else coded


@pytest.mark.parametrize("seed", range(3))
def test_a_request_is_answered_with_what_is_there_when_it_is_sent(serving: Serving, site: Path, seed: int) -> None:
    chance = random.Random(seed)
    tree = Tree(site, chance)
    with Wire(serving(cache_bytes_max=chance.choice((20_000, 1024 * 1024))).url) as wire:
        for step in range(STEPS):
            for _change in range(chance.choice((1, 1, 1, 5, 30))):
                tree.change()
            for _request in range(6):
                path = chance.choice(PATHS)
                page = site / path
                answer = wire.ask(get(f"/{path}", "Accept-Encoding: gzip"))
                if page.is_file():
                    assert (answer.status, answer.body) == (200, chosen(page).read_bytes()), (step, path)
                else:
                    assert answer.status == (308 if page.is_dir() else 404), (step, path)
