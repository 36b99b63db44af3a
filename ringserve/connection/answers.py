"""Finding the response to a request: answers a responder's questions, and prepares what can be answered again.

A responder decides and asks (`steps.py`). Each type of question has a source of answers: paths come from the file
table, verdicts on passwords from helper threads (`verifier.py`).

A response that is in memory and follows from the request line and the selection alone is prepared, and remembered with
the request line for the hot path. It is fresh for as long as every entry that was looked at on the way is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from ringserve.connection.prepared import Prepared
from ringserve.connection.remembered import AnswerKey, KnownHead, Memory, key_of, request_of
from ringserve.connection.verifier import Asker, Verifier
from ringserve.files.entries import Entry, Failure, Key
from ringserve.files.table import FileTable
from ringserve.http.heads import PLAIN_FILE_LINE, Request
from ringserve.http.response import Response, error_response
from ringserve.http.semantics import Location
from ringserve.responders.policy import Site, Sites
from ringserve.responders.steps import Claim, Lookup, Respond
from ringserve.ring.tasks import Tasks


def _can_be_prepared(response: Response, entries: Collection[Entry]) -> bool:
    """Whether `response` is in memory, and holds while `entries` are fresh."""
    is_known = bool(entries) and all(entry.freshness.until > 0 for entry in entries)
    return response.in_memory and is_known and response.status < 500


def _lasts(request: Request) -> bool:
    """Whether an answer that can be prepared is the one to every request with this line and selection, and worth being
    remembered. A part is a copy of its own, and there are as many parts as clients can think of. (And a date in
    If-Range counts only once it is a second old, so that the answer may change while the file does not.)
    """
    return request.asked_range is None


ALIKE_MAX = 256
"""Answers that are alike, of which each is one of a site, a method and a kind of browser."""
Alike = tuple[Site, bytes, AnswerKey]
Sources = Mapping[type[Any], Callable[[Asker, Request, Any], Awaitable[object]]]
"""Who answers a question, by its type."""


def sources(tasks: Tasks, files: FileTable) -> Sources:
    """Those of the questions that `steps.py` has. A further question is one more here, and its class."""

    def look_up(task: Asker, _request: Request, question: Lookup) -> Awaitable[Entry]:
        return files.find(task, question.key)

    return {Lookup: look_up, Claim: Verifier(tasks).verify}


class Answers:
    """See the module.

    respond: the responder. sources: who answers its questions.
    """

    def __init__(self, respond: Respond, sources: Sources, files: FileTable, sites: Sites, memory: Memory) -> None:
        self._respond = respond
        self._sources = sources
        self._files = files
        self._sites = sites
        self._memory = memory
        self._of_nothing: dict[Alike, Prepared] = {}
        """The answers to paths at which there is nothing, where these are alike. They are fresh for as long as what
        else was looked at is: the site's page for errors."""
        self._anywhere: dict[tuple[bytes, AnswerKey], tuple[Prepared, int]] = {}
        """Those that are the same anywhere on the one site, and the number of its root."""

    def is_still_true(self, prepared: Prepared, now: float) -> bool:
        """Whether a response that is not fresh any more is so again, by a look that waits for nothing. Once a second
        and file: if that is what it was, so is the response, and nothing is decided anew.
        """
        return all(map(self._files.look_again, prepared.keys)) and prepared.freshness.until > now

    def find_now(self, head: KnownHead, now: float, wall_time_s: float) -> Prepared | None:
        """The response, prepared if only for once, if nothing has to be waited for to find it; None says nothing. A
        shortcut through `find`, which would find the same, for a request that no coroutine is needed for.

        now: by the ring's clock. wall_time_s: since the epoch.
        """
        line = head[0]
        if line.is_streamed:
            return None  # it would be decided twice
        if self._anywhere and not line.came_before:
            known = self._find_nothing(head, now)
            if known is not None:
                return known
        request = request_of(head)
        site = self._site(request)
        steps = self._respond(request, site, wall_time_s)
        looked_at: dict[Entry, Key] = {}
        alike: Alike | None = None
        anywhere: int | None = None
        try:
            question = next(steps)
            while True:
                if not isinstance(question, Lookup):
                    return None
                entry = self._files.find_now(question.key)
                if entry is None:
                    return None
                if question.alike and isinstance(entry, Failure) and entry.status == 404 and not line.came_before:
                    line.came_before = True  # the next time it gets an answer of its own, which is found sooner
                    alike = site, request.line.method, key_of(head)
                    anywhere = question.key.root if question.anywhere and self._sites.is_one else None
                    known = self._of_nothing.get(alike)
                    if known is not None and known.freshness.until > now:
                        return known
                else:
                    looked_at[entry] = question.key
                question = steps.send(entry)
        except StopIteration as done:
            response: Response = done.value
        line.is_streamed = not response.in_memory
        if not _can_be_prepared(response, looked_at):
            return None
        if not _lasts(request):
            return self._memory.of_its_own(response, looked_at)
        if alike is None:
            return self._memory.prepare(head, response, looked_at)
        if len(self._of_nothing) >= ALIKE_MAX:
            self._of_nothing.clear()
            self._anywhere.clear()
        prepared = self._of_nothing[alike] = self._memory.of_its_own(response, looked_at)
        if anywhere is not None:
            self._anywhere[alike[1:]] = prepared, anywhere
        return prepared

    def _find_nothing(self, head: KnownHead, now: float) -> Prepared | None:
        """The answer to a path at which there is nothing, if it is the same anywhere, without running the responder."""
        line = head[0]
        plain = PLAIN_FILE_LINE.fullmatch(line.line_bytes)
        known = None if plain is None else self._anywhere.get((plain[1], key_of(head)))
        if plain is None or known is None or known[0].freshness.until <= now:
            return None
        found = self._files.find_now(Key(known[1], plain[2][1:]))
        if not isinstance(found, Failure) or found.status != 404:
            return None
        line.came_before = True
        return known[0]

    async def find(self, task: Asker, head: KnownHead) -> Response | Prepared:
        """The response to a request. `task` waits for what has to be looked up."""
        prepared = head[0].prepared.get(key_of(head))
        if prepared is not None:
            if prepared.freshness.until <= task.ring.now and len(prepared.keys) == 1:
                # As `is_still_true`, but it may wait. Of several one is missing, mostly, and that is found anew.
                await self._files.find(task, prepared.keys[0])
            if prepared.freshness.until > task.ring.now:
                return prepared
            if not prepared.freshness.until:
                prepared.retire()
        request = request_of(head)
        steps = self._respond(request, self._site(request), task.tasks.system.wall_time_s())
        looked_at: dict[Entry, Key] = {}
        lasts = self._memory.enabled
        try:
            question = next(steps)
            while True:
                answer = await self._sources[type(question)](task, request, question)
                if isinstance(question, Lookup):
                    assert isinstance(answer, Entry), "a lookup is answered with what was found"
                    looked_at[answer] = question.key
                lasts = lasts and question.lasts
                question = steps.send(answer)
        except StopIteration as done:
            response: Response = done.value
        head[0].is_streamed = not response.in_memory
        if not lasts or not _lasts(request) or not _can_be_prepared(response, looked_at):
            return response
        return self._memory.prepare(head, response, looked_at)

    def error(self, status: int, head: KnownHead | None = None) -> Response:
        """The response to what is not read on, or not read at all; or to the request of which this is the head."""
        if head is None:
            return self._sites.default.dress(error_response(status), (), None)
        request = request_of(head)
        return self._site(request).dress(error_response(status, head=request.is_head), (), None)

    def _site(self, request: Request) -> Site:
        if self._sites.is_one:
            return self._sites.default
        location = request.line.location
        authority = location.authority if isinstance(location, Location) else b""
        return self._sites.choose(authority or request.block.selection.host)
