"""Directories: what is read of one."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hostile_names import HOSTILE, MODIFIED, as_file_systems_have_it

from ringserve.files.directory import Item, items_of, ranking
from ringserve.ring.linux.directory import read_names, status_of
from ringserve.ring.world import FileStatus

NOBODY = 65534


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
        assert os.fstat(fd), "the descriptor stays its owner's"
    finally:
        os.close(fd)


def read_directory(fd: int, entries_max: int, at_root: bool) -> tuple[tuple[Item, ...], bool]:
    def look(name: bytes) -> FileStatus | int:
        try:
            return status_of(os.stat(name, dir_fd=fd))
        except OSError as error:
            return -(error.errno or errno.EIO)

    names = read_names(fd, entries_max, ranking(at_root), look)
    return items_of(names), names.truncated


def read(directory: Path, at_root: bool = False, entries_max: int = 1000) -> dict[bytes, Item]:
    with opened(directory) as fd:
        items, truncated = read_directory(fd, entries_max, at_root)
    assert not truncated
    assert len({item.name for item in items}) == len(items)
    return {item.name: item for item in items}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything, so the tests of what may not be read put it off for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_files_and_directories_are_read_with_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"12345")
    (tmp_path / "d").mkdir()
    os.utime(tmp_path / "a.txt", (1, MODIFIED + 0.75))
    os.utime(tmp_path / "d", (1, 2))
    assert read(tmp_path) == {b"a.txt": Item(b"a.txt", False, 5, MODIFIED), b"d": Item(b"d", True, 0, 2)}


def test_names_of_any_bytes_are_read(tmp_path: Path) -> None:
    names = {as_file_systems_have_it(name) for name in HOSTILE if not name.startswith(b".")}
    for name in names:
        os.close(os.open(os.path.join(os.fsencode(tmp_path), name), os.O_CREAT | os.O_WRONLY))
    assert set(read(tmp_path)) == names


def test_an_empty_directory_has_no_items(tmp_path: Path) -> None:
    assert read(tmp_path) == {}


def test_what_is_answered_by_404_is_left_out(tmp_path: Path) -> None:
    names = [".env", ".git", "ringserve.toml", "ringserve.toml~", "ringserve.toml.bak", "my-ringserve.toml"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / ".well-known").mkdir()
    assert set(read(tmp_path)) == {b"my-ringserve.toml"}
    assert set(read(tmp_path, at_root=True)) == {b"my-ringserve.toml", b".well-known"}


def test_what_is_neither_file_nor_directory_is_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener, opened(tmp_path) as fd:
        # By way of the descriptor, since the path of a socket has to be short.
        listener.bind(f"/proc/self/fd/{fd}/socket")
        os.symlink("/dev/null", tmp_path / "device")
        os.symlink("fifo", tmp_path / "link-to-fifo")
        assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)
        assert read(tmp_path) == {}


def test_links_show_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    (tmp_path / "directory").mkdir()
    os.symlink("file", tmp_path / "to-file")
    os.symlink("directory", tmp_path / "to-directory")
    os.symlink("to-file", tmp_path / "to-link")
    found = read(tmp_path)
    for name in (b"to-file", b"to-link"):
        assert found[name] == found[b"file"]._replace(name=name)
    assert found[b"to-directory"] == found[b"directory"]._replace(name=b"to-directory")


def test_links_to_nothing_are_left_out(tmp_path: Path) -> None:
    os.symlink("nowhere", tmp_path / "broken")
    os.symlink("circle", tmp_path / "circle")
    os.symlink("a" * 300, tmp_path / "too-long")
    assert read(tmp_path) == {}


def test_what_may_not_be_read_is_left_out(tmp_path: Path) -> None:
    for name, mode in (("open", 0o644), ("shut", 0o600 if os.geteuid() == 0 else 0)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    os.symlink("shut", tmp_path / "to-shut")
    directories = {"enter-only": 0o711, "read-only": 0o744, "shut-directory": 0o700}
    for name, mode in directories.items():
        (tmp_path / name).mkdir()
        # Whoever owns them is not looked at as `others`, so its bits are theirs.
        (tmp_path / name).chmod(mode if os.geteuid() == 0 else mode & 0o7 | (mode & 0o7) << 6)
    try:
        with opened(tmp_path) as fd:
            tmp_path.chmod(0o755)
            with as_nobody():
                items, _truncated = read_directory(fd, 100, False)
    finally:
        for name in directories:
            (tmp_path / name).chmod(0o755)
    assert {item.name for item in items} == {b"open", b"enter-only"}


def test_who_may_read_is_asked_by_the_effective_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    asked = {}

    def refuses_all_but_the_directory_itself(
        name: bytes, mode: int, *, dir_fd: int, effective_ids: bool, follow_symlinks: bool = True
    ) -> bool:
        assert effective_ids
        assert follow_symlinks
        assert stat.S_ISDIR(os.fstat(dir_fd).st_mode)
        asked[name] = mode
        return name == b"."

    monkeypatch.setattr(os, "access", refuses_all_but_the_directory_itself)
    assert read(tmp_path) == {}
    assert asked == {b".": os.X_OK, b"file": os.R_OK, b"directory": os.X_OK}


def test_a_directory_that_cannot_be_entered_is_refused_and_not_empty(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / "file").touch()
    with opened(directory) as fd:
        directory.chmod(0o444)
        try:
            with as_nobody(), pytest.raises(PermissionError) as refused:
                read_directory(fd, 10, False)
        finally:
            directory.chmod(0o755)
    assert refused.value.errno == errno.EACCES


def test_what_is_no_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=r"Not a directory|Permission denied"):
            read_directory(fd, 10, False)
    finally:
        os.close(fd)


@pytest.mark.parametrize(("entries_max", "truncated"), [(4, True), (5, False), (6, False), (0, True)])
def test_no_more_than_the_most_is_read(tmp_path: Path, entries_max: int, truncated: bool) -> None:
    for number in range(5):
        (tmp_path / str(number)).touch()
        (tmp_path / f".{number}").touch()  # what is left out does not count
    with opened(tmp_path) as fd:
        items, is_truncated = read_directory(fd, entries_max, False)
        assert len(items) == min(entries_max, 5)
        assert is_truncated is truncated
        again, _ = read_directory(fd, 10, False)
        assert len(again) == 5, "the descriptor can be read again"


@pytest.mark.parametrize("reverse", [False, True])
def test_beyond_the_most_the_first_by_name_are_read_directories_before_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reverse: bool
) -> None:
    for number in range(20):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"File {number}").touch()
    os.symlink(tmp_path, tmp_path / "link")  # the first of all, if it were looked where it leads to
    scan = os.scandir

    class InOrder:
        """A file system's order is its own."""

        def __init__(self, fd: int) -> None:
            with scan(fd) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=reverse)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self.entries)

        def __exit__(self, *_exception: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", InOrder)
    with opened(tmp_path) as fd:
        items, truncated = read_directory(fd, 24, False)
    assert truncated
    names = [item.name.decode() for item in items]
    assert names == [*(f"d{number}" for number in range(20)), *(f"File {number}" for number in range(4))]


def test_a_name_that_vanishes_meanwhile_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    look = os.stat

    def vanishes(name: bytes, *, dir_fd: int, follow_symlinks: bool = True) -> os.stat_result:
        if name == b"b":
            (tmp_path / "b").unlink()
        return look(name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", vanishes)
        assert set(read(tmp_path)) == {b"a", b"c"}


def test_a_file_that_becomes_a_link_meanwhile_is_looked_at_on_the_way_of_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / "a").touch()
    asked: list[bytes] = []
    stat_of = os.stat

    def swaps(name: bytes, *, dir_fd: int, follow_symlinks: bool = True) -> os.stat_result:
        assert not follow_symlinks
        (directory / "a").unlink()
        os.symlink(outside, directory / "a")
        return stat_of(name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    def look(name: bytes) -> int:
        asked.append(name)
        return -errno.EXDEV

    with opened(directory) as fd, monkeypatch.context() as patch:
        patch.setattr(os, "stat", swaps)
        assert read_names(fd, 10, ranking(True), look).found == ()
    assert asked == [b"a"]
