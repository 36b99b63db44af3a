"""The supervisor's sockets: for each slot, and none that nobody accepts from."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from errno import ECONNREFUSED
from pathlib import Path

import pytest
from supervised import free_port
from wire import eventually

from ringserve.config.settings import Config, ListenRule
from ringserve.processes.sockets import Sockets, inherited_listeners
from ringserve.ring.linux.listeners import (
    Listener,
    ListenError,
    begin_listening,
    close_listener,
    listen_tcp,
    share_listener,
)

HOST = ("127.0.0.1",)


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """When the test is over, all of them can be closed, and no descriptor is left."""
    before = os.listdir("/proc/self/fd")
    made = Sockets({})
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def fds(sockets: Sockets, slots: int) -> list[list[int]]:
    return [[listener.fd for listener in sockets.of(slot, slots)] for slot in range(slots)]


def listens(fd: int) -> bool:
    with socket.socket(fileno=os.dup(fd)) as borrowed:
        return bool(borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def test_a_shared_listener_can_be_joined_by_us_and_by_nobody_else() -> None:
    (first,) = listen_tcp("127.0.0.1", 0, shared=True)
    another = share_listener(first)
    try:
        assert another.url == first.url
        assert another.fd != first.fd
        port = int(first.url.rstrip("/").rpartition(":")[2])
        with pytest.raises(ListenError, match="the port is in use"):
            listen_tcp("127.0.0.1", port, shared=True)
    finally:
        close_listener(first)
        close_listener(another)


def test_a_socket_that_joins_gets_no_connection_before_it_listens() -> None:
    (first,) = listen_tcp("127.0.0.1", 0, shared=True)
    another = share_listener(first)
    try:
        assert (listens(first.fd), listens(another.fd)) == (True, False)
        for _twice in range(2):
            begin_listening(another)
            assert listens(another.fd)
    finally:
        close_listener(first)
        close_listener(another)


def test_each_slot_has_sockets_and_those_of_missing_slots_are_served_by_the_others(sockets: Sockets) -> None:
    sockets.prepare(Config(host=HOST, port=0), 3)
    three = fds(sockets, 3)
    assert len({fd for own in three for fd in own}) == 3
    two = fds(sockets, 2)
    assert [len(own) for own in two] == [2, 1]
    assert {fd for own in two for fd in own} == {fd for own in three for fd in own}


def test_preparing_again_adds_what_is_missing_and_reverting_takes_it_away(sockets: Sockets) -> None:
    config = Config(host=HOST, port=free_port())
    sockets.prepare(config, 1)
    one = fds(sockets, 1)
    sockets.prepare(config, 3)
    assert fds(sockets, 3)[0] == one[0]
    sockets.revert()
    assert fds(sockets, 1) == one
    other = Config(host=HOST, port=free_port())
    sockets.prepare(other, 2)
    sockets.revert()
    assert fds(sockets, 1) == one
    assert sockets.urls == [f"http://127.0.0.1:{config.port}/"]


def test_what_cannot_be_prepared_as_a_whole_leaves_nothing_behind(sockets: Sockets) -> None:
    port = free_port()
    sockets.prepare(Config(host=HOST, port=port), 1)
    one, before = fds(sockets, 1), len(os.listdir("/proc/self/fd"))
    with pytest.raises(ListenError, match="no such address"):
        sockets.prepare(Config(host=("127.0.0.2", "192.0.2.1"), port=port), 2)
    assert (fds(sockets, 1), len(os.listdir("/proc/self/fd"))) == (one, before)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), 1)


def test_who_comes_to_an_address_that_is_given_up_is_refused_and_who_is_there_is_kept(sockets: Sockets) -> None:
    port = free_port()
    sockets.prepare(Config(host=HOST, port=port), 1)
    (listener,) = sockets.of(0, 1)
    own = os.dup(listener.fd)  # a worker's
    with socket.create_connection((HOST[0], port), 1) as there:
        sockets.prepare(Config(host=HOST, port=free_port()), 1)
        assert sockets.close_unwanted()
        assert not sockets.close_unwanted()
        with socket.socket() as late:
            late.setblocking(False)
            late.connect_ex((HOST[0], port))  # its SYN is dropped, so that it can be refused
            with socket.socket(fileno=own) as last:
                accepted, peer = last.accept()
                assert peer == there.getsockname()
                last.setblocking(False)
                with pytest.raises(BlockingIOError):
                    last.accept()
            with accepted:
                # It was let in before, and so its packets pass.
                there.sendall(b"?")
                assert accepted.recv(1) == b"?"
                accepted.sendall(b"!")
                assert there.recv(1) == b"!"
            eventually("it is refused", lambda: late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == ECONNREFUSED)


def test_a_socket_stays_open_where_its_address_moves_to_another_listener(sockets: Sockets) -> None:
    port = free_port()
    here, there = ListenRule(host=("127.0.0.1",), port=port), ListenRule(host=("127.0.0.2",), port=port)
    sockets.prepare(Config(listen=(here, there)), 1)
    before = {listener.fd: listener.rule for listener in sockets.of(0, 1)}
    sockets.prepare(Config(listen=(there, here)), 1)
    assert {listener.fd: 1 - listener.rule for listener in sockets.of(0, 1)} == before
    sockets.revert()
    assert {listener.fd: listener.rule for listener in sockets.of(0, 1)} == before


def test_sockets_of_the_service_manager_are_taken_once() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "2"}
    assert inherited_listeners(environment) == [], "they are somebody else's"
    assert environment == {}


@pytest.fixture
def handing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sockets]]:
    """Makes the sockets of a process to which systemd hands one over for each name."""
    handed: list[Listener] = []

    def hand_over(*names: str) -> Sockets:
        handed.extend(listen_tcp("127.0.0.1", 0)[0] for _name in names)
        first = handed[0].fd
        assert [listener.fd for listener in handed] == list(range(first, first + len(names)))
        monkeypatch.setattr("ringserve.processes.sockets.SYSTEMD_FIRST_FD", first)
        pid = str(os.getpid())
        return Sockets({"LISTEN_PID": pid, "LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)})

    yield hand_over
    for listener in handed:
        close_listener(listener)


def test_sockets_of_the_service_manager_go_to_the_listeners_of_their_names(
    handing: Callable[..., Sockets], tmp_path: Path
) -> None:
    sockets = handing("web", "admin", "web")
    rules = ListenRule(systemd="admin"), ListenRule(unix=str(tmp_path / "socket")), ListenRule(systemd="web")
    sockets.prepare(Config(listen=rules), 2)
    assert [listener.rule for listener in sockets.of(0, 2)] == [2, 0, 2, 1]
    assert sockets.urls[-1] == f"unix:{tmp_path}/socket"
    sockets.prepare(Config(), 2)
    assert [listener.rule for listener in sockets.of(1, 2)] == [0, 0, 0], "they take the place of the default address"
    sockets.revert()
    assert [listener.rule for listener in sockets.of(0, 2)] == [2, 0, 2, 1]
    sockets.close()


def test_each_socket_of_the_service_manager_and_each_listener_that_takes_some_has_its_fellow(
    handing: Callable[..., Sockets],
) -> None:
    sockets = handing("web", "")
    with pytest.raises(ListenError, match=r"hands over http://.* as '', which no \[\[listen\]\] takes; "):
        sockets.prepare(Config(listen=(ListenRule(systemd="web"),)), 1)
    with pytest.raises(ListenError, match=r"hands over no socket 'xyz', .* \(FileDescriptorName=xyz\)$"):
        sockets.prepare(Config(listen=(ListenRule(systemd="web"), ListenRule(systemd="xyz"))), 1)


def test_a_unix_socket_is_shared_and_its_file_is_removed_in_the_end(tmp_path: Path, sockets: Sockets) -> None:
    path = tmp_path / "socket"
    sockets.prepare(Config(unix=str(path)), 2)
    assert sockets.of(0, 2) == sockets.of(1, 2)
    assert path.exists()
    sockets.close()
    assert not path.exists()
