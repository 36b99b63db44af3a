"""Changed files are served new: at once where the kernel tells, within a second otherwise."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import Serving
from permissions import serving_as_a_user
from wire import Wire, eventually, get

import ringserve.files.table
import ringserve.files.watches
from ringserve.files import names
from ringserve.files.refusals import status_of_open
from ringserve.files.table import HASHED_AT_ONCE_BYTES_MAX, FileTable
from ringserve.files.watches import BURST_EVENTS
from ringserve.http.semantics import CONTENT_TAG_BYTES_MAX, content_hash
from ringserve.ring.linux.mounts import Place
from ringserve.ring.tasks import Task
from ringserve.ring.uring import files as uring_files
from ringserve.ring.uring import library
from ringserve.ring.uring.chains import Chain
from ringserve.ring.uring.files import Files
from ringserve.ring.uring.ring import UringRing
from ringserve.ring.world import FileStatus, Names, Root


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
    monkeypatch.setattr("ringserve.files.watches.WATCHES_MAX", 10)
    running = serving()
    with Wire(running.url) as wire:
        for number in range(100):
            assert wire.ask(get(f"/missing{number}/page")).status == 404
    assert len(running.server.shared.files._trees[0].unwatched) <= 10


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
        date = wire.ask(get("/page")).fields["last-modified"]
        os.utime(path, (1, 2_000_000))
        assert wire.ask(get("/page")).fields["last-modified"] != date


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
    class Refusing:
        def __getattr__(self, name: str) -> Any:
            return (lambda *_arguments: -error) if name == "ringserve_inotify_add" else getattr(library.lib, name)

    monkeypatch.setattr(uring_files, "lib", Refusing())
    ask_below(serving, site)
    meaning = "changes of files in the others are noticed within a second, not at once"
    assert capfd.readouterr().err == ("" if words is None else f"ringserve: {words}: {meaning}\n")


def test_more_directories_than_are_watched_are_one_line(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ringserve.files.watches, "WATCHES_MAX", 3)
    ask_below(serving, site)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("ringserve: 3 directories are watched, and no more will be: changes of files in the others")


def test_without_inotify_a_change_is_served_within_a_second(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(ring: UringRing, user_data: int) -> None:
        ring._due.append((user_data, -errno.EMFILE, -1, False))

    monkeypatch.setattr(UringRing, "await_changes", refused)
    assert names.FRESH_S == 1.0
    monkeypatch.setattr("ringserve.files.table.FRESH_S", 0.1)  # the second, for the impatient
    path = site / "page"
    path.write_bytes(b"old")
    running = serving()
    eventually("it is said", lambda: "raise fs.inotify.max_user_instances" in capfd.readouterr().err)
    with Wire(running.url) as wire:
        assert wire.ask(get("/page")).body == b"old"
        path.write_bytes(b"new")
        eventually("it shows", lambda: wire.ask(get("/page")).body == b"new")
        # Twice in the same tick of the file system's clock, with the same size: only reading it again can tell.
        for content in (b"aaa", b"bbb"):
            path.write_bytes(content)
            os.utime(path, ns=(10**18, 10**18))
        eventually("it shows as well", lambda: wire.ask(get("/page")).body == b"bbb")


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
        pipes = 2 * running.server.shared.pipes.count
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
        (errno.EXDEV, 404, False),
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


# -- tags -------------------------------------------------------------------------------------------------------

ARCHIVED = 499_162_500
"""1985-10-26 08:15 UTC, the time of every file in a package of npm."""


def put(path: Path, content: bytes, seconds: float = ARCHIVED) -> None:
    """A file that takes another's place, with a time that says nothing of it."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    os.utime(new, (seconds, seconds))
    os.replace(new, path)


@pytest.mark.parametrize("cached", [0, 1 << 20], ids=["spliced", "from-memory"])
@pytest.mark.parametrize(
    "size", [1, 800, HASHED_AT_ONCE_BYTES_MAX, HASHED_AT_ONCE_BYTES_MAX + 1, CONTENT_TAG_BYTES_MAX]
)
def test_other_bytes_have_another_tag_though_size_and_time_are_the_same(
    serving: Serving, site: Path, cached: int, size: int
) -> None:
    bodies = [letter * size for letter in (b"A", b"B")]
    with Wire(serving(cached_file_bytes_max=cached).url) as wire:
        tag = ""
        for number in range(6):
            body = bodies[number % 2]
            put(site / "page", body)
            for _again in range(3):
                answer = wire.ask(get("/page", f"If-None-Match: {tag}"))
                assert (answer.status, answer.body) == (200, body)
                if tag:
                    assert wire.ask(get("/page", "Range: bytes=0-0", f"If-Range: {tag}")).status == 200
            tag = answer.fields["etag"]
            assert tag == f'"{hashlib.sha256(body).hexdigest()[:24]}"'
            for _again in range(3):
                assert wire.ask(get("/page", f"If-None-Match: {tag}")).status == 304
                assert wire.ask(get("/page", "Range: bytes=0-0", f"If-Range: {tag}")).status == 206


@pytest.mark.parametrize(
    ("size", "on_the_loop"), [(HASHED_AT_ONCE_BYTES_MAX, True), (HASHED_AT_ONCE_BYTES_MAX + 1, False)]
)
def test_only_a_small_file_is_hashed_by_the_thread_of_the_loop(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch, size: int, on_the_loop: bool
) -> None:
    threads = []

    def note(body: bytes) -> bytes:
        assert len(body) == size
        threads.append(threading.get_ident())
        return content_hash(body)

    monkeypatch.setattr(ringserve.files.table, "content_hash", note)
    (site / "page").write_bytes(bytes(size))
    running = serving()
    with Wire(running.url) as wire:
        assert len(wire.ask(get("/page")).body) == size
    assert [thread == running._thread.ident for thread in threads] == [on_the_loop]


def test_a_large_file_whose_time_is_in_whole_seconds_has_another_tag_after_each_replacement(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringserve.http.semantics.FINE_TICK_NS", 0)
    tags: set[str] = set()
    with Wire(serving().url) as wire:
        for number in range(6):
            body = b"%d" % number * (CONTENT_TAG_BYTES_MAX + 1)
            put(site / "page", body)
            answer = wire.ask(get("/page", f"If-None-Match: {', '.join(tags)}"))
            assert (answer.status, answer.body) == (200, body)
            tags.add(answer.fields["etag"])
    assert len(tags) == 6, "also where an inode is used again"
    assert not any(tag.startswith("W/") for tag in tags)


def test_two_replicas_have_the_same_tags_whatever_their_times_and_memory_are(serving: Serving, site: Path) -> None:
    for name, content in (("page.html", b"page" * 9000), ("page.html.gz", b"coded")):
        (site / name).write_bytes(content)
    tags = []
    for replica, cached in enumerate((0, 100, 1 << 20)):
        for name in ("page.html", "page.html.gz"):
            os.utime(site / name, (replica, replica))
        with Wire(serving(cached_file_bytes_max=cached).url) as wire:
            tags.append(
                [wire.ask(get("/page.html", f"Accept-Encoding: {coding}")).fields["etag"] for coding in ("", "gzip")]
            )
    assert tags[0] == tags[1] == tags[2]
    assert tags[0][1].endswith('-gzip"')


def test_a_tag_is_the_same_where_no_helper_is_free(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = bytes(CONTENT_TAG_BYTES_MAX)
    (site / "page").write_bytes(body)
    monkeypatch.setattr("ringserve.ring.helpers.THREADS", 0)
    monkeypatch.setattr("ringserve.ring.helpers.WAITING_MAX", 0)
    with Wire(serving().url) as wire:
        assert wire.ask(get("/page")).fields["etag"] == f'"{hashlib.sha256(body).hexdigest()[:24]}"'


def test_a_file_is_hashed_while_every_directory_hangs(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, hanging = threading.Event(), threading.Semaphore(0)

    def hang(*_arguments: object) -> Names:
        hanging.release()
        assert released.wait(30)
        return Names((), False)

    monkeypatch.setattr("ringserve.ring.linux.directory.read_names", hang)
    (site / "page").write_bytes(bytes(CONTENT_TAG_BYTES_MAX))
    url = serving(listing=True).url
    with Wire(url) as first, Wire(url) as second, Wire(url) as third:
        try:
            for number, wire in enumerate((first, second)):
                (site / f"{number}").mkdir()
                wire.send(get(f"/{number}/"))
                assert hanging.acquire(timeout=30)
            assert third.ask(get("/page")).status == 200
        finally:
            released.set()


def test_a_small_file_that_keeps_changing_while_it_is_read_has_a_weak_tag(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = site / "page"
    path.write_bytes(b"0")
    read = Files._read

    def change_and_read(files: Files, fd: int, size: int, place: Place) -> Chain[bytes]:
        kept.write(b"0")
        return read(files, fd, size, place)

    monkeypatch.setattr(Files, "_load_now", lambda *_asked: -errno.EAGAIN)
    monkeypatch.setattr(Files, "_read", change_and_read)
    with path.open("ab", buffering=0) as kept, Wire(serving().url) as wire:
        answer = wire.ask(get("/page"))
        assert (answer.status, answer.body, answer.fields["etag"][:2]) == (200, path.read_bytes(), "W/")


# -- siblings ---------------------------------------------------------------------------------------------------

SECOND_NS = 10**9


@pytest.mark.parametrize("cached", [0, 1 << 20], ids=["spliced", "from-memory"])
def test_a_sibling_that_comes_changes_or_goes_is_noticed_at_once(serving: Serving, site: Path, cached: int) -> None:
    (site / "page.html").write_bytes(b"source")
    request = get("/page.html", "Accept-Encoding: br")
    with Wire(serving(cached_file_bytes_max=cached).url) as wire:
        for number in range(10):
            assert wire.ask(request).body == b"source"
            for content in (b"compressed %d" % number, b"compressed again %d" % number):
                (site / "page.html.br").write_bytes(content)
                assert wire.ask(request).body == content
            (site / "page.html.br").unlink()


@pytest.fixture
def left_out(site: Path) -> Path:
    """A style sheet with an older sibling, an empty one, and one that is a link out of the root."""
    page = site / "style.css"
    page.write_bytes(b"body {}")
    os.utime(page, (ARCHIVED, ARCHIVED))
    (site / "style.css.br").write_bytes(b"older")
    os.utime(site / "style.css.br", (ARCHIVED - 1, ARCHIVED - 1))
    (site / "style.css.zst").write_bytes(b"")
    (site / "style.css.gz").symlink_to("/etc/hostname")
    return page


LEFT_OUT = [
    "/style.css.br is older than its file and is not served; `ringserve compress` makes it anew",
    "/style.css.zst is empty and is not served; `ringserve compress` makes it anew",
    "/style.css.gz leads out of the root through a symbolic link and is not served (--follow-symlinks would follow it)",
]


def test_a_sibling_that_is_left_out_is_said_once(
    serving: Serving, left_out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    running = serving()
    with Wire(running.url) as wire:
        for number in range(5):
            left_out.write_bytes(b"version %d" % number)
            os.utime(left_out, (ARCHIVED, ARCHIVED))
            answer = wire.ask(get("/style.css", "Accept-Encoding: br, zstd, gzip"))
            assert (answer.status, answer.body) == (200, b"version %d" % number)
    running.stop()
    said = [line.removeprefix("ringserve: ") for line in capfd.readouterr().err.splitlines()]
    assert [line for line in said if line.startswith("/")] == LEFT_OUT


def test_a_sibling_that_was_made_anew_and_is_left_out_again_is_said_again(
    serving: Serving, site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page, sibling = site / "style.css", site / "style.css.br"
    page.write_bytes(b"body {}")
    request = get("/style.css", "Accept-Encoding: br")
    running = serving()
    with Wire(running.url) as wire:
        for _again in range(3):
            sibling.write_bytes(b"")
            assert wire.ask(request).body == b"body {}"
            sibling.write_bytes(b"coded")
            assert wire.ask(request).body == b"coded"
    running.stop()
    assert capfd.readouterr().err.count("/style.css.br is empty") == 3


def test_the_memory_of_what_was_said_is_bounded(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ringserve.files.table.SAID_MAX", 4)
    running = serving()
    with Wire(running.url) as wire:
        for number in (0, 0, 1, 2, 3, 4, 0):  # at the fifth path those before it are forgotten
            (site / f"out{number}").unlink(missing_ok=True)
            (site / f"out{number}").symlink_to("/etc/hostname")
            assert wire.ask(get(f"/out{number}")).status == 404
    running.stop()
    said = capfd.readouterr().err
    assert [said.count(f"/out{number} leads out of the root") for number in range(5)] == [2, 1, 1, 1, 1]


def test_a_sibling_that_may_not_be_read_is_said(
    serving: Serving, site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (site / "style.css").write_bytes(b"body {}")
    (site / "style.css.gz").write_bytes(b"coded")
    (site / "style.css.gz").chmod(0)
    running = serving_as_a_user(serving)
    with Wire(running.url) as wire:
        assert wire.ask(get("/style.css", "Accept-Encoding: gzip")).status == 200
    running.stop()
    assert "ringserve: /style.css.gz may not be read and is not served; " in capfd.readouterr().err


@pytest.mark.usefixtures("only_looks")
def test_a_sibling_that_is_left_out_does_not_make_its_file_be_read_again(
    serving: Serving, left_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []
    read = Files._read

    def noted_read(files: Files, fd: int, size: int, place: Place) -> Chain[bytes]:
        reads.append(fd)
        return read(files, fd, size, place)

    monkeypatch.setattr(Files, "_load_now", lambda *_asked: -errno.EAGAIN)
    monkeypatch.setattr(Files, "_read", noted_read)
    with Wire(serving().url) as wire:
        wire.ask(get("/style.css"))
        assert reads
        reads.clear()
        for _again in range(5):
            assert wire.ask(get("/style.css", "Accept-Encoding: br, zstd, gzip")).body == left_out.read_bytes()
        assert not reads
        (left_out.parent / "style.css.zst").write_bytes(b"coded")
        assert wire.ask(get("/style.css", "Accept-Encoding: br, zstd, gzip")).body == b"coded"


def test_times_that_went_through_a_float_keep_a_sibling(serving: Serving, site: Path) -> None:
    for name in ("a.js", "b.js"):
        (site / name).write_bytes(b"plain")
        (site / f"{name}.gz").write_bytes(b"coded")
    os.utime(site / "a.js", ns=(0, 1_700_000_000 * SECOND_NS + 500))
    os.utime(site / "a.js.gz", ns=(0, 1_700_000_000 * SECOND_NS))
    os.utime(site / "b.js", ns=(0, 1_700_000_000 * SECOND_NS + SECOND_NS))
    os.utime(site / "b.js.gz", ns=(0, 1_700_000_000 * SECOND_NS))
    with Wire(serving().url) as wire:
        assert wire.ask(get("/a.js", "Accept-Encoding: gzip")).body == b"coded"
        assert wire.ask(get("/b.js", "Accept-Encoding: gzip")).body == b"plain", "it was saved again a second later"


def test_a_forgotten_file_leaves_no_bytes_with_the_lines_that_asked_for_it(serving: Serving, site: Path) -> None:
    running = serving()
    with Wire(running.url) as wire:
        (site / "page").write_bytes(b"old" * 1000)
        for _ in range(3):
            wire.ask(get("/page"))
        line = running.server.listening[0].memory.lines.recent[b"GET /page HTTP/1.1\r"]
        (old,) = line.prepared.values()
        assert old.body
        (site / "page").write_bytes(b"new")
        assert wire.ask(get("/page")).body == b"new"
        assert (old.body, old.data, old.pinned) == (b"", b"", None)


@pytest.mark.parametrize("cached", [0, 1 << 20], ids=["spliced", "from-memory"])
def test_an_entry_dropped_while_it_is_looked_at_is_opened_anew(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch, cached: int
) -> None:
    # Its descriptor is closed by then, and the number may name another file already.
    dropped: list[bytes] = []
    look = Task.look

    async def look_and_drop(task: Task, root: Root, path: bytes) -> FileStatus | int:
        found = await look(task, root, path)
        if path == b"page.bin":
            table = running.server.shared.files
            table.changed(table._trees[0], path)
            dropped.append(path)
        return found

    monkeypatch.setattr(Task, "look", look_and_drop)
    monkeypatch.setattr(FileTable, "find_now", lambda _table, _key: None)  # only a look that waits can be overtaken
    monkeypatch.setattr("ringserve.files.entries.RACY_NS", 0)
    monkeypatch.setattr("ringserve.files.table.TRUSTED_S", 0.0)
    (site / "page.bin").write_bytes(b"content")
    running = serving(cached_file_bytes_max=cached)
    with Wire(running.url) as wire:
        for _ in range(20):
            assert wire.ask(get("/page.bin")).body == b"content"
    assert dropped


@pytest.mark.usefixtures("only_looks")
@pytest.mark.parametrize("name", ["page.txt", "page.bin"], ids=["with-siblings", "without"])
def test_a_file_that_is_what_it_was_is_answered_by_the_hot_path_again(serving: Serving, site: Path, name: str) -> None:
    (site / name).write_bytes(b"content")
    running = serving()
    with Wire(running.url) as wire:
        for _ in range(10):
            assert wire.ask(get(f"/{name}")).body == b"content"
    assert running.server.listening[0].hot_answers >= 7


@pytest.mark.usefixtures("only_looks")
def test_a_look_that_waits_for_nothing_sees_every_change(serving: Serving, site: Path) -> None:
    path = site / "page.txt"
    coded = site / "page.txt.gz"
    path.write_bytes(b"first")
    running = serving()
    accept = "Accept-Encoding: gzip"
    with Wire(running.url) as wire:
        for number in range(20):
            before = running.server.listening[0].hot_answers
            for _ in range(4):
                wire.ask(get("/page.txt", accept))
            assert running.server.listening[0].hot_answers > before, "or it would not be this look that sees it"
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
