"""Processes: a supervisor, which owns the sockets, and its workers, each with one thread, one ring and one core.

Theory of operation. Every worker *slot* has listening sockets of its own, one for each address, bound to the same port
by SO_REUSEPORT, so that the kernel spreads connections over the slots. A slot's sockets belong to the supervisor and
outlive its workers: what waits in a socket's accept queue when a worker dies, or is replaced, is accepted by the next
one. A listening socket that is closed would reset those connections, so none is closed while the supervisor serves;
when there are fewer slots than before, the sockets of the missing ones go to those that are left.

A reload reads the configuration anew. If it is good, workers of the new *generation* are started beside the old ones,
on the same sockets; when all of them serve, the old ones retire: they accept no more, answer what they are asked with
`Connection: close`, and end. (Then the new ones look at their sockets anew: see `Supervisor._renew_accepts`.) If the
new configuration is bad, or a new worker does not come up, nothing changes.

The supervisor has no ring and no part in the data's way. It sleeps until a signal, a word of a worker, or a time that
is due. A worker tells that it serves, and that it is alive, through a pipe; it gets SIGTERM when the supervisor dies.

Invariants
 1. While the supervisor serves, a socket that was ever listened on stays open.
 2. The old generation retires only after every worker of the new one has said that it serves.
 3. Whatever dies is said in one line, with how.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from ringserve.config import Config
from ringserve.ring.descriptors import Listener, ListenError, close_listener, listen_tcp, listen_unix, share_listener
from ringserve.ring.interface import RingBrokenError, RingRefusedError
from ringserve.ring.tasks import report
from ringserve.server import Server, StartError

USER_ERROR = 2
BROKEN = 70
"""EX_SOFTWARE of sysexits.h: the ring broke under a running server."""
READY_S = 30.0
"""A worker that does not serve after this time does not come up."""
BACK_OFF_FIRST_S = 0.1
BACK_OFF_LAST_S = 10.0
"""Between the deaths of a worker and its successor: doubled each time, so that one that cannot live costs little."""
SETTLED_S = 10.0
"""Who lived this long is started again at once."""
RETIRED = signal.SIGUSR2
"""From the supervisor to a worker: see `Server.retire`."""
RENEW = signal.SIGHUP
"""See `Server.renew_accepts`."""
SERVES = b"+"
ACCEPTS_NO_MORE = b"-"
"""What a worker says."""
PR_SET_PDEATHSIG = 1  # prctl(2)
SYSTEMD_FIRST_FD = 3  # sd_listen_fds(3)


class Worker:
    """One process. voice: the pipe that it speaks through, or -1 when it has said all."""

    def __init__(self, pid: int, slot: int, generation: int, voice: int, started: float) -> None:
        self.pid = pid
        self.slot = slot
        self.generation = generation
        self.voice = voice
        self.started = started
        self.serves = False
        self.retiring = False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended meanwhile is waited for soon."""
        os.kill(self.pid, number)


class Due(NamedTuple):
    """A worker that is to be started again."""

    when: float
    slot: int


def available_cpus() -> int:
    """How many workers `--workers auto` means: the processors that this process may use, and that its control group's
    quota is worth (cgroup v2, cpu.max; rounded up).
    """
    count = len(os.sched_getaffinity(0))
    quota = cgroup_quota()
    return count if quota is None else max(1, min(count, quota))


def cgroup_quota(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> int | None:
    """Whole processors that the closest quota of the control groups above this process allows; None without any."""
    try:
        with open(membership) as file:
            own = next((line.split(":", 2)[2].strip() for line in file if line.startswith("0::")), "/")
    except OSError:
        return None
    least: int | None = None
    parts = [part for part in own.split("/") if part]
    for depth in range(len(parts), -1, -1):
        try:
            with open(os.path.join(root, *parts[:depth], "cpu.max")) as file:
                quota, _space, period = file.read().strip().partition(" ")
        except OSError:
            continue
        if quota != "max":
            cpus = -(-int(quota) // int(period))
            least = cpus if least is None else min(least, cpus)
    return least


class Notifier:
    """What systemd is told (sd_notify(3)); nothing where it does not listen."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        usec = environment.get("WATCHDOG_USEC")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.interval_s = int(usec) / 2e6 if usec is not None and usec.isdigit() and mine else None

    def tell(self, *lines: str) -> None:
        """One message. A manager that is gone is not our concern."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            report(f"cannot notify the service manager: {error.strerror}")


class Sockets:
    """The listening sockets by address and slot. Those that systemd handed over are shared by all slots."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._inherited = inherited_listeners(environment)
        self._by_address: dict[tuple[str, int, str | None], list[list[Listener]]] = {}
        self._current: list[tuple[str, int, str | None]] = []

    def prepare(self, config: Config, slots: int) -> None:
        """Listen where the configuration says, `slots` times. Raises ListenError, and nothing has changed then."""
        if self._inherited:
            return
        if config.unix is not None:
            wanted: list[tuple[str, int, str | None]] = [("", 0, config.unix)]
        else:
            wanted = [(host, config.port, None) for host in config.host]
        for key in wanted:
            host, port, unix = key
            made = self._by_address.get(key)
            if made is None:
                # Port 0 is picked anew for each host, as it is without workers.
                made = [[listen_unix(unix)]] if unix is not None else [listen_tcp(host, port, shared=True)]
                self._by_address[key] = made
            while unix is None and len(made) < slots:
                made.append([share_listener(listener) for listener in made[0]])
        self._current = wanted

    def of(self, slot: int, slots: int) -> list[Listener]:
        """What a worker of a slot listens on."""
        if self._inherited:
            return self._inherited
        listeners: list[Listener] = []
        for key in self._current:
            made = self._by_address[key]
            if key[2] is not None:
                listeners += made[0]
            else:
                listeners += [listener for index in range(slot, len(made), slots) for listener in made[index]]
        # The file of a unix socket is the supervisor's to remove.
        return [listener._replace(unix_path=None) for listener in listeners]

    @property
    def urls(self) -> list[str]:
        """Where clients reach the server."""
        first = self._inherited or [listener for key in self._current for listener in self._by_address[key][0]]
        return [listener.url for listener in first]

    def close(self) -> None:
        """After the last worker has ended."""
        for made in self._by_address.values():
            for listeners in made:
                for listener in listeners:
                    close_listener(listener)
        self._by_address.clear()


def inherited_listeners(environment: dict[str, str]) -> list[Listener]:
    """The sockets that systemd hands over (sd_listen_fds(3)); none where it does not. The variables are taken away, so
    that no child takes them for its own.
    """
    mine = environment.pop("LISTEN_PID", "") == str(os.getpid())
    count = environment.pop("LISTEN_FDS", "0")
    environment.pop("LISTEN_FDNAMES", None)
    if not mine or not count.isdigit():
        return []
    listeners = []
    for fd in range(SYSTEMD_FIRST_FD, SYSTEMD_FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        borrowed = socket.socket(fileno=fd)
        try:
            name = borrowed.getsockname()
        finally:
            borrowed.detach()
        if isinstance(name, tuple):
            host = f"[{name[0]}]" if ":" in str(name[0]) else name[0]
            url = f"http://{host}:{name[1]}/"
        else:
            url = f"unix:{name if isinstance(name, str) else name.decode(errors='replace')}"
        listeners.append(Listener(fd, url, None))
    return listeners


class Supervisor:
    """See the module.

    load: the configuration in force from now on; None if it is bad, which it has said then.
    """

    def __init__(self, config: Config, load: Callable[[], Config | None]) -> None:
        """Listens. Raises ListenError."""
        self.config = config
        self._load = load
        self._slots = config.worker_count(available_cpus())
        self._notifier = Notifier(dict(os.environ))
        self._sockets = Sockets(os.environ)  # type: ignore[arg-type]  # it is a mapping, and is changed
        self._sockets.prepare(config, self._slots)
        self._workers: dict[int, Worker] = {}
        self._due: list[Due] = []
        self._deaths: dict[int, int] = {}
        self._generation = 0
        self._next: Config | None = None
        self._next_slots = 0
        self._deadline = 0.0
        self._signals: list[int] = []
        self._stopping = False
        self._announced = False
        self._status = 0
        self._beat = 0.0

    @property
    def urls(self) -> list[str]:
        """Where clients reach the server."""
        return self._sockets.urls

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self, started: Callable[[], None] = lambda: None) -> int:
        """Serve until a signal says to stop. Returns the exit status. In the main thread. `started` is called when all
        workers serve for the first time.
        """
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        before = {
            number: signal.signal(number, lambda number, _frame: self._signals.append(number))
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
        }
        # What exists by now is shared by all, and stays to the end: no collection has to look at it, or copies it.
        gc.collect()
        gc.freeze()
        try:
            self._start_generation(self.config, self._slots)
            while self._workers or self._due:
                self._sleep(read_fd)
                self._heed_signals()
                self._bury()
                self._restart_due()
                self._look_at_generation(started)
                self._watchdog()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(read_fd)
            os.close(write_fd)
            self._sockets.close()
        return self._status

    def _sleep(self, wake_fd: int) -> None:
        """Until a signal, a word of a worker, or a time that is due."""
        now = time.monotonic()
        times = [due.when for due in self._due] if self._next is None else []
        if self._deadline:
            times.append(self._deadline)
        if self._notifier.interval_s is not None:
            times.append(self._beat)
        timeout = max(0.0, min(times) - now) if times else None
        voices = {worker.voice: worker for worker in self._workers.values() if worker.voice >= 0}
        readable, _, _ = select.select([wake_fd, *voices], [], [], timeout)
        if wake_fd in readable:
            os.read(wake_fd, 4096)
        for fd in readable:
            worker = voices.get(fd)
            if worker is not None and self._listen_to(worker):
                self._renew_accepts()

    def _renew_accepts(self) -> None:
        """A worker accepts no more. The wake-up for a connection goes to one of those who wait at a socket; one that
        went to it in its last moment is lost, and the connection would wait for the next one to come.
        """
        for worker in self._workers.values():
            if worker.serves and not worker.retiring:
                worker.signal(RENEW)

    @staticmethod
    def _listen_to(worker: Worker) -> bool:
        """Take what a worker says. True if it accepts no more."""
        said = os.read(worker.voice, 4096)
        worker.serves = worker.serves or SERVES in said
        if not said:
            os.close(worker.voice)
            worker.voice = -1
        return ACCEPTS_NO_MORE in said

    def _heed_signals(self) -> None:
        signals, self._signals = self._signals, []
        for number in signals:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
            elif number == signal.SIGHUP:
                self._reload()
            elif number == signal.SIGUSR1:
                for worker in self._workers.values():
                    worker.signal(signal.SIGUSR1)

    def _stop(self) -> None:
        """Drain; a second time: end at once."""
        if not self._stopping:
            self._notifier.tell("STOPPING=1")
        self._stopping = True
        self._due.clear()
        for worker in self._workers.values():
            worker.signal(signal.SIGTERM)

    # -- generations --------------------------------------------------------------------------------------------

    def _start_generation(self, config: Config, slots: int) -> None:
        self._generation += 1
        self._next, self._next_slots = config, slots
        self._deadline = time.monotonic() + READY_S
        for slot in range(slots):
            self._start_worker(config, slot, slots)

    def _reload(self) -> None:
        if self._stopping or self._next is not None:
            report("SIGHUP: the server is starting or stopping already; nothing is reloaded")
            return
        config = self._load()
        if config is None:
            report("SIGHUP: the new configuration is not used; the one before stays in force")
            return
        slots = config.worker_count(available_cpus())
        try:
            self._sockets.prepare(config, slots)
        except ListenError as error:
            report(f"SIGHUP: {error}; the configuration before stays in force")
            return
        self._notifier.tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        self._start_generation(config, slots)

    def _look_at_generation(self, started: Callable[[], None]) -> None:
        """Whether those who are coming up have."""
        if self._next is None:
            return
        new = [worker for worker in self._workers.values() if worker.generation == self._generation]
        if len(new) == self._next_slots and all(worker.serves for worker in new):
            self.config, self._slots, self._next, self._deadline = self._next, self._next_slots, None, 0.0
            for worker in self._workers.values():
                if worker.generation != self._generation and not worker.retiring:
                    worker.retiring = True
                    worker.signal(RETIRED)
            self._due.clear()
            self._notifier.tell("READY=1")
            if self._announced:
                report(f"reloaded: {self._slots} workers serve by the new configuration")
            else:
                self._announced = True
                started()
        elif len(new) < self._next_slots or time.monotonic() >= self._deadline:
            self._give_generation_up(new)

    def _give_generation_up(self, new: list[Worker]) -> None:
        """A new worker did not come up: those that did go again."""
        self._next, self._deadline = None, 0.0
        for worker in new:
            worker.retiring = True
            worker.signal(signal.SIGTERM)
        if self._announced and not self._stopping:
            report("the new workers did not come up; those before them go on")
            self._notifier.tell("READY=1")
        elif not self._stopping:
            self._status = self._status or USER_ERROR
            self._stop()

    # -- workers ------------------------------------------------------------------------------------------------

    def _start_worker(self, config: Config, slot: int, slots: int) -> None:
        listeners = self._sockets.of(slot, slots)
        voice, mouth = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            os.close(mouth)
            self._workers[pid] = Worker(pid, slot, self._generation, voice, time.monotonic())
            return
        status = BROKEN
        try:
            os.close(voice)
            signal.set_wakeup_fd(-1)
            for worker in self._workers.values():
                if worker.voice >= 0:
                    os.close(worker.voice)
            status = work(config, listeners, slot, mouth, parent)
        finally:
            # Not sys.exit: the frames above are the supervisor's.
            sys.stderr.flush()
            os._exit(status)

    def _bury(self) -> None:
        """Wait for those that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self._workers.pop(pid, None)
            if worker is None:
                continue
            if worker.voice >= 0:
                os.close(worker.voice)
            self._ended(worker, status)

    def _ended(self, worker: Worker, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        if self._stopping or worker.retiring:
            if code:
                self._status = self._status or (code if code > 0 else BROKEN)
                report(f"worker {worker.slot} (pid {worker.pid}) {how(code)}")
            return
        if self._next is not None and worker.generation == self._generation:
            if not self._announced and code > 0:
                self._status = code
            return  # `_look_at_generation` sees that one is missing
        lived_s = time.monotonic() - worker.started
        deaths = 0 if lived_s >= SETTLED_S else self._deaths.get(worker.slot, 0)
        delay_s = 0.0 if lived_s >= SETTLED_S else min(BACK_OFF_LAST_S, BACK_OFF_FIRST_S * 2**deaths)
        self._deaths[worker.slot] = deaths + 1
        again = "at once" if not delay_s else f"in {delay_s:g} s"
        report(f"worker {worker.slot} (pid {worker.pid}) {how(code)}; another is started {again}")
        self._due.append(Due(time.monotonic() + delay_s, worker.slot))

    def _restart_due(self) -> None:
        if self._next is not None:
            return  # a generation that comes up replaces whoever is missing
        now = time.monotonic()
        for due in [due for due in self._due if due.when <= now]:
            self._due.remove(due)
            self._start_worker(self.config, due.slot, self._slots)

    def _watchdog(self) -> None:
        """Tell systemd that all is well: that this loop runs, and that no slot is without its worker."""
        interval_s = self._notifier.interval_s
        if interval_s is not None and time.monotonic() >= self._beat:
            self._beat = time.monotonic() + interval_s
            self._notifier.tell("WATCHDOG=1")


def how(code: int) -> str:
    """How a process ended, by its exit code as `os.waitstatus_to_exitcode` gives it."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"


def work(config: Config, listeners: list[Listener], slot: int, mouth: int, parent: int) -> int:
    """The life of a worker. Returns its exit status. mouth: where it says that it serves. parent: the supervisor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, which sends it to all; the supervisor tells us
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 0  # it died before that was asked for
    if config.pin_workers:
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[slot % len(cpus)]})
    try:
        server = Server(config, listeners=listeners)
    except StartError as error:
        report(str(error))
        return USER_ERROR

    def started() -> None:
        server.heed_signals()
        os.write(mouth, SERVES)

    def accepted_last() -> None:
        os.write(mouth, ACCEPTS_NO_MORE)

    server.accepted_last = accepted_last

    try:
        server.run(started)
    except RingRefusedError as error:
        report(str(error))
        return USER_ERROR
    except RingBrokenError as error:
        report(str(error))
        return BROKEN
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        return BROKEN  # the supervisor is gone
    return 0
