"""A stderr that nobody reads, that is closed, or that is full: serving, reloading and stopping go on."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import Serving
from supervised import ENDS_S, free_port
from wire import TIMEOUT_S, Wire, eventually, get

from ringserve.ring import diagnostics, stderr
from ringserve.ring.stderr import ThreadWriter

PATHS = 700
"""More lines than a pipe and what waits behind it hold, if each were written."""


@pytest.fixture
def site(site: Path, tmp_path: Path) -> Path:
    """With a link that leads out of it."""
    (site / "page").write_bytes(b"page")
    (tmp_path / "outside").mkdir()
    (site / "link").symlink_to(tmp_path / "outside")
    return site


@pytest.fixture(autouse=True)
def _one_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """All lines of a test are of one interval, however slow the machine is."""
    monkeypatch.setattr(diagnostics, "INTERVAL_S", 3600.0)


@contextmanager
def pipe(*, full: bool = False) -> Iterator[tuple[int, int]]:
    """A pipe that nobody reads. full: and that has no room any more."""
    read_fd, write_fd = os.pipe()
    if full:
        os.set_blocking(write_fd, False)
        with suppress(BlockingIOError):
            while True:
                os.write(write_fd, b"x" * 4096)
        os.set_blocking(write_fd, True)
    try:
        yield read_fd, write_fd
    finally:
        os.close(read_fd)
        os.close(write_fd)


@contextmanager
def as_stderr(fd: int) -> Iterator[None]:
    """Descriptor 2 of this process is `fd`."""
    before = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


@contextmanager
def command(site: Path, *arguments: str, redirections: str = "", error: int = subprocess.DEVNULL) -> Iterator[Process]:
    """The command, started by a shell. redirections: the shell's. error: its stderr."""
    port = free_port()
    process = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "ringserve", str(site),
         "--host", "127.0.0.1", "--port", str(port), *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=error, cwd=site,
    )  # fmt: skip
    try:
        running = Process(process, f"http://127.0.0.1:{port}/")
        eventually("it serves or has ended", lambda: running.serves() or process.poll() is not None)
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


class Process:
    """A supervisor whose stderr cannot be asked."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process = process
        self.url = url

    def serves(self) -> bool:
        try:
            with Wire(self.url) as wire:
                return wire.ask(get("/page")).body == b"page"
        except ConnectionRefusedError:
            return False

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(ENDS_S)

    @property
    def workers(self) -> str:
        return Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()


def ask_for_links(url: str) -> None:
    with Wire(url) as wire:
        for number in range(PATHS):
            assert wire.ask(get(f"/link/{number}")).status == 404
        assert wire.ask(get("/page")).body == b"page"


def read_up_to(fd: int, end: str) -> str:
    """What is read of a pipe until `end` is in it, without what filled it before."""
    read = ""
    while end not in read:
        read += os.read(fd, 65536).decode()
    return read.lstrip("x")


def read_all(fd: int) -> str:
    """What a pipe holds."""
    os.set_blocking(fd, False)
    read = bytearray()
    try:
        while data := os.read(fd, 65536):
            read += data
    except BlockingIOError:
        pass
    return read.decode()


# -- a server -------------------------------------------------------------------------------------------------------


def test_paths_that_lead_out_are_some_lines_and_a_number(serving: Serving, capfd: pytest.CaptureFixture[str]) -> None:
    running = serving()
    ask_for_links(running.url)
    running.stop()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 11
    assert re.match(f"ringserve: and {PATHS - 10} more: ... leads out of the root", lines[-1])


@pytest.mark.parametrize("waits", [True, False], ids=["blocking", "non-blocking"])
def test_a_stderr_that_nobody_reads_holds_up_no_client_and_is_told_later_what_was_left_out(
    serving: Serving, waits: bool
) -> None:
    with pipe(full=True) as (read_fd, write_fd), as_stderr(write_fd):
        os.set_blocking(write_fd, waits)
        running = serving()
        ask_for_links(running.url)
        said = read_up_to(read_fd, "/link/9 ")
        running.stop()
        said += read_all(read_fd)
    lines = said.splitlines()
    assert len(lines) == 11
    assert f"and {PATHS - 10} more" in lines[-1]


def test_a_stderr_that_nobody_ever_reads_does_not_keep_the_server_from_ending(serving: Serving) -> None:
    with pipe(full=True) as (_read_fd, write_fd), as_stderr(write_fd):
        running = serving()
        ask_for_links(running.url)
        running.stop()


@pytest.mark.parametrize("gone", ["pipe", "disk"])
def test_a_stderr_that_refuses_holds_up_nobody(serving: Serving, gone: str) -> None:
    if gone == "disk":
        fd = os.open("/dev/full", os.O_WRONLY)
    else:
        read_fd, fd = os.pipe()
        os.close(read_fd)
    with as_stderr(fd):
        os.close(fd)
        running = serving()
        ask_for_links(running.url)
        running.stop()


def test_a_stderr_that_refused_is_tried_again_and_nothing_is_said_twice(serving: Serving, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read_fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    write_fd = os.open(fifo, os.O_WRONLY)
    os.close(read_fd)
    with as_stderr(write_fd):
        running = serving()
        ask_for_links(running.url)
        with fifo.open("rb", buffering=0) as reader:
            os.close(write_fd)
            said = reader.read(65536) or b""
            running.stop()
            said += reader.read(65536) or b""
    numbers = re.findall(rb"/link/(\d+) leads", said)
    assert numbers == [b"%d" % number for number in range(10)]


# -- a process without a ring -----------------------------------------------------------------------------------


def test_a_thread_writes_what_a_process_without_a_ring_says_and_ends(capfd: pytest.CaptureFixture[str]) -> None:
    writer = ThreadWriter()
    before = threading.active_count()
    for number in range(3):
        writer.report("line {}", number)
        writer.say("as it is")
        writer.close()
        assert capfd.readouterr().err == f"ringserve: line {number}\nas it is\n"
        eventually("the thread has ended", lambda: threading.active_count() == before)
    writer.report_fault(ZeroDivisionError("ours"))
    writer.close()
    assert "ZeroDivisionError: ours" in capfd.readouterr().err


def test_nobody_waits_for_the_thread_and_what_it_could_not_write_is_written_when_somebody_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stderr, "END_S", 0.01)
    with pipe(full=True) as (read_fd, write_fd), as_stderr(write_fd):
        writer = ThreadWriter()
        for number in range(5000):
            writer.report("line {}", number)
        writer.close()
        read_up_to(read_fd, "and 4990 more: line ...\n")
        monkeypatch.setattr(stderr, "END_S", ENDS_S)
        writer.close()


def test_a_number_that_was_left_out_is_said_without_another_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "INTERVAL_S", 0.05)
    with pipe() as (read_fd, write_fd), as_stderr(write_fd):
        writer = ThreadWriter()
        for number in range(50):
            writer.report("line {}", number)
        read_up_to(read_fd, "more: line ...")
        writer.close()


def test_a_stderr_that_refuses_is_tried_again_by_the_thread_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stderr, "RETRY_S", 0.01)
    monkeypatch.setattr(stderr, "END_S", ENDS_S)
    refusing, written, write = threading.Event(), bytearray(), os.write
    refusing.set()

    def refuse(fd: int, data: bytes) -> int:
        if fd != 2:
            return write(fd, data)
        if refusing.is_set():
            raise OSError(errno.ENOSPC, "full")
        written.extend(data[:7])
        return len(data[:7])

    monkeypatch.setattr(os, "write", refuse)
    writer = ThreadWriter()
    writer.report("once")
    writer.close()
    refusing.clear()
    eventually("it is written", lambda: written == b"ringserve: once\n")
    writer.close()


def test_without_a_thread_to_be_had_the_next_line_tries_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    writer = ThreadWriter()
    with monkeypatch.context() as none_left:

        def fail(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        none_left.setattr(threading.Thread, "start", fail)
        writer.report("first")
        writer.close()
    writer.report("second")
    writer.close()
    assert capfd.readouterr().err == "ringserve: first\nringserve: second\n"


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("io_uring")
def test_a_supervisor_with_a_full_stderr_serves_reloads_and_stops(site: Path) -> None:
    configuration = site / "ringserve.toml"
    with (
        pipe(full=True) as (_read_fd, write_fd),
        command(site, "--log-format", "off", "--workers", "2", error=write_fd) as running,
    ):
        before = running.workers
        configuration.write_text("nonsense = 1\n")
        for _ in range(200):
            running.process.send_signal(signal.SIGHUP)
            assert running.serves()
        assert running.workers == before
        ask_for_links(running.url)
        configuration.write_text("")
        running.process.send_signal(signal.SIGHUP)
        eventually("it is reloaded", lambda: not set(running.workers.split()) & set(before.split()))
        assert running.serves()
        assert running.end() == 0


@pytest.mark.usefixtures("io_uring")
@pytest.mark.parametrize("redirections", ["2>/dev/full", "2>&- >&-", "2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_it_serves_and_stops_with_descriptors_that_are_closed_or_full(site: Path, redirections: str) -> None:
    with command(site, redirections=redirections) as running:
        ask_for_links(running.url)
        for pid in (running.process.pid, int(running.workers)):
            for fd in range(3):
                assert os.readlink(f"/proc/{pid}/fd/{fd}") in ("/dev/null", "/dev/full")
        assert running.end() == 0


@pytest.mark.usefixtures("io_uring")
def test_nobody_writes_over_anothers_lines_in_a_file_that_a_shell_opened(site: Path, tmp_path: Path) -> None:
    (tmp_path / "error").write_text("earlier\n" * 3)
    with command(site, "--workers", "3", redirections=f"2<>{tmp_path}/error") as running:
        with Wire(running.url) as wire:
            for number in range(10):
                wire.ask(get(f"/link/{number}"))
        eventually("it is announced", lambda: "Ctrl-C" in (tmp_path / "error").read_text())
        assert running.end() == 0
    lines = (tmp_path / "error").read_text().splitlines()
    assert lines[:3] == ["earlier"] * 3
    assert sum("leads out" in line for line in lines) == 10
    assert lines.count("Stop it with Ctrl-C.") == 1


@pytest.mark.usefixtures("io_uring")
def test_a_fifo_that_nobody_reads_is_one_line_and_status_2(site: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    finished = subprocess.run(
        [sys.executable, "-m", "ringserve", str(site), "--port", "0", "--log-file", str(tmp_path / "fifo")],
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1
    assert "it is a FIFO that nobody reads; start its reader first" in finished.stderr
