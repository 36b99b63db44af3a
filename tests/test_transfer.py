"""Bodies: whole, exact, fair to each other, and broken off rather than wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Serving
from wire import TIMEOUT_S, Wire, eventually, get

from ringserve import static
from ringserve.files.entries import Key
from ringserve.http.heads import Request
from ringserve.http.response import Outlet, Response
from ringserve.responders.policy import Site
from ringserve.responders.steps import Lookup, Steps
from ringserve.ring.uring import library, ring

MIB = 1024 * 1024


def fill(path: Path, size: int) -> str:
    """Random bytes; their sha256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        while size:
            block = os.urandom(min(size, MIB))
            file.write(block)
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def kernel_workers() -> int:
    """Threads of this process that io_uring made for operations that may block."""
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum(name.startswith("iou-wrk") for name in names)


def reset(client: socket.socket) -> None:
    """Close with RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_64_mib_arrive_whole(serving: Serving, site: Path) -> None:
    expected = fill(site / "big", 64 * MIB)
    digest = hashlib.sha256()
    with httpx.Client() as client, client.stream("GET", serving().url + "big") as response:
        assert response.status_code == 200
        assert response.headers["content-length"] == str(64 * MIB)
        for block in response.iter_raw():
            digest.update(block)
    assert digest.hexdigest() == expected


class NothingIsResident:
    """The library, where no file is in the page cache."""

    def __getattr__(self, name: str) -> Any:
        return (
            (lambda *_arguments: -errno.EAGAIN) if name == "ringserve_splice_resident" else getattr(library.lib, name)
        )


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 131071, 131072, 131073, 262144, 262145, 1_000_003, 5_000_000])
@pytest.mark.parametrize("way", ["spliced", "spliced-from-disk", "from-memory"])
def test_every_size_is_exact_and_the_connection_goes_on(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch, size: int, way: str
) -> None:
    if way == "spliced-from-disk":
        monkeypatch.setattr(ring, "lib", NothingIsResident())
    cached = 16 * MIB if way == "from-memory" else 0
    fill(site / "file", size)
    content = (site / "file").read_bytes()
    with Wire(serving(cached_file_bytes_max=cached).url) as wire:
        for _again in range(3):
            assert wire.ask(get("/file")).body == content
        for start in {0, 1, size // 2, size - 1} & set(range(size)):
            answer = wire.ask(get("/file", f"Range: bytes={start}-{start + 4999}"))
            assert answer.status == 206
            assert answer.body == content[start : start + 5000]


def test_spliced_and_remembered_bodies_are_the_same_bytes(serving: Serving, site: Path) -> None:
    fill(site / "file.bin", 100_000)
    with Wire(serving(cached_file_bytes_max=0).url) as spliced, Wire(serving().url) as remembered:
        for request in (get("/file.bin"), get("/file.bin", "Range: bytes=17-99"), get("/file.bin", "Range: bytes=-1")):
            assert spliced.ask(request).masked() == remembered.ask(request).masked()


def test_200_readers_that_read_nothing_hold_up_nobody(serving: Serving, site: Path) -> None:
    fill(site / "big", 16 * MIB)
    small = b"small"
    (site / "small").write_bytes(small)
    running = serving(pipes_max=32, kernel_workers_max=4)
    stalled = [Wire(running.url, receive_bytes=4096) for _ in range(200)]
    try:
        for wire in stalled:
            wire.send(get("/big"))
        with Wire(running.url) as fast:
            for _ in range(200):
                assert fast.ask(get("/small")).body == small
            assert len(fast.ask(get("/big")).body) == 16 * MIB
            # A worker for each stalled reader would be 200 threads. The cap is for each of the two kinds of work.
            assert kernel_workers() <= 2 * 4
            assert running.server.shared.pipes.count <= 32
            for _ in range(200):
                assert fast.ask(get("/small")).body == small
    finally:
        for wire in stalled:
            reset(wire.socket)
    eventually("the stalled connections are gone", lambda: len(running.server.shared.connections) <= 1)


def test_readers_whose_pipes_are_taken_away_get_every_byte(serving: Serving, site: Path) -> None:
    size = 6 * MIB
    expected = fill(site / "big", size)
    running = serving(pipes_max=2)
    wires = [Wire(running.url, receive_bytes=16384) for _ in range(12)]
    try:
        for wire in wires:
            wire.send(get("/big"))
        bodies = [bytearray() for _ in wires]
        digests = [hashlib.sha256() for _ in wires]
        # In turns, so that each of them stalls while the others move on, with six times as many as there are pipes.
        open_wires = set(range(len(wires)))
        while open_wires:
            for index in sorted(open_wires):
                bodies[index] += wires[index].socket.recv(200_000)
                head_end = bodies[index].find(b"\r\n\r\n") + 4
                if len(bodies[index]) - head_end >= size:
                    digests[index].update(bodies[index][head_end:])
                    open_wires.discard(index)
        assert {digest.hexdigest() for digest in digests} == {expected}
        assert running.server.shared.pipes.count <= 2
    finally:
        for wire in wires:
            wire.socket.close()


def test_a_reset_in_mid_download_leaves_nothing_behind(serving: Serving, site: Path) -> None:
    fill(site / "big", 8 * MIB)
    running = serving()
    with Wire(running.url) as warm:
        warm.ask(get("/big", method="HEAD"))
    eventually("the first connection is gone", lambda: not running.server.shared.connections)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        wire = Wire(running.url, receive_bytes=4096)
        wire.send(get("/big"))
        wire.socket.recv(1000)
        reset(wire.socket)
    eventually("the connections are gone", lambda: not running.server.shared.connections)
    pipes = 2 * running.server.shared.pipes.count
    eventually("descriptors are given back", lambda: len(os.listdir("/proc/self/fd")) <= before + pipes)


def test_a_file_replaced_in_mid_download_is_finished_as_it_was(serving: Serving, site: Path) -> None:
    fill(site / "big", 8 * MIB)
    old = (site / "big").read_bytes()
    running = serving()
    with Wire(running.url, receive_bytes=4096) as wire, Wire(running.url) as other:
        wire.send(get("/big"))
        start = wire.socket.recv(2000)
        fill(site / "new", 8 * MIB)
        os.replace(site / "new", site / "big")
        new = (site / "big").read_bytes()
        assert other.ask(get("/big")).body == new
        wire.put_back(start)
        assert wire.answer().body == old
        assert wire.ask(get("/big")).body == new


def test_a_file_that_shrinks_in_mid_download_breaks_the_connection(serving: Serving, site: Path) -> None:
    fill(site / "big", 32 * MIB)
    with Wire(serving().url, receive_bytes=4096) as wire:
        wire.send(get("/big"))
        first = wire.socket.recv(2000)
        os.truncate(site / "big", 4096)
        received = len(first) + len(wire.rest())
        assert b"Content-Length: 33554432\r\n" in first
        assert received < 32 * MIB
    assert serving().urls  # and the server lives: another starts beside it, and both drain below


def test_a_half_closed_connection_still_gets_its_answers(serving: Serving, site: Path) -> None:
    fill(site / "big", 3 * MIB)
    big = (site / "big").read_bytes()
    (site / "small").write_bytes(b"small")
    with Wire(serving().url) as wire:
        wire.send(get("/small") + get("/big") + get("/small"))
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.answer().body == b"small"
        assert wire.answer().body == big
        assert wire.answer().body == b"small"
        assert wire.at_end()


def test_a_hundred_clients_share_two_buffers(serving: Serving, site: Path) -> None:
    (site / "small").write_bytes(b"small")
    running = serving(buffers=2, buffer_bytes=256)
    wires = [Wire(running.url) for _ in range(100)]
    try:
        for _round in range(20):
            for wire in wires:
                wire.send(get("/small", "X-Padding: " + "x" * 600))  # three buffers each
            for wire in wires:
                assert wire.answer().body == b"small"
    finally:
        for wire in wires:
            wire.socket.close()


def test_a_completion_queue_of_eight_serves_under_load(serving: Serving, site: Path) -> None:
    fill(site / "big", 1 * MIB)
    big = (site / "big").read_bytes()
    (site / "small").write_bytes(b"small")
    running = serving(completion_entries=8)
    wires = [Wire(running.url) for _ in range(64)]
    try:
        for round_ in range(30):
            for wire in wires:
                wire.send(get("/small"))
            for wire in wires:
                assert wire.answer().body == b"small", round_
        wires[0].send(get("/big"))
        assert wires[0].answer().body == big
    finally:
        for wire in wires:
            wire.socket.close()


def test_no_exchange_waits_for_a_delayed_acknowledgement(serving: Serving, site: Path) -> None:
    fill(site / "middle", 300_001)
    with Wire(serving().url) as wire:
        started = time.monotonic()
        for _ in range(100):
            assert len(wire.ask(get("/middle")).body) == 300_001
        # A stall on each would be 40 ms x 100. The bound is far above what a busy machine needs without one.
        assert time.monotonic() - started < 3.0


def test_a_fast_download_does_not_starve_small_requests(serving: Serving, site: Path) -> None:
    fill(site / "big", 64 * MIB)
    (site / "small").write_bytes(b"small")
    running = serving()
    stop = threading.Event()
    failures: list[BaseException] = []

    def download() -> None:
        try:
            with Wire(running.url) as wire:
                while not stop.is_set():
                    wire.send(get("/big"))
                    left = 64 * MIB
                    while left > 0:
                        left -= len(wire.socket.recv(1 << 20))
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=download)
    thread.start()
    try:
        with Wire(running.url) as wire:
            for _ in range(300):
                assert wire.ask(get("/small")).body == b"small"
    finally:
        stop.set()
        thread.join()
    assert not failures


@pytest.mark.parametrize("cached", [0, 16 * MIB], ids=["spliced", "from-memory"])
def test_parts_of_a_file_are_exact_and_the_connection_goes_on(serving: Serving, site: Path, cached: int) -> None:
    fill(site / "file", 700_000)
    content = (site / "file").read_bytes()
    with Wire(serving(cached_file_bytes_max=cached).url) as wire:
        for _again in range(3):
            answer = wire.ask(get("/file", "Range: bytes=600000-699999,0-0,100000-399999"))
            assert answer.status == 206
            boundary = answer.fields["content-type"].partition("boundary=")[2].encode()
            pieces = answer.body.split(b"--" + boundary)
            assert pieces[0] == b""
            assert pieces[-1] == b"--\r\n"
            bodies = [piece.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for piece in pieces[1:-1]]
            assert bodies == [content[600_000:], content[:1], content[100_000:400_000]]


# -- a further kind of segment ----------------------------------------------------------------------------------


class Countdown:
    """A segment of this test's own, that nothing of the server knows: lines that are made while they are sent."""

    def __init__(self, lines: int) -> None:
        self.lines = [b"%d\n" % number for number in reversed(range(lines))]
        self.holders = 0
        self.held_by_none = threading.Event()

    @property
    def length(self) -> int:
        return sum(map(len, self.lines))

    def hold(self) -> None:
        self.holders += 1

    def release(self) -> None:
        self.holders -= 1
        self.held_by_none.set()

    async def send(self, outlet: Outlet, *, last: bool) -> None:
        assert self.holders, "it is sent only while it is held"
        assert not last, "a line of memory follows"
        for line in self.lines:
            await outlet.send(line)


def test_a_segment_is_one_class_which_says_how_it_is_sent(
    serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    countdown = Countdown(300)
    length = countdown.length + len(b"ready\nlift-off\n")

    def respond(_request: Request, _site: Site, _now: float) -> Steps:
        yield Lookup(Key(0, b"page"))
        return Response(200, (), (b"ready\n", countdown, b"lift-off\n"), length)

    monkeypatch.setattr(static, "responder", lambda _boundary: respond)
    (site / "page").write_bytes(b"page")
    with Wire(serving().url) as wire:
        for _again in range(2):
            wire.send(get("/") * 2)
            for _pipelined in range(2):
                assert wire.answer().body == b"ready\n" + b"".join(countdown.lines) + b"lift-off\n"
    eventually("nobody holds it", lambda: countdown.holders == 0)


def test_a_segment_is_released_when_its_client_goes_away(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    countdown = Countdown(2_000_000)

    def respond(_request: Request, _site: Site, _now: float) -> Steps:
        yield from ()
        return Response(200, (), (countdown, b""), countdown.length)

    monkeypatch.setattr(static, "responder", lambda _boundary: respond)
    client = Wire(serving().url)
    client.send(get("/"))
    client.socket.recv(100)
    reset(client.socket)
    assert countdown.held_by_none.wait(TIMEOUT_S)
