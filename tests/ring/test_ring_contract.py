"""The contract of `ringserve.ring.world`: the same cases for every implementation.

A case touches a ring only through the interface, by way of a `Bench`, which keeps memory alive, checks invariants in
every turn and drains what is in flight. What is outside of the ring (clients, files) comes from a `World`, whose small
functions an implementation with a world of its own (the simulated one) replaces. To add an implementation, add it to
`IMPLEMENTATIONS`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import select
import socket
import stat
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ringserve.ring import open_world
from ringserve.ring.helpers import THREADS, WAITING_MAX
from ringserve.ring.linux.system import WASTE
from ringserve.ring.world import (
    DISCARD_BYTES_MAX,
    NO_ROOM,
    PIPE_BUF,
    Change,
    ChangeKind,
    FileStatus,
    Loaded,
    Named,
    Names,
    Pinned,
    Pipe,
    Ring,
    RingOptions,
    Root,
    World,
    errno_name,
)

TURNS_MAX = 2000  # with TURN_S each at most 20 s: more than any case needs on a loaded machine, and it ends
TURN_S = 0.01
LONG_S = 20.0  # a sleep that must end early; a case that sleeps it out fails
SMALL_BUFFER = 32768  # of sockets that a case fills; with much smaller ones TCP waits for its timers
QUIET_MS = 100  # a full TCP connection that takes no more for so long is settled; a delayed acknowledgement takes 40 ms
OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

# inotify(7)


# -- the world outside of the ring ------------------------------------------------------------------------------------


class Peer:
    """The other end of a connection, driven by plain non-blocking calls."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        client.setblocking(False)

    def send(self, data: bytes) -> int:
        """Sends what fits."""
        return self._client.send(data)

    def receive(self) -> bytes | None:
        """What has arrived; None: nothing yet; empty: the end."""
        try:
            return self._client.recv(1 << 16)
        except BlockingIOError:
            return None

    def finish(self) -> None:
        """Send FIN and keep receiving."""
        self._client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Leave in the ordinary way."""
        self._client.close()

    def reset(self) -> None:
        """Leave with a reset."""
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client.close()


class Outside:
    """Sockets, files and descriptors of the kernel, all closed at the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._descriptors: set[int] = set()
        self._peers: list[Peer] = []

    # descriptors

    def own(self, fd: int) -> int:
        """Close `fd` at the end."""
        assert fd >= 0, errno_name(fd)
        assert fd not in self._descriptors, f"descriptor {fd} was given out twice"
        self._descriptors.add(fd)
        return fd

    def disown(self, fd: int) -> int:
        """The case closes `fd`."""
        self._descriptors.remove(fd)
        return fd

    def is_open(self, fd: int) -> bool:
        try:
            os.fstat(fd)
        except OSError:
            return False
        return True

    def close_all(self) -> None:
        for peer in self._peers:
            peer.close()
        for fd in self._descriptors:
            os.close(fd)
        self._descriptors.clear()

    @contextlib.contextmanager
    def descriptors_exhausted(self) -> Iterator[None]:
        """Every attempt to get a descriptor fails with EMFILE."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def is_inheritable(self, fd: int) -> bool:
        return os.get_inheritable(fd)

    def is_blocking(self, fd: int) -> bool:
        return os.get_blocking(fd)

    def pipe(self) -> tuple[int, int]:
        """A blocking pipe: read end, write end."""
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        return self.own(read_fd), self.own(write_fd)

    def pipe_capacity(self, fd: int) -> int:
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)

    def write(self, fd: int, data: bytes) -> None:
        assert os.write(fd, data) == len(data)

    def read(self, fd: int, length: int) -> bytes:
        return os.read(fd, length)

    # files

    def file(self, name: str, content: bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def drop_from_memory(self, fd: int) -> None:
        """Let a file's bytes be on the disk alone."""
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def directory(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(parents=True)
        return path

    def symlink(self, name: str, target: str) -> None:
        (self.root / name).symlink_to(target)

    def open(self, path: Path, flags: int = OPEN_FLAGS) -> int:
        return self.own(os.open(path, flags, 0o600))

    # sockets

    def listener(self, family: int = socket.AF_INET, host: str = "127.0.0.1") -> int:
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        if family == socket.AF_UNIX:
            made.bind(str(self.root / "socket"))
        else:
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            made.bind((host, 0))
        made.listen(512)
        return self.own(made.detach())

    def connect(self, listener_fd: int, host: str = "", receive_bytes: int = 0) -> Peer:
        """A client whose connection waits in the listener's backlog. `host`: another way to reach it."""
        listener = socket.socket(fileno=os.dup(listener_fd))
        with listener:
            family, address = listener.family, listener.getsockname()
        if host:
            family, address = socket.AF_INET, (host, address[1])
        client = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        peer = Peer(client)
        with contextlib.suppress(BlockingIOError):
            client.connect(address)
        self._peers.append(peer)
        return peer

    def accept(self, listener_fd: int) -> int:
        """Take a connection without the ring."""
        with socket.socket(fileno=os.dup(listener_fd)) as listener:
            listener.setblocking(True)
            listener.settimeout(LONG_S)
            accepted, _address = listener.accept()
            os.set_blocking(listener.fileno(), True)  # the time-out made the shared description non-blocking
        accepted.setblocking(False)
        return self.own(accepted.detach())

    def connected(self, socket_bytes: int = 0) -> tuple[int, Peer]:
        """A non-blocking connection over TCP and its peer. `socket_bytes`: of a small buffer on either side."""
        listener_fd = self.listener()
        peer = self.connect(listener_fd, receive_bytes=socket_bytes)
        fd = self.accept(listener_fd)
        os.close(self.disown(listener_fd))
        if socket_bytes:
            with socket.socket(fileno=os.dup(fd)) as copy:
                copy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, socket_bytes)
        return fd, peer

    def fill(self, fd: int) -> int:
        """Put bytes into a connection until it takes no more, and say how many."""
        total = 0
        room = select.poll()
        room.register(fd, select.POLLOUT)
        with socket.socket(fileno=os.dup(fd)) as copy:
            copy.setblocking(False)
            while room.poll(QUIET_MS):  # its bytes may still be on their way to the peer, which makes room again
                with contextlib.suppress(BlockingIOError):
                    while True:
                        total += copy.send(bytes(4096))
        return total

    # the clock and other threads

    def let_time_pass(self) -> None:
        """Until the clock that a ring would read has certainly changed."""
        start = time.monotonic()
        while time.monotonic() < start + 0.002:
            pass

    def wake_when_asleep(self, ring: Ring) -> threading.Thread:
        """Calls `ring.wake` from another thread once this one sleeps in the kernel."""
        task = Path(f"/proc/self/task/{threading.get_native_id()}/stat")

        def run() -> None:
            for _attempt in range(10_000):
                if task.read_text().rpartition(")")[2].split()[0] == "S":
                    break
            ring.wake()

        thread = threading.Thread(target=run)
        thread.start()
        return thread


# -- the bench --------------------------------------------------------------------------------------------------------


class Completed(NamedTuple):
    """One completion, with the bytes of its provided buffer."""

    res: int
    buffer: int
    more: bool
    data: bytes


class Bench:
    """A ring under test. Every turn checks what must hold for all of them; see `turn`."""

    def __init__(self, world: World, outside: Outside, buffers: int) -> None:
        self.buffers = buffers
        self.ring = world.ring
        self.system = world.system
        self.diagnostics = world.diagnostics
        self.outside = outside
        self.completed: defaultdict[int, list[Completed]] = defaultdict(list)
        self.in_flight: set[int] = set()
        self.buffers_named: list[int] = []
        self._serial = 0
        self._kept: list[object] = []  # all memory that the kernel may reach, until the ring is shut

    def begin(self) -> int:
        """A user_data for one submission."""
        self._serial += 1
        self.in_flight.add(self._serial)
        return self._serial

    def pin(self, data: bytes) -> Pinned:
        pinned = self.ring.pin(data)
        self._kept.append(pinned)
        return pinned

    def turn(self, timeout_s: float = TURN_S) -> int:
        """One turn of the ring. Asserts that nothing completes that is not in flight, that no more buffers are named
        than there are and none twice, and that the clock does not go back. Returns how many completions came."""
        before = self.ring.now
        count = 0
        named: list[int] = []
        for user_data, res, buffer, more in self.ring.turn(timeout_s):
            count += 1
            assert user_data in self.in_flight, f"{user_data} completed after its end: res={res} more={more}"
            data = b""
            if buffer >= 0:
                named.append(buffer)
                data = self.ring.received(buffer, max(res, 0))
            if not more:
                self.in_flight.remove(user_data)
            self.completed[user_data].append(Completed(res, buffer, more, data))
        assert self.ring.now >= before, "the clock went back"
        assert len(named) == len(set(named)), f"a buffer was named twice in one turn: {named}"
        assert len(named) <= self.buffers, f"more buffers than there are: {named}"
        self.buffers_named += named
        return count

    def until(self, reached: Callable[[], object], what: str) -> None:
        """Turn until `reached`, and fail if that does not come."""
        for _turn in range(TURNS_MAX):
            if reached():
                return
            self.turn()
        pytest.fail(f"did not happen: {what}; in flight: {sorted(self.in_flight)}")

    def ended(self, operation: int) -> bool:
        return operation not in self.in_flight

    def result(self, operation: int) -> int:
        """Turn until `operation` ends; `res` of its last completion."""
        self.until(lambda: self.ended(operation), f"the end of operation {operation}")
        return self.completed[operation][-1].res

    def stays_pending(self, operation: int) -> bool:
        """False if `operation` ends within a few turns that leave it time."""
        for _turn in range(5):
            self.turn()
        return not self.ended(operation)

    def next_completion(self, operation: int) -> Completed:
        """Turn until the oldest completion of `operation` that was not taken yet is there, and take it."""
        self.until(lambda: self.completed[operation], f"a completion of operation {operation}")
        return self.completed[operation].pop(0)

    def received(self, operation: int) -> bytes:
        """All that a receive has delivered."""
        return b"".join(completed.data for completed in self.completed[operation])

    def until_peer(self, peer: Peer, length: int) -> bytes:
        """Turn until `peer` has `length` bytes or the end of the stream; what it has."""
        got = bytearray()
        for _turn in range(TURNS_MAX):
            while len(got) < length:
                data = peer.receive()
                if data == b"":
                    return bytes(got)
                if data is None:
                    break
                got += data
            if len(got) >= length:
                return bytes(got)
            self.turn()
        pytest.fail(f"the peer has {len(got)} bytes of {length}, and no more come")

    def until_peer_ends(self, peer: Peer) -> None:
        """Turn until `peer` sees the end of the stream, with nothing before it."""
        seen: list[bytes | None] = [None]

        def look() -> bool:
            seen[0] = peer.receive()
            return seen[0] is not None

        self.until(look, "the end of the stream at the peer")
        assert seen[0] == b""

    # verbs whose result a case wants at once

    def answer(self, operation: int, answer: Any) -> Any:
        """What a question was answered: at once, or by its completion. What is raised is returned."""
        if answer is not None:
            self.in_flight.remove(operation)
            return answer
        res = self.result(operation)
        try:
            return res or self.ring.take(operation)
        except OSError as error:
            return error

    def look(self, root: Root, path: bytes) -> FileStatus | int:
        operation = self.begin()
        found: FileStatus | int = self.answer(operation, self.ring.look(operation, root, path))
        return found

    def load(self, root: Root, path: bytes, body_bytes_max: int = 0, closed_bytes_max: int = -1) -> Loaded | int:
        """What is open is closed at the end."""
        operation = self.begin()
        found: Loaded | int = self.answer(
            operation, self.ring.load(operation, root, path, body_bytes_max, closed_bytes_max)
        )
        if not isinstance(found, int) and found.file is not None:
            self.outside.own(found.file)
        return found

    def names(self, root: Root, path: bytes, names_max: int = 100) -> Any:
        operation = self.begin()
        return self.answer(operation, self.ring.names(operation, root, path, names_max, lambda name, _directory: name))

    def inventory(self, root: Root, path: bytes, bytes_max: int = 1 << 20) -> Any:
        operation = self.begin()
        return self.answer(operation, self.ring.inventory(operation, root, path, bytes_max))

    def watch(self, root: Root, path: bytes) -> Any:
        operation = self.begin()
        return self.answer(operation, self.ring.watch(operation, root, path))

    def fill(self, pipe: Pipe, file: int, offset: int, length: int) -> int:
        operation = self.begin()
        count = self.ring.fill(operation, pipe, file, offset, length)
        return self.result(operation) if count is None else int(self.answer(operation, count))

    def pipe(self, capacity_bytes: int = 65536) -> Pipe:
        """One that is closed at the end."""
        pipe = self.system.pipe(capacity_bytes)
        self.outside.own(pipe.read_fd)
        self.outside.own(pipe.write_fd)
        return pipe

    def receive(self, fd: int) -> int:
        operation = self.begin()
        self.ring.receive(operation, fd)
        return operation

    def room(self, fd: int) -> int:
        operation = self.begin()
        self.ring.room(operation, fd)
        return operation

    def arrival(self, fd: int) -> int:
        operation = self.begin()
        self.ring.arrival(operation, fd)
        return operation

    def shut(self) -> None:
        """End what is in flight, then the ring."""
        try:
            for operation in sorted(self.in_flight):
                self.ring.cancel(operation)
            self.until(
                lambda: not self.in_flight and not self.ring.in_flight(), "the end of everything that was cancelled"
            )
        finally:
            self.ring.shut()


class Implementation(NamedTuple):
    """How to open one, and what it runs in. `requires`: a fixture that skips where it cannot run."""

    requires: str
    open: Callable[[RingOptions], World]
    outside: Callable[[Path], Outside]


IMPLEMENTATIONS = {"uring": Implementation("io_uring", open_world, Outside)}

OpenBench = Callable[..., Bench]


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def implementation(request: pytest.FixtureRequest) -> Implementation:
    """Each implementation in turn."""
    chosen = IMPLEMENTATIONS[request.param]
    request.getfixturevalue(chosen.requires)
    return chosen


@pytest.fixture
def open_bench(implementation: Implementation, tmp_path: Path) -> Iterator[OpenBench]:
    """Opens benches with the options that a case names; afterwards no descriptor may be left."""
    before = set(os.listdir("/proc/self/fd"))
    outside = implementation.outside(tmp_path)
    benches: list[Bench] = []

    def make(**options: int) -> Bench:
        chosen = RingOptions(**options)
        bench = Bench(implementation.open(chosen), outside, chosen.buffers)
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        bench.shut()
    outside.close_all()
    # The directory's own listing is a descriptor, open in both: the number may differ, the target tells it.
    left = [fd for fd in os.listdir("/proc/self/fd") if fd not in before and os.path.exists(f"/proc/self/fd/{fd}")]
    assert not left, f"descriptors left open: {left}"


@pytest.fixture
def bench(open_bench: OpenBench) -> Bench:
    """A ring of ordinary, small options."""
    return open_bench(submission_entries=64, completion_entries=512, buffers=16, buffer_bytes=1024)


# -- accept -----------------------------------------------------------------------------------------------------------


def test_accept_takes_one_connection_non_blocking_and_close_on_exec(bench: Bench) -> None:
    outside = bench.outside
    listener = outside.listener()
    operation = bench.begin()
    bench.ring.accept_once(operation, listener)
    assert bench.stays_pending(operation)
    peer = outside.connect(listener)
    outside.connect(listener)
    fd = outside.own(bench.result(operation))
    assert len(bench.completed[operation]) == 1
    assert not bench.completed[operation][0].more
    assert not outside.is_blocking(fd)
    assert not outside.is_inheritable(fd)
    assert peer.send(b"x") == 1
    receive = bench.receive(fd)
    assert bench.next_completion(receive).data == b"x"


def test_accept_waiting_takes_one_that_waits_and_waits_for_none(bench: Bench) -> None:
    outside = bench.outside
    listener = outside.listener()
    for _client in range(2):
        outside.connect(listener)
    for takes in (True, True, False):
        operation = bench.begin()
        bench.ring.accept_waiting(operation, listener)
        res = bench.result(operation)
        assert (res >= 0) is takes
        if takes:
            outside.own(res)
            assert not outside.is_blocking(res)


def test_accept_of_what_does_not_listen_is_an_error(bench: Bench) -> None:
    fd, _peer = bench.outside.connected()
    operation = bench.begin()
    bench.ring.accept_once(operation, fd)
    assert bench.result(operation) == -errno.EINVAL


def test_accept_multishot_takes_every_client_until_it_is_cancelled(bench: Bench) -> None:
    outside = bench.outside
    listener = outside.listener()
    operation = bench.begin()
    bench.ring.accept(operation, listener)
    accepted = []
    for _round in range(3):
        for _client in range(4):
            outside.connect(listener)
        for _client in range(4):
            completion = bench.next_completion(operation)
            accepted.append(outside.own(completion.res))
            assert completion.more
            assert not outside.is_blocking(accepted[-1])
            assert not outside.is_inheritable(accepted[-1])
    assert len(set(accepted)) == 12
    bench.ring.cancel(operation)
    assert bench.result(operation) == -errno.ECANCELED


def test_accept_multishot_ends_with_emfile_and_goes_on_when_armed_again(bench: Bench) -> None:
    outside = bench.outside
    listener = outside.listener()
    peer = outside.connect(listener)
    with outside.descriptors_exhausted():
        operation = bench.begin()
        bench.ring.accept(operation, listener)
        completion = bench.next_completion(operation)
    assert completion.res == -errno.EMFILE
    assert not completion.more
    again = bench.begin()
    bench.ring.accept(again, listener)
    fd = outside.own(bench.next_completion(again).res)
    os.close(outside.disown(fd))
    bench.until_peer_ends(peer)


# -- receive ----------------------------------------------------------------------------------------------------------


def test_receive_multishot_delivers_in_named_buffers_until_the_end_of_the_stream(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    receive = bench.receive(fd)
    for message in (b"first", b"second", b"third"):
        assert peer.send(message) == len(message)
        completion = bench.next_completion(receive)
        assert (completion.res, completion.data) == (len(message), message)
        assert completion.buffer >= 0
        assert completion.more
    peer.finish()
    completion = bench.next_completion(receive)
    assert completion.res == 0
    assert not completion.more


def test_receive_takes_one_piece_and_ends(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    for message in (b"first", b"second"):
        receive = bench.begin()
        bench.ring.receive_once(receive, fd)
        assert bench.stays_pending(receive)
        assert peer.send(message) == len(message)
        assert bench.result(receive) == len(message)
        (completion,) = bench.completed[receive]
        assert completion.data == message
        assert completion.buffer >= 0
        assert not completion.more
    peer.finish()
    last = bench.begin()
    bench.ring.receive_once(last, fd)
    assert bench.result(last) == 0


def test_receive_takes_no_more_than_a_buffer_and_leaves_the_rest(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    sent = bytes(range(256)) * 20
    assert peer.send(sent) == len(sent)
    got = b""
    while len(got) < len(sent):
        receive = bench.begin()
        bench.ring.receive_once(receive, fd)
        assert 0 < bench.result(receive) <= 1024
        got += bench.received(receive)
    assert got == sent


def test_receive_multishot_delivers_what_is_longer_than_a_buffer_in_pieces(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    receive = bench.receive(fd)
    sent = bytes(range(256)) * 20
    assert peer.send(sent) == len(sent)
    bench.until(lambda: len(bench.received(receive)) == len(sent), "all that was sent")
    assert bench.received(receive) == sent
    assert all(0 < completion.res <= 1024 for completion in bench.completed[receive])


def test_receive_multishot_delivers_what_had_arrived_before_it_was_armed(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    peer.send(b"early")
    peer.finish()
    receive = bench.receive(fd)
    assert bench.result(receive) == 0
    assert bench.received(receive) == b"early"


def test_receive_multishot_works_on_a_blocking_socket_and_a_unix_socket(bench: Bench) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        receive = bench.receive(ours.fileno())
        assert bench.stays_pending(receive)
        theirs.send(b"local")
        assert bench.next_completion(receive).data == b"local"
        theirs.shutdown(socket.SHUT_WR)
        assert bench.result(receive) == 0


def test_receive_multishot_ends_with_econnreset_when_the_peer_resets(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    receive = bench.receive(fd)
    assert bench.stays_pending(receive)
    peer.reset()
    assert bench.result(receive) == -errno.ECONNRESET


def test_a_cancelled_receive_completes_once_and_its_cancel_does_not(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    receive = bench.receive(fd)
    assert bench.stays_pending(receive)
    bench.ring.cancel(receive)
    assert bench.result(receive) == -errno.ECANCELED
    assert len(bench.completed[receive]) == 1
    peer.send(b"later")  # the socket is healthy, and another receive gets what arrives
    assert bench.next_completion(bench.receive(fd)).data == b"later"


def test_a_receive_can_be_cancelled_in_the_batch_that_queued_it(bench: Bench) -> None:
    fd, _peer = bench.outside.connected()
    receive = bench.receive(fd)
    bench.ring.cancel(receive)
    assert bench.result(receive) == -errno.ECANCELED


def test_a_cancel_ends_only_its_target(bench: Bench) -> None:
    first_fd, _first_peer = bench.outside.connected()
    second_fd, second_peer = bench.outside.connected()
    first, second = bench.receive(first_fd), bench.receive(second_fd)
    bench.ring.cancel(first)
    assert bench.result(first) == -errno.ECANCELED
    assert not bench.ended(second)
    second_peer.send(b"still here")
    assert bench.next_completion(second).data == b"still here"


def test_a_cancel_of_nothing_and_of_what_has_ended_is_no_error(bench: Bench) -> None:
    fd, _peer = bench.outside.connected()
    room = bench.room(fd)
    bench.result(room)
    for nothing in (room, 123_456_789):
        bench.ring.cancel(nothing)
    assert bench.ring.in_flight() == 2
    bench.until(lambda: not bench.ring.in_flight(), "their end")
    assert len(bench.completed) == 1


# -- send -------------------------------------------------------------------------------------------------------------


def test_send_sends_from_the_offset_to_the_end(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    data = bench.pin(b"not this, but this")
    operation = bench.begin()
    bench.ring.send(operation, fd, data, 10)
    assert bench.result(operation) == 8
    assert bench.until_peer(peer, 8) == b"but this"
    assert not bench.completed[operation][0].more


def test_short_sends_carry_a_long_body_whole_when_each_goes_on_where_the_last_ended(bench: Bench) -> None:
    fd, peer = bench.outside.connected(socket_bytes=SMALL_BUFFER)
    body = bytes(range(256)) * 4096
    data = bench.pin(body)
    offset, results = 0, []
    got = bytearray()
    while offset < len(body):
        operation = bench.begin()
        bench.ring.send(operation, fd, data, offset)
        if bench.stays_pending(operation):
            got += peer.receive() or b""
        while not bench.ended(operation):
            got += peer.receive() or b""
            bench.turn()
        res = bench.completed[operation][-1].res
        assert 0 < res <= len(body) - offset, res
        results.append(res)
        offset += res
    got += bench.until_peer(peer, len(body) - len(got))
    assert bytes(got) == body
    assert len(results) > 1, "the case means to see short sends"


def test_a_send_to_a_full_socket_completes_once_the_peer_reads(bench: Bench) -> None:
    fd, peer = bench.outside.connected(socket_bytes=SMALL_BUFFER)
    filled = bench.outside.fill(fd)
    operation = bench.begin()
    bench.ring.send(operation, fd, bench.pin(b"at last"))
    assert bench.stays_pending(operation)
    got = bench.until_peer(peer, filled + 7)
    assert bench.result(operation) == 7
    assert got[filled:] == b"at last"


def test_a_send_to_a_peer_that_is_gone_is_an_error_and_no_signal(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    peer.reset()
    results = set()
    for _attempt in range(2):
        operation = bench.begin()
        bench.ring.send(operation, fd, bench.pin(b"anybody?"))
        results.add(bench.result(operation))
    assert results <= {-errno.ECONNRESET, -errno.EPIPE}
    assert -errno.EPIPE in results


def test_a_send_to_a_full_socket_can_be_cancelled(bench: Bench) -> None:
    fd, _peer = bench.outside.connected(socket_bytes=SMALL_BUFFER)
    bench.outside.fill(fd)
    operation = bench.begin()
    bench.ring.send(operation, fd, bench.pin(b"never mind"))
    assert bench.stays_pending(operation)
    bench.ring.cancel(operation)
    assert bench.result(operation) == -errno.ECANCELED


# -- room, arrival ----------------------------------------------------------------------------------------------------


def test_room_completes_once(bench: Bench) -> None:
    fd, _peer = bench.outside.connected()
    room = bench.room(fd)
    assert bench.result(room) >= 0
    bench.turn()
    assert len(bench.completed[room]) == 1
    assert not bench.completed[room][0].more


def test_room_in_a_full_socket_completes_once_the_peer_reads(bench: Bench) -> None:
    fd, peer = bench.outside.connected(socket_bytes=SMALL_BUFFER)
    filled = bench.outside.fill(fd)
    room = bench.room(fd)
    assert bench.stays_pending(room)
    bench.until_peer(peer, filled)
    assert bench.result(room) >= 0


def test_room_completes_when_the_peer_is_gone(bench: Bench) -> None:
    fd, peer = bench.outside.connected(socket_bytes=SMALL_BUFFER)
    bench.outside.fill(fd)
    room = bench.room(fd)
    assert bench.stays_pending(room)
    peer.reset()
    assert bench.result(room) >= 0


def test_pending_room_can_be_cancelled(bench: Bench) -> None:
    fd, _peer = bench.outside.connected(socket_bytes=SMALL_BUFFER)
    bench.outside.fill(fd)
    room = bench.room(fd)
    assert bench.stays_pending(room)
    bench.ring.cancel(room)
    assert bench.result(room) == -errno.ECANCELED


def test_arrival_completes_once_something_comes_or_nothing_will(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    arrival = bench.arrival(fd)
    assert bench.stays_pending(arrival)
    peer.send(b"x")
    assert bench.result(arrival) >= 0
    assert bench.system.throw_away(fd, 10) == 1
    last = bench.arrival(fd)
    assert bench.stays_pending(last)
    peer.finish()
    assert bench.result(last) >= 0


# -- look, load, names ------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(bench: Bench) -> Root:
    """`root`, beside which lies a secret."""
    outside = bench.outside
    outside.file("secret", b"secret")
    outside.file("root/page", b"page")
    outside.file("root/inner/deep", b"deep")
    outside.symlink("root/link-inside", "inner/deep")
    outside.symlink("root/link-out", "../secret")
    outside.symlink("root/link-absolute", str(outside.root / "root" / "page"))
    outside.symlink("root/link-directory-out", "..")
    outside.symlink("root/link-loop", "link-loop")
    return Root(outside.open(outside.root / "root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (b"page", b"page"),
        (b"inner/deep", b"deep"),
        (b"inner/../page", b"page"),
        (b"./page", b"page"),
        (b"link-inside", b"deep"),
    ],
)
def test_what_is_beneath_is_loaded_and_looked_at(bench: Bench, tree: Root, path: bytes, content: bytes) -> None:
    for body_bytes_max, body in ((100, content), (len(content), content), (len(content) - 1, None)):
        loaded = bench.load(tree, path, body_bytes_max)
        assert isinstance(loaded, Loaded)
        assert loaded.file is not None
        assert loaded.body == body
        assert bench.outside.read(loaded.file, 100) == content
        assert not bench.outside.is_inheritable(loaded.file)
        found = os.stat(path, dir_fd=tree.directory)
        assert loaded.status == bench.look(tree, path)
        assert loaded.status == (
            found.st_mode, found.st_dev, found.st_ino, len(content), found.st_mtime_ns, found.st_ctime_ns
        )  # fmt: skip


def test_a_file_that_was_read_is_left_open_only_above_a_size(bench: Bench, tree: Root) -> None:
    for body_bytes_max, closed_bytes_max, body, is_open in (
        (4, 4, b"page", False),
        (4, 3, b"page", True),
        (3, 4, None, True),
    ):
        loaded = bench.load(tree, b"page", body_bytes_max, closed_bytes_max)
        assert isinstance(loaded, Loaded)
        assert (loaded.body, loaded.file is not None) == (body, is_open)


def test_a_body_of_any_size_is_loaded_whole(bench: Bench, tree: Root) -> None:
    for size in (0, 1, 4096, 1_000_003):
        content = os.urandom(size)
        bench.outside.file(f"root/{size}", content)
        loaded = bench.load(tree, b"%d" % size, 1_000_003)
        assert isinstance(loaded, Loaded)
        assert loaded.body == content


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (b"..", errno.EXDEV),
        (b"../secret", errno.EXDEV),
        (b"../root/page", errno.EXDEV),
        (b"inner/../../secret", errno.EXDEV),
        (b"/etc/passwd", errno.EXDEV),
        (b"/", errno.EXDEV),
        (b"link-out", errno.EXDEV),
        (b"link-absolute", errno.EXDEV),
        (b"link-directory-out/secret", errno.EXDEV),
        (b"missing", errno.ENOENT),
        (b"missing/page", errno.ENOENT),
        (b"page/below", errno.ENOTDIR),
        (b"page/", errno.ENOTDIR),
        (b"link-loop", errno.ELOOP),
        (b"n" * 256, errno.ENAMETOOLONG),
    ],
)
def test_what_is_not_beneath_or_not_there_is_an_errno(bench: Bench, tree: Root, path: bytes, error: int) -> None:
    assert (
        bench.look(tree, path) == bench.load(tree, path) == bench.names(tree, path) == bench.watch(tree, path) == -error
    )


def test_symbolic_links_lead_out_of_a_root_that_follows_them(bench: Bench, tree: Root) -> None:
    follows = tree._replace(follow_symlinks=True)
    for path, content in (
        (b"link-out", b"secret"),
        (b"link-absolute", b"page"),
        (b"link-directory-out/secret", b"secret"),
    ):
        loaded = bench.load(follows, path, 100)
        assert isinstance(loaded, Loaded)
        assert loaded.body == content
        assert bench.look(follows, path) == loaded.status


def test_what_is_no_regular_file_is_not_opened_for_long(bench: Bench, tree: Root) -> None:
    os.mkfifo("fifo", dir_fd=tree.directory)
    for path, kind in (
        (b"", stat.S_IFDIR),
        (b"inner", stat.S_IFDIR),
        (b"inner/", stat.S_IFDIR),
        (b"fifo", stat.S_IFIFO),
    ):
        loaded = bench.load(tree, path, 100)
        assert isinstance(loaded, Loaded)
        assert (stat.S_IFMT(loaded.status.mode), loaded.body, loaded.file) == (kind, None, None)
        assert bench.look(tree, path) == loaded.status


def test_a_question_without_descriptors_left_is_emfile(bench: Bench, tree: Root) -> None:
    with bench.outside.descriptors_exhausted():
        assert bench.look(tree, b"page") == bench.load(tree, b"page") == bench.names(tree, b"") == -errno.EMFILE
    assert isinstance(bench.load(tree, b"page"), Loaded)


def test_a_question_can_be_cancelled_and_leaves_nothing_open(bench: Bench, tree: Root) -> None:
    bench.outside.file("root/large", bytes(1 << 20))
    for _attempt in range(20):
        look, load, names = (bench.begin() for _question in range(3))
        answers = {
            look: bench.ring.look(look, tree, b"page"),
            load: bench.ring.load(load, tree, b"large", 1 << 20, 0),
            names: bench.ring.names(names, tree, b"", 100, lambda name, _directory: name),
        }
        for operation in answers:
            bench.ring.cancel(operation)
        for operation, answer in answers.items():
            if answer is None:
                res = bench.result(operation)
                assert res in (0, -errno.ECANCELED)
                answer = bench.ring.take(operation) if res == 0 else None
            else:
                bench.in_flight.remove(operation)
            if isinstance(answer, Loaded) and answer.file is not None:
                os.close(answer.file)
    bench.until(lambda: not bench.ring.in_flight(), "the end of what the ring does for itself")


def test_names_are_what_is_in_a_directory_and_within_the_root(bench: Bench, tree: Root) -> None:
    bench.outside.symlink("root/inner/out", "../../secret")
    bench.outside.symlink("root/inner/nowhere", "missing")
    bench.outside.symlink("root/inner/page", "../page")
    bench.outside.symlink("root/inner/up", "..")
    names = bench.names(tree, b"inner/")
    assert names == Names(
        tuple(Named(name, bench.look(tree, b"inner/" + name)) for name in (b"deep", b"page", b"up")),  # type: ignore[arg-type]
        False,
    )
    follows = tree._replace(follow_symlinks=True)
    assert [named.name for named in bench.names(follows, b"inner/").found] == [b"deep", b"out", b"page", b"up"]


def test_names_beyond_the_most_are_left_out_by_their_rank(bench: Bench, tree: Root) -> None:
    for number in range(10):
        bench.outside.file(f"root/many/{number}", b"")
    assert [named.name for named in bench.names(tree, b"many", 3).found] == [b"0", b"1", b"2"]
    assert bench.names(tree, b"many", 3).truncated
    assert not bench.names(tree, b"many", 10).truncated
    operation = bench.begin()
    by_rank = bench.ring.names(
        operation, tree, b"many", 3, lambda name, _directory: -int(name) if name > b"1" else None
    )
    assert [named.name for named in bench.answer(operation, by_rank).found] == [b"9", b"8", b"7"]


# -- look, without waiting --------------------------------------------------------------------------------------------


def test_a_look_that_does_not_wait_says_what_another_says_or_nothing(bench: Bench, tree: Root) -> None:
    for path in (b"page", b"inner/deep", b"inner", b"link-inside"):
        found = bench.look(tree, path)
        assert bench.ring.look(None, tree, path) in (None, found)


def test_a_load_that_does_not_wait_says_what_another_says_or_nothing(bench: Bench, tree: Root) -> None:
    for path in (b"page", b"inner/deep", b"inner", b"link-inside", b"missing", b"page/"):
        for body_bytes_max, closed_bytes_max in ((10, 10), (10, 0), (1, 0)):
            found = bench.load(tree, path, body_bytes_max, closed_bytes_max)
            at_once = bench.ring.load(None, tree, path, body_bytes_max, closed_bytes_max)
            if at_once is None:
                continue
            if not isinstance(at_once, int) and at_once.file is not None:
                assert bench.outside.read(bench.outside.own(at_once.file), 100) in (b"page", b"deep")
                assert isinstance(found, Loaded)
                at_once, found = at_once._replace(file=None), found._replace(file=None)
            assert at_once == found


def test_a_look_that_does_not_wait_knows_what_was_looked_for_and_not_found(bench: Bench, tree: Root) -> None:
    # Whether it knows of a name that nobody asked for yet is the kernel's business.
    assert bench.ring.look(None, tree, b"missing") in (None, -errno.ENOENT)
    assert bench.look(tree, b"missing") == -errno.ENOENT
    assert bench.ring.look(None, tree, b"missing") in (None, -errno.ENOENT)


def test_a_look_that_does_not_wait_leaves_the_root_no_more_than_another_does(bench: Bench, tree: Root) -> None:
    for path in (b"../secret", b"/etc/hostname", b"inner/../../secret", b"link-out", b"link-absolute"):
        assert bench.look(tree, path) == -errno.EXDEV
        assert bench.ring.look(None, tree, path) in (-errno.EXDEV, None)


def test_a_look_that_does_not_wait_follows_a_link_out_if_it_may(bench: Bench, tree: Root) -> None:
    for _attempt in range(100):  # a rename anywhere may race with it
        os.stat("link-out", dir_fd=tree.directory)  # so that the kernel knows the way
        found = bench.ring.look(None, tree._replace(follow_symlinks=True), b"link-out")
        if found is not None:
            break
    assert isinstance(found, FileStatus)
    assert found.size == len(b"secret")


# -- fill, empty ------------------------------------------------------------------------------------------------------


def test_a_pipe_is_filled_from_a_file(bench: Bench) -> None:
    outside = bench.outside
    body = bytes(range(256)) * 100
    file_fd = outside.open(outside.file("body", body))
    pipe = bench.pipe()
    start = 1001  # not on a page
    assert bench.fill(pipe, file_fd, start, len(body) - start) == len(body) - start
    assert outside.read(pipe.read_fd, len(body)) == body[start:]


def test_a_fill_beyond_the_end_of_a_file_moves_what_there_is(bench: Bench) -> None:
    outside = bench.outside
    file_fd = outside.open(outside.file("short", b"0123456789"))
    pipe = bench.pipe()
    assert bench.fill(pipe, file_fd, 4, 60000) == 6
    assert outside.read(pipe.read_fd, 100) == b"456789"
    assert bench.fill(pipe, file_fd, 10, 60000) == 0
    assert bench.fill(pipe, file_fd, 1_000_000, 60000) == 0


def test_a_fill_of_more_than_the_pipe_holds_moves_what_fits(bench: Bench) -> None:
    file_fd = bench.outside.open(bench.outside.file("long", bytes(1 << 20)))
    pipe = bench.pipe()
    assert 0 < bench.fill(pipe, file_fd, 0, 1 << 20) <= pipe.capacity_bytes


# -- write, close -----------------------------------------------------------------------------------------------------


def test_write_writes_from_the_start_to_the_end_at_the_current_position(bench: Bench) -> None:
    outside = bench.outside
    path = outside.root / "log"
    fd = outside.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    for data, start in ((b"one\n", 0), (b"not two\n", 4)):
        operation = bench.begin()
        bench.ring.write(operation, fd, bench.pin(data), start)
        assert bench.result(operation) == 4
    assert path.read_bytes() == b"one\ntwo\n"


def test_write_to_what_is_not_open_for_it_is_ebadf(bench: Bench) -> None:
    fd = bench.outside.open(bench.outside.file("file", b""))
    operation = bench.begin()
    bench.ring.write(operation, fd, bench.pin(b"x"))
    assert bench.result(operation) == -errno.EBADF


def test_close_closes_and_the_peer_sees_the_end(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    bench.ring.close(bench.outside.disown(fd))
    assert bench.ring.in_flight() == 1
    bench.until(lambda: not bench.ring.in_flight(), "its end")
    assert not bench.outside.is_open(fd)
    bench.until_peer_ends(peer)


def test_close_after_a_receive_was_cancelled_sends_fin(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    receive = bench.receive(fd)
    assert bench.stays_pending(receive)
    bench.ring.cancel(receive)
    assert bench.result(receive) == -errno.ECANCELED
    bench.ring.close(bench.outside.disown(fd))
    bench.until_peer_ends(peer)


def test_close_ends_the_receive_that_is_armed_and_sends_fin(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    receive = bench.receive(fd)
    assert bench.stays_pending(receive)
    bench.ring.close(bench.outside.disown(fd), receive)
    bench.until_peer_ends(peer)
    assert bench.result(receive) == -errno.ECANCELED
    bench.until(lambda: not bench.ring.in_flight(), "the end of all")


def test_a_close_that_fails_is_said_to_the_diagnostics(bench: Bench) -> None:
    fd = bench.outside.open(bench.outside.file("file", b""))
    for _close in range(2):
        bench.ring.close(fd)
    bench.until(lambda: not bench.ring.in_flight(), "the end of both")
    bench.outside.disown(fd)
    assert bench.diagnostics.take(bench.ring.now) == b"ringserve: close: EBADF (Bad file descriptor)\n"


def test_a_discarded_pipe_is_closed_at_once(bench: Bench) -> None:
    pipe = bench.system.pipe(65536)
    bench.system.discard(pipe)
    assert not bench.outside.is_open(pipe.read_fd)
    assert not bench.outside.is_open(pipe.write_fd)


def test_a_reserve_that_is_given_up_makes_room_at_once(bench: Bench) -> None:
    reserve = bench.system.reserve()
    assert bench.outside.is_open(reserve)
    assert not bench.outside.is_inheritable(reserve)
    with bench.outside.descriptors_exhausted():
        with pytest.raises(OSError, match="Too many open files"):
            bench.system.reserve()
        bench.system.give_up(reserve)
        assert bench.system.reserve() == reserve
    bench.system.give_up(reserve)


def test_random_bytes_are_as_many_as_asked_for_and_others_each_time(bench: Bench) -> None:
    one, other = (bench.system.random_bytes(16) for _time in range(2))
    assert len(one) == len(other) == 16
    assert one != other


# -- invariants: completions, buffers, clock, limits ------------------------------------------------------------------


def test_a_handler_may_queue_submissions_while_completions_are_handed_out(open_bench: OpenBench) -> None:
    bench = open_bench(submission_entries=4, completion_entries=64, buffers=8, buffer_bytes=64)
    connections = [bench.outside.connected() for _index in range(6)]
    receives = [bench.receive(fd) for fd, _peer in connections]
    bench.turn(0)
    for index, (_fd, peer) in enumerate(connections):
        peer.send(b"message %d" % index)
    got: dict[int, bytes] = {}
    polls: list[int] = []
    for _turn in range(TURNS_MAX):
        for user_data, res, buffer, more in bench.ring.turn(TURN_S):
            if user_data in polls:
                bench.in_flight.remove(user_data)
                continue
            # Enough to overfill the submission queue: some reach the kernel before the next completion is looked at.
            polls += [bench.room(fd) for fd, _peer in connections]
            assert more
            got[user_data] = bench.ring.received(buffer, res)
        if len(got) == 6:
            break
    assert got == {receive: b"message %d" % index for index, receive in enumerate(receives)}
    bench.until(lambda: bench.in_flight == set(receives), "the end of every poll")
    assert len(polls) == 36


def test_a_named_buffer_stays_as_it_is_until_the_next_turn(open_bench: OpenBench) -> None:
    bench = open_bench(submission_entries=4, completion_entries=64, buffers=2, buffer_bytes=64)
    fd, peer = bench.outside.connected()
    others = [bench.outside.connected() for _index in range(12)]
    bench.receive(fd)
    bench.turn(0)
    peer.send(b"the first")
    seen: list[tuple[int, int]] = []
    for _turn in range(TURNS_MAX):
        seen = [(buffer, res) for _user_data, res, buffer, _more in bench.ring.turn(TURN_S)]
        if seen:
            break
    ((buffer, res),) = seen
    assert bench.ring.received(buffer, res) == b"the first"
    for _fd, other in others:
        other.send(b"overwrite")
    # More than the queue holds, so that some reach the kernel before the next turn, and find but one buffer there.
    receives = [bench.receive(other_fd) for other_fd, _other in others]
    assert bench.ring.received(buffer, res) == b"the first"
    bench.until(lambda: all(bench.completed[receive] for receive in receives), "a completion of each")
    assert {bench.received(receive) for receive in receives} <= {b"overwrite", b""}


def test_receives_without_a_buffer_have_no_room_and_get_the_data_when_armed_again(
    open_bench: OpenBench,
) -> None:
    bench = open_bench(submission_entries=64, completion_entries=256, buffers=2, buffer_bytes=64)
    connections = [bench.outside.connected() for _index in range(8)]
    by_operation = {bench.receive(fd): index for index, (fd, _peer) in enumerate(connections)}
    bench.turn(0)
    for index, (_fd, peer) in enumerate(connections):
        peer.send(b"from %d" % index)
    got: dict[int, bytes] = {}
    starved = 0
    for _turn in range(TURNS_MAX):
        bench.turn()
        for operation, index in list(by_operation.items()):
            for completion in bench.completed.pop(operation, []):
                if completion.res == NO_ROOM:
                    assert not completion.more
                    assert completion.buffer < 0
                    starved += 1
                    by_operation[bench.receive(connections[index][0])] = index
                else:
                    assert completion.res > 0
                    got[index] = got.get(index, b"") + completion.data
        if len(got) == 8:
            break
    assert got == {index: b"from %d" % index for index in range(8)}
    assert starved > 0


def test_receives_that_wait_for_a_buffer_have_their_turns_in_their_order(open_bench: OpenBench) -> None:
    bench = open_bench(submission_entries=64, completion_entries=256, buffers=2, buffer_bytes=64)
    connections = [bench.outside.connected() for _index in range(20)]
    waiting = {bench.receive(fd): fd for fd, _peer in connections}
    bench.turn(0)
    for _fd, peer in connections:
        peer.send(b"x")
    order: list[int] = []
    served: list[int] = []
    for _turn in range(TURNS_MAX):
        bench.turn()
        for operation in list(bench.completed):
            for completion in bench.completed.pop(operation):
                fd = waiting.pop(operation) if not completion.more else waiting[operation]
                if completion.res == NO_ROOM:
                    order.append(fd)
                    waiting[bench.receive(fd)] = fd  # at once
                else:
                    served.append(fd)
        if len(served) == 20:
            break
    assert len(order) == 18, "none of them was told so twice"
    assert served[2:] == order


def test_a_receive_that_waits_for_a_buffer_can_be_cancelled_and_ends_with_its_socket(open_bench: OpenBench) -> None:
    bench = open_bench(submission_entries=64, completion_entries=256, buffers=1, buffer_bytes=64)
    (first_fd, first), *others = [bench.outside.connected() for _index in range(3)]
    bench.receive(first_fd)
    bench.turn(0)
    first.send(b"x")
    for _turn in range(TURNS_MAX):
        if any(completion[2] >= 0 for completion in bench.ring.turn(TURN_S)):
            break  # the one buffer is lent
    waiting = [bench.receive(fd) for fd, _peer in others]
    assert bench.ring.in_flight() == 3
    bench.ring.cancel(waiting[0])
    bench.ring.close(bench.outside.disown(others[1][0]), waiting[1])
    assert [bench.result(receive) for receive in waiting] == [-errno.ECANCELED] * 2
    bench.until_peer_ends(others[1][1])


class Stream:
    """One connection of the case below: what it sent, what came, and the receive that is armed."""

    def __init__(self, bench: Bench, index: int) -> None:
        self.bench = bench
        self.index = index
        self.fd, self.peer = bench.outside.connected()
        self.sent = b""
        self.got = b""
        self.ending: int | None = None
        self.operation = bench.receive(self.fd)

    def say(self, message: bytes) -> None:
        self.sent += message
        assert self.peer.send(message) == len(message)

    def take(self) -> None:
        """Take what came; arm again unless the stream has come to its end."""
        for completion in self.bench.completed.pop(self.operation, []):
            self.got += completion.data
            if completion.res <= 0 and completion.res != NO_ROOM:
                self.ending = completion.res
        if self.ending is None and self.bench.ended(self.operation):
            self.operation = self.bench.receive(self.fd)


def test_two_buffers_serve_many_streams_and_none_is_lost_or_doubled(open_bench: OpenBench) -> None:
    bench = open_bench(submission_entries=64, completion_entries=1024, buffers=2, buffer_bytes=32)
    streams = [Stream(bench, index) for index in range(30)]

    def until(reached: Callable[[Stream], object], what: str) -> None:
        for _turn in range(TURNS_MAX):
            for stream in streams:
                stream.take()
            if all(map(reached, streams)):
                return
            bench.turn()
        pytest.fail(f"did not happen on every stream: {what}")

    for number in range(12):
        for stream in streams:
            stream.say(b"%d:%d;" % (stream.index, number) * (1 + number % 4))  # some are longer than a buffer
        until(lambda stream: stream.got == stream.sent, f"round {number}")
    assert len(bench.buffers_named) >= 360

    # The ends, each with data in front of it where data survives the end.
    for stream in streams:
        if stream.index % 3 == 0:
            stream.say(b"the last words")
            stream.peer.finish()
        elif stream.index % 3 == 1:
            stream.peer.reset()
        else:
            stream.say(b"perhaps")
            bench.ring.cancel(stream.operation)

    def is_over(stream: Stream) -> bool:
        if stream.index % 3 == 2:
            # The cancel may have hit a receive that had just ended for want of a buffer; then data comes all the same.
            return stream.ending == -errno.ECANCELED or stream.got == stream.sent
        return stream.ending == (0 if stream.index % 3 == 0 else -errno.ECONNRESET)

    until(is_over, "its end")
    assert all(stream.got == stream.sent for stream in streams if stream.index % 3 == 0)

    # Both buffers still go round: the kernel hands them out in order, so a lost one would not be seen again.
    before = len(bench.buffers_named)
    streams[:] = [Stream(bench, index) for index in range(10)]
    for number in range(5):
        for stream in streams:
            stream.say(b"%d" % number)
        until(lambda stream: stream.got == stream.sent, "the rounds after the ends")
    named = bench.buffers_named[before:]
    assert set(named) == {0, 1}
    assert abs(named.count(0) - named.count(1)) <= 1, named


def test_a_burst_far_beyond_the_completion_queue_loses_nothing(open_bench: OpenBench) -> None:
    bench = open_bench(submission_entries=8, completion_entries=8, buffers=2, buffer_bytes=64)
    fd, _peer = bench.outside.connected()
    sink_fd = bench.outside.open(bench.outside.file("sink", b""), os.O_WRONLY)
    data = bench.pin(b"4 by")
    operations = []
    for index in range(400):
        operations.append(bench.room(fd))
        operations.append(bench.begin())
        bench.ring.write(operations[-1], sink_fd, data)
        bench.ring.cancel(1_000_000 + index)
    bench.until(lambda: not bench.ring.in_flight(), "the end of all")
    assert [len(bench.completed[operation]) for operation in operations] == [1] * 800
    assert [bench.completed[operation][0].res for operation in operations[1::2]] == [4] * 400
    assert all(bench.completed[operation][0].res >= 0 for operation in operations[::2])


def test_streams_survive_a_completion_queue_that_overflows(open_bench: OpenBench) -> None:
    bench = open_bench(submission_entries=8, completion_entries=8, buffers=64, buffer_bytes=64)
    streams = [Stream(bench, index) for index in range(100)]
    for number in range(4):
        for stream in streams:
            stream.say(b"%d" % number)
        for _turn in range(TURNS_MAX):
            bench.turn()
            for stream in streams:
                stream.take()
                assert stream.ending is None
            if all(stream.got == stream.sent for stream in streams):
                break
        assert all(stream.got == stream.sent for stream in streams)


def test_a_batch_larger_than_the_submission_queue_is_handed_over_whole(open_bench: OpenBench) -> None:
    bench = open_bench(submission_entries=4, completion_entries=256, buffers=2, buffer_bytes=64)
    fd, _peer = bench.outside.connected()
    operations = [bench.room(fd) for _index in range(100)]
    bench.until(lambda: not bench.in_flight, "the end of all")
    assert all([completed.res for completed in bench.completed[operation]] >= [0] for operation in operations)
    assert [len(bench.completed[operation]) for operation in operations] == [1] * 100


def test_now_changes_in_turn_only(bench: Bench) -> None:
    fd, _peer = bench.outside.connected()
    before = bench.ring.now
    bench.outside.let_time_pass()
    bench.room(fd)
    assert bench.ring.now == before
    bench.turn()
    after = bench.ring.now
    assert after > before
    bench.outside.let_time_pass()
    assert bench.ring.now == after


def test_now_is_one_instant_for_a_whole_batch(bench: Bench) -> None:
    fd, _peer = bench.outside.connected()
    for _index in range(5):
        bench.room(fd)
    instants = set()
    for user_data, _res, _buffer, _more in bench.ring.turn(1.0):
        bench.in_flight.remove(user_data)
        bench.outside.let_time_pass()
        instants.add(bench.ring.now)
    assert len(instants) == 1


def test_turn_zero_does_not_sleep(bench: Bench) -> None:
    fd, _peer = bench.outside.connected()
    bench.receive(fd)
    start = bench.ring.now
    for _turn in range(100):
        assert bench.turn(0) == 0
    assert bench.ring.now - start < LONG_S / 4


def test_turn_zero_hands_over_what_is_queued(bench: Bench) -> None:
    fd, _peer = bench.outside.connected()
    poll = bench.room(fd)
    for _turn in range(TURNS_MAX):
        bench.turn(0)
        if bench.ended(poll):
            return
    pytest.fail("turn(0) never brought the completion")


def test_turn_returns_nothing_after_its_time_out(bench: Bench) -> None:
    fd, _peer = bench.outside.connected()
    bench.receive(fd)
    bench.turn(0)
    start = bench.ring.now
    assert bench.turn(0.05) == 0
    assert 0.045 <= bench.ring.now - start < LONG_S / 4


def test_turn_sleeps_no_longer_than_until_the_first_completion(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    bench.receive(fd)
    bench.turn(0)
    peer.send(b"x")
    start = bench.ring.now
    assert bench.turn(LONG_S) == 1
    assert bench.ring.now - start < LONG_S / 4


# -- wake -------------------------------------------------------------------------------------------------------------


def test_wake_from_another_thread_ends_a_sleep(bench: Bench) -> None:
    bench.turn(0)
    start = bench.ring.now
    thread = bench.outside.wake_when_asleep(bench.ring)
    assert bench.turn(LONG_S) == 0
    thread.join(LONG_S)
    assert bench.ring.now - start < LONG_S / 4


def test_a_wake_before_a_turn_is_not_lost_and_two_are_one(bench: Bench) -> None:
    bench.turn(0)
    for _wake in range(2):
        bench.ring.wake()
    start = bench.ring.now
    assert bench.turn(LONG_S) == 0
    assert bench.ring.now - start < LONG_S / 4
    bench.turn(0.05)
    assert bench.ring.now - start >= 0.045, "nothing was left of them"


def test_wakes_that_nobody_takes_do_not_block(bench: Bench) -> None:
    for _wake in range(70_000):  # more bytes than a pipe holds
        bench.ring.wake()
    start = bench.ring.now
    bench.turn(LONG_S)
    assert bench.ring.now - start < LONG_S / 4


# -- calls ------------------------------------------------------------------------------------------------------------


def test_a_call_completes_in_a_later_turn_and_its_result_is_taken_once(bench: Bench) -> None:
    called, failed = bench.begin(), bench.begin()
    bench.ring.call(called, threading.current_thread, "lane")
    bench.ring.call(failed, lambda: dict[str, int]()["not there"], "another lane")
    assert bench.ring.in_flight() == 2
    assert bench.result(called) == bench.result(failed) == 0
    assert bench.ring.in_flight() == 0
    assert bench.ring.take(called) is not threading.current_thread()
    with pytest.raises(KeyError, match="not there"):
        bench.ring.take(failed)
    for taken in (called, failed):
        with pytest.raises(KeyError):
            bench.ring.take(taken)


def test_calls_beyond_the_limit_of_their_lane_are_refused(bench: Bench) -> None:
    opened = threading.Event()
    calls = [bench.begin() for _call in range(100)]
    for call in calls:
        bench.ring.call(call, opened.wait, "lane")
    bench.until(lambda: sum(map(bench.ended, calls)) == 100 - THREADS - WAITING_MAX, "the refusal of what is too much")
    refused = [call for call in calls if bench.ended(call)]
    assert refused == calls[THREADS + WAITING_MAX :]
    assert [bench.result(call) for call in refused] == [-errno.EBUSY] * len(refused)
    opened.set()
    assert all(bench.result(call) == 0 for call in calls[: THREADS + WAITING_MAX])
    assert all(bench.ring.take(call) is True for call in calls[: THREADS + WAITING_MAX])


# -- watches ----------------------------------------------------------------------------------------------------------


class Watcher:
    """Awaits changes and gathers them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.changes: list[Change] = []
        self.operation = bench.begin()
        bench.ring.await_changes(self.operation)
        bench.turn(0)

    def add(self, path: Path) -> int:
        directory = self.bench.outside.open(path, os.O_RDONLY | os.O_DIRECTORY)
        watch = self.bench.watch(Root(directory), b"")
        assert isinstance(watch, int)
        assert watch > 0
        os.close(self.bench.outside.disown(directory))  # an open one would keep the directory, and so the watch
        return watch

    def until(self, watch: int, kind: ChangeKind, name: bytes, times: int = 1) -> None:
        """Until that was noticed so often since the last one."""
        for _turn in range(TURNS_MAX):
            if self.changes.count(Change(watch, kind, name)) >= times:
                self.changes.clear()
                return
            self.bench.turn()
            for completion in self.bench.completed.pop(self.operation, []):
                assert (completion.res, completion.more) == (0, True)
            found = self.bench.ring.changes()
            assert found is not None
            self.changes += found
        pytest.fail(f"no {kind} of {name!r}; there were {self.changes}")


def test_a_watched_directory_tells_of_names_and_of_what_is_in_files(bench: Bench) -> None:
    directory = bench.outside.directory("watched")
    watcher = Watcher(bench)
    watch = watcher.add(directory)
    assert bench.stays_pending(watcher.operation)
    (directory / "new").touch()
    watcher.until(watch, ChangeKind.NAME, b"new")
    with (directory / "new").open("wb") as file:
        file.write(b"x")
    watcher.until(watch, ChangeKind.CONTENT, b"new")
    (directory / "new").chmod(0o600)
    watcher.until(watch, ChangeKind.NAME, b"new")
    (directory / "new").rename(directory / "a longer name than before")
    watcher.until(watch, ChangeKind.NAME, b"a longer name than before")
    (directory / "a longer name than before").unlink()
    watcher.until(watch, ChangeKind.NAME, b"a longer name than before")
    (directory / "inner").mkdir()
    watcher.until(watch, ChangeKind.DIRECTORY, b"inner")
    directory.chmod(0o700)
    watcher.until(watch, ChangeKind.ALTERED, b"")
    directory.rename(bench.outside.root / "elsewhere")
    watcher.until(watch, ChangeKind.GONE, b"")
    assert bench.ring.changes() == []


def test_many_changes_in_many_directories_come_at_once(bench: Bench) -> None:
    first, second = bench.outside.directory("first"), bench.outside.directory("second")
    watcher = Watcher(bench)
    watches = watcher.add(first), watcher.add(second)
    assert watches[0] != watches[1]
    for directory in (first, second):
        for length in range(1, 40):
            (directory / ("n" * length)).touch()
    watcher.until(watches[1], ChangeKind.NAME, b"n" * 39)


def test_changes_come_before_all_else_of_their_turn(bench: Bench) -> None:
    directory = bench.outside.directory("watched")
    watcher = Watcher(bench)
    watcher.add(directory)
    fd, peer = bench.outside.connected()
    receive = bench.receive(fd)
    bench.turn(0)
    for number in range(50):
        (directory / f"{number}").touch()
        peer.send(b"x")  # after the change: whoever sent it knows of the change
        came: list[int] = []
        for _turn in range(TURNS_MAX):
            came += [token for token, *_rest in bench.ring.turn(TURN_S)]
            if receive in came:
                break
        assert came == [watcher.operation, receive]
        assert [change.name for change in bench.ring.changes() or ()] == [b"%d" % number]


def test_more_changes_than_are_told_in_one_turn_are_unknown(bench: Bench) -> None:
    directory = bench.outside.directory("watched")
    watcher = Watcher(bench)
    watch = watcher.add(directory)
    names = [f"{number:0>200}" for number in range(1500)]
    for name in names:
        (directory / name).touch()  # 224 bytes each
    assert bench.next_completion(watcher.operation).more
    assert bench.ring.changes() is None
    (directory / names[0]).unlink()
    watcher.until(watch, ChangeKind.NAME, names[0].encode())


@pytest.mark.parametrize(
    ("path", "names"), [(b"", {b"page", b"inner", b".hidden", b"link-out"}), (b"inner/", {b"deep"})]
)
def test_an_inventory_has_every_name(bench: Bench, tree: Root, path: bytes, names: set[bytes]) -> None:
    bench.outside.file("root/.hidden", b"")
    found = bench.inventory(tree, path)
    assert isinstance(found, frozenset)
    assert names <= found


def test_an_inventory_of_more_bytes_than_are_allowed_is_e2big(bench: Bench, tree: Root) -> None:
    bench.outside.file("root/inner/more", b"")
    assert bench.inventory(tree, b"inner", 8) == {b"deep", b"more"}
    assert bench.inventory(tree, b"inner", 7) == -errno.E2BIG


@pytest.mark.parametrize(
    ("path", "error"), [(b"page", errno.ENOTDIR), (b"missing", errno.ENOENT), (b"..", errno.EXDEV)]
)
def test_only_a_directory_within_the_root_has_an_inventory(bench: Bench, tree: Root, path: bytes, error: int) -> None:
    assert bench.inventory(tree, path) == -error
    assert bench.ring.inventory(None, tree, path, 100) in (None, -error)


def test_a_file_with_one_name_that_no_link_leads_to_is_trusted(bench: Bench, tree: Root) -> None:
    for at_once in (False, True):
        for path, trusted in ((b"page", True), (b"inner", False), (b"link-inside", False)):
            loaded = bench.ring.load(None, tree, path, 0, 0) if at_once else bench.load(tree, path)
            if isinstance(loaded, Loaded):
                assert loaded.trusted is trusted
                if at_once and loaded.file is not None:
                    bench.outside.own(loaded.file)
    os.link(bench.outside.root / "root" / "page", bench.outside.root / "another name")
    loaded = bench.load(tree, b"page")
    assert isinstance(loaded, Loaded)
    assert not loaded.trusted


def test_nothing_is_concluded_where_others_make_changes(bench: Bench) -> None:
    Watcher(bench)
    outside = bench.outside
    foreign = Root(outside.open(Path("/proc/self"), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    assert bench.watch(foreign, b"") == -errno.EOPNOTSUPP
    assert bench.inventory(foreign, b"fd") == -errno.EOPNOTSUPP
    loaded = bench.load(foreign, b"status")
    assert isinstance(loaded, Loaded)
    assert not loaded.trusted
    assert bench.ring.load(None, foreign, b"status", 0, 0) is bench.ring.look(None, foreign, b"status") is None


def test_a_directory_that_is_watched_no_more_is_silent(bench: Bench) -> None:
    silent, marker = bench.outside.directory("silent"), bench.outside.directory("marker")
    watcher = Watcher(bench)
    silent_watch, marker_watch = watcher.add(silent), watcher.add(marker)
    bench.ring.unwatch(silent_watch)
    watcher.until(silent_watch, ChangeKind.GONE, b"")
    (silent / "file").touch()
    (marker / "file").touch()
    watcher.until(marker_watch, ChangeKind.NAME, b"file")
    assert not any(change.watch == silent_watch for change in watcher.changes)


def test_a_watch_that_ended_with_its_directory_can_be_given_up(bench: Bench) -> None:
    directory = bench.outside.directory("doomed")
    watcher = Watcher(bench)
    watch = watcher.add(directory)
    directory.rmdir()
    watcher.until(watch, ChangeKind.GONE, b"")
    bench.ring.unwatch(watch)


def test_two_paths_to_one_directory_have_one_watch(bench: Bench, tree: Root) -> None:
    Watcher(bench)
    assert bench.watch(tree, b"inner") == bench.watch(tree, b"./inner/") == bench.watch(tree, b"inner/../inner")


def test_only_a_directory_can_be_watched(bench: Bench, tree: Root) -> None:
    Watcher(bench)
    assert bench.watch(tree, b"page") == -errno.ENOTDIR


def test_changes_that_are_awaited_no_more_end(bench: Bench) -> None:
    watcher = Watcher(bench)
    watcher.add(bench.outside.directory("watched"))
    bench.ring.cancel(watcher.operation)
    assert bench.result(watcher.operation) == -errno.ECANCELED
    bench.until(lambda: not bench.ring.in_flight(), "the end of what the ring does for itself")


def test_changes_are_not_noticed_where_there_is_no_descriptor_for_them(bench: Bench) -> None:
    with bench.outside.descriptors_exhausted():
        operation = bench.begin()
        bench.ring.await_changes(operation)
    assert bench.result(operation) == -errno.EMFILE


# -- calls that are answered at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "host", "reach", "name"),
    [
        pytest.param(socket.AF_INET, "127.0.0.1", "", "127.0.0.1", id="IPv4"),
        pytest.param(socket.AF_INET6, "::1", "", "::1", id="IPv6"),
        pytest.param(socket.AF_INET6, "::", "127.0.0.1", "127.0.0.1", id="IPv4 by an IPv6 socket"),
        pytest.param(socket.AF_UNIX, "", "", "unix", id="unix"),
    ],
)
def test_peer_name_is_the_peers_address(bench: Bench, family: int, host: str, reach: str, name: str) -> None:
    listener = bench.outside.listener(family, host)
    bench.outside.connect(listener, reach)
    assert bench.system.peer_name(bench.outside.accept(listener)) == name


def test_peer_name_of_a_peer_that_is_gone_is_a_dash(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    peer.reset()
    assert bench.system.peer_name(fd) == "-"
    assert bench.outside.is_open(fd)


@pytest.mark.parametrize(
    ("family", "host"),
    [pytest.param(socket.AF_INET, "127.0.0.1", id="TCP"), pytest.param(socket.AF_UNIX, "", id="unix")],
)
def test_unacknowledged_bytes_falls_to_nothing_as_the_peer_takes_what_was_sent(
    bench: Bench, family: int, host: str
) -> None:
    outside = bench.outside
    listener = outside.listener(family, host)
    peer = outside.connect(listener)
    fd = outside.accept(listener)
    assert bench.system.unacknowledged_bytes(fd) == 0
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += os.write(fd, bytes(65536))
    full = bench.system.unacknowledged_bytes(fd)
    assert full > 0
    received = 0
    while received < sent:
        received += len(peer.receive() or b"")
    bench.until(lambda: bench.system.unacknowledged_bytes(fd) == 0, "all is acknowledged")


@pytest.mark.parametrize("capacity_bytes", [4096, 65536, 262144])
def test_a_pipe_has_the_capacity_that_it_says(bench: Bench, capacity_bytes: int) -> None:
    pipe = bench.system.pipe(capacity_bytes)
    for fd in (bench.outside.own(pipe.read_fd), bench.outside.own(pipe.write_fd)):
        assert not bench.outside.is_blocking(fd)
        assert not bench.outside.is_inheritable(fd)
        assert bench.outside.pipe_capacity(fd) == pipe.capacity_bytes
    assert pipe.capacity_bytes <= capacity_bytes


def test_a_pipe_of_a_capacity_that_the_system_refuses_is_smaller_and_works(bench: Bench) -> None:
    pipe = bench.system.pipe(1 << 31)
    bench.outside.own(pipe.read_fd)
    bench.outside.own(pipe.write_fd)
    assert 4096 <= pipe.capacity_bytes < 1 << 31
    assert bench.outside.pipe_capacity(pipe.read_fd) == pipe.capacity_bytes


def test_a_pipe_without_descriptors_left_raises_emfile(bench: Bench) -> None:
    with bench.outside.descriptors_exhausted(), pytest.raises(OSError, match="Too many open files"):
        bench.system.pipe(65536)


def write_now_or_skip(bench: Bench, fd: int, data: bytes) -> int:
    res = bench.system.write_now(fd, data)
    if res == -errno.EOPNOTSUPP:
        pytest.skip("this kernel cannot tell whether a write to a pipe or a socket would wait")
    return res


def test_write_now_fills_a_pipe_with_whole_pieces_and_does_not_wait_for_room(bench: Bench) -> None:
    read_fd, write_fd = bench.outside.pipe()
    piece = b"a" * (PIPE_BUF - 1) + b"\n"
    pieces = bench.outside.pipe_capacity(write_fd) // PIPE_BUF
    for _piece in range(pieces):
        assert write_now_or_skip(bench, write_fd, piece) == PIPE_BUF
    assert bench.system.write_now(write_fd, piece) == -errno.EAGAIN
    operation = bench.room(write_fd)
    assert bench.stays_pending(operation)
    assert bench.outside.read(read_fd, PIPE_BUF) == piece
    assert bench.result(operation) >= 0
    assert bench.system.write_now(write_fd, piece) == PIPE_BUF


def test_write_now_to_a_full_socket_is_eagain(bench: Bench) -> None:
    fd, peer = bench.outside.connected(socket_bytes=SMALL_BUFFER)
    assert write_now_or_skip(bench, fd, b"kept") == 4
    filled = bench.outside.fill(fd)
    assert bench.system.write_now(fd, b"not kept") == -errno.EAGAIN
    assert bench.until_peer(peer, 4 + filled)[:4] == b"kept"


def test_write_now_to_a_pipe_that_nobody_reads_is_epipe(bench: Bench) -> None:
    read_fd, write_fd = bench.outside.pipe()
    assert write_now_or_skip(bench, write_fd, b"for nobody") == 10
    os.close(bench.outside.disown(read_fd))
    assert bench.system.write_now(write_fd, b"for nobody") == -errno.EPIPE


def test_write_now_to_a_terminal_is_left_to_a_write_that_may_wait(bench: Bench) -> None:
    _master_fd, slave_fd = (bench.outside.own(fd) for fd in os.openpty())
    assert bench.system.write_now(slave_fd, b"x") == -errno.EOPNOTSUPP


def test_write_now_to_what_is_not_open_for_it_is_ebadf(bench: Bench) -> None:
    fd = bench.outside.open(bench.outside.file("file", b""))
    assert bench.system.write_now(fd, b"x") == -errno.EBADF


def test_emptying_moves_what_the_pipe_holds_and_says_eagain_when_there_is_nothing(bench: Bench) -> None:
    outside = bench.outside
    fd, peer = outside.connected()
    pipe = bench.pipe()
    assert bench.system.empty(pipe, fd, 100, False) == -errno.EAGAIN
    outside.write(pipe.write_fd, b"0123456789")
    assert bench.system.empty(pipe, fd, 4, True) == 4
    assert bench.system.empty(pipe, fd, 100, False) == 6
    assert bench.until_peer(peer, 10) == b"0123456789"


def test_emptying_into_a_full_socket_is_eagain_and_keeps_the_bytes(bench: Bench) -> None:
    outside = bench.outside
    fd, peer = outside.connected(socket_bytes=SMALL_BUFFER)
    pipe = bench.pipe()
    outside.write(pipe.write_fd, b"kept")
    filled = outside.fill(fd)
    assert bench.system.empty(pipe, fd, 4, False) == -errno.EAGAIN
    bench.until_peer(peer, filled)
    assert bench.result(bench.room(fd)) >= 0
    assert bench.system.empty(pipe, fd, 4, False) == 4
    assert bench.until_peer(peer, 4) == b"kept"


def test_emptying_to_a_peer_that_is_gone_is_epipe(bench: Bench) -> None:
    outside = bench.outside
    fd, peer = outside.connected()
    pipe = bench.pipe()
    outside.write(pipe.write_fd, b"for nobody")
    peer.reset()
    results = {bench.system.empty(pipe, fd, 5, False) for _attempt in range(2)}
    assert results <= {-errno.ECONNRESET, -errno.EPIPE}


def test_discard_throws_away_what_waits_and_says_how_much(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    WASTE[:] = bytes(len(WASTE))
    assert bench.system.throw_away(fd, 100) == -errno.EAGAIN
    peer.send(b"a" * 1000)
    arrival = bench.arrival(fd)
    assert bench.result(arrival) >= 0
    assert bench.system.throw_away(fd, 300) == 300
    assert bench.system.throw_away(fd, DISCARD_BYTES_MAX) == 700
    assert bench.system.throw_away(fd, 100) == -errno.EAGAIN
    assert not any(WASTE[:1000]), "it was copied"
    peer.send(b"heard")
    assert bench.next_completion(bench.receive(fd)).data == b"heard"


def test_discard_of_a_unix_socket_throws_away_as_well(bench: Bench) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.send(b"a" * 1000)
        assert bench.system.throw_away(ours.fileno(), DISCARD_BYTES_MAX) == 1000
        assert bench.system.throw_away(ours.fileno(), DISCARD_BYTES_MAX) == -errno.EAGAIN


def test_discard_at_the_end_of_the_stream_is_0(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    peer.finish()
    arrival = bench.arrival(fd)
    assert bench.result(arrival) >= 0
    assert bench.system.throw_away(fd, 100) == 0


def test_discard_of_a_connection_that_was_reset_is_an_errno(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    peer.reset()
    arrival = bench.arrival(fd)
    assert bench.result(arrival) >= 0
    assert bench.system.throw_away(fd, 100) == -errno.ECONNRESET


def test_shutdown_sending_ends_the_stream_for_the_peer_and_still_receives(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    receive = bench.receive(fd)
    bench.system.finish(fd)
    bench.until_peer_ends(peer)
    peer.send(b"still talking")
    assert bench.next_completion(receive).data == b"still talking"
    bench.system.finish(fd)


def test_shutdown_sending_follows_what_was_sent(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    operation = bench.begin()
    bench.ring.send(operation, fd, bench.pin(b"goodbye"))
    assert bench.result(operation) == 7
    bench.system.finish(fd)
    assert bench.until_peer(peer, 100) == b"goodbye"


def test_shutdown_sending_to_a_peer_that_is_gone_is_no_error(bench: Bench) -> None:
    fd, peer = bench.outside.connected()
    peer.reset()
    bench.system.finish(fd)
    assert bench.outside.is_open(fd)


def test_wall_time_is_that_of_the_system(bench: Bench) -> None:
    assert abs(bench.system.wall_time_s() - time.time()) < LONG_S


def test_shut_ends_what_is_in_flight_and_can_be_repeated(implementation: Implementation, open_bench: OpenBench) -> None:
    bench = open_bench()  # keeps the world and looks for descriptors left open
    fd, peer = bench.outside.connected()
    ring = implementation.open(RingOptions(buffers=2)).ring
    ring.receive(1, fd)
    list(ring.turn(0))
    ring.shut()
    ring.shut()
    os.close(bench.outside.disown(fd))
    bench.until_peer_ends(peer)  # the kernel ends the receive in its own time, and FIN follows


NOBODY = 65534


@contextlib.contextmanager
def asked_by(user: str) -> Iterator[None]:
    """Newer kernels say what is in their page cache only to who owns the file, or may write to it."""
    if user == "owner":
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


each_user = pytest.mark.parametrize(
    "user",
    [
        "owner",
        pytest.param(
            "somebody else", marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
        ),
    ],
)


def resident_file(bench: Bench, name: str, content: bytes) -> int:
    return bench.outside.open(bench.outside.file(name, content))


def fill_at_once(bench: Bench, pipe: Pipe, file: int, offset: int, length: int) -> int | None:
    """The answer that was there at once."""
    operation = bench.begin()
    count = bench.ring.fill(operation, pipe, file, offset, length)
    if count is not None:
        bench.in_flight.remove(operation)
    return count


def begin_fill_of_what_is_on_the_disk(bench: Bench, user: str, pipe: Pipe, file: int, length: int) -> None:
    """That did not wait is told by the kernel: who waits gives the processor up. For somebody else's file a read has to
    be tried, which has the kernel read ahead; a fast disk may be done within the call.
    """
    switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    count = fill_at_once(bench, pipe, file, 0, length)
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw == switches, "it has waited"
    assert count is None or (user != "owner" and count == length)
    if count is not None:
        bench.outside.read(pipe.read_fd, length)
    bench.until(lambda: not bench.in_flight, "its end")


@each_user
def test_a_fill_takes_what_is_in_the_page_cache_at_once(bench: Bench, user: str) -> None:
    content = bytes(range(256)) * 64
    fd = resident_file(bench, "cached", content)
    pipe = bench.pipe()
    for offset, length in ((0, len(content)), (1, 4095), (4096, 4096), (4095, 2), (len(content) - 1, 1)):
        with asked_by(user):
            assert fill_at_once(bench, pipe, fd, offset, length) == length
        assert bench.outside.read(pipe.read_fd, length) == content[offset : offset + length]


@each_user
def test_a_fill_does_not_wait_for_what_has_to_be_read_from_the_disk(bench: Bench, user: str) -> None:
    fd = resident_file(bench, "uncached", bytes(1 << 20))
    pipe = bench.pipe()
    bench.outside.drop_from_memory(fd)
    with asked_by(user):
        begin_fill_of_what_is_on_the_disk(bench, user, pipe, fd, 4096)  # from its completion on it is there
        assert fill_at_once(bench, pipe, fd, 0, 4096) == 4096


@each_user
def test_a_fill_does_not_wait_for_a_range_with_a_hole_in_it(bench: Bench, user: str) -> None:
    fd = resident_file(bench, "with-a-hole", bytes(1 << 20))
    pipe = bench.pipe(1 << 18)
    bench.outside.drop_from_memory(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # or the kernel reads ahead, and there is no hole
    for offset in (0, 3 << 16):
        os.pread(fd, 1 << 16, offset)
    with asked_by(user):
        begin_fill_of_what_is_on_the_disk(bench, user, pipe, fd, 1 << 18)
