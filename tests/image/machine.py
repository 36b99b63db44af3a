"""Where this machine gets its packages from: for the base image and for what is built in it.

A mirror or an index that is configured here has to be used in the build as well, and must stand in no file of the
repository. So it is asked of apt and pip themselves, which know all the places that a setting can come from.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

PIP_KEYS = (
    "index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "client-cert", "proxy", "timeout",
    "default-timeout", "retries",
)  # fmt: skip
"""pip's settings about the place that packages come from, and none about which ones."""
PIP_SECTIONS = ("global", "wheel", "install", ":env:")
"""Where they stand, the stronger the later; the environment is the strongest."""
INSIDE = "/run/machine"
"""Where a file of this machine is shown in the build."""


class MachineError(Exception):
    """The machine is not set up for the test; the message names the fix."""


class Sources(NamedTuple):
    """Of Debian packages. mirror: what debootstrap takes. lines: for sources.list."""

    mirror: str
    lines: list[str]


def apt_sources(suite: str) -> Sources:
    """The mirrors of a Debian release that apt uses here. Raises MachineError."""
    form = "$(ORIGIN)|$(SITE)|$(RELEASE)|$(COMPONENT)|$(CREATED_BY)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", form], capture_output=True, text=True, check=True
    ).stdout
    return read_targets(listed, suite)


def read_targets(listed: str, suite: str) -> Sources:
    """The sources by what apt lists: `origin|site|release|component|kind` on each line. Raises MachineError."""
    lines: list[str] = []
    mirror = None
    for target in listed.splitlines():
        origin, site, release, component, kind = target.split("|")
        if (origin, component, kind) != ("Debian", "main", "Packages"):
            continue
        if release == suite:
            mirror = mirror or site
        if release in (suite, f"{suite}-updates", f"{suite}-security"):
            line = f"deb {site} {release} main"
            lines += [line] if line not in lines else []
    if mirror is None:
        raise MachineError(f"apt knows no source of Debian {suite} main; add one and run `apt-get update`")
    return Sources(mirror, lines)


def apt_proxy() -> dict[str, str]:
    """The proxy that apt uses here, as the environment's variables; those that are set already stay."""
    found = {}
    for scheme in ("http", "https"):
        told = subprocess.run(
            ["apt-config", "shell", "PROXY", f"Acquire::{scheme}::Proxy"], capture_output=True, text=True, check=True
        ).stdout
        # apt quotes for a shell: PROXY='http://...'
        proxy = told.strip().removeprefix("PROXY=").strip("'")
        if proxy and proxy != "DIRECT" and f"{scheme}_proxy" not in os.environ:
            found[f"{scheme}_proxy"] = proxy
    return found


class PipConfiguration(NamedTuple):
    """text: a pip.conf. mounts: what it refers to on this machine, and where that is in the build."""

    text: str
    mounts: dict[str, str]


def pip_configuration() -> PipConfiguration:
    """What pip is told here, by files and environment."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    return read_pip(listed)


def read_pip(listed: str) -> PipConfiguration:
    """A configuration by what `pip config list` prints: `section.key='value'` on each line."""
    values: dict[str, tuple[int, str]] = {}
    for line in listed.splitlines():
        name, _equals, quoted = line.partition("=")
        section, _dot, key = name.rpartition(".")
        if key in PIP_KEYS and section in PIP_SECTIONS:
            strength = PIP_SECTIONS.index(section)
            if key not in values or values[key][0] <= strength:
                values[key] = strength, str(ast.literal_eval(quoted))
    mounts: dict[str, str] = {}
    lines = ["[global]"]
    for key, (_strength, value) in sorted(values.items()):
        words = [_shown_inside(word, mounts, is_index=key.endswith("index-url")) for word in value.split()]
        lines.append(f"{key} = {' '.join(words)}")
    return PipConfiguration("\n".join([*lines, ""]), mounts)


def _shown_inside(word: str, mounts: dict[str, str], *, is_index: bool) -> str:
    """A word of a setting; a path of this machine is replaced by the one in the build, and its mount is noted.

    Of an index it is the directory above it: the links of its pages are relative, and lead to where the files lie.
    """
    scheme = "file://" if word.startswith("file://") else ""
    path = Path(word.removeprefix("file://"))
    if not path.is_absolute() or not path.exists():
        return word
    shown = path.parent if is_index else path
    inside = mounts.setdefault(str(shown), f"{INSIDE}/{len(mounts)}")
    return f"{scheme}{inside}/{path.name}" if is_index else f"{scheme}{inside}"
