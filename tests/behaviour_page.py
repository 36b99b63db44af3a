"""`docs/behaviour.md`, made of the rows of exchanges.py: `python tests/behaviour_page.py` writes it (`make docs`)."""

from __future__ import annotations

import re
from pathlib import Path

from exchanges import GROUPS, Group, Row

from ringserve.http.response import phrase_of

PAGE = Path(__file__).parent.parent / "docs" / "behaviour.md"
SHOWN_MAX = 90

HEAD = """# What ringserve answers

Made of the table that the tests run against a real server (`tests/exchanges.py`), by `make docs`; a test fails when the
two differ. Each row is asked on a connection of its own and again and again, on the hot path and without it, cut in two
at every byte, byte by byte, and pipelined with the others. Sections are of RFC 9110 where no other RFC is named.

`Host: test` is sent where nothing else is shown. Fields in the answers are those that the row is about; every answer
has `Date` and `Server` too, and a `Content-Length` unless its status forbids one.

How long a connection may take (`ringserve/connection/states.py` has what follows what):

| what is awaited | at most | then |
|---|---|---|
| the first byte of a request, of the first one too | `keep-alive-timeout` | closed without a word |
| the rest of a head; all of a PROXY header | `header-timeout` | 408 |
| what answers the request | `answer-timeout` | 503, and the connection ends |
| its turn to ask a file system that may hang, or is slow | 5 s | 503 |
| that the client takes the response | `write-timeout`, `rate-bytes-min` | closed, by a reset if it took nothing |
| the end of what it still sends after the last response | `linger-timeout`, 30 s in all | closed |

When a change is served (`tests/files/test_silent_changes.py`, `tests/files/test_roots.py`). A file system is trusted if
only this kernel writes to it: ext4, XFS, Btrfs, F2FS, tmpfs, images on a block device, and overlay over them.

| what | served to requests sent |
|---|---|
| a file comes, goes, is written or replaced, or gets other permissions | after the change |
| the same by mmap(2), or by another name of the file that was made later | 10 s after it |
| something is mounted over the directory of a file | 10 s after it |
| a file that has several names, or is behind a symbolic link | 1 s after it |
| a file system that others write to (NFS, FUSE, 9p) | 1 s after it |
| a directory that is not watched: no inotify, no permission, or more than 4,096 | 1 s after it |
| the directory of a site is removed and made, renamed, linked to elsewhere, or mounted over | 1 s after it |
"""


def code(text: str) -> str:
    """As code in a cell of a table."""
    shown = "".join(character if " " <= character <= "~" else f"\\x{ord(character):02x}" for character in text)
    if len(shown) > SHOWN_MAX:
        shown = f"{shown[: SHOWN_MAX - 30]}… ({len(text)} bytes)"
    return f"`{shown}`".replace("|", "\\|")


def asked(row: Row) -> str:
    """The request: its line, and the fields beside the usual Host."""
    text = row.request.decode("latin-1")
    head, _, body = text.partition("\r\n\r\n")
    line, *fields = re.split("\r\n(?![ \t])", head.removeprefix("\r\n"))
    shown = [line.removesuffix(" HTTP/1.1"), *(field for field in fields if field != "Host: test")]
    if len(shown) > 6:
        shown = [*shown[:2], f"and {len(shown) - 2} more"]
    if body:
        shown.append(body)
    return " · ".join(code(part) for part in shown if part)


def answered(row: Row) -> str:
    """The response: its status, and the fields that the row is about."""
    parts = [f"{row.status} {phrase_of(row.status)}"]
    for name, value in row.fields.items():
        title = "ETag" if name == "etag" else "-".join(word.capitalize() for word in name.split("-"))
        if value is None:
            parts.append(f"no `{title}`")
        elif isinstance(value, str):
            parts.append(code(f"{title}: {value}"))
        else:
            parts.append(f"`{title}`")
    if row.closes and row.fields.get("connection") != "close":
        parts.append("the connection ends")
    return " · ".join(parts)


def section(row: Row) -> str:
    """A link to the section."""
    document, _, number = row.section.rpartition(" ")
    if document == "fetch":
        return "[Fetch 3.3](https://fetch.spec.whatwg.org/#http-cors-protocol)"
    rfc = document or "9110"
    return (
        f"[{'RFC ' + rfc + ' ' if document else ''}{number}](https://www.rfc-editor.org/rfc/rfc{rfc}#section-{number})"
    )


def render_group(group: Group) -> str:
    """One heading and its table."""
    lines = [f"## {group.title}", ""]
    if group.told:
        lines += [f"With {group.told}.", ""]
    if group.about:
        lines += [group.about]
    lines += ["| what | request | answer | section |", "|---|---|---|---|"]
    for row in group.rows:
        name = row.name[0].upper() + row.name[1:]
        lines.append(f"| {name} | {asked(row)} | {answered(row)} | {section(row)} |")
    return "\n".join(lines) + "\n"


def render() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(render_group(group) for group in GROUPS)])


if __name__ == "__main__":
    PAGE.write_text(render())
