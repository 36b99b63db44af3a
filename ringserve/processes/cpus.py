"""How many processors there are for this process: what `--workers auto` means."""

from __future__ import annotations

import os

MOUNT = "/sys/fs/cgroup"
"""Where version 2 of control groups is mounted, by convention and by every container runtime (cgroups(7))."""


def available_cpus() -> int:
    """The processors that this process may use, and that the quota of its control group is worth, rounded up."""
    count = len(os.sched_getaffinity(0))
    quota = cgroup_quota()
    return count if quota is None else max(1, min(count, quota))


def cgroup_quota(mount: str = MOUNT, groups: str = "/proc/self/cgroup") -> int | None:
    """Whole processors that the tightest quota (cpu.max) of the control groups above this process allows; None without
    any. What cannot be read is no limit. Version 1 is not looked at.

    A container without a control group namespace sees the host's path, which is not below its mount; the mount itself
    is its own group then.
    """
    path = next((line[3:] for line in _read(groups).splitlines() if line.startswith("0::")), "")
    parts = [part for part in path.split("/") if part]
    found = [_quota(os.path.join(mount, *parts[:depth], "cpu.max")) for depth in range(len(parts) + 1)]
    return min((cpus for cpus in found if cpus is not None), default=None)


def _quota(path: str) -> int | None:
    quota, _space, period = _read(path).strip().partition(" ")
    if not quota.isdigit() or not period.isdigit() or not int(period):
        return None
    return max(1, -(-int(quota) // int(period)))


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
