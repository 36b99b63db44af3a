"""Listings: what is made of names that somebody chose with care."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import re
import unicodedata
from datetime import UTC, datetime
from html.parser import HTMLParser
from urllib.parse import unquote_to_bytes, urljoin

import pytest
from hostile_names import HOSTILE, MODIFIED, as_file_systems_have_it
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ringserve.files.directory import Item
from ringserve.files.entries import Directory
from ringserve.http.semantics import locate, quote_path
from ringserve.responders import listing
from ringserve.responders.listing import (
    DATA_PAGE_ITEMS,
    HTML,
    JSON,
    MEDIA_TYPES,
    PAGE_DIGITS_MAX,
    PAGE_ITEMS,
    TEXT,
    View,
    arrange,
    arranged,
    human_size,
    link_value,
    parse_view,
    prepare,
    reference,
    visible,
)


def render(path: bytes, items: list[Item], view: View, media_type: bytes, truncated: bool) -> bytes:
    return listing.render(path, arrange(items, view), view, media_type, truncated)


THOROUGH = settings(max_examples=200, deadline=None, derandomize=True)
FEWER = settings(max_examples=25, deadline=None, derandomize=True)
"""Where each example is some hundred items."""
NAMES = st.one_of(
    st.sampled_from(HOSTILE),
    st.binary(min_size=1, max_size=40),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).map(str.encode),
    st.text("aAbB019 -_.é", min_size=1, max_size=8).map(str.encode),
).map(as_file_systems_have_it)
ITEMS = st.builds(
    lambda name, is_directory, size, modified: Item(name, is_directory, 0 if is_directory else size, modified),
    NAMES, st.booleans(), st.integers(0, 2**63 - 1), st.integers(-(2**62), 2**62),
)  # fmt: skip
SOME_ITEMS = st.lists(ITEMS, max_size=12, unique_by=lambda item: item.name)
PATHS = st.lists(NAMES, max_size=4).map(lambda names: b"".join(name + b"/" for name in names))
VIEWS = st.builds(View, st.sampled_from(["name", "size", "modified"]), st.booleans(), st.integers(1, 5))


def file_called(name: bytes, size: int = 0, modified: int = MODIFIED) -> Item:
    return Item(name, False, size, modified)


def directory_called(name: bytes, modified: int = MODIFIED) -> Item:
    return Item(name, True, 0, modified)


def numbered(count: int) -> list[Item]:
    """In an order that is nobody's."""
    return [file_called(b"%d" % (number * 7919 % count), number) for number in range(count)]


class Element:
    """A start tag, and the text up to the next tag."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.text = ""


class Parser(HTMLParser):
    """All elements of a page in order; asserts that each is closed, in its turn."""

    VOID = ("meta", "link")

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.feed(page.decode())
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        assert len(attributes) == len(attrs), "no attribute stands twice"
        element = Element(tag, attributes)
        self.elements.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.open[-1].text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment that the template does not have: {data}")

    def all(self, tag: str, **attributes: str) -> list[Element]:
        return [
            element
            for element in self.elements
            if element.tag == tag
            and all(element.attributes.get(name) == value for name, value in attributes.items())
        ]  # fmt: skip

    def rows(self) -> list[Element]:
        """The links to items."""
        return [link for link in self.all("a") if link.attributes.get("class") in ("directory", "file")]

    def shape(self) -> set[tuple[str, tuple[str, ...]]]:
        return {(element.tag, tuple(sorted(element.attributes))) for element in self.elements}


DEFAULT = View()


def page_of(items: list[Item], view: View = DEFAULT, path: bytes = b"", truncated: bool = False) -> Parser:
    return Parser(render(path, items, view, HTML, truncated))


def hrefs_in(body: bytes, media_type: bytes) -> list[str]:
    if media_type == HTML:
        return [link.attributes["href"] for link in Parser(body).rows()]
    assert media_type == JSON
    return [entry["href"] for entry in json.loads(body)["entries"]]


def lines_of(items: list[Item], view: View = DEFAULT) -> list[str]:
    text = render(b"", items, view, TEXT, False).decode()
    assert not text or text.endswith("\n")
    return text.split("\n")[:-1]


# -- references -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media_type", [HTML, JSON])
@THOROUGH
@given(PATHS, SOME_ITEMS)
def test_every_reference_leads_to_exactly_its_item(media_type: bytes, path: bytes, items: list[Item]) -> None:
    hrefs = hrefs_in(render(path, items, View(), media_type, False), media_type)
    assert len(hrefs) == len(items)
    base = "http://a.example/" + quote_path(path).decode()
    for item, href in zip(arrange(items, View()), hrefs, strict=True):
        wanted = path + item.name + (b"/" if item.is_directory else b"")
        joined = locate(base.encode() + href.encode())
        assert joined.path == wanted
        assert "?" not in href
        # And as a browser resolves it, which undoes dot segments before it sends the target.
        assert locate(urljoin(base, href).encode()).path == wanted


@THOROUGH
@given(ITEMS)
def test_a_reference_is_relative_whatever_the_name_looks_like(item: Item) -> None:
    href = reference(item)
    assert href.startswith("./")
    assert re.fullmatch(r"[A-Za-z0-9._~%-]+/?", href[2:])


def test_a_name_that_looks_like_a_script_is_a_relative_reference() -> None:
    assert reference(file_called(b"javascript:alert(1)")) == "./javascript%3Aalert%281%29"


@THOROUGH
@given(PATHS)
def test_the_breadcrumbs_lead_to_every_directory_on_the_way(path: bytes) -> None:
    page = page_of([], path=path)
    steps = path.split(b"/")[:-1]
    wanted = [b"".join(step + b"/" for step in steps[:depth]) for depth in range(len(steps) + 1)]
    crumbs = [link for link in page.all("a") if "class" not in link.attributes]
    base = b"/" + quote_path(path)
    assert [locate(base + crumb.attributes["href"].encode()).path for crumb in crumbs] == wanted
    assert [crumb.attributes.get("aria-current") for crumb in crumbs] == [None] * len(steps) + ["page"]
    parents = page.all("a", **{"class": "up"})
    assert [locate(base + parent.attributes["href"].encode()).path for parent in parents] == wanted[-2:-1]


# -- HTML -------------------------------------------------------------------------------------------------------

SHAPE = page_of(
    [directory_called(b"d"), *numbered(3 * PAGE_ITEMS)], View("size", True, 2), b"a/b/", truncated=True
).shape() | page_of([directory_called(b"d")]).shape() | page_of([]).shape()  # fmt: skip
"""The elements that the template has, with the attributes that each can have."""


@THOROUGH
@given(PATHS, SOME_ITEMS, VIEWS, st.booleans())
def test_no_name_adds_an_element_or_an_attribute(path: bytes, items: list[Item], view: View, truncated: bool) -> None:
    assert page_of(items, view, path, truncated).shape() <= SHAPE


def test_hostile_names_are_shown_as_they_are() -> None:
    items = [file_called(name) for name in HOSTILE]
    page = page_of(items, path=b"<b>/")
    assert page.shape() <= SHAPE
    shown = [bdi.text for bdi in page.all("bdi")]
    assert shown[:3] == ["Home", "<b>", "/<b>/"]
    assert shown[3:] == [visible(item.name) for item in arrange(items, View())]


@THOROUGH
@given(NAMES)
@example(b'"></title><script>')
def test_names_stand_isolated_in_the_order_of_their_own_script(name: bytes) -> None:
    page = page_of([file_called(name), directory_called(name + b"d")])
    assert {visible(name), visible(name + b"d")} <= {bdi.text for bdi in page.all("bdi")}


def test_the_table_has_a_caption_and_heads_of_rows_and_columns() -> None:
    page = page_of([file_called(b"a"), directory_called(b"d")])
    assert [caption.text for caption in page.all("caption")] == ["1 directory, 1 file"]
    assert len(page.all("th", scope="col", role="columnheader")) == 3
    assert len(page.all("th", scope="row", role="rowheader")) == 2
    assert len(page.all("h1")) == 1
    assert len(page.all("main")) == 1
    assert page.all("html")[0].attributes == {"lang": "en"}


def test_sizes_are_readable_and_exact() -> None:
    page = page_of([file_called(b"a", 1), file_called(b"b", 1_234_567)])
    assert [(data.attributes, data.text) for data in page.all("data")] == [
        ({"value": "1", "title": "1 byte"}, "1 B"),
        ({"value": "1234567", "title": "1,234,567 bytes"}, "1.2 MiB"),
    ]
    assert not page_of([directory_called(b"d")]).all("data"), "a directory has no size that would mean anything"


@pytest.mark.parametrize(
    ("size", "human"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),  # and not 1024.0 KiB
        (1024**2, "1.0 MiB"),
        (10 * 1024**3, "10.0 GiB"),
        (1024**4, "1.0 TiB"),
        (1024**5, "1.0 PiB"),
        (2**63 - 1, "8.0 EiB"),
    ],
)
def test_a_size_is_rounded_to_its_unit(size: int, human: str) -> None:
    assert human_size(size) == human


def test_times_are_in_utc() -> None:
    (time,) = page_of([file_called(b"a", modified=MODIFIED)]).all("time")
    assert (time.attributes["datetime"], time.text) == ("1994-11-06T08:49:37Z", "1994-11-06 08:49")


@pytest.mark.parametrize(
    ("modified", "iso"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (2**63, "9999-12-31T23:59:59Z"),
        (-(2**63), "0001-01-01T00:00:00Z"),
        (int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()), "9999-12-31T23:59:59Z"),
        (int(datetime(1, 1, 1, tzinfo=UTC).timestamp()), "0001-01-01T00:00:00Z"),
    ],
)
def test_a_time_that_no_calendar_has_is_the_nearest_one(modified: int, iso: str) -> None:
    (time,) = page_of([file_called(b"a", modified=modified)]).all("time")
    assert time.attributes["datetime"] == iso


def test_the_column_that_is_sorted_by_says_so_and_leads_to_the_other_order() -> None:
    def heads(view: View) -> list[tuple[str | None, str]]:
        page = page_of(numbered(2), view)
        links = [link for link in page.all("a") if link.text in ("Name", "Size", "Modified (UTC)")]
        return [
            (head.attributes.get("aria-sort"), link.attributes["href"])
            for head, link in zip(page.all("th", scope="col"), links, strict=True)
        ]

    by_name, by_size, by_time = "./", "?sort=size&order=desc", "?sort=modified&order=desc"
    assert heads(View()) == [("ascending", "?order=desc"), (None, by_size), (None, by_time)]
    assert heads(View("name", True)) == [("descending", by_name), (None, by_size), (None, by_time)]
    assert heads(View("size", True, 7)) == [(None, by_name), ("descending", "?sort=size"), (None, by_time)]
    assert heads(View("size", False)) == [(None, by_name), ("ascending", by_size), (None, by_time)]
    assert heads(View("modified")) == [(None, by_name), (None, by_size), ("ascending", by_time)]


def test_pages_lead_to_their_neighbours_in_the_same_order() -> None:
    def around(page: int) -> tuple[list[str], list[str], list[str]]:
        parsed = page_of(numbered(2 * PAGE_ITEMS + 1), View("size", True, page))
        previous, following = (
            [link.attributes["href"] for link in parsed.all("a", rel=relation)] for relation in ("prev", "next")
        )
        return previous, following, [span.text for span in parsed.all("span") if span.text.startswith("Page")]

    assert around(1) == ([], ["?sort=size&order=desc&page=2"], ["Page 1 of 3"])
    assert around(2) == (["?sort=size&order=desc"], ["?sort=size&order=desc&page=3"], ["Page 2 of 3"])
    assert around(3) == (["?sort=size&order=desc&page=2"], [], ["Page 3 of 3"])
    assert around(4) == around(3), "a page beyond the last shows the last"
    assert around(10**9) == around(3)


def test_one_page_has_no_navigation_between_pages() -> None:
    page = page_of(numbered(PAGE_ITEMS))
    assert len(page.all("nav")) == 1
    assert [caption.text for caption in page.all("caption")] == ["200 files"]


def test_the_caption_counts_everything_and_says_what_this_page_has() -> None:
    items = [*numbered(2 * PAGE_ITEMS), directory_called(b"d")]
    captions = [page_of(items, View(page=page)).all("caption")[0].text for page in (1, 3)]
    assert captions == [
        "1 directory, 400 files; 1 to 200 are on this page",
        "1 directory, 400 files; 401 to 401 are on this page",
    ]
    many = page_of([directory_called(b"%d" % number) for number in range(1200)])
    assert many.all("caption")[0].text == "1,200 directories; 1 to 200 are on this page"


def test_an_empty_directory_says_so() -> None:
    page = page_of([])
    assert not page.all("table")
    assert [paragraph.text for paragraph in page.all("p")] == ["This directory is empty."]


def test_what_was_prepared_makes_the_same_page() -> None:
    page = render(b"", numbered(3), View(), HTML, False)
    prepare()
    assert render(b"", numbered(3), View(), HTML, False) == page


def test_a_truncated_listing_says_so() -> None:
    page = page_of(numbered(1234), truncated=True)
    assert [paragraph.text for paragraph in page.all("p", **{"class": "note"})] == [
        "This directory has more entries than a listing shows. "
        "These are the first 1,234 by name, directories before files."
    ]
    assert not page_of(numbered(3)).all("p")


def test_the_page_needs_nothing_from_elsewhere_and_allows_no_script() -> None:
    body = render(b"", numbered(3), View(), HTML, False)
    page = Parser(body)
    assert not {"script", "img", "iframe", "form", "base"} & {element.tag for element in page.elements}
    for element in page.elements:
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"]
    (icon,) = page.all("link")
    assert icon.attributes["href"].startswith("data:")
    assert b"url(" not in body
    assert b"@import" not in body
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    style = re.search(rb"<style>(.*?)</style>", body, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1]).digest()).decode()
    assert policy.attributes["content"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


# -- JSON and text ----------------------------------------------------------------------------------------------


def test_json_says_what_html_shows() -> None:
    items = [file_called("ä.txt".encode(), 5), directory_called(b"d")]
    assert json.loads(render(b"docs/", items, View(), JSON, False)) == {
        "path": "/docs/",
        "page": 1,
        "pages": 1,
        "total": 2,
        "truncated": False,
        "entries": [
            {"name": "d", "href": "./d/", "type": "directory", "size": None, "modified": "1994-11-06T08:49:37Z"},
            {
                "name": "ä.txt",
                "href": "./%C3%A4.txt",
                "type": "file",
                "size": 5,
                "modified": "1994-11-06T08:49:37Z",
            },
        ],
    }


@THOROUGH
@given(PATHS, SOME_ITEMS, VIEWS, st.booleans())
def test_json_can_always_be_parsed(path: bytes, items: list[Item], view: View, truncated: bool) -> None:
    listed = json.loads(render(path, items, view, JSON, truncated).decode())
    arranged = arrange(items, view)
    assert listed["path"] == "/" + path.decode("utf-8", "replace")
    assert (listed["total"], listed["truncated"]) == (len(items), truncated)
    assert [entry["name"] for entry in listed["entries"]] == [item.name.decode("utf-8", "replace") for item in arranged]
    names = [unquote_to_bytes(entry["href"][2:]).removesuffix(b"/") for entry in listed["entries"]]
    assert names == [item.name for item in arranged], "a reference is exact where the name cannot be"


@THOROUGH
@given(SOME_ITEMS)
def test_text_has_one_line_for_each_item_from_which_its_name_can_be_had(items: list[Item]) -> None:
    lines = lines_of(items)
    assert len(lines) == len(items)
    for line, item in zip(lines, arrange(items, View()), strict=True):
        assert line.endswith("/") is item.is_directory
        assert unescape(line.removesuffix("/")) == item.name


ESCAPE = re.compile(rb"\\(?:(\\)|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


def unescape(line: str) -> bytes:
    """What a program does to have the bytes of the name: `x` is a byte, `u` and `U` are characters."""

    def original(match: re.Match[bytes]) -> bytes:
        backslash, byte, *characters = match.groups()
        if backslash:
            return b"\\"
        return bytes([int(byte, 16)]) if byte else chr(int(characters[0] or characters[1], 16)).encode()

    return ESCAPE.sub(original, line.encode())


def test_text_of_an_empty_directory_is_empty() -> None:
    assert render(b"", [], View(), TEXT, False) == b""


def test_text_keeps_control_characters_to_itself() -> None:
    assert lines_of([file_called(b"a\nb\x1b"), file_called(b"a\\nb"), directory_called(b"\xff")]) == [
        "\\xff/",
        "a\\x0ab\\x1b",
        "a\\\\nb",
    ]


def test_the_unknown_media_type_is_nobodys_request() -> None:
    with pytest.raises(AssertionError):
        render(b"", [], View(), b"image/png", False)


# -- visible names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain name.txt", "plain name.txt"),
        (b"  two", "  two"),
        (b"a\nb", "a\\x0ab"),
        (b"\x1b[0m", "\\x1b[0m"),
        (b"\xff", "\\xff"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
        ("\u202egpj.exe".encode(), "\\u202egpj.exe"),
        ("\u00a0".encode(), "\\u00a0"),
        ("\u0085".encode(), "\\u0085"),
        ("\ufeffa\u200bb".encode(), "\\ufeffa\\u200bb"),
        ("\U000e0041".encode(), "\\U000e0041"),
        ("می\u200cخواهم".encode(), "می\u200cخواهم"),
        ("👩\u200d💻".encode(), "👩\u200d💻"),
        ("日本\u3000語".encode(), "日本\u3000語"),
        (b"back\\slash", "back\\slash"),
    ],
)
def test_what_nobody_would_see_is_escaped(name: bytes, shown: str) -> None:
    assert visible(name) == shown


@THOROUGH
@given(NAMES)
def test_a_visible_name_is_one_line_without_controls(name: bytes) -> None:
    shown = visible(name)
    assert len((shown + "x").splitlines()) == 1
    assert not {unicodedata.category(character) for character in shown if character not in "\u200c\u200d"} & {
        "Cc", "Cf", "Cs", "Zl", "Zp",
    }  # fmt: skip
    assert shown.encode()


# -- order and pages --------------------------------------------------------------------------------------------


def compare_names(one: bytes, other: bytes) -> int:
    """Slow and plain: character by character, with runs of digits as numbers that stand where a digit would."""

    def tokens(name: bytes) -> list[tuple[int, int]]:
        text = name.decode("utf-8", "surrogateescape").casefold()
        found = []
        while text:
            digits = "".join(itertools.takewhile(lambda character: character in "0123456789", text))
            found.append((ord("0"), int(digits)) if digits else (ord(text[0]), 0))
            text = text[len(digits) or 1 :]
        return found

    ours, theirs = (tokens(one), one), (tokens(other), other)
    return (ours > theirs) - (ours < theirs)


def naively_arranged(items: list[Item], view: View) -> list[Item]:
    def compare(one: Item, other: Item) -> int:
        if one.is_directory != other.is_directory:
            return -1 if one.is_directory else 1
        by_name = compare_names(one.name, other.name)
        if view.sort == "name":
            return -by_name if view.descending else by_name
        ours, theirs = (one.size, other.size) if view.sort == "size" else (one.modified, other.modified)
        by_number = (ours > theirs) - (ours < theirs)
        return (-by_number if view.descending else by_number) or by_name

    return sorted(items, key=functools.cmp_to_key(compare))


FEW_NUMBERS = st.integers(0, 3)
LIKE_ITEMS = st.lists(
    st.builds(
        lambda name, is_directory, size, modified: Item(name, is_directory, 0 if is_directory else size, modified),
        NAMES, st.booleans(), FEW_NUMBERS, FEW_NUMBERS,
    ),
    max_size=20,
    unique_by=lambda item: item.name,
)  # fmt: skip


@THOROUGH
@given(LIKE_ITEMS, VIEWS, st.randoms(use_true_random=False))
def test_the_order_is_the_plain_one_whatever_order_they_come_in(items: list[Item], view: View, random: object) -> None:
    assert arrange(items, view) == naively_arranged(items, view)
    getattr(random, "shuffle")(items)  # noqa: B009
    assert arrange(items, view) == naively_arranged(items, view)


def test_names_are_in_the_order_in_which_people_look_for_them() -> None:
    names = [b"Part 10", b"part 9", b"apple", b"Banana", b"part 09", b"2", b"10", b"_"]
    ordered = [item.name for item in arrange([file_called(name) for name in names], View())]
    assert ordered == [b"2", b"10", b"_", b"apple", b"Banana", b"part 09", b"part 9", b"Part 10"]


def test_a_number_of_absurd_length_is_ordered_like_any_other() -> None:
    long, longer = b"1" * 5000, b"1" * 5001
    assert [item.name for item in arrange([file_called(longer), file_called(long)], View())] == [long, longer]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", ["name", "size", "modified"])
def test_directories_come_first_whatever_the_order(sort: str, descending: bool) -> None:
    items = [file_called(b"a", 5, 5), directory_called(b"m", 3), file_called(b"z", 0, 1), directory_called(b"b", 9)]
    arranged = arrange(items, View(sort, descending))
    assert [item.is_directory for item in arranged] == [True, True, False, False]


@FEWER
@given(st.integers(0, 450), VIEWS)
def test_pages_of_html_have_every_item_once(count: int, view: View) -> None:
    items = numbered(count)
    shown: list[str] = []
    for page in range(1, max(1, -(-count // PAGE_ITEMS)) + 1):
        on_page = page_of(items, view._replace(page=page)).rows()
        assert len(on_page) <= PAGE_ITEMS
        shown += [link.attributes["href"] for link in on_page]
    assert shown == [reference(item) for item in arrange(items, view)]


@pytest.mark.parametrize(
    "count", [1, DATA_PAGE_ITEMS - 1, DATA_PAGE_ITEMS, DATA_PAGE_ITEMS + 1, 2 * DATA_PAGE_ITEMS + 7]
)
def test_pages_of_json_and_text_have_every_item_once(count: int) -> None:
    items = numbered(count)
    names: list[str] = []
    lines: list[str] = []
    pages = -(-count // DATA_PAGE_ITEMS)
    for page in range(1, pages + 1):
        listed = json.loads(render(b"", items, View(page=page), JSON, False))
        assert (listed["page"], listed["pages"], listed["total"]) == (page, pages, count)
        names += [entry["name"] for entry in listed["entries"]]
        lines += lines_of(items, View(page=page))
    assert names == lines == [str(number) for number in range(count)]


def test_a_link_field_leads_to_the_pages_around() -> None:
    total = 2 * DATA_PAGE_ITEMS + 1
    assert link_value(total, View(), TEXT) == b'<?page=2>; rel="next"'
    assert link_value(total, View("size", True, 2), JSON) == (
        b'<?sort=size&order=desc>; rel="prev", <?sort=size&order=desc&page=3>; rel="next"'
    )
    assert link_value(total, View(page=99), TEXT) == b'<?page=2>; rel="prev"'
    assert link_value(DATA_PAGE_ITEMS, View(), TEXT) is None
    assert link_value(0, View(), HTML) is None
    assert link_value(DATA_PAGE_ITEMS, View(), HTML) == b'<?page=2>; rel="next"'


# -- what is asked for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "view"),
    [
        (b"", View()),
        (b"?", View()),
        (b"?sort=size", View("size")),
        (b"?sort=modified&order=desc&page=12", View("modified", True, 12)),
        (b"?page=2&order=desc&sort=name", View("name", True, 2)),
        (b"?order=asc", View()),
        (b"?sort=size&sort=name", View("size")),
        (b"?sort=Size", View()),
        (b"?sort", View()),
        (b"?sort==size", View()),
        (b"?&&x=y&order=desc&", View(descending=True)),
        (b"?page=0", View()),
        (b"?page=007", View(page=7)),
        (b"?page=-1", View()),
        (b"?page=+1", View()),
        (b"?page=1.5", View()),
        (b"?page=", View()),
        (b"?page=%32", View()),
        (b"?page=\xc2\xb2", View()),
        (b"?page=999999999", View(page=999_999_999)),
        (b"?page=" + b"9" * 8000, View(page=10**PAGE_DIGITS_MAX)),
        (b"?\xff\xfe=\0", View()),
    ],
)
def test_a_query_asks_for_a_view(query: bytes, view: View) -> None:
    assert parse_view(query) == view


@THOROUGH
@given(st.binary())
def test_every_query_is_some_view(query: bytes) -> None:
    view = parse_view(b"?" + query)
    assert view.sort in ("name", "size", "modified")
    assert 1 <= view.page <= 10**PAGE_DIGITS_MAX
    assert render(b"", numbered(3), view, TEXT, False).count(b"\n") == 3


@FEWER
@given(VIEWS, st.integers(1, 5))
def test_the_links_of_a_page_ask_for_the_views_that_they_name(view: View, pages: int) -> None:
    items = numbered(pages * PAGE_ITEMS)
    number = min(view.page, pages)
    parsed = page_of(items, view)
    for relation, wanted in (("prev", number - 1), ("next", number + 1)):
        for link in parsed.all("a", rel=relation):
            assert parse_view(b"?" + link.attributes["href"].encode().partition(b"?")[2]) == view._replace(page=wanted)


@THOROUGH
@given(NAMES, st.booleans())
def test_a_name_is_left_out_exactly_where_its_address_is_hidden(name: bytes, at_root: bool) -> None:
    item = file_called(name)
    located = locate((b"/" if at_root else b"/d/") + reference(item).encode())
    is_dotfile = name.startswith(b".") and not (at_root and name == b".well-known")
    assert located.hidden == (is_dotfile or name.startswith(b"ringserve.toml"))


def test_an_order_of_a_directory_is_made_once_and_goes_with_it() -> None:
    directory = Directory(b"d/", tuple(numbered(3)))
    first = arranged(directory, "size", True)
    assert first == arrange(directory.items, View("size", True))
    assert arranged(directory, "size", True) is first


def test_every_media_type_has_its_form() -> None:
    assert [render(b"", numbered(1), View(), media_type, False)[:1] for media_type in MEDIA_TYPES] == [b"<", b"{", b"0"]
