"""What a server answers to every row of exchanges.py, byte for byte: `python tests/behaviour_dump.py > before`.

For a change that shall change no answer: the dumps of the revision before and of the one after are compared by diff(1).
Out of the bytes go the date, the boundary between parts, which each process chooses anew, and bodies of random bytes.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from exchanges import GROUPS, fill
from wire import Wire

from ringserve.library import serve

BODY_SHOWN_MAX = 20_000
_DATE = re.compile(rb"\r\nDate: [^\r]*")
_BOUNDARY = re.compile(rb"[0-9a-f]{32}")


def dump(out: list[str]) -> None:
    """One line a row."""
    for group in GROUPS:
        with tempfile.TemporaryDirectory() as directory:
            site = Path(directory) / "site"
            site.mkdir()
            fill(site, group.files)
            random_bytes = (site / "large.bin").read_bytes()
            with serve(site, **group.settings(site)) as server:
                for row in group.rows:
                    with Wire(server.url) as wire:
                        answer = wire.ask(row.request, method=row.method)
                    raw = _BOUNDARY.sub(b"BOUNDARY", _DATE.sub(b"", answer.raw))
                    is_random = len(answer.body) > BODY_SHOWN_MAX or (answer.body[:64] in random_bytes and answer.body)
                    shown = raw[: raw.index(b"\r\n\r\n") + 4] if is_random or b"multipart" in raw else raw
                    out.append(f"{group.title}: {row.name}: {shown!r}")


if __name__ == "__main__":
    lines: list[str] = []
    dump(lines)
    sys.stdout.write("\n".join(lines) + "\n")
