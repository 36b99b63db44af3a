"""What connections have in common: with those of their listener (`Listening`), with all of their process (`Shared`).

Room is made among all connections of the process, whatever listener they came by, because they share its descriptors.
"""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from typing import Protocol

from ringserve.config.settings import Config, ListenRule
from ringserve.connection.answers import Answers, sources
from ringserve.connection.plain import PipePool, Plain
from ringserve.connection.prepared import PreparedResponses
from ringserve.connection.remembered import Memory
from ringserve.connection.states import Event
from ringserve.connection.transport import MakeTransport
from ringserve.files.table import FileTable
from ringserve.http.proxies import TrustedProxies
from ringserve.http.request import Limits, Parser
from ringserve.http.response import date_line
from ringserve.observe.access_log import AccessLog
from ringserve.observe.responses import Responses
from ringserve.responders.policy import Sites
from ringserve.responders.steps import Respond
from ringserve.ring.tasks import Tasks


class Client(Protocol):
    """A connection, as far as the server deals with it."""

    user_data: int
    waiting_since: float

    @property
    def spare_rank(self) -> int | None:
        """How little is lost if it ends now: 0 is the least. None: a request would be lost."""

    def throw_away(self, bytes_max: int) -> int:
        """Throw away what the peer sent since the connection lingers; how many bytes that were."""

    def finish_soon(self) -> None:
        """The server drains, or needs room: end now if nothing is lost by it, else after the response."""

    def end(self, event: Event, *, resets: bool = False) -> None:
        """End because of `event`, as soon as nothing is in flight. resets: throw away what the peer has not taken."""

    def check_deadline(self) -> None:
        """End if what is waited for took too long."""


class Clock:
    """What changes once a second: the Date line, and the time of log lines."""

    def __init__(self, tasks: Tasks, log: AccessLog | None) -> None:
        self._ring = tasks.ring
        self._system = tasks.system
        self._log = log
        self.second = 0
        self.date = b""
        self.next_update = 0.0
        self.update()

    def update(self) -> None:
        """Read the wall clock. To be called when the ring's clock has reached `next_update`."""
        wall = self._system.wall_time_s()
        self.second = int(wall)
        self.date = date_line(wall)
        if self._log is not None:
            self._log.set_time(wall)
        self.next_update = self._ring.now + 1.0 - wall % 1.0


ROOM_LOOK_S = 0.1
"""Between two searches for spare connections while nobody is at the door."""
SEARCH_S_EACH = 1e-5
"""For each connection, between two searches for a client that is: a search takes a fiftieth of that."""
LOOK_EVERY_S = 0.5
"""At most. A look takes some tenths of a microsecond a connection."""


class Shared:
    """What all connections of a process share.

    server: the value of the Server field, or nothing for none. prepared: for whatever listener, since they share a
    bound.
    talking: those that linger and were sent something. sources: of answers to responders' questions.
    look_every_s: how often the connections' deadlines are looked at: by so much may one be late.
    """

    def __init__(self, config: Config, tasks: Tasks, files: FileTable, pipes: PipePool, log: AccessLog | None) -> None:
        self.tasks = tasks
        self.log = log
        self.files = files
        self.pipes = pipes
        self.sources = sources(tasks, files)
        self.clock = Clock(tasks, log)
        self.server = config.server_name.encode()
        self.prepared = PreparedResponses(self.server, config.cached_files_max, config.cache_bytes_max)
        self.connections: dict[Client, None] = {}
        """In the order in which they came. A set would be ordered by their addresses."""
        self.talking: deque[Client] = deque()
        self._ring = tasks.ring
        self._spare: list[tuple[int, float, int, Client]] = []
        self._searched = -math.inf
        self._said_full = False
        shortest_limit_s = min(
            limit_s
            for rule in config.listeners
            for limit_s in (
                rule.header_timeout_s, rule.keep_alive_timeout_s, rule.answer_timeout_s, rule.write_timeout_s,
                rule.linger_timeout_s,
            )
        )  # fmt: skip
        self.look_every_s = min(LOOK_EVERY_S, shortest_limit_s / 4)

    def began(self, connection: Client) -> None:
        """Called by a connection when it has its descriptor."""
        self.connections[connection] = None

    def make_room(self) -> bool:
        """Close the connection by whose end least is lost, so that a new client has its place. False: there is none."""
        if not self._find_spare(SEARCH_S_EACH * len(self.connections)):
            return False
        self._spare.pop()[-1].finish_soon()
        if not self._said_full:
            self._said_full = True
            self.tasks.report(
                "the limit of connections is reached; the longest idle ones are closed to make room for new clients; "
                "raise --connections-max to allow more"
            )
        return True

    @property
    def has_spare(self) -> bool:
        """Whether `make_room` would find a connection. What a search found is used for ROOM_LOOK_S. Then a timer
        forgets it, and wakes the loop to ask again.
        """
        return self._find_spare(ROOM_LOOK_S)

    def _find_spare(self, every_s: float) -> bool:
        """Whether the last search, or a new one if that is so old, has a connection that is still spare."""
        self._drop_used()
        if not self._spare and self._ring.now >= self._searched + every_s:
            self._searched = self._ring.now
            ranked = ((connection.spare_rank, connection) for connection in self.connections)
            self._spare = sorted(
                (
                    (rank, connection.waiting_since, connection.user_data, connection)
                    for rank, connection in ranked
                    if rank is not None
                ),
                reverse=True,
            )
            self.tasks.call_at(self._ring.now + ROOM_LOOK_S, self._forget_spare)
            self._drop_used()
        return bool(self._spare)

    def _drop_used(self) -> None:
        while self._spare and self._spare[-1][-1].spare_rank != self._spare[-1][0]:
            self._spare.pop()

    def _forget_spare(self) -> None:
        self._spare.clear()

    def ended(self, connection: Client) -> None:
        """Called by a connection when nothing is in flight on its descriptor any more but its close."""
        del self.connections[connection]


class Listening:
    """What the connections of one listener have in common.

    config: its own. respond: the responder. transport: makes that of each connection; None for plain ones.
    log: None if what it answers is not logged.
    draining: every response says that its connection ends. closes_idle: a connection that waits for a request is
    closed. responses: the finished ones. general_answers: how many of them the hot path has not sent.
    """

    def __init__(
        self,
        config: Config,
        rule: ListenRule,
        sites: Sites,
        respond: Respond,
        shared: Shared,
        transport: MakeTransport | None = None,
    ) -> None:
        self.config = rule
        self.transport = transport or partial(Plain, pipes=shared.pipes)
        self.shared = shared
        self.clock = shared.clock  # here too, since the hot path uses it for each request
        self.log = shared.log if rule.log else None
        self.responses = Responses(self.log)
        self.server = shared.server
        self.proxies = TrustedProxies(rule.trusted_proxy) if rule.trusted_proxy else None
        self.limits = Limits(rule.head_bytes_max, rule.target_bytes_max, rule.fields_max)
        self.memory = Memory(
            Parser(self.limits, sites.selecting_fields),
            shared.prepared,
            enabled=config.hot_path,
            tells=self.log is not None or self.proxies is not None,
        )
        self.answers = Answers(respond, shared.sources, shared.files, sites, self.memory)
        self.draining = False
        self.closes_idle = False
        self.general_answers = 0

    @property
    def hot_answers(self) -> int:
        """How many responses the hot path has sent, or begun to."""
        return sum(self.responses.by_status) - self.general_answers
