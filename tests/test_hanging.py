"""A file system that hangs holds up nobody except those who ask it for something."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from conftest import Serving
from fuse import CONTENT, NAMES, FuseRefusedError, HangingFileSystem, hanging_file_system
from supervised import command
from wire import TIMEOUT_S, Wire, eventually, get

from ringserve.processes.machine import BROKEN
from ringserve.ring.linux.lanes import IN_LANE_MAX

CLIENTS = 20
OTHERS = 20
SMALL = NAMES[::2]

Mount = Callable[[int], HangingFileSystem]


@pytest.fixture
def mount(site: Path, io_uring: None) -> Iterator[Mount]:  # noqa: ARG001
    """Mounts a file system at `hang` in the site."""
    with ExitStack() as mounted:

        def make(ttl: int) -> HangingFileSystem:
            point = site / "hang"
            point.mkdir(exist_ok=True)
            try:
                return mounted.enter_context(hanging_file_system(point, ttl))
            except FuseRefusedError as refused:
                pytest.skip(f"FILE SYSTEMS THAT HANG ARE NOT TESTED: no FUSE here ({refused})")

        yield make


@pytest.fixture
def others(site: Path) -> list[str]:
    """Files of a local file system whose bytes are not in memory."""
    names = [f"other{number}" for number in range(OTHERS)]
    for name in names:
        with (site / name).open("wb") as file:
            file.write(name.encode())
            file.flush()
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return names


@pytest.mark.parametrize("ttl", [0, 60])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("operation", ["lookup", "getattr", "open", "read", "flush", "opendir", "readdir"])
def test_others_are_served_while_one_operation_hangs(
    serving: Serving, site: Path, mount: Mount, others: list[str], operation: str, known: bool, ttl: int
) -> None:
    hanging = mount(ttl)
    names = SMALL[:CLIENTS]
    if known:
        for name in names:
            (site / "hang" / name).stat()
            os.listdir(site / "hang" / f"d{name}")
    (site / "listed").mkdir()
    (site / "listed" / "page").touch()
    running = serving(listing=True)
    hanging.hang(operation)
    is_directory = operation in ("opendir", "readdir")
    with ExitStack() as open_:
        clients = [open_.enter_context(Wire(running.url)) for _name in names]
        for client, name in zip(clients, names, strict=True):
            client.send(get(f"/hang/d{name}/" if is_directory else f"/hang/{name}"))
        if not (operation == "lookup" and known and ttl):  # then the kernel need not ask
            hanging.until_hung(1)
        with Wire(running.url) as other:
            for name in others:
                assert other.ask(get(f"/{name}")).body == name.encode()
            assert b">page<" in other.ask(get("/listed/")).body
        assert hanging.hang("") <= IN_LANE_MAX
        for client in clients:
            answer = client.answer()
            assert answer.status in (200, 503), answer
            if answer.status == 200 and not is_directory:
                assert answer.body == CONTENT[:100]


@pytest.mark.parametrize("operation", ["lookup", "read"])
def test_a_file_of_another_mount_that_a_link_leads_to_holds_up_nobody(
    serving: Serving, site: Path, mount: Mount, others: list[str], operation: str
) -> None:
    hanging = mount(0)
    (site / "link").symlink_to("hang")
    for number in range(CLIENTS):
        (site / f"link{number}").symlink_to(f"hang/{SMALL[number]}")
    running = serving()
    hanging.hang(operation)
    with ExitStack() as open_:
        clients = [open_.enter_context(Wire(running.url)) for _number in range(2 * CLIENTS)]
        for number, client in enumerate(clients):
            client.send(get(f"/link{number}" if number < CLIENTS else f"/link/{SMALL[number]}"))
        hanging.until_hung(1)
        with Wire(running.url) as other:
            for name in others:
                assert other.ask(get(f"/{name}")).body == name.encode()
        assert hanging.hang("") <= IN_LANE_MAX
        assert {client.answer().status for client in clients} <= {200, 503}


def test_large_files_that_hang_hold_up_nobody(serving: Serving, mount: Mount, others: list[str]) -> None:
    hanging = mount(60)
    large = NAMES[1 : 2 * CLIENTS : 2]
    running = serving(pipes_max=2 * CLIENTS)
    with ExitStack() as open_:
        clients = [open_.enter_context(Wire(running.url)) for _name in large]
        for client, name in zip(clients, large, strict=True):
            assert client.ask(get(f"/hang/{name}", method="HEAD"), method="HEAD").status == 200
        hanging.hang("read")
        for client, name in zip(clients, large, strict=True):
            client.send(get(f"/hang/{name}"))
        hanging.until_hung(1)
        with Wire(running.url) as other:
            for name in others:
                assert other.ask(get(f"/{name}")).body == name.encode()
        hanging.hang("")  # one operation may send several requests: it reads ahead
        assert {client.answer().body for client in clients} == {CONTENT}


def test_a_listing_that_a_link_leads_elsewhere_from_holds_up_no_other(
    serving: Serving, site: Path, mount: Mount
) -> None:
    hanging = mount(0)
    for number in range(CLIENTS):
        (site / f"linking{number}").mkdir()
        (site / f"linking{number}" / "link").symlink_to(f"../hang/{SMALL[number]}")
        (site / f"plain{number}").mkdir()
        (site / f"plain{number}" / "page").touch()
    running = serving(listing=True)
    hanging.hang("lookup")
    with ExitStack() as open_:
        clients = [open_.enter_context(Wire(running.url)) for _number in range(CLIENTS + 1)]
        for number, client in enumerate(clients):
            client.send(get(f"/linking{number}/" if number < CLIENTS else "/"))  # where it is mounted
        hanging.until_hung(1)
        with Wire(running.url) as other:
            for number in range(CLIENTS):
                assert b">page<" in other.ask(get(f"/plain{number}/")).body
        hanging.hang("")
        for client in clients:
            answer = client.answer()
            assert answer.status in (200, 503)
            assert answer.status == 503 or b">link" in answer.body


def test_clients_that_give_up_leave_no_more_hanging_than_others(
    serving: Serving, mount: Mount, others: list[str]
) -> None:
    hanging = mount(0)
    running = serving(answer_timeout_s=0.1)
    hanging.hang("lookup")
    for name in SMALL[:CLIENTS]:
        with Wire(running.url) as client:
            assert client.ask(get(f"/hang/{name}")).status == 503
    with Wire(running.url) as other:
        for name in others:
            assert other.ask(get(f"/{name}")).body == name.encode()
    assert hanging.hang("") == IN_LANE_MAX
    with Wire(running.url) as client:
        answers = (client.ask(get(f"/hang/{SMALL[0]}")) for _attempt in range(1000))
        assert next(answer for answer in answers if answer.status == 200).body == CONTENT[:100]


def test_who_waits_for_long_is_told_to_come_again(
    serving: Serving, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringserve.ring.linux.lanes.WAIT_S", 0.1)
    hanging = mount(0)
    running = serving()
    hanging.hang("lookup")
    with ExitStack() as open_:
        clients = [open_.enter_context(Wire(running.url)) for _number in range(CLIENTS)]
        for number, client in enumerate(clients):
            if number == IN_LANE_MAX:
                hanging.until_hung(IN_LANE_MAX)
            client.send(get(f"/hang/{SMALL[number]}"))
        answers = [client.answer() for client in clients[IN_LANE_MAX:]]
        assert {(answer.status, answer.fields["retry-after"]) for answer in answers} == {(503, "1")}
        hanging.hang("")
        assert {client.answer().status for client in clients[:IN_LANE_MAX]} == {200}


@pytest.mark.parametrize(
    ("event", "operation", "name"),
    [("stop", "lookup", "name0"), ("stop", "read", "name1"), ("reload", "open", "name0")],
)
def test_a_worker_that_cannot_end_is_named_and_not_waited_for(
    site: Path, mount: Mount, event: str, operation: str, name: str
) -> None:
    (site / "page").write_bytes(b"page")
    hanging = mount(0)
    arguments = ("--workers", "1", "--log-format", "off", "--drain-timeout", "1")
    # What hangs goes on before the command's lines are awaited to their end, since the worker writes to the same pipe.
    with command(site, *arguments) as running, closing(hanging), Wire(running.url) as client:
        (worker,) = running.workers
        hanging.hang(operation)
        client.send(get(f"/hang/{name}"))
        hanging.until_hung(1)
        if event == "reload":
            running.reload()
        else:
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(TIMEOUT_S) == BROKEN
        stuck = f"(pid {worker}) is stuck in the kernel on {site / 'hang'}; it ends when that file system answers"
        eventually("that is told", lambda: running.heard(stuck) == 1)
        with pytest.raises(ConnectionResetError):  # the drain's time was over
            client.rest()
        if event == "reload":
            with Wire(running.url) as another:
                assert another.ask(get("/page")).body == b"page"
        hanging.hang("")
        eventually("it ends", lambda: not os.path.exists(f"/proc/{worker}"))
