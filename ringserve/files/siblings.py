"""Precompressed files beside a file: which of them may be there, and which may stand for it."""

from __future__ import annotations

from collections.abc import Mapping

from ringserve.files.entries import File
from ringserve.http.media_types import is_compressible
from ringserve.http.negotiation import CODINGS
from ringserve.http.semantics import fault_of_sibling
from ringserve.ring.world import FileStatus

ENDINGS = tuple(CODINGS.values())
NO_CODINGS: Mapping[bytes, bytes] = {}


def codings_of(source: File, names: set[bytes] | None) -> Mapping[bytes, bytes]:
    """The codings of which a sibling may be there, with their endings; CODINGS itself if nobody knows. names: those in
    its directory, if they are known.
    """
    if not is_compressible(source.content_type):
        return NO_CODINGS
    if names is None:
        return CODINGS
    name = source.path.rpartition(b"/")[2]
    if names.isdisjoint(map(name.__add__, ENDINGS)):
        return NO_CODINGS
    return {coding: ending for coding, ending in CODINGS.items() if name + ending in names}


def fault_of(sibling: FileStatus, source: FileStatus) -> str | None:
    """Why a sibling cannot stand for its source; None if it can."""
    return fault_of_sibling(sibling.modified_ns, sibling.size, source.modified_ns, source.size)
