"""What a supervisor and its worker say to each other, as values; `channel.py` carries them."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What a message is, by its first byte."""

    LISTEN = b"L"
    """A listening socket. The text is the number of its listener in the configuration, and the URL to reach it by."""
    LOG = b"G"
    """The sink of the access log: at the start, and in place of the one before. The text is FILE for a regular file."""
    START = b"S"
    """Serve with what came before. The text is the worker's slot."""
    RETIRE = b"R"
    """See `Command.RETIRE` of the server; so with the next two."""
    DRAIN = b"D"
    ABORT = b"A"

    SERVES = b"+"
    """From a worker: clients are served."""
    ACCEPTS_NO_MORE = b"-"
    """Its sockets are closed, and their queues are empty."""
    ALIVE = b"."
    """Its loop turns."""
    HANGS = b"?"
    """It ends now, and file systems that have not answered may keep it from that. The text is where they are."""
    FAILED = b"!"
    """The text is what it would have written on stderr: why it ends, or lines that it had no time to write."""


FILE = "file"


class Message(NamedTuple):
    """One packet. fd: the descriptor that comes with it, or -1."""

    kind: Kind
    text: str = ""
    fd: int = -1
