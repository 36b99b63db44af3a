"""`ringserve compress`: what it chooses, that what it writes is right, and what it leaves alone."""

from __future__ import annotations

import importlib
import os
import random
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from ringserve.cli import compress
from ringserve.cli.compress import (
    BROTLI_LARGE_BYTES,
    Source,
    brotli_level,
    compress_command,
    encode,
    is_compressible,
    is_fresh,
    is_visible,
    is_worth_it,
    missing_library,
)

PAGE = b"<p>The same sentence again and again, as on most pages.</p>\n" * 40
SECOND_NS = 1_000_000_000
TIME_NS = 1_700_000_000 * SECOND_NS + 123_456_789


class Said(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Said]


def unpack(coding: str, data: bytes) -> bytes:
    if coding == "gzip":
        return zlib.decompress(data, 31)
    library = importlib.import_module(compress.LIBRARIES[coding])
    plain = library.decompress(data) if coding == "br" else library.ZstdDecompressor().decompress(data)
    assert isinstance(plain, bytes)
    return plain


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> Said:
        with pytest.raises(SystemExit) as exit_:
            compress_command.main([*map(str, arguments)], prog_name="ringserve compress", standalone_mode=False)
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return Said(exit_.value.code, captured.out, captured.err)

    return call


def put(path: Path, data: bytes = PAGE, mtime_ns: int = TIME_NS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def listing(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}


def test_text_and_its_like_are_compressible() -> None:
    extensions = (
        "html CSS js mjs json map svg xml wasm txt md webmanifest ico ttf otf eot csv atom geojson xhtml".split()  # noqa: SIM905
    )
    assert [extension for extension in extensions if not is_compressible(f"a.{extension}")] == []


@pytest.mark.parametrize("name", ["a.png", "a.woff2", "a.mp4", "a.zip", "a.pdf", "a", "a.unknown", ".html"])
def test_what_is_compressed_or_unknown_is_not_compressible(name: str) -> None:
    assert not is_compressible(name)


@pytest.mark.parametrize("suffix", compress.SUFFIXES.values())
def test_a_sibling_is_itself_not_compressible(suffix: str) -> None:
    assert not is_compressible("a.html" + suffix)


def test_dotfiles_are_invisible_but_well_known_at_the_root_is_not() -> None:
    names = ("a", ".a", ".git", ".well-known", ".well-known2")
    assert [name for name in names if is_visible(name, at_root=True)] == ["a", ".well-known"]
    assert [name for name in names if is_visible(name, at_root=False)] == ["a"]


def test_a_sibling_is_fresh_unless_it_is_absent_or_older(tmp_path: Path) -> None:
    source = Source(str(put(tmp_path / "a.html")), len(PAGE), TIME_NS)
    sibling = tmp_path / "a.html.gz"
    assert not is_fresh(source, str(sibling))
    for mtime_ns, fresh in ((TIME_NS, True), (TIME_NS + 1, True), (TIME_NS - 1000, True), (TIME_NS - 1001, False)):
        assert is_fresh(source, str(put(sibling, b"coded", mtime_ns))) is fresh


def test_an_empty_sibling_is_not_fresh(tmp_path: Path, run: Run) -> None:
    put(tmp_path / "a.html")
    sibling = put(tmp_path / "a.html.gz", b"", TIME_NS + 1)
    run(tmp_path, "--coding", "gzip")
    assert unpack("gzip", sibling.read_bytes()) == PAGE


def test_a_result_must_save_five_percent() -> None:
    assert is_worth_it(1000, 950)
    assert not is_worth_it(1000, 951)
    assert not is_worth_it(0, 1)


def test_large_files_get_a_lower_brotli_level() -> None:
    assert brotli_level(BROTLI_LARGE_BYTES) == 11
    assert brotli_level(BROTLI_LARGE_BYTES + 1) == 9


@pytest.mark.parametrize("coding", compress.SUFFIXES)
def test_output_is_reproducible(coding: str) -> None:
    assert encode(coding, PAGE) == encode(coding, PAGE)


def test_gzip_says_neither_name_nor_time() -> None:
    head = encode("gzip", PAGE)[:8]
    assert head == b"\x1f\x8b\x08\x00" + bytes(4)


def test_a_zstd_frame_needs_no_larger_window_than_browsers_accept() -> None:
    zstandard = importlib.import_module("zstandard")
    frame = encode("zstd", bytes(range(256)) * (64 * 1024))
    assert zstandard.get_frame_parameters(frame).window_size <= 8 * 1024 * 1024


def test_siblings_decode_to_their_source_and_have_its_mode_and_time(tmp_path: Path, run: Run) -> None:
    for name in ("index.html", "sub/style.css"):
        put(tmp_path / name).chmod(0o640)
    assert run(tmp_path).status == 0
    for name in ("index.html", "sub/style.css"):
        for coding, suffix in compress.SUFFIXES.items():
            sibling = tmp_path / (name + suffix)
            assert unpack(coding, sibling.read_bytes()) == PAGE
            assert stat.S_IMODE(sibling.stat().st_mode) == 0o640
            assert sibling.stat().st_mtime_ns == TIME_NS
    assert len(listing(tmp_path)) == 8


def test_only_the_chosen_codings_are_made(tmp_path: Path, run: Run) -> None:
    put(tmp_path / "a.html")
    run(tmp_path, "--coding", "gzip", "--coding", "zstd")
    assert listing(tmp_path) == {"a.html", "a.html.gz", "a.html.zst"}


def test_fresh_siblings_are_left_alone_unless_forced(tmp_path: Path, run: Run) -> None:
    put(tmp_path / "a.html")
    sibling = put(tmp_path / "a.html.gz", b"mine", TIME_NS + 1)
    before = sibling.stat()
    said = run(tmp_path, "--coding", "gzip")
    after = sibling.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert said.out == "0 files written; 1 were there already, or would save too little\n"
    run(tmp_path, "--coding", "gzip", "--force")
    assert unpack("gzip", sibling.read_bytes()) == PAGE


def test_stale_siblings_are_replaced(tmp_path: Path, run: Run) -> None:
    put(tmp_path / "a.html")
    sibling = put(tmp_path / "a.html.gz", b"old", TIME_NS - SECOND_NS)
    run(tmp_path, "--coding", "gzip")
    assert unpack("gzip", sibling.read_bytes()) == PAGE


def test_a_second_run_does_nothing(tmp_path: Path, run: Run) -> None:
    put(tmp_path / "a.html")
    assert run(tmp_path).out.startswith("3 files written; 0 were there")
    assert run(tmp_path).out.startswith("0 files written; 3 were there")
    assert len(listing(tmp_path)) == 4


def test_what_does_not_get_smaller_is_not_written_and_its_stale_sibling_stays(tmp_path: Path, run: Run) -> None:
    noise = random.Random(1).randbytes(4096)
    put(tmp_path / "a.txt", noise)
    put(tmp_path / "a.txt.br", b"old", TIME_NS - SECOND_NS)
    said = run(tmp_path)
    assert listing(tmp_path) == {"a.txt", "a.txt.br"}
    assert (tmp_path / "a.txt.br").read_bytes() == b"old"
    assert said.out.startswith("0 files written; 3 were there")


def test_small_and_large_files_are_left_alone(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress, "SOURCE_BYTES_MAX", 2000)
    put(tmp_path / "small.html", PAGE[:255])
    put(tmp_path / "fits.html", PAGE[:256])
    put(tmp_path / "large.html", PAGE[:2001])
    said = run(tmp_path, "--coding", "gzip")
    assert listing(tmp_path) == {"small.html", "fits.html", "fits.html.gz", "large.html"}
    assert said.out.startswith("1 files written; 0 were there")


def test_dotfiles_and_symbolic_links_are_skipped(tmp_path: Path, run: Run) -> None:
    put(tmp_path / "site/.hidden.html")
    put(tmp_path / "site/.git/a.html")
    put(tmp_path / "site/sub/.well-known/a.json")
    put(tmp_path / "site/.well-known/a.json")
    put(tmp_path / "elsewhere/a.html")
    (tmp_path / "site/link.html").symlink_to(tmp_path / "elsewhere/a.html")
    (tmp_path / "site/linked").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "site/pipe.html")
    before = listing(tmp_path)
    run(tmp_path / "site", "--coding", "gzip")
    assert listing(tmp_path) - before == {"site/.well-known/a.json.gz"}


def test_a_crash_in_the_compressor_leaves_the_old_sibling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_coding: str, _data: bytes) -> bytes:
        raise MemoryError

    monkeypatch.setattr(compress, "encode", crash)
    put(tmp_path / "a.html")
    put(tmp_path / "a.html.gz", b"old", TIME_NS - SECOND_NS)
    with pytest.raises(MemoryError):
        compress_command.main([str(tmp_path)], standalone_mode=False)
    assert (tmp_path / "a.html.gz").read_bytes() == b"old"
    assert listing(tmp_path) == {"a.html", "a.html.gz"}


def test_a_replacement_that_fails_leaves_the_old_sibling_and_no_temporary_file(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        assert Path(source).name.startswith(".ringserve-")
        assert Path(source).parent == Path(target).parent
        raise OSError(28, "No space left on device", source)

    monkeypatch.setattr(os, "replace", refuse)
    put(tmp_path / "a.html")
    put(tmp_path / "a.html.gz", b"old", TIME_NS - SECOND_NS)
    said = run(tmp_path, "--coding", "gzip")
    assert said.status == 1
    assert said.err == f"ringserve: {tmp_path}/a.html: No space left on device\n"
    assert (tmp_path / "a.html.gz").read_bytes() == b"old"
    assert listing(tmp_path) == {"a.html", "a.html.gz"}


def test_an_unreadable_file_is_told_once_and_the_rest_goes_on(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_read = compress.read_file

    # Not by its mode: root, as in a container, reads everything.
    def read_file(path: str) -> tuple[os.stat_result, bytes]:
        if path.endswith("/secret.html"):
            raise PermissionError(13, "Permission denied", path)
        return really_read(path)

    monkeypatch.setattr(compress, "read_file", read_file)
    put(tmp_path / "secret.html")
    put(tmp_path / "z.html")
    said = run(tmp_path)
    assert said.status == 1
    assert said.err == f"ringserve: {tmp_path}/secret.html: Permission denied\n"
    assert listing(tmp_path) == {"secret.html", "z.html", "z.html.br", "z.html.zst", "z.html.gz"}


def test_a_sibling_that_is_no_regular_file_is_left_alone_and_told(tmp_path: Path, run: Run) -> None:
    put(tmp_path / "a.html")
    (tmp_path / "a.html.gz").symlink_to("elsewhere")
    said = run(tmp_path, "--coding", "gzip", "--force")
    assert said.status == 1
    assert said.err == f"ringserve: {tmp_path}/a.html.gz: is not a regular file, and is left alone\n"
    assert (tmp_path / "a.html.gz").is_symlink()


def _hide(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    really_import = importlib.import_module

    def import_module(name: str) -> ModuleType:
        if name in hidden:
            raise ModuleNotFoundError(name)
        return really_import(name)

    monkeypatch.setattr(importlib, "import_module", import_module)


def test_a_missing_library_is_one_line_that_names_the_fix(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hide(monkeypatch, "brotli", "zstandard")
    put(tmp_path / "a.html")
    said = run(tmp_path, "--coding", "br")
    assert said == (
        2,
        "",
        "ringserve: brotli is not installed; pip install 'ringserve[compress]', "
        "or leave it out with --coding zstd --coding gzip\n",
    )
    assert missing_library(["br", "zstd", "gzip"]) == (
        "brotli and zstandard are not installed; pip install 'ringserve[compress]', "
        "or leave them out with --coding gzip"
    )
    assert run(tmp_path, "--coding", "gzip").status == 0
    assert listing(tmp_path) == {"a.html", "a.html.gz"}


def test_a_missing_directory_is_one_line(tmp_path: Path, run: Run) -> None:
    said = run(tmp_path / "absent")
    assert said == (2, "", f"ringserve: {tmp_path}/absent is not a directory; name the one that holds the site\n")


def test_a_source_that_changes_while_it_is_read_is_newer_than_its_sibling(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_encode = compress.encode

    def change(coding: str, data: bytes) -> bytes:
        put(tmp_path / "a.html", PAGE + b"new", TIME_NS + SECOND_NS)
        return really_encode(coding, data)

    put(tmp_path / "a.html")
    monkeypatch.setattr(compress, "encode", change)
    run(tmp_path, "--coding", "gzip")
    assert (tmp_path / "a.html.gz").stat().st_mtime_ns < (tmp_path / "a.html").stat().st_mtime_ns


def test_quiet_says_nothing(tmp_path: Path, run: Run) -> None:
    put(tmp_path / "a.html")
    assert run(tmp_path, "--quiet") == (0, "", "")
