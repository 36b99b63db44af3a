"""Changed files are served new: at once where the kernel tells, within a second otherwise."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path

import pytest
from conftest import Serving
from wire import Wire, eventually, get

import ringserve.ring.uring
import ringserve.watches
from ringserve.entries import File
from ringserve.files import FileTable, status_of_open
from ringserve.ring.tasks import Task
from ringserve.watches import BURST_EVENTS


def test_a_changed_file_is_served_new_at_once(serving: Serving, site: Path) -> None:
    path = site / "page"
    with Wire(serving().url) as wire:
        for number in range(300):
            content = b"version %d" % number
            path.write_bytes(content)
            assert wire.ask(get("/page")).body == content
            assert wire.ask(get("/page")).body == content


def test_a_replaced_file_is_served_new_at_once(serving: Serving, site: Path) -> None:
    with Wire(serving().url) as wire:
        for number in range(300):
            content = b"version %d" % number
            (site / "new").write_bytes(content)
            os.replace(site / "new", site / "page")
            assert wire.ask(get("/page")).body == content


def test_a_large_file_is_served_new_at_once(serving: Serving, site: Path) -> None:
    with Wire(serving(cached_file_bytes_max=0).url) as wire:
        for number in range(50):
            content = b"%d" % number * 1000
            (site / "new").write_bytes(content)
            os.replace(site / "new", site / "page")
            assert wire.ask(get("/page")).body == content


def test_a_file_that_appears_or_goes_is_noticed_at_once(serving: Serving, site: Path) -> None:
    (site / "sub").mkdir()
    with Wire(serving().url) as wire:
        for _ in range(50):
            for path in ("a", "sub/b"):
                assert wire.ask(get(f"/{path}")).status == 404
                (site / path).write_bytes(b"here")
                assert wire.ask(get(f"/{path}")).body == b"here"
                (site / path).unlink()


def test_a_renamed_directory_takes_its_files_along(serving: Serving, site: Path) -> None:
    with Wire(serving().url) as wire:
        for number in range(30):
            (site / "v2" / "deep").mkdir(parents=True)
            (site / "v2" / "deep" / "page").write_bytes(b"%d" % number)
            if number:
                os.rename(site / "live", site / f"old{number}")
            os.rename(site / "v2", site / "live")
            assert wire.ask(get("/live/deep/page")).body == b"%d" % number
            assert wire.ask(get("/v2/deep/page")).status == 404


def test_a_symbolic_link_to_a_directory_can_be_switched(serving: Serving, site: Path) -> None:
    with Wire(serving().url) as wire:
        for number in range(30):
            release = site / f"release{number}"
            release.mkdir()
            (release / "page").write_bytes(b"%d" % number)
            (site / "next").symlink_to(release.name)
            os.replace(site / "next", site / "current")
            assert wire.ask(get("/current/page")).body == b"%d" % number


@pytest.mark.parametrize("before", ["nothing", "file", "directory", "link-to-file"])
def test_a_symbolic_link_to_a_directory_that_comes_is_noticed_at_once(
    serving: Serving, site: Path, before: str
) -> None:
    # The event of its coming does not say that it stands for a directory.
    (site / "other").write_bytes(b"other")
    with Wire(serving().url) as wire:
        for number in range(20):
            (site / f"release{number}").mkdir()
            (site / f"release{number}" / "page").write_bytes(b"%d" % number)
            link = site / f"current{number}"
            if before == "file":
                link.write_bytes(b"file")
            elif before == "directory":
                link.mkdir()
            elif before == "link-to-file":
                link.symlink_to("other")
            for path in (f"/current{number}/page", f"/current{number}/deep/page"):
                assert wire.ask(get(path)).status == 404
                assert wire.ask(get(path)).status == 404
            if before == "directory":
                link.rmdir()
            (site / "next").symlink_to(f"release{number}")
            os.replace(site / "next", link)
            assert wire.ask(get(f"/current{number}/page")).body == b"%d" % number
            (site / f"release{number}" / "deep").mkdir()
            (site / f"release{number}" / "deep" / "page").write_bytes(b"deep")
            assert wire.ask(get(f"/current{number}/deep/page")).body == b"deep"
            link.unlink()
            assert wire.ask(get(f"/current{number}/page")).status == 404


def test_directories_that_are_asked_for_and_missing_are_not_remembered_without_end(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringserve.watches.WATCHES_MAX", 10)
    running = serving()
    with Wire(running.url) as wire:
        for number in range(100):
            assert wire.ask(get(f"/missing{number}/page")).status == 404
    assert len(running.server.service.files._watches._missing) <= 10


def test_a_burst_of_changes_drops_everything(serving: Serving, site: Path) -> None:
    running = serving()
    names = [f"f{number}" for number in range(2 * BURST_EVENTS)]
    with Wire(running.url) as wire:
        for version in (b"one", b"two"):
            for name in names:
                (site / name).write_bytes(version)
            for name in names[:: len(names) // 50]:
                assert wire.ask(get(f"/{name}")).body == version


def test_permissions_that_change_are_noticed_at_once(serving: Serving, site: Path) -> None:
    path = site / "page"
    path.write_bytes(b"content")
    with Wire(serving().url) as wire:
        tag = wire.ask(get("/page")).fields["etag"]
        os.utime(path, (1, 2_000_000))
        assert wire.ask(get("/page")).fields["etag"] != tag


SUBDIRECTORIES = 20


def ask_below(serving: Serving, site: Path) -> None:
    """One file in each of some directories."""
    for number in range(SUBDIRECTORIES):
        (site / str(number)).mkdir()
        (site / str(number) / "page").write_bytes(b"page")
    running = serving()
    with Wire(running.url) as wire:
        for number in range(SUBDIRECTORIES):
            assert wire.ask(get(f"/{number}/page")).body == b"page"
    running.stop()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errno.ENOSPC, "no more directories can be watched; raise fs.inotify.max_user_watches"),
        (errno.ENOMEM, "a directory cannot be watched (Cannot allocate memory)"),
        (errno.ENOENT, "a directory cannot be watched (No such file or directory)"),  # where /proc is not mounted
        (errno.EACCES, None),
    ],
)
def test_directories_that_cannot_be_watched_are_one_line_that_says_what_it_means(
    serving: Serving,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: int,
    words: str | None,
) -> None:
    def refused(_self: object, _watch_fd: int, _directory_fd: int) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(ringserve.ring.uring.UringRing, "watch_add", refused)
    ask_below(serving, site)
    meaning = "changes of files in the others are noticed within a second, not at once"
    assert capfd.readouterr().err == ("" if words is None else f"ringserve: {words}: {meaning}\n")


def test_more_directories_than_are_watched_are_one_line(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ringserve.watches, "WATCHES_MAX", 3)
    ask_below(serving, site)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("ringserve: 3 directories are watched, and no more will be: changes of files in the others")


def test_without_inotify_a_change_is_served_within_a_second(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(_self: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(ringserve.ring.uring.UringRing, "watch_open", refused)
    path = site / "page"
    path.write_bytes(b"old")
    running = serving()
    eventually("it is said", lambda: "raise fs.inotify.max_user_instances" in capfd.readouterr().err)
    with Wire(running.url) as wire:
        assert wire.ask(get("/page")).body == b"old"
        path.write_bytes(b"new")
        changed = time.monotonic()
        while wire.ask(get("/page")).body == b"old":
            assert time.monotonic() - changed < 1.5
        # Twice in the same tick of the file system's clock, with the same size: only reading it again can tell.
        for content in (b"aaa", b"bbb"):
            path.write_bytes(content)
            os.utime(path, ns=(10**18, 10**18))
        changed = time.monotonic()
        while wire.ask(get("/page")).body != b"bbb":
            assert time.monotonic() - changed < 1.5


def test_entries_beyond_the_limits_are_forgotten_and_found_again(serving: Serving, site: Path) -> None:
    for number in range(40):
        (site / f"small{number}").write_bytes(b"%d" % number * 100)
        (site / f"large{number}").write_bytes(b"%d" % number * 3000)
    running = serving(cached_files_max=8, cache_bytes_max=4096, cached_file_bytes_max=1000, open_files_max=4)
    before = len(os.listdir("/proc/self/fd"))
    with Wire(running.url) as wire:
        for _round in range(3):
            for number in range(40):
                assert wire.ask(get(f"/small{number}")).body == b"%d" % number * 100
                assert wire.ask(get(f"/large{number}")).body == b"%d" % number * 3000
                assert wire.ask(get(f"/missing{number}")).status == 404
        pipes = 2 * running.server.service.pipes.count
        # Two for the connection; the closes of the last entries may still be on their way.
        assert len(os.listdir("/proc/self/fd")) <= before + 2 + 4 + 4 + pipes


def test_a_socket_file_is_not_found(serving: Serving, site: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, Wire(serving().url) as wire:
        listener.bind(str(site / "socket"))
        assert wire.ask(get("/socket")).status == 404


@pytest.mark.parametrize(
    ("error", "status", "is_reported"),
    [
        (errno.ENOENT, 404, False),
        (errno.ENOTDIR, 404, False),
        (errno.ENAMETOOLONG, 404, False),
        (errno.ELOOP, 404, False),
        (errno.ENXIO, 404, False),
        (errno.EXDEV, 404, True),
        (errno.EACCES, 403, False),
        (errno.EPERM, 403, False),
        (errno.EMFILE, 503, True),
        (errno.ENFILE, 503, True),
        (errno.EAGAIN, 503, True),
        (errno.EIO, 500, True),
        (errno.ENOMEM, 500, True),
    ],
)
def test_each_error_of_an_open_has_its_status(error: int, status: int, is_reported: bool) -> None:
    said: list[tuple[object, ...]] = []
    assert status_of_open(lambda *line: said.append(line), b"page", -error) == status
    assert bool(said) is is_reported


def test_fields_that_make_no_difference_make_no_copies(serving: Serving, site: Path) -> None:
    (site / "page").write_bytes(bytes(100_000))
    running = serving()
    with Wire(running.url) as wire:
        for number in range(20):
            assert wire.ask(get("/page", f"Accept: text/x{number}")).status == 200
            assert wire.ask(get("/page", f"Range: bytes={number}-")).status == 206
    assert len(running.server.service.files._entries[b"page"]._prepared) == 1


def test_a_forgotten_file_leaves_no_bytes_with_the_lines_that_asked_for_it(serving: Serving, site: Path) -> None:
    running = serving()
    with Wire(running.url) as wire:
        (site / "page").write_bytes(b"old" * 1000)
        for _ in range(3):
            wire.ask(get("/page"))
        line = running.server.service.memory.lines.young[b"GET /page HTTP/1.1\r\n"]
        (old,) = line.prepared.values()
        assert old.response.body
        (site / "page").write_bytes(b"new")
        assert wire.ask(get("/page")).body == b"new"
        assert (old.response.body, old.data, old.pinned) == ((), b"", None)


@pytest.mark.parametrize("cached", [0, 1 << 20], ids=["spliced", "from-memory"])
def test_an_entry_dropped_while_it_is_looked_at_is_opened_anew(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch, cached: int
) -> None:
    # Its descriptor is closed by then, and the number may name another file already.
    dropped = []
    look = FileTable._is_unchanged

    async def look_and_drop(table: FileTable, task: Task, known: File) -> bool:
        unchanged = await look(table, task, known)
        table.changed(known.path)
        dropped.append(known.path)
        return unchanged

    monkeypatch.setattr(FileTable, "_is_unchanged", look_and_drop)
    monkeypatch.setattr(FileTable, "look_again", lambda _table, _path: False)  # only a look that waits can be overtaken
    monkeypatch.setattr("ringserve.entries.RACY_NS", 0)
    monkeypatch.setattr("ringserve.files.FRESH_S", 0.0)
    (site / "page.bin").write_bytes(b"content")
    with Wire(serving(cached_file_bytes_max=cached).url) as wire:
        for _ in range(20):
            assert wire.ask(get("/page.bin")).body == b"content"
    assert dropped


@pytest.fixture
def only_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without inotify, and every entry is old at once: a change is seen by the look alone."""
    monkeypatch.setattr("ringserve.watches.Watches.start", lambda _watches: None)
    monkeypatch.setattr("ringserve.entries.RACY_NS", 0)
    monkeypatch.setattr("ringserve.files.FRESH_S", 1e-9)


@pytest.mark.usefixtures("only_looks")
@pytest.mark.parametrize("name", ["page.txt", "page.bin"], ids=["with-siblings", "without"])
def test_a_file_that_is_what_it_was_is_answered_by_the_hot_path_again(serving: Serving, site: Path, name: str) -> None:
    (site / name).write_bytes(b"content")
    running = serving()
    with Wire(running.url) as wire:
        for _ in range(10):
            assert wire.ask(get(f"/{name}")).body == b"content"
    assert running.server.service.hot_answers >= 7


@pytest.mark.usefixtures("only_looks")
def test_a_look_that_waits_for_nothing_sees_every_change(serving: Serving, site: Path) -> None:
    path = site / "page.txt"
    coded = site / "page.txt.gz"
    path.write_bytes(b"first")
    running = serving()
    accept = "Accept-Encoding: gzip"
    with Wire(running.url) as wire:
        for number in range(20):
            before = running.server.service.hot_answers
            for _ in range(4):
                wire.ask(get("/page.txt", accept))
            assert running.server.service.hot_answers > before, "or it would not be this look that sees it"
            content = b"version %d" % number
            (site / "new").write_bytes(content)
            os.replace(site / "new", path)
            assert wire.ask(get("/page.txt", accept)).body == content
            coded.write_bytes(b"coded %d" % number)
            assert wire.ask(get("/page.txt", accept)).body == b"coded %d" % number
            coded.write_bytes(b"longer than that %d" % number)  # the same size in the same tick could not be told
            assert wire.ask(get("/page.txt", accept)).body == b"longer than that %d" % number
            coded.unlink()
            assert wire.ask(get("/page.txt", accept)).body == content
            path.unlink()
            assert wire.ask(get("/page.txt", accept)).status == 404
            path.write_bytes(b"again")
            assert wire.ask(get("/page.txt", accept)).body == b"again"
