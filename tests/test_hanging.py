"""A file system that hangs holds up nobody except those who ask it for something."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Serving
from fuse import CONTENT, NAMES, FuseRefusedError, HangingFileSystem, hanging_file_system
from wire import Wire, get

from ringserve.ring.linux.lanes import IN_LANE_MAX

CLIENTS = 20
OTHERS = 20

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
    names = [NAMES[number] for number in range(CLIENTS)]
    if known:
        for name in names:
            (site / "hang" / name).stat()
            os.listdir(site / "hang" / f"d{name}")
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
        assert hanging.hang("") <= IN_LANE_MAX
        for number, client in enumerate(clients):
            answer = client.answer()
            assert answer.status in (200, 503), answer
            if answer.status == 200 and not is_directory:
                assert answer.body == (CONTENT[:100] if number % 2 == 0 else CONTENT)
