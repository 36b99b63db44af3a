"""`ringserve doctor`: whether a ring can be had here, who may refuse it, and which limits of this system matter."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path
from typing import NamedTuple

from ringserve.ring.capability import Circumstances, circumstances
from ringserve.ring.uring.ring import UringRing
from ringserve.ring.world import RingOptions, RingRefusedError
from ringserve.version import __version__


class Finding(NamedTuple):
    """One row. state: yes, no, or a figure. note: what ringserve makes of it, or what it costs."""

    name: str
    state: str
    note: str
    good: bool = True


class Report(NamedTuple):
    """The whole table, by section. works: a ring could be had and received through provided buffers."""

    sections: dict[str, list[Finding]]
    works: bool


SMALL_NOFILE = 4096
SMALL_PIPE = 128 * 1024


def examine() -> Report:
    """Look at the kernel, the process and their limits."""
    seen = circumstances()
    sections = {
        "System": [
            Finding("ringserve", __version__, ""),
            Finding("Python", platform.python_version(), ""),
            Finding("kernel", seen.kernel, "ringserve needs Linux 6.1 or later"),
            Finding("processors", str(len(os.sched_getaffinity(0))), "ringserve uses one for each server"),
        ],
    }
    try:
        ring = UringRing(RingOptions())
    except RingRefusedError as error:
        sections["Who may refuse"] = _refusers(seen, refused=True)
        sections["Ring"] = [Finding("io_uring", "no", str(error), False)]
        sections["Limits"] = _limits()
        return Report(sections, False)
    try:
        figures = ring.figures
        sections["Who may refuse"] = _refusers(seen, refused=False)
        sections["Ring"] = [
            Finding("io_uring", "yes", "a ring was set up, and a receive went through it"),
            Finding("provided buffers", "yes", "multishot receives need no buffer for each idle connection"),
            Finding(
                "queues",
                f"{figures['submission_entries']}/{figures['completion_entries']}",
                "submissions and completions",
            ),
        ]
    finally:
        ring.shut()
    sections["Limits"] = _limits()
    return Report(sections, True)


def _refusers(seen: Circumstances, *, refused: bool) -> list[Finding]:
    # A filter that lets io_uring through, as examples/docker/seccomp.json does, is nothing to worry about.
    seccomp = {0: "none", 1: "strict", 2: "filter"}.get(seen.seccomp, str(seen.seccomp))
    sysctl = "absent" if seen.sysctl is None else str(seen.sysctl)
    return [
        Finding(
            "seccomp",
            seccomp,
            "a filter may refuse io_uring, as docker's default profile does",
            not (refused and seen.seccomp),
        ),
        Finding(
            "kernel.io_uring_disabled",
            sysctl,
            "0: everybody may use it; 1: a group; 2: nobody",
            not (refused and seen.sysctl),
        ),
    ]


def _limits() -> list[Finding]:
    _soft, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft_locked, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    pipe_bytes = _number("/proc/sys/fs/pipe-max-size")
    return [
        Finding(
            "RLIMIT_NOFILE", str(files), "bounds the connections; raise it with ulimit -n or LimitNOFILE=",
            files >= SMALL_NOFILE,
        ),
        Finding("RLIMIT_MEMLOCK", _bytes(soft_locked), "some kernels (6.18) count 170 KiB a worker against the user"),
        Finding(
            "fs.pipe-max-size", _bytes(pipe_bytes), "--pipe-bytes is lowered to it for users without privilege",
            pipe_bytes >= SMALL_PIPE,
        ),
        Finding(
            "fs.pipe-user-pages-soft", str(_number("/proc/sys/fs/pipe-user-pages-soft")),
            "pages of all pipes of a user; beyond it a pipe has two, and large files leave slowly",
        ),
        Finding(
            "net.core.somaxconn", str(_number("/proc/sys/net/core/somaxconn")), "connections waiting to be accepted"
        ),
        Finding(
            "fs.inotify.max_user_watches", str(_number("/proc/sys/fs/inotify/max_user_watches")),
            "directories whose changes are seen at once; others within a second",
        ),
    ]  # fmt: skip


def _number(path: str) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return 0


def _bytes(count: int) -> str:
    if count < 0 or count == resource.RLIM_INFINITY:
        return "unlimited"
    return f"{count // 1024} KiB"


def render(report: Report) -> str:
    """The table as text: a mark, the name, its state, and what follows from it."""
    rows = [row for found in report.sections.values() for row in found]
    name_width = max(len(row.name) for row in rows)
    state_width = max(len(row.state) for row in rows)
    lines = []
    for title, found in report.sections.items():
        lines.append(title)
        lines += [
            f"  {'ok' if row.good else '!!'}  {row.name:<{name_width}}  {row.state:<{state_width}}  {row.note}".rstrip()
            for row in found
        ]
        lines.append("")
    lines.append("ringserve works here." if report.works else "ringserve cannot run here; see the line of io_uring.")
    return "\n".join(lines)
