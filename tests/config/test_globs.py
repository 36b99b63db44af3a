"""Globs: what they match, what their stars stand for, and that no path keeps them busy."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ringserve.config.globs import GlobError, check_references, compile_glob, compile_with_contents, fill_in


def matches(glob: str, path: str | bytes) -> bool:
    return compile_glob(glob).fullmatch(path if isinstance(path, bytes) else path.encode()) is not None


def captured(glob: str, path: str) -> tuple[bytes, ...] | None:
    match = compile_glob(glob).fullmatch(path.encode())
    return match.groups(b"") if match else None


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("/about", ["/about"], ["/about/", "/about.html", "/x/about", "/"]),
        ("/", ["/"], ["/a", "//"]),
        ("*.html", ["/a.html", "/.html", "/a/b/c.html"], ["/a.htm", "/a.html/b"]),
        ("*", ["/", "/a", "/a/b", "/a/"], []),
        ("docs/*", ["/docs/a", "/x/docs/a", "/docs/"], ["/docs", "/docs/a/b", "/xdocs/a"]),
        ("/docs/*", ["/docs/a", "/docs/"], ["/docs", "/docs/a/b", "/x/docs/a"]),
        ("/assets/**", ["/assets/", "/assets/a", "/assets/a/b"], ["/assets", "/x/assets/a"]),
        ("**", ["/", "/a", "/a/b"], []),
        ("**.map", ["/a.map", "/a/b.map"], ["/a"]),
        ("/**/*.html", ["/a/b.html", "/a/b/c.html", "//b.html"], ["/b.html"]),
        ("/img/?.{png,jpg}", ["/img/a.png", "/img/é.jpg", "/img/日.png"], ["/img/ab.png", "/img//.png", "/img/.png"]),
        ("/a{,b}c", ["/ac", "/abc"], ["/abbc", "/a,bc"]),
        ("/{a/b,c}/d", ["/a/b/d", "/c/d"], ["/a/d"]),
        ("{*.js,*.css,*.map}", ["/a.js", "/x/b.css", "/x/y.map"], ["/a.html"]),
        ("/a}b", ["/a}b"], ["/ab"]),
        ("/a,b", ["/a,b"], ["/a", "/b"]),
        ("/a.b+(c)[d]|^$\\", ["/a.b+(c)[d]|^$\\"], ["/aXb+(c)[d]|^$\\"]),
        ("/café", ["/café"], ["/cafe"]),
        ("/a*", ["/a\nb"], ["/a\n/b"]),
        ("/a**", ["/a\n/b"], []),
    ],
)
def test_a_glob_matches_whole_paths(glob: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in (*yes, *no) if matches(glob, path)] == yes


def test_a_question_mark_is_one_character_and_not_one_byte() -> None:
    assert matches("/?", "/é")
    assert not matches("/??", "/é")
    assert matches("/??", "/éa")
    assert matches("/*?", "/日本")
    assert matches("/?", b"/\xe9"), "a name that is no UTF-8 has characters too"


@pytest.mark.parametrize(
    ("glob", "path", "stars"),
    [
        ("/old/*", "/old/a", (b"a",)),
        ("/blog/*-*-*-*.html", "/blog/2024-01-02-a-long-day.html", (b"2024", b"01", b"02", b"a-long-day")),
        ("/*/**", "/a/b/c", (b"a", b"b/c")),
        ("/**/*.html", "/a/b/c.html", (b"a/b", b"c")),
        ("*.html", "/a/b.html", (b"b",)),
        ("/{a*,b*}", "/bc", (b"", b"c")),
        ("/a?b", "/axb", ()),
        ("**/a**/b**", "/a/ax/b/b", (b"", b"/ax", b"/b")),
    ],
)
def test_each_star_stands_for_as_little_as_it_can(glob: str, path: str, stars: tuple[bytes, ...]) -> None:
    assert captured(glob, path) == stars


@pytest.mark.parametrize(
    ("glob", "words"),
    [
        ("", "empty"),
        ("/{a", "not closed"),
        ("/{a,{b,c}}", "within braces"),
        ("{/a,/b}/c", "before the braces"),
        ("{a,/b}", "before the braces"),
        ("{**/a,b}", "before the braces"),
        ("/*{a,b}*{c,d}*", "too many stars"),
        ("x**{a,b}**", "too many stars"),
        ("/*{*a*,b}", "too many stars"),
    ],
)
def test_a_glob_that_cannot_be_read_is_refused_with_the_reason(glob: str, words: str) -> None:
    with pytest.raises(GlobError, match=words):
        compile_glob(glob)


# -- against a matcher that tries everything ----------------------------------------------------------------------


def expanded(glob: str) -> Iterator[list[str]]:
    """The tokens of each glob without braces that one with braces stands for."""
    before, brace, after = glob.partition("{")
    tokens = re.findall(r"\*\*|.", before, re.DOTALL)
    if not brace:
        yield tokens
        return
    alternatives, _brace, after = after.partition("}")
    for alternative in alternatives.split(","):
        for rest in expanded(after):
            yield [*tokens, *re.findall(r"\*\*|.", alternative, re.DOTALL), *rest]


def oracle(glob: str, path: str) -> bool:
    """Whether a glob matches, by the set of all places that its beginnings can end at."""
    rooted = glob.startswith(("/", "**"))
    starts = {0} if rooted else {index + 1 for index, character in enumerate(path) if character == "/"}
    for tokens in expanded(glob):
        places = starts
        for token in tokens:
            reached = set()
            for place in places:
                if token == "**":
                    reached |= set(range(place, len(path) + 1))
                elif token == "*":
                    end = path.find("/", place)
                    reached |= set(range(place, (len(path) if end < 0 else end) + 1))
                elif place < len(path) and (path[place] == token or (token == "?" and path[place] != "/")):
                    reached.add(place + 1)
            places = reached
        if len(path) in places:
            return True
    return False


PIECES = st.sampled_from(["a", "b", "/", "*", "**", "?", "ab", "é", "-"])
BRACES = st.lists(st.sampled_from(["", "a", "ab", "b", "*", "a*", "?", "a/b", "b**"]), min_size=1, max_size=3).map(
    lambda alternatives: "{" + ",".join(alternatives) + "}"
)
PATHS = st.text("ab/é-", max_size=14).map(lambda rest: "/" + rest)


@given(st.lists(PIECES, min_size=1, max_size=10).map("".join), PATHS)
@example("**a*b", "/a/ab")
@example("**a*b**c*d", "/aacb/xcbcdcd")
@example("/**b*/a**a", "/b/bb/a/aa")
def test_a_glob_without_alternatives_matches_what_trying_everything_matches(glob: str, path: str) -> None:
    assert matches(glob, path) == oracle(glob, path)


@given(st.lists(PIECES | BRACES, min_size=1, max_size=5).map("".join), PATHS)
@example("{a*}*", "/a/")
@example("/*{a,ab}c*", "/abc")
def test_a_glob_with_alternatives_matches_what_any_of_them_matches(glob: str, path: str) -> None:
    try:
        pattern = compile_glob(glob)
    except GlobError:
        return  # for its cost, or for how it begins
    assert (pattern.fullmatch(path.encode()) is not None) == oracle(glob, path)


@given(st.lists(PIECES | BRACES, min_size=1, max_size=5).map("".join), PATHS)
@example("/a", "/a/b")
@example("/a/", "/a/b")
@example("/{a,b/}", "/b/a")
@example("*-*", "/a/b-a/a-/b")
def test_what_lies_in_a_directory_is_matched_by_what_its_name_is_matched_by(glob: str, path: str) -> None:
    try:
        pattern = compile_with_contents(glob)
    except GlobError:
        return
    above = [path[: index + slash] for index in range(len(path)) if path[index] == "/" for slash in (0, 1)]
    expected = any(oracle(glob, name) for name in (path, *filter(None, above)))
    assert (pattern.fullmatch(path.encode()) is not None) == expected


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        # Each would take hours if every length of a star were tried with every length of the next.
        ("/*-*-*-*-*-*.png", "/" + "-" * 8000),
        ("*-*-*-*.png", "/" + "-" * 8000),
        ("/**a**a**a**a**b", "/" + "a" * 8000),
        ("a**a**a**a**b", "/" + "a/" * 4000),
        ("/*a**-*a**-*b", "/" + "a-" * 4000),
    ],
)
def test_a_path_made_to_keep_a_glob_busy_does_not(glob: str, path: str) -> None:
    assert not matches(glob, path)


# -- targets ----------------------------------------------------------------------------------------------------


def test_a_target_is_filled_with_what_the_stars_stood_for() -> None:
    assert fill_in("/new/$1", (b"a/b",), quote=True) == b"/new/a/b"
    assert fill_in("/$2/$1-$1", (b"a", b"b"), quote=True) == b"/b/a-a"
    assert fill_in("/$1$", (b"$2",), quote=True) == b"/$2$", "what is put in is not looked at again"


def test_in_a_url_what_is_put_in_is_percent_encoded() -> None:
    assert fill_in("/$1", ("é ?#%\r\n\\".encode(),), quote=True) == b"/%C3%A9%20%3F%23%25%0D%0A%5C"
    assert fill_in("/$1", (b"/!$&'()*+,;=:@~-._",), quote=True) == b"//!$&'()*+,;=:@~-._"


def test_in_a_path_nothing_is_encoded() -> None:
    assert fill_in("/日本/$1", ("é %".encode() + b"\xff",), quote=False) == "/日本/é %".encode() + b"\xff"


@pytest.mark.parametrize(("template", "glob"), [("/$1", "/*"), ("/$2/$1", "*/**"), ("/$", "/a"), ("/x", "/*")])
def test_a_target_may_refer_to_the_stars_that_there_are(template: str, glob: str) -> None:
    check_references(template, glob)


@pytest.mark.parametrize(
    ("template", "glob", "message"),
    [
        ("/$1", "/a", "'/$1' refers to $1, and '/a' has no stars"),
        ("/$2", "/*", "'/$2' refers to $2, and '/*' has 1 star"),
        ("/$0", "/*/*", "'/$0' refers to $0, and '/*/*' has 2 stars"),
    ],
)
def test_a_target_that_refers_to_no_star_is_refused(template: str, glob: str, message: str) -> None:
    with pytest.raises(GlobError) as refused:
        check_references(template, glob)
    assert str(refused.value) == message
