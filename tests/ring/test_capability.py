"""Why a ring is refused, and the strategies by which completions are noticed."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from ringserve.ring import capability
from ringserve.ring.capability import Circumstances, circumstances, explain_refusal, kernel_version
from ringserve.ring.interrupt import BUSY_POLL, KERNEL_THREAD, STRATEGIES, WAIT

NEW = "6.18.44-amd64"
FREE = Circumstances(NEW, sysctl=0, seccomp=0, privileged=False)


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.44-amd64", (6, 18)),
        ("6.1.0-18-amd64", (6, 1)),
        ("5.15.153.1-microsoft-standard-WSL2", (5, 15)),
        ("6.1-cloud", (6, 1)),
        ("6.1", (6, 1)),
        ("10.0.0", (10, 0)),
        ("", (0, 0)),
        ("6", (0, 0)),
        ("6.", (0, 0)),
        ("6.x", (0, 0)),
        ("x.1", (0, 0)),
        ("unknown", (0, 0)),
    ],
)
def test_a_kernel_version_is_read_from_its_release(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


@pytest.mark.parametrize(("release", "version"), [("6.0-1-generic", (6, 0)), ("6.1-rc3", (6, 1)), ("5.4-rt9", (5, 4))])
def test_only_the_leading_digits_are_the_minor_version(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


@pytest.mark.parametrize(
    ("error", "seen", "words"),
    [
        pytest.param(
            errno.EPERM, FREE._replace(sysctl=2), ["io_uring_disabled=2", "nobody", "on the host"], id="sysctl 2"
        ),
        pytest.param(
            errno.EPERM,
            FREE._replace(sysctl=2, privileged=True),
            ["io_uring_disabled=2", "nobody"],
            id="sysctl 2, root",
        ),
        pytest.param(
            errno.EPERM, FREE._replace(sysctl=2, seccomp=2), ["io_uring_disabled=2"], id="sysctl 2 before seccomp"
        ),
        pytest.param(
            errno.EPERM, FREE._replace(sysctl=1), ["io_uring_disabled=1", "kernel.io_uring_group"], id="sysctl 1"
        ),
        pytest.param(
            errno.EPERM, FREE._replace(sysctl=1, privileged=True, seccomp=2), ["seccomp", "EPERM"], id="sysctl 1, root"
        ),
        pytest.param(errno.ENOMEM, FREE._replace(sysctl=1), ["ulimit -l", "LimitMEMLOCK="], id="sysctl 1, no memory"),
        pytest.param(errno.ENOSYS, FREE._replace(kernel="5.10.0"), ["5.10.0", "too old", "6.1"], id="old, ENOSYS"),
        pytest.param(errno.EINVAL, FREE._replace(kernel="5.10.0"), ["5.10.0", "too old", "6.1"], id="old, EINVAL"),
        pytest.param(errno.EPERM, FREE._replace(kernel="5.10.0", seccomp=2), ["seccomp"], id="old, but EPERM"),
        pytest.param(errno.EPERM, FREE._replace(seccomp=2), ["seccomp", "EPERM", "seccomp.json"], id="seccomp, EPERM"),
        pytest.param(errno.ENOSYS, FREE._replace(seccomp=2), ["seccomp", "ENOSYS"], id="seccomp, ENOSYS"),
        pytest.param(errno.ENOSYS, FREE._replace(sysctl=None), [NEW, "CONFIG_IO_URING"], id="built without"),
        pytest.param(errno.ENOMEM, FREE._replace(seccomp=2), ["ulimit -l"], id="no memory"),
        pytest.param(errno.EMFILE, FREE, ["ulimit -n", "LimitNOFILE="], id="EMFILE"),
        pytest.param(errno.ENFILE, FREE, ["ulimit -n", "LimitNOFILE="], id="ENFILE"),
        pytest.param(errno.EPERM, FREE, ["EPERM", "SELinux"], id="a security module"),
        pytest.param(errno.EINVAL, FREE, ["EINVAL", os.strerror(errno.EINVAL)], id="an unexpected error"),
        pytest.param(9999, FREE, ["9999"], id="an unknown error"),
    ],
)
def test_a_refusal_is_one_line_that_names_who_and_the_remedy(error: int, seen: Circumstances, words: list[str]) -> None:
    said = explain_refusal(error, seen)
    assert "\n" not in said
    for word in words:
        assert word in said


def test_the_circumstances_are_read_from_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sysctl").write_text("1\n")
    (tmp_path / "status").write_text("Name:\tpython\nSeccomp:\t2\nSeccomp_filters:\t3\n")
    monkeypatch.setattr(capability, "SYSCTL", tmp_path / "sysctl")
    monkeypatch.setattr(capability, "Path", lambda _name: tmp_path / "status")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert circumstances() == Circumstances(os.uname().release, sysctl=1, seccomp=2, privileged=True)


def test_circumstances_that_cannot_be_read_are_unremarkable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(capability, "SYSCTL", tmp_path / "missing")
    monkeypatch.setattr(capability, "Path", lambda _name: tmp_path / "missing")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert circumstances() == Circumstances(os.uname().release, sysctl=None, seccomp=0, privileged=False)


def test_a_sysctl_that_is_no_number_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sysctl").write_text("rubbish\n")
    monkeypatch.setattr(capability, "SYSCTL", tmp_path / "sysctl")
    assert circumstances().sysctl is None


def test_a_status_without_a_seccomp_line_means_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\n")
    monkeypatch.setattr(capability, "Path", lambda _name: tmp_path / "status")
    assert circumstances().seccomp == 0


# -- interrupt --------------------------------------------------------------------------------------------------


def test_a_strategy_is_found_by_its_name() -> None:
    assert STRATEGIES == {"wait": WAIT, "busy-poll": BUSY_POLL, "kernel-thread": KERNEL_THREAD}
    assert all(re.fullmatch(r"[a-z-]+", name) and STRATEGIES[name].name == name for name in STRATEGIES)


def test_only_busy_polling_never_sleeps() -> None:
    assert [strategy for strategy in STRATEGIES.values() if not strategy.sleeps] == [BUSY_POLL]


def test_only_the_kernel_thread_has_a_thread_and_a_time_after_which_it_idles() -> None:
    assert [strategy for strategy in STRATEGIES.values() if strategy.kernel_thread] == [KERNEL_THREAD]
    assert [strategy for strategy in STRATEGIES.values() if strategy.kernel_thread_idle_ms] == [KERNEL_THREAD]


def test_every_strategy_says_what_it_means() -> None:
    assert all(strategy.meaning for strategy in STRATEGIES.values())
