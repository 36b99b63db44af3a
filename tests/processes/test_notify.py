"""What the service manager is told."""

from __future__ import annotations

import contextlib
import math
import socket
from pathlib import Path

import pytest

from ringserve.processes.notify import WAITING_MAX, Notifier


def silent(_template: str, *_values: object) -> None:
    raise AssertionError("there is nothing to report")


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"}, silent)
        notifier.tell("READY=1", "X=2")
        assert manager.recv(100) == b"READY=1\nX=2"
    assert notifier.interval_s == 1.5
    Notifier({}, silent).tell("nobody listens")


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}],
)
def test_there_is_no_watchdog_unless_it_is_ours(environment: dict[str, str]) -> None:
    assert Notifier(environment, silent).interval_s == math.inf


def test_a_service_manager_in_an_abstract_socket_is_told() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # the kernel picks an abstract address
        Notifier({"NOTIFY_SOCKET": "@" + manager.getsockname()[1:].decode()}, silent).tell("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_a_service_manager_that_is_gone_is_one_line(tmp_path: Path) -> None:
    said: list[str] = []
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}, lambda *line: said.append(line[0].format(*line[1:])))
    notifier.tell("READY=1")
    assert said == ["cannot notify the service manager: No such file or directory"]
    assert notifier.flush(), "it is not tried again"


def test_a_service_manager_that_does_not_read_is_not_waited_for_and_told_later(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        notifier = Notifier({"NOTIFY_SOCKET": address}, silent)
        sent = 0
        while notifier.flush():
            assert sent < 10_000
            notifier.tell(f"X={sent}")
            sent += 1
        notifier.tell("READY=1")
        for number in range(sent - 1):
            assert manager.recv(100) == b"X=%d" % number
        assert notifier.flush()
        assert (manager.recv(100), manager.recv(100)) == (b"X=%d" % (sent - 1), b"READY=1")


def test_of_messages_to_a_service_manager_that_never_reads_the_last_are_kept(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        notifier = Notifier({"NOTIFY_SOCKET": address}, silent)
        while notifier.flush():
            notifier.tell("earlier")
        for number in range(WAITING_MAX):
            notifier.tell(f"{number}")
        got = []
        while not notifier.flush():
            got.append(manager.recv(100))
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                got.append(manager.recv(100))
    assert [word for word in got if word != b"earlier"] == [b"%d" % number for number in range(WAITING_MAX)]
