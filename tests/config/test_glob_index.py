"""Which of many globs are about a path: as a match of every glob says, and without trying most of them."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ringserve.config.glob_index import GlobIndex
from ringserve.config.globs import GlobError, compile_glob, compile_with_contents

PIECES = ["/", "a", "b.c", ".c", ".d.c", "*", "**", "?", "{a,b}", "{.c,.d}", "{*.c,a}", "{a/b,c}", "}", "é", "-"]
GLOBS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)
PATHS = st.lists(st.sampled_from(["/", "a", "b.c", ".c", ".d", "c", "}", "é", "-"]), max_size=8).map(
    lambda parts: ("/" + "".join(parts)).encode()
)


def is_readable(glob: str) -> bool:
    try:
        compile_glob(glob)
    except GlobError:
        return False
    return True


@given(st.lists(GLOBS.filter(is_readable), max_size=6), PATHS, st.booleans())
@example(["/a", "a", "/a/", "/a/**"], b"/a/b", True)
@example(["/{a,b}", "{a.c,a.d}", "*.{c,d}", "/x{,y}.c"], b"/a.c", False)
@example(["*.c", "**.c", "/**/b.c", "b.c", "a/b.c"], b"/a/b.c", False)
@example(["*", "?", "/?", "**"], b"/", False)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_an_index_finds_what_a_match_of_every_glob_finds(globs: list[str], path: bytes, contents: bool) -> None:
    index = GlobIndex(enumerate(globs), contents=contents)
    compiled = [(compile_with_contents if contents else compile_glob)(glob) for glob in globs]
    matches = [(number, pattern.fullmatch(path)) for number, pattern in enumerate(compiled)]
    found = [(number, match.groups()) for number, match in matches if match]
    assert index.all(path) == {number for number, _groups in found}
    first = index.first(path)
    assert (None if first is None else (first[0], first[1].groups())) == (found[0] if found else None)


@pytest.mark.parametrize(
    ("globs", "path"),
    [
        ([f"/old/page-{number}" for number in range(500)], b"/old/page-7"),
        ([f"/old-{number}/**" for number in range(500)], b"/old-7/a/b"),
        ([f"*.x{number}" for number in range(500)], b"/a/b.x7"),
        ([f"name-{number}" for number in range(500)], b"/a/name-7"),
        ([f"/a/*/c-{number}.{{js,css}}" for number in range(500)], b"/a/b/c-7.css"),
    ],
)
def test_of_many_globs_only_those_that_could_match_are_tried(globs: list[str], path: bytes) -> None:
    index = GlobIndex(enumerate(globs))
    assert [number for number, _pattern in index._candidates(path)] == [7]


def test_a_path_of_thousands_of_directories_is_looked_up_no_deeper_than_the_globs_are() -> None:
    index = GlobIndex([(0, "/a/b/*"), (1, "*.c")])
    assert index.all(b"/a/b/" + b"x/" * 4000 + b".c") == {1}
    assert index._deepest == 3
