"""A low limit of open files: what is accepted is served whole, and the user is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Serving
from supervised import command
from wire import TIMEOUT_S, Wire, eventually, get

from ringserve import server
from ringserve.connection.budget import Shares
from ringserve.library import RunningServer

PAGE_BYTES = 1024 * 1024
CLIENTS = 200


@pytest.mark.usefixtures("io_uring")
@pytest.mark.parametrize("open_files", [64, 100, 128])
def test_with_few_descriptors_what_is_accepted_is_served_whole(site: Path, open_files: int) -> None:
    pages = [os.urandom(PAGE_BYTES) for _index in range(4)]
    for index, page in enumerate(pages):
        (site / f"page{index}").write_bytes(page)
    with command(site, "--log-format", "off", "--linger-timeout", "0.1", open_files=open_files) as running:
        assert running.heard("raise it (ulimit -n, LimitNOFILE=)")
        wires = []
        statuses = []
        with ExitStack() as stack:
            for number in range(CLIENTS):
                wires.append(stack.enter_context(Wire(running.url, receive_bytes=65536)))
                wires[-1].send(get(f"/page{number % len(pages)}", "Connection: close"))
            for number, wire in enumerate(wires):  # those that are not accepted yet are when others have gone
                answer = wire.answer()
                assert answer.status != 200 or answer.body == pages[number % len(pages)]
                statuses.append(answer.status)
                wire.socket.close()
        assert set(statuses) <= {200, 503}
        assert statuses[0] == 200
        assert statuses.count(200) >= CLIENTS // 3
        with Wire(running.url) as wire:
            assert wire.ask(get("/page0")).body == pages[0]
        assert running.end() == 0
        for words in ("no pipe", "cannot open", "accept on"):
            assert not running.heard(words), running.said


@pytest.mark.usefixtures("io_uring")
def test_a_limit_of_descriptors_that_leaves_nothing_to_serve_with_is_an_error(site: Path) -> None:
    with command(site, "--log-format", "off", open_files=40) as running:
        assert running.process.wait(TIMEOUT_S) == 2
        assert running.heard("the limit of open files (40) is too low to serve anything; raise it (ulimit -n)")


# -- the files' share -----------------------------------------------------------------------------------------------


@pytest.fixture
def sharing(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], RunningServer]:
    """A server that may have so many files open."""

    def start(files: int) -> RunningServer:
        shares = Shares(connections=100, pipes=4, open_files=max(1, files // 2), files=files, in_bursts=True)
        monkeypatch.setattr(server, "share_descriptors", lambda _config, _listeners: (shares, None))
        return serving(cached_file_bytes_max=64 * 1024)

    return start


Sharing = Callable[[int], RunningServer]


def test_files_beyond_their_share_are_503_until_a_download_ends_and_no_download_is_cut_off(
    site: Path, sharing: Sharing
) -> None:
    pages = [os.urandom(8 * PAGE_BYTES) for _index in range(4)]  # more than a socket holds
    for index, page in enumerate(pages):
        (site / f"page{index}").write_bytes(page)
    running = sharing(3)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(running.url, receive_bytes=65536)) for _index in range(4)]
        for index in range(3):
            wires[index].send(get(f"/page{index}"))
            assert wires[index].socket.recv(1) == b"H"
        refused = wires[3].ask(get("/page3"))
        assert (refused.status, refused.fields["retry-after"]) == (503, "1")
        for index in range(3):
            wires[index].put_back(b"H")
            assert wires[index].answer().body == pages[index]
        eventually("there is a place", lambda: wires[3].ask(get("/page3", method="HEAD")).status == 200)
        assert wires[3].ask(get("/page3")).body == pages[3]


def test_more_files_asked_for_at_once_than_their_share_are_opened_in_turn(site: Path, sharing: Sharing) -> None:
    for index in range(50):
        (site / f"small{index}").write_bytes(b"%d" % index)
    running = sharing(2)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(running.url)) for _index in range(50)]
        for index, wire in enumerate(wires):
            wire.send(get(f"/small{index}"))
        assert [wire.answer().body for wire in wires] == [b"%d" % index for index in range(50)]
