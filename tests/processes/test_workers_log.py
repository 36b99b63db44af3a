"""The access log of several workers, by real processes under load: every line is whole, and none is lost."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import signal
import socket
import struct
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from supervised import BODY, Running, client_ports, command
from wire import TIMEOUT_S, Wire, eventually

from ringserve.ring.linux.listeners import append_always
from ringserve.ring.linux.system import F_SETPIPE_SZ

pytestmark = pytest.mark.usefixtures("io_uring")

PAGE_BYTES = 4096
CLIENTS_EACH = 2
ROUNDS = 12
FULL_AT_BYTES = 300_001
BATCH = 60
LONG_EVERY = 20
"""One in so many requests has a target and a browser's name that are longer than their place in a line."""
WRITTEN_S = 60.0
LINE = re.compile(
    rb"127\.0\.0\.1 - - \[\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2} \+0000\] "
    rb'"GET /page\?(\d+)-(a*)(?:-|\.\.\.) HTTP/1\.1" 200 1000 "-" "(b*)(?:\.\.\.)?"'
)


def lengths_of(number: int) -> tuple[int, int]:
    """How long the target and the browser's name of a request are: of one in a few nearly as long as is allowed."""
    if number % LONG_EVERY:
        return number % 50, number % 70
    return 7000 + number % 1000, 1000 + number * 37 % 20_000


def request_of(number: int) -> bytes:
    target, agent = lengths_of(number)
    return (
        b"GET /page?%d-" % number + b"a" * target + b"- HTTP/1.1\r\nHost: test\r\nUser-Agent: " + b"b" * agent
    ) + b"\r\n\r\n"


def is_whole(match: re.Match[bytes]) -> bool:
    """Whether the fields are as long as they were sent, or as may be."""
    target, agent = lengths_of(int(match[1]))
    whole = len(match[2]) == target or len(match[2]) > 1600 < target
    return whole and (len(match[3]) == agent or len(match[3]) > 490 < agent)


def check(log: bytes, count: int, broken_max: int = 0) -> None:
    """Every request has its line, which is whole, and there is nothing else. So many lines may be broken."""
    assert log.endswith(b"\n")
    seen: set[int] = set()
    broken = []
    for line in log[:-1].split(b"\n"):
        match = LINE.fullmatch(line)
        if not match or not is_whole(match):
            broken.append(line[:300])
            continue
        assert int(match[1]) not in seen
        seen.add(int(match[1]))
    assert len(broken) <= broken_max, broken
    assert seen <= set(range(count))
    assert count - len(seen) <= broken_max


class Load:
    """Clients of all workers that send requests in batches, each request once. asked: how many. of: their numbers, by
    the worker that a client had first.
    """

    def __init__(self, running: Running, stack: ExitStack) -> None:
        self.asked = 0
        self.of: dict[int, set[int]] = {pid: set() for pid in running.workers}
        self._url = running.url
        self._stack = stack
        self._lock = threading.Lock()
        self._failures: list[BaseException] = []
        self._clients: list[tuple[int, Wire]] = []
        # The kernel spreads connections by chance, and each worker is to have some.
        while len(self._clients) < CLIENTS_EACH * len(self.of):
            owner, wire = self._new_client()
            if sum(pid == owner for pid, _wire in self._clients) < CLIENTS_EACH:
                self._clients.append((owner, wire))
            assert self.asked < 200

    def _new_client(self) -> tuple[int, Wire]:
        wire = self._stack.enter_context(Wire(self._url))
        number = self._numbers(1)[0]
        assert wire.ask(request_of(number)).body == BODY
        port = wire.socket.getsockname()[1]
        owner = next(pid for pid in self.of if port in client_ports(pid))
        self.of[owner].add(number)
        return owner, wire

    def _numbers(self, count: int) -> range:
        with self._lock:
            self.asked += count
            return range(self.asked - count, self.asked)

    def run(self) -> None:
        """To the end. Fails if anything does."""
        threads = [threading.Thread(target=self._ask, args=client) for client in self._clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S * 3)
            assert not thread.is_alive()
        assert self._failures == []

    def _ask(self, owner: int, wire: Wire) -> None:
        try:
            for _round in range(ROUNDS):
                numbers = self._numbers(BATCH)
                self.of[owner].update(numbers)
                while numbers:
                    wire, numbers = self._exchange(wire, numbers)
        except BaseException as failure:
            self._failures.append(failure)

    def _exchange(self, wire: Wire, numbers: range) -> tuple[Wire, range]:
        """Send all, and take the answers, up to one that says that it is the last. What was not answered is left."""
        sender = threading.Thread(target=send, args=(wire, b"".join(map(request_of, numbers))))
        sender.start()
        done = 0
        last = False
        while not last and done < len(numbers):
            answer = wire.answer()
            assert answer.body == BODY
            done += 1
            last = answer.fields.get("connection") == "close"
        if last:
            wire.socket.shutdown(socket.SHUT_RDWR)
            wire = self._stack.enter_context(Wire(self._url))
        sender.join()
        return wire, numbers[done:]


def send(wire: Wire, requests: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the other end has said that it takes no more
        wire.send(requests)


class Reader:
    """Reads a descriptor to its end. log: what came."""

    def __init__(self, fd: int) -> None:
        self.log = bytearray()
        self._fd = fd
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # EIO: nobody has the terminal open any more (ioctl_tty(2), tty_ioctl)
                return
            if not data:
                return
            self.log += data

    def join(self) -> bytes:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        return bytes(self.log)


@pytest.fixture
def page(site: Path) -> Path:
    (site / "page").write_bytes(BODY)
    return site


@contextmanager
def sink(kind: str) -> Iterator[tuple[int, int]]:
    """Where to read and where to write, of a sink that takes little at once."""
    read_fd, write_fd = os.openpty() if kind == "terminal" else os.pipe()
    if kind == "terminal":
        tty.setraw(write_fd, termios.TCSANOW)
    else:
        fcntl.fcntl(write_fd, F_SETPIPE_SZ, PAGE_BYTES)
        os.set_blocking(write_fd, kind == "pipe that waits")
    try:
        yield read_fd, write_fd
    finally:
        os.close(read_fd)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", ["pipe that waits", "pipe that does not wait", "terminal"])
def test_lines_of_several_workers_are_whole_in_a_sink_that_takes_little_at_once(
    page: Path, kind: str, count: int
) -> None:
    with sink(kind) as (read_fd, write_fd):
        with command(page, "--workers", str(count), stdout=write_fd) as running, ExitStack() as stack:
            os.close(write_fd)
            reader = Reader(read_fd)
            load = Load(running, stack)
            load.run()
            eventually("all is written", lambda: reader.log.count(b"\n") >= load.asked, WRITTEN_S)
            assert running.end() == 0
            assert not running.heard("access log")
        check(reader.join(), load.asked)


@pytest.mark.parametrize("appends", [False, True], ids=["as a shell opens it", "appending"])
def test_lines_of_several_workers_are_whole_in_a_file_that_they_share(
    page: Path, tmp_path: Path, appends: bool
) -> None:
    path = tmp_path / "log"
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if appends else 0)
    fd = os.open(path, flags, 0o600)
    with command(page, "--workers", "3", stdout=fd) as running, ExitStack() as stack:
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
        os.close(fd)
        load = Load(running, stack)
        load.run()
        assert running.end() == 0
        assert not running.heard("access log")
    check(path.read_bytes(), load.asked)


def test_a_file_is_made_to_append_and_a_pipe_is_left_as_it_is(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as file, sink("pipe that waits") as (_read_fd, write_fd):
        os.write(file.fileno(), b"first")
        for fd in (file.fileno(), write_fd):
            append_always(fd)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        os.write(file.fileno(), b" second")
        assert fcntl.fcntl(write_fd, fcntl.F_GETFL) & os.O_APPEND == 0
        os.close(write_fd)
    assert (tmp_path / "log").read_bytes() == b"first second"


def test_lines_of_old_and_new_workers_are_whole_in_a_file_that_they_share(page: Path, tmp_path: Path) -> None:
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with command(page, "--workers", "1", "--drain-timeout", "20", stdout=fd) as running, ExitStack() as stack:
        os.close(fd)
        load = Load(running, stack)
        thread = threading.Thread(target=load.run)
        thread.start()
        for _reload in range(3):
            running.reload()
        thread.join()
        assert running.end() == 0
        assert not running.heard("access log")
    check(path.read_bytes(), load.asked)


def test_lines_are_whole_after_a_disk_was_full_except_one_of_each_worker(page: Path, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb", buffering=0) as file, command(page, "--workers", "3", stdout=file.fileno()) as running:
        with ExitStack() as stack:
            load = Load(running, stack)
            limit_file_bytes(running, FULL_AT_BYTES)
            load.run()
            eventually("all say it", lambda: sum("access log: EFBIG" in line for line in running.said) == 3)
            assert path.stat().st_size == FULL_AT_BYTES
            limit_file_bytes(running, resource.RLIM_INFINITY)
            eventually("it is written again", lambda: path.read_bytes().count(b"\n") >= load.asked - 3, WRITTEN_S)
        assert running.end() == 0
        assert not running.heard("lost")
    check(path.read_bytes(), load.asked, broken_max=3)


def limit_file_bytes(running: Running, limit: int) -> None:
    """Let the workers write no further than to this byte of any file, which is as if the disk were full."""
    for pid in running.workers:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def readable_bytes(fd: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0])


def test_all_lines_of_a_pipe_are_whole_where_a_worker_was_killed_that_waited_for_room(page: Path) -> None:
    with sink("pipe that waits") as (read_fd, write_fd):
        with command(page, "--workers", "2", stdout=write_fd) as running, ExitStack() as stack:
            os.close(write_fd)
            load = Load(running, stack)
            load.run()
            # Nobody has read, so that both wait.
            eventually("the pipe is full", lambda: readable_bytes(read_fd) > PAGE_BYTES / 2)
            victim = min(running.workers)
            os.kill(victim, signal.SIGKILL)
            eventually("it is said", lambda: running.heard(f"(pid {victim}) was ended"))
            reader = Reader(read_fd)
            eventually("another is there", lambda: len(running.workers - {victim}) == 2)
            assert running.end() == 0
        lines = reader.join().splitlines(keepends=True)
    matches = [LINE.fullmatch(line, 0, len(line) - 1) for line in lines]
    assert all(match and is_whole(match) for match in matches)
    (survivor,) = load.of.keys() - {victim}
    assert {int(match[1]) for match in matches if match} >= load.of[survivor]
