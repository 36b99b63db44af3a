"""Why a ring was refused, and what to do about it: pure text from facts, so that every case can be tested.

Three things refuse io_uring: a seccomp filter (docker's and containerd's default profiles; EPERM or ENOSYS, by
runtime), the sysctl kernel.io_uring_disabled (EPERM; since Linux 6.6), and a kernel too old or built without it
(ENOSYS, or EINVAL from what it does not know yet). They look alike from inside, so the facts are gathered here.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

OLDEST_KERNEL = (6, 1)
SYSCTL = Path("/proc/sys/kernel/io_uring_disabled")


class Circumstances(NamedTuple):
    """What the process can see of who might refuse it a ring.

    sysctl: the value of kernel.io_uring_disabled, or None where the kernel has none.
    seccomp: the process's seccomp mode from /proc/self/status: 0 none, 1 strict, 2 filter.
    """

    kernel: str
    sysctl: int | None
    seccomp: int
    privileged: bool


def circumstances() -> Circumstances:
    """Those of this process."""
    return Circumstances(os.uname().release, _sysctl(), _seccomp(), os.geteuid() == 0)


def _sysctl() -> int | None:
    try:
        return int(SYSCTL.read_text())
    except (OSError, ValueError):
        return None


def _seccomp() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("Seccomp:")), 0)


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 18) of `6.18.44-amd64`; (0, 0) of what cannot be read."""
    parts = release.split(".")
    try:
        minor = parts[1]
        digits = len(minor) - len(minor.lstrip("0123456789"))
        return int(parts[0]), int(minor[:digits])
    except (IndexError, ValueError):
        return (0, 0)


def explain_refusal(error: int, seen: Circumstances) -> str:
    """One line: who refused io_uring_setup with errno `error`, and the remedy."""
    if seen.sysctl == 2 or (seen.sysctl == 1 and error == errno.EPERM and not seen.privileged):
        who = "nobody" if seen.sysctl == 2 else "only privileged processes and the group kernel.io_uring_group"
        return (
            f"io_uring is switched off by the sysctl kernel.io_uring_disabled={seen.sysctl} ({who} may use it); "
            "run `sysctl kernel.io_uring_disabled=0` on the host"
        )
    if kernel_version(seen.kernel) < OLDEST_KERNEL and error in (errno.ENOSYS, errno.EINVAL):
        return (
            f"the kernel {seen.kernel} is too old: ringserve needs io_uring as of Linux 6.1; run it on a newer kernel"
        )
    if seen.seccomp and error in (errno.EPERM, errno.ENOSYS):
        return (
            f"a seccomp filter refuses io_uring ({errno.errorcode[error]}), as the default profiles of docker and "
            "containerd do; run the container with --security-opt seccomp=examples/docker/seccomp.json"
        )
    if error == errno.ENOSYS:
        return f"the kernel {seen.kernel} was built without io_uring; run ringserve on one that has CONFIG_IO_URING"
    if error == errno.ENOMEM:
        return "no memory for an io_uring: raise the limit of locked memory (ulimit -l, LimitMEMLOCK=) or free some"
    if error in (errno.EMFILE, errno.ENFILE):
        return "no descriptor left for an io_uring: raise the limit of open files (ulimit -n, LimitNOFILE=)"
    if error == errno.EPERM:
        return (
            "io_uring is refused (EPERM) though neither the sysctl nor a seccomp filter shows: a security module "
            "such as SELinux may forbid it; allow io_uring for this process"
        )
    return f"io_uring cannot be set up: {errno.errorcode.get(error, error)} ({os.strerror(error)})"
