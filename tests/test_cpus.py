"""How many processors `auto` means."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringserve.cpus import available_cpus, cgroup_quota

ROOT_V2 = "30 23 0:26 / {point} rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / {point} rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:31 / /elsewhere rw,relatime - cgroup cgroup rw,cpuset\n"
    "41 31 0:38 / /nowhere rw,relatime - cgroup2 cgroup2 rw\n"
)


def process(directory: Path, cgroup: str, mountinfo: str) -> str:
    """The directory of a process in /proc."""
    (directory / "cgroup").write_text(cgroup)
    (directory / "mountinfo").write_text(mountinfo)
    return str(directory)


@pytest.mark.parametrize(
    ("limits", "cpus"),
    [({}, None), ({"a/b": "max 100000"}, None), ({"a/b": "150000 100000"}, 2), ({"a": "50000 100000", "a/b": "max"}, 1),
     ({"": "100000 100000", "a/b": "400000 100000"}, 1), ({"a/b/c": "100000 100000"}, None), ({"a": "strange"}, None)],
)  # fmt: skip
def test_the_tightest_quota_of_the_control_groups_counts(
    tmp_path: Path, limits: dict[str, str], cpus: int | None
) -> None:
    mount = tmp_path / "the mount"
    (mount / "a" / "b" / "c").mkdir(parents=True)
    for group, limit in limits.items():
        (mount / group / "cpu.max").write_text(limit + "\n")
    mountinfo = ROOT_V2.format(point=str(mount).replace(" ", r"\040"))
    assert cgroup_quota(process(tmp_path, "0::/a/b\n", mountinfo)) == cpus


@pytest.mark.parametrize(
    ("quota", "cpus"), [("-1", None), ("250000", 3), ("1000", 1)], ids=["none", "two and a half", "a hundredth"]
)
def test_the_first_version_of_control_groups_counts_too(tmp_path: Path, quota: str, cpus: int | None) -> None:
    group = tmp_path / "cpu" / "a"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    cgroup = "9:name=systemd:/x\n3:cpuset:/y\n1:cpu,cpuacct:/a\n0::/z\n"
    assert cgroup_quota(process(tmp_path, cgroup, HYBRID.format(point=tmp_path / "cpu"))) == cpus


@pytest.mark.parametrize("cgroup", ["0::/pod/one\n", "0::/\n"], ids=["the host's path", "a namespace of its own"])
def test_a_container_that_sees_a_part_of_the_tree_finds_its_own_group(tmp_path: Path, cgroup: str) -> None:
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    root = "/pod/one" if cgroup != "0::/\n" else "/"
    mountinfo = f"30 23 0:26 {root} {tmp_path} rw - cgroup2 cgroup rw\n"
    assert cgroup_quota(process(tmp_path, cgroup, mountinfo)) == 3


def test_where_nothing_is_mounted_there_is_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota(str(tmp_path / "missing")) is None
    assert cgroup_quota(process(tmp_path, "0::/\n", "")) is None


def test_auto_is_what_this_process_may_use() -> None:
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))


# -- a real one -----------------------------------------------------------------------------------------------------


def hierarchy() -> tuple[Path, int] | None:
    """Where a group with a quota of processor time can be made, and of which version; None if nowhere."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split(" ")[4])
        kind, _source, options = after.split(" ")
        if kind == "cgroup2" and os.access(point / "cgroup.subtree_control", os.W_OK):
            if "cpu" in (point / "cgroup.subtree_control").read_text().split():
                return point, 2
        elif kind == "cgroup" and "cpu" in options.split(",") and os.access(point, os.W_OK):
            return point, 1
    return None


@contextmanager
def group_of(quota_us: int, period_us: int) -> Iterator[Path]:
    found = hierarchy()
    if found is None:
        pytest.skip("no control group with a quota can be made here: that needs root, and the cpu controller")
    point, version = found
    group = point / f"ringserve-test-{os.getpid()}"
    group.mkdir()
    try:
        if version == 2:
            (group / "cpu.max").write_text(f"{quota_us} {period_us}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(period_us))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        yield group
    finally:
        group.rmdir()


@pytest.mark.parametrize(("quota_us", "cpus"), [(50_000, 1), (100_000, 1), (1_000_000, len(os.sched_getaffinity(0)))])
def test_auto_honours_the_quota_of_a_real_control_group(quota_us: int, cpus: int) -> None:
    code = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()))\n" + (
        "from ringserve.cpus import available_cpus, cgroup_quota; print(available_cpus(), cgroup_quota())"
    )
    with group_of(quota_us, 100_000) as group:
        done = subprocess.run(
            [sys.executable, "-c", code, str(group / "cgroup.procs")], capture_output=True, text=True, check=False
        )
    assert done.stdout == f"{cpus} {quota_us // 100_000 or 1}\n", done.stderr
