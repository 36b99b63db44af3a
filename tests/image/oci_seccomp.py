"""A seccomp profile in docker's format as one in that of the OCI's runtimes: what docker and podman do before they run
a container, so that runc can be given the very file that users give to docker, and a kubelet's containerd too:

    python tests/image/oci_seccomp.py x86_64 < examples/docker/seccomp.json    # or aarch64: the nodes' machine

That prints the profile for a container without capabilities, on the oldest kernel that ringserve runs on.

Docker's format has groups that apply on some architectures, from some kernel on, or to containers with some capability;
the runtime's has none of that (runtime-spec, config-linux.md, Seccomp). The rules are those of moby's `setupSeccomp`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from typing import Any

ARCHITECTURES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
}
"""What uname(2) calls a machine: in the groups' conditions, and in the map of architectures."""


def to_oci(
    profile: Mapping[str, Any], machine: str, kernel: tuple[int, int], capabilities: Collection[str] = ()
) -> dict[str, Any]:
    """The profile for a container on this machine.

    machine: as uname(2) has it. kernel: major and minor version. capabilities: those in its bounding set.
    """
    if "architectures" in profile or any("name" in group for group in profile["syscalls"]):
        raise ValueError("a profile in an older format than docker's of today; none is known that ships one")
    name, architecture = ARCHITECTURES[machine]
    translated: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    if "defaultErrnoRet" in profile:
        translated["defaultErrnoRet"] = profile["defaultErrnoRet"]
    translated["architectures"] = next(
        [each["architecture"], *(each.get("subArchitectures") or ())]
        for each in profile["archMap"]
        if each["architecture"] == architecture
    )
    translated["syscalls"] = [
        _call(group) for group in profile["syscalls"] if _applies(group, name, kernel, frozenset(capabilities))
    ]
    return translated


def _applies(
    group: Mapping[str, Any], architecture: str, kernel: tuple[int, int], capabilities: frozenset[str]
) -> bool:
    """All conditions to include it hold, and none to exclude it does."""
    includes, excludes = group.get("includes") or {}, group.get("excludes") or {}
    if architecture in (excludes.get("arches") or ()) or capabilities.intersection(excludes.get("caps") or ()):
        return False
    if "minKernel" in excludes and kernel >= _version(excludes["minKernel"]):
        return False
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    if not capabilities.issuperset(includes.get("caps") or ()):
        return False
    return "minKernel" not in includes or kernel >= _version(includes["minKernel"])


def _version(text: str) -> tuple[int, int]:
    major, _dot, minor = text.partition(".")
    return int(major), int(minor)


def _call(group: Mapping[str, Any]) -> dict[str, Any]:
    call: dict[str, Any] = {"names": list(group["names"]), "action": group["action"]}
    if "errnoRet" in group:
        call["errnoRet"] = group["errnoRet"]
    if group.get("args"):
        call["args"] = [dict(each) for each in group["args"]]
    return call


if __name__ == "__main__":
    json.dump(to_oci(json.load(sys.stdin), sys.argv[1], (6, 1)), sys.stdout, indent="\t")
