"""How many processors there are for this process: what `--workers auto` means."""

from __future__ import annotations

import os
from typing import NamedTuple

HERE = "/proc/self"


class Mount(NamedTuple):
    """A control group hierarchy that limits processor time, and where in it this process is.

    path: of the process's own group below the mount.
    """

    point: str
    path: str
    version: int


def available_cpus() -> int:
    """The processors that this process may use, and that the quota of its control group is worth, rounded up."""
    count = len(os.sched_getaffinity(0))
    quota = cgroup_quota()
    return count if quota is None else max(1, min(count, quota))


def cgroup_quota(process: str = HERE) -> int | None:
    """Whole processors that the tightest quota of the control groups above this process allows; None without any.

    Of version 2 (cpu.max) and of version 1 (cpu.cfs_quota_us), wherever they are mounted: cgroups(7). What cannot be
    read is no limit. process: its directory in /proc.
    """
    least: int | None = None
    for mount in _mounts(process):
        parts = [part for part in mount.path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            group = os.path.join(mount.point, *parts[:depth])
            cpus = _quota_v2(group) if mount.version == 2 else _quota_v1(group)
            if cpus is not None:
                least = cpus if least is None else min(least, cpus)
    return least


def _quota_v2(group: str) -> int | None:
    quota, _space, period = _read(os.path.join(group, "cpu.max")).strip().partition(" ")
    return _whole(quota, period)


def _quota_v1(group: str) -> int | None:
    quota = _read(os.path.join(group, "cpu.cfs_quota_us")).strip()  # -1: none
    return _whole(quota, _read(os.path.join(group, "cpu.cfs_period_us")).strip())


def _whole(quota: str, period: str) -> int | None:
    if not quota.isdigit() or not period.isdigit() or not int(period):
        return None
    return max(1, -(-int(quota) // int(period)))


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _mounts(process: str) -> list[Mount]:
    """From mountinfo (proc_pid_mountinfo(5)) and cgroup: which hierarchies there are, and where the process is."""
    groups: dict[int, str] = {}
    for line in _read(f"{process}/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            groups[2] = path
        elif "cpu" in controllers.split(","):
            groups[1] = path
    mounts = []
    for line in _read(f"{process}/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        _id, _parent, _device, root, point, *_ = before.split(" ")
        kind, _source, options, *_ = after.split(" ")
        version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and "cpu" in options.split(",") else 0
        if version in groups:
            mounts.append(Mount(_plain(point), _below(_plain(root), groups[version]), version))
    return mounts


def _below(root: str, path: str) -> str:
    """A container without a control group namespace sees the host's path, and a mount of its own part of the tree."""
    root = root.rstrip("/")
    if not root:
        return path
    return path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else ""


def _plain(field: str) -> str:
    """As the name is: mountinfo has blanks and backslashes as octal numbers."""
    return field.replace(r"\040", " ").replace(r"\011", "\t").replace(r"\012", "\n").replace(r"\134", "\\")
