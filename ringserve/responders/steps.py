"""What a responder asks on its way to a response, and what it is told.

A responder is a generator. It yields a question, is sent the answer, and returns the response in the end. It does no
I/O itself: the answer comes from the source that is registered for the question's type (`connection/answers.py`), and a
test can answer from a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple, Protocol

from ringserve.files.entries import Key
from ringserve.http.heads import Request
from ringserve.http.response import Response
from ringserve.responders.policy import ProtectedArea, Site


class Question(Protocol):
    """What a responder yields. Its type says who answers it."""

    @property
    def lasts(self) -> bool:
        """Whether its answer holds for every request with the same line and selection, so that a response that follows
        from it can be prepared: as long as the entries that were looked up are fresh.
        """


class Lookup(NamedTuple):
    """What a key of the file table stands for: answered with an `Entry`. The path of a directory ends with a slash if
    what is in it matters.

    alike: if there is nothing, what follows is the same for each such path of the site, given the method and what
    selects. anywhere: and no path of the site is another than each that is plain: it is looked up first of all.
    """

    key: Key
    alike: bool = False
    anywhere: bool = False

    @property
    def lasts(self) -> bool:
        """Until its entry is not fresh."""
        return True


class Claim(NamedTuple):
    """Whether this is the password of this user: answered with a `Verified`."""

    guard: ProtectedArea
    user: bytes
    password: bytes

    @property
    def lasts(self) -> bool:
        """The guards are those of the configuration, and user and password are in the selection."""
        return True


class Verified(NamedTuple):
    """What came of a `Claim`. busy: too many wait to have theirs verified."""

    right: bool
    busy: bool = False


Steps = Generator[Question, object, Response]
Respond = Callable[[Request, Site, float], Steps]
"""A responder: begins to answer a request of a site. The last argument is the time, in seconds since the epoch."""
