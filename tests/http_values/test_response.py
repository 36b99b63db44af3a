"""Responses as values, and the bytes they become."""

from __future__ import annotations

import re
from http import HTTPStatus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringserve.http.response import (
    _MEANINGS,
    BODILESS,
    NOSNIFF,
    Fields,
    FileSlice,
    Response,
    SharedDescriptor,
    date_line,
    error_response,
    head_parts,
    phrase_of,
    replaced,
    status_line,
    varying,
)

FIELD_LINE = re.compile(rb"[!-9;-~]+: [\x20-\x7e]*")


def must_not_close(fd: int) -> None:
    raise AssertionError(f"descriptor {fd} is in use")


# -- shared descriptors -----------------------------------------------------------------------------------------


def test_a_descriptor_that_nobody_uses_is_closed_when_it_is_retired() -> None:
    closed: list[int] = []
    SharedDescriptor(7, closed.append).retire()
    assert closed == [7]


def test_a_descriptor_in_use_is_closed_by_its_last_user() -> None:
    closed: list[int] = []
    shared = SharedDescriptor(7, closed.append)
    shared.hold()
    shared.hold()
    shared.retire()
    shared.release()
    assert closed == []
    shared.release()
    assert closed == [7]


def test_a_descriptor_that_is_not_retired_stays_open_without_users() -> None:
    shared = SharedDescriptor(7, must_not_close)
    shared.hold()
    shared.release()
    assert shared.users == 0
    shared.hold()
    assert shared.users == 1


def test_a_descriptor_is_closed_once_however_often_it_is_retired() -> None:
    closed: list[int] = []
    shared = SharedDescriptor(7, closed.append)
    shared.retire()
    shared.retire()
    assert closed == [7]


def test_a_retired_descriptor_takes_another_user_while_it_has_one() -> None:
    closed: list[int] = []
    shared = SharedDescriptor(7, closed.append)
    shared.hold()
    shared.retire()
    shared.hold()
    shared.release()
    assert closed == []
    shared.release()
    assert closed == [7]
    with pytest.raises(AssertionError, match="closed descriptor"):
        shared.hold()


# -- heads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK\r\n"),
        (206, b"HTTP/1.1 206 Partial Content\r\n"),
        (304, b"HTTP/1.1 304 Not Modified\r\n"),
        (404, b"HTTP/1.1 404 Not Found\r\n"),
        (505, b"HTTP/1.1 505 HTTP Version Not Supported\r\n"),
    ],
)
def test_a_status_line_has_its_phrase(status: int, line: bytes) -> None:
    assert status_line(status) == line


@pytest.mark.parametrize(
    ("status", "phrase"),
    [(414, "URI Too Long"), (416, "Range Not Satisfiable"), (404, "Not Found")],
)
def test_phrases_are_those_of_rfc_9110_whatever_python_calls_them(status: int, phrase: str) -> None:
    assert phrase_of(status) == phrase  # 15.5


def test_every_other_status_has_the_phrase_that_python_knows() -> None:
    others = [status for status in HTTPStatus if status not in (414, 416)]
    assert {phrase_of(status): status for status in others} == {status.phrase: status for status in others}


def test_a_date_line_is_an_imf_fixdate() -> None:
    assert date_line(784_111_777.9) == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


def test_a_head_stands_before_and_after_its_date() -> None:
    response = Response(200, ((b"A", b"1"), (b"B", b"2")), (b"body",), 4)
    assert head_parts(response, b"ringserve", b"close") == (
        b"HTTP/1.1 200 OK\r\nServer: ringserve\r\n",
        b"A: 1\r\nB: 2\r\nContent-Length: 4\r\nConnection: close\r\n\r\n",
    )


def test_the_server_and_connection_fields_can_be_left_out() -> None:
    assert head_parts(Response(200, ()), b"", None) == (b"HTTP/1.1 200 OK\r\n", b"Content-Length: 0\r\n\r\n")


@pytest.mark.parametrize("status", sorted(BODILESS))
def test_a_status_without_a_body_has_no_length(status: int) -> None:
    before, after = head_parts(Response(status, (), (), 0), b"", None)  # RFC 9110 8.6
    assert (before, after) == (status_line(status), b"\r\n")


def test_a_length_of_none_is_no_field() -> None:
    assert head_parts(Response(200, (), (), None), b"", None)[1] == b"\r\n"


def test_the_bytes_of_a_body_are_those_of_its_segments() -> None:
    shared = SharedDescriptor(7, must_not_close)
    assert Response(200, ()).body_bytes == 0
    assert Response(200, (), (b"abc", FileSlice(shared, 100, 40), b""), 43).body_bytes == 43
    assert Response(200, (), (), 43).body_bytes == 0, "of HEAD nothing goes out"


def test_a_part_of_a_file_keeps_it_open_and_is_sent_from_it() -> None:
    closed: list[int] = []
    shared = SharedDescriptor(7, closed.append)
    part = FileSlice(shared, 100, 40)
    part.hold()
    shared.retire()
    sent: list[tuple[int, int, int, bool]] = []

    class Noting:
        async def send(self, data: bytes) -> None:
            raise AssertionError(f"nothing is in memory, not {data!r}")

        async def send_file(self, file_fd: int, offset: int, length: int, *, last: bool) -> None:
            sent.append((file_fd, offset, length, last))

    for last in (False, True):
        with pytest.raises(StopIteration):
            part.send(Noting(), last=last).send(None)
    assert sent == [(7, 100, 40, False), (7, 100, 40, True)]
    assert closed == []
    part.release()
    assert closed == [7]


FIELDS = st.lists(
    st.tuples(st.from_regex(rb"\A[A-Z][a-z-]{0,8}\Z"), st.from_regex(rb"\A[!-~]{0,8}\Z")), max_size=4
).map(tuple)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    status=st.sampled_from([200, 204, 206, 304, 308, 404, 416]),
    fields=FIELDS,
    length=st.none() | st.integers(min_value=0, max_value=2**63),
    server=st.sampled_from((b"", b"ringserve")),
    connection=st.sampled_from((None, b"close", b"keep-alive")),
)
def test_every_head_is_lines_and_one_blank_line(
    status: int, fields: tuple[tuple[bytes, bytes], ...], length: int | None, server: bytes, connection: bytes | None
) -> None:
    response = Response(status, fields, (), length)
    before, after = head_parts(response, server, connection)
    head = before + date_line(0) + after
    assert head.endswith(b"\r\n\r\n")
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % status)
    assert all(FIELD_LINE.fullmatch(line) for line in lines)
    announced = [line for line in lines if line.startswith(b"Content-Length: ")]
    expected = [] if length is None or status in BODILESS else [b"Content-Length: %d" % length]
    assert announced[len(announced) - len(expected) :] == expected
    assert len(lines) == 1 + bool(server) + len(fields) + len(expected) + (connection is not None)


# -- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [*sorted(_MEANINGS), 418])
def test_an_error_is_a_small_page_that_is_not_stored(status: int) -> None:
    response = error_response(status)
    (body,) = response.body
    assert isinstance(body, bytes)
    assert body.startswith(b"<!doctype html>")
    assert b"<h1>%d %s</h1>" % (status, phrase_of(status).encode()) in body
    assert b"<p>%s</p>" % _MEANINGS.get(status, b"") in body
    assert response.content_length == response.body_bytes == len(body) < 1000
    assert response.status == status
    assert (b"Content-Type", b"text/html; charset=utf-8") in response.fields
    assert NOSNIFF in response.fields
    assert (b"Cache-Control", b"no-cache") in response.fields


def test_an_error_of_head_announces_the_body_that_get_would_have_had() -> None:
    whole = error_response(404)
    head = error_response(404, head=True)
    assert head.body == ()
    assert head.body_bytes == 0
    assert (head.fields, head.content_length) == (whole.fields, whole.content_length)


@pytest.mark.parametrize(
    ("status", "field"),
    [
        (405, (b"Allow", b"GET, HEAD, OPTIONS")),  # RFC 9110 15.5.6
        (503, (b"Retry-After", b"1")),  # RFC 9110 15.6.4
    ],
)
def test_a_status_that_needs_a_field_has_it(status: int, field: tuple[bytes, bytes]) -> None:
    assert error_response(status).fields[0] == field
    assert error_response(status, fields=((b"A", b"1"),)).fields[:2] == (field, (b"A", b"1"))
    assert field not in error_response(404).fields


def test_an_error_takes_further_fields() -> None:
    assert error_response(416, fields=((b"Content-Range", b"bytes */5"),)).fields[0] == (b"Content-Range", b"bytes */5")


# -- fields -----------------------------------------------------------------------------------------------------

THREE: Fields = ((b"A", b"1"), (b"Content-Type", b"text/css"), (b"B", b"2"))


@pytest.mark.parametrize(
    ("name", "value", "after"),
    [
        (b"Content-Type", b"x", (THREE[0], (b"Content-Type", b"x"), THREE[2])),
        (b"content-TYPE", b"x", (THREE[0], (b"content-TYPE", b"x"), THREE[2])),
        (b"content-type", b"", (THREE[0], THREE[2])),
        (b"C", b"3", (*THREE, (b"C", b"3"))),
        (b"C", b"", THREE),
    ],
)
def test_a_field_is_set_where_it_stood_or_at_the_end(name: bytes, value: bytes, after: Fields) -> None:
    assert replaced(THREE, name, value) == after


@pytest.mark.parametrize(
    ("known", "names", "after"),
    [
        (None, (), None),
        (None, (b"Accept",), b"Accept"),
        (b"Accept", (), b"Accept"),
        (b"Accept", (b"Accept",), b"Accept"),
        (b"Accept", (b"Accept-Encoding", b"Origin"), b"Accept, Accept-Encoding, Origin"),
        (b"Accept-Encoding", (b"Accept",), b"Accept-Encoding, Accept"),
        (b"Accept", (b"accept, X-A,x-a", b"ACCEPT"), b"Accept, X-A"),
        (b"Accept", (b"", b" ,\t"), b"Accept"),
        (b"*", (b"Accept",), b"*, Accept"),
    ],
)
def test_vary_lists_each_name_once(known: bytes | None, names: tuple[bytes, ...], after: bytes | None) -> None:
    fields = THREE if known is None else (THREE[0], (b"Vary", known), *THREE[1:])  # RFC 9110 12.5.5
    expected = fields if after is None else replaced(fields, b"Vary", after)
    assert varying(fields, *names) == expected


def test_fields_that_vary_by_nothing_more_are_not_copied() -> None:
    assert varying(THREE) is THREE


def test_a_response_is_in_memory_if_all_of_its_body_is() -> None:
    part = FileSlice(SharedDescriptor(1, lambda _fd: None), 0, 5)
    bodies: list[tuple[bytes | FileSlice, ...]] = [(), (b"a",), (b"a", part), (part,)]
    assert [Response(200, (), body).in_memory for body in bodies] == [True, True, False, False]
