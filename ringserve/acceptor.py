"""Accepting: from a listener's queue to connections, until the limit of them, a want of descriptors, or the end.

At most one accept is in flight for each listener. It takes one client after the other; with few descriptors, one at a
time (`connection/budget.py`). Its completions are descriptors, and the one without `more` is its last.

States
    ARMED     clients are accepted
    FULL      the limit is reached; the accept is cancelled, and clients wait in the kernel's queue until there is room
    RESTING   after an error, for a moment. Out of descriptors, one client is told 503 with the reserve's
    STOPPING  no more are accepted; the accept is cancelled
    SWEEPING  what came meanwhile is taken, one after the other, since the close of the listener would reset it
    OVER      the listener may be closed
"""

from __future__ import annotations

import errno
from typing import Final

from ringserve.conn import Connection
from ringserve.connection.budget import Shares
from ringserve.connection.listening import Listening
from ringserve.connection.states import State
from ringserve.ring.linux.listeners import Listener
from ringserve.ring.tasks import Kind
from ringserve.ring.world import errno_name

ACCEPT_BACK_OFF_S = 0.1
"""After running out of descriptors. The queue stays full meanwhile, so accepting again at once would only spin."""

ARMED: Final = State("ARMED")
FULL: Final = State("FULL")
RESTING: Final = State("RESTING")
STOPPING: Final = State("STOPPING")
SWEEPING: Final = State("SWEEPING")
OVER: Final = State("OVER")

CLIENT: Final = "a client is here"
LIMIT: Final = "there are as many clients as may be, and none can be spared"
ROOM: Final = "there is room, or room could be made"
FAILED: Final = "the accept failed"
STOPPED: Final = "no more clients are wanted"
ENDED: Final = "no accept is in flight"
EMPTY: Final = "nobody waits in the queue, or nothing can be done for them"

ARMED.on = {CLIENT: ARMED, ENDED: ARMED, LIMIT: FULL, FAILED: RESTING, STOPPED: STOPPING}
FULL.on = {CLIENT: FULL, ENDED: FULL, LIMIT: FULL, ROOM: ARMED, FAILED: RESTING, STOPPED: STOPPING}
RESTING.on = {CLIENT: RESTING, ENDED: RESTING, LIMIT: FULL, ROOM: ARMED, STOPPED: STOPPING}
STOPPING.on = {CLIENT: STOPPING, ENDED: SWEEPING}
SWEEPING.on = {CLIENT: SWEEPING, ENDED: SWEEPING, EMPTY: OVER}

STATES: Final = (ARMED, FULL, RESTING, STOPPING, SWEEPING, OVER)


class Acceptor:
    """What accepts from one listener; see the module.

    Out of descriptors (EMFILE ends an accept while the queue stays full) a reserve descriptor is given up so that one
    waiting client can be told with a 503 instead of being left hanging, and accepting rests for a moment.
    """

    def __init__(self, listening: Listening, listener: Listener, shares: Shares) -> None:
        self._listening = listening
        self._shared = listening.shared
        self._tasks = listening.shared.tasks
        self._ring = self._tasks.ring
        self._listener = listener
        self._connections_max = shares.connections
        self._accept = self._ring.accept if shares.in_bursts else self._ring.accept_once
        self._user_data = self._tasks.register(Kind.ACCEPT, self._accepted)
        self._in_flight = False
        self._reserve_fd = self._tasks.system.reserve()
        self.state: State = ARMED
        self._arm()

    def _arm(self) -> None:
        self._in_flight = True
        self._accept(self._user_data, self._listener.fd)

    def _cancel(self) -> None:
        if self._in_flight:
            self._ring.cancel(self._user_data)

    @property
    def is_full(self) -> bool:
        """Whether the limit of connections has been reached."""
        return len(self._shared.connections) >= self._connections_max

    @property
    def waits_for_room(self) -> bool:
        """Whether accepting has ended because of the limit."""
        return self.state is FULL and not self._in_flight

    def resume(self) -> None:
        """Accept again if there is room, or could be made. To be called when no accept is in flight."""
        has_room = not self.is_full or self._shared.has_spare
        self.state = self.state.on[ROOM if has_room else LIMIT]
        if has_room:
            self._arm()

    def _accepted(self, res: int, _buffer: int, more: bool) -> None:
        self._in_flight = more
        if res >= 0:
            self._take(res)
        elif self.state is SWEEPING:
            self.state = self.state.on[EMPTY]
            return
        elif res not in (-errno.ECANCELED, -errno.ECONNABORTED) and FAILED in self.state.on:
            self._rest(res)
            return
        if not more:
            self._go_on()

    def _go_on(self) -> None:
        """No accept is in flight."""
        state = self.state = self.state.on[ENDED]
        if state is ARMED:
            self._arm()
        elif state is FULL:
            self.resume()
        elif state is SWEEPING:
            self._in_flight = True
            self._ring.accept_waiting(self._user_data, self._listener.fd)

    def _take(self, fd: int) -> None:
        state = self.state = self.state.on[CLIENT]
        if self._listening.closes_idle:
            self._ring.close(fd)
            return
        full = state is RESTING or (self.is_full and not self._shared.make_room())
        Connection(self._listening, fd, refused=full)
        if full and state is ARMED:
            # What waits in the kernel's queue is better off there than refused; it is accepted when there is room.
            self.state = state.on[LIMIT]
            self._cancel()

    def _rest(self, res: int) -> None:
        self.state = self.state.on[FAILED]
        self._tasks.call_at(self._ring.now + ACCEPT_BACK_OFF_S, self._look_after_rest)
        if res not in (-errno.EMFILE, -errno.ENFILE):
            self._tasks.report("accept on {}: {}", self._listener.url, errno_name(res))
            return
        self._tasks.report(
            "accept on {}: {}; raise the limit of open files (ulimit -n, LimitNOFILE=) or lower --connections-max",
            self._listener.url,
            errno_name(res),
        )
        self._shared.files.give_up_descriptors()
        if self._reserve_fd >= 0:
            self.close()
            self._in_flight = True
            self._ring.accept_once(self._user_data, self._listener.fd)

    def _look_after_rest(self) -> float | None:
        if self.state is not RESTING:
            return None
        if self._has_rested():
            self.resume()
            return None
        return self._ring.now + ACCEPT_BACK_OFF_S

    def _has_rested(self) -> bool:
        """Whether the one client has been told, and the reserve is there again."""
        self._cancel()  # nobody came to be told
        if self._in_flight:
            return False
        if self._reserve_fd < 0:
            try:
                self._reserve_fd = self._tasks.system.reserve()
            except OSError:
                return False
        return True

    def renew(self) -> None:
        """Look at the queue anew: a wake-up for it may have been taken by a process that accepts no more."""
        if self.state is ARMED:
            self._cancel()  # when it has ended, it is armed again, and then takes what is there

    def stop(self) -> None:
        """Accept no more, once what came already is taken."""
        if STOPPED not in self.state.on:
            return
        self.state = self.state.on[STOPPED]
        if self._in_flight:
            self._cancel()
        else:
            self._go_on()

    @property
    def is_over(self) -> bool:
        """Whether nothing is in flight after `stop`, so that the listener can be closed."""
        return self.state is OVER

    def close(self) -> None:
        """Give the reserve back."""
        if self._reserve_fd >= 0:
            self._tasks.system.give_up(self._reserve_fd)
            self._reserve_fd = -1
