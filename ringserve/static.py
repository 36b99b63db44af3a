"""The responder for static files: what to answer, decided in pure code.

It is a generator: it asks for what has to be found out (`Lookup`: what a path stands for; `Claim`: whether a
password is right) and is sent what was found, until it returns the response. It sends nothing and opens nothing
itself, so that every decision about a request stands here, from top to bottom, and a test can play the file system.

The order is: method, target, redirect, rewrite, who may read it, the file or the index of a directory, its clean URL,
the listing, the application's page, and an error with the site's own page for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Generator
from urllib.parse import unquote_to_bytes

from ringserve.files.entries import Directory, Entry, Failure, File, Key
from ringserve.http.dates import format_date
from ringserve.http.heads import Request
from ringserve.http.media_types import known_type
from ringserve.http.negotiation import IDENTITY, choose_media_type, prefers, rank_codings
from ringserve.http.response import (
    NO_CACHE,
    NOSNIFF,
    Fields,
    FileSlice,
    Response,
    Segment,
    error_response,
    replaced,
    status_fields,
    varying,
)
from ringserve.http.semantics import (
    ALLOWED,
    KNOWN_METHODS,
    Location,
    Span,
    TargetError,
    Validators,
    Verdict,
    choose_spans,
    evaluate,
    is_entity_tag,
    parse_ranges,
    quote_path,
    quote_query,
    range_applies,
)
from ringserve.responders import listing
from ringserve.responders.policy import ProtectedArea, Site
from ringserve.responders.steps import Claim, Lookup, Question, Respond, Steps, Verified

INDEX = b"index.html"
BOUNDARY_BYTES = 16
REDIRECT = 308
"""Permanent, and the method stays (RFC 9110 15.4.9)."""
PAGES = {401: b"401.html", 403: b"403.html", 404: b"404.html", 500: b"50x.html", 503: b"50x.html"}
"""The pages that a site can have for errors, at its root."""


def responder(chosen: bytes) -> Respond:
    """The responder for static files.

    chosen: BOUNDARY_BYTES at random, which go between the parts of a multipart body. They are others in each process,
    so that nobody can put them into a file.
    """
    boundary = chosen.hex().encode()
    return lambda request, site, now: _Answering(request, site, now, boundary).steps()


class _Answering:
    """One request on its way to a response."""

    __slots__ = (
        "admitted", "asked_path", "boundary", "file_path", "head", "location", "now", "request", "selection", "site",
    )  # fmt: skip

    def __init__(self, request: Request, site: Site, now: float, boundary: bytes) -> None:
        self.request = request
        self.site = site
        self.now = now
        self.boundary = boundary
        self.selection = request.selection
        self.head = request.is_head
        self.admitted: list[ProtectedArea] = []
        location = self.location = request.line.location
        self.asked_path = None if isinstance(location, TargetError) else location.path
        self.file_path: bytes | None = None

    def steps(self) -> Steps:
        """See `responder`."""
        response = yield from self._main()
        asked = () if self.asked_path is None else (self.asked_path,)
        found = () if self.file_path is None else (self.file_path,)
        return self.site.dress(response, asked + found, self.selection.origin)

    def _main(self) -> Steps:
        line = self.request.line
        if line.method not in KNOWN_METHODS:
            return self._error(501)
        if line.method == b"OPTIONS":
            return self._options(self.location, line.asked)
        if line.method not in (b"GET", b"HEAD"):
            return self._error(405)
        location, site = self.location, self.site
        if isinstance(location, TargetError):
            return self._error(400)
        moved = site.redirect(location, line) if site.moves else None
        if moved is not None:
            return _moved(moved.reference, moved.status)
        if location.hidden:
            return (yield from self._refuse(404))
        try:
            rewritten = site.rewrite(location) if site.moves else None
        except TargetError:
            return (yield from self._refuse(404))
        target = rewritten or location
        refusal = (yield from self._admit(location.path)) if site.protects else None
        if refusal is not None:
            return refusal
        if target.hidden:
            return (yield from self._refuse(404))
        return (yield from self._find(target))

    def _options(self, location: Location | TargetError, target: bytes) -> Response:
        """What can be done with a resource: the same for each of ours, and for the server as a whole (`*`)."""
        if target != b"*" and isinstance(location, TargetError):
            return self._error(400)
        preflight = self.request.block.preflight
        asked: Fields = ()
        if preflight is not None:
            asked = self.site.preflight(self.selection.origin, preflight)
        return Response(204, ((b"Allow", ALLOWED), *asked), content_length=None)

    # -- who may ----------------------------------------------------------------------------------------------------

    def _admit(self, path: bytes) -> Generator[Question, object, Response | None]:
        """The refusal, if the path is protected and the request does not say who asks."""
        guard = self.site.guard(path)
        if guard is None or guard in self.admitted:
            return None
        credentials = read_credentials(self.selection.authorization)
        if credentials is not None:
            verified = yield Claim(guard, *credentials)
            assert isinstance(verified, Verified), "a claim is answered with whether it is right"
            if verified.busy:
                return (yield from self._refuse(503))
            if verified.right:
                self.admitted.append(guard)
                return None
        return (yield from self._refuse(401, ((b"WWW-Authenticate", guard.challenge),)))

    def _may_have(self, path: bytes) -> bool:
        """Whether a path is for everybody, or for who has said by now who asks."""
        guard = self.site.guard(path)
        return guard is None or guard in self.admitted

    # -- what is there ----------------------------------------------------------------------------------------------

    def _siblings(self, source: File) -> dict[bytes, File]:
        """The precompressed siblings of a file, but for those that are protected by a name of their own."""
        return {coding: file for coding, file in source.siblings.items() if self._may_have(file.path)}

    def _look(self, path: bytes, *, alike: bool = False) -> Generator[Question, object, Entry | Response]:
        """What a path stands for; a response if it is protected. Every way to a file passes here, but for that to the
        site's pages for errors (`_refuse`). alike: see `Lookup`.
        """
        refusal = (yield from self._admit(path)) if self.site.protects else None
        if refusal is not None:
            return refusal
        alike = alike and not self.admitted
        found = yield Lookup(Key(self.site.root, path), alike, alike and self.site.is_even)
        assert isinstance(found, Entry), "a lookup is answered with what was found"
        return found

    def _find(self, location: Location) -> Steps:
        """The response to a good target."""
        path, site = location.path, self.site
        if location.names_directory:
            found = yield from self._look(path + INDEX)
        else:
            varies = site.spa or site.clean_urls or path is not self.asked_path or site.has_fields_for(path)
            found = yield from self._look(path, alike=not varies)
        answer = yield from self._answer_with(found)
        if answer is None and self.site.clean_urls and not location.names_directory:
            answer = yield from self._answer_with((yield from self._look(path + b".html")))
        if answer is not None:
            return answer
        if isinstance(found, Directory) and not location.names_directory:
            return self._to_slash(location)
        if self.site.clean_urls and location.names_directory:
            answer = yield from self._without_slash(location)
            if answer is not None:
                return answer
        if location.names_directory and self.site.listing:
            directory = yield from self._look(path)
            if isinstance(directory, Directory):
                return self._list(location, directory)
            assert not isinstance(directory, File), "what ends with a slash is no file"
            answer = yield from self._answer_with(directory)
            if answer is not None:
                return answer
        if self.site.spa and known_type(path) is None:
            return (yield from self._application())
        return (yield from self._refuse(404))

    def _answer_with(self, found: Entry | Response) -> Generator[Question, object, Response | None]:
        """The response, if what was found decides it; None if there is no file, and something else may be tried. Of a
        failure that does not say whether there is one (no descriptor left) nothing is concluded: it is told.
        """
        if isinstance(found, Response):
            return found
        if isinstance(found, File):
            return self._file(found)
        if isinstance(found, Failure) and found.status != 404:
            return (yield from self._refuse(found.status))
        return None

    def _application(self) -> Steps:
        """The page of an application that routes in the browser, for what would otherwise not be found: if a browser
        goes there, or a client that does not say what it fetches would like a page best. A script that calls an API,
        or wants an image, must learn that there is none.
        """
        mode = self.selection.fetch_mode
        if mode is None and prefers(self.selection.accept, listing.HTML):
            mode = b"navigate"
        answer = (yield from self._answer_with((yield from self._look(INDEX)))) if mode == b"navigate" else None
        if answer is None:
            answer = yield from self._refuse(404)
        return _varied(answer, b"Accept", b"Sec-Fetch-Mode", b"Sec-Fetch-Dest", b"Sec-Fetch-Site")

    def _without_slash(self, location: Location) -> Generator[Question, object, Response | None]:
        """A redirect to a page by its clean URL, if the target has only a slash too many, and no directory is there.
        The reference is relative, so the target has to end with the page's name and that slash, as it came.
        """
        path = location.path[:-1]
        name = path.rpartition(b"/")[2]
        if not name or [unquote_to_bytes(one) for one in self.request.line.asked.rsplit(b"/", 2)[1:]] != [name, b""]:
            return None
        page = yield from self._look(path + b".html")
        if not isinstance(page, File):
            return (yield from self._answer_with(page))
        beside = yield from self._look(path)
        if isinstance(beside, Failure) and beside.status == 404:
            return _moved(b"../" + quote_path(name) + quote_query(self.request.line.query))
        return None if isinstance(beside, File) else (yield from self._answer_with(beside))

    def _to_slash(self, location: Location) -> Response:
        """To the directory's own address, relative to the target, so that it holds below a proxy's prefix. It begins
        with a dot segment, so that no name is taken for a host (`//d`) or for a scheme (RFC 3986 4.2).
        """
        path, above = location.path.rpartition(b"/")[2], 0
        if location.path != self.asked_path:  # a rewrite's; it counts from the root, to which the slashes lead
            target = self.request.line.asked
            path, above = location.path, target.count(b"/") - (1 if target.startswith(b"/") else 3)
        return _moved((b"../" * above or b"./") + quote_path(path) + b"/" + quote_query(self.request.line.query))

    # -- errors -----------------------------------------------------------------------------------------------------

    def _error(self, status: int, fields: Fields = (), varies: tuple[bytes, ...] = ()) -> Response:
        """A small body of ours."""
        return _varied(error_response(status, head=self.head, fields=fields), *varies)

    def _refuse(self, status: int, fields: Fields = ()) -> Steps:
        """An error with the page that the site has for it, if it has one. A protected error page is shown only to
        clients that may read it. The 401 page is the exception: it is for clients that may not.
        """
        name = PAGES.get(status)
        if name is not None and (status == 401 or self._may_have(name)):
            page = yield Lookup(Key(self.site.root, name))
            if isinstance(page, File):
                return self._page(status, page, fields)
        return self._error(status, fields)

    def _page(self, status: int, source: File, fields: Fields) -> Response:
        """A file as the body of an error: not a representation of what was asked for, so without validators."""
        siblings = self._siblings(source)
        ranked = rank_codings(self.selection.accept_encoding, siblings)
        file = siblings.get(ranked[0], source) if ranked else source
        encoded: Fields = ((b"Content-Encoding", file.coding),) if file.coding else ()
        with_body = (
            *status_fields(status),
            *fields,
            (b"Content-Type", source.content_type),
            *encoded,
            NOSNIFF,
            NO_CACHE,
        )
        if siblings:
            with_body = varying(with_body, b"Accept-Encoding")
        body = () if self.head or not file.size else (_segment(file, Span(0, file.size)),)
        return Response(status, with_body, body, file.size)

    # -- answers ----------------------------------------------------------------------------------------------------

    def _file(self, source: File) -> Response:
        """The answer to a GET or HEAD of a file that is there: which representation of it, whole or in part."""
        self.file_path = source.path
        siblings = self._siblings(source)
        varies = (b"Accept-Encoding",) if siblings else ()
        ranked = rank_codings(self.selection.accept_encoding, siblings)
        file, ranges = self._part(source, siblings, ranked)
        if file is None:
            return self._error(406, (), varies)
        verdict = evaluate(self.selection.conditions, file.validators, self.now)
        if verdict is Verdict.FAILED:
            return self._error(412, (), varies)
        validators = _validator_fields(file.validators, self.now)
        control = self.site.cache_control(self.file_path, bool(self.admitted))
        if verdict is Verdict.NOT_MODIFIED:
            # The fields that a cache needs to update what it stored (RFC 9110 15.4.5), and no others.
            return Response(304, varying((*validators, control), *varies), content_length=None)
        encoded: Fields = ((b"Content-Encoding", file.coding),) if file.coding else ()
        fields: Fields = (
            (b"Content-Type", source.content_type), *encoded, NOSNIFF, *validators, (b"Accept-Ranges", b"bytes"),
            control,
        )  # fmt: skip
        fields = varying(fields, *varies)
        if ranges is not None:
            if not ranges:
                return self._error(416, ((b"Content-Range", b"bytes */%d" % file.size),), varies)
            return _partial(file, fields, ranges, self.boundary)
        body = () if self.head or not file.size else (_segment(file, Span(0, file.size)),)
        return Response(200, fields, body, file.size)

    def _part(
        self, source: File, siblings: dict[bytes, File], ranked: list[bytes]
    ) -> tuple[File | None, list[Span] | None]:
        """The representation to answer with, if the client accepts one, and what of it: None for the whole,
        no spans for ranges that name no byte.

        A part is one of the file itself, since nobody can decode a part of a coded file. There are three exceptions.
        If-Range is the tag of a coding: the client has a part of that, and gets another of it. If-Range is a date,
        which does not say of what, and the whole would be coded: the whole is answered. The client does not accept the
        file itself: it gets a part of the coding, unless If-Range is the tag of the file itself.
        """
        conditions, now = self.selection.conditions, self.now
        whole = siblings.get(ranked[0], source) if ranked else None
        if conditions.range is None or self.head:
            return whole, None
        candidates: list[File | None] = [source if IDENTITY in ranked else whole]
        if conditions.if_range is not None:
            by_tag = is_entity_tag(conditions.if_range)
            candidates = [source, *siblings.values()] if by_tag else [source] if whole is source else []
        for file in candidates:
            if file is not None and range_applies(conditions, file.validators, now):
                ranges = parse_ranges(conditions.range, file.size)
                spans = None if ranges is None else choose_spans(ranges, file.size)
                if spans is not None:
                    return file, spans
        return whole, None

    def _list(self, location: Location, directory: Directory) -> Response:
        """What is in a directory, but for what is somebody else's to read."""
        media_type = choose_media_type(self.selection.accept, listing.MEDIA_TYPES)
        if media_type is None:
            return self._error(406, (), (b"Accept",))
        path = location.path
        view = listing.parse_view(self.request.line.query)
        items = [
            item
            for item in listing.arranged(directory, view.sort, view.descending)
            if self._may_have(path + item.name + (b"/" if item.is_directory else b""))
        ]
        body = listing.render(path, items, view, media_type, directory.truncated)
        entity_tag = b'"%s"' % hashlib.blake2b(body, digest_size=12).hexdigest().encode()
        validators = Validators(entity_tag, None)
        kept: Fields = ((b"ETag", entity_tag), NO_CACHE, (b"Vary", b"Accept"))
        verdict = evaluate(self.selection.conditions, validators, self.now)
        if verdict is Verdict.FAILED:
            return self._error(412, (), (b"Accept",))
        if verdict is Verdict.NOT_MODIFIED:
            return Response(304, kept, content_length=None)
        content_type = media_type if media_type == listing.JSON else media_type + b"; charset=utf-8"
        link = listing.link_value(len(items), view, media_type)
        pages: Fields = () if link is None else ((b"Link", link),)
        fields = ((b"Content-Type", content_type), NOSNIFF, *kept, *pages)
        return Response(200, fields, () if self.head else (body,), len(body))


def read_credentials(authorization: bytes | None) -> tuple[bytes, bytes] | None:
    """User and password of an Authorization field (RFC 7617 2); None if there are none in it."""
    if authorization is None:
        return None
    scheme, _space, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    encoded = encoded.strip(b" ")
    if len(encoded) % 4:
        return None  # some versions of Python pass over a padding too much
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
    except binascii.Error:
        return None
    return (user, password) if colon else None


def _moved(reference: bytes, status: int = REDIRECT) -> Response:
    return Response(status, ((b"Location", reference), NOSNIFF, NO_CACHE))


def _varied(response: Response, *names: bytes) -> Response:
    return response._replace(fields=varying(response.fields, *names))


def _content_range(span: Span, size: int) -> bytes:
    return b"bytes %d-%d/%d" % (span.start, span.start + span.length - 1, size)


def _partial(file: File, fields: Fields, spans: list[Span], boundary: bytes) -> Response:
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
            boundary,
            content_type,
            _content_range(span, file.size),
        )
        body += (head, _segment(file, span))
        length += len(head) + span.length
    end = b"\r\n--%s--\r\n" % boundary
    with_parts = replaced(fields, b"Content-Type", b"multipart/byteranges; boundary=" + boundary)
    return Response(206, with_parts, (*body, end), length + len(end))


def _validator_fields(validators: Validators, now: float) -> Fields:
    fields: Fields = ((b"ETag", validators.entity_tag),)
    if validators.modified is not None:
        # Never in the future, whatever the file's clock says (RFC 9110 8.8.2.1).
        fields = (*fields, (b"Last-Modified", format_date(min(validators.modified, now))))
    return fields


def _segment(file: File, span: Span) -> Segment:
    if file.body is not None:
        whole = span.length == len(file.body)
        return file.body if whole else file.body[span.start : span.start + span.length]
    assert file.descriptor is not None, "a file that is not in memory has its descriptor"
    return FileSlice(file.descriptor, span.start, span.length)
