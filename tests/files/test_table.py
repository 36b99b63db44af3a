"""The table of files on a disk that does what a test says: what it tells at once, what it asks, and what it holds."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from scripted_disk import ROOT, ScriptedDisk, disk_tasks

from ringserve.files.entries import Directory, Entry, Failure, File, Key
from ringserve.files.names import FRESH_S, NAME_BYTES, READ_AGAIN_S
from ringserve.files.table import HASHED_AT_ONCE_BYTES_MAX, TRUSTED_S, FileLimits, FileTable
from ringserve.files.watches import BELOW_MAX
from ringserve.http.semantics import CONTENT_TAG_BYTES_MAX
from ringserve.ring.tasks import Task
from ringserve.ring.world import ChangeKind

MIB = 1024 * 1024


class Bench:
    """A table, and the disk below it. hears: whether it hears of changes."""

    def __init__(self, *, roots: int = 1, hears: bool = True, **limits: int) -> None:
        self.disk, self.tasks = disk_tasks()
        wanted = {"entries_max": 10**6, "body_bytes_max": MIB, "memory_bytes_max": MIB, "descriptors_max": 10} | limits
        self.table = FileTable(
            self.tasks,
            [ROOT._replace(directory=3 + number) for number in range(roots)],
            FileLimits(**wanted, files_max=20),
        )
        if hears:
            self.table.start_watching()

    def turn(self) -> None:
        """Until nothing comes any more, and everything that was told is heard."""
        for _turn in range(30):
            self.tasks.turn(0.0)

    def wait(self, seconds: float) -> None:
        self.disk.now += seconds

    def now(self, path: bytes, root: int = 0) -> Entry | None:
        return self.table.find_now(Key(root, path))

    def find(self, path: bytes, root: int = 0) -> Entry:
        """What a request gets that waits, with all that it brings about."""
        found: list[Entry] = []

        async def body() -> None:
            found.append(await self.table.find(task, Key(root, path)))

        task = Task(self.tasks)
        task.begin(body())
        self.turn()
        return found[0]

    def know(self, *directories: bytes) -> None:
        """Have the names of directories known."""
        for path in directories:
            self.find(path + b"something")
            self.now(path + b"something else")
            self.turn()
        self.disk.asked.clear()

    @property
    def asked(self) -> list[tuple[str, bytes]]:
        """What the disk was asked since this was last looked at."""
        asked, self.disk.asked = self.disk.asked, []
        return asked


Make = Callable[..., Bench]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Bench] = []

    def one(**settings: Any) -> Bench:
        made.append(Bench(**settings))
        return made[-1]

    yield one
    for bench in made:
        bench.turn()


@pytest.fixture
def bench(make: Make) -> Bench:
    return make()


def status_of(entry: Entry | None) -> int:
    """As the answer to a request would have it; 0: that cannot be told at once."""
    return 0 if entry is None else entry.status if isinstance(entry, Failure) else 200


# -- at once ----------------------------------------------------------------------------------------------------


def test_a_file_in_a_directory_that_is_watched_is_loaded_by_one_question(bench: Bench) -> None:
    bench.disk.put(b"a.bin")
    bench.disk.put(b"b.bin")
    assert bench.now(b"a.bin") is None, "nothing is watched yet"
    bench.find(b"a.bin")
    bench.know(b"")
    found = bench.now(b"b.bin")
    assert isinstance(found, File)
    assert found.body == b"body"
    assert bench.asked == [("load", b"b.bin")]
    assert bench.now(b"b.bin") is found
    assert bench.asked == []


def test_what_the_ring_does_not_know_at_once_is_found_by_waiting(bench: Bench) -> None:
    bench.disk.put(b"a.html")
    bench.know(b"")
    bench.disk.at_once = False
    assert bench.now(b"a.html") is None
    assert isinstance(bench.find(b"a.html"), File)


@pytest.mark.parametrize("size", [HASHED_AT_ONCE_BYTES_MAX + 1, CONTENT_TAG_BYTES_MAX + 1, MIB])
def test_a_file_that_is_too_large_to_be_hashed_at_once_is_kept_in_memory_all_the_same(bench: Bench, size: int) -> None:
    bench.disk.put(b"a.bin", bytes(size))
    bench.know(b"")
    assert bench.now(b"a.bin") is None
    found = bench.find(b"a.bin")
    assert isinstance(found, File)
    assert found.body == bytes(size)
    assert found.descriptor is None
    assert bench.table._descriptors == 0


def test_a_sibling_that_is_not_known_at_once_keeps_its_file_from_being_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.disk.put(b"a.html", b"x" * 2 * MIB)
    bench.disk.put(b"a.html.br")
    bench.know(b"")
    load = ScriptedDisk.load
    monkeypatch.setattr(
        ScriptedDisk, "load", lambda disk, user_data, root, path, *limits: (
            None if path == b"a.html.br" and user_data is None else load(disk, user_data, root, path, *limits)
        ),
    )  # fmt: skip
    assert bench.now(b"a.html") is None
    assert bench.disk.closed == [101]
    assert isinstance(bench.find(b"a.html"), File)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
def test_without_a_descriptor_nothing_is_told_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    bench.disk.put(b"a.bin")
    bench.know(b"")
    monkeypatch.setattr(ScriptedDisk, "load", lambda *_arguments: -error)
    assert bench.now(b"a.bin") is None


def test_a_failure_that_says_nothing_of_the_path_is_told_and_not_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.disk.put(b"a.bin")
    bench.know(b"")
    monkeypatch.setattr(ScriptedDisk, "load", lambda *_arguments: -errno.EIO)
    assert status_of(bench.now(b"a.bin")) == 500
    monkeypatch.undo()
    assert status_of(bench.now(b"a.bin")) == 200


def test_a_directory_is_told_at_once_and_what_is_in_it_is_not(bench: Bench) -> None:
    bench.disk.put(b"d", None)
    bench.know(b"", b"d/")
    assert isinstance(bench.now(b"d"), Directory)
    assert bench.now(b"d/") is None
    assert bench.now(b"") is None


# -- names ------------------------------------------------------------------------------------------------------


def test_a_name_that_is_not_in_its_directory_takes_no_question_and_no_memory(bench: Bench) -> None:
    bench.disk.put(b"d", None)
    bench.know(b"", b"d/")
    before = bench.table._held.entries, bench.table._held.memory_bytes
    for number in range(1000):
        assert status_of(bench.now(b"d/%d" % number)) == 404
        assert status_of(bench.now(b"no directory/%d/index.html" % number)) == 404
        assert status_of(bench.now(b"no directory/%d/" % number)) == 404
    assert bench.asked == []
    assert (bench.table._held.entries, bench.table._held.memory_bytes) == before


def test_a_missing_name_is_fresh_until_a_name_comes(bench: Bench) -> None:
    bench.know(b"")
    failure = bench.now(b"a.bin")
    assert failure is not None
    assert failure.freshness.until > bench.disk.now
    bench.disk.put(b"a.bin")
    bench.disk.tell(b"a.bin")
    bench.turn()
    assert failure.freshness.until == 0.0
    assert status_of(bench.now(b"a.bin")) == 200
    assert status_of(bench.now(b"b.bin")) == 404


def test_a_change_of_a_name_that_is_known_leaves_the_missing_ones_fresh(bench: Bench) -> None:
    bench.disk.put(b"a.bin")
    bench.know(b"")
    failure = bench.now(b"b.bin")
    for kind in (ChangeKind.CONTENT, ChangeKind.NAME):
        bench.disk.tell(b"a.bin", kind)
    bench.turn()
    assert failure is not None
    assert failure.freshness.until > bench.disk.now


def test_a_name_that_went_is_asked_for(bench: Bench) -> None:
    bench.disk.put(b"a.bin")
    bench.know(b"")
    del bench.disk.nodes[b"a.bin"]
    bench.disk.tell(b"a.bin")
    bench.turn()
    assert status_of(bench.now(b"a.bin")) == 404
    assert bench.asked == [("load", b"a.bin")]


def test_a_name_that_comes_while_its_directory_is_read_is_known(bench: Bench) -> None:
    def come() -> None:
        bench.disk.put(b"late.bin")
        bench.disk.tell(b"late.bin")

    bench.disk.meanwhile = come
    bench.know(b"")
    assert status_of(bench.now(b"other.bin")) == 404
    assert bench.asked == []
    assert status_of(bench.now(b"late.bin")) == 200


@pytest.mark.parametrize("kind", [ChangeKind.GONE, ChangeKind.ALTERED])
def test_a_directory_that_is_another_one_while_it_is_read_is_read_again(bench: Bench, kind: ChangeKind) -> None:
    bench.disk.put(b"d", None)
    bench.find(b"d/something")
    bench.disk.meanwhile = lambda: bench.disk.tell_of(b"d", kind)
    bench.now(b"d/something else")
    bench.turn()
    assert b"d/" not in bench.table._trees[0].places
    bench.know(b"d/")
    assert status_of(bench.now(b"d/other")) == 404
    assert bench.asked == []


def test_a_directory_that_was_replaced_and_of_which_no_event_told_is_noticed_within_a_second(bench: Bench) -> None:
    bench.disk.put(b"d", None)
    bench.know(b"", b"d/")
    bench.disk.put(b"d", None)  # a mount, say
    bench.disk.put(b"d/page.bin")
    assert status_of(bench.now(b"d/page.bin")) == 404
    bench.wait(FRESH_S)
    assert status_of(bench.now(b"d/page.bin")) == 200
    bench.turn()
    assert b"d/" not in bench.table._trees[0].places, "the watch was on the other one"
    bench.know(b"d/")
    assert status_of(bench.now(b"d/page.bin")) == 200
    assert status_of(bench.now(b"d/other.bin")) == 404
    assert bench.asked == [("load", b"d/page.bin")]


def test_a_directory_that_cannot_be_looked_at_without_waiting_is_not_known(bench: Bench) -> None:
    bench.know(b"")
    bench.wait(FRESH_S)
    bench.disk.at_once = False
    assert bench.now(b"other") is None
    assert status_of(bench.find(b"other")) == 404
    bench.disk.at_once = True
    bench.know(b"")
    assert status_of(bench.now(b"another")) == 404
    assert bench.asked == []


def test_a_directory_of_a_file_system_that_others_write_to_is_not_known(make: Make) -> None:
    bench = make()
    bench.disk.trusted = False
    bench.know(b"")
    assert status_of(bench.now(b"other")) == 404
    assert bench.asked == [("load", b"other")]


def test_a_directory_with_more_names_than_its_share_is_not_known_and_tried_again_after_a_while(make: Make) -> None:
    bench = make(memory_bytes_max=1024 * 1024)
    for number in range(1000):
        bench.disk.put(b"%040d" % number)
    bench.know(b"")
    assert bench.table._names.memory_bytes == 0
    bench.now(b"other")
    bench.turn()
    assert ("inventory", b"") not in bench.asked
    for number in range(900):
        del bench.disk.nodes[b"%040d" % number]
    bench.wait(READ_AGAIN_S)
    bench.know(b"")
    assert status_of(bench.now(b"another")) == 404
    assert bench.asked == []


def test_the_names_of_all_directories_keep_to_their_memory(make: Make) -> None:
    bench = make(memory_bytes_max=160 * 1024)
    for directory in range(20):
        bench.disk.put(b"d%d" % directory, None)
        for number in range(20):
            bench.disk.put(b"d%d/%d" % (directory, number))
    for directory in range(20):
        bench.know(b"d%d/" % directory)
        assert bench.table._names.memory_bytes <= 20 * 1024
    assert bench.table._names.memory_bytes > 20 * 1024 - 21 * (NAME_BYTES + 10)
    assert status_of(bench.now(b"d19/other")) == 404
    assert bench.asked == []


def test_names_that_come_and_go_do_not_fill_the_memory(make: Make) -> None:
    bench = make(memory_bytes_max=160 * 1024)
    bench.know(b"")
    for number in range(1000):
        bench.disk.tell(b"temporary%d" % number)
        bench.turn()
        assert bench.table._names.memory_bytes <= 20 * 1024
    bench.know(b"")
    assert status_of(bench.now(b"other")) == 404


# -- freshness --------------------------------------------------------------------------------------------------


def fresh_s(bench: Bench, path: bytes) -> float:
    entry = bench.now(path)
    assert entry is not None
    return entry.freshness.until - bench.disk.now


@pytest.mark.parametrize("name", [b"a.bin", b"a.html"])
def test_a_file_of_which_events_tell_is_looked_at_after_ten_seconds(bench: Bench, name: bytes) -> None:
    bench.disk.put(name)
    bench.know(b"")
    assert fresh_s(bench, name) == TRUSTED_S
    bench.asked.clear()
    bench.wait(TRUSTED_S)
    bench.now(name)
    assert [asked for asked in bench.asked if asked[1]] == [("look", name)] or name == b"a.html"
    assert fresh_s(bench, name) == TRUSTED_S


def test_a_file_is_looked_at_after_a_second_where_events_do_not_tell_all(bench: Bench) -> None:
    bench.disk.put(b"linked.bin", trusted=False)
    bench.disk.put(b"with sibling.html")
    bench.disk.put(b"with sibling.html.br", trusted=False)
    bench.disk.put(b"d", None)
    bench.know(b"")
    for path in (b"linked.bin", b"with sibling.html", b"d"):
        assert fresh_s(bench, path) == FRESH_S


def test_a_file_whose_siblings_nobody_knows_is_looked_at_after_a_second(make: Make) -> None:
    bench = make(memory_bytes_max=1024)  # no names fit
    bench.disk.put(b"a.html")
    bench.find(b"other")
    assert fresh_s(bench, b"a.html") == FRESH_S


def test_where_there_are_no_events_everything_is_looked_at_after_a_second(make: Make) -> None:
    bench = make(hears=False)
    bench.disk.put(b"a.bin")
    assert fresh_s(bench, b"a.bin") == FRESH_S
    assert bench.asked == [("load", b"a.bin")]


@pytest.mark.parametrize("lost", [True, False])
def test_more_changes_than_are_told_drop_everything(bench: Bench, lost: bool) -> None:
    bench.disk.put(b"d", None)
    bench.disk.put(b"d/a.bin")
    for number in range(BELOW_MAX + 1):
        bench.disk.put(b"e%d" % number, None)
    bench.know(b"", b"d/", *(b"e%d/" % number for number in range(BELOW_MAX + 1)))
    entry = bench.now(b"d/a.bin")
    if lost:
        bench.disk.lose_changes()
    else:
        for number in range(BELOW_MAX + 1):
            bench.disk.tell(b"e%d" % number, ChangeKind.DIRECTORY)
    bench.turn()
    assert entry is not None
    assert entry.freshness.until == 0.0
    assert not bench.table._trees[0].entries
    assert not bench.table._trees[0].places
    assert bench.table._names.memory_bytes == 0
    assert len(bench.disk.unwatched) == BELOW_MAX + 3


def test_a_directory_that_comes_drops_only_what_was_known_below_it(bench: Bench) -> None:
    bench.disk.put(b"a.bin")
    bench.know(b"")
    entry = bench.now(b"a.bin")
    bench.find(b"d/page.bin")
    bench.disk.put(b"d", None)
    bench.disk.put(b"d/page.bin")
    bench.disk.tell(b"d", ChangeKind.DIRECTORY)
    bench.turn()
    assert status_of(bench.find(b"d/page.bin")) == 200
    assert bench.now(b"a.bin") is entry


# -- bounds -----------------------------------------------------------------------------------------------------


def flood(bench: Bench, paths: Iterable[bytes], root: int = 0) -> None:
    for path in paths:
        bench.now(path, root) or bench.find(path, root)
        held = bench.table._held
        assert held.memory_bytes == sum(tree.memory_bytes for tree in bench.table._trees)
        assert held.memory_bytes <= bench.table._memory_bytes_max


def test_long_names_that_are_missing_keep_to_the_memory_with_their_keys(make: Make) -> None:
    bench = make()
    bench.disk.trusted = False
    bench.find(b"something")
    flood(bench, (b"%07000d" % number for number in range(2000)))
    assert bench.table._held.entries < MIB / 7000


def test_files_keep_to_the_memory_and_the_newest_is_among_them(make: Make) -> None:
    bench = make()
    for number in range(2000):
        bench.disk.put(b"%d.bin" % number, bytes(1000))
    bench.find(b"0.bin")
    flood(bench, (b"%d.bin" % number for number in range(2000)))
    assert bench.table._held.memory_bytes > bench.table._memory_bytes_max - 2000
    bench.asked.clear()
    bench.now(b"1999.bin")
    assert bench.asked == []


def test_a_flood_of_one_site_leaves_what_others_have(make: Make) -> None:
    bench = make(roots=2)
    bench.disk.put(b"page.bin")
    for number in range(2000):
        bench.disk.put(b"%d.bin" % number, bytes(1000))
    mine = bench.find(b"page.bin", 1)
    bench.find(b"page.bin")
    flood(bench, (b"%d.bin" % number for number in range(2000)))
    assert bench.now(b"page.bin", 1) is mine


def test_an_entry_larger_than_the_memory_is_kept_alone(make: Make) -> None:
    bench = make(memory_bytes_max=1024)
    bench.disk.put(b"large.bin", bytes(10_000))
    bench.disk.put(b"small.bin")
    bench.find(b"small.bin")
    assert status_of(bench.find(b"large.bin")) == 200
    assert [*bench.table._trees[0].entries] == [b"large.bin"]


def test_descriptors_beyond_their_share_are_those_of_the_oldest_files(bench: Bench) -> None:
    for number in range(30):
        bench.disk.put(b"%d.bin" % number, bytes(MIB + 1))
    bench.disk.put(b"small.bin")
    bench.find(b"small.bin")
    for number in range(30):
        bench.find(b"%d.bin" % number)
        assert bench.table._descriptors <= 10
    assert len(bench.disk.closed) == 20
    assert b"small.bin" in bench.table._trees[0].entries, "it has none to give back"
    assert bench.table.give_up_descriptors()
    assert bench.table._descriptors == 0
    assert not bench.table.give_up_descriptors()
