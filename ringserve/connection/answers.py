"""Finding the response to a request: answers a responder's questions, and prepares what can be answered again.

A responder decides and asks (`steps.py`). The answers come from here: paths from the file table, passwords from a
helper thread, in turn between the clients' networks.

A response that is in memory and follows from the request line and the selection alone is prepared, and remembered with
the request line for the hot path. It is fresh for as long as every entry that was looked at on the way is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from ringserve.connection.remembered import KnownHead, Memory, Prepared, key_of, request_of
from ringserve.files.entries import Entry, Key
from ringserve.files.table import FileTable
from ringserve.http.heads import HeaderBlock, Request
from ringserve.http.proxies import network_of
from ringserve.http.response import FileSlice, Response, error_response
from ringserve.http.semantics import Location
from ringserve.responders import passwords
from ringserve.responders.policy import ProtectedArea, Site, Sites
from ringserve.responders.steps import Claim, Lookup, Respond, Verified
from ringserve.ring.tasks import HelpersBusyError, Job, Task, Tasks

PASSWORDS = "passwords"
"""Helpers' lane: of its own, or whoever guesses passwords would keep directories from being read."""
VERIFIED_MAX = 4096
"""Users whose password was right, remembered so that a page's files do not cost a hash each. Wrong ones cost a hash
every time."""


def _can_be_prepared(response: Response, entries: Collection[Entry], request: Request) -> bool:
    """Whether `response` is the answer to every request with this line and selection while `entries` are fresh."""
    in_memory = not any(isinstance(segment, FileSlice) for segment in response.body)
    # A part is a copy of its own, and there are as many parts as clients can think of. (And a date in If-Range counts
    # only once it is a second old, so that the answer may change while the file does not.)
    is_part = request.selection.conditions.range is not None
    is_known = bool(entries) and all(entry.freshness.until > 0 for entry in entries)
    return in_memory and not is_part and is_known and response.status < 500


class Asker(Task):
    """A task that has requests answered."""

    __slots__ = ()

    def client_of(self, block: HeaderBlock | None) -> str:
        """The client of a request, as text: the peer, or the client that a trusted proxy names."""
        raise NotImplementedError


class Answers:
    """See the module.

    respond: the responder.
    """

    def __init__(self, respond: Respond, tasks: Tasks, files: FileTable, sites: Sites, memory: Memory) -> None:
        self._respond = respond
        self._tasks = tasks
        self._files = files
        self._sites = sites
        self._memory = memory
        self._verified: set[tuple[ProtectedArea, bytes]] = set()
        self._verifying: dict[tuple[ProtectedArea, bytes], Job[bool]] = {}
        self._secret = tasks.system.random_bytes(32)
        self._stand_in_hash = passwords.stand_in_hash(tasks.system.random_bytes(passwords.STAND_IN_BYTES))

    def is_still_true(self, prepared: Prepared, now: float) -> bool:
        """Whether a response that is not fresh any more is so again, by a look that waits for nothing. Once a second
        and file: if that is what it was, so is the response, and nothing is decided anew.
        """
        return all(map(self._files.look_again, prepared.keys)) and prepared.freshness.until > now

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
        steps = self._respond(request, self._site(request), self._tasks.system.wall_time_s())
        looked_at: dict[Entry, Key] = {}
        try:
            wanted = next(steps)
            while True:
                if isinstance(wanted, Lookup):
                    entry = await self._files.find(task, wanted.key)
                    looked_at[entry] = wanted.key
                    wanted = steps.send(entry)
                else:
                    wanted = steps.send(await self._verify(task, request, wanted))
        except StopIteration as done:
            response: Response = done.value
        if not self._memory.enabled or not _can_be_prepared(response, looked_at, request):
            return response
        return self._memory.prepare(head, response, looked_at)

    def error(self, status: int, head: KnownHead | None = None) -> Response:
        """The response to what is not read on, or not read at all; or to the request of which this is the head."""
        if head is None:
            return self._sites.default.dress(error_response(status), (), None)
        request = request_of(head)
        return self._site(request).dress(error_response(status, head=request.is_head), (), None)

    def _site(self, request: Request) -> Site:
        location = request.line.location
        authority = location.authority if isinstance(location, Location) else b""
        return self._sites.choose(authority or request.block.selection.host)

    async def _verify(self, task: Asker, request: Request, claim: Claim) -> Verified:
        if len(claim.password) > passwords.PASSWORD_BYTES_MAX:
            # No hash is of one. To normalize 11,000 combining marks takes 0.7 s, in which no other thread runs.
            return Verified(False)
        # Keyed by a secret of the process, so that what is remembered is of no use to whoever reads the memory.
        said = b"%d:%s:%s" % (len(claim.user), claim.user, claim.password)
        key = claim.guard, hashlib.blake2b(said, key=self._secret, digest_size=32).digest()
        if key in self._verified:
            return Verified(True)
        known_hash = claim.guard.users.get(claim.user)
        password = claim.password

        def verify() -> bool:
            # An unknown user costs as much time as a known one, so that the time does not tell which names exist.
            return passwords.verify(known_hash or self._stand_in_hash, password)

        # A browser asks for a page's files at once: all of them wait for one verification.
        job = self._verifying.get(key)
        try:
            if job is None:
                origin = network_of(task.client_of(request.block))
                job = self._tasks.call(verify, PASSWORDS, origin, lambda: self._forget(key))
                self._verifying[key] = job
            right = await job.result(task) and known_hash is not None
        except HelpersBusyError:
            return Verified(False, busy=True)
        if right:
            if len(self._verified) >= VERIFIED_MAX:
                self._verified.clear()
            self._verified.add(key)
        return Verified(right)

    def _forget(self, key: tuple[ProtectedArea, bytes]) -> None:
        self._verifying.pop(key, None)  # it is not there yet if it is refused at once
