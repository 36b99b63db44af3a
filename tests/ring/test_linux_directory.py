"""Reading a directory: what the file system says of it. What its names stand for is in test_ring_contract.py."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringserve.ring.linux.directory import FS_CASEFOLD_FL, FS_IOC_GETFLAGS, LONG, inventory


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "Name").touch()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(("flags", "found"), [(FS_CASEFOLD_FL | 1, -errno.EOPNOTSUPP), (1, frozenset((b"Name",)))])
def test_a_directory_that_folds_case_has_no_inventory(
    directory: int, monkeypatch: pytest.MonkeyPatch, flags: int, found: object
) -> None:
    def ioctl(fd: int, request: int, argument: bytes) -> bytes:
        assert (fd, request, len(argument)) == (directory, FS_IOC_GETFLAGS, LONG.size)
        return LONG.pack(flags)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert inventory(directory, 100) == found


def test_a_file_system_without_flags_folds_no_case(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(*_asked: object) -> bytes:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert inventory(directory, 100) == frozenset((b"Name",))


def test_a_directory_that_may_not_be_entered_has_no_inventory(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_asked, **_how: False)
    assert inventory(directory, 100) == -errno.EACCES
