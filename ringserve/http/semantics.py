"""What HTTP means, as pure functions: targets, validators, preconditions, ranges.

No sockets, no files, no clock: whatever depends on the time takes it as an argument. Section numbers without another
name are of RFC 9110.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from enum import Enum
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import quote_from_bytes

from ringserve.http.dates import parse_date

ALLOWED = b"GET, HEAD, OPTIONS"
KNOWN_METHODS = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH")
)  # section 9.3, and PATCH of RFC 5789

LIST_MEMBERS_MAX = 64
"""Members of a list that are read: each costs a microsecond or two, and a head has room for 15,000. Of preferences the
rest is ignored. A longer list of tags or of ranges counts as malformed, since a part of it says something else."""


# -- targets ----------------------------------------------------------------------------------------------------


class TargetError(ValueError):
    """A request target that names nothing we could look up: 400. The message says what is wrong with it."""


class Location(NamedTuple):
    """Where a target points.

    path: relative to the root, decoded, without empty, `.` or `..` segments; it ends with a slash, or is empty, where
        the target named a directory.
    hidden: the file is not to be served: a segment begins with a dot, or it is a configuration of ours.
    authority: the host and port of a target in absolute-form; they go before the Host field (RFC 9112 3.2.2).
    """

    path: bytes
    hidden: bool
    authority: bytes = b""

    @property
    def names_directory(self) -> bool:
        """Whether the target ended with a slash."""
        return not self.path or self.path.endswith(b"/")


CONFIGURATION = b"ringserve.toml"
"""It may lie in the directory that it serves, with what editors leave beside it, and holds hashes of passwords."""

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_HIDDEN = re.compile(rb"/(?:\.|#*+" + re.escape(CONFIGURATION) + rb")", re.IGNORECASE)
"""Emacs puts a `#` before a name, and there are file systems for which all cases are the same name."""
_WELL_KNOWN = b".well-known"
_ABSOLUTE_FORM = re.compile(rb"https?://(?P<authority>[^/?#]*)", re.IGNORECASE)
_AUTHORITY = re.compile(
    rb"(?:\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]++|%[0-9A-Fa-f]{2})++)(?::0*+(?P<port>\d{0,5}))?"
)
PORT_MAX = 65535


def is_authority(value: bytes) -> bool:
    """Whether this is a host, perhaps with a port: a Host field that is not empty, or the authority of an http URL (RFC
    3986 3.2.2, 3.2.3; 4.2.1, 7.2).

    A user is refused (4.2.4), and so is an empty host, since no http URL has one (4.2.1). Of what may stand in brackets
    only IPv6 addresses exist.
    """
    match = _AUTHORITY.fullmatch(value)
    if not match or int(match["port"] or 0) > PORT_MAX:
        return False
    if match["ipv6"] is not None:
        try:
            IPv6Address(match["ipv6"].decode())
        except ValueError:
            return False
    return True


PLAIN_SEGMENTS = rb"(?:/(?!(?i:%s))[0-9A-Za-z_~-][0-9A-Za-z._~-]*+)++" % re.escape(CONFIGURATION)
_PLAIN_PATH = re.compile(PLAIN_SEGMENTS + rb"/?")
"""A path that stands for itself: most of them. The general way takes six times as long."""
NO_FRAGMENT = "a target has no fragment"


def locate(target: bytes) -> Location:
    """Where a request target in origin-form or absolute-form points (RFC 9112 3.2), without its query. Raises
    TargetError.

    Percent-encoding is undone once. An encoded slash is refused, since whether it separates segments is anybody's
    guess; NUL ends a path for the kernel and not for us, so it is refused too. Dot segments are resolved before the
    lookup, and one that would leave the root is refused.
    """
    if _PLAIN_PATH.fullmatch(target):
        return Location(target[1:], hidden=False)
    return _locate(target)


def _locate(target: bytes) -> Location:
    path = target.partition(b"?")[0]
    absolute = _ABSOLUTE_FORM.match(path)
    authority = b""
    if absolute:
        authority = absolute["authority"]
        if not is_authority(authority):
            raise TargetError("a malformed authority")
        path = path[absolute.end() :] or b"/"
    if path[:1] != b"/":
        raise TargetError("the target is neither a path nor an http URL")
    if b"#" in target:
        raise TargetError(NO_FRAGMENT)
    if b"%" in path:
        if _BAD_ESCAPE.search(path):
            raise TargetError("a percent sign is not followed by two hexadecimal digits")
        if b"%2f" in path.lower():
            raise TargetError("an encoded slash in the path")
        # By the decoder for the escapes of Python's literals: a function that goes from one to the next takes 1 ms.
        path = path.replace(b"\\", rb"\\").replace(b"%", rb"\x").decode("unicode_escape").encode("latin-1")
    if b"\0" in path:
        raise TargetError("a NUL in the path")
    if b"//" in path or b"/." in path:
        segments = _resolve_dots(path.split(b"/"))
        trailing = segments and path.rpartition(b"/")[2] in (b"", b".", b"..")
        path = b"/" + b"/".join(segments) + (b"/" if trailing else b"")
    path = path[1:]
    return Location(path, is_hidden(path), authority)


def is_hidden(path: bytes) -> bool:
    """Whether what is at a path is not to be served, whatever is there. `.well-known/` at the root is for everybody
    (RFC 8615); dotfiles below it are not.
    """
    first, _slash, below = path.partition(b"/")
    return _HIDDEN.search(b"/" + (below if first == _WELL_KNOWN else path)) is not None


def _resolve_dots(parts: Iterable[bytes]) -> list[bytes]:
    """Segments without empty ones, `.` and `..` (RFC 3986 5.2.4, but for leaving the root, which is refused)."""
    segments: list[bytes] = []
    for part in parts:
        if part in (b"", b"."):
            continue
        if part == b"..":
            if not segments:
                raise TargetError("the path leaves the root")
            segments.pop()
        else:
            segments.append(part)
    return segments


def quote_path(path: bytes) -> bytes:
    """A path as it stands in a URL."""
    return quote_from_bytes(path, safe="/!$&'()*+,;=:@~-._").encode()


def quote_query(query: bytes) -> bytes:
    """A query as it came, without what a URL cannot have in it (RFC 3986 3.4): quotes and angle brackets, for example,
    which would stand in a Location field, and in what others make of it.
    """
    return quote_from_bytes(_BAD_ESCAPE.sub(b"%25", query), safe="%/?!$&'()*+,;=:@~-._").encode()


# -- validators and preconditions -------------------------------------------------------------------------------


NANOSECONDS = 1_000_000_000


class Validators(NamedTuple):
    """What identifies a version of a representation (8.8).

    entity_tag: as it stands in the field, quotes and weakness included.
    modified: seconds since the epoch, or None where no honest date is known.
    """

    entity_tag: bytes
    modified: int | None


class Conditions(NamedTuple):
    """The fields of a request that make it conditional or partial, as received; None for one that is absent."""

    if_match: bytes | None = None
    if_none_match: bytes | None = None
    if_modified_since: bytes | None = None
    if_unmodified_since: bytes | None = None
    range: bytes | None = None
    if_range: bytes | None = None


class Verdict(Enum):
    """What the preconditions say (13.2.2)."""

    PROCEED = 200
    NOT_MODIFIED = 304
    FAILED = 412


_ENTITY_TAG = re.compile(rb'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_LIST_SEPARATOR = re.compile(rb"[ \t]*+(?:,[ \t]*+)++")


def parse_entity_tags(value: bytes) -> list[tuple[bool, bytes]] | None:
    """(weak, opaque tag) for each of a list, in order; None for what is not a list of entity tags (8.8.3), or a longer
    one than is read.
    """
    tags: list[tuple[bool, bytes]] = []
    value = value.strip(b" \t")
    position = _skip_separator(value, 0)
    while position < len(value):
        match = _ENTITY_TAG.match(value, position)
        if not match or len(tags) == LIST_MEMBERS_MAX:
            return None
        tags.append((match[1] is not None, match[2]))
        position = match.end()
        after = _skip_separator(value, position)
        if after == position and position < len(value):
            return None
        position = after
    return tags or None


def _skip_separator(value: bytes, position: int) -> int:
    match = _LIST_SEPARATOR.match(value, position)
    return match.end() if match else position


def matches_any(value: bytes, entity_tag: bytes, *, strongly: bool) -> bool:
    """Whether a field of entity tags, or `*`, names the tag of an existing representation (8.8.3.2).

    strongly: neither may be weak (If-Match); otherwise weakness is disregarded (If-None-Match). A malformed list names
    nothing, and neither does one that is too long: so If-None-Match gets the file, and If-Match fails. To pass over an
    If-Match would answer what the client wants only of a version that it names.
    """
    if value.strip(b" \t") == b"*":
        return True
    ours = _ENTITY_TAG.fullmatch(entity_tag)
    assert ours, "an entity tag of ours is well-formed"
    weak, opaque = ours[1] is not None, ours[2]
    return any(
        theirs == opaque and not (strongly and (weak or theirs_weak))
        for theirs_weak, theirs in parse_entity_tags(value) or ()
    )


def evaluate(conditions: Conditions, validators: Validators, now: float) -> Verdict:
    """The preconditions of a GET or HEAD against an existing representation, in the order of 13.2.2."""
    if conditions.if_match is not None:
        if not matches_any(conditions.if_match, validators.entity_tag, strongly=True):
            return Verdict.FAILED
    elif conditions.if_unmodified_since is not None and validators.modified is not None:
        since = parse_date(conditions.if_unmodified_since, now)
        if since is not None and validators.modified > since:
            return Verdict.FAILED
    if conditions.if_none_match is not None:
        if matches_any(conditions.if_none_match, validators.entity_tag, strongly=False):
            return Verdict.NOT_MODIFIED
    elif conditions.if_modified_since is not None and validators.modified is not None:
        since = parse_date(conditions.if_modified_since, now)
        if since is not None and validators.modified <= since:
            return Verdict.NOT_MODIFIED
    return Verdict.PROCEED


def is_entity_tag(if_range: bytes) -> bool:
    """Whether an If-Range field holds a tag, and not a date (13.1.5)."""
    return if_range.startswith((b'"', b"W/"))


def range_applies(conditions: Conditions, validators: Validators, now: float) -> bool:
    """Whether the Range field is to be heeded: If-Range is absent, or names this version (13.1.5).

    A tag has to be strong on both sides. A date has to be the exact Last-Modified, and one that is a second old at
    least: within that second the file may have changed twice (8.8.2.2).
    """
    if conditions.if_range is None:
        return True
    value = conditions.if_range
    if is_entity_tag(value):
        return not value.startswith(b"W/") and value == validators.entity_tag
    date = parse_date(value, now)
    return date is not None and date == validators.modified and now - date >= 1


# -- ranges -----------------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """A range of bytes: `length` of them from `start`."""

    start: int
    length: int


_RANGE_UNIT = re.compile(rb"bytes[ \t]*=[ \t]*", re.IGNORECASE)
_RANGE_SPEC = re.compile(rb"(\d*)-(\d*)")


DIGITS_MAX = 100
"""No file has a position of more digits, and Python takes the square of their number to read them."""


def _count(digits: bytes) -> int:
    """A position, whatever zeros it begins with; one of absurd length is beyond every file all the same."""
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) <= DIGITS_MAX else 10**DIGITS_MAX


def parse_ranges(value: bytes, size: int) -> list[Span] | None:
    """The spans of a Range field that exist in a representation of `size` bytes, in the order asked for (14.1.2).

    None: not a range of bytes, malformed, or too many, so the field is to be ignored (14.2). An end beyond the
    representation is clamped, and a range that begins beyond it is left out. None left: the field is unsatisfiable.
    """
    unit = _RANGE_UNIT.match(value)
    if not unit or value.count(b",") >= LIST_MEMBERS_MAX:
        return None
    spans = []
    asked = 0
    for spec in value[unit.end() :].split(b","):
        spec = spec.strip(b" \t")
        if not spec:
            continue  # empty list elements are ignored (5.6.1.2)
        match = _RANGE_SPEC.fullmatch(spec)
        if not match or spec == b"-":
            return None
        asked += 1
        first, last = match[1], match[2]
        if not first:
            length = min(_count(last), size)
            start = size - length
        else:
            start, end = _count(first), _count(last) if last else size
            if last and end < start:
                return None
            length = min(end, size - 1) - start + 1
        if length > 0:
            spans.append(Span(start, length))
    return spans if asked else None


RANGES_MAX = 32
"""More ranges than this in one request are answered whole: no reader of a document asks so, and each costs a part."""
GAP_MAX = 128
"""Bytes between two ranges that are sent along rather than begun anew: about what a part's own head takes."""


def choose_spans(spans: list[Span], size: int) -> list[Span] | None:
    """What to send for several ranges, or None for the whole representation (RFC 9110 14.2, 15.3.7.2).

    Overlapping and nearly adjacent ones are made one, in the place of the one that was asked for first. Too many of
    them, or more bytes than the whole has, is what attacks look like and no saving.
    """
    if len(spans) > RANGES_MAX or sum(span.length for span in spans) > size:
        return None
    chosen: list[tuple[int, int, int]] = []  # place, start, end
    for place, span in sorted(enumerate(spans), key=lambda pair: pair[1]):
        end = span.start + span.length
        if chosen and span.start <= chosen[-1][2] + GAP_MAX:
            first_place, start, last_end = chosen[-1]
            chosen[-1] = (min(first_place, place), start, max(last_end, end))
        else:
            chosen.append((place, span.start, end))
    return [Span(start, end - start) for _place, start, end in sorted(chosen)]


# -- entity tags ------------------------------------------------------------------------------------------------

FINE_TICK_NS = 10_000_000
COARSE_TICK_NS = 2_000_000_000
"""The resolution of a file system's clock: a tick of the kernel (4 to 10 ms) where it keeps fractions of a second, and
two seconds where it does not (FAT), which shows by there being none."""
CONTENT_TAG_BYTES_MAX = 256 * 1024
"""A file up to this size gets its tag from its content: as much takes 0.2 ms to hash. A constant, since a tag must not
depend on what is kept in memory."""
CONTENT_HASH_DIGITS = 24
"""Of SHA-256: 12 bytes, so that two versions of a file never meet by chance."""


def content_hash(data: bytes) -> bytes:
    """What a tag says of a small file: `sha256sum FILE | cut -c -24` says the same."""
    return hashlib.sha256(data).hexdigest()[:CONTENT_HASH_DIGITS].encode()


def is_young(modified_ns: int, now_ns: int) -> bool:
    """Whether a file may change again and still bear the same time."""
    tick_ns = FINE_TICK_NS if modified_ns % NANOSECONDS else COARSE_TICK_NS
    return now_ns - modified_ns < tick_ns


def validators_of(
    modified_ns: int, changed_ns: int, size: int, now_ns: int, coding: bytes = b"", digest: bytes | None = None
) -> Validators:
    """The validators of a file (8.8); each content coding of it has a tag of its own (8.8.3.3).

    digest: the `content_hash` of a file of at most CONTENT_TAG_BYTES_MAX; None for one that kept changing while it was
    read. Its tag is of the content, strong, and the same on every replica. That of a larger file is of the modification
    time and the size. Archives and reproducible builds give all files one time, in whole seconds: there the time of the
    last change is added, which nobody can set. Never the inode, which file systems use again at once. Such a tag is
    weak while the later time that it is made of is young.

    Images that are built reproducibly set all times to 0 or 1, which is no date.
    """
    seconds, fraction = divmod(modified_ns, NANOSECONDS)
    opaque, weak = digest, b""
    if opaque is None:
        opaque = b"%x-%x" % (modified_ns, size) + (b"" if fraction else b"-%x" % changed_ns)
        if size <= CONTENT_TAG_BYTES_MAX or is_young(modified_ns if fraction else changed_ns, now_ns):
            weak = b"W/"
    tag = weak + b'"%s%s"' % (opaque, b"-" + coding if coding else b"")
    return Validators(tag, None if seconds in (0, 1) else seconds)


# -- precompressed siblings -------------------------------------------------------------------------------------

MILLISECOND_NS = 1_000_000
ROUNDING_NS = 1000
"""What a time loses in microseconds, or as a floating-point number of seconds (0.24 us in this century)."""


def is_as_new(sibling_ns: int, source_ns: int) -> bool:
    """Whether a sibling's modification time is its source's or a later one, as far as the coarser of the two tells.

    Tools copy times in whole seconds, in milliseconds, in microseconds, or through a floating-point number. A tolerance
    beyond that would take the old sibling of a file that was saved again a second later.
    """
    if sibling_ns + ROUNDING_NS >= source_ns:
        return True
    for precision_ns in (NANOSECONDS, MILLISECOND_NS):
        if not (sibling_ns % precision_ns and source_ns % precision_ns):
            return sibling_ns // precision_ns >= source_ns // precision_ns
    return False


def fault_of_sibling(sibling_ns: int, sibling_size: int, source_ns: int, source_size: int) -> str | None:
    """Why a precompressed sibling does not stand for its source, by the modification times and sizes of the two; None
    if it does.
    """
    if source_size and not sibling_size:
        return "is empty"
    return None if is_as_new(sibling_ns, source_ns) else "is older than its file"
