"""What a responder asks on its way to a response, and what it is told.

A responder is a generator. It yields a question, is sent the answer, and returns the response in the end. It does no
I/O itself: `answers.py` finds out what it asks, and a test can answer from a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

from ringserve.files.entries import Entry, Key
from ringserve.http.heads import Request
from ringserve.http.response import Response
from ringserve.responders.policy import ProtectedArea, Site


class Lookup(NamedTuple):
    """What a key of the file table stands for: answered with an `Entry`. The path of a directory ends with a slash if
    what is in it matters.
    """

    key: Key


class Claim(NamedTuple):
    """Whether this is the password of this user: answered with a `Verified`."""

    guard: ProtectedArea
    user: bytes
    password: bytes


class Verified(NamedTuple):
    """What came of a `Claim`. busy: too many wait to have theirs verified."""

    right: bool
    busy: bool = False


Question = Lookup | Claim
Answer = Entry | Verified
Steps = Generator[Question, Answer, Response]
Respond = Callable[[Request, Site, float], Steps]
"""A responder: begins to answer a request of a site. The last argument is the time, in seconds since the epoch."""
