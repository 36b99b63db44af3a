"""The access log: what a line looks like whatever the peer sent, and when lines are written."""

from __future__ import annotations

import errno
import json
import re
import stat
from collections.abc import Callable
from typing import cast

import pytest
from fakes import PinnedBytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringserve.connection.remembered import Blocks, KnownBlock, KnownHead, KnownLine
from ringserve.http.heads import Request, RequestLine, Told
from ringserve.http.request import Limits, Parser
from ringserve.observe import access_log
from ringserve.observe.access_log import (
    FLUSH_AFTER_S,
    FLUSH_LINES,
    LOG_FORMATS,
    PIECES,
    AccessLog,
    CombinedFormat,
    CommonFormat,
    JsonFormat,
    Shortened,
    Sink,
    escape,
    shorten,
)
from ringserve.observe.responses import Outcome, Responses
from ringserve.ring.tasks import Handler, Kind, Tasks
from ringserve.ring.world import PIPE_BUF, errno_name

EXAMPLE = 784_111_777
FD = 7
PARSER = Parser(Limits(32 * 1024, 8 * 1024, 100))
# How long the examples take to make is the machine's affair.
PROPERTY = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def request_of(head: bytes) -> Request:
    return PARSER.parse(head)._replace(header_bytes=head.partition(b"\n")[2])


def request_with(target: bytes = b"/a?b", *fields: bytes) -> Request:
    head = [b"GET " + target + b" HTTP/1.1", b"Host: a", *fields]
    return request_of(b"\r\n".join(head) + b"\r\n\r\n")


def known(request: Request) -> KnownHead:
    line = KnownLine(b"", Blocks(), {}, request.line)
    return line, KnownBlock(request.block, request.header_bytes, False), request.apart


def line_of(form: CommonFormat, request: Request | None, peer: str = "192.0.2.1", status: int = 200) -> bytes:
    line = form.line(request.line if request else None)
    block = form.block(request.told if request else Told())
    shortened = isinstance(line, Shortened) or isinstance(block, Shortened)
    outcome = form.outcome(status, 1234, aborted=False, coding=None)
    details = form.details(0.0015, request and request.asked_range, shortened)
    return b"".join((form.client(peer), form.stamp(EXAMPLE), line, outcome + details, block))


# -- escape -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "escaped"),
    [
        (b"", b""),
        (b"plain ~!", b"plain ~!"),
        (b'"', b"\\x22"),
        (b"\\", b"\\x5c"),
        (b"\\x22", b"\\x5cx22"),
        (b"\r\n", b"\\x0d\\x0a"),
        (b"\0\x1b[2J\x7f", b"\\x00\\x1b[2J\\x7f"),
        (b"caf\xc3\xa9", b"caf\\xc3\\xa9"),
    ],
)
def test_what_could_forge_a_line_or_drive_a_terminal_is_escaped(value: bytes, escaped: bytes) -> None:
    assert escape(value) == escaped


@PROPERTY
@given(st.binary(max_size=40) | st.lists(st.sampled_from(b'"\\\r\n\0x2a'), max_size=20).map(bytes))
def test_an_escaped_value_is_printable_ascii_without_quotes_and_can_be_read_back(value: bytes) -> None:
    escaped = escape(value)
    assert all(0x20 <= byte <= 0x7E for byte in escaped)
    assert b'"' not in escaped
    assert re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), escaped) == value


# -- shortening -------------------------------------------------------------------------------------------------


def as_json(value: bytes) -> bytes:
    return json.dumps(value.decode("latin-1"))[1:-1].encode()


@pytest.mark.parametrize(
    ("value", "bytes_max", "shortened"),
    [
        (b"", 3, b""),
        (b"abcdef", 6, b"abcdef"),
        (b"abcdefg", 6, b"abc..."),
        (b"a\n", 5, b"a\\x0a"),
        (b"a\nb", 5, b"a..."),
        (b"\n\n\n", 11, b"\\x0a\\x0a..."),
        (b"\n\n\n", 10, b"\\x0a..."),
        (b"\n" * 8000, 20, b"\\x0a\\x0a\\x0a\\x0a..."),
    ],
)
def test_a_long_value_is_cut_before_an_escape_that_does_not_fit(value: bytes, bytes_max: int, shortened: bytes) -> None:
    assert shorten(value, bytes_max) == shortened


@pytest.mark.parametrize("by", [escape, as_json])
@PROPERTY
@given(st.binary(max_size=40) | st.lists(st.sampled_from(b'"\\\r\n\0\xe9xu2a')).map(bytes), st.integers(3, 60))
def test_a_shortened_value_is_the_beginning_of_the_whole_one(
    by: Callable[[bytes], bytes], value: bytes, bytes_max: int
) -> None:
    short = shorten(value, bytes_max, by)
    assert len(short) <= bytes_max
    if isinstance(short, Shortened):
        assert len(by(value)) > bytes_max
        (begin,) = (count for count in range(len(value)) if by(value[:count]) + b"..." == short)
        assert len(by(value[: begin + 1])) > bytes_max - len(b"..."), "one more would fit"
    else:
        assert short == by(value)


LONGEST_PEER = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%interface-name15"
LONG = {
    "method": b"M" * 5000 + b" / HTTP/1.1\r\nHost: a",
    "target": b"GET /" + b'"' * 8000 + b" HTTP/1.1\r\nHost: a",
    "range": b"GET / HTTP/1.1\r\nHost: a\r\nRange: " + b"\xe9" * 5000,
    "host": b"GET / HTTP/1.1\r\nHost: " + b"a" * 5000,
    "referer": b"GET / HTTP/1.1\r\nHost: a\r\nReferer: " + b"\xe9" * 5000,
    "user_agent": b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: " + b"\xe9" * 20_000,
}
"""Heads with one long field."""


class Client:
    """Who was answered: nobody who speaks for others."""

    proxy: str | None = None

    def __init__(self, piece: bytes) -> None:
        self.client_piece = piece

    def piece_for(self, block: object) -> bytes:
        raise AssertionError(f"it is no proxy that would name a client in {block!r}")


def logged(form: CommonFormat, request: Request) -> bytes:
    """The line of a response that took a day and had as many bytes as a file may have."""
    tasks = FakeTasks()
    log = AccessLog(cast(Tasks, tasks), Sink(FD, is_file=True), form)
    responses, peer = Responses(log), Client(form.client(LONGEST_PEER))
    log.set_time(EXAMPLE)
    head = known(request)
    for _again in range(2):
        responses.finished(peer, head, Outcome(200, b"gzip"), 2**63 - 1, tasks.ring.now - 86_400, False)
    log.flush()
    tasks.ring.complete()
    first, second, rest = tasks.ring.sink.split(b"\n")
    assert (first, rest) == (second, b"")
    return first + b"\n"


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize("name", LOG_FORMATS)
@pytest.mark.parametrize("filler", [b"a", b"\xe9", b'"'])
def test_a_line_has_at_most_4000_bytes_whatever_is_asked(name: str, filler: bytes) -> None:
    fields = [b"%s: %s" % (field, filler * 5000) for field in (b"Referer", b"User-Agent", b"Range")]
    target = b"/" + (b"a" if filler == b"\xe9" else filler) * 3000
    head = [b"M" * 5000 + b" " + target + b" HTTP/1.1", b"Host: " + b"h" * 5000, *fields]
    line = logged(LOG_FORMATS[name](), request_of(b"\r\n".join(head) + b"\r\n\r\n"))
    assert len(line) <= 4000
    assert b"..." in line
    if name == "json":
        assert json.loads(line, object_pairs_hook=unique)["shortened"] is True


@pytest.mark.parametrize("name", LONG)
def test_json_says_that_a_field_is_shortened_and_leaves_the_others_whole(name: str) -> None:
    seen = json.loads(logged(JsonFormat(), request_of(LONG[name] + b"\r\n\r\n")), object_pairs_hook=unique)
    assert seen["shortened"] is True
    assert [key for key, value in seen.items() if isinstance(value, str) and value.endswith("...")] == [name]


def test_json_does_not_speak_of_shortening_where_all_is_whole() -> None:
    assert "shortened" not in json.loads(logged(JsonFormat(), request_with()))


# -- combined ---------------------------------------------------------------------------------------------------


def test_a_combined_line_is_what_apache_writes() -> None:
    request = request_with(b"/a?b", b"Referer: http://r/", b"User-Agent: Agent/1.0 (x)")
    assert line_of(CombinedFormat(), request) == (
        b'192.0.2.1 - - [06/Nov/1994:08:49:37 +0000] "GET /a?b HTTP/1.1" 200 1234 "http://r/" "Agent/1.0 (x)"\n'
    )


def test_absent_fields_are_dashes_and_empty_ones_are_empty() -> None:
    form = CombinedFormat()
    assert form.block(request_with().told) == b' "-" "-"\n'
    assert form.block(request_with(b"/", b"Referer:", b"User-Agent:").told) == b' "" ""\n'
    assert form.block(Told()) == b' "-" "-"\n'


def test_a_request_that_was_never_read_has_a_combined_line_too() -> None:
    assert line_of(CombinedFormat(), None, peer="-", status=400) == (
        b'- - - [06/Nov/1994:08:49:37 +0000] "-" 400 1234 "-" "-"\n'
    )


@pytest.mark.parametrize(
    ("seconds", "stamp"),
    [
        (0, b"01/Jan/1970:00:00:00 +0000"),
        (EXAMPLE + 0.9, b"06/Nov/1994:08:49:37 +0000"),
        (1_709_251_199, b"29/Feb/2024:23:59:59 +0000"),
        (1_735_689_599, b"31/Dec/2024:23:59:59 +0000"),
    ],
)
def test_a_combined_stamp_is_utc_with_english_months(seconds: float, stamp: bytes) -> None:
    assert CombinedFormat().stamp(seconds) == stamp + b'] "'


def test_a_combined_outcome_is_status_and_bytes() -> None:
    assert CombinedFormat().outcome(206, 0, aborted=True, coding=b"br") == b"206 0"


def test_a_common_line_is_what_every_tool_reads() -> None:
    request = request_with(b"/a?b", b"Referer: http://r/", b"User-Agent: Agent/1.0 (x)")
    assert line_of(CommonFormat(), request) == (
        b'192.0.2.1 - - [06/Nov/1994:08:49:37 +0000] "GET /a?b HTTP/1.1" 200 1234\n'
    )


COMBINED = re.compile(
    rb'(\S+) - - \[\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2} \+0000\] "(\S+) (\S+) HTTP/\d\.\d" \d{3} \d+ '
    rb'"([^"]*)" "([^"]*)"\n'
)
FIELD_VALUE = st.lists(st.integers(min_value=0x21, max_value=0xFF).filter(lambda b: b != 0x7F)).map(bytes)
TARGET = st.lists(st.integers(min_value=0x21, max_value=0x7E)).map(lambda b: b"/" + bytes(b))


@PROPERTY
@given(TARGET, FIELD_VALUE, FIELD_VALUE)
def test_no_request_can_break_a_combined_line(target: bytes, referer: bytes, agent: bytes) -> None:
    request = request_with(target, b"Referer: " + referer, b"User-Agent: " + agent)
    line = line_of(CombinedFormat(), request)
    assert all(0x20 <= byte <= 0x7E for byte in line[:-1])
    match = COMBINED.fullmatch(line)
    assert match
    assert match[3] == escape(target)
    assert (match[4], match[5]) == (escape(referer), escape(agent))


# -- JSON -------------------------------------------------------------------------------------------------------


def test_a_json_line_is_one_object_with_its_keys_in_order() -> None:
    request = request_with(b"/a?b", b"Referer: http://r/", b"User-Agent: caf\xe9", b"Range: bytes=0-4")
    line = line_of(JsonFormat(), request)
    assert line.endswith(b"}\n")
    assert list(json.loads(line).items()) == [
        ("client", "192.0.2.1"),
        ("time", "1994-11-06T08:49:37Z"),
        ("method", "GET"),
        ("target", "/a?b"),
        ("protocol", "HTTP/1.1"),
        ("status", 200),
        ("bytes", 1234),
        ("coding", None),
        ("aborted", False),
        ("duration", 0.0015),
        ("range", "bytes=0-4"),
        ("host", "a"),
        ("referer", "http://r/"),
        ("user_agent", "café"),
    ]


def test_what_is_absent_is_null_in_json() -> None:
    seen = json.loads(line_of(JsonFormat(), None))
    assert [seen[name] for name in ("method", "target", "protocol", "referer", "user_agent")] == [None] * 5
    assert JsonFormat().block(request_with().told) == b'"host":"a","referer":null,"user_agent":null}\n'
    assert JsonFormat().block(request_with(b"/", b"Referer:").told).endswith(b'"referer":"","user_agent":null}\n')


def test_an_aborted_response_says_so_in_json() -> None:
    outcome = JsonFormat().outcome(206, 5, aborted=True, coding=b"br")
    assert outcome == b'"status":206,"bytes":5,"coding":"br","aborted":true,'


@PROPERTY
@given(TARGET, FIELD_VALUE, FIELD_VALUE, st.text(max_size=10))
def test_no_request_can_break_a_json_line(target: bytes, referer: bytes, agent: bytes, peer: str) -> None:
    request = request_with(target, b"Referer: " + referer, b"User-Agent: " + agent)
    line = line_of(JsonFormat(), request, peer=peer)
    assert all(0x20 <= byte <= 0x7E for byte in line[:-1])
    seen = json.loads(line)
    assert seen["client"] == peer
    assert seen["target"].encode("latin-1") == target
    assert (seen["referer"].encode("latin-1"), seen["user_agent"].encode("latin-1")) == (referer, agent)


def test_a_format_is_found_by_its_name() -> None:
    assert dict(LOG_FORMATS) == {"common": CommonFormat, "combined": CombinedFormat, "json": JsonFormat}


# -- writing ----------------------------------------------------------------------------------------------------


class FakeRing:
    """A ring with a clock and sinks. It asserts that writes come one at a time, are those that were pinned, and go to
    no sink that was closed.

    mode: of the sinks, all of one kind. takes: the results of the next writes that do not wait; then they take all.
    pieces: the lengths of what was taken so.
    """

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.takes: list[int] = []
        self.pieces: list[int] = []
        self.now = 100.0
        self.sinks: dict[int, bytes] = {}
        self.closed: list[int] = []
        self.reports: list[str] = []
        self.handler: Handler | None = None
        self.room_handler: Handler | None = None
        self.polls = 0
        self.user_data = 0
        self._write: tuple[int, PinnedBytes, int] | None = None
        self._pinned: list[PinnedBytes] = []

    @property
    def sink(self) -> bytes:
        """What the first sink has."""
        return self.sinks.get(FD, b"")

    @property
    def writing(self) -> bool:
        return self._write is not None

    def said(self) -> str:
        """The reports since it was last asked for."""
        reports, self.reports = self.reports, []
        return "\n".join(reports)

    def write_now(self, fd: int, data: bytes) -> int:
        assert fd not in self.closed
        assert not stat.S_ISREG(self.mode), "a write to a disk may wait"
        assert self._write is None, "one write at a time"
        assert 0 < len(data) <= PIPE_BUF
        assert data.endswith(b"\n")
        count = self.takes.pop(0) if self.takes else len(data)
        if count > 0:
            self.sinks[fd] = self.sinks.get(fd, b"") + data[:count]
            self.pieces.append(count)
        return count

    def pin(self, data: bytes) -> PinnedBytes:
        self._pinned.append(PinnedBytes(data))
        return self._pinned[-1]

    def write(self, user_data: int, fd: int, data: PinnedBytes, start: int = 0) -> None:
        assert user_data == self.user_data, "the completion would find nobody"
        assert fd not in self.closed
        assert self._write is None, "one write at a time"
        assert any(data is pinned for pinned in self._pinned), "what the kernel reads has to be pinned"
        assert 0 <= start < data.length, "a write of nothing never ends"
        self._write = (fd, data, start)

    def close(self, fd: int) -> None:
        assert fd not in self.closed, "closed twice"
        self.closed.append(fd)

    def room(self, user_data: int, fd: int) -> None:
        assert user_data == self.user_data + 8
        assert fd == FD
        assert self._write is None, "a write in flight waits by itself"
        self.polls += 1

    def complete(self, count: int | None = None) -> None:
        """The write in flight ends with `count` bytes (all of them), or with a negative errno."""
        assert self._write is not None, "nothing is in flight"
        assert self.handler is not None
        (fd, data, start), self._write = self._write, None
        assert fd not in self.closed, "closed with a write in flight"
        if count is None:
            count = data.length - start
        if count > 0:
            self.sinks[fd] = self.sinks.get(fd, b"") + data.data[start : start + count]
        self.handler(count, -1, False)


class FakeTasks:
    """The table of handlers, with room for two: room in the sink, and the end of a write."""

    def __init__(self, mode: int = stat.S_IFREG) -> None:
        self.ring = self.system = FakeRing(mode)

    def register(self, kind: Kind, handler: Handler) -> int:
        assert kind is Kind.SHARED
        if self.ring.handler is None:
            self.ring.handler = handler
            self.ring.user_data = 24
            return 24
        assert self.ring.room_handler is None, "the log registers twice"
        self.ring.room_handler = handler
        return 32

    def report(self, template: str, *values: object) -> None:
        self.ring.reports.append(template.format(*values))


def new_log(*, owned: bool = False, mode: int = stat.S_IFREG) -> tuple[AccessLog, FakeRing]:
    tasks = FakeTasks(mode)
    return AccessLog(cast(Tasks, tasks), Sink(FD, stat.S_ISREG(mode)), CombinedFormat(), owned=owned), tasks.ring


def add(log: AccessLog, name: bytes) -> bytes:
    """One line; returns it."""
    log.add(b"[", name, b"]", b"!", b"\n")
    return b"[" + name + b"]!\n"


def test_a_new_log_has_nothing_to_write() -> None:
    log, ring = new_log()
    assert log.idle
    assert log.flush_if_due() is None
    log.flush()
    assert not ring.writing


def test_a_line_waits_for_company_but_not_for_long() -> None:
    log, ring = new_log()
    first = add(log, b"1")
    assert not log.idle
    assert log.flush_if_due() == 100.0 + FLUSH_AFTER_S
    ring.now += FLUSH_AFTER_S / 2
    second = add(log, b"2")
    assert log.flush_if_due() == 100.0 + FLUSH_AFTER_S, "the first line decides"
    assert not ring.writing
    ring.now = 100.0 + FLUSH_AFTER_S
    assert log.flush_if_due() is None
    assert ring.writing
    assert not log.idle
    ring.complete()
    assert ring.sink == first + second
    assert log.idle


def test_a_large_batch_does_not_wait() -> None:
    log, ring = new_log()
    for number in range(FLUSH_LINES - 1):
        add(log, b"%d" % number)
    assert log.flush_if_due() is not None
    assert not ring.writing
    add(log, b"last")
    assert log.flush_if_due() is None
    assert ring.writing


def test_lines_that_come_during_a_write_are_written_after_it() -> None:
    log, ring = new_log()
    lines = add(log, b"1")
    log.flush()
    lines += add(log, b"2") + add(log, b"3")
    assert log.flush_if_due() is None, "its completion goes on with them"
    log.flush()
    ring.complete()
    assert ring.writing
    ring.complete()
    assert ring.sink == lines
    assert log.idle


def test_a_short_write_goes_on_where_it_ended() -> None:
    log, ring = new_log()
    lines = add(log, b"a line of some length") + add(log, b"another")
    log.flush()
    while ring.writing:
        ring.complete(1)
    assert ring.sink == lines
    assert log.idle


@pytest.mark.parametrize("error", [errno.EPIPE, errno.ENOSPC, errno.EIO, 0])
def test_a_sink_that_refuses_is_reported_once_and_tried_again_each_second_and_loses_nothing(error: int) -> None:
    log, ring = new_log()
    first = add(log, b"1")
    log.flush()
    second = add(log, b"2")
    ring.complete(-error)
    assert ring.said() == (
        f"access log: {errno_name(-error) if error else 'the sink takes nothing'}; the server tries again each second"
    )
    assert log.idle, "nothing waits for it"
    for _again in range(3):
        assert log.flush_if_due() == ring.now + access_log.REFUSED_S
        ring.now += access_log.REFUSED_S / 2
        assert log.flush_if_due() == ring.now + access_log.REFUSED_S / 2
        assert not ring.writing
        ring.now += access_log.REFUSED_S / 2
        assert log.flush_if_due() is None
        assert ring.writing
        ring.complete(-error)
    assert ring.reports == []
    ring.now += access_log.REFUSED_S
    log.flush()
    ring.complete()
    assert ring.said() == "access log: lines are written again"
    ring.complete()
    assert ring.sink == first + second
    assert log.idle
    assert ring.reports == []


def test_a_line_at_which_the_sink_was_full_is_written_again_on_a_line_of_its_own() -> None:
    log, ring = new_log()
    first, second = add(log, b"1"), add(log, b"2")
    log.flush()
    ring.complete(len(first) + 2)
    ring.complete(-errno.ENOSPC)
    ring.now += access_log.REFUSED_S
    log.flush()
    ring.complete(1)  # the line end, and again there is no room
    ring.complete(-errno.ENOSPC)
    ring.now += access_log.REFUSED_S
    log.flush()
    ring.complete()
    third = add(log, b"3")
    log.flush()
    ring.complete()
    assert ring.sink == first + second[:2] + b"\n" + second + third


def test_a_line_end_that_the_sink_refused_still_goes_first() -> None:
    log, ring = new_log()
    line = add(log, b"1")
    log.flush()
    ring.complete(2)
    for _try in range(2):
        ring.complete(-errno.ENOSPC)
        ring.now += access_log.REFUSED_S
        log.flush()
    ring.complete()
    assert ring.sink == line[:2] + b"\n" + line


def test_lines_that_are_lost_behind_a_sink_that_refuses_are_reported_at_once_and_counted_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access_log, "LINES_WAITING_MAX", 3)
    log, ring = new_log()
    add(log, b"in flight")
    log.flush()
    ring.complete(-errno.ENOSPC)
    ring.said()
    for number in range(10):
        add(log, b"%d" % number)
    assert ring.said() == "access log: the sink does not take its lines; from now on lines are lost"
    ring.now += access_log.REFUSED_S
    log.flush()
    ring.complete()
    assert ring.said() == (
        "access log: lines are written again\naccess log: 7 lines lost, because the sink did not take them"
    )


def test_lines_beyond_the_limit_are_lost_counted_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "LINES_WAITING_MAX", 3)
    log, ring = new_log()
    lines = add(log, b"in flight")
    log.flush()
    lines += b"".join(add(log, b"%d" % number) for number in range(3))
    add(log, b"lost")
    assert "from now on lines are lost" in ring.said()
    add(log, b"lost too")
    assert log.lost == 2
    ring.complete()
    assert "2 lines lost" in ring.said()
    assert log.lost == 0
    ring.complete()
    assert ring.sink == lines
    assert ring.said() == ""
    lines += add(log, b"there is room again")
    log.flush()
    ring.complete()
    assert ring.sink == lines


def test_only_a_write_in_flight_can_complete() -> None:
    _log, ring = new_log()
    assert ring.handler is not None
    with pytest.raises(AssertionError, match="only a write in flight"):
        ring.handler(1, -1, False)


class CountingFormat(CombinedFormat):
    """Counts how often a piece that is remembered is formatted."""

    def __init__(self) -> None:
        self.made = 0

    def line(self, line: RequestLine | None) -> bytes:
        self.made += 1
        return super().line(line)

    def outcome(self, status: int, body_bytes: int, aborted: bool, coding: bytes | None) -> bytes:
        self.made += 1
        return super().outcome(status, body_bytes, aborted, coding)

    def block(self, told: Told) -> bytes:
        self.made += 1
        return super().block(told)


def test_a_record_is_made_of_pieces_that_are_remembered() -> None:
    tasks = FakeTasks()
    form = CountingFormat()
    log = AccessLog(cast(Tasks, tasks), Sink(FD, is_file=True), form)
    head = known(request_with(b"/a", b"User-Agent: b"))
    responses, outcome = Responses(log), Outcome(200, None)
    log.set_time(EXAMPLE)
    for _again in range(3):
        responses.finished(Client(form.client("c")), head, outcome, 5, tasks.ring.now, False)
    assert form.made == 3
    log.flush()
    tasks.ring.complete()
    assert tasks.ring.sink == b'c - - [06/Nov/1994:08:49:37 +0000] "GET /a HTTP/1.1" 200 5 "-" "b"\n' * 3


def test_a_request_that_was_never_read_is_recorded() -> None:
    log, ring = new_log()
    log.set_time(EXAMPLE)
    Responses(log).finished(Client(b"client "), None, Outcome(400, None), 5, ring.now, False)
    log.flush()
    ring.complete()
    assert ring.sink == b'client 06/Nov/1994:08:49:37 +0000] "-" 400 5 "-" "-"\n'


def test_a_line_has_as_many_pieces_as_the_limits_assume() -> None:
    log, _ring = new_log()
    add(log, b"1")
    assert len(log._pieces) == PIECES


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EINTR])
def test_a_sink_that_does_not_wait_is_polled_and_written_again(error: int) -> None:
    log, ring = new_log()
    line = add(log, b"1")
    log.flush()
    assert ring.room_handler is not None
    ring.complete(-error)
    assert ring.polls == 1
    assert not ring.writing
    assert not log.idle
    ring.room_handler(0, -1, False)
    ring.complete()
    assert log.idle
    assert ring.sink == line


# -- pipes, sockets and terminals ---------------------------------------------------------------------------------


def add_line(log: AccessLog, length: int) -> bytes:
    """A line of so many bytes."""
    return add(log, b"a" * (length - 4))


def test_a_pipe_gets_whole_lines_of_at_most_what_it_takes_whole() -> None:
    log, ring = new_log(mode=stat.S_IFIFO)
    lines = [add_line(log, length) for length in (4000, 96, 97, 4000, 3000, 1000, 50, 50)]
    assert log.flush() is None
    assert ring.sink == b"".join(lines)
    assert ring.pieces == [4096, 97, 4000, 4050, 50], "no further line fits into any"
    assert log.idle
    assert ring.polls == 0


def test_a_full_pipe_is_polled_and_gets_the_next_piece_when_it_has_room() -> None:
    log, ring = new_log(mode=stat.S_IFIFO)
    lines = b"".join(add_line(log, 3000) for _line in range(5))
    ring.takes = [3000, -errno.EAGAIN, 3000, 3000, -errno.EAGAIN]
    log.flush()
    assert (ring.sink, ring.polls) == (lines[:3000], 1)
    assert not log.idle
    lines += add(log, b"more")
    assert log.flush() is None, "room is awaited"
    assert ring.room_handler is not None
    ring.room_handler(0, -1, False)
    assert (ring.sink, ring.polls) == (lines[:9000], 2)
    ring.room_handler(0, -1, False)
    assert ring.sink == lines
    assert log.idle


def test_after_many_pieces_in_a_row_the_loop_has_its_turn() -> None:
    log, ring = new_log(mode=stat.S_IFIFO)
    lines = b"".join(add_line(log, 4000) for _line in range(access_log.PIECES_AT_ONCE + 1))
    log.flush()
    assert (len(ring.sink), ring.polls) == (4000 * access_log.PIECES_AT_ONCE, 1)
    assert ring.room_handler is not None
    ring.room_handler(0, -1, False)
    assert ring.sink == lines
    assert log.idle


def test_a_socket_that_takes_part_of_a_piece_gets_the_rest_first() -> None:
    log, ring = new_log(mode=stat.S_IFSOCK)
    lines = b"".join(add_line(log, 3000) for _line in range(3))
    ring.takes = [10, 2000, -errno.EAGAIN]
    log.flush()
    assert ring.room_handler is not None
    ring.room_handler(0, -1, False)
    assert ring.sink == lines
    assert ring.pieces == [10, 2000, 990 + 3000, 3000]


def test_a_sink_that_cannot_say_whether_it_would_wait_gets_one_piece_at_a_time_through_the_ring() -> None:
    log, ring = new_log(mode=stat.S_IFCHR)
    lines = b"".join(add_line(log, 3000) for _line in range(2))
    ring.takes = [-errno.EOPNOTSUPP] * 3
    log.flush()
    assert ring.writing
    ring.complete(1000)
    ring.complete()
    assert not log.idle
    ring.complete()
    assert log.idle
    assert ring.sink == lines


def test_lines_that_a_pipe_refused_are_written_when_somebody_has_it_open_again() -> None:
    log, ring = new_log(mode=stat.S_IFIFO)
    lines = b"".join(add_line(log, 3000) for _line in range(3))
    ring.takes = [3000, -errno.EPIPE]
    log.flush()
    assert ring.said() == f"access log: {errno_name(-errno.EPIPE)}; the server tries again each second"
    assert log.idle
    ring.now += access_log.REFUSED_S
    log.flush()
    assert ring.sink == lines
    assert ring.said() == "access log: lines are written again"


# -- another sink -----------------------------------------------------------------------------------------------

NEXT, LAST = 11, 12
"""Descriptors of sinks that take the first one's place."""


@pytest.mark.parametrize("owned", [True, False])
def test_an_idle_log_writes_to_its_next_sink_at_once_and_closes_one_that_was_its_own(owned: bool) -> None:
    log, ring = new_log(owned=owned)
    first = add(log, b"1")
    log.flush()
    ring.complete()
    log.replace_sink(Sink(NEXT, is_file=True))
    assert ring.closed == ([FD] if owned else [])
    second = add(log, b"2")
    log.flush()
    ring.complete()
    assert ring.sinks == {FD: first, NEXT: second}
    log.shut()
    assert ring.closed == ([FD, NEXT] if owned else [NEXT])


def test_the_kind_of_the_next_sink_comes_with_it_and_the_kernel_is_not_asked_on_the_loop() -> None:
    log, ring = new_log()
    ring.mode = stat.S_IFIFO
    log.replace_sink(Sink(NEXT, is_file=False))
    line = add(log, b"1")
    log.flush()
    assert ring.sinks == {NEXT: line}
    assert ring.pieces == [len(line)]


def test_a_batch_in_flight_is_written_to_its_end_before_the_next_sink_gets_the_lines_behind_it() -> None:
    log, ring = new_log(owned=True)
    first = add(log, b"a line of some length")
    log.flush()
    second = add(log, b"2")
    ring.complete(3)
    log.replace_sink(Sink(NEXT, is_file=True))
    third = add(log, b"3")
    ring.complete(-errno.EAGAIN)
    assert ring.room_handler is not None
    ring.room_handler(0, -1, False)
    ring.complete(5)
    assert ring.closed == []
    ring.complete()
    assert ring.closed == [FD]
    ring.complete()
    assert ring.sinks == {FD: first, NEXT: second + third}
    assert log.idle


def test_of_two_next_sinks_the_last_counts_and_the_other_is_closed() -> None:
    log, ring = new_log()
    first = add(log, b"1")
    log.flush()
    log.replace_sink(Sink(NEXT, is_file=True))
    log.replace_sink(Sink(LAST, is_file=True))
    assert ring.closed == [NEXT]
    ring.complete()
    second = add(log, b"2")
    log.flush()
    ring.complete()
    assert ring.sinks == {FD: first, LAST: second}
    log.shut()
    assert ring.closed == [NEXT, LAST]


def test_a_next_sink_that_never_had_its_turn_is_closed_in_the_end() -> None:
    log, ring = new_log()
    add(log, b"1")
    log.flush()
    log.replace_sink(Sink(NEXT, is_file=True))
    log.shut()
    assert ring.closed == [NEXT]


def test_what_a_sink_refused_is_written_to_the_next_in_whole_lines() -> None:
    log, ring = new_log(owned=True)
    whole = add(log, b"1")
    rest = add(log, b"2") + add(log, b"3")
    log.flush()
    ring.complete(len(whole) + 1)  # one line, and a byte of the next
    ring.complete(-errno.ENOSPC)
    rest += add(log, b"4")
    assert "ENOSPC" in ring.said()
    log.replace_sink(Sink(NEXT, is_file=True))
    log.flush()
    ring.complete()
    assert ring.said() == "access log: lines are written again"
    ring.complete()
    assert ring.sinks[NEXT] == rest
    log.shut()
    assert ring.said() == ""


def test_a_sink_that_fails_while_the_next_one_waits_hands_over_to_it() -> None:
    log, ring = new_log(owned=True)
    first = add(log, b"1")
    log.flush()
    log.replace_sink(Sink(NEXT, is_file=True))
    second = add(log, b"2")
    ring.complete(-errno.EIO)
    assert ring.closed == [FD]
    log.flush()
    ring.complete()
    ring.complete()
    assert ring.sinks == {NEXT: first + second}


def test_what_is_not_written_in_the_end_is_lost_and_told_once() -> None:
    log, ring = new_log()
    whole = add(log, b"1")
    add(log, b"2")
    log.flush()
    ring.complete(len(whole))
    for number in range(3):
        add(log, b"%d" % number)
    log.shut()
    log.shut()
    said = ring.said()
    assert said.count("lines lost") == 1
    assert "4 lines lost" in said


def test_a_line_end_that_was_to_go_first_is_no_lost_line() -> None:
    log, ring = new_log()
    add(log, b"1")
    log.flush()
    ring.complete(2)
    ring.complete(-errno.ENOSPC)
    ring.said()
    log.shut()
    assert ring.said() == "access log: 1 lines lost, because the sink did not take them"


def test_the_next_sink_begins_with_a_line_whatever_the_one_before_ended_with() -> None:
    log, ring = new_log()
    line = add(log, b"1")
    log.flush()
    ring.complete(2)
    ring.complete(-errno.ENOSPC)
    log.replace_sink(Sink(NEXT, is_file=True))
    log.flush()
    ring.complete()
    assert ring.sinks[NEXT] == line


def test_a_log_that_was_written_to_the_end_says_nothing_of_it() -> None:
    log, ring = new_log(owned=True)
    add(log, b"1")
    log.flush()
    ring.complete()
    log.shut()
    log.shut()
    assert ring.closed == [FD]
    assert ring.said() == ""


# -- what the formats agree on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOG_FORMATS)
@PROPERTY
@given(TARGET, FIELD_VALUE)
def test_a_line_has_one_line_end_by_which_lost_lines_are_counted(name: str, target: bytes, agent: bytes) -> None:
    form = LOG_FORMATS[name]()
    request = request_with(target, b"User-Agent: " + agent, b"Range: " + agent, b"Referer: " + agent)
    for line in (line_of(form, request), line_of(form, None)):
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, b"0.000000"), (1e-7, b"0.000000"), (0.25, b"0.250000"), (86400.0, b"86400.000000")]
)
def test_a_duration_is_in_seconds_with_microseconds_and_only_in_json(seconds: float, text: bytes) -> None:
    assert JsonFormat().details(seconds, None, False) == b'"duration":%s,"range":null,' % text
    assert JsonFormat().detailed
    for form in (CommonFormat(), CombinedFormat()):
        assert form.details(seconds, None, False) == b""
        assert not form.detailed


@pytest.mark.parametrize("coding", [None, b"br", b"gzip", b"zstd"])
def test_the_coding_is_told_in_json_and_nowhere_else(coding: bytes | None) -> None:
    expected = None if coding is None else coding.decode()
    request = request_with()
    said = JsonFormat().outcome(200, 5, aborted=False, coding=coding) + JsonFormat().details(0, None, False)
    assert json.loads(b"{" + said.rstrip(b",") + b"}")["coding"] == expected
    for form in (CommonFormat(), CombinedFormat()):
        assert form.outcome(200, 5, aborted=False, coding=coding) == b"200 5"
    assert json.loads(line_of(JsonFormat(), request))["host"] == "a"
