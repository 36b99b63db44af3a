"""Listings of directories that change, that are slow to read, or that cannot be read."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Serving
from permissions import serving_as_a_user
from wire import TIMEOUT_S, Answer, Wire, eventually, get

from ringserve.ring.linux import directory
from ringserve.ring.linux.directory import read_names

EACH_PATH = pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "general"])
ACCEPT = "Accept: application/json"


def ask(wire: Wire, path: str = "/") -> dict[str, int | None]:
    """The names in a listing, with their sizes; None for directories. Asked for twice: the second time, it can be the
    hot path that answers.
    """
    first, second = wire.ask(get(path, ACCEPT)), wire.ask(get(path, ACCEPT))
    assert first.status == second.status == 200, first.raw
    assert first.body == second.body
    return {entry["name"]: entry["size"] for entry in json.loads(first.body)["entries"]}


# -- what changes -----------------------------------------------------------------------------------------------


@EACH_PATH
@pytest.mark.parametrize("path", ["/", "/sub/", "/sub/deep/"])
def test_every_change_shows_at_once(serving: Serving, site: Path, hot_path: bool, path: str) -> None:
    directory = site / path.strip("/")
    directory.mkdir(parents=True, exist_ok=True)
    running = serving(listing=True, hot_path=hot_path)
    with Wire(running.url) as wire, Wire(running.url) as other:
        for number in range(10):
            for client in (wire, other):
                assert ask(client, path) == {}
            (directory / "new").write_bytes(bytes(number))
            assert ask(wire, path) == {"new": number}
            with (directory / "new").open("ab") as file:
                file.write(b"more")
            assert ask(other, path) == {"new": number + 4}
            (directory / "new").rename(directory / "renamed")
            assert ask(wire, path) == {"renamed": number + 4}
            os.truncate(directory / "renamed", 1)
            assert ask(wire, path) == {"renamed": 1}
            (directory / "subdirectory").mkdir()
            assert ask(other, path) == {"renamed": 1, "subdirectory": None}
            (directory / "subdirectory").rmdir()
            (directory / "link").symlink_to("renamed")
            assert ask(wire, path) == {"renamed": 1, "link": 1}
            (directory / ".hidden").write_bytes(b"")
            assert ask(wire, path) == {"renamed": 1, "link": 1}
            (directory / "renamed").unlink()
            assert ask(wire, path) == {}, "the link leads nowhere now"
            (directory / "link").unlink()
            (directory / ".hidden").unlink()
    assert bool(running.server.listening[0].hot_answers) is hot_path


def test_a_new_time_shows_at_once(serving: Serving, site: Path) -> None:
    (site / "page").write_bytes(b"page")
    with Wire(serving(listing=True).url) as wire:
        for second in range(20):
            os.utime(site / "page", (1_000_000_000, 1_000_000_000 + second))
            for _ in range(2):
                (entry,) = json.loads(wire.ask(get("/", ACCEPT)).body)["entries"]
                assert entry["modified"].endswith(f"01:46:{40 + second}Z")


def test_a_validator_holds_for_as_long_as_nothing_changes(serving: Serving, site: Path) -> None:
    with Wire(serving(listing=True).url) as wire:
        for number in range(10):
            tag = wire.ask(get("/", ACCEPT)).fields["etag"]
            for _ in range(3):
                assert wire.ask(get("/", ACCEPT, f"If-None-Match: {tag}")).status == 304
            (site / f"file{number}").write_bytes(b"")
            assert wire.ask(get("/", ACCEPT, f"If-None-Match: {tag}")).status == 200


@EACH_PATH
def test_a_directory_that_goes_and_comes_is_noticed_at_once(serving: Serving, site: Path, hot_path: bool) -> None:
    with Wire(serving(listing=True, hot_path=hot_path).url) as wire:
        for number in range(10):
            for _ in range(2):
                assert wire.ask(get("/sub/", ACCEPT)).status == 404
                assert wire.ask(get("/sub", ACCEPT)).status == 404
            (site / "sub").mkdir()
            (site / "sub" / f"file{number}").write_bytes(b"")
            assert ask(wire, "/sub/") == {f"file{number}": 0}
            assert wire.ask(get("/sub", ACCEPT)).status == 308
            (site / "sub").rename(site / "moved")
            assert wire.ask(get("/sub/", ACCEPT)).status == 404
            assert ask(wire, "/moved/") == {f"file{number}": 0}
            shutil.rmtree(site / "moved")


@EACH_PATH
def test_an_index_that_comes_takes_the_place_of_the_listing_until_it_goes(
    serving: Serving, site: Path, hot_path: bool
) -> None:
    (site / "sub").mkdir()
    running = serving(listing=True, hot_path=hot_path)
    with Wire(running.url) as wire:
        for _ in range(20):
            assert ask(wire, "/sub/") == {}
            (site / "sub" / "index.html").write_bytes(b"index")
            for _again in range(2):
                assert wire.ask(get("/sub/", ACCEPT)).body == b"index"
            (site / "sub" / "index.html").unlink()
    assert bool(running.server.listening[0].hot_answers) is hot_path


def test_a_directory_behind_a_link_that_is_switched_is_noticed_at_once(serving: Serving, site: Path) -> None:
    with Wire(serving(listing=True).url) as wire:
        for number in range(10):
            (site / f"release{number}").mkdir()
            (site / f"release{number}" / f"file{number}").write_bytes(b"")
            (site / "next").symlink_to(f"release{number}")
            os.replace(site / "next", site / "current")
            assert ask(wire, "/current/") == {f"file{number}": 0}
            (site / f"release{number}" / "more").write_bytes(b"")
            assert ask(wire, "/current/") == {f"file{number}": 0, "more": 0}


@pytest.mark.usefixtures("only_looks")
def test_without_inotify_a_look_shows_changes(serving: Serving, site: Path) -> None:
    with Wire(serving(listing=True).url) as wire:
        assert ask(wire) == {}
        (site / "file").write_bytes(b"123")
        assert ask(wire) == {"file": 3}
        (site / "file").write_bytes(b"12345")
        assert ask(wire) == {"file": 5}
        (site / "file").unlink()
        assert ask(wire) == {}


# -- links ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("follow_symlinks", [False, True])
def test_what_is_named_is_what_would_be_served(
    serving: Serving, site: Path, tmp_path: Path, follow_symlinks: bool
) -> None:
    outside = tmp_path / "outside"
    (outside / "directory").mkdir(parents=True)
    (outside / "file").write_bytes(b"outside")
    (site / "directory").mkdir()
    (site / "file").write_bytes(b"inside")
    for name, target in {
        "to-file": "file",
        "to-directory": "directory",
        "around": "directory/../file",
        "absolute": str(site / "file"),
        "out-to-file": str(outside / "file"),
        "out-to-directory": str(outside / "directory"),
        "up": "../outside/file",
        "to-out": "up",
        "broken": "nothing",
        "circle": "circle",
        "beyond-a-file": "file/x",
        "to-the-root-of-all": "/",
        ".hidden-link": "file",
        "to-hidden": ".hidden",
    }.items():
        (site / name).symlink_to(target)
    (site / ".hidden").write_bytes(b"hidden")
    os.mkfifo(site / "fifo")
    inside = {"file", "directory", "to-file", "to-directory", "around"}
    # Beneath the root an absolute link leads out, whatever it stands for (openat2(2), RESOLVE_BENEATH).
    beyond = {"absolute", "out-to-file", "out-to-directory", "up", "to-out", "to-the-root-of-all"}
    expected = inside | beyond if follow_symlinks else inside
    with Wire(serving(listing=True, follow_symlinks=follow_symlinks).url) as wire:
        named = set(ask(wire))
        # Whoever links to a hidden file serves it by the link's name; what counts is that the listing agrees.
        assert named - {"to-hidden"} == expected
        for name in os.listdir(site):
            status = wire.ask(get(f"/{name}", ACCEPT)).status
            assert (status in (200, 308)) is (name in named), (name, status)


# -- slow directories -------------------------------------------------------------------------------------------


class SlowDirectories:
    """Directories that are read when the test lets them. began: as often as the reading of one has begun."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.began = 0
        self.ended = 0
        self._lock = threading.Lock()

    def read(self, *arguments: Any) -> Any:
        with self._lock:
            self.began += 1
        try:
            assert self.opened.wait(TIMEOUT_S)
            return read_names(*arguments)
        finally:
            with self._lock:
                self.ended += 1


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDirectories]:
    made = SlowDirectories()
    monkeypatch.setattr(directory, "read_names", made.read)
    yield made
    made.opened.set()
    eventually("every reading has ended", lambda: made.ended == made.began)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def reset(client: socket.socket) -> None:
    """Close with RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_others_are_served_while_a_directory_is_read_and_those_who_ask_for_it_share_the_reading(
    slow: SlowDirectories, serving: Serving, site: Path
) -> None:
    (site / "slow").mkdir()
    (site / "slow" / "file").write_bytes(b"123")
    running = serving(listing=True)
    with Wire(running.url) as first, Wire(running.url) as second, Wire(running.url) as other:
        first.send(get("/slow/", ACCEPT))
        eventually("it is being read", lambda: slow.began == 1)
        second.send(get("/slow/", ACCEPT))
        for _again in range(10):
            assert other.ask(get("/slow/file")).body == b"123"
            assert other.ask(get("/missing")).status == 404
        assert slow.began == 1
        slow.opened.set()
        for wire in (first, second):
            assert [entry["name"] for entry in json.loads(wire.answer().body)["entries"]] == ["file"]


def test_a_change_while_a_directory_is_read_shows_in_the_next_listing(
    slow: SlowDirectories, serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[threading.Event] = []

    def read_and_wait(*arguments: Any) -> Any:
        found = read_names(*arguments)
        read.append(threading.Event())
        slow.read(*arguments)
        return found  # what there was before the change

    monkeypatch.setattr(directory, "read_names", read_and_wait)
    with Wire(serving(listing=True).url) as wire:
        wire.send(get("/", ACCEPT))
        eventually("it is read", lambda: slow.began == 1)
        (site / "file").write_bytes(b"")
        slow.opened.set()
        wire.answer()
        assert ask(wire) == {"file": 0}


def test_a_directory_that_no_helper_can_read_now_is_refused_for_now(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "page").write_bytes(b"page")
    monkeypatch.setattr("ringserve.ring.helpers.THREADS", 0)
    monkeypatch.setattr("ringserve.ring.helpers.WAITING_MAX", 0)
    with Wire(serving(listing=True).url) as wire:
        assert wire.ask(get("/page")).body == b"page"
        before = descriptors()
        refused = wire.ask(get("/", ACCEPT))
        assert (refused.status, refused.fields["retry-after"]) == (503, "1")
        assert wire.ask(get("/page")).body == b"page"
        eventually("descriptors are given back", lambda: descriptors() <= before)


def test_those_who_waited_for_a_client_that_left_get_their_listing_and_its_reading_leaves_nothing(
    slow: SlowDirectories, serving: Serving, site: Path
) -> None:
    (site / "sub").mkdir()
    (site / "sub" / "file").write_bytes(b"123")
    running = serving(listing=True)
    with Wire(running.url) as warm:
        warm.ask(get("/missing"))
    eventually("it is gone", lambda: not running.server.shared.connections)
    before = descriptors()
    first = Wire(running.url)
    first.send(get("/sub/", ACCEPT))
    eventually("it is being read", lambda: slow.began == 1)
    with Wire(running.url) as second, Wire(running.url) as third:
        for wire in (second, third):
            wire.send(get("/sub/", ACCEPT))
        eventually("all have been accepted", lambda: len(running.server.shared.connections) == 3)
        reset(first.socket)
        eventually("another has taken over", lambda: slow.began == 2)
        slow.opened.set()
        for wire in (second, third):
            assert [entry["name"] for entry in json.loads(wire.answer().body)["entries"]] == ["file"]
    eventually("descriptors are given back", lambda: descriptors() <= before)


@pytest.mark.leaves_in_flight
def test_a_directory_that_is_not_read_in_time_does_not_keep_a_server_from_ending(
    slow: SlowDirectories, serving: Serving
) -> None:
    running = serving(listing=True, drain_timeout_s=0.1)
    with Wire(running.url) as wire:
        wire.send(get("/", ACCEPT))
        eventually("it is being read", lambda: slow.began == 1)
        started = time.monotonic()
        running.stop()
        assert time.monotonic() - started < 10
        with pytest.raises(ConnectionResetError):
            wire.rest()
    # The reading ends after the server has: it finds nobody, and wakes no ring.
    slow.opened.set()
    eventually("it has ended", lambda: slow.ended == 1)


# -- directories that cannot be read ----------------------------------------------------------------------------


@EACH_PATH
def test_permissions_that_change_show_at_once(serving: Serving, site: Path, hot_path: bool) -> None:
    (site / "sub").mkdir()
    (site / "sub" / "index.html").write_bytes(b"index")
    (site / "file").write_bytes(b"123")
    running = serving_as_a_user(serving, listing=True, hot_path=hot_path)
    with Wire(running.url) as wire:
        for _ in range(10):
            assert ask(wire) == {"file": 3, "sub": None}
            (site / "file").chmod(0)
            assert ask(wire) == {"sub": None}
            assert wire.ask(get("/file")).status == 403
            (site / "sub").chmod(0)
            assert ask(wire) == {}
            assert wire.ask(get("/sub/", ACCEPT)).status == 403
            (site / "file").chmod(0o644)
            (site / "sub").chmod(0o755)
            assert wire.ask(get("/file")).body == b"123"
            assert wire.ask(get("/sub/", ACCEPT)).body == b"index"


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o400])
def test_a_directory_that_cannot_be_read_is_forbidden(
    serving: Serving, site: Path, mode: int, capfd: pytest.CaptureFixture[str]
) -> None:
    (site / "sub").mkdir()
    (site / "sub" / "file").write_bytes(b"")
    (site / "sub").chmod(mode)
    running = serving_as_a_user(serving, listing=True)
    try:
        with Wire(running.url) as wire:
            for _ in range(3):
                assert wire.ask(get("/sub/", ACCEPT)).status == 403
            (site / "sub").chmod(0o755)
            assert ask(wire, "/sub/") == {"file": 0}
    finally:
        (site / "sub").chmod(0o755)
    running.stop()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "status", "is_reported"),
    [
        (errno.EACCES, 403, False),
        (errno.EPERM, 403, False),
        (errno.ENOENT, 404, False),
        (errno.EMFILE, 503, True),
        (errno.EIO, 500, True),
    ],
)
def test_each_error_of_a_reading_has_its_status_and_leaves_nothing(
    serving: Serving,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: int,
    status: int,
    is_reported: bool,
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(error, os.strerror(error))

    (site / "sub").mkdir()
    running = serving(listing=True)
    with Wire(running.url) as wire:
        assert ask(wire, "/sub/") == {}
        with monkeypatch.context() as failing:
            failing.setattr(directory, "read_names", fail)
            (site / "sub" / "file").write_bytes(b"")
            before = descriptors()
            answer = wire.ask(get("/sub/", ACCEPT))
            assert answer.status == status
            assert is_small_error(answer)
            eventually("its descriptor is given back", lambda: descriptors() <= before)
        (site / "sub" / "another").write_bytes(b"")
        assert ask(wire, "/sub/") == {"another": 0, "file": 0}
    running.stop()
    assert bool(capfd.readouterr().err) is is_reported


def is_small_error(answer: Answer) -> bool:
    """Whether it tells what went wrong, and no path."""
    return f"<h1>{answer.status} " in answer.body.decode() and "sub" not in answer.body.decode()
