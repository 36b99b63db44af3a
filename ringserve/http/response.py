"""Responses as values, and the bytes they become.

A responder returns a `Response`; it does not send.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from typing import NamedTuple, Protocol

from ringserve.http.dates import format_date
from ringserve.http.semantics import ALLOWED

Fields = tuple[tuple[bytes, bytes], ...]

NOSNIFF = (b"X-Content-Type-Options", b"nosniff")
BODILESS = frozenset((204, 304))
"""Statuses whose responses have no body, and no Content-Length that would announce one (RFC 9110 8.6)."""

CRLF = b"\r\n"


class SharedDescriptor:
    """An open file that several transfers read at once. It is closed when it is retired and nobody uses it.

    The descriptor outlives the file table's entry: a download in flight finishes on the file that it began with.
    """

    __slots__ = ("_close", "_retired", "fd", "users")

    def __init__(self, fd: int, close: Callable[[int], None]) -> None:
        self.fd = fd
        self.users = 0
        self._retired = False
        self._close = close

    def hold(self) -> None:
        """One more user."""
        assert not self._retired or self.users, "a closed descriptor cannot be used"
        self.users += 1

    def release(self) -> None:
        """One user fewer."""
        self.users -= 1
        self._close_if_done()

    def retire(self) -> None:
        """No new user will come."""
        if not self._retired:
            self._retired = True
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._retired and self.users == 0:
            self._close(self.fd)


class Outlet(Protocol):
    """Where a body goes: what a segment needs of a transport (`connection/transport.py`)."""

    async def send(self, data: bytes) -> None:
        """Send all of it."""

    async def send_file(self, file_fd: int, offset: int, length: int, *, last: bool) -> None:
        """Send a part of a file. last: nothing follows at once."""


class Streamed(Protocol):
    """A segment of a body that is not in memory. One class says all of a kind of them."""

    @property
    def length(self) -> int:
        """How many bytes it is."""

    def hold(self) -> None:
        """It is going to be sent: what it is made of has to stay."""

    def release(self) -> None:
        """It has been sent, or never will be."""

    async def send(self, outlet: Outlet, *, last: bool) -> None:
        """Send `length` bytes. last: nothing follows at once. Raises what the outlet does."""


class FileSlice(NamedTuple):
    """`length` bytes of a file from `offset`."""

    file: SharedDescriptor
    offset: int
    length: int

    def hold(self) -> None:
        """See `Streamed`."""
        self.file.hold()

    def release(self) -> None:
        """See `Streamed`."""
        self.file.release()

    async def send(self, outlet: Outlet, *, last: bool) -> None:
        """See `Streamed`."""
        await outlet.send_file(self.file.fd, self.offset, self.length, last=last)


Segment = bytes | Streamed


class Response(NamedTuple):
    """What to answer.

    fields: beyond Date, Server, Content-Length and Connection, which the rendering adds.
    body: in order; empty for HEAD and for statuses without one.
    content_length: what Content-Length says: for HEAD that of the body which GET would have had. None: no such field.
    """

    status: int
    fields: Fields
    body: tuple[Segment, ...] = ()
    content_length: int | None = 0

    @property
    def body_bytes(self) -> int:
        """How many bytes of body go out."""
        return sum(len(segment) if isinstance(segment, bytes) else segment.length for segment in self.body)

    @property
    def in_memory(self) -> bool:
        """Whether all of its body is."""
        return all(isinstance(segment, bytes) for segment in self.body)

    @property
    def coding(self) -> bytes | None:
        """The content coding of the body, if it has one."""
        return dict(self.fields).get(b"Content-Encoding")


_RENAMED = {414: "URI Too Long", 416: "Range Not Satisfiable"}
"""What RFC 9110 15.5 calls them; Python's table has older names before 3.13."""


def phrase_of(status: int) -> str:
    """The reason phrase."""
    return _RENAMED.get(status) or HTTPStatus(status).phrase


@cache
def status_line(status: int) -> bytes:
    """`HTTP/1.1 200 OK` with its line end."""
    return b"HTTP/1.1 %d %s\r\n" % (status, phrase_of(status).encode())


@cache
def first_lines(status: int, server: bytes) -> bytes:
    """The status line, and the Server field if it has a value: the same bytes for all responses with a status."""
    return status_line(status) + (b"Server: %s\r\n" % server if server else b"")


def date_line(seconds: float) -> bytes:
    """The Date field; the same for every response of a second."""
    return b"Date: %s\r\n" % format_date(seconds)


def head_parts(response: Response, server: bytes, connection: bytes | None) -> tuple[bytes, bytes]:
    """The head before and after its Date line.

    server: the value of the Server field, or nothing for none. connection: that of the Connection field, or None.
    """
    after = [b"%s: %s\r\n" % field for field in response.fields]
    if response.content_length is not None and response.status not in BODILESS:
        after.append(b"Content-Length: %d\r\n" % response.content_length)
    if connection is not None:
        after.append(b"Connection: %s\r\n" % connection)
    after.append(b"\r\n")
    return first_lines(response.status, server), b"".join(after)


_ERROR_PAGE = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>%(status)d %(phrase)s</title>
<style>body{font:1.1rem/1.5 system-ui,sans-serif;margin:20vh auto;max-width:30rem;padding:0 1rem;text-align:center}\
h1{font-weight:600}</style>
<h1>%(status)d %(phrase)s</h1>
<p>%(meaning)s</p>
</html>
"""

_MEANINGS = {
    400: b"The request could not be understood.",
    401: b"This address is for those who say who they are.",
    403: b"The server may not read this file.",
    404: b"There is nothing at this address.",
    405: b"This address can only be read.",
    406: b"What is there has no form that the request accepts.",
    408: b"The request took too long to arrive.",
    412: b"The file is not in the state that the request asked for.",
    414: b"The address is too long.",
    416: b"The file has no such range of bytes.",
    431: b"The request's header is too large.",
    500: b"The file could not be read.",
    501: b"The server does not know this method.",
    503: b"The server is busy. Try again in a moment.",
    505: b"The server speaks HTTP/1.1.",
}

NO_CACHE = (b"Cache-Control", b"no-cache")
"""A stored copy is asked about before it is used again: never stale, and the answer is most often a short 304."""


def error_response(status: int, *, head: bool = False, fields: Fields = ()) -> Response:
    """A small body for a status. It names no path: what was asked for is not repeated, what exists is not told."""
    phrase = phrase_of(status).encode()
    body = _ERROR_PAGE % {b"status": status, b"phrase": phrase, b"meaning": _MEANINGS.get(status, b"")}
    return Response(
        status,
        (*status_fields(status), *fields, (b"Content-Type", b"text/html; charset=utf-8"), NOSNIFF, NO_CACHE),
        () if head else (body,),
        len(body),
    )


def status_fields(status: int) -> Fields:
    """What a status has to say beside its body."""
    if status == 405:
        return ((b"Allow", ALLOWED),)
    return ((b"Retry-After", b"1"),) if status == 503 else ()


def replaced(fields: Fields, name: bytes, value: bytes) -> Fields:
    """`fields` with one of them set, in the place where it stood; an empty value takes it away."""
    lower = name.lower()
    put = ((name, value),) if value else ()
    for index, (known, _value) in enumerate(fields):
        if known.lower() == lower:
            return (*fields[:index], *put, *fields[index + 1 :])
    return (*fields, *put)


def varying(fields: Fields, *names: bytes) -> Fields:
    """`fields` with these names in Vary, beside those that are there (RFC 9110 12.5.5).

    names: each may be a list of them; they are the same in any case (5.1).
    """
    if not names:
        return fields
    listed: dict[bytes, bytes] = {}
    for name in b",".join((dict(fields).get(b"Vary", b""), *names)).split(b","):
        name = name.strip(b" \t")
        if name:
            listed.setdefault(name.lower(), name)
    return replaced(fields, b"Vary", b", ".join(listed.values()))
