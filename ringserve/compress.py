"""`ringserve compress DIR`: makes the precompressed siblings (`name.br`, `name.zst`, `name.gz`) of a site's files.

A server that compresses while it answers must choose low levels and pays on each request. Here each file is compressed
once, at the highest level that pays, by as many processes as there are cores. The work goes in three steps: `walk`
finds the files, `plan` decides which siblings are wanted, `make_sibling` makes one of them.

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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import partial
from typing import NamedTuple, NoReturn

import click

from ringserve import media_types
from ringserve.semantics import fault_of_sibling

USER_ERROR = 2
"""As in cli.py."""
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
"""Each process holds a whole source and its result in memory. A larger file is hardly a page's resource."""
SMALLER_BY_PERCENT = 5
"""What a sibling must save. Less does not pay for decoding it."""
JOBS_MAX = 1024
NAMES_MAX = 200_000
"""Names that `ringserve --check` looks at for siblings: up to two seconds, where the kernel has them in memory."""


class Outcome(Enum):
    """What became of one sibling."""

    WRITTEN = "written"
    NOT_SMALLER = "not smaller"
    FAILED = "failed"


class Source(NamedTuple):
    """A regular file of the site, as the walk saw it."""

    path: str
    size: int
    mtime_ns: int


class Task(NamedTuple):
    """A sibling to make."""

    source: Source
    coding: str


class Result(NamedTuple):
    """A task that was done. bytes_before and bytes_after count only if it was written. error: for stderr, if failed."""

    task: Task
    outcome: Outcome
    bytes_before: int = 0
    bytes_after: int = 0
    error: str = ""


class Plan(NamedTuple):
    """The tasks, and how many siblings (fresh) and files (too_small, too_large) have none; errors are for stderr."""

    tasks: list[Task]
    fresh: int
    too_small: int
    too_large: int
    errors: list[str]


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


def plan(directory: str, codings: list[str], *, minimum: int, force: bool) -> Plan:
    """Which siblings to make: the dearest first, so that the last process to finish does not finish late."""
    errors: list[str] = []
    tasks: list[Task] = []
    counts: Counter[str] = Counter()
    for source in walk(directory, errors):
        if source.size < minimum or source.size > SOURCE_BYTES_MAX:
            counts["small" if source.size < minimum else "large"] += 1
            continue
        for coding in codings:
            try:
                fresh = is_fresh(source, source.path + SUFFIXES[coding])
            except OSError as error:
                errors.append(_explain(error))
                continue
            if fresh and not force:
                counts["fresh"] += 1
            else:
                tasks.append(Task(source, coding))
    tasks.sort(key=lambda task: (codings.index(task.coding), -task.source.size))
    return Plan(tasks, counts["fresh"], counts["small"], counts["large"], errors)


def read_file(path: str) -> tuple[os.stat_result, bytes]:
    """What a file was just before it was read, and what it holds."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return os.fstat(file.fileno()), file.read()


def make_sibling(task: Task, *, dry_run: bool) -> Result:
    """Compress one file. An OSError is that file's matter, and told; anything else ends the run."""
    path = task.source.path
    sibling = path + SUFFIXES[task.coding]
    try:
        before, data = read_file(path)
        encoded = encode(task.coding, data)
        if not is_worth_it(len(data), len(encoded)):
            # A stale sibling stays: the server ignores it, and it may be somebody's own file of that name.
            return Result(task, Outcome.NOT_SMALLER)
        if not dry_run:
            replace_file(sibling, encoded, before)
    except OSError as error:
        return Result(task, Outcome.FAILED, error=f"{click.format_filename(path)}: {error.strerror}")
    return Result(task, Outcome.WRITTEN, len(data), len(encoded))


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


def _ignore_interrupts() -> None:
    import signal

    # Ctrl-C reaches the whole process group. The parent hands out no more work; what has begun is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def perform(tasks: list[Task], jobs: int, *, dry_run: bool) -> Iterator[Result]:
    """The results in the order of their completion; in this process if there is but one job."""
    work = partial(make_sibling, dry_run=dry_run)
    if min(jobs, len(tasks)) <= 1:
        yield from map(work, tasks)
        return
    # Imported here, since the command line imports this module before each start of the server.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    # Spawned, not forked: what the parent has open and running does not leak into the workers.
    executor = ProcessPoolExecutor(
        min(jobs, len(tasks)), multiprocessing.get_context("spawn"), initializer=_ignore_interrupts
    )
    try:
        for future in as_completed([executor.submit(work, task) for task in tasks]):
            yield future.result()
    finally:
        executor.shutdown(cancel_futures=True)


def summary(results: list[Result], planned: Plan, codings: list[str], *, minimum: int, dry_run: bool) -> str:
    """What was done, a line for each coding, and what was left out."""
    lines = []
    for coding in codings:
        written = [result for result in results if result.task.coding == coding and result.outcome is Outcome.WRITTEN]
        before = sum(result.bytes_before for result in written)
        after = sum(result.bytes_after for result in written)
        saved = f", {100 - after * 100 / before:.1f} % smaller" if before else ""
        lines.append(f"{coding:<4}  {len(written)} files, {before} -> {after} bytes{saved}")
    not_smaller = sum(result.outcome is Outcome.NOT_SMALLER for result in results)
    lines.append(f"siblings left out: fresh {planned.fresh}, not {SMALLER_BY_PERCENT} % smaller {not_smaller}")
    lines.append(
        f"files left out: below {minimum} bytes {planned.too_small}, "
        f"above {SOURCE_BYTES_MAX // 1024 // 1024} MiB {planned.too_large}"
    )
    if dry_run:
        lines.append("Nothing was written, since --dry-run was given.")
    return "\n".join(lines)


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
@click.option(
    "--minimum",
    type=click.IntRange(0),
    default=MINIMUM_BYTES,
    show_default=True,
    metavar="BYTES",
    help="Leave smaller files alone.",
)
@click.option("--jobs", type=click.IntRange(1, JOBS_MAX), help="Processes at work.  [default: all cores]")
@click.option("--force", is_flag=True, help="Make fresh siblings anew.")
@click.option("--dry-run", is_flag=True, help="Compress and count, but write nothing.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
def compress_command(
    directory: str, chosen: tuple[str, ...], minimum: int, jobs: int | None, force: bool, dry_run: bool, quiet: bool
) -> None:
    """Make precompressed siblings (name.br, name.zst, name.gz) of the files below DIRECTORY.

    Only files of compressible types get them. Dotfiles, except below .well-known, and symbolic links are skipped.
    A sibling that is not older than its file is kept.
    """
    codings = [coding for coding in SUFFIXES if not chosen or coding in chosen]
    if not os.path.isdir(directory):
        _fail(f"{directory} is not a directory; name the one that holds the site")
    if (advice := missing_library(codings)) is not None:
        _fail(advice)
    planned = plan(directory, codings, minimum=minimum, force=force)
    results: list[Result] = []
    try:
        with click.progressbar(
            perform(planned.tasks, jobs or len(os.sched_getaffinity(0)), dry_run=dry_run),
            length=len(planned.tasks),
            label="compressing",
            file=sys.stderr,
            hidden=quiet or not sys.stderr.isatty(),
        ) as progress:
            results.extend(progress)
    except RuntimeError as error:
        # BrokenProcessPool, by its base: its module is not loaded where one process does it all.
        if type(error).__name__ != "BrokenProcessPool":
            raise
        _say("a process was killed, perhaps for want of memory; try fewer --jobs")
        sys.exit(SOME_FAILED)
    except KeyboardInterrupt:
        _say("interrupted; what is done stays, and a new run goes on from here")
        sys.exit(INTERRUPTED)
    failed = planned.errors + [result.error for result in results if result.outcome is Outcome.FAILED]
    # One that cannot be read fails in each coding alike, and is told once.
    for line in dict.fromkeys(failed):
        _say(line)
    if not quiet:
        click.echo(summary(results, planned, codings, minimum=minimum, dry_run=dry_run))
    sys.exit(SOME_FAILED if failed else 0)
