"""Verifying passwords on helper threads, in turn between the clients' networks, and remembering who was right."""

from __future__ import annotations

import hashlib

from ringserve.http.heads import Request, Told
from ringserve.http.proxies import network_of
from ringserve.responders import passwords
from ringserve.responders.policy import ProtectedArea
from ringserve.responders.steps import Claim, Verified
from ringserve.ring.tasks import HelpersBusyError, Job, Task, Tasks

PASSWORDS = "passwords"
"""Helpers' lane: of its own, or whoever guesses passwords would keep directories from being read."""
VERIFIED_MAX = 4096
"""Users whose password was right, remembered so that a page's files do not cost a hash each. Wrong ones cost a hash
every time."""


class Asker(Task):
    """A task that has requests answered."""

    __slots__ = ()

    def client_of(self, told: Told) -> str:
        """The client of a request, as text: the peer, or the client that a trusted proxy names."""
        raise NotImplementedError


class Verifier:
    """See the module. There is one in a process, since a user is the same by whichever listener he comes."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._verified: set[tuple[ProtectedArea, bytes]] = set()
        self._verifying: dict[tuple[ProtectedArea, bytes], Job[bool]] = {}
        self._secret = tasks.system.random_bytes(32)
        self.stand_in_hash = passwords.stand_in_hash(tasks.system.random_bytes(passwords.STAND_IN_BYTES))

    async def verify(self, task: Asker, request: Request, claim: Claim) -> Verified:
        """Whether a claim is right. `task` waits for the helper thread."""
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
            return passwords.verify(known_hash or self.stand_in_hash, password)

        # A browser asks for a page's files at once: all of them wait for one verification.
        job = self._verifying.get(key)
        try:
            if job is None:
                origin = network_of(task.client_of(request.told))
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
