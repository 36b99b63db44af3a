"""The site that all servers serve, and the browsers that ask for it: made anew from fixed seeds, the same everywhere.

All files are below /files/, because one of the peers can only serve below a prefix. They are old, so that no server
takes them for files that may still change: validators of young files are weak in some, and entries are not kept.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import frontend
from processes import BenchmarkError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
HERE = Path(__file__).resolve().parent
PREFIX = "/files"
APPLICATION = f"{PREFIX}/application"
SINGLE_FILES = {
    "1k.bin": KIB,
    "64k.bin": 64 * KIB,
    "256k.bin": 256 * KIB,
    "1m.bin": MIB,
    "20m.bin": 20 * MIB,
    "1g.bin": GIB,
}
LAST_MODIFIED_S = 1_704_110_400  # 2024-01-01 12:00 UTC

MIX_FILES = 1000
MIX_BYTES_MIN, MIX_BYTES_MAX = 64, 60 * KIB
MIX_BYTES_MEDIAN, MIX_SIGMA = 4 * KIB, 1.4
"""Of the log-normal distribution before it is cut: most files of a site are some KiB, a few are pictures."""
MIX_TYPES = ("html", "css", "js", "json", "png", "jpg", "webp", "svg", "woff2", "ico")
ZIPF_EXPONENT = 1.0
"""The n-th most wanted file is asked for 1/n times as often as the first, as measured for web sites again and again."""

UNIQUE_FILES, UNIQUE_BYTES = 1_000, KIB
TAIL_FILES, LONGTAIL_FILES, TAIL_BYTES = 50_000, 200_000, 800
TAIL_FILES_PER_DIRECTORY = 500
BROWSERS = 200
COLD_FILES, COLD_BYTES = 200, 4 * MIB
BLOCK_BYTES = 16 * MIB
"""Large files repeat a block of random bytes, stamped with its number; making a GiB of random bytes takes seconds."""


@dataclass(frozen=True)
class Site:
    """What of the site exists. `root` is what the servers serve; targets begin with PREFIX."""

    root: Path

    def path(self, target: str) -> Path:
        return self.root / target.lstrip("/")

    def body(self, target: str, offset: int, length: int) -> bytes:
        with self.path(target).open("rb") as file:
            file.seek(offset)
            return file.read(length)


@dataclass(frozen=True)
class MixFile:
    """A file of the mix. `weight` is how often it is asked for, against the others."""

    target: str
    file_bytes: int
    weight: float


def single(name: str) -> str:
    """The target of one of the SINGLE_FILES."""
    return f"{PREFIX}/{name}"


def cold_targets() -> list[str]:
    return [f"{PREFIX}/cold/{number:03}.bin" for number in range(COLD_FILES)]


def unique_targets() -> list[str]:
    chance = random.Random("unique")
    return [f"{PREFIX}/unique/{chance.getrandbits(40):010x}.{chance.choice(MIX_TYPES)}" for _ in range(UNIQUE_FILES)]


def tail_targets(count: int) -> list[str]:
    """So many of the files of the long tail. All are pages, as most of such a site are."""
    return [f"{PREFIX}/tail/{number // TAIL_FILES_PER_DIRECTORY:03}/{number:06}.html" for number in range(count)]


def application_files() -> dict[str, bytes]:
    """The front end: what is in each of its files."""
    return {f"{APPLICATION}/{name}": data for name, data in frontend.files().items()}


def mix_files() -> list[MixFile]:
    """The files of the mix, the most wanted first. How much a file is wanted has nothing to do with its size."""
    chance = random.Random("mix")
    files = []
    for rank in range(1, MIX_FILES + 1):
        name = f"{chance.getrandbits(40):010x}.{chance.choice(MIX_TYPES)}"
        files.append(MixFile(f"{PREFIX}/mix/{name}", _size(chance), rank**-ZIPF_EXPONENT))
    return files


def _size(chance: random.Random) -> int:
    """A size within the bounds. Drawn again rather than cut off, so that none of the bounds is a common size."""
    while True:
        size = round(MIX_BYTES_MEDIAN * chance.lognormvariate(0.0, MIX_SIGMA))
        if MIX_BYTES_MIN <= size <= MIX_BYTES_MAX:
            return size


def mix_sequence(length: int) -> list[tuple[MixFile, str]]:
    """Who asks for what: files by their weight, browsers evenly."""
    chance = random.Random("sequence")
    files, browsers = mix_files(), browser_blocks()
    cumulative = list(accumulate(file.weight for file in files))
    wanted = chance.choices(files, cum_weights=cumulative, k=length)
    return [(file, chance.choice(browsers)) for file in wanted]


def browser_blocks(serial: str = "") -> list[str]:
    """The header fields of 200 browsers, as lines. Each has cookies of its own, so no two are equal. serial: it
    stands in the Referer and the Cookie.
    """
    chance = random.Random("browsers")
    return [_browser_block(chance, serial) for _ in range(BROWSERS)]


def _browser_block(chance: random.Random, serial: str) -> str:
    version = chance.randint(112, 131)
    agent, hints = chance.choice(
        (
            _chrome("Windows NT 10.0; Win64; x64", "Windows", version),
            _chrome("Macintosh; Intel Mac OS X 10_15_7", "macOS", version),
            _chrome("X11; Linux x86_64", "Linux", version),
            (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:{version}.0) Gecko/20100101 Firefox/{version}.0", []),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
                f"Version/17.{chance.randint(0, 6)} Mobile/15E148 Safari/604.1",
                [],
            ),
        )
    )
    languages = ("en-US,en;q=0.9", "de-DE,de;q=0.9,en;q=0.8", "fr-FR,fr;q=0.8,en-US;q=0.5,en;q=0.3", "ja,en;q=0.8")
    lines = [
        *hints,
        f"User-Agent: {agent}",
        "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
        "Sec-Fetch-Site: same-origin",
        "Sec-Fetch-Mode: no-cors",
        "Sec-Fetch-Dest: empty",
        f"Referer: http://localhost{PREFIX}/{serial}",
        "Accept-Encoding: gzip, deflate, br, zstd",
        f"Accept-Language: {chance.choice(languages)}",
        f"Cookie: {_cookies(chance, serial)}",
    ]
    return "".join(f"{line}\r\n" for line in lines)


def _chrome(system: str, platform: str, version: int) -> tuple[str, list[str]]:
    agent = f"Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0.0.0 Safari/537.36"
    hints = [
        f'sec-ch-ua: "Chromium";v="{version}", "Google Chrome";v="{version}", "Not?A_Brand";v="24"',
        "sec-ch-ua-mobile: ?0",
        f'sec-ch-ua-platform: "{platform}"',
    ]
    return agent, hints


def _cookies(chance: random.Random, serial: str) -> str:
    """A session and what analytics leave behind: 100 to 350 bytes."""
    cookies = [
        f"session={serial}{chance.getrandbits(128):032x}",
        f"_ga=GA1.1.{chance.randrange(10**9)}.{LAST_MODIFIED_S}",
    ]
    more = [f"_pref{index}={chance.getrandbits(chance.randrange(32, 160)):x}" for index in range(chance.randint(0, 5))]
    return "; ".join(cookies + more)


def make(root: Path, targets: Iterable[str]) -> Site:
    """Make the files behind the targets; their sizes follow from their names."""
    sizes = {single(name): size for name, size in SINGLE_FILES.items()}
    sizes |= {file.target: file.file_bytes for file in mix_files()}
    sizes |= dict.fromkeys(cold_targets(), COLD_BYTES)
    sizes |= dict.fromkeys(unique_targets(), UNIQUE_BYTES)
    sizes |= dict.fromkeys(tail_targets(LONGTAIL_FILES), TAIL_BYTES)
    contents = application_files()
    sizes |= {target: len(data) for target, data in contents.items()}
    wanted = {target: sizes[target] for target in dict.fromkeys(targets)}
    root.mkdir()
    (root / PREFIX.lstrip("/")).mkdir()
    stat = os.statvfs(root)
    if (needed := sum(wanted.values()) + 64 * MIB) > stat.f_bavail * stat.f_frsize:
        raise BenchmarkError(f"the files need {needed / GIB:.1f} GiB, and there is no room for them; see --directory")
    site = Site(root)
    for target, size in wanted.items():
        path = site.path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        if target in contents:
            path.write_bytes(contents[target])
        else:
            _write(path, size, random.Random(target))
        os.utime(path, (LAST_MODIFIED_S, LAST_MODIFIED_S))
    return site


def _write(path: Path, size: int, chance: random.Random) -> None:
    """Random bytes: nothing is gained by compressing or sharing. Large files are synced, for `cold` to drop them."""
    block = chance.randbytes(min(size, BLOCK_BYTES))
    with path.open("wb") as file:
        for number, offset in enumerate(range(0, size, BLOCK_BYTES)):
            stamp = b"" if number == 0 else b"%08d" % number
            file.write((stamp + block[len(stamp) :])[: size - offset])
        if size >= COLD_BYTES:
            file.flush()
            os.fdatasync(file.fileno())
