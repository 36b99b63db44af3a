"""Which of many globs are about a path, at a cost that does not grow with their number.

Theory of operation. Most globs say in letters where they begin and how they end: `/docs/*.html` is about names in
`/docs/` that end in `.html`, and `/old/page` about one path. So a glob is filed under the directory that it begins
with, and under the name or the ending that it ends with, where it has these. A path is looked up under each directory
above it and, there, under its name, its ending, and neither. What is found is matched in full: the index only leaves
out globs that cannot match. So it decides nothing, and a test compares it with a match of every glob.

Rejected: one expression with all globs as alternatives. Python's `re` tries one after the other, so it is as slow as a
loop, and says the first that matches, where header rules need all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ringserve.config.globs import compile_glob, compile_with_contents

_SPECIAL = re.compile(rb"[*?{]")
_PLAIN_ALTERNATIVES = re.compile(rb"([^*?{]*)\{([^*?{}/]*)\}")
"""The end of a glob, where one of some texts stands."""

Filed = tuple[int, re.Pattern[bytes]]


class GlobIndex:
    """Globs, each with the number of the rule that it belongs to.

    contents: a glob is about what lies in a directory that it matches, too (`compile_with_contents`).
    """

    def __init__(self, globs: Iterable[tuple[int, str]], *, contents: bool = False) -> None:
        self._contents = contents
        self._filed: dict[bytes, dict[bytes | None, list[Filed]]] = {}
        self._deepest = 0
        for number, glob in globs:
            filed = number, compile_with_contents(glob) if contents else compile_glob(glob)
            directory, ends = _place(glob.encode(), contents)
            self._deepest = max(self._deepest, directory.count(b"/"))
            for end in ends:
                self._filed.setdefault(directory, {}).setdefault(end, []).append(filed)

    def first(self, path: bytes) -> tuple[int, re.Match[bytes]] | None:
        """The lowest number of those that match `path`, which has its leading slash, and the match."""
        for number, pattern in self._candidates(path) if self._filed else ():
            match = pattern.fullmatch(path)
            if match is not None:
                return number, match
        return None

    def all(self, path: bytes) -> set[int]:
        """The numbers of all that match `path`, which has its leading slash."""
        return {number for number, pattern in self._candidates(path) if pattern.fullmatch(path) is not None}

    def _candidates(self, path: bytes) -> list[Filed]:
        where = path + b"/" if self._contents else path
        name = path[path.rfind(b"/") + 1 :]
        ends = name, name[name.rfind(b".") :] if b"." in name else None, None
        found: list[Filed] = []
        directory_end = 0
        for _depth in range(self._deepest + 1):  # a path may have 4,000 directories above it
            filed = self._filed.get(where[:directory_end])
            if filed is not None:
                for end in dict.fromkeys(ends):
                    found += filed.get(end, ())
            directory_end = where.find(b"/", directory_end) + 1
            if not directory_end:
                break
        found.sort(key=lambda filed: filed[0])
        return found


def _place(glob: bytes, contents: bool) -> tuple[bytes, set[bytes | None]]:
    """The directory that all paths of a glob begin with, and the names or endings of which each has one. An empty
    directory, or None: nothing is known of that.
    """
    anywhere = not glob.startswith((b"/", b"**"))
    special = _SPECIAL.search(glob)
    literal = glob if special is None else glob[: special.start()]
    if contents and special is None:
        literal = literal.rstrip(b"/") + b"/"
    directory = b"" if anywhere else literal[: literal.rfind(b"/") + 1]
    return directory, {None} if contents else {_end_of(text) for text in _endings(b"/" + glob if anywhere else glob)}


def _endings(glob: bytes) -> list[bytes]:
    """What a glob can end with, in letters."""
    alternatives = _PLAIN_ALTERNATIVES.fullmatch(glob, max(map(glob.rfind, (b"*", b"?"))) + 1)
    if alternatives is not None:
        return [alternatives[1] + each for each in alternatives[2].split(b",")]
    return [re.split(rb"[*?}]", glob)[-1]]


def _end_of(text: bytes) -> bytes | None:
    """The name or the ending that a path has which ends with `text`."""
    _directory, slash, name = text.rpartition(b"/")
    if slash:
        return name
    return name[name.rfind(b".") :] if b"." in name else None
