"""Makes examples/kubernetes/seccomp.json of examples/docker/seccomp.json: `python scripts/kubernetes_seccomp.py`.

Docker's profile has conditions (`includes`, `excludes`: by capability, architecture, kernel), which docker resolves for
each container. What a kubelet hands to containerd is read as the OCI runtime specification has it, which knows no
conditions: they would be overlooked, and mount, bpf and any clone be let through. Here they are resolved once, for a
container without capabilities on amd64 or arm64, and Linux 6.1 or later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SOURCE = EXAMPLES / "docker/seccomp.json"
MADE = EXAMPLES / "kubernetes/seccomp.json"
ARCHITECTURES = {"amd64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                 "arm64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]}  # fmt: skip


def applies(rule: dict[str, Any]) -> bool:
    """Whether a rule's conditions hold. A minimal kernel does: there is none above 6.1 in the profile."""
    includes, excludes = rule.get("includes", {}), rule.get("excludes", {})
    kernel = tuple(map(int, includes.get("minKernel", "0.0").split(".")))
    if kernel > (6, 1) or "minKernel" in excludes:
        raise ValueError(f"a condition that is not known here: {rule}")
    here = not includes.get("arches") or set(includes["arches"]) & set(ARCHITECTURES)
    return bool(here) and not includes.get("caps") and not set(excludes.get("arches", ())) & set(ARCHITECTURES)


def resolve(profile: dict[str, Any]) -> dict[str, Any]:
    """The profile without conditions."""
    rules = [
        {key: value for key, value in rule.items() if key in ("names", "action", "errnoRet", "args")}
        for rule in profile["syscalls"]
        if applies(rule)
    ]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [name for names in ARCHITECTURES.values() for name in names],
        "syscalls": rules,
    }


def made() -> str:
    """The text of the file."""
    return json.dumps(resolve(json.loads(SOURCE.read_text())), indent="\t") + "\n"


if __name__ == "__main__":
    MADE.write_text(made())
