"""Precompressed siblings, over the wire: which is answered, with what fields, and when it is not."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import httpx
import pytest
from conftest import Serving
from exchanges import MODIFIED
from wire import Wire, get

SOURCE = b"body { color: red }\n" * 200


def fill(site: Path, *, times: dict[str, int] | None = None) -> dict[str, bytes]:
    """A style sheet and its three siblings; for the server they are only bytes. Returns the bytes by coding."""
    contents = {"identity": SOURCE, "br": b"brotli bytes", "zstd": b"zstd bytes!", "gzip": gzip.compress(SOURCE)}
    endings = {"identity": "", "br": ".br", "zstd": ".zst", "gzip": ".gz"}
    for coding, content in contents.items():
        path = site / f"style.css{endings[coding]}"
        path.write_bytes(content)
        moment = (times or {}).get(coding, MODIFIED)
        os.utime(path, (moment, moment))
    return contents


@pytest.mark.parametrize("cached", [0, 1 << 20], ids=["spliced", "from-memory"])
@pytest.mark.parametrize(
    ("accepts", "coding"),
    [
        (None, "identity"),
        ("", "identity"),
        ("gzip", "gzip"),
        ("gzip, zstd, br", "br"),
        ("gzip, deflate", "gzip"),
        ("gzip;q=1, br;q=0.5", "gzip"),
        ("br;q=0, gzip;q=0.1", "gzip"),
        ("*", "br"),
        ("*;q=0.5, zstd", "zstd"),
        ("identity", "identity"),
        ("identity, gzip;q=0.5", "identity"),
        ("deflate", "identity"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
    ],
)
def test_the_qualities_decide_and_our_order_breaks_ties(
    serving: Serving, site: Path, accepts: str | None, coding: str, cached: int
) -> None:
    contents = fill(site)
    fields = () if accepts is None else (f"Accept-Encoding: {accepts}",)
    with Wire(serving(cached_file_bytes_max=cached).url) as wire:
        for _again in range(3):
            answer = wire.ask(get("/style.css", *fields))
            assert answer.status == 200
            assert answer.body == contents[coding]
            assert answer.fields.get("content-encoding", "identity") == coding
            assert answer.fields["vary"] == "Accept-Encoding"
            assert answer.fields["content-type"] == "text/css; charset=utf-8"


def test_each_coding_has_a_tag_of_its_own_and_vary_is_on_every_answer(serving: Serving, site: Path) -> None:
    contents = fill(site)
    with Wire(serving().url) as wire:
        tags = {}
        for coding in contents:
            accept = f"Accept-Encoding: {coding}"
            tags[coding] = wire.ask(get("/style.css", accept)).fields["etag"]
            for fields, status in (
                ((f"If-None-Match: {tags[coding]}",), 304),
                (("Range: bytes=2-5",), 206),
                (("Range: bytes=99999-",), 416),
                (('If-Match: "other"',), 412),
            ):
                answer = wire.ask(get("/style.css", accept, *fields))
                assert answer.status == status
                assert answer.fields["vary"] == "Accept-Encoding"
            part = wire.ask(get("/style.css", accept, "Range: bytes=2-5", f"If-Range: {tags[coding]}"))
            assert part.body == contents[coding][2:6], "a range of a coding is a range of its bytes"
        assert len(set(tags.values())) == 4
        other = wire.ask(get("/style.css", "Accept-Encoding: br", f"If-None-Match: {tags['gzip']}"))
        assert other.status == 200


def test_a_client_that_accepts_nothing_is_told_so(serving: Serving, site: Path) -> None:
    fill(site)
    (site / "plain.txt").write_bytes(b"plain")
    with Wire(serving().url) as wire:
        assert wire.ask(get("/style.css", "Accept-Encoding: identity;q=0, deflate")).status == 406
        assert wire.ask(get("/plain.txt", "Accept-Encoding: *;q=0")).status == 406
        assert wire.ask(get("/style.css", "Accept-Encoding: identity;q=0, gzip")).status == 200


def test_a_sibling_older_than_its_source_is_ignored(serving: Serving, site: Path) -> None:
    fill(site, times={"br": MODIFIED - 1})
    with Wire(serving().url) as wire:
        assert wire.ask(get("/style.css", "Accept-Encoding: br")).body == SOURCE
        answer = wire.ask(get("/style.css", "Accept-Encoding: br, gzip"))
        assert answer.fields["content-encoding"] == "gzip"


def test_without_siblings_nothing_varies(serving: Serving, site: Path) -> None:
    (site / "plain.txt").write_bytes(b"plain")
    with Wire(serving().url) as wire:
        answer = wire.ask(get("/plain.txt", "Accept-Encoding: br, gzip"))
        assert "vary" not in answer.fields
        assert "content-encoding" not in answer.fields


def test_a_sibling_that_comes_changes_or_goes_is_noticed_at_once(serving: Serving, site: Path) -> None:
    (site / "page.html").write_bytes(b"source")
    request = get("/page.html", "Accept-Encoding: br")
    with Wire(serving().url) as wire:
        for number in range(30):
            assert wire.ask(request).body == b"source"
            content = b"compressed %d" % number
            (site / "page.html.br").write_bytes(content)
            assert wire.ask(request).body == content
            (site / "page.html.br").unlink()


def test_an_index_is_negotiated_like_any_file(serving: Serving, site: Path) -> None:
    (site / "index.html").write_bytes(b"<title>home</title>")
    (site / "index.html.gz").write_bytes(gzip.compress(b"<title>home</title>"))
    response = httpx.get(serving().url)  # decodes what it says that it accepts
    assert response.headers["content-encoding"] == "gzip"
    assert response.text == "<title>home</title>"
