"""How many processors `auto` means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ringserve.processes.cpus import available_cpus, cgroup_quota


def groups(directory: Path, text: str) -> str:
    """A file as /proc/self/cgroup is one."""
    (directory / "groups").write_text(text)
    return str(directory / "groups")


@pytest.mark.parametrize(
    ("limits", "cpus"),
    [({}, None), ({"a/b": "max 100000"}, None), ({"a/b": "150000 100000"}, 2), ({"a": "50000 100000", "a/b": "max"}, 1),
     ({"": "100000 100000", "a/b": "400000 100000"}, 1), ({"a/b/c": "100000 100000"}, None), ({"a": "strange"}, None)],
)  # fmt: skip
def test_the_tightest_quota_of_the_control_groups_counts(
    tmp_path: Path, limits: dict[str, str], cpus: int | None
) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    for group, limit in limits.items():
        (tmp_path / group / "cpu.max").write_text(limit + "\n")
    assert cgroup_quota(str(tmp_path), groups(tmp_path, "3:cpuset:/c\n0::/a/b\n")) == cpus


@pytest.mark.parametrize("path", ["/pod/one", "/"], ids=["the host's path", "a namespace of its own"])
def test_a_container_that_sees_a_part_of_the_tree_finds_its_own_group(tmp_path: Path, path: str) -> None:
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    assert cgroup_quota(str(tmp_path), groups(tmp_path, f"0::{path}\n")) == 3


def test_where_nothing_is_mounted_there_is_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota(str(tmp_path / "missing"), str(tmp_path / "missing")) is None
    assert cgroup_quota(str(tmp_path), groups(tmp_path, "0::/\n")) is None


def test_auto_is_what_this_process_may_use() -> None:
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))
