"""The seccomp profile of the container: derived, and as a runtime gets it; and what a build takes from a machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import derive_seccomp
import pytest
from machine import MachineError, read_pip, read_targets
from oci_seccomp import to_oci

CALLS = ["io_uring_enter", "io_uring_register", "io_uring_setup"]
GROUP = {"comment": derive_seccomp.COMMENT, "names": CALLS, "action": "SCMP_ACT_ALLOW"}


def text(*groups: dict[str, Any]) -> str:
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(groups)}, indent="\t")


def allowing(*names: str, **conditions: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **conditions}


# -- deriving ---------------------------------------------------------------------------------------------------


def test_the_profile_is_the_default_plus_three_calls_and_nothing_else() -> None:
    assert derive_seccomp.main(["--check"]) == 0
    ours, default = (json.loads(path.read_text()) for path in (derive_seccomp.PROFILE, derive_seccomp.BASE))
    assert ours["syscalls"][0] == GROUP
    assert {**ours, "syscalls": ours["syscalls"][1:]} == default


@pytest.mark.parametrize(
    "changed", [("io_uring_enter", "ptrace"), ('"accept",', ""), ("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW")]
)
def test_a_profile_with_another_difference_is_noticed(
    tmp_path: Path, changed: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    present = tmp_path / "seccomp.json"
    present.write_text(derive_seccomp.PROFILE.read_text().replace(*changed, 1))
    assert derive_seccomp.main(["--check", "--output", str(present)]) == 1
    assert "is not" in capsys.readouterr().err


def test_what_is_derived_differs_by_added_lines_only() -> None:
    base = text(allowing("accept"))
    derived = derive_seccomp.derive(base, "base")
    shown = derive_seccomp.difference(base, derived, "base", "derived").splitlines()[2:]
    assert not [line for line in shown if line.startswith("-")]
    assert [line.strip('+\t",') for line in shown if "io_uring" in line] == CALLS


def test_a_default_that_refuses_the_calls_by_name_does_no_more() -> None:
    refusing = {"names": ["bdflush", *CALLS], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    only = {"names": ["io_uring_setup"], "action": "SCMP_ACT_ERRNO"}
    derived = json.loads(derive_seccomp.derive(text(refusing, only, allowing("accept")), "base"))
    assert derived["syscalls"] == [GROUP, {**refusing, "names": ["bdflush"]}, allowing("accept")]


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (text(allowing("accept", "io_uring_setup")), "allows io_uring_setup already"),
        ("{", "no JSON"),
        ("[]", "no list"),
        ('{"syscalls": []}', "no list"),
        (json.dumps(json.loads(text(allowing("accept")))), "cannot be inserted"),
    ],
)
def test_a_default_that_nothing_can_be_derived_from_is_one_line(
    tmp_path: Path, base: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "base.json", tmp_path / "output.json"
    path.write_text(base)
    assert derive_seccomp.main(["--base", str(path), "--output", str(output)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"derive_seccomp: {path}: ")
    assert said.count("\n") == 1
    assert words in said
    assert not output.exists()


def test_a_default_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert derive_seccomp.main(["--base", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


# -- for a runtime ----------------------------------------------------------------------------------------------

ARCH_MAP = [
    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
    {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": None},
]


def names(*groups: dict[str, Any], capabilities: tuple[str, ...] = (), kernel: tuple[int, int] = (6, 18)) -> list[str]:
    """The calls for which a rule is left, on x86-64."""
    docker = {"defaultAction": "SCMP_ACT_ERRNO", "archMap": ARCH_MAP, "syscalls": list(groups)}
    return [name for call in to_oci(docker, "x86_64", kernel, capabilities)["syscalls"] for name in call["names"]]


def test_groups_for_this_architecture_kernel_and_these_capabilities_are_left() -> None:
    assert names(allowing("a", includes={"arches": ["amd64", "x32"]}), allowing("b", includes={"arches": ["arm"]})) == [
        "a"
    ]
    assert names(allowing("a", excludes={"arches": ["arm"]}), allowing("b", excludes={"arches": ["amd64"]})) == ["a"]
    groups = allowing("a", includes={"caps": ["CAP_BPF"]}), allowing("b", excludes={"caps": ["CAP_BPF"]})
    assert names(*groups) == ["b"]
    assert names(*groups, capabilities=("CAP_BPF",)) == ["a"]
    groups = allowing("a", includes={"minKernel": "4.8"}), allowing("b", excludes={"minKernel": "4.8"})
    assert names(*groups, kernel=(4, 8)) == names(*groups, kernel=(4, 10)) == ["a"]
    assert names(*groups, kernel=(4, 7)) == ["b"]
    assert names(allowing("a", includes={}, excludes={}), allowing("b", includes={"caps": []})) == ["a", "b"]


def test_errors_arguments_and_architectures_are_kept_and_comments_are_not() -> None:
    argument = {"index": 0, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ"}
    group = {"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "args": [argument], "comment": "why"}
    docker = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "archMap": ARCH_MAP, "syscalls": [group]}
    assert to_oci(docker, "aarch64", (6, 1)) == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "args": [argument]}],
    }
    assert to_oci(docker, "riscv64", (6, 1))["architectures"] == ["SCMP_ARCH_RISCV64"]


# -- where packages come from -----------------------------------------------------------------------------------


def test_the_mirrors_of_a_release_are_those_of_apt() -> None:
    listed = "\n".join(
        [
            "Other|http://other.example/apt|bookworm|main|Packages",
            "Debian|http://mirror.example/debian|bookworm|main|Packages",
            "Debian|http://mirror.example/debian|bookworm|main|Packages",
            "Debian|http://mirror.example/debian|bookworm|contrib|Packages",
            "Debian|http://mirror.example/security|bookworm-security|main|Packages",
            "Debian|http://mirror.example/debian|trixie|main|Packages",
        ]
    )
    mirror, lines = read_targets(listed, "bookworm")
    assert mirror == "http://mirror.example/debian"
    assert lines == [
        "deb http://mirror.example/debian bookworm main",
        "deb http://mirror.example/security bookworm-security main",
    ]
    with pytest.raises(MachineError, match="no source of Debian sid main"):
        read_targets(listed, "sid")


def test_the_settings_of_pip_are_passed_on_with_what_they_name(tmp_path: Path) -> None:
    (tmp_path / "index/simple").mkdir(parents=True)
    (tmp_path / "certificates").write_bytes(b"")
    listed = "\n".join(
        [
            ":env:.cert='/nowhere'",
            f"global.cert='{tmp_path}/certificates'",
            f"global.extra-index-url='https://packages.example/simple file://{tmp_path}/index/simple'",
            f"global.find-links='{tmp_path}/certificates'",
            "global.constraint='/etc/constraints.txt'",
            "list.format='json'",
        ]
    )
    text, mounts = read_pip(listed)
    assert mounts == {f"{tmp_path}/index": "/run/machine/0", f"{tmp_path}/certificates": "/run/machine/1"}
    assert text.splitlines() == [
        "[global]",
        "cert = /nowhere",
        "extra-index-url = https://packages.example/simple file:///run/machine/0/simple",
        "find-links = /run/machine/1",
    ]
    assert read_pip("") == ("[global]\n", {})
