"""Listings of directories: their order, their pages, and how they look as HTML, JSON and text. Pure.

A listing shows what the file system holds, and names in a file system are any bytes but NUL and the slash. So there are
two forms of a name and nothing between them: the *reference*, whose percent-encoded bytes lead to exactly that file,
and the *visible* name, which is only for reading. It shows escaped what is no UTF-8, control characters, and what would
turn the direction of the text around. Neither is ever made from the other.

The HTML carries a Content-Security-Policy of its own in which no script runs and nothing is loaded: should a name ever
get past the escaping, it finds nothing to work with.
"""

from __future__ import annotations

import functools
import json
import posixpath
import unicodedata
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote_from_bytes

from ringserve.files.directory import Item, name_order
from ringserve.files.entries import Directory
from ringserve.http.dates import iso_date

if TYPE_CHECKING:
    import jinja2

HTML = b"text/html"
JSON = b"application/json"
TEXT = b"text/plain"
MEDIA_TYPES = (HTML, JSON, TEXT)
"""What a listing can be rendered as, in our order of preference. All three are in UTF-8."""
PAGE_ITEMS = 200
"""On a page of HTML: about what a reader scrolls through, and some 80 kB of markup, rendered in about 4 ms."""
DATA_PAGE_ITEMS = 1000
"""On a page of JSON or text: programs do not scroll, and each page more is a request more for them."""
PAGE_DIGITS_MAX = 9
"""A longer number is beyond the last page of every directory; it is not even read."""


# -- what is asked for ------------------------------------------------------------------------------------------


class View(NamedTuple):
    """How a directory is to be shown.

    sort: "name", "size" or "modified". page: from 1; one beyond the last shows the last.
    """

    sort: str = "name"
    descending: bool = False
    page: int = 1


_SORTS = {b"name": "name", b"size": "size", b"modified": "modified"}


def parse_view(query: bytes) -> View:
    """The view that a query asks for: `?sort=size&order=desc&page=2`. What cannot be read is the default.

    query: as in a target, with its question mark, or empty. Of a repeated name the first counts.
    """
    asked: dict[bytes, bytes] = {}
    for pair in query[1:].split(b"&"):
        name, _equals, value = pair.partition(b"=")
        asked.setdefault(name, value)
    digits = asked.get(b"page", b"")
    page = 1
    if digits.isdigit():
        page = max(int(digits), 1) if len(digits) <= PAGE_DIGITS_MAX else 10**PAGE_DIGITS_MAX
    return View(_SORTS.get(asked.get(b"sort", b""), "name"), asked.get(b"order") == b"desc", page)


def _reference_of(view: View) -> str:
    """A reference from a listing to another view of the same directory. Defaults are left out, so that the first page
    by name has one address.
    """
    parameters = []
    if view.sort != "name":
        parameters.append(f"sort={view.sort}")
    if view.descending:
        parameters.append("order=desc")
    if view.page > 1:
        parameters.append(f"page={view.page}")
    return "?" + "&".join(parameters) if parameters else "./"


# -- order and pages --------------------------------------------------------------------------------------------


def arrange(items: Sequence[Item], view: View) -> list[Item]:
    """Directories first, then in the order of the view; equals by name, ascending whichever way the view goes."""
    arranged = sorted(items, key=lambda item: name_order(item.name), reverse=view.descending and view.sort == "name")
    if view.sort != "name":
        arranged.sort(key=attrgetter(view.sort), reverse=view.descending)  # stable, reversed as well
    arranged.sort(key=lambda item: not item.is_directory)
    return arranged


def arranged(directory: Directory, sort: str, descending: bool) -> Sequence[Item]:
    """What is in a directory, in the order of a view. Thousands of names take 20 ms to sort, so each order is kept."""
    known = directory.orders.get((sort, descending))
    if known is None:
        known = directory.orders[sort, descending] = arrange(directory.items, View(sort, descending))
    return known


class _Page(NamedTuple):
    """A part of the arranged items. number, pages: from 1; first: the index of its first item among all of them."""

    items: Sequence[Item]
    number: int
    pages: int
    first: int


def _place(total: int, view: View, media_type: bytes) -> tuple[int, int, int]:
    """The page that is shown, how many there are, and how many items one has. An empty directory has one page."""
    size = PAGE_ITEMS if media_type == HTML else DATA_PAGE_ITEMS
    pages = max(1, -(-total // size))
    return min(view.page, pages), pages, size


def link_value(total: int, view: View, media_type: bytes) -> bytes | None:
    """A Link field (RFC 8288) to the pages around this one, or None if there are none: the only way for the text to
    say that it goes on.

    total: how many items there are.
    """
    number, pages, _size = _place(total, view, media_type)
    links = [
        f'<{_reference_of(view._replace(page=page))}>; rel="{relation}"'
        for page, relation in ((number - 1, "prev"), (number + 1, "next"))
        if 1 <= page <= pages
    ]
    return ", ".join(links).encode() or None


# -- names and sizes -------------------------------------------------------------------------------------

_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp", "Zs"))
"""Categories of characters that are not seen, or turn around or end the line that they are in."""
_SHOWN_ALL_THE_SAME = frozenset(" \u200c\u200d\u3000")
"""The space; the joiners, without which Persian is misspelt and emoji fall apart; the space of Chinese and Japanese."""


def visible(name: bytes) -> str:
    """A name for reading, on one line: bytes that are no UTF-8 and characters that nobody would see are escaped."""
    text = name.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return text
    return "".join(map(_escape_unseen, text))


def _escape_unseen(character: str) -> str:
    if character in _SHOWN_ALL_THE_SAME or unicodedata.category(character) not in _UNSEEN:
        return character
    # `\x` is always a byte of the name and `\u` always a character, so that the name can be had from what is shown.
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte that is no UTF-8, as surrogateescape has it
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def reference(item: Item) -> str:
    """A reference from the listing to one of its items. It begins with a dot segment, so that no name can look like a
    scheme (`javascript:`) or like a host (RFC 3986 4.2).
    """
    return "./" + quote_from_bytes(item.name, safe="") + ("/" if item.is_directory else "")


_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
"""Up to the largest that a file can have: 2**63 bytes."""
_UNIT = 1024


def human_size(size: int) -> str:
    """`512 B`, `1.4 MiB`."""
    if size < _UNIT:
        return f"{size} B"
    value = size / _UNIT
    power = 0
    while round(value, 1) >= _UNIT:  # and not 1024.0 KiB, which is what 1048575 bytes would be rounded to
        value /= _UNIT
        power += 1
    return f"{value:.1f} {_UNITS[power]}"


# -- rendering --------------------------------------------------------------------------------------------------


def render(path: bytes, items: Sequence[Item], view: View, media_type: bytes, truncated: bool) -> bytes:
    """A page of a listing.

    path: of the directory below the root, decoded, with its trailing slash; empty for the root.
    items: all of them, arranged for the view: whoever lists a large directory page by page sorts it once.
    media_type: one of MEDIA_TYPES. truncated: there are more items than we were given.
    """
    number, pages, size = _place(len(items), view, media_type)
    first = (number - 1) * size
    page = _Page(items[first : first + size], number, pages, first)
    if media_type == HTML:
        return _render_html(path, items, view._replace(page=page.number), page, truncated)
    if media_type == JSON:
        return _render_json(path, len(items), page, truncated)
    assert media_type == TEXT, "the media type is one of ours"
    return _render_text(page)


def _render_json(path: bytes, total: int, page: _Page, truncated: bool) -> bytes:
    """JSON cannot say names that are no UTF-8; their references stay exact."""
    listing = {
        "path": "/" + path.decode("utf-8", "replace"),
        "page": page.number,
        "pages": page.pages,
        "total": total,
        "truncated": truncated,
        "entries": [
            {
                "name": item.name.decode("utf-8", "replace"),
                "href": reference(item),
                "type": "directory" if item.is_directory else "file",
                "size": None if item.is_directory else item.size,
                "modified": iso_date(item.modified),
            }
            for item in page.items
        ],
    }
    return json.dumps(listing, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _render_text(page: _Page) -> bytes:
    """A name a line, directories with a slash. Backslashes are doubled, so that no name is taken for an escape, and the
    bytes of each can be had from its line.
    """
    lines = [visible(item.name.replace(b"\\", b"\\\\")) + ("/\n" if item.is_directory else "\n") for item in page.items]
    return "".join(lines).encode()


class _Row(NamedTuple):
    """An item as the template shows it. human and exact are empty for directories."""

    href: str
    name: str
    is_directory: bool
    size: int
    human: str
    exact: str
    iso: str
    time: str


class _Crumb(NamedTuple):
    """A directory on the way from the root; the last is the one that is listed."""

    href: str
    name: str


class _Column(NamedTuple):
    """A head of the table. order: the value of aria-sort where the table is sorted by it, or empty."""

    key: str
    label: str
    href: str
    order: str


_LABELS = {"name": "Name", "size": "Size", "modified": "Modified (UTC)"}


def _row(item: Item) -> _Row:
    size = item.size
    iso = iso_date(item.modified)
    return _Row(
        reference(item),
        visible(item.name),
        item.is_directory,
        size,
        "" if item.is_directory else human_size(size),
        "" if item.is_directory else _count(size, "byte", "bytes"),
        iso,
        f"{iso[:10]} {iso[11:16]}",
    )


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number:,} {singular if number == 1 else plural}"


def _crumbs(path: bytes) -> list[_Crumb]:
    """The references are relative, so that they hold behind a proxy that serves us below a prefix."""
    names = ["Home", *(visible(segment) for segment in path.split(b"/")[:-1])]
    return [_Crumb("../" * (len(names) - 1 - depth) or "./", name) for depth, name in enumerate(names)]


def _columns(view: View) -> list[_Column]:
    """The column that is sorted by leads to the other order; the largest and the newest are what others begin with."""
    columns = []
    for key, label in _LABELS.items():
        is_current = key == view.sort
        descending = not view.descending if is_current else key != "name"
        order = ("descending" if view.descending else "ascending") if is_current else ""
        columns.append(_Column(key, label, _reference_of(View(key, descending)), order))
    return columns


def _summary(items: Sequence[Item], page: _Page) -> str:
    directories = sum(item.is_directory for item in items)
    files = len(items) - directories
    counts = [
        _count(number, *words)
        for number, words in ((directories, ("directory", "directories")), (files, ("file", "files")))
        if number
    ]
    shown = f"; {page.first + 1:,} to {page.first + len(page.items):,} are on this page" if page.pages > 1 else ""
    return ", ".join(counts) + shown


@functools.cache
def _template() -> tuple[jinja2.Template, str]:
    """The compiled template, and the hash of its style sheet as a Content-Security-Policy names it."""
    # Imported where they are used: together they take longer than all of ours, and most servers list nothing.
    import base64
    import hashlib

    import jinja2

    # Neither importlib nor a loader of jinja2's has to look for the file: it is right here.
    with open(posixpath.join(posixpath.dirname(__file__), "templates", "listing.html"), encoding="utf-8") as file:
        source = file.read()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = source.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.from_string(source), f"'sha256-{digest}'"


def prepare() -> None:
    """Load what the first page of HTML needs. A server that lists does it before it accepts: else its first visitor
    would hold up all others for 50 ms.
    """
    _template()


def _render_html(path: bytes, items: Sequence[Item], view: View, page: _Page, truncated: bool) -> bytes:
    template, style_source = _template()
    return template.render(
        style_source=style_source,
        path="/" + visible(path),
        crumbs=_crumbs(path),
        columns=_columns(view),
        rows=[_row(item) for item in page.items],
        summary=_summary(items, page),
        total=f"{len(items):,}",
        truncated=truncated,
        page=page.number,
        pages=page.pages,
        previous=_reference_of(view._replace(page=page.number - 1)) if page.number > 1 else None,
        next=_reference_of(view._replace(page=page.number + 1)) if page.number < page.pages else None,
    ).encode()
