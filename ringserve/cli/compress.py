"""`ringserve compress DIR`: makes the precompressed siblings (`name.br`, `name.zst`, `name.gz`) of a site's files.

A server that compresses while it answers must choose low levels and pays on each request. Here each file is compressed
once, at the highest level that pays, by a thread for each processor: the libraries let others run while they work.
`walk` finds the files, `make_sibling` makes one sibling.

A sibling carries the modification time of its source, taken *before* the source was read. A source that changes in the
meantime is then newer than its sibling, which the server ignores and the next run replaces.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple, NoReturn

import click

from ringserve.http import media_types
from ringserve.http.semantics import fault_of_sibling

USER_ERROR = 2
"""As in command.py."""
SOME_FAILED = 1
INTERRUPTED = 130
"""What a shell reports for a command that SIGINT ended."""

SUFFIXES = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}
"""The codings by their name in Content-Encoding, slowest first, and what is added to the name of the source."""

LIBRARIES = {"br": "brotli", "zstd": "zstandard"}

BROTLI_LEVEL = 11
BROTLI_LEVEL_LARGE = 9
BROTLI_LARGE_BYTES = 4 * 1024 * 1024
"""Level 11 does about 0.5 MB/s: beyond this size one file would hold up the whole run for a few percent."""
ZSTD_LEVEL = 19
"""Its window is 8 MiB, the most that a browser must accept (RFC 9659). Levels 20 to 22 exceed that."""
GZIP_LEVEL = 9
GZIP_WINDOW_BITS = 31
"""15, and 16 for the wrapper of gzip. zlib writes no name and no time into it, so the output is reproducible."""

MINIMUM_BYTES = 256
"""A smaller file fits in one packet with its head, compressed or not, and is not worth the Vary of its response."""
SOURCE_BYTES_MAX = 256 * 1024 * 1024
"""Each thread holds a whole source and its result in memory. A larger file is hardly a page's resource."""
SMALLER_BY_PERCENT = 5
"""What a sibling must save. Less does not pay for decoding it."""
NAMES_MAX = 200_000
"""Names that `ringserve --check` looks at for siblings: up to two seconds, where the kernel has them in memory."""


class Source(NamedTuple):
    """A regular file of the site, as the walk saw it."""

    path: str
    size: int
    mtime_ns: int


def is_compressible(name: str) -> bool:
    """Whether the server would look for siblings of a file."""
    return media_types.is_compressible(media_types.content_type(os.fsencode(name)))


def is_visible(name: str, *, at_root: bool) -> bool:
    """Whether a walk looks at a name: the server's rule for dotfiles, with .well-known at the root only (RFC 8615)."""
    return not name.startswith(".") or (at_root and name == ".well-known")


def is_worth_it(bytes_before: int, bytes_after: int) -> bool:
    """Whether a result saves enough to be kept."""
    return bytes_after * 100 <= bytes_before * (100 - SMALLER_BY_PERCENT)


def brotli_level(size: int) -> int:
    """The quality for a source of this size."""
    return BROTLI_LEVEL if size <= BROTLI_LARGE_BYTES else BROTLI_LEVEL_LARGE


def encode(coding: str, data: bytes) -> bytes:
    """The data in a coding. The optional libraries are loaded here, so that the server does without them."""
    if coding == "gzip":
        return zlib.compress(data, GZIP_LEVEL, GZIP_WINDOW_BITS)
    library = importlib.import_module(LIBRARIES[coding])
    compress: Callable[[bytes], bytes]
    if coding == "br":
        compress = partial(library.compress, quality=brotli_level(len(data)))
    else:
        compress = library.ZstdCompressor(level=ZSTD_LEVEL).compress
    return compress(data)


def missing_library(codings: Iterable[str]) -> str | None:
    """What to tell a user whose chosen codings need a library that is not installed."""
    missing = []
    for coding in codings:
        try:
            if coding in LIBRARIES:
                importlib.import_module(LIBRARIES[coding])
        except ImportError:
            missing.append(coding)
    if not missing:
        return None
    names = " and ".join(LIBRARIES[coding] for coding in missing)
    verb, pronoun = ("is", "it") if len(missing) == 1 else ("are", "them")
    others = " ".join(f"--coding {coding}" for coding in SUFFIXES if coding not in missing)
    return f"{names} {verb} not installed; pip install 'ringserve[compress]', or leave {pronoun} out with {others}"


def _explain(error: OSError) -> str:
    return f"{click.format_filename(error.filename or '?')}: {error.strerror}"


def walk(directory: str, errors: list[str]) -> Iterator[Source]:
    """The compressible files below a directory, by name. Symbolic links are not followed: they have siblings of theirs.

    What cannot be looked at is added to errors.
    """
    for parent, directories, names in os.walk(directory, onerror=lambda error: errors.append(_explain(error))):
        directories[:] = sorted(name for name in directories if is_visible(name, at_root=parent == directory))
        for name in sorted(names):
            if not is_visible(name, at_root=False) or not is_compressible(name):
                continue
            path = os.path.join(parent, name)
            try:
                seen = os.lstat(path)
            except OSError as error:
                errors.append(_explain(error))
                continue
            if stat.S_ISREG(seen.st_mode):
                yield Source(path, seen.st_size, seen.st_mtime_ns)


def is_fresh(source: Source, path: str) -> bool:
    """Whether there is a sibling that may stand for its source, by the server's own rule. What is there but no file is
    not ours to replace: OSError.
    """
    try:
        seen = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(seen.st_mode):
        raise OSError(0, "is not a regular file, and is left alone", path)
    return fault_of_sibling(seen.st_mtime_ns, seen.st_size, source.mtime_ns, source.size) is None


def left_out(directory: str, *, follow_symlinks: bool) -> Iterator[str]:
    """The precompressed siblings below a directory that the server does not serve, each with the reason.

    Symbolic links to directories are not followed. After NAMES_MAX names it looks no further.
    """
    names_left = NAMES_MAX
    for parent, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if is_visible(name, at_root=parent == directory))
        present = frozenset(names)
        for name in sorted(names):
            for suffix in SUFFIXES.values():
                if name + suffix in present and is_visible(name, at_root=False) and is_compressible(name):
                    path = os.path.join(parent, name)
                    fault = _fault_of(path, path + suffix, None if follow_symlinks else directory)
                    if fault is not None:
                        yield f"{os.path.normpath(path + suffix)} {fault}"
        names_left -= len(names)
        if names_left <= 0:
            return


def _fault_of(path: str, sibling: str, root: str | None) -> str | None:
    """Why the server does not serve a sibling of a file; root: what links must not lead out of."""
    try:
        source, seen = os.stat(path), os.stat(sibling)
    except OSError as error:
        return f"cannot be read ({error.strerror})" if error.filename == sibling else None
    if not stat.S_ISREG(source.st_mode) or not stat.S_ISREG(seen.st_mode):
        return None
    if not os.access(sibling, os.R_OK):
        return "may not be read"
    if root is not None and os.path.islink(sibling):
        inside = os.path.realpath(root)
        # To openat2(2) with RESOLVE_BENEATH an absolute link leads out, wherever it leads to.
        is_absolute = os.readlink(sibling).startswith("/")
        if is_absolute or os.path.commonpath((inside, os.path.realpath(sibling))) != inside:
            return "leads out of the root through a symbolic link"
    return fault_of_sibling(seen.st_mtime_ns, seen.st_size, source.st_mtime_ns, source.st_size)


def read_file(path: str) -> tuple[os.stat_result, bytes]:
    """What a file was just before it was read, and what it holds."""
    with open(os.open(path, os.O_NOFOLLOW), "rb") as file:
        return os.fstat(file.fileno()), file.read()


def make_sibling(source: Source, coding: str, *, force: bool) -> str | None:
    """Compress one file, unless it has a fresh sibling.

    Returns the sibling's path if it was written. Raises OSError, which names what to look at.
    """
    sibling = source.path + SUFFIXES[coding]
    if is_fresh(source, sibling) and not force:
        return None
    try:
        before, data = read_file(source.path)
        encoded = encode(coding, data)
        if not is_worth_it(len(data), len(encoded)):
            # A stale sibling stays: the server ignores it, and it may be somebody's own file of that name.
            return None
        replace_file(sibling, encoded, before)
    except OSError as error:
        raise OSError(error.errno, error.strerror, source.path) from error
    return sibling


def replace_file(path: str, data: bytes, like: os.stat_result) -> None:
    """Put a file in the place of another at once, with the permissions and modification time of a third.

    There is no fsync: a sibling lost in a crash of the machine is made again by the next run. The temporary name is
    short, since one made of the file's own might be too long, and a dotfile, which neither is served nor compressed.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=".ringserve-", dir=os.path.dirname(path) or ".")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), like.st_mode & 0o777)
        os.utime(temporary, ns=(like.st_atime_ns, like.st_mtime_ns))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _say(message: str) -> None:
    click.echo(f"ringserve: {message}", err=True)


def _fail(message: str) -> NoReturn:
    _say(message)
    sys.exit(USER_ERROR)


@click.command("ringserve compress", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directory")
@click.option(
    "--coding", "chosen", type=click.Choice(list(SUFFIXES)), multiple=True, help="Make only these.  [default: all]"
)
@click.option("--force", is_flag=True, help="Make fresh siblings anew.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
def compress_command(directory: str, chosen: tuple[str, ...], force: bool, quiet: bool) -> None:
    """Make precompressed siblings (name.br, name.zst, name.gz) of the files below DIRECTORY.

    Only files of compressible types get them. Dotfiles, except below .well-known, and symbolic links are skipped.
    A sibling that is not older than its file is kept.
    """
    # Imported here, since the command line imports this module before each start of the server.
    from concurrent.futures import ThreadPoolExecutor, as_completed

    codings = [coding for coding in SUFFIXES if not chosen or coding in chosen]
    if not os.path.isdir(directory):
        _fail(f"{directory} is not a directory; name the one that holds the site")
    if (advice := missing_library(codings)) is not None:
        _fail(advice)
    errors: list[str] = []
    written = 0
    # The largest first, so that the last thread does not finish late.
    sources = sorted(walk(directory, errors), key=lambda source: -source.size)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as executor:
        try:
            jobs = [
                executor.submit(make_sibling, source, coding, force=force)
                for coding in codings
                for source in sources
                if MINIMUM_BYTES <= source.size <= SOURCE_BYTES_MAX
            ]
            for job in as_completed(jobs):
                try:
                    written += job.result() is not None
                except OSError as error:
                    errors.append(_explain(error))
        except KeyboardInterrupt:
            executor.shutdown(cancel_futures=True)
            _say("interrupted; what is done stays, and a new run goes on from here")
            sys.exit(INTERRUPTED)
    # One that cannot be read fails in each coding alike, and is told once.
    for line in dict.fromkeys(errors):
        _say(line)
    if not quiet:
        click.echo(f"{written} files written; {len(jobs) - written} were there already, or would save too little")
    sys.exit(SOME_FAILED if errors else 0)
