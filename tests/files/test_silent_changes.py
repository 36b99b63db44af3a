"""What is served after changes that send no event to the directory that is watched, and after those that do.

Where others write to the file system, no change is trusted to tell of itself (`tests/ring/test_mountinfo.py`).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Serving
from wire import Wire, eventually, get

from ringserve.files import names, table

MS_BIND = 4096
MNT_DETACH = 2
IMPATIENCE = 20
"""The ten seconds and the one second are shorter by this."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (table.TRUSTED_S, names.FRESH_S) == (10.0, 1.0)
    monkeypatch.setattr(table, "TRUSTED_S", table.TRUSTED_S / IMPATIENCE)
    for module in ("table", "names"):
        monkeypatch.setattr(f"ringserve.files.{module}.FRESH_S", 1.0 / IMPATIENCE)


@pytest.fixture
def wire(serving: Serving, site: Path) -> Iterator[Wire]:
    """To a server of a directory with a page, of which it knows the names."""
    (site / "d").mkdir()
    (site / "d" / "page.html").write_bytes(b"old")
    os.utime(site / "d" / "page.html", (1, 1))
    running = serving()
    tree = running.server.shared.files._trees[0]

    def knows() -> bool:
        client.ask(get("/d/page.html"))
        place = tree.places.get(b"d/")
        return place is not None and place.names is not None

    with Wire(running.url) as client:
        eventually("the names are known", knows)
        yield client


def body(wire: Wire, path: str = "/d/page.html") -> bytes:
    return wire.ask(get(path)).body


def by_mmap(page: Path) -> None:
    with page.open("r+b") as file, mmap.mmap(file.fileno(), 3) as memory:
        memory[:] = b"new"


def by_another_name(page: Path) -> None:
    other = page.parent.parent / "other"
    os.link(page, other)
    other.write_bytes(b"new")


def by_mount(page: Path) -> None:
    over = page.parent.parent / "over"
    over.mkdir()
    (over / "page.html").write_bytes(b"new")
    mount(over, page.parent)


def mount(source: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None) < 0:
        pytest.skip(f"nothing can be mounted here: {os.strerror(ctypes.get_errno())}")


@pytest.fixture
def unmounted(site: Path) -> Iterator[None]:
    yield
    libc = ctypes.CDLL(None)
    while libc.umount2(os.fsencode(site / "d"), MNT_DETACH) == 0:
        pass


@pytest.mark.usefixtures("unmounted")
@pytest.mark.parametrize("change", [by_mmap, by_another_name, by_mount])
def test_a_change_that_sends_no_event_is_served_after_ten_seconds(
    wire: Wire, site: Path, change: Callable[[Path], None]
) -> None:
    assert body(wire) == b"old"
    change(site / "d" / "page.html")
    eventually("it shows", lambda: body(wire) == b"new")


@pytest.mark.usefixtures("unmounted")
def test_a_name_below_a_directory_that_is_mounted_over_is_found_after_a_second(wire: Wire, site: Path) -> None:
    assert wire.ask(get("/d/new.html")).status == 404
    (site / "over").mkdir()
    (site / "over" / "new.html").write_bytes(b"new")
    mount(site / "over", site / "d")
    eventually("it shows", lambda: body(wire, "/d/new.html") == b"new")


def test_a_change_behind_a_symbolic_link_is_served_after_a_second(wire: Wire, site: Path) -> None:
    # That of a configuration in Kubernetes: each file leads through a link to a directory that is swapped.
    (site / "..1").mkdir()
    (site / "..2").mkdir()
    (site / "..1" / "page").write_bytes(b"one")
    (site / "..2" / "page").write_bytes(b"two")
    (site / "..data").symlink_to("..1")
    (site / "linked").symlink_to("..data/page")
    assert body(wire, "/linked") == b"one"
    (site / "next").symlink_to("..2")
    os.replace(site / "next", site / "..data")
    eventually("it shows", lambda: body(wire, "/linked") == b"two")
    (site / "..2" / "page").write_bytes(b"three")
    eventually("it shows", lambda: body(wire, "/linked") == b"three")


def test_a_sibling_that_is_a_link_to_nothing_is_served_a_second_after_there_is_something(
    wire: Wire, site: Path
) -> None:
    (site / "d" / "page.html.gz").symlink_to("../coded")
    request = get("/d/page.html", "Accept-Encoding: gzip")
    assert wire.ask(request).body == b"old"
    (site / "coded").write_bytes(b"coded")
    eventually("it shows", lambda: wire.ask(request).body == b"coded")


def append(page: Path) -> None:
    with page.open("ab") as file:
        file.write(b"er")


def replace(page: Path) -> None:
    (page.parent / "new").write_bytes(b"new")
    os.replace(page.parent / "new", page)


def replace_directory(page: Path) -> None:
    page.parent.rename(page.parent.parent / "gone")
    page.parent.mkdir()
    page.write_bytes(b"new")


@pytest.mark.parametrize(
    ("change", "is_served"),
    [
        (lambda page: page.write_bytes(b"new"), b"new"),
        (append, b"older"),
        (lambda page: os.truncate(page, 1), b"o"),
        (lambda page: subprocess.run(["cp", "/dev/null", str(page)], check=True), b""),
        (replace, b"new"),
        (replace_directory, b"new"),
    ],
    ids=["written", "appended", "truncated", "by another process", "replaced", "its directory replaced"],
)
def test_a_change_that_sends_an_event_is_served_at_once(
    wire: Wire, site: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object], is_served: bytes
) -> None:
    monkeypatch.setattr(table, "TRUSTED_S", 1000.0)
    assert body(wire) == b"old"
    change(site / "d" / "page.html")
    assert body(wire) == is_served


@pytest.mark.parametrize("name", ["new.html", "deep/page.html"])
def test_a_name_that_comes_and_goes_is_served_at_once_where_the_names_are_known(
    wire: Wire, site: Path, name: str
) -> None:
    page = site / "d" / name
    for number in range(20):
        assert wire.ask(get(f"/d/{name}")).status == 404
        page.parent.mkdir(exist_ok=True)
        page.write_bytes(b"%d" % number)
        assert body(wire, f"/d/{name}") == b"%d" % number
        page.unlink()
        assert wire.ask(get(f"/d/{name}")).status == 404
        if page.parent != site / "d":
            page.parent.rmdir()
