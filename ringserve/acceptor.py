"""Accepting: from a listener's queue to connections, until the limit of them, a want of descriptors, or the end.

One multishot accept is armed for each listener; with few descriptors, a single one at a time (`budget.py`). Its
completions are descriptors. The one without `more` is its last; the accept is then armed again, unless there is a
reason to rest.
"""

from __future__ import annotations

import errno

from ringserve.conn import Connection
from ringserve.connection.budget import Shares
from ringserve.connection.listening import Listening
from ringserve.ring.linux.listeners import Listener
from ringserve.ring.tasks import Kind
from ringserve.ring.world import errno_name

ACCEPT_BACK_OFF_S = 0.1
"""After running out of descriptors. The queue stays full meanwhile, so accepting again at once would only spin."""


class Acceptor:
    """The multishot accept on one listener: armed, paused at the limit of connections, or backing off.

    Out of descriptors (EMFILE ends a multishot accept while the queue stays full) a reserve descriptor is given up so
    that one waiting client can be told with a 503 instead of being left hanging, and accepting rests for a moment.
    """

    def __init__(self, listening: Listening, listener: Listener, shares: Shares) -> None:
        self._listening = listening
        self._shared = listening.shared
        self._tasks = listening.shared.tasks
        self._listener = listener
        self._connections_max = shares.connections
        self._in_bursts = shares.in_bursts
        self._user_data = self._tasks.register(Kind.ACCEPT, self._accepted)
        self._single_user_data = self._tasks.register(Kind.ACCEPT, self._accepted_one)
        self._sweep_user_data = self._tasks.register(Kind.ACCEPT, self._swept)
        self._armed = False
        self._single = False
        self._resting = False
        self._stopped = False
        self._sweeping = self._is_swept = False
        self._reserve_fd = self._tasks.system.reserve()
        self._arm()

    def _arm(self) -> None:
        self._armed = True
        ring = self._tasks.ring
        accept = ring.accept if self._in_bursts else ring.accept_once
        accept(self._user_data, self._listener.fd)

    @property
    def is_full(self) -> bool:
        """Whether the limit of connections has been reached."""
        return len(self._shared.connections) >= self._connections_max

    @property
    def waits_for_room(self) -> bool:
        """Whether accepting ended because of the limit."""
        return not self._armed and not self._resting and not self._stopped

    def resume(self) -> None:
        """Accept again, if it is not done already and there is room, or could be made."""
        if self.waits_for_room and (not self.is_full or self._shared.has_spare):
            self._arm()

    def _accepted(self, res: int, _buffer: int, more: bool) -> None:
        if not more:
            self._armed = False
        if res >= 0:
            self._take(res)
            if self._armed:
                return
        elif res in (-errno.EMFILE, -errno.ENFILE):
            self._rest(res)
        elif res not in (-errno.ECANCELED, -errno.ECONNABORTED):
            self._tasks.report("accept on {}: {}", self._listener.url, errno_name(res))
            self._resting = True
            self._tasks.call_at(self._tasks.ring.now + ACCEPT_BACK_OFF_S, self._end_of_rest)
        self.resume()
        self._sweep_at_end()

    def _take(self, fd: int) -> None:
        if self._listening.closes_idle:
            self._tasks.ring.close(fd)
            return
        full = self.is_full and not self._shared.make_room()
        Connection(self._listening, fd, refused=full)
        if not (full or self._armed or self._resting or self._stopped):
            self._arm()  # one by one, and one that is refused, as a multishot accept does it
        elif full and self._armed:
            # What waits in the kernel's queue is better off there than refused; it is accepted when there is room.
            self._tasks.ring.cancel(self._user_data)

    def _rest(self, res: int) -> None:
        if not self._resting:
            self._tasks.report(
                "accept on {}: {}; raise the limit of open files (ulimit -n, LimitNOFILE=) or lower --connections-max",
                self._listener.url,
                errno_name(res),
            )
        self._resting = True
        self._shared.files.give_up_descriptors()
        self._tasks.call_at(self._tasks.ring.now + ACCEPT_BACK_OFF_S, self._end_of_rest)
        if self._reserve_fd >= 0 and not self._single:
            self._tasks.system.give_up(self._reserve_fd)
            self._reserve_fd = -1
            self._single = True
            self._tasks.ring.accept_once(self._single_user_data, self._listener.fd)

    def _accepted_one(self, res: int, _buffer: int, _more: bool) -> None:
        self._single = False
        if res >= 0:
            if self._stopped:
                self._tasks.ring.close(res)
            else:
                Connection(self._listening, res, refused=True)
        self._sweep_at_end()

    def _end_of_rest(self) -> float | None:
        if self._stopped:
            return None
        if self._reserve_fd < 0:
            try:
                self._reserve_fd = self._tasks.system.reserve()
            except OSError:
                return self._tasks.ring.now + ACCEPT_BACK_OFF_S
        self._resting = False
        self.resume()
        return None

    def renew(self) -> None:
        """Look at the queue anew: a wake-up for it may have been taken by a process that accepts no more."""
        if self._armed and not self._stopped:
            # When it has ended, it is armed again, and then takes what is there.
            self._tasks.ring.cancel(self._user_data)

    def stop(self) -> None:
        """Accept no more."""
        if self._stopped:
            return
        self._stopped = True
        for in_flight, user_data in ((self._armed, self._user_data), (self._single, self._single_user_data)):
            if in_flight:
                self._tasks.ring.cancel(user_data)
        self._sweep_at_end()

    def _sweep_at_end(self) -> None:
        """Take what still waits in the queue: it came in the moment in which accepting was cancelled, and the close of
        the listener would reset it.
        """
        if self._stopped and not (self._armed or self._single or self._sweeping or self._is_swept):
            self._sweeping = True
            self._tasks.ring.accept_waiting(self._sweep_user_data, self._listener.fd)

    def _swept(self, res: int, _buffer: int, _more: bool) -> None:
        self._sweeping = False
        if res >= 0:
            self._take(res)
            self._sweep_at_end()
        else:
            self._is_swept = True  # the queue is empty; or it is EMFILE, and nothing can be done for it

    @property
    def is_over(self) -> bool:
        """Whether nothing is in flight after `stop`, so that the listener can be closed."""
        return self._is_swept

    def close(self) -> None:
        """Give the reserve back."""
        if self._reserve_fd >= 0:
            self._tasks.system.give_up(self._reserve_fd)
            self._reserve_fd = -1
