"""One server: one ring, its listeners, its connections, its timers, and its life from start to drain.

The loop is `Server.run`: turn the ring, which hands out its completions and runs what became ready; then what belongs
to no single connection. It has one thread, one ring, one core.

Life cycle
    made      the listeners are open, so that a port in use is known at once; the ring is not
    running   `run` opened the ring in the thread that turns it; from then on `post` tells it what to do
    retiring  no new connections; every response says `Connection: close`; idle ones may ask once more
    draining  no new connections; what is in flight finishes, with `Connection: close`; idle ones are closed
    aborting  the deadline of the drain has passed, or it was told so: what is left is cut off
    over      everything is closed
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from ringserve import static
from ringserve.acceptor import Acceptor
from ringserve.config.settings import Config
from ringserve.connection.budget import FEW, Shares, share, shortage
from ringserve.connection.listening import Client, Listening, Shared
from ringserve.connection.plain import PipePool
from ringserve.connection.states import ABORTED
from ringserve.files.roots import Roots
from ringserve.files.table import FileLimits, FileTable
from ringserve.observe.access_log import LOG_FORMATS, AccessLog, Sink
from ringserve.responders import listing, passwords
from ringserve.responders.policy import Sites
from ringserve.ring import open_world
from ringserve.ring.diagnostics import Diagnostics
from ringserve.ring.interrupt import STRATEGIES
from ringserve.ring.linux.limits import available_memory
from ringserve.ring.linux.listeners import (
    LISTEN_BACKLOG,
    Listener,
    close_listener,
    descriptor_limit,
    descriptors_open,
    listen_tcp,
    listen_unix,
    tune_listener,
)
from ringserve.ring.linux.opening import NotEnterableError, absolute, close, is_regular_file, open_directory, open_top
from ringserve.ring.stderr import RingWriter, WriterEndedError
from ringserve.ring.tasks import Task, Tasks
from ringserve.ring.world import DISCARD_BYTES_MAX, Ring, RingOptions, Root, World

LONGEST_SLEEP_S = 60.0
LATER_DESCRIPTORS = 24
"""What is opened beside connections, pipes and files: the ring, its wake pipe, inotify, a log that is reopened, two
directories being listed; twice as many for closes that are still under way and for the interpreter's own."""
LATER_BY_LISTENER = 2
"""The acceptor's reserve, and a connection that is refused."""
LOOKS_AT_ONCE = 500
"""Deadlines in one go: a tenth of a millisecond."""
PIECE_BYTES_MIN = 4096
"""What is thrown away counts as so much at least, since a call for one byte takes time as well."""
MEMORY_SHARE = 10
"""Of the memory that the server may use, one part of as many is for what is known of files; responses and heads have
one and a half. In a reload there are two generations of workers, with a half of it in all."""
CACHE_BYTES_MAX = 1024 * 1024 * 1024
"""More than that, the collector of cycles would hold the loop up for too long."""
FINISH_S = 1.0
"""How long the last closes and the last log lines may take; after that they are given up."""


class StartError(Exception):
    """The server cannot start; the message is one line that names the fix."""


def share_descriptors(config: Config, listeners: int) -> tuple[Shares, str | None]:
    """The shares of the limit of open files, beside what is open already, and a line for the user if they are small.
    Raises StartError.
    """
    limit = descriptor_limit()
    later = LATER_DESCRIPTORS + LATER_BY_LISTENER * listeners
    shares = share(
        limit - descriptors_open() - later,
        connections_max=config.connections_max,
        pipes_max=config.pipes_max,
        open_files_max=config.open_files_max,
        burst=LISTEN_BACKLOG * listeners,
    )
    if shares is None:
        raise StartError(f"the limit of open files ({limit}) is too low to serve anything; raise it (ulimit -n)")
    # The default is a ceiling, and not a request.
    asked = config.connections_max
    return shares, shortage(shares, limit, FEW if asked == Config.connections_max else asked)


def open_root(directory: str) -> int:
    """A descriptor of the directory to serve. Raises StartError."""
    try:
        return open_directory(directory)
    except FileNotFoundError as error:
        raise StartError(f"there is no directory {directory!r}; give one that exists") from error
    except NotADirectoryError as error:
        parent = Path(directory).parent
        raise StartError(
            f"{directory!r} is not a directory; to serve it, give the directory {str(parent)!r}"
        ) from error
    except NotEnterableError as error:
        raise StartError(
            f"no permission to enter the directory {directory!r}; `chmod o+x` it, or run as another user"
        ) from error
    except PermissionError as error:
        raise StartError(
            f"no permission to read the directory {directory!r}; `chmod o+rx` it, or run as a user who may"
        ) from error
    except OSError as error:
        raise StartError(f"cannot open the directory {directory!r}: {error.strerror}") from error


def check_guards(sites: Sites) -> None:
    """Raise StartError if a site asks for passwords and there is nothing that could verify them."""
    if any(site.config.auth for site in sites.all):
        missing = passwords.missing_library()
        if missing is not None:
            raise StartError(missing)


class ServerEndedError(Exception):
    """Raised in what attends a server, when it ends."""


class Phase(Enum):
    """See the module."""

    RUNNING = 0
    RETIRING = 1
    DRAINING = 2
    ABORTING = 3


class Command(Enum):
    """What a running server is told; see `Server.post`."""

    RENEW = 0
    """Look at the listeners' queues anew: see `Acceptor.renew`."""
    RETIRE = 1
    """End without failing anybody: as DRAIN, but idle connections have the time of a drain to ask once more, so that no
    request crosses the closing of its connection."""
    DRAIN = 2
    """Accept nobody, close what is idle, let what is in flight finish, and end."""
    ABORT = 3
    """Cut off what is left, and end."""


class Server:
    """See the module. The constructor opens the directories and the listeners; `run` serves until it is told to end.

    listeners: where it listens, if that is not its own to open; it closes them when it stops to accept.
    processes: how many servers share the memory that there is.
    log: the sink of the access log, which it closes in the end. log_fd: without one, the sink that it leaves open;
        standard output by default.
    diagnostics: what it reports on standard error; what is still there when `run` has ended was not written.
    world: opens what it knows of the outside, in the loop's thread.
    shortage: a line for the user if the limit of open files leaves few connections, else None; it is reported.
    Raises StartError and ListenError.
    """

    def __init__(
        self,
        config: Config,
        *,
        listeners: list[Listener] | None = None,
        processes: int = 1,
        log: Sink | None = None,
        log_fd: int = 1,
        diagnostics: Diagnostics | None = None,
        world: Callable[..., World] = open_world,
    ) -> None:
        if not config.cache_bytes_max:
            share = available_memory() // MEMORY_SHARE // processes
            config = replace(config, cache_bytes_max=min(share, CACHE_BYTES_MAX))
        self.config = config
        self._log = log
        self._log_fd = log_fd
        self._diagnostics = diagnostics
        self._open_world = world
        self._ring: Ring | None = None
        self._commands: deque[Command | Sink] = deque()
        self._stopped = False
        self._attending: list[Task] = []
        self._phase = Phase.RUNNING
        self._deadline = 0.0
        self._looks: list[Client] = []
        """The connections whose deadlines are still to be looked at, of those that there were when it began."""
        self._roots: list[Root] = []
        self._top: Root | None = None
        self.listeners: list[Listener] = []
        try:
            self.sites = Sites(config)
            check_guards(self.sites)
            if any(site.listing for site in self.sites.all):
                listing.prepare()
            for site in self.sites.all:
                self._roots.append(Root(open_root(site.config.directory), site.config.follow_symlinks))
            self._top = Root(open_top(), follow_symlinks=True)
            self.listeners = self._listen() if listeners is None else list(listeners)
            for listener in self.listeners:
                tune_listener(listener)
            self._shares, self.shortage = share_descriptors(config, len(self.listeners))
        except BaseException:
            self.close()
            raise

    def _listen(self) -> list[Listener]:
        listeners: list[Listener] = []
        try:
            for number, rule in enumerate(self.config.listeners):
                for host, port, unix in rule.addresses:
                    made = listen_tcp(host, port) if unix is None else [listen_unix(unix)]
                    listeners += (listener._replace(rule=number) for listener in made)
        except BaseException:
            for listener in listeners:
                close_listener(listener)
            raise
        return listeners

    @property
    def urls(self) -> list[str]:
        """Where clients reach the server."""
        return [listener.url for listener in self.listeners]

    def close(self) -> None:
        """Close a server that was never run."""
        self._close_listeners()
        self._close_roots()
        if self._log is not None:
            close(self._log.fd)

    def _close_roots(self) -> None:
        while self._roots:
            close(self._roots.pop().directory)
        if self._top is not None:
            close(self._top.directory)
            self._top = None

    # -- running ------------------------------------------------------------------------------------------------

    def run(self, started: Callable[[], None] = lambda: None, accepted_last: Callable[[], None] = lambda: None) -> None:
        """Serve until a command ends it. The ring belongs to the calling thread. `started` is called when clients are
        served, `accepted_last` when no more connections are accepted.

        Raises RingRefusedError, and RingBrokenError when the kernel lost a completion.
        """
        try:
            world = self._world()
        except BaseException:
            self.close()
            raise
        ring = world.ring
        self.tasks = Tasks(world)
        try:
            self._start(ring)
            started()
            self._loop(ring, accepted_last)
            self._finish()
        finally:
            self._ring = None
            ring.shut()
            self._close_listeners()
            self._close_roots()

    def _world(self) -> World:
        config = self.config
        options = RingOptions(
            submission_entries=min(RingOptions.submission_entries, config.completion_entries),
            completion_entries=config.completion_entries,
            buffers=config.buffers,
            buffer_bytes=config.buffer_bytes,
            workers=config.kernel_workers_max,
        )
        return self._open_world(options, STRATEGIES[config.interrupt], self._diagnostics)

    def _start(self, ring: Ring) -> None:
        config, tasks = self.config, self.tasks
        limits = FileLimits(
            config.cached_files_max,
            config.cached_file_bytes_max,
            config.cache_bytes_max,
            self._shares.open_files,
            self._shares.files,
        )
        files = FileTable(tasks, self._roots, limits)
        assert self._top is not None, "it is not closed yet"
        paths = [absolute(site.config.directory)[1:] for site in self.sites.all]
        self._root_keepers = Roots(tasks, files, self._roots, paths, self._top, open_directory)
        files.start_watching(self._root_keepers.look)
        self._root_keepers.start()
        form = LOG_FORMATS.get(config.log_format)
        sink = self._log or Sink(self._log_fd, form is not None and is_regular_file(self._log_fd))
        log = None if form is None else AccessLog(tasks, sink, form(), owned=self._log is not None)
        pipes = PipePool(tasks, self._shares.pipes, config.pipe_bytes)
        self.shared = Shared(config, tasks, files, pipes, log)
        respond = static.responder(tasks.system.random_bytes(static.BOUNDARY_BYTES))
        self.listening = [Listening(config, rule, self.sites, respond, self.shared) for rule in config.listeners]
        self._acceptors = [Acceptor(self.listening[each.rule], each, self._shares) for each in self.listeners]
        tasks.call_at(ring.now + self.shared.look_every_s, self._look_at_deadlines)
        self._stderr = RingWriter(tasks)
        if self.shortage is not None:
            tasks.report("{}", self.shortage)
        self._ring = ring  # from here on `post` can wake it

    def _loop(self, ring: Ring, accepted_last: Callable[[], None]) -> None:
        tasks, shared = self.tasks, self.shared
        clock, talking = shared.clock, shared.talking
        log, acceptors, commands = shared.log, self._acceptors, self._commands
        sleep_s = 0.0  # something may have been posted before it could wake the ring
        while True:
            tasks.turn(sleep_s)
            if ring.now >= clock.next_update:
                clock.update()
            if talking:
                self._throw_away()
            for acceptor in acceptors:
                if acceptor.waits_for_room:
                    acceptor.resume()
            sleep_s = 0.0 if talking else LONGEST_SLEEP_S
            if log is not None:
                due = log.flush_if_due()
                if due is not None:
                    sleep_s = min(sleep_s, max(0.0, due - ring.now))
            while commands:
                self._heed(commands.popleft())
            if self._phase is not Phase.RUNNING:
                if self.listeners and all(acceptor.is_over for acceptor in acceptors):
                    self._close_listeners()  # so that new clients are refused, and do not wait for nothing
                    accepted_last()
                if not shared.connections and not self.listeners:
                    return
                if ring.now >= self._deadline:
                    if self._phase is Phase.RETIRING:
                        self._drain()
                    elif not self._abort():
                        return
                sleep_s = min(sleep_s, max(0.0, self._deadline - ring.now))

    def _look_at_deadlines(self) -> float:
        """Every connection is looked at in turn, some at a time, so that ten thousand of them hold nobody up."""
        shared, looks = self.shared, self._looks
        if not looks:
            looks.extend(shared.connections)
        for _look in range(min(len(looks), LOOKS_AT_ONCE)):
            looks.pop().check_deadline()
        return self.tasks.ring.now + (0.0 if looks else shared.look_every_s)

    def _throw_away(self) -> None:
        """A turn's share of what lingering connections are sent, in the order in which it came."""
        talking, left = self.shared.talking, DISCARD_BYTES_MAX
        while talking and left > 0:
            left -= max(PIECE_BYTES_MIN, talking.popleft().throw_away(left))

    def attend(self, body: Callable[[Task], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine beside the connections, from `started` on. When the server ends it is interrupted by
        ServerEndedError.
        """
        task = Task(self.tasks)
        task.begin(body(task))
        self._attending.append(task)

    # -- commands -----------------------------------------------------------------------------------------------

    def post(self, command: Command | Sink) -> None:
        """Tell it something; a sink takes the place of the access log's. From any thread, or from a signal handler."""
        self._commands.append(command)
        ring = self._ring
        if ring is not None:
            ring.wake()

    def stop(self) -> None:
        """Drain and end; a second call cuts off what is left. As `post`."""
        stopped, self._stopped = self._stopped, True
        self.post(Command.ABORT if stopped else Command.DRAIN)

    def _heed(self, command: Command | Sink) -> None:
        phase = self._phase
        if isinstance(command, Sink):
            if self.shared.log is None:
                self.tasks.ring.close(command.fd)
            else:
                self.shared.log.replace_sink(command)
        elif command is Command.RENEW:
            for acceptor in self._acceptors:
                acceptor.renew()
        elif command is Command.RETIRE and phase is Phase.RUNNING:
            self._begin_drain(Phase.RETIRING)
        elif command in (Command.DRAIN, Command.ABORT) and phase in (Phase.RUNNING, Phase.RETIRING):
            self._drain()
        if command is Command.ABORT and phase is not Phase.ABORTING:
            self._abort()

    # -- stopping -----------------------------------------------------------------------------------------------

    def _begin_drain(self, phase: Phase) -> None:
        self._phase = phase
        self._deadline = self.tasks.ring.now + self.config.drain_timeout_s
        for listening in self.listening:
            listening.draining = True
        for acceptor in self._acceptors:
            acceptor.stop()

    def _drain(self) -> None:
        self._begin_drain(Phase.DRAINING)
        for listening in self.listening:
            listening.closes_idle = True
        for connection in tuple(self.shared.connections):
            connection.finish_soon()

    def _abort(self) -> bool:
        """Cut off every connection; False if that has been done already and some do not end."""
        if self._phase is Phase.ABORTING:
            self.tasks.report("{} connections did not end in time", len(self.shared.connections))
            return False
        self._phase = Phase.ABORTING
        self._deadline = self.tasks.ring.now + FINISH_S
        for connection in tuple(self.shared.connections):
            connection.end(ABORTED, resets=True)
        return True

    def _finish(self) -> None:
        """The last closes and the last log lines."""
        shared, log = self.shared, self.shared.log
        for task in self._attending:
            task.interrupt(ServerEndedError())
        self._root_keepers.shut()
        shared.files.shut()
        shared.pipes.shut()
        self._turn_until(lambda: log is None or log.idle)
        if log is not None:
            log.shut()
        self.tasks.diagnostics.settle(math.inf)
        self.tasks.reported.raise_()
        self._turn_until(lambda: self._stderr.idle and not self.tasks.ring.in_flight())
        self._stderr.interrupt(WriterEndedError())
        self._turn_until(lambda: self._stderr.finished)
        for acceptor in self._acceptors:
            acceptor.close()

    def _turn_until(self, done: Callable[[], bool]) -> None:
        """Turn until it is done, for FINISH_S at most. Log lines are written meanwhile."""
        ring, log = self.tasks.ring, self.shared.log
        deadline = ring.now + FINISH_S
        while ring.now < deadline:
            again = None if log is None else log.flush()
            if done():
                return
            self.tasks.turn((deadline if again is None else min(deadline, again)) - ring.now)

    def _close_listeners(self) -> None:
        while self.listeners:
            close_listener(self.listeners.pop())
