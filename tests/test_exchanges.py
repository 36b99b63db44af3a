"""Every row of exchanges.py over the wire: whole, byte by byte, again on the hot path, and pipelined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Serving
from exchanges import GROUPS, PLAIN, Group, Row, check, fill
from wire import Wire, get

from ringserve.library import RunningServer

LONG = 600
"""A longer request is split at some of its bytes only: what it has many of are all alike."""
LONG_STEP = 997

by_group = pytest.mark.parametrize("group", GROUPS, ids=[group.title for group in GROUPS])


def start(serving: Serving, site: Path, group: Group, **settings: Any) -> RunningServer:
    fill(site, group.files)
    return serving(**group.settings(site), **settings)


def lasting(group: Group) -> list[Row]:
    return [row for row in group.rows if not row.closes]


@by_group
@pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "general"])
def test_each_request_gets_its_answer_first_and_repeatedly(
    serving: Serving, site: Path, group: Group, hot_path: bool
) -> None:
    url = start(serving, site, group, hot_path=hot_path).url
    for row in group.rows:
        with Wire(url) as wire:
            for _again in range(1 if row.closes else 3):
                answer = wire.ask(row.request, method=row.method)
                check(row, answer.status, answer.fields, answer.body)
            if row.closes:
                assert wire.at_end(), row.name


@by_group
def test_the_hot_path_gives_the_bytes_of_the_general_path(
    serving: Serving, site: Path, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both put the same boundary between parts.
    monkeypatch.setattr("ringserve.ring.linux.system.LinuxSystem.random_bytes", lambda _ring, count: bytes(count))
    hot = start(serving, site, group, hot_path=True)
    general = serving(**group.settings(site), hot_path=False)
    for row in lasting(group):
        with Wire(hot.url) as hot_wire, Wire(general.url) as general_wire:
            expected = general_wire.ask(row.request, method=row.method).masked()
            for _again in range(3):
                assert hot_wire.ask(row.request, method=row.method).masked() == expected, row.name
    assert general.server.listening[0].hot_answers == 0


def test_the_last_answer_by_the_hot_path_has_the_bytes_of_the_general_path(serving: Serving, site: Path) -> None:
    fill(site)
    hot, general = serving(hot_path=True), serving(hot_path=False)
    requests = [
        get(path, *fields, method=method, version=version)
        for path in ("/hello.txt", "/missing", "/docs", "/style.css", "/empty")
        for method in ("GET", "HEAD")
        for version, *fields in (
            ("1.1", "Connection: close"), ("1.0",), ("1.0", "Connection: close"), ("1.1", "Connection: x, CLOSE"),
            ("1.1", "Accept-Encoding: br", "Connection: close"), ("1.1", "If-None-Match: *", "Connection: close"),
        )
    ]  # fmt: skip
    for request in requests:
        method = request.split(b" ", 1)[0].decode()
        with Wire(general.url) as wire:
            expected = wire.ask(request, method=method).masked()
            assert wire.at_end()
        assert b"\r\nConnection: close\r\n\r\n" in expected
        before = hot.server.listening[0].hot_answers
        for _again in range(3):
            with Wire(hot.url) as wire:
                assert wire.ask(request, method=method).masked() == expected
                assert wire.at_end()
        assert hot.server.listening[0].hot_answers > before, request
    assert general.server.listening[0].hot_answers == 0


def test_a_connection_can_end_on_the_hot_path_after_it_took_the_general_one(serving: Serving, site: Path) -> None:
    fill(site)
    running = serving()
    last = get("/hello.txt", "Connection: close")
    for _again in range(3):
        with Wire(running.url) as wire:
            assert wire.ask(get("/hello.txt", "Range: bytes=0-4")).body == b"hello"
            answer = wire.ask(last)
            assert (answer.body, answer.fields["connection"]) == (b"hello, ring\n", "close")
            assert wire.at_end()
    assert running.server.listening[0].hot_answers >= 2


def test_the_hot_path_answers_what_it_can(serving: Serving, site: Path) -> None:
    # Not ranges, bodies, HTTP/1.0, OPTIONS and the like.
    running = start(serving, site, PLAIN[0])
    rows = [row for group in PLAIN for row in lasting(group)]
    for row in rows:
        with Wire(running.url) as wire:
            for _again in range(3):
                wire.ask(row.request, method=row.method)
    assert running.server.listening[0].hot_answers > len(rows)


def splits(request: bytes) -> range:
    return range(1, len(request), 1 if len(request) < LONG else LONG_STEP)


@by_group
def test_a_request_split_at_each_byte_gets_the_same_answer(serving: Serving, site: Path, group: Group) -> None:
    url = start(serving, site, group).url
    for row in group.rows:
        for position in splits(row.request):
            with Wire(url) as wire:
                wire.send(row.request[:position])
                # The answer to a refused request may come before its second half is sent; it is still taken.
                answer = wire.ask(row.request[position:], method=row.method)
                check(row, answer.status, answer.fields, answer.body)


@by_group
def test_a_request_in_single_bytes_gets_the_same_answer(serving: Serving, site: Path, group: Group) -> None:
    url = start(serving, site, group).url
    for row in lasting(group):
        if len(row.request) < LONG:
            with Wire(url) as wire:
                for position in range(len(row.request)):
                    wire.send(row.request[position : position + 1])
                answer = wire.answer(method=row.method)
                check(row, answer.status, answer.fields, answer.body)


@by_group
@pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "general"])
def test_pipelined_requests_of_all_kinds_are_answered_in_order(
    serving: Serving, site: Path, group: Group, hot_path: bool
) -> None:
    url = start(serving, site, group, hot_path=hot_path).url
    rows = lasting(group) * 4
    with Wire(url) as wire:
        wire.send(b"".join(row.request for row in rows))
        for row in rows:
            answer = wire.answer(method=row.method)
            check(row, answer.status, answer.fields, answer.body)


def test_pipelined_large_and_small_bodies_keep_their_order(serving: Serving, site: Path) -> None:
    fill(site)
    large = (site / "large.bin").read_bytes()
    url = serving().url
    requests = [get("/large.bin"), get("/hello.txt"), get("/large.bin", "Range: bytes=5-99999"), get("/missing")] * 5
    with Wire(url) as wire:
        wire.send(b"".join(requests))
        for _round in range(5):
            assert wire.answer().body == large
            assert wire.answer().body == b"hello, ring\n"
            assert wire.answer().body == large[5:100000]
            assert wire.answer().status == 404


@by_group
def test_what_follows_a_closing_request_is_not_answered(serving: Serving, site: Path, group: Group) -> None:
    url = start(serving, site, group).url
    for row in group.rows:
        if row.closes:
            with Wire(url) as wire:
                wire.send(row.request + get("/hello.txt"))
                assert wire.answer(method=row.method).status == row.status
                assert wire.at_end(), row.name


def test_every_row_has_a_name_of_its_own_and_says_where_it_is_written() -> None:
    names = [(group.title, row.name) for group in GROUPS for row in group.rows]
    assert len(set(names)) == len(names)
    assert all(row.section for group in GROUPS for row in group.rows)
