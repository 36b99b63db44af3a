"""Directories: what is in one, and the order of names. Pure."""

from __future__ import annotations

import re
import stat
from typing import NamedTuple

from ringserve.http.semantics import NANOSECONDS, is_hidden
from ringserve.ring.world import FileStatus, Names, Rank


class Item(NamedTuple):
    """One name in a directory.

    name: as the file system has it; any bytes but the slash and NUL. size: in bytes; 0 for directories.
    modified: seconds since the epoch. Of a symbolic link all but the name is its target's.
    """

    name: bytes
    is_directory: bool
    size: int
    modified: int


_NUMBER = re.compile(r"[0-9]+")


def _weigh(number: re.Match[str]) -> str:
    # A number with more digits is the larger one, so with their count before them numbers compare as text does.
    digits = number[0].lstrip("0")
    return f"0{chr(len(digits))}{digits}"


def name_order(name: bytes) -> tuple[str, bytes]:
    """As people look for names: without case, and `part 9` before `part 10`. The bytes decide between equals."""
    text = name.decode("utf-8", "surrogateescape").casefold()
    return _NUMBER.sub(_weigh, text), name


_ABOVE = b"directory/"
"""Stands for the path of a directory that is not the root, which decides nothing but that it is none."""


def ranking(at_root: bool) -> Rank:
    """The rank of names that may be shown, directories before all else.

    at_root: whether this is the root of the site, where `.well-known` is for everybody (RFC 8615).
    """
    above = b"" if at_root else _ABOVE

    def rank(name: bytes, is_directory: bool) -> object:
        return None if is_hidden(above + name) else (not is_directory, name_order(name))

    return rank


def items_of(names: Names) -> tuple[Item, ...]:
    """What is in a directory, as it is shown."""
    return tuple(_item(name, status) for name, status in names.found)


def _item(name: bytes, status: FileStatus) -> Item:
    is_directory = stat.S_ISDIR(status.mode)
    return Item(name, is_directory, 0 if is_directory else status.size, status.modified_ns // NANOSECONDS)
