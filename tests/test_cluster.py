"""The cluster's own test counts what it should: its clients against answers that are wrong, its judges against figures.

What it says of ringserve behind HAProxy needs root and network namespaces: `make cluster-test`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from checker import Asked, Client
from cluster import (
    IN_FLIGHT,
    PROMPT_S,
    WENT_AWAY_S,
    Figures,
    all_failed,
    killed_holds,
    none_failed,
    unplugged_holds,
    with_proxy_protocol,
)  # fmt: skip
from machines import HERE

BODY = bytes(range(256)) * 40
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 10240\r\n\r\n" + BODY
LIMIT_S = 20


@contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """A server that sends one answer for each connection, whatever it is asked, and ends it. Yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT_S)

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(LIMIT_S)
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


def ask(answer: bytes, rate: int = 0) -> str:
    with answering(answer) as port:
        client = Client("127.0.0.1", "fresh", rate, port)
        return client.ask("page", BODY).failure


@pytest.mark.parametrize("rate", [0, 1024 * 1024])
def test_an_answer_is_right_if_every_byte_is(rate: int) -> None:
    assert ask(WHOLE, rate) == ""


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"", "the connection ended before the answer"),
        (b"HTTP/1.1 200 OK\r\nContent-", "it ended within the head"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 10240\r\n\r\n" + BODY, "503"),
        (WHOLE.replace(b"10240", b"10239"), "Content-Length 10239 for 10240 bytes"),
        (WHOLE[:-1], "cut off after 10239 of 10240 bytes"),
        (WHOLE[:-1] + b"x", "other bytes than the file's"),
        (WHOLE.replace(b"\r\n\r\n\0", b"\r\n\r\nx", 1), "other bytes than the file's"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20000, "the head does not end"),
    ],
)
def test_an_answer_that_is_wrong_in_any_way_is_a_failure(answer: bytes, failure: str) -> None:
    assert failure in ask(answer)


def test_a_client_with_a_lasting_connection_takes_another_after_a_failure() -> None:
    with answering(WHOLE[:-1], WHOLE) as port:
        client = Client("127.0.0.1", "lasting", 0, port)
        assert client.ask("page", BODY).failure
        assert client.ask("page", BODY).failure == ""
        client.close()


def test_nobody_who_listens_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "refused" in Client("127.0.0.1", "fresh", 0, port).ask("page", BODY).failure


# -- the judges ---------------------------------------------------------------------------------------------------

WELL = Asked("fresh", "page", 10.0, 0.01, "")
BEFORE = Asked("slow", "film", 4.0, 2.0, "cut off")
AFTER = Asked("lasting", "page", 6.0, 0.01, "503")


def figures(*asked: Asked, wrk_slowest_s: float = 0.1, **failed: int) -> Figures:
    return Figures(1000, failed, wrk_slowest_s, list(asked), 5.0, 0, "")


def test_where_none_may_fail_one_is_wrong_whoever_saw_it() -> None:
    assert none_failed(figures(WELL)) == []
    assert none_failed(figures(WELL, BEFORE))
    assert none_failed(figures(WELL, read=1))


def test_where_none_may_fail_none_may_wait_either() -> None:
    assert none_failed(figures(WELL, WELL._replace(took_s=PROMPT_S + 0.1)))
    assert none_failed(figures(WELL, wrk_slowest_s=PROMPT_S + 0.1))
    assert none_failed(figures(WELL, WELL._replace(kind="slow", took_s=6.0))) == [], "that one reads slowly itself"


def test_of_a_host_that_is_gone_only_what_it_had_may_fail() -> None:
    for judge in (killed_holds, unplugged_holds):
        assert judge(figures(WELL, BEFORE, read=IN_FLIGHT - 1)) == []
        assert judge(figures(WELL, BEFORE, read=IN_FLIGHT))
        assert judge(figures(WELL, AFTER))
    waited = figures(WELL, wrk_slowest_s=WENT_AWAY_S - 0.1)
    assert killed_holds(waited)
    assert unplugged_holds(waited) == []
    assert unplugged_holds(figures(WELL, wrk_slowest_s=WENT_AWAY_S + 0.1))


def test_the_control_holds_only_if_both_saw_all_fail() -> None:
    assert all_failed(figures(BEFORE, AFTER, status=5)) == []
    assert all_failed(figures(BEFORE, AFTER))
    assert all_failed(figures(AFTER, WELL, status=5))
    assert all_failed(figures(BEFORE, status=5)), "nothing was asked after it"


def test_the_configuration_can_be_changed_to_the_proxy_protocol_as_it_says(tmp_path: Path) -> None:
    changed = with_proxy_protocol(HERE / "haproxy.cfg", tmp_path / "proxy.cfg").read_text()
    assert "    default-server send-proxy-v2 check-send-proxy check inter" in changed
    assert "\n    option forwardfor" not in changed
