"""How many processors there are for this process: what `--workers auto` means."""

from __future__ import annotations

import os

from ringserve.ring.linux.limits import GROUPS, MOUNT, group_limits


def available_cpus() -> int:
    """The processors that this process may use, and that the quota of its control group is worth, rounded up."""
    count = len(os.sched_getaffinity(0))
    quota = cgroup_quota()
    return count if quota is None else max(1, min(count, quota))


def cgroup_quota(mount: str = MOUNT, groups: str = GROUPS) -> int | None:
    """Whole processors that the tightest quota (cpu.max) of the control groups above this process allows; None without
    any.
    """
    return min((cpus for cpus in map(_quota, group_limits("cpu.max", mount, groups)) if cpus is not None), default=None)


def _quota(limit: str) -> int | None:
    quota, _space, period = limit.partition(" ")
    if not quota.isdigit() or not period.isdigit() or not int(period):
        return None
    return max(1, -(-int(quota) // int(period)))
