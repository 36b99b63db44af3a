#!/usr/bin/env python3
"""Derives ringserve's seccomp profile from a default profile: three more system calls, and nothing else.

    derive_seccomp.py                    writes seccomp.json from moby's default, and shows the difference
    derive_seccomp.py --check            writes nothing; status 1 if seccomp.json is not what would be written
    derive_seccomp.py --base B --output O   from another default, such as podman's /usr/share/containers/seccomp.json

The profile is compared as text as well as by meaning: who reads the difference between the two files sees one group of
lines that was added, and not a file that was written anew by another program.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BASE = HERE.parents[1] / "tests/image/seccomp-default.json"
"""moby's, byte for byte. It is among the tests, since containers run under it there."""
PROFILE = HERE / "seccomp.json"

CALLS = ("io_uring_enter", "io_uring_register", "io_uring_setup")
"""All that io_uring has (io_uring(7)); whatever is submitted through it, no filter sees."""
ALLOW = "SCMP_ACT_ALLOW"
COMMENT = "What ringserve needs beyond the default profile."
USER_ERROR = 2


class ProfileError(Exception):
    """A profile that nothing can be derived from; the message says why."""


def read(path: Path) -> str:
    """The text of a profile. Raises ProfileError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}; give a profile in docker's format by --base") from error


def parse(text: str, name: object) -> dict[str, Any]:
    """A profile in docker's format. Raises ProfileError."""
    try:
        profile = json.loads(text)
    except ValueError as error:
        raise ProfileError(f"{name}: no JSON: {error}") from error
    if not isinstance(profile, dict) or not isinstance(profile.get("syscalls"), list) or not profile["syscalls"]:
        raise ProfileError(f"{name}: no seccomp profile: it has no list `syscalls`")
    return profile


def _group() -> dict[str, Any]:
    return {"comment": COMMENT, "names": list(CALLS), "action": ALLOW}


def derive(base: str, name: object) -> str:
    """The text of the profile. base: the text of the default, `name` its file. Raises ProfileError.

    The calls get a group of their own before the others; in groups that refuse them by name they are left out, since
    two rules for one call contradict each other. A default that allows them already is refused: then nothing has to
    be derived, and to go on as if would hide that it is not the default that we mean.
    """
    profile = parse(base, name)
    for group in profile["syscalls"]:
        named = set(CALLS).intersection(group["names"])
        if named and group["action"] == ALLOW:
            raise ProfileError(f"{name}: it allows {', '.join(sorted(named))} already; use it as it is")
    if any(set(CALLS).intersection(group["names"]) for group in profile["syscalls"]):
        # Neither of the two that we know refuses them by name, so the text of such a one may be laid out anew.
        for group in profile["syscalls"]:
            group["names"] = [call for call in group["names"] if call not in CALLS]
        profile["syscalls"] = [_group(), *(group for group in profile["syscalls"] if group["names"])]
        return json.dumps(profile, indent="\t") + "\n"
    derived = _inserted(base)
    expected = {**profile, "syscalls": [_group(), *profile["syscalls"]]}
    try:
        right = json.loads(derived) == expected
    except ValueError:
        right = False
    if not right:
        raise ProfileError(f"{name}: its text is laid out in a way that a group cannot be inserted into")
    return derived


def _inserted(base: str) -> str:
    """The text with the group put in by lines, indented as the others are."""
    head, key, rest = base.partition('"syscalls": [\n')
    first = rest[: len(rest) - len(rest.lstrip())]
    step = "\t" if "\t" in first else first[: len(first) // 2]
    lines = json.dumps(_group(), indent=step).splitlines()
    return head + key + "".join(f"{first}{line}\n" for line in lines[:-1]) + f"{first}}},\n" + rest.rstrip() + "\n"


def difference(base: str, profile: str, base_name: object, name: object) -> str:
    """What was changed, as a unified difference."""
    # A final newline is none of the profile's; moby's file has none.
    before, after = (text.rstrip("\n").splitlines() for text in (base, profile))
    return "\n".join(difflib.unified_diff(before, after, str(base_name), str(name), n=2, lineterm=""))


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=BASE, help="the default profile [moby's, of tests/image]")
    parser.add_argument("--output", type=Path, default=PROFILE, help="the derived profile [seccomp.json]")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if the output is another")
    given = parser.parse_args(arguments)
    try:
        base = read(given.base)
        derived = derive(base, given.base)
        if given.check:
            present = read(given.output)
            if present != derived:
                print(difference(derived, present, "what is derived", given.output))
                print(f"{given.output} is not {given.base} plus the calls of io_uring", file=sys.stderr)
                return 1
        else:
            given.output.write_text(derived, encoding="utf-8")
    except ProfileError as error:
        print(f"derive_seccomp: {error}", file=sys.stderr)
        return USER_ERROR
    print(difference(base, derived, given.base.name, given.output.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
