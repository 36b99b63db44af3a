"""Names of files that try what reads, shows or links them."""

from __future__ import annotations

MODIFIED = 784_111_777

HOSTILE = [
    b'"><script>alert(1)<',
    b"<img src=x onerror=alert(1)>",
    b"' onmouseover='alert(1)",
    b"&lt;b&gt;&amp;",
    b"{{ 7 * 7 }}{% for x in y %}",
    b"</title><",
    b"javascript:alert(1)",
    b"http:",
    b"data:text,x",
    b"100%",
    b"%2e%2e%2fpasswd",
    b"what?",
    b"a#b",
    b"a;b=c&d=e+f",
    b"a\\..\\b",
    b" leading",
    b"trailing ",
    b"two\nlines\r\n\tand a tab",
    b"\x1b[31mred\x7f",
    "\u202egpj.exe".encode(),
    "\u2066isolated\u2069\u200f".encode(),
    "line\u2028separator\u0085".encode(),
    b"\xff\xfe\xc3",
    b"\xed\xa0\x80",
    b"~",
    b"-rf",
    b"...",
    "é".encode(),
    "日本語\u3000.txt".encode(),
]


def as_file_systems_have_it(name: bytes) -> bytes:
    """Neither a slash nor NUL, and none of the two dots."""
    name = name.replace(b"/", b"|").replace(b"\0", b"0")
    return b"..." if name in (b".", b"..") else name
