"""The responder for static files: what to answer, decided in pure code.

`plan` says what has to be looked up for a request, or answers at once; `answer` turns what was found into a response.
Neither sends anything or opens anything: the connection does that between the two.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from ringserve.files import Directory, Entry, Failure, File
from ringserve.request import Request
from ringserve.response import NOSNIFF, Fields, FileSlice, Response, Segment, error_response
from ringserve.semantics import (
    ALLOWED,
    KNOWN_METHODS,
    Location,
    Span,
    TargetError,
    Unsatisfiable,
    Verdict,
    choose_coding,
    choose_spans,
    evaluate,
    format_date,
    parse_ranges,
    quote_path,
    range_applies,
)

INDEX = b"index.html"
CACHE_CONTROL = (b"Cache-Control", b"no-cache")
"""A stored copy is asked about before it is used again: never stale, and the answer is most often a short 304."""
BOUNDARY = secrets.token_hex(16).encode()
"""Between the parts of a multipart body. Chosen anew by each process, so that nobody can put it into a file."""
REDIRECT = 308
"""Permanent, and the method stays (RFC 9110 15.4.9)."""


class Lookup(NamedTuple):
    """What has to be found before the request can be answered."""

    path: bytes


def plan(request: Request) -> Lookup | Response:
    """What to look up for a request, or the answer that needs no look."""
    line = request.line
    if line.method not in KNOWN_METHODS:
        return error_response(501)
    if line.method == b"OPTIONS":
        return _options(line.location, line.target)
    if line.method not in (b"GET", b"HEAD"):
        return error_response(405)
    location = line.location
    if isinstance(location, TargetError):
        return error_response(400, head=request.is_head)
    if location.hidden:
        return error_response(404, head=request.is_head)
    return Lookup(location.path + INDEX if location.names_directory else location.path)


def _options(location: Location | TargetError, target: bytes) -> Response:
    """What can be done with a resource: the same for each of ours, and for the server as a whole (`*`)."""
    if target != b"*" and isinstance(location, TargetError):
        return error_response(400)
    return Response(204, ((b"Allow", ALLOWED),), content_length=None)


def answer(request: Request, found: Entry, now: float) -> Response:
    """The response to a GET or HEAD for what was found. now: seconds since the epoch."""
    if isinstance(found, File):
        return _answer_file(request, found, now)
    if isinstance(found, Directory):
        location = request.line.location
        assert isinstance(location, Location), "only a good target is looked up"
        if location.names_directory:
            return error_response(404, head=request.is_head)  # its index is a directory, so it has none
        return _redirect(quote_path(location.path + b"/") + location.query)
    assert isinstance(found, Failure), "there is no fourth kind of entry"
    return error_response(found.status, head=request.is_head)


def _redirect(reference: bytes) -> Response:
    """To a reference on this host. It begins with one slash (`quote_path`), never with two, which would name a host."""
    return Response(REDIRECT, ((b"Location", reference), NOSNIFF, CACHE_CONTROL))


def _answer_file(request: Request, source: File, now: float) -> Response:
    """The answer to a GET or HEAD of a file that is there: which representation of it, whole or in part."""
    selection = request.block.selection
    varies: Fields = ((b"Vary", b"Accept-Encoding"),) if source.siblings else ()
    coding = choose_coding(selection.accept_encoding, source.siblings)
    if coding is None:
        return error_response(406, head=request.is_head, fields=varies)
    file = source.siblings.get(coding, source)
    conditions = selection.conditions
    verdict = evaluate(conditions, file.validators, now)
    if verdict is Verdict.FAILED:
        return error_response(412, head=request.is_head, fields=varies)
    validators = _validator_fields(file, now)
    if verdict is Verdict.NOT_MODIFIED:
        # The fields that a cache needs to update what it stored (RFC 9110 15.4.5), and no others.
        return Response(304, (*validators, CACHE_CONTROL, *varies), content_length=None)
    encoded: Fields = ((b"Content-Encoding", file.coding),) if file.coding else ()
    fields: Fields = (
        (b"Content-Type", source.content_type), *encoded, NOSNIFF, *validators, (b"Accept-Ranges", b"bytes"),
        CACHE_CONTROL, *varies,
    )  # fmt: skip
    if conditions.range is not None and not request.is_head and range_applies(conditions, file.validators, now):
        ranges = parse_ranges(conditions.range, file.size)
        if ranges is Unsatisfiable.UNSATISFIABLE:
            return error_response(416, fields=((b"Content-Range", b"bytes */%d" % file.size), *varies))
        spans = None if ranges is None else choose_spans(ranges, file.size)
        if spans is not None:
            return _partial(file, fields, spans)
    whole = Span(0, file.size)
    body = () if request.is_head or not file.size else (_segment(file, whole),)
    return Response(200, fields, body, file.size)


def _content_range(span: Span, size: int) -> bytes:
    return b"bytes %d-%d/%d" % (span.start, span.start + span.length - 1, size)


def _partial(file: File, fields: Fields, spans: list[Span]) -> Response:
    """206 with one part, or with several as multipart/byteranges (RFC 9110 14.6, 15.3.7)."""
    if len(spans) == 1:
        (span,) = spans
        with_range = (*fields, (b"Content-Range", _content_range(span, file.size)))
        return Response(206, with_range, (_segment(file, span),), span.length)
    content_type = dict(fields)[b"Content-Type"]
    body: list[Segment] = []
    length = 0
    for number, span in enumerate(spans):
        head = b"%s--%s\r\nContent-Type: %s\r\nContent-Range: %s\r\n\r\n" % (
            b"\r\n" if number else b"",
            BOUNDARY,
            content_type,
            _content_range(span, file.size),
        )
        body += (head, _segment(file, span))
        length += len(head) + span.length
    end = b"\r\n--%s--\r\n" % BOUNDARY
    multipart = (b"Content-Type", b"multipart/byteranges; boundary=" + BOUNDARY)
    with_parts = (multipart, *(field for field in fields if field[0] != b"Content-Type"))
    return Response(206, with_parts, (*body, end), length + len(end))


def _validator_fields(file: File, now: float) -> Fields:
    fields: Fields = ((b"ETag", file.validators.entity_tag),)
    if file.validators.modified is not None:
        # Never in the future, whatever the file's clock says (RFC 9110 8.8.2.1).
        fields = (*fields, (b"Last-Modified", format_date(min(file.validators.modified, now))))
    return fields


def _segment(file: File, span: Span) -> Segment:
    if file.body is not None:
        whole = span.length == len(file.body)
        return file.body if whole else file.body[span.start : span.start + span.length]
    assert file.descriptor is not None, "a file that is not in memory has its descriptor"
    return FileSlice(file.descriptor, span.start, span.length)
