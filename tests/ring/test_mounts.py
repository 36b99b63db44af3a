"""File systems that are mounted below a root, as the ring asks them. Only root can mount some."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ringserve.ring import open_world
from ringserve.ring.world import FileStatus, Loaded, Ring, Root

pytestmark = pytest.mark.usefixtures("io_uring")

TURNS_MAX = 2000
Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a file system at a name in `root`."""
    points: list[Path] = []

    def make(name: str, kind: str = "tmpfs") -> Path:
        point = tmp_path / "root" / name
        point.mkdir(parents=True, exist_ok=True)
        made = subprocess.run(["mount", "-t", kind, kind, point], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"FILE SYSTEMS BELOW A ROOT ARE NOT TESTED: {made.stderr.strip()}")
        points.append(point)
        return point

    yield make
    for point in reversed(points):
        subprocess.run(["umount", "-l", point], check=True)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    (tmp_path / "root").mkdir(exist_ok=True)
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    yield Root(fd)
    os.close(fd)


@pytest.fixture
def ring() -> Iterator[Ring]:
    opened = open_world().ring
    yield opened
    opened.shut()


def answer(ring: Ring, question: Callable[[int], Any]) -> Any:
    """What a question is answered, at once or later."""
    found = question(1)
    if found is not None:
        return found
    for _turn in range(TURNS_MAX):
        for user_data, res, _buffer, _more in ring.turn(0.01):
            assert user_data == 1
            return res or ring.take(1)
    pytest.fail("there is no answer")


def test_a_local_file_system_below_a_root_is_as_the_root_itself(ring: Ring, root: Root, mount: Mount) -> None:
    (mount("volume") / "page").write_bytes(b"page")
    changes = 2
    ring.await_changes(changes)
    list(ring.turn(0))
    assert isinstance(ring.look(None, root, b"volume/page"), FileStatus)
    loaded = ring.load(None, root, b"volume/page", 10, 10)
    assert isinstance(loaded, Loaded)
    assert (loaded.body, loaded.trusted) == (b"page", True)
    assert answer(ring, lambda user_data: ring.watch(user_data, root, b"volume")) > 0
    assert answer(ring, lambda user_data: ring.inventory(user_data, root, b"volume", 100)) == {b"page"}


@pytest.mark.parametrize("kind", ["tmpfs", "proc"])
def test_a_file_system_that_is_mounted_later_is_noticed(ring: Ring, root: Root, mount: Mount, kind: str) -> None:
    mount("earlier")
    assert isinstance(ring.look(None, root, b"earlier"), FileStatus)
    point = mount("volume", kind)
    found = answer(ring, lambda user_data: ring.look(user_data, root, b"volume"))
    assert (found.device, found.inode) == (point.stat().st_dev, point.stat().st_ino)
    assert (ring.look(None, root, b"volume") is None) is (kind == "proc")


def test_nothing_is_concluded_from_what_others_write_below_a_root(ring: Ring, root: Root, mount: Mount) -> None:
    mount("others", "proc")
    assert ring.look(None, root, b"others/version") is None
    assert answer(ring, lambda user_data: ring.watch(user_data, root, b"others")) == -errno.EOPNOTSUPP
    assert answer(ring, lambda user_data: ring.inventory(user_data, root, b"others", 100)) == -errno.EOPNOTSUPP
    loaded = answer(ring, lambda user_data: ring.load(user_data, root, b"others/version", 0, 0))
    assert not loaded.trusted
    assert loaded.file is None
    assert isinstance(answer(ring, lambda user_data: ring.look(user_data, root, b"others/version")), FileStatus)
    assert ring.hanging() == ()


def test_a_symbolic_link_leads_to_another_file_system_below_a_root(
    ring: Ring, root: Root, mount: Mount, tmp_path: Path
) -> None:
    (mount("volume") / "page").write_bytes(b"page")
    (tmp_path / "root" / "link").symlink_to("volume/page")
    (tmp_path / "root" / "volume" / "out").symlink_to("/etc")
    loaded = answer(ring, lambda user_data: ring.load(user_data, root, b"link", 10, 10))
    assert (loaded.body, loaded.trusted) == (b"page", False)
    found = answer(ring, lambda user_data: ring.look(user_data, root, b"volume/out"))
    assert found == -errno.EXDEV


def test_names_that_lead_to_another_file_system_are_listed(
    ring: Ring, root: Root, mount: Mount, tmp_path: Path
) -> None:
    (mount("volume") / "page").write_bytes(b"page")
    mount("others", "proc")
    (tmp_path / "root" / "directory").mkdir()
    (tmp_path / "root" / "directory" / "link").symlink_to("../volume/page")

    def listed(path: bytes) -> list[bytes]:
        names = answer(ring, lambda user_data: ring.names(user_data, root, path, 10, lambda name, _directory: name))
        return [named.name for named in names.found]

    assert listed(b"") == [b"directory", b"others", b"volume"]
    assert listed(b"directory/") == [b"link"]
    assert listed(b"volume/") == [b"page"]
