"""How much of the machine this process may use, by its control groups (cgroups(7)). Version 1 is not looked at."""

from __future__ import annotations

import os

MOUNT = "/sys/fs/cgroup"
"""Where version 2 of control groups is mounted, by convention and by every container runtime."""
GROUPS = "/proc/self/cgroup"


def group_limits(name: str, mount: str = MOUNT, groups: str = GROUPS) -> list[str]:
    """What the files called `name` say in the control groups above this process. What cannot be read is no limit.

    A container without a control group namespace sees the host's path, which is not below its mount; the mount itself
    is its own group then.
    """
    path = next((line[3:] for line in _read(groups).splitlines() if line.startswith("0::")), "")
    parts = [part for part in path.split("/") if part]
    found = [_read(os.path.join(mount, *parts[:depth], name)).strip() for depth in range(len(parts) + 1)]
    return [limit for limit in found if limit]


def available_memory(mount: str = MOUNT, groups: str = GROUPS) -> int:
    """Bytes that this process may use, with all others in its control groups: at most those of the machine."""
    limits = [
        int(limit)
        for name in ("memory.max", "memory.high")
        for limit in group_limits(name, mount, groups)
        if limit.isdigit()
    ]
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *limits])


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
