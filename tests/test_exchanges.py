"""Every row of exchanges.py over the wire: whole, byte by byte, again on the hot path, and pipelined."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Serving
from exchanges import ROWS, Row, check, fill
from wire import Wire, get

ids = [row.name for row in ROWS]
lasting = [row for row in ROWS if not row.closes]


@pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "general"])
def test_each_request_gets_its_answer_first_and_repeatedly(serving: Serving, site: Path, hot_path: bool) -> None:
    fill(site)
    url = serving(hot_path=hot_path).url
    for row in ROWS:
        with Wire(url) as wire:
            for _again in range(1 if row.closes else 3):
                answer = wire.ask(row.request, method=row.method)
                check(row, answer.status, answer.fields, answer.body)
            if row.closes:
                assert wire.at_end(), row.name


def test_the_hot_path_gives_the_bytes_of_the_general_path(serving: Serving, site: Path) -> None:
    fill(site)
    hot, general = serving(hot_path=True), serving(hot_path=False)
    for row in lasting:
        with Wire(hot.url) as hot_wire, Wire(general.url) as general_wire:
            expected = general_wire.ask(row.request, method=row.method).masked()
            for _again in range(3):
                assert hot_wire.ask(row.request, method=row.method).masked() == expected, row.name
    # And it was the shortcut that answered, where it can: not for ranges, bodies, HTTP/1.0, OPTIONS and the like.
    assert hot.server.service.hot_answers > len(lasting) // 2
    assert general.server.service.hot_answers == 0


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_a_request_split_at_each_byte_gets_the_same_answer(serving: Serving, site: Path, row: Row) -> None:
    fill(site)
    url = serving().url
    for position in range(1, len(row.request)):
        with Wire(url) as wire:
            wire.send(row.request[:position])
            # The answer to a refused request may come before its second half is sent; the connection still takes it.
            answer = wire.ask(row.request[position:], method=row.method)
            check(row, answer.status, answer.fields, answer.body)


def test_a_request_in_single_bytes_gets_the_same_answer(serving: Serving, site: Path) -> None:
    fill(site)
    url = serving().url
    for row in lasting:
        with Wire(url) as wire:
            for position in range(len(row.request)):
                wire.send(row.request[position : position + 1])
            answer = wire.answer(method=row.method)
            check(row, answer.status, answer.fields, answer.body)


@pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "general"])
def test_pipelined_requests_of_all_kinds_are_answered_in_order(serving: Serving, site: Path, hot_path: bool) -> None:
    fill(site)
    url = serving(hot_path=hot_path).url
    rows = lasting * 2
    assert len(rows) >= 50
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


def test_what_follows_a_closing_request_is_not_answered(serving: Serving, site: Path) -> None:
    fill(site)
    url = serving().url
    for row in ROWS:
        if row.closes and row.status >= 400:
            with Wire(url) as wire:
                wire.send(row.request + get("/hello.txt"))
                assert wire.answer(method=row.method).status == row.status
                assert wire.at_end(), row.name
