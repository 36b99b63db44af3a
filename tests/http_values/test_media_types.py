"""Content types by name."""

from __future__ import annotations

import mimetypes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringserve.http.media_types import (
    _BY_EXTENSION,
    _WITH_CHARSET,
    _WITHOUT_CHARSET,
    UNKNOWN,
    content_type,
    is_compressible,
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"index.html", b"text/html; charset=utf-8"),
        (b"a/b/INDEX.HTML", b"text/html; charset=utf-8"),
        (b"a.js", b"text/javascript; charset=utf-8"),
        (b"a.mjs", b"text/javascript; charset=utf-8"),
        (b"a.json", b"application/json; charset=utf-8"),
        (b"a.css", b"text/css; charset=utf-8"),
        (b"a.txt", b"text/plain; charset=utf-8"),
        (b"app.3f9a1c2b.js", b"text/javascript; charset=utf-8"),
        (b"a.svg", b"image/svg+xml"),
        (b"a.PnG", b"image/png"),
        (b"a.woff2", b"font/woff2"),
        (b"a.wasm", b"application/wasm"),
        (b"a.tar.gz", b"application/gzip"),
        (b"a b.pdf", b"application/pdf"),
        (b"dir.html/a.pdf", b"application/pdf"),
        (b"\xff.html", b"text/html; charset=utf-8"),
    ],
)
def test_the_extension_decides_in_any_case(path: bytes, expected: bytes) -> None:
    assert content_type(path) == expected


@pytest.mark.parametrize(
    "path",
    [
        b"", b"README", b"dir.html/README", b"a.", b"a.unknown", b".html", b"dir/.html", b"a.html/", b".", b"..",
        b"a.html ", b"a.html\xff", b"html",
    ],
)  # fmt: skip
def test_what_is_not_in_the_table_is_never_guessed(path: bytes) -> None:
    assert content_type(path) == UNKNOWN == b"application/octet-stream"


def test_an_extension_stands_in_one_table_only_and_in_lower_case() -> None:
    extensions = " ".join((*_WITH_CHARSET.values(), *_WITHOUT_CHARSET.values())).split()
    assert all(extension == extension.lower() for extension in extensions)
    assert len(_BY_EXTENSION) == len(extensions)


def test_every_text_type_has_a_charset() -> None:
    texts = [value for value in _BY_EXTENSION.values() if value.startswith((b"text/", b"application/json"))]
    assert texts
    assert all(value.endswith(b"; charset=utf-8") for value in texts)


def test_the_hosts_table_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_type(b"a.html")
    monkeypatch.setitem(mimetypes.types_map, ".html", "application/x-evil")
    monkeypatch.setitem(mimetypes.types_map, ".ringserve-unknown", "application/x-evil")
    assert content_type(b"a.html") == before
    assert content_type(b"a.ringserve-unknown") == UNKNOWN


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=20), st.sampled_from(sorted(_BY_EXTENSION)))
def test_any_name_has_the_type_of_its_extension(stem: bytes, extension: bytes) -> None:
    expected = UNKNOWN if not stem or stem.endswith(b"/") else _BY_EXTENSION[extension]
    assert content_type(stem + b"." + extension) == expected


@pytest.mark.parametrize(
    "name", [b"a.html", b"a.css", b"a.js", b"a.json", b"a.svg", b"a.wasm", b"a.webmanifest", b"a.ttf"]
)
def test_text_and_its_like_are_worth_compressing(name: bytes) -> None:
    assert is_compressible(content_type(name))


@pytest.mark.parametrize("name", [b"a.png", b"a.mp4", b"a.woff2", b"a.zip", b"a.br", b"a", b"a.unknown"])
def test_what_is_compressed_already_is_not(name: bytes) -> None:
    assert not is_compressible(content_type(name))
