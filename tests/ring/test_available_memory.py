"""How much memory there is for this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ringserve.ring.linux.limits import available_memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("limits", "memory"),
    [({}, MACHINE), ({"a/b/memory.max": "max"}, MACHINE), ({"a/b/memory.max": f"{64 * MIB}"}, 64 * MIB),
     ({"a/memory.max": f"{32 * MIB}", "a/b/memory.max": f"{64 * MIB}"}, 32 * MIB),
     ({"a/b/memory.high": f"{48 * MIB}", "a/b/memory.max": f"{64 * MIB}"}, 48 * MIB),
     ({"memory.max": f"{2 * MACHINE}"}, MACHINE), ({"a/memory.max": "strange"}, MACHINE)],
)  # fmt: skip
def test_the_tightest_limit_of_the_control_groups_counts(tmp_path: Path, limits: dict[str, str], memory: int) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "groups").write_text("0::/a/b\n")
    for name, limit in limits.items():
        (tmp_path / name).write_text(limit + "\n")
    assert available_memory(str(tmp_path), str(tmp_path / "groups")) == memory


def test_where_nothing_is_mounted_it_is_that_of_the_machine(tmp_path: Path) -> None:
    assert available_memory(str(tmp_path / "missing"), str(tmp_path / "missing")) == MACHINE
