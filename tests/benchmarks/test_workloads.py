"""The workloads of requests that never repeat: what is asked for, what wrk sends, and what has to come back."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import corpus
import frontend
import generator
import pytest
import workloads
from clients import Answer
from measure import Plan, _compare
from processes import BenchmarkError
from workloads import SERIAL, SERIAL_STEP, WORKLOADS, Exchange


@pytest.mark.parametrize("name", ["unique", "query", "missing"])
def test_each_request_that_never_repeats_has_a_place_for_its_number(name: str) -> None:
    assert all(SERIAL.encode() in exchange.request for exchange in WORKLOADS[name].exchanges({}))


def test_a_unique_head_has_a_number_in_its_request_id_referer_and_cookie() -> None:
    fields = workloads.unique({})[0].request.decode().splitlines()
    assert sorted(field.partition(":")[0] for field in fields if SERIAL in field) == [
        "Cookie",
        "Referer",
        "X-Request-Id",
    ]


def test_unique_asks_for_a_thousand_files() -> None:
    assert len(WORKLOADS["unique"].targets()) == 1000


def test_a_name_that_shall_be_missing_is_not_made() -> None:
    assert WORKLOADS["missing"].targets() == corpus.unique_targets()


def test_a_tail_asks_for_every_one_of_its_files_and_as_often_again_at_random() -> None:
    asked = [exchange.target for exchange in workloads.tail(1000)({})]
    assert set(asked) == set(corpus.tail_targets(1000))
    assert len(asked) == 2000


def test_numbers_have_the_length_of_their_place_for_a_hundred_rounds() -> None:
    assert len(str(SERIAL_STEP * 100 - 1)) <= len(SERIAL)


def test_cycles_begin_at_different_places_of_a_sequence() -> None:
    places = [workloads.rotation(cycle, 100_000) for cycle in range(15)]
    assert places[0] == 0
    assert len(set(places)) == 15


@pytest.mark.parametrize(("first", "answers", "expected"), [(0, 2, 3), (1, 2, 6), (2, 3, 7), (2, 7, 18)])
def test_the_bytes_that_must_come_are_those_of_the_answers_from_the_first_on(
    first: int, answers: int, expected: int
) -> None:
    plan = Plan(Path(), 1, 0, False, list(itertools.accumulate([1, 2, 4])), 4, False)
    assert plan.expected_bytes(first, answers) == expected


def test_an_error_page_may_be_each_servers_own() -> None:
    exchange = Exchange(b"", "/files/missing", 404, 0, 0)
    _compare(exchange, Answer(404, {}, b"not here", 100), corpus.Site(Path()))
    with pytest.raises(BenchmarkError, match="with 200 instead of 404"):
        _compare(exchange, Answer(200, {}, b"", 100), corpus.Site(Path()))


def test_the_front_end_is_217_files_and_the_same_each_time() -> None:
    files = frontend.files()
    frontend.files.cache_clear()
    assert len(files) == 217
    assert frontend.files() == files


def test_the_front_ends_page_and_modules_name_all_of_its_files() -> None:
    files = frontend.files()
    text = b"".join(data for name, data in files.items() if name.endswith((".html", ".js")))
    unnamed = [name for name in files if name.rpartition("/")[2].encode() not in text and name != "index.html"]
    assert unnamed == []


def test_a_site_has_the_files_that_were_asked_for(tmp_path: Path) -> None:
    targets = [corpus.tail_targets(1)[0], f"{corpus.APPLICATION}/index.html", corpus.unique_targets()[0]]
    site = corpus.make(tmp_path / "site", targets)
    assert [site.path(target).stat().st_size for target in (targets[0], targets[2])] == [800, 1024]
    assert site.path(targets[1]).read_bytes() == frontend.files()["index.html"]


# -- wrk -----------------------------------------------------------------------------------------------------------


@contextmanager
def listener(answer: bytes, heads: list[bytes]) -> Iterator[int]:
    """A server for one connection at a time, which answers everything alike and keeps what it was asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                connection, _ = listening.accept()
                # wrk leaves when its time is over, in the middle of an answer if there is one.
                with connection, contextlib.suppress(ConnectionError):
                    received = b""
                    while data := connection.recv(65536):
                        if data == b"end":
                            return
                        received += data
                        while b"\r\n\r\n" in received:
                            head, _, received = received.partition(b"\r\n\r\n")
                            heads.append(head)
                            connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            with socket.create_connection(listening.getsockname()) as last:
                last.sendall(b"end")
            thread.join()


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: what it sends is not looked at")
def test_wrk_puts_another_number_into_each_request_and_begins_where_it_is_told(tmp_path: Path) -> None:
    requests = [workloads.get(f"/{name}?{SERIAL}", f"X-Id: {SERIAL}\r\n") for name in "abc"]
    generator.write_requests(tmp_path / "requests", requests)
    heads: list[bytes] = []
    with listener(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", heads) as port:
        report = generator.run(port, tmp_path / "requests", 1, 1, first=2, serial=5 * SERIAL_STEP)
    assert report.errors == ()
    assert report.refused == report.requests > 0
    numbers = [int(head.partition(b"?")[2][:10]) for head in heads]
    # One more is made before the first is sent: wrk looks at how many heads it has.
    assert numbers == list(range(numbers[0], numbers[0] + len(heads)))
    assert numbers[0] - 5 * SERIAL_STEP in (1, 2)
    assert all(head.endswith(b"X-Id: %010d" % number) for head, number in zip(heads, numbers, strict=True))
    assert {head[5:6] for head in heads} == {b"a", b"b", b"c"}
