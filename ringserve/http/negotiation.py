"""What a client would like best, as pure functions: media types and content codings by its preferences.

Section numbers are of RFC 9110.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice

from ringserve.http.semantics import LIST_MEMBERS_MAX

# -- media types ------------------------------------------------------------------------------------------------

_MEMBER = re.compile(rb'((?:[^",]++|"(?:[^"\\]++|\\.?)*+"?)*+)(?:,|\Z)', re.DOTALL)
"""A member of a list, up to the comma that ends it, which is in no quoted string. A quoted string that does not end
goes on to the end of the field. No character is tried twice, for a field may have 15,000 escaped quotes."""
_SEPARATOR = rb"[ \t]*+;[; \t]*+"
"""Between parameters; there may be nothing between two semicolons (5.6.6)."""
_MEDIA_RANGE = re.compile(
    rb"([^; \t]++)(" + _SEPARATOR + rb"charset=utf-8)?"
    rb"(?:" + _SEPARATOR + rb"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?(?:" + _SEPARATOR + rb")?"
)  # fmt: skip
"""A range with parameters beside the weight is for a variant that we do not have, except `charset=utf-8`: all of ours
are in it."""
_IN_UTF_8 = b";charset=utf-8"
ANYTHING = b"*/*"


def parse_accept(value: bytes | None) -> dict[bytes, float]:
    """The qualities of media ranges in an Accept field, in its order, in lower case (12.5.1); what is not understood is
    left out. Without the field everything is accepted.
    """
    qualities: dict[bytes, float] = {}
    for member in islice(_MEMBER.finditer((value if value is not None else ANYTHING).lower()), LIST_MEMBERS_MAX):
        match = _MEDIA_RANGE.fullmatch(member[1].strip(b" \t"))
        if match:
            qualities.setdefault(match[1] + (_IN_UTF_8 if match[2] else b""), float(match[3] or 1))
    return qualities


def choose_media_type(value: bytes | None, available: Sequence[bytes]) -> bytes | None:
    """The media type to answer with; None if the client accepts none of them (12.5.1).

    The most specific range that matches a type decides its quality; equal qualities are decided by our own order,
    which is that of `available`.
    """
    qualities = parse_accept(value)
    best, best_quality = None, 0.0
    for media_type in available:
        kind = media_type.partition(b"/")[0] + b"/*"
        ranges = (media_type + _IN_UTF_8, media_type, kind, ANYTHING)
        quality = next((qualities[name] for name in ranges if name in qualities), 0.0)
        if quality > best_quality:
            best, best_quality = media_type, quality
    return best


def prefers(value: bytes | None, media_type: bytes) -> bool:
    """Whether a media type is what the client would like best, or as good as any (12.5.1): the range of the highest
    quality, of equals the more specific, and then the first, is that type or `*/*`.
    """
    qualities = parse_accept(value)
    best = max(qualities, key=lambda name: (qualities[name], -name.count(b"*")), default=b"")
    return best in (media_type, media_type + _IN_UTF_8, ANYTHING) and bool(
        qualities[best] and qualities.get(media_type, 1)
    )


# -- content codings --------------------------------------------------------------------------------------------

CODINGS: dict[bytes, bytes] = {b"br": b".br", b"zstd": b".zst", b"gzip": b".gz"}
"""Codings that a sibling file can have, and its ending; in our order of preference, which breaks ties."""
IDENTITY = b"identity"

_QUALITY = re.compile(rb"[ \t]*;[ \t]*[qQ]=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)[ \t]*")
_UNLISTED_IDENTITY = 0.0001
"""Below every quality that can be written (three digits), and above none: acceptable, if nothing else is (12.5.3)."""


def parse_accept_encoding(value: bytes) -> dict[bytes, float]:
    """The qualities of codings in an Accept-Encoding field, by lower-case name; malformed elements are left out."""
    qualities: dict[bytes, float] = {}
    for element in value.split(b",", LIST_MEMBERS_MAX)[:LIST_MEMBERS_MAX]:
        name, semicolon, parameters = element.partition(b";")
        quality = _QUALITY.fullmatch(semicolon + parameters) if semicolon else None
        if semicolon and not quality:
            continue
        name = name.strip(b" \t").lower()
        name = b"gzip" if name == b"x-gzip" else name  # RFC 9110 8.4.1.3
        if name:
            qualities.setdefault(name, float(quality[1]) if quality else 1.0)
    return qualities


def rank_codings(value: bytes | None, available: Iterable[bytes]) -> list[bytes]:
    """The codings that the client accepts, of those `available` and identity, the one to answer with first (12.5.3).

    The client's qualities decide, and our own order where they are equal, never the order in the field. Without the
    field the client has said nothing, and gets what everybody can read.
    """
    if value is None:
        return [IDENTITY]
    qualities = parse_accept_encoding(value)
    others = qualities.get(b"*")
    ranked = []
    for coding in (*(coding for coding in CODINGS if coding in available), IDENTITY):
        unlisted = others if others is not None else (_UNLISTED_IDENTITY if coding == IDENTITY else 0.0)
        quality = qualities.get(coding, unlisted)
        if quality > 0:
            ranked.append((-quality, coding))
    return [coding for _quality, coding in sorted(ranked, key=lambda pair: pair[0])]
