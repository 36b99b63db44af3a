"""A fresh Debian of the release that runs here, in a directory: what the wheel and the unit are tried on.

debootstrap unpacks it, from the mirror that this machine's own apt uses. Everything runs in mount namespaces of its
own, so that nothing stays mounted, however a run ends.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

FAILED = 1
USER_ERROR = 2
BUILDS_S = 900
"""A slow mirror; here it takes two minutes."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def fail(message: object, status: int = FAILED) -> NoReturn:
    """One line on stderr, and the exit status."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(status)


def run(command: Sequence[str | Path], *, timeout_s: float = BUILDS_S, env: dict[str, str] | None = None) -> str:
    """The output of a command, errors included. What fails is shown whole, and ends the script."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=timeout_s, env=env, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as expired:
        output = (expired.output or b"").decode(errors="replace")
        fail(f"{output}\n{' '.join(map(str, command))} did not end within {timeout_s:g} s")
    if done.returncode:
        fail(f"{done.stdout}\n{' '.join(map(str, command))} ended with status {done.returncode}")
    return done.stdout


def mirror() -> tuple[str, str]:
    """The release that runs here, and where apt gets it from."""
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    targets = run(["apt-get", "indextargets", "--format", "$(RELEASE) $(SITE)", "Created-By: Packages"])
    for line in targets.splitlines():
        suite, _blank, site = line.partition(" ")
        if suite == release:
            return release, site
    fail(f"apt has no source for the suite `{release}`, which runs here; add one to /etc/apt/sources.list", USER_ERROR)


def build(root: Path, packages: Sequence[str]) -> None:
    """Unpack a minimal Debian with these packages into an empty directory. As root."""
    if os.geteuid() != 0:
        fail("a Debian in a directory needs root: run it with sudo", USER_ERROR)
    release, site = mirror()
    print(f"unpacking a minimal Debian {release} with {', '.join(packages)}", flush=True)
    run(["unshare", "--mount", "debootstrap", "--variant=minbase", f"--include={','.join(packages)}", release, root,
         site])  # fmt: skip


def inside(root: Path, command: Sequence[str]) -> list[str]:
    """The command line that runs a command in there, with mounts and processes of its own; the network is shared."""
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--root={root}", "--wd=/", "--mount-proc",
            "/usr/bin/env", "-i", f"PATH={PATH}", "LC_ALL=C.UTF-8", "HOME=/root", *command]  # fmt: skip


COMPILER = re.compile(r"(.+-)?(cc|gcc|clang|tcc|c89|c99|as|ld)(-[\d.]+)?")


def unwanted(root: Path) -> Iterator[str]:
    """What would make an installation there prove nothing: a compiler, liburing, headers of Python."""
    for directory in ("usr/bin", "usr/local/bin", "opt"):
        for path in (root / directory).iterdir():
            if COMPILER.fullmatch(path.name):
                yield str(path.relative_to(root))
    for directory, _directories, names in os.walk(root):
        for name in names:
            if name.startswith("liburing") or name == "Python.h":
                yield str((Path(directory) / name).relative_to(root))
