"""A response is finished: it is counted, with and without a log."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ringserve.observe.access_log import AccessLog, CombinedFormat
from ringserve.observe.responses import Outcome, Responses


class Lines:
    """A log that keeps its lines."""

    form = CombinedFormat()
    stamp = b"now "

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def add(self, *pieces: bytes) -> None:
        self.lines.append(b"".join(pieces))


class Client:
    """Who was answered. A proxy names another one in each block."""

    client_piece = b"peer "

    def __init__(self, proxy: str | None = None) -> None:
        self.proxy = proxy

    def piece_for(self, block: Any) -> bytes:
        return b"client of %s " % block.log_piece.strip()


class Known:
    """A remembered half of a head. Its piece is made already."""

    def __init__(self, piece: bytes) -> None:
        self.log_piece = piece


HEAD = cast(Any, (Known(b"line "), Known(b" block\n"), None))


@pytest.mark.parametrize("is_logged", [False, True])
def test_responses_are_counted_by_status_whether_they_are_logged_or_not(is_logged: bool) -> None:
    responses = Responses(cast(AccessLog, Lines()) if is_logged else None)
    for status, body_bytes, aborted in ((200, 800, False), (200, 300, True), (404, 10, False)):
        responses.finished(Client(), HEAD, Outcome(status, None), body_bytes, 0.0, aborted)
    responses.finished(Client(), None, Outcome(400, None), 5, 0.0, False)
    counted = {status: count for status, count in enumerate(responses.by_status) if count}
    assert counted == {200: 2, 400: 1, 404: 1}
    assert (responses.body_bytes, responses.aborted) == (1115, 1)


def test_the_piece_of_an_outcome_is_kept_of_one_that_went_out_whole() -> None:
    log = Lines()
    responses, outcome = Responses(cast(AccessLog, log)), Outcome(200, None)
    responses.finished(Client(), HEAD, outcome, 300, 0.0, True)
    assert outcome.log_piece is None
    for _again in range(2):
        responses.finished(Client(), HEAD, outcome, 800, 0.0, False)
    assert outcome.log_piece == b"200 800"
    responses.finished(Client(), HEAD, outcome, 300, 0.0, True)
    assert log.lines == [b"peer now line %s block\n" % piece for piece in (b"200 300", *2 * [b"200 800"], b"200 300")]


def test_a_proxy_is_asked_for_its_client_where_there_is_a_head() -> None:
    log = Lines()
    responses = Responses(cast(AccessLog, log))
    responses.finished(Client("10.0.0.1"), HEAD, Outcome(200, None), 8, 0.0, False)
    responses.finished(Client("10.0.0.1"), None, Outcome(400, None), 8, 0.0, False)
    assert log.lines == [b"client of block now line 200 8 block\n", b'peer now -" 400 8 "-" "-"\n']
