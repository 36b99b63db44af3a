"""The access log over the wire: its file and that file's rotation, sinks that fail, and what the lines say."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Serving
from supervised import Running
from supervised import command as supervised
from test_server import command
from wire import TIMEOUT_S, Wire, eventually, get

from ringserve.conn import Connection
from ringserve.connection.states import READING
from ringserve.library import RunningServer, serve
from ringserve.observe import access_log
from ringserve.observe.access_log import Sink
from ringserve.processes import log_file
from ringserve.processes.log_file import LogOpener, Opened, open_log
from ringserve.ring.linux import directory
from ringserve.ring.linux.directory import read_names
from ringserve.server import StartError

MIB = 1024 * 1024
CLIENTS = 4
REQUESTS_MAX = 5000
"""Pairs of them, of each client under load; it is stopped earlier by an event."""
ROTATIONS = 6


@pytest.fixture(autouse=True)
def _pages(site: Path) -> None:
    (site / "page").write_bytes(b"page")


def lines_of(path: Path) -> list[str]:
    """The lines of a log. Fails if the last one is cut off."""
    content = path.read_text()
    assert not content or content.endswith("\n")
    return content.splitlines()


def count_of(path: Path) -> int:
    """How many lines there are so far, while one may be only half there."""
    return path.read_bytes().count(b"\n")


def records_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(path)]


def reset(client: socket.socket) -> None:
    """Close with RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


# -- the file ---------------------------------------------------------------------------------------------------


def test_lines_go_to_the_file_and_behind_those_that_are_there(serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("an earlier line\n")
    for _start in range(2):
        running = serving(log_format="common", log_file=str(path))
        with Wire(running.url) as wire:
            for _ in range(3):
                assert wire.ask(get("/page")).body == b"page"
        running.stop()
    first, *lines = lines_of(path)
    assert first == "an earlier line"
    assert len(lines) == 6
    assert all(re.fullmatch(r'127\.0\.0\.1 - - \[[^]]+\] "GET /page HTTP/1\.1" 200 4', line) for line in lines)


def test_lines_are_there_soon_and_not_only_in_the_end(serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with Wire(serving(log_format="json", log_file=str(path)).url) as wire:
        wire.ask(get("/page"))
        eventually("its line is there", lambda: count_of(path) == 1)


def test_a_new_file_is_not_for_everybody_to_read(serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    before = os.umask(0)
    try:
        running = serving(log_format="json", log_file=str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.rename(tmp_path / "access.log.1")
        reopen(running, path)
        eventually("it is reopened", path.exists)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_the_file_is_closed_in_the_end(serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    running = serving(log_format="json", log_file=str(path))
    for number in range(3):
        rotated = path.rename(tmp_path / f"access.log.{number}")
        reopen(running, path)
        eventually("it is reopened", path.exists)
        eventually("the one before is closed", lambda rotated=rotated: not is_open(rotated))
    assert is_open(path)
    running.stop()
    assert not is_open(path)


def reopen(running: RunningServer, path: Path) -> None:
    """Write the log to the file that its name now stands for."""
    running.server.post(open_log(str(path)))


def is_open(path: Path, process: str = "self") -> bool:
    """Whether a process, this one by default, has it open."""
    found = path.stat()
    for fd in Path(f"/proc/{process}/fd").iterdir():
        try:
            status = fd.stat()
        except OSError:
            continue  # that of the listing itself, or one that has been closed meanwhile
        if (status.st_dev, status.st_ino) == (found.st_dev, found.st_ino):
            return True
    return False


def test_a_log_that_is_off_makes_no_file(serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with Wire(serving(log_format="off", log_file=str(path)).url) as wire:
        wire.ask(get("/page"))
    assert not path.exists()


@pytest.mark.parametrize("name", ["missing/access.log", "."])
def test_a_path_that_cannot_be_written_keeps_the_server_from_starting(
    serving: Serving, tmp_path: Path, name: str
) -> None:
    path = str(tmp_path / name)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartError, match=r"cannot open the access log .*--log-file") as failed:
        serving(log_format="json", log_file=path)
    assert "\n" not in str(failed.value)
    assert len(os.listdir("/proc/self/fd")) == before


# -- reopening --------------------------------------------------------------------------------------------------


class Load:
    """Clients that ask at full speed until they are stopped, and a count of what was answered."""

    def __init__(self, url: str) -> None:
        self.answered = [0] * CLIENTS
        self._url = url
        self._stopped = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._ask, args=(index,)) for index in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self, index: int) -> None:
        try:
            with Wire(self._url) as wire:
                while not self._stopped.is_set() and self.answered[index] < REQUESTS_MAX:
                    # The first is answered by the hot path, the second is a line that there was never before.
                    assert wire.ask(get("/page")).body == b"page"
                    assert wire.ask(get(f"/page?{index}-{self.answered[index]}")).body == b"page"
                    self.answered[index] += 1
        except BaseException as failure:
            self._failures.append(failure)

    def stop(self) -> int:
        """How many times two were answered."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
        assert not self._failures, self._failures
        return sum(self.answered)


def rotate_under_load(url: str, path: Path, reopen: Callable[[], None], end: Callable[[], object]) -> None:
    """Rotate the log while clients ask; then every request stands in one of the files, and once."""
    rotated: list[Path] = []
    load = Load(url)
    try:
        for number in range(ROTATIONS):
            eventually("something is written", lambda: path.stat().st_size)
            rotated.append(path.rename(path.with_suffix(f".{number}")))
            reopen()
            eventually("it is reopened", path.exists)
    finally:
        answered = load.stop()
    end()
    targets = [record["target"] for file in (*rotated, path) for record in records_of(file)]
    assert targets.count("/page") == answered
    assert len(targets) == 2 * answered
    assert len({target for target in targets if "?" in target}) == answered


def test_no_line_is_lost_or_doubled_when_the_log_is_rotated_under_load(serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    running = serving(log_format="json", log_file=str(path))
    rotate_under_load(running.url, path, lambda: reopen(running, path), running.stop)
    assert running.server.listening[0].hot_answers


@pytest.mark.usefixtures("io_uring")
def test_a_process_rotates_its_log_at_sigusr1(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    arguments = ("--port", "0", "--host", "127.0.0.1", "--log-format", "json", "--log-file", str(path))
    with command(str(site), *arguments) as process:

        def end() -> None:
            process.process.send_signal(signal.SIGTERM)
            assert process.end() == (0, "", "")

        rotate_under_load(process.url, path, lambda: process.process.send_signal(signal.SIGUSR1), end)


@pytest.mark.usefixtures("io_uring")
@pytest.mark.parametrize("log_format", ["combined", "off"])
def test_sigusr1_without_a_file_is_harmless(site: Path, log_format: str) -> None:
    with command(str(site), "--port", "0", "--host", "127.0.0.1", "--log-format", log_format) as process:
        with Wire(process.url) as wire:
            for _ in range(3):
                process.process.send_signal(signal.SIGUSR1)
                assert wire.ask(get("/page")).body == b"page"
        process.process.send_signal(signal.SIGTERM)
        status, out, err = process.end()
    assert (status, out.count("\n")) == (0, 3 if log_format == "combined" else 0)
    assert err
    assert all("--log-file" in line for line in err.splitlines())


def next_said(capfd: pytest.CaptureFixture[str]) -> str:
    """What the server says on stderr, once it says something. Each line is written at once, with its end."""
    said = ""

    def says_something() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return said.endswith("\n")

    eventually("it says something", says_something)
    return said


def test_a_server_without_a_log_closes_the_one_that_it_is_given(serving: Serving, tmp_path: Path) -> None:
    running = serving(log_format="off")
    path = tmp_path / "log"
    reopen(running, path)
    eventually("it is closed", lambda: not is_open(path))


@contextmanager
def logging(site: Path, path: Path) -> Iterator[Running]:
    """The command, with its log in this file, and one connection at most that keeps it from ending."""
    with supervised(site, "--log-format", "json", "--log-file", str(path), "--drain-timeout", "2") as running:
        yield running
        assert running.end() == 0


def reopen_by_signal(running: Running) -> None:
    running.process.send_signal(signal.SIGUSR1)


@pytest.mark.usefixtures("io_uring")
def test_a_path_that_cannot_be_written_at_reopening_leaves_the_log_where_it_was(site: Path, tmp_path: Path) -> None:
    logs = tmp_path / "log"
    logs.mkdir()
    path = logs / "access.log"
    with logging(site, path) as running, Wire(running.url) as wire:
        wire.ask(get("/page?1"))
        moved = logs.rename(tmp_path / "elsewhere") / path.name
        before = len(running.said)
        reopen_by_signal(running)
        eventually("it is said", lambda: running.heard("the one before it is written on"))
        assert len(running.said) == before + 1
        assert running.heard(str(path)) == 1
        wire.ask(get("/page?2"))
        eventually("the old one is written", lambda: count_of(moved) == 2)
        logs.mkdir()
        reopen_by_signal(running)
        eventually("it is reopened", path.exists)
        # That the file exists is seen before the log writes to it.
        processes = (running.process.pid, *running.workers)
        eventually("the old one is closed", lambda: not any(is_open(moved, str(pid)) for pid in processes))
        wire.ask(get("/page?3"))
    assert [record["target"] for record in records_of(moved)] == ["/page?1", "/page?2"]
    assert [record["target"] for record in records_of(path)] == ["/page?3"]


@pytest.mark.usefixtures("io_uring")
def test_workers_of_both_generations_write_to_the_file_that_was_opened_anew(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with logging(site, path) as running, Wire(running.url) as old:
        old.ask(get("/page?1"))
        running.reload()
        with Wire(running.url) as new:
            new.ask(get("/page?2"))
            eventually("both have written", lambda: count_of(path) == 2)
            rotated = path.rename(tmp_path / "access.log.1")
            reopen_by_signal(running)
            processes = (running.process.pid, *running.workers)
            assert len(processes) == 3
            eventually("it is closed", lambda: not any(is_open(rotated, str(pid)) for pid in processes))
            old.ask(get("/page?3"))
            new.ask(get("/page?4"))
    assert sorted(record["target"] for record in records_of(path)) == ["/page?3", "/page?4"]


def test_reopenings_do_not_overtake_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Were two opened at a time, the file of the first could be the last to arrive, and be written to for good.
    first, gate, woken = threading.Event(), threading.Event(), threading.Semaphore(0)
    taken: list[str] = []

    def open_slowly(path: str) -> Sink:
        if path.endswith("first"):
            first.set()
            assert gate.wait(TIMEOUT_S)
        return open_log(path)

    def take(opened: Opened) -> None:
        for path, sink in opened.items():
            assert isinstance(sink, Sink)
            os.close(sink.fd)
            taken.append(path)

    monkeypatch.setattr(log_file, "open_log", open_slowly)
    opener = LogOpener(woken.release)
    paths = [str(tmp_path / name) for name in ("first", "second")]
    for path in paths:
        opener.ask([path], take)
    assert first.wait(TIMEOUT_S)
    opener.deliver()
    assert not taken
    gate.set()
    for _path in paths:
        assert woken.acquire(timeout=TIMEOUT_S)
    opener.deliver()
    assert taken == paths


def test_without_a_thread_to_be_had_a_log_is_opened_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    taken: list[Opened] = []
    opener = LogOpener(lambda: None)
    opener.ask([str(tmp_path / "missing" / "log")], taken.append)
    opener.deliver()
    (opened,) = taken
    assert [type(each) for each in opened.values()] == [FileNotFoundError]


# -- sinks that fail --------------------------------------------------------------------------------------------


def lost_in(said: str) -> int:
    """How many lines the server says were lost."""
    return sum(int(count) for count in re.findall(r"access log: (\d+) lines lost", said))


def test_a_disk_that_is_full_holds_up_nobody_and_the_lines_lost_are_counted(
    serving: Serving, capfd: pytest.CaptureFixture[str]
) -> None:
    running = serving(log_format="combined", log_file="/dev/full")
    with Wire(running.url) as wire:
        for _ in range(2000):
            assert wire.ask(get("/page")).body == b"page"
    running.stop()
    said = capfd.readouterr().err
    assert said.count("ENOSPC") == 1
    assert lost_in(said) == 2000
    assert said.count("\n") == 2


def test_a_sink_that_failed_is_left_by_reopening_and_nothing_is_lost(
    serving: Serving, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "access.log"
    path.symlink_to("/dev/full")
    running = serving(log_format="json", log_file=str(path))
    with Wire(running.url) as wire:
        for _ in range(100):
            wire.ask(get("/page"))
        assert "ENOSPC" in next_said(capfd)
        path.unlink()
        reopen(running, path)
        eventually("it is written", lambda: path.exists() and count_of(path) == 100)
        wire.ask(get("/page"))
    running.stop()
    assert len(lines_of(path)) == 101
    assert capfd.readouterr().err == "ringserve: access log: lines are written again\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds 64 KiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(directory)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no mount here: {mounted.stderr.decode()}")
    yield directory
    # Lazily: a server of a test that failed may still hold its log here, and what stays mounted fails the next run.
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_disk_that_has_room_again_gets_the_lines_that_waited_each_of_them_whole(
    small_disk: Path, serving: Serving, capfd: pytest.CaptureFixture[str]
) -> None:
    path = small_disk / "access.log"
    running = serving(log_format="json", log_file=str(path))
    sent = 0
    with Wire(running.url) as wire:
        while path.stat().st_size < 64 * 1024:
            wire.ask(get("/page"))
            sent += 1
        assert "ENOSPC" in next_said(capfd)
        full = path.read_bytes()
        os.truncate(path, 0)
        wire.ask(get("/page?after"))
        eventually("it is written again", lambda: b"/page?after" in path.read_bytes())
    running.stop()
    whole = [line for line in full.split(b"\n")[:-1] if json.loads(line)]
    later = [json.loads(line) for line in lines_of(path) if line]
    assert len(whole) + len(later) == sent + 1
    assert capfd.readouterr().err == "ringserve: access log: lines are written again\n"


def test_a_fifo_that_nobody_reads_is_refused_at_the_start(site: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StartError, match="is a FIFO that nobody reads; start its reader first"):
        serve(site, log_format="json", log_file=str(tmp_path / "fifo"))


@pytest.mark.usefixtures("io_uring")
def test_a_fifo_that_nobody_reads_any_more_is_left_where_it_was_at_reopening_and_written_when_it_is_read(
    site: Path, tmp_path: Path
) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with logging(site, path) as running, Wire(running.url) as wire:
        os.close(reader)
        before = len(running.said)
        reopen_by_signal(running)
        why = "is a FIFO that nobody reads; start its reader first; the one before it is written on"
        eventually("it is said", lambda: running.heard(why))
        wire.ask(get("/page?1"))
        eventually("it is said as well", lambda: running.heard("EPIPE"))
        wire.ask(get("/page?2"))
        reader = os.open(path, os.O_RDONLY)
        try:
            read = bytearray()
            read_up_to(reader, read, b"/page?2")
        finally:
            os.close(reader)
    assert [json.loads(line)["target"] for line in read.splitlines()] == ["/page?1", "/page?2"]
    assert len(running.said) == before + 3
    assert running.heard("written again") == 1


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that outlives the servers: ask for it before `serving`."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("waits", [True, False], ids=["blocking", "non-blocking"])
def test_a_full_pipe_holds_up_nobody_and_every_line_is_written_or_counted(
    pipe: tuple[int, int],
    serving: Serving,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    waits: bool,
) -> None:
    monkeypatch.setattr(access_log, "LINES_WAITING_MAX", 200)
    read_fd, write_fd = pipe
    os.set_blocking(write_fd, waits)
    running = serving(log_format="json", log_fd=write_fd)
    log = running.server.shared.log
    assert log is not None
    sent = 0
    with Wire(running.url) as wire:
        while not log.lost:
            assert sent < 20_000
            assert wire.ask(get("/page")).body == b"page"
            sent += 1
        # Somebody reads it again: then lines that come go through again, and what was lost is told.
        read = bytearray()
        reader = threading.Thread(target=lambda: read_up_to(read_fd, read, b"/the-end"))
        reader.start()
        while reader.is_alive():
            assert sent < 20_000
            wire.ask(get("/page") if log.lost else get("/the-end"))
            sent += 1
        os.set_blocking(read_fd, False)
    running.stop()
    read_up_to(read_fd, read, None)
    said = capfd.readouterr().err
    assert read.endswith(b"\n")
    assert lost_in(said) > 0
    assert read.count(b"\n") + lost_in(said) == sent


def read_up_to(fd: int, data: bytearray, end: bytes | None) -> None:
    """Read until something has come, or, from a descriptor that does not wait, everything that is there."""
    while end is None or end not in data:
        try:
            data += os.read(fd, 65536)
        except BlockingIOError:
            return


@pytest.mark.leaves_in_flight
def test_lines_that_are_not_written_by_the_end_are_counted(
    pipe: tuple[int, int], serving: Serving, capfd: pytest.CaptureFixture[str]
) -> None:
    _read_fd, write_fd = pipe
    running = serving(log_format="json", log_fd=write_fd)
    with Wire(running.url) as wire:
        for _ in range(1000):
            wire.ask(get("/page"))
    running.stop()
    # How much of the write that hangs has gone is not known; its lines count as lost.
    assert 500 < lost_in(capfd.readouterr().err) <= 1000


def test_a_reader_of_the_log_that_goes_away_ends_the_log_and_nothing_else(
    serving: Serving, capfd: pytest.CaptureFixture[str]
) -> None:
    read_fd, write_fd = os.pipe()
    try:
        running = serving(log_format="json", log_fd=write_fd)
        os.close(read_fd)
        with Wire(running.url) as wire:
            for _ in range(1000):
                assert wire.ask(get("/page")).body == b"page"
        running.stop()
    finally:
        os.close(write_fd)
    said = capfd.readouterr().err
    assert said.count("EPIPE") == 1
    assert lost_in(said) == 1000


# -- what the lines say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "general"])
def test_json_lines_tell_range_coding_host_and_what_was_sent(
    serving: Serving, site: Path, tmp_path: Path, hot_path: bool
) -> None:
    text = b"a text that is worth compressing " * 100
    (site / "text.txt").write_bytes(text)
    (site / "text.txt.gz").write_bytes(gzip.compress(text))
    (site / "big").write_bytes(bytes(3 * MIB))
    path = tmp_path / "access.log"
    running = serving(log_format="json", log_file=str(path), hot_path=hot_path)
    began = time.monotonic()
    with Wire(running.url) as wire:
        for _ in range(3):
            packed = wire.ask(get("/text.txt", "Accept-Encoding: gzip"))
        wire.ask(get("/text.txt", "Range: bytes=5-9", "Accept-Encoding: identity"))
        wire.ask(get("/text.txt", "Range: bytes=9999-"))
        wire.ask(get("/big", "Range: bytes=-7"))
        wire.ask(get("/big"))
        wire.ask(get("/text.txt", f"If-None-Match: {packed.fields['etag']}", "Accept-Encoding: gzip"))
        wire.ask(b"GET /page HTTP/1.0\r\nHost: EXAMPLE.org:80\r\nConnection: close\r\n\r\n")
    running.stop()
    elapsed = time.monotonic() - began
    records = records_of(path)
    told = [(record["status"], record["bytes"], record["coding"], record["range"]) for record in records]
    size = len(packed.body)
    assert told == [
        *[(200, size, "gzip", None)] * 3,
        (206, 5, None, "bytes=5-9"),
        (416, records[4]["bytes"], None, "bytes=9999-"),
        (206, 7, None, "bytes=-7"),
        (200, 3 * MIB, None, None),
        (304, 0, None, None),
        (200, 4, None, None),
    ]
    assert [record["host"] for record in records] == ["test"] * 8 + ["EXAMPLE.org:80"]
    assert [record["protocol"] for record in records] == ["HTTP/1.1"] * 8 + ["HTTP/1.0"]
    assert not any(record["aborted"] for record in records)
    assert all(record["duration"] >= 0 for record in records)
    assert sum(record["duration"] for record in records) <= elapsed
    assert records[6]["duration"] > 0  # three megabytes take a turn or more


def connection_of(running: Any) -> Connection:
    """The only one."""
    eventually("it is accepted", lambda: len(running.server.shared.connections) == 1)
    (connection,) = running.server.shared.connections
    assert isinstance(connection, Connection)
    return connection


PAUSE_S = 0.15


@pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "general"])
def test_durations_count_from_the_first_byte_of_a_request_and_not_from_before(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hot_path: bool
) -> None:
    monkeypatch.setattr(access_log, "FLUSH_AFTER_S", 0.005)  # it waits for each line
    path = tmp_path / "access.log"
    running = serving(log_format="json", log_file=str(path), hot_path=hot_path)
    bounds: list[tuple[float, float]] = []

    def exchange(wire: Wire, *parts: bytes, at_least: float = 0.0) -> None:
        """Send a request in parts with a pause between, of which the server knows; note how long it may have taken."""
        connection = connection_of(running)
        began = time.monotonic()
        for part in parts[:-1]:
            wire.send(part)
            eventually("it is read", lambda: connection.state is READING)
            time.sleep(PAUSE_S)
        wire.send(parts[-1])
        wire.answer()
        eventually("it is written", lambda: count_of(path) == len(bounds) + 1)
        bounds.append((at_least, time.monotonic() - began))

    whole = get("/page")
    with Wire(running.url) as wire:
        time.sleep(PAUSE_S)  # idle, which is nobody's duration
        exchange(wire, whole)
        exchange(wire, whole[:5], whole[5:], at_least=PAUSE_S)
        time.sleep(PAUSE_S)
        exchange(wire, whole)
        time.sleep(PAUSE_S)
        exchange(wire, b"garbage\r\n\r\n")
    eventually("it is gone", lambda: not running.server.shared.connections)
    with Wire(running.url) as wire:
        exchange(wire, b"garb", b"age\r\n\r\n", at_least=PAUSE_S)
    running.stop()
    durations = [record["duration"] for record in records_of(path)]
    for duration, (at_least, at_most) in zip(durations, bounds, strict=True):
        assert at_least <= duration <= at_most, (durations, bounds)


def test_a_408_took_as_long_as_the_limit(serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    running = serving(log_format="json", log_file=str(path), header_timeout_s=0.2)
    with Wire(running.url) as wire:
        wire.ask(get("/page"))
        wire.send(b"GET /pa")
        assert wire.answer().status == 408
    running.stop()
    (_good, late) = records_of(path)
    assert (late["status"], late["method"]) == (408, None)
    assert 0.2 <= late["duration"] < TIMEOUT_S


@pytest.mark.parametrize(
    "settings",
    [{"cached_file_bytes_max": 0}, {"cached_file_bytes_max": 16 * MIB}, {"cached_file_bytes_max": 16 * MIB, "hot": 1}],
    ids=["spliced", "from-memory", "hot"],
)
def test_a_response_that_breaks_off_is_logged_once_as_aborted(
    serving: Serving, site: Path, tmp_path: Path, settings: dict[str, int]
) -> None:
    (site / "big").write_bytes(bytes(12 * MIB))
    path = tmp_path / "access.log"
    hot = bool(settings.pop("hot", False))
    running = serving(log_format="json", log_file=str(path), hot_path=hot, **settings)
    complete = int(hot)
    if hot:
        with Wire(running.url) as wire:
            assert len(wire.ask(get("/big")).body) == 12 * MIB
        eventually("it is gone", lambda: not running.server.shared.connections)
    wire = Wire(running.url, receive_bytes=4096)
    wire.send(get("/big"))
    received = 0
    while received < 5000:  # so that it got some of the body for certain
        received += len(wire.socket.recv(5000))
    reset(wire.socket)
    eventually("it is gone", lambda: not running.server.shared.connections)
    running.stop()
    *good, broken = records_of(path)
    assert [record["aborted"] for record in good] == [False] * complete
    assert (broken["target"], broken["status"], broken["aborted"]) == ("/big", 200, True)
    assert 0 < broken["bytes"] < 12 * MIB


def test_a_response_that_waited_to_be_sent_when_the_client_left_was_not_sent(
    serving: Serving, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, opened = threading.Event(), threading.Event()

    def read_slowly(*arguments: Any) -> object:
        began.set()
        assert opened.wait(TIMEOUT_S)
        return read_names(*arguments)

    monkeypatch.setattr(directory, "read_names", read_slowly)
    (site / "sub").mkdir()
    (site / "long").write_bytes(bytes(10_000))
    path = tmp_path / "access.log"
    running = serving(log_format="json", log_file=str(path), listing=True)
    try:
        wire = Wire(running.url)
        wire.ask(get("/long"))
        wire.send(get("/page") + get("/sub/"))  # the first one's answer waits for the second's
        assert began.wait(TIMEOUT_S)
        reset(wire.socket)
        eventually("it is gone", lambda: not running.server.shared.connections)
    finally:
        opened.set()
    running.stop()
    assert [(one["target"], one["bytes"], one["aborted"]) for one in records_of(path)] == [
        ("/long", 10_000, False),
        ("/page", 0, True),
    ]


def test_common_and_combined_lines_are_what_tools_read(serving: Serving, tmp_path: Path) -> None:
    request = (
        r'127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /page\?a=\\x22 HTTP/1\.1" 200 4'
    )
    for form, rest in (("common", ""), ("combined", r' "http://referer\.example/" "Agent\\x22 1"')):
        path = tmp_path / f"{form}.log"
        running = serving(log_format=form, log_file=str(path))
        with Wire(running.url) as wire:
            for _ in range(3):
                wire.ask(get('/page?a="', 'User-Agent: Agent" 1', "Referer: http://referer.example/"))
            wire.ask(get("/page"))
            wire.ask(b"garbage\r\n\r\n", method="GET")
        running.stop()
        *three, bare, garbage = lines_of(path)
        assert [bool(re.fullmatch(request + rest, line)) for line in three] == [True] * 3
        assert bare.endswith('"GET /page HTTP/1.1" 200 4' + (' "-" "-"' if rest else ""))
        assert re.search(r'\] "-" 400 \d+' + (' "-" "-"' if rest else "") + r"\Z", garbage)
