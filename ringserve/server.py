"""One server: one ring, its listeners, its connections, its timers, and its life from start to drain.

The loop is `Server.run`: turn the ring, which hands out its completions and runs what became ready; then what belongs
to no single connection. It has one thread, one ring, one core.

Life cycle
    made      the listeners are open, so that a port in use is known at once; the ring is not
    running   `run` opened the ring in the thread that turns it
    retiring  no new connections; every response says `Connection: close`; idle ones may ask once more
    draining  no new connections; what is in flight finishes, with `Connection: close`; idle ones are closed
    aborting  the deadline of the drain has passed, or a second stop was asked for: what is left is cut off
    over      everything is closed
"""

from __future__ import annotations

import errno
import math
import os
import signal
import stat
import threading
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import FrameType

from ringserve import static
from ringserve.acceptor import Acceptor
from ringserve.config.settings import Config
from ringserve.connection.budget import FEW, Shares, share, shortage
from ringserve.connection.listening import Client, Listening, Shared
from ringserve.connection.outbound import ConnectionOverError
from ringserve.connection.pipes import PipePool
from ringserve.files.table import FileLimits, FileTable
from ringserve.observe.access_log import LOG_FORMATS, AccessLog, Sink
from ringserve.responders import listing, passwords
from ringserve.responders.policy import Sites
from ringserve.ring import open_world
from ringserve.ring.diagnostics import Diagnostics
from ringserve.ring.interrupt import STRATEGIES
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
from ringserve.ring.stderr import RingWriter, WriterEndedError
from ringserve.ring.tasks import HelpersBusyError, Task, Tasks
from ringserve.ring.world import DISCARD_BYTES_MAX, Ring, RingOptions, Root, World

LOGS = "logs"
"""Helpers' lane."""
LONGEST_SLEEP_S = 60.0
LATER_DESCRIPTORS = 24
"""What is opened beside connections, pipes and files: the ring, its wake pipe, inotify, a log that is reopened, two
directories being listed; twice as many for closes that are still under way and for the interpreter's own."""
LATER_BY_LISTENER = 2
"""The acceptor's reserve, and a connection that is refused."""
LOG_MODE = 0o640
"""Who may read the access log: its owner and its group. It holds the addresses of people."""
LOOKS_AT_ONCE = 500
"""Deadlines in one go: a tenth of a millisecond."""
PIECE_BYTES_MIN = 4096
"""What is thrown away counts as so much at least, since a call for one byte takes time as well."""
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
        root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise StartError(f"there is no directory {directory!r}; give one that exists") from error
    except NotADirectoryError as error:
        parent = Path(directory).parent
        raise StartError(
            f"{directory!r} is not a directory; to serve it, give the directory {str(parent)!r}"
        ) from error
    except PermissionError as error:
        raise StartError(
            f"no permission to read the directory {directory!r}; `chmod o+rx` it, or run as a user who may"
        ) from error
    except OSError as error:
        raise StartError(f"cannot open the directory {directory!r}: {error.strerror}") from error
    if not os.access(".", os.X_OK, dir_fd=root_fd):
        os.close(root_fd)
        raise StartError(f"no permission to enter the directory {directory!r}; `chmod o+x` it, or run as another user")
    return root_fd


def open_log(path: str) -> int:
    """A descriptor that appends to the access log's file, which is made if there is none. Does not wait for the reader
    of a FIFO. Raises OSError.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, LOG_MODE)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(os.stat(path).st_mode):
            raise OSError(error.errno, "it is a FIFO that nobody reads; start its reader first") from error
        raise
    # A file system without support for it would answer each write through the ring with EAGAIN.
    os.set_blocking(fd, True)
    return fd


def open_sink(path: str) -> Sink:
    """The access log's file, opened to take the place of the one before it. May wait for a disk. Raises OSError."""
    fd = open_log(path)
    try:
        return Sink(fd, stat.S_ISREG(os.fstat(fd).st_mode))
    except OSError:
        os.close(fd)
        raise


def check_guards(sites: Sites) -> None:
    """Raise StartError if a site asks for passwords and there is nothing that could verify them."""
    if any(site.config.auth for site in sites.all):
        missing = passwords.missing_library()
        if missing is not None:
            raise StartError(missing)


class Phase(Enum):
    """See the module."""

    RUNNING = 0
    RETIRING = 1
    DRAINING = 2
    ABORTING = 3


class Server:
    """See the module. The constructor opens the directories, the log and the listeners; `run` serves until `stop`.

    listeners: where it listens, if that is not its own to open; it closes them when it stops to accept.
    log_fd: the sink of the access log, standard output by default, unless the configuration names a file.
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
        log_fd: int = 1,
        diagnostics: Diagnostics | None = None,
        world: Callable[..., World] = open_world,
    ) -> None:
        self.config = config
        self._log_fd = log_fd
        self._diagnostics = diagnostics
        self._open_world = world
        self._ring: Ring | None = None
        # Reentrant, since a signal handler may wake the ring wherever its own thread happens to be.
        self._ring_lock = threading.RLock()
        self._heeds_signals = False
        self._stop_requests = 0
        self._stops_seen = 0
        self._retire_requested = False
        self._renew_requested = False
        self.accepted_last: Callable[[], None] | None = None
        """Called once when no more connections are accepted."""
        self._phase = Phase.RUNNING
        self._deadline = 0.0
        self._looks: list[Client] = []
        """The connections whose deadlines are still to be looked at, of those that there were when it began."""
        self._reopen_requests = self._reopens_seen = 0
        self._reopening: Task | None = None
        self.sites = Sites(config)
        check_guards(self.sites)
        if any(site.listing for site in self.sites.all):
            listing.prepare()
        self._roots: list[Root] = []
        self.listeners: list[Listener] = []
        self._log_owned = False
        try:
            for site in self.sites.all:
                self._roots.append(Root(open_root(site.config.directory), site.config.follow_symlinks))
            if config.log_file is not None and config.log_format != "off":
                self._open_log(config.log_file)
            self.listeners = self._listen() if listeners is None else list(listeners)
            for listener in self.listeners:
                tune_listener(listener)
            self._shares, self.shortage = share_descriptors(config, len(self.listeners))
        except BaseException:
            self.close()
            raise

    def _open_log(self, path: str) -> None:
        try:
            self._log_fd = open_log(path)
        except OSError as error:
            raise StartError(f"cannot open the access log {path!r}: {error.strerror}; see --log-file") from error
        self._log_owned = True

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
        if self._log_owned:
            os.close(self._log_fd)

    def _close_roots(self) -> None:
        while self._roots:
            os.close(self._roots.pop().directory)

    # -- running ------------------------------------------------------------------------------------------------

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`. The ring belongs to the calling thread. `started` is called when clients are served.

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
            self._loop(ring)
            self._finish()
        finally:
            with self._ring_lock:
                self._ring = None
            if self._heeds_signals:
                signal.set_wakeup_fd(-1)  # it is the ring's
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
        files.start_watching()
        form = LOG_FORMATS.get(config.log_format)
        log = None if form is None else AccessLog(tasks, self._log_fd, form(), owned=self._log_owned)
        pipes = PipePool(tasks, self._shares.pipes, config.pipe_bytes)
        self.shared = Shared(config, tasks, files, pipes, log)
        respond = static.responder(tasks.system.random_bytes(static.BOUNDARY_BYTES))
        self.listening = [Listening(config, rule, self.sites, respond, self.shared) for rule in config.listeners]
        self._acceptors = [Acceptor(self.listening[each.rule], each, self._shares) for each in self.listeners]
        tasks.call_at(ring.now + self.shared.look_every_s, self._look_at_deadlines)
        self._stderr = RingWriter(tasks)
        if self.shortage is not None:
            tasks.report("{}", self.shortage)
        self._ring = ring  # from here on `stop` can wake it

    def _loop(self, ring: Ring) -> None:
        tasks, shared = self.tasks, self.shared
        clock, starved, talking = shared.clock, shared.starved, shared.talking
        log, acceptors = shared.log, self._acceptors
        sleep_s = LONGEST_SLEEP_S
        while True:
            tasks.turn(sleep_s)
            if ring.now >= clock.next_update:
                clock.update()
            if starved:
                self._feed_starved()
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
            if self._renew_requested:
                self._renew_requested = False
                for acceptor in acceptors:
                    acceptor.renew()
            if self._retire_requested and self._phase is Phase.RUNNING:
                self._begin_drain(Phase.RETIRING)
            if self._stop_requests != self._stops_seen:
                self._stop_requested()
            if self._reopen_requests != self._reopens_seen:
                self._reopen_requested()
            if self._phase is not Phase.RUNNING:
                if self.listeners and all(acceptor.is_over for acceptor in acceptors):
                    self._close_listeners()  # so that new clients are refused, and do not wait for nothing
                    if self.accepted_last is not None:
                        self.accepted_last()
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

    def _feed_starved(self) -> None:
        """Arm as many receives that found no buffer as there are buffers, in the order in which they starved."""
        starved = self.shared.starved
        for _turn in range(min(len(starved), self.tasks.ring.buffer_count)):
            starved.popleft().rearm_receive()

    def _throw_away(self) -> None:
        """A turn's share of what lingering connections are sent, in the order in which it came."""
        talking, left = self.shared.talking, DISCARD_BYTES_MAX
        while talking and left > 0:
            left -= max(PIECE_BYTES_MIN, talking.popleft().throw_away(left))

    # -- stopping -----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Drain and end; a second call cuts off what is left. From any thread, or from a signal handler."""
        self._stop_requests += 1
        self._wake()

    def _wake(self) -> None:
        # The loop may see what is asked for before it is woken, and end: its ring must not be shut meanwhile.
        with self._ring_lock:
            if self._ring is not None:
                self._ring.wake()

    def retire(self) -> None:
        """End without failing anybody: as `stop`, but idle connections have the time of a drain to ask once more, so
        that no request crosses the closing of its connection. From any thread, or from a signal handler.
        """
        self._retire_requested = True
        self._wake()

    def renew_accepts(self) -> None:
        """See `Acceptor.renew`. From any thread, or from a signal handler."""
        self._renew_requested = True
        ring = self._ring
        if ring is not None:
            ring.wake()

    def _stop_requested(self) -> None:
        self._stops_seen = self._stop_requests
        if self._phase in (Phase.RUNNING, Phase.RETIRING):
            self._drain()
            if self._stops_seen > 1:
                self._abort()
        elif self._phase is Phase.DRAINING:
            self._abort()

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
            connection.interrupt(ConnectionOverError("the server stops", resets=True))
        return True

    def _finish(self) -> None:
        """The last closes and the last log lines."""
        shared, log = self.shared, self.shared.log
        shared.files.shut()
        shared.pipes.shut()
        self._turn_until(lambda: (self._reopening is None or self._reopening.finished) and (log is None or log.idle))
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
        """Turn until it is done and nothing is to be closed, for FINISH_S at most. Log lines are written meanwhile."""
        ring, log = self.tasks.ring, self.shared.log
        deadline = ring.now + FINISH_S
        while ring.now < deadline:
            again = None if log is None else log.flush()
            if done() and not self.tasks.closing:
                return
            self.tasks.turn((deadline if again is None else min(deadline, again)) - ring.now)

    def _close_listeners(self) -> None:
        while self.listeners:
            close_listener(self.listeners.pop())

    # -- the access log's file ----------------------------------------------------------------------------------

    def reopen_log(self) -> None:
        """Write the access log to the file that its name now stands for: after it was renamed by logrotate(8), say.

        From any thread, or from a signal handler.
        """
        self._reopen_requests += 1
        self._wake()

    def _reopen_requested(self) -> None:
        if self._reopening is not None and not self._reopening.finished:
            return  # one at a time, or the file of the first could come last; the loop looks again when it has ended
        self._reopens_seen = self._reopen_requests
        path, log = self.config.log_file, self.shared.log
        if path is None or log is None:
            self.tasks.report("SIGUSR1: the access log goes to no file that could be reopened; see --log-file")
            return
        self._reopening = Task(self.tasks)
        self._reopening.begin(self._reopen(self._reopening, path, log))

    async def _reopen(self, task: Task, path: str, log: AccessLog) -> None:
        try:
            log.replace_sink(await self.tasks.call(lambda: open_sink(path), LOGS).result(task))
        except OSError as error:
            self.tasks.report(
                "cannot reopen the access log {!r}: {}; the one before it is written on", path, error.strerror
            )
        except HelpersBusyError:
            self.tasks.report("cannot reopen the access log: the helper threads are busy; send SIGUSR1 again")

    # -- signals ------------------------------------------------------------------------------------------------

    def heed_signals(self) -> None:
        """SIGTERM and SIGINT drain, and the second of them ends at once; SIGUSR1 reopens the access log,
        SIGUSR2 retires, SIGHUP renews the accepts: a supervisor sends those. Only in the main thread, while running.
        """
        assert self._ring is not None, "signals wake the ring, so it has to be open"
        self._heeds_signals = True
        signal.set_wakeup_fd(self._ring.wake_fd, warn_on_full_buffer=False)

        def requested(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        def reopen(_number: int, _frame: FrameType | None) -> None:
            self.reopen_log()

        def retire(_number: int, _frame: FrameType | None) -> None:
            self.retire()

        def renew(_number: int, _frame: FrameType | None) -> None:
            self.renew_accepts()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, requested)
        signal.signal(signal.SIGUSR1, reopen)
        signal.signal(signal.SIGUSR2, retire)
        signal.signal(signal.SIGHUP, renew)
