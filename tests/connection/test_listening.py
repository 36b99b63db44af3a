"""Several listeners of one server: each has its limits, its proxies, its log and its count."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from supervised import Running, free_port
from wire import Wire, eventually, get

from ringserve.config.settings import Config, ListenRule
from ringserve.library import RunningServer
from ringserve.observe import access_log
from ringserve.server import Server

Listening = Callable[..., RunningServer]


@pytest.fixture
def page(site: Path) -> Path:
    (site / "page").write_bytes(b"page")
    return site


@pytest.fixture
def listening(page: Path, io_uring: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:  # noqa: ARG001
    """Starts a server with these listeners, each on a free port of its own address of the loopback."""
    monkeypatch.setattr(access_log, "FLUSH_AFTER_S", 0.005)
    started: list[RunningServer] = []

    def start(*rules: dict[str, Any], log_fd: int = 1, **settings: Any) -> RunningServer:
        listen = tuple(ListenRule(host=(f"127.0.0.{1 + index}",), port=0, **rule) for index, rule in enumerate(rules))
        config = Config(directory=str(page), listen=listen, **{"log_format": "off", "drain_timeout_s": 5, **settings})
        started.append(RunningServer(Server(config, log_fd=log_fd)))
        return started[-1]

    yield start
    for running in started:
        running.stop()


def test_each_listener_has_its_own_limits(listening: Listening) -> None:
    urls = listening({"requests_max": 1}, {"head_bytes_max": 1024}).urls
    long = get("/page", f"X: {2000 * 'x'}")
    with Wire(urls[0]) as one, Wire(urls[1]) as another:
        assert one.ask(long).fields["connection"] == "close"
        assert one.at_end()
        for _request in range(3):
            assert "connection" not in another.ask(get("/page")).fields
        assert another.ask(long).status == 431, "that the other listener remembers the head changes nothing"


def test_each_listener_has_its_own_deadlines(listening: Listening) -> None:
    urls = listening({"keep_alive_timeout_s": 0.2}, {"keep_alive_timeout_s": 60}).urls
    with Wire(urls[0]) as one, Wire(urls[1]) as another:
        assert another.ask(get("/page")).body == b"page"
        assert one.ask(get("/page")).body == b"page"
        assert one.at_end()
        assert another.ask(get("/page")).body == b"page"


def test_only_the_listener_of_a_proxy_waits_for_what_it_says_of_its_clients(listening: Listening) -> None:
    read_fd, log_fd = os.pipe()
    try:
        proxied = {"trusted_proxy": ("127.0.0.0/8",), "proxy_protocol": True}
        urls = listening(proxied, {}, log_fd=log_fd, log_format="common").urls
        with Wire(urls[0]) as one, Wire(urls[1]) as another:
            one.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 5 6\r\n")
            assert one.ask(get("/page")).status == 200
            assert os.read(read_fd, 4096).startswith(b"192.0.2.7 - - ")
            assert another.ask(get("/page", "X-Forwarded-For: 192.0.2.9")).status == 200
            assert os.read(read_fd, 4096).startswith(b"127.0.0.1 - - ")
    finally:
        os.close(read_fd)
        os.close(log_fd)


def test_a_listener_can_do_without_the_log(listening: Listening) -> None:
    read_fd, log_fd = os.pipe()
    try:
        urls = listening({"log": False}, {}, log_fd=log_fd, log_format="common").urls
        for url in urls:
            with Wire(url) as wire:
                for path in ("/page", "/none"):
                    wire.ask(get(path, f"User-Agent: {url}"))
        lines = b""
        while lines.count(b"\n") < 2:
            lines += os.read(read_fd, 4096)
        assert lines.count(b"127.0.0.1 - - ") == 2
        assert lines.count(b"\n") == 2, "of the listener that logs"
    finally:
        os.close(read_fd)
        os.close(log_fd)


@pytest.mark.parametrize("log_format", ["off", "common"])
def test_each_listener_counts_its_own_responses(listening: Listening, log_format: str) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        running = listening({}, {"header_timeout_s": 0.1}, log_format=log_format, log_fd=nowhere)
        with Wire(running.urls[0]) as one, Wire(running.urls[1]) as another:
            answers = [one.ask(get(path)) for path in ("/page", "/page", "/none", "/page")]
            another.send(b"GET")
            late = another.answer()
        running.stop()
    finally:
        os.close(nowhere)
    first, second = running.server.listening
    counted = [
        {status: count for status, count in enumerate(each.responses.by_status) if count} for each in (first, second)
    ]
    assert counted == [{200: 3, 404: 1}, {408: 1}]
    assert (first.hot_answers, second.hot_answers) == (2, 0)
    assert first.responses.body_bytes == sum(len(answer.body) for answer in answers)
    assert second.responses.body_bytes == len(late.body)
    assert first.responses.aborted == second.responses.aborted == 0


def test_a_response_that_breaks_off_is_counted_so(listening: Listening, page: Path) -> None:
    (page / "large").write_bytes(bytes(20_000_000))
    running = listening({})
    with Wire(running.urls[0], receive_bytes=4096) as wire:
        wire.send(get("/large"))
        wire.socket.recv(1000)
    responses = running.server.listening[0].responses
    eventually("it has broken off", lambda: responses.aborted == 1)
    assert responses.by_status[200] == 1
    assert 0 < responses.body_bytes < 20_000_000


def test_a_drain_ends_the_connections_of_every_listener(listening: Listening) -> None:
    running = listening({}, {})
    with Wire(running.urls[0]) as one, Wire(running.urls[1]) as another:
        for wire in (one, another):
            wire.ask(get("/page"))
        running.stop()
        assert one.at_end()
        assert another.at_end()
    assert not running.server.shared.connections


FILE = """
workers = "2"
log-format = "off"

[[listen]]
host = "127.0.0.1"
port = {}

[[listen]]
unix = "socket"
requests-max = {}
"""


def test_a_reload_changes_what_a_listener_allows_and_where_another_listens(page: Path, io_uring: None) -> None:  # noqa: ARG001
    file, path = page / "ringserve.toml", f"unix:{page}/socket"
    ports = free_port(), free_port()
    file.write_text(FILE.format(ports[0], 1))
    running = Running(page)
    try:
        assert running.heard(f"  http://127.0.0.1:{ports[0]}/") == 1
        assert running.heard("  unix:socket") == 1
        with Wire(path) as wire:
            assert wire.ask(get("/page")).fields["connection"] == "close"
        file.write_text(FILE.format(ports[1], 2))
        running.reload()
        eventually("the old workers have ended", lambda: len(running.workers) == 2)
        with Wire(path) as wire:
            assert "connection" not in wire.ask(get("/page")).fields
            assert wire.ask(get("/page")).fields["connection"] == "close"
        with Wire(f"http://127.0.0.1:{ports[1]}/") as wire:
            assert wire.ask(get("/page")).status == 200

        def is_refused() -> bool:
            try:
                Wire(f"http://127.0.0.1:{ports[0]}/").socket.close()
            except ConnectionRefusedError:
                return True
            return False

        eventually("nobody listens at the address that was given up", is_refused)
        assert running.end() == 0
    finally:
        running.end()


def test_an_address_beside_the_tables_is_one_line_that_names_both(page: Path) -> None:
    (page / "ringserve.toml").write_text(FILE.format(0, 1))
    running = Running(page, "--port", "8080")
    assert running.end() == 2
    assert running.said == [
        "ringserve: flag --port: port is said by each [[listen]] (the first is ringserve.toml:5); leave it out here\n"
    ]
