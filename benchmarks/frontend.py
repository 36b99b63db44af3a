"""A front end as build tools make it: 217 files with hashes in their names, the same everywhere.

The numbers and sizes are near those of a real one (Open WebUI's): an entry, a tree of chunks that import each other,
more of them that are imported when that runs, style sheets, fonts that are preloaded, and pictures. The code does
nothing; what is beyond it in a file is a comment, so that a browser has little to do but ask.
"""

from __future__ import annotations

import functools
import random

CHUNKS, STATIC_CHUNKS = 168, 112
"""All, and those that the page needs before it runs: a tree, in which each imports two."""
STYLES, PICTURES, FONTS = 12, 25, 10
PRELOADED_CHUNKS = 40
LARGE_BYTES = (600_000, 300_000)
"""Of the first chunks of a build: what came from libraries."""
READY = "globalThis.ready"
"""A promise in the page: the number of modules, when the last one has run."""


@functools.cache
def files() -> dict[str, bytes]:
    """The files by their names below the front end's directory; `index.html` asks for all others."""
    chance = random.Random("application")
    chunks = [_name(chance, "chunks", "js") for _ in range(CHUNKS)]
    styles = [_name(chance, "assets", "css") for _ in range(STYLES)]
    fonts = [_name(chance, "assets", "woff2") for _ in range(FONTS)]
    pictures = [_name(chance, "assets", "svg") for _ in range(PICTURES)]
    entry = _name(chance, "entry", "js")
    made = {"index.html": _index(entry, chunks, styles, fonts, pictures), entry: _entry(chunks)}
    for place, name in enumerate(chunks):
        size = LARGE_BYTES[place] if place < len(LARGE_BYTES) else _size(chance, 3_000, 1.3)
        made[name] = _commented(chance, _chunk(place, chunks), size)
    for place, name in enumerate(styles):
        made[name] = _commented(chance, f".c{place}{{margin:0}}", _size(chance, 250_000 if place == 0 else 3_000, 0.8))
    for name in fonts:
        made[name] = b"wOF2" + chance.randbytes(_size(chance, 30_000, 0.3))
    for name in pictures:
        drawing = chance.randbytes(_size(chance, 600, 0.6)).hex()
        made[name] = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><desc>{drawing}</desc></svg>'.encode()
    return made


def _name(chance: random.Random, kind: str, ending: str) -> str:
    return f"immutable/{kind}/{chance.getrandbits(40):010x}.{ending}"


def _size(chance: random.Random, median: int, sigma: float) -> int:
    return max(150, min(400_000, round(median * chance.lognormvariate(0.0, sigma))))


def _commented(chance: random.Random, code: str, size: int) -> bytes:
    return f"{code}\n/*{chance.randbytes(max(0, size - len(code)) // 2).hex()}*/\n".encode()


def _chunk(place: int, chunks: list[str]) -> str:
    below = range(2 * place + 1, min(2 * place + 3, STATIC_CHUNKS))
    imports = [f'import "./{chunks[each].rpartition("/")[2]}";' for each in below]
    return "".join(imports) + f"export const place = {place};"


def _entry(chunks: list[str]) -> bytes:
    later = ",".join(f'"../../{name}"' for name in chunks[STATIC_CHUNKS:])
    return (
        f'import "../../{chunks[0]}";\n'
        f"{READY} = Promise.all([{later}].map(name => import(name))).then(all => all.length);\n"
    ).encode()


def _index(entry: str, chunks: list[str], styles: list[str], fonts: list[str], pictures: list[str]) -> bytes:
    lines = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Application</title>',
        '<link rel="icon" href="data:,">',  # or a browser asks for one when it likes
        *(f'<link rel="preload" as="font" type="font/woff2" href="{name}" crossorigin>' for name in fonts),
        *(f'<link rel="stylesheet" href="{name}">' for name in styles),
        *(f'<link rel="modulepreload" href="{name}">' for name in chunks[:PRELOADED_CHUNKS]),
        f'<script type="module" src="{entry}"></script></head><body>',
        *(f'<img alt="" width="16" height="16" src="{name}">' for name in pictures),
        "</body></html>",
    ]
    return "\n".join(lines).encode()
