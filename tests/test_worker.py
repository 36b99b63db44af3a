"""What is said of a worker, and what the service manager is told."""

from __future__ import annotations

import errno
import math
import socket
from pathlib import Path

import pytest

from ringserve.notify import Notifier
from ringserve.worker import how


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"})
        notifier.tell("READY=1", "X=2")
        assert manager.recv(100) == b"READY=1\nX=2"
    assert notifier.interval_s == 1.5
    Notifier({}).tell("nobody listens")


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}],
)
def test_there_is_no_watchdog_unless_it_is_ours(environment: dict[str, str]) -> None:
    assert Notifier(environment).interval_s == math.inf


def test_a_service_manager_in_an_abstract_socket_is_told() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # the kernel picks an abstract address
        Notifier({"NOTIFY_SOCKET": "@" + manager.getsockname()[1:].decode()}).tell("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_a_service_manager_that_is_gone_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")
    assert capsys.readouterr().err == "ringserve: cannot notify the service manager: No such file or directory\n"


def test_how_a_process_ended_is_said_in_words() -> None:
    assert how(3) == "ended with status 3"
    assert how(-9) == "was ended by SIGKILL"
    assert how(-64 - errno.EPERM).startswith("was ended by signal")
