"""The supervisor's decisions: what to do about its workers, when something happens or time passes. Pure.

Theory of operation. `Machine.step` takes an event and the time, and returns actions. The machine knows slots and its
workers, each by a number; no process, no descriptor, no clock. `supervisor.py` performs the actions.

    supervisor   FIRST      nobody has served yet: a worker that dies ends all
                 SERVING    a worker that dies is replaced, after a pause if it dies again and again
                 LOADING    as SERVING; a new configuration is being read
                 CHANGING   a new generation comes up; a worker of the old one that dies is not replaced
                 STOPPING   all retire, then drain; nobody is replaced
                 ABORTING   all are cut off
    worker       STARTING   READY_S to serve, else it is killed
                 SERVING    has to be heard, else it is killed
                 LEAVING    HANDSHAKES_S, for handshakes that have begun; then it is told to retire
                 RETIRING   its own time for that twice, if it has served, and ENDING_S; then it is killed
                 KILLED     GONE_S; a process that is there for longer waits in the kernel, and nobody waits for it

A worker has one state and one deadline, and the state says what happens at it. So a worker that a reload retires is
killed in the end as well as one that a stop retires.

A worker says at each whole second of the monotonic clock that its loop turns. The machine looks half a second later
whether it has. Silence is counted in such looks, and deadlines are by a clock of the machine's own, which counts
STANDSTILL_S at most between two steps: after Ctrl-Z, a suspended laptop or `docker pause` the true clock would accuse
workers that had no time to turn, but the supervisor has not looked meanwhile.

Invariants
 1. The old generation leaves only after every worker of the new one has said that it serves.
 2. A worker that was started dies or is abandoned before `End`, and `End` comes once, as the last action.
 3. A slot has one worker, of one generation, that is not on its way out, or one that is due.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto

from ringserve.config.settings import LATE_LOOKS
from ringserve.processes.events import (
    Abandon,
    Action,
    Bound,
    Do,
    End,
    Event,
    Fact,
    Hangs,
    Kill,
    Notify,
    NotLoaded,
    NotStarted,
    Plan,
    Said,
    Say,
    Start,
    Tell,
)
from ringserve.processes.messages import Kind

USER_ERROR = 2
BROKEN = 70
"""EX_SOFTWARE of sysexits.h: the ring broke under a running server, or there is a fault of ours."""

BEAT_S = 1.0
"""Between two words of a worker. Workers speak at the same time, so that a supervisor of many wakes for all at once."""
READY_S = 30.0
"""A worker that does not serve after this time does not come up."""
HANDSHAKES_S = 0.1
"""Between the last SYN that is let in and the last look at the queue: for the handshake that the SYN began."""
GRACE_S = 0.25
"""When the server stops and nobody accepts any more, for which idle connections may ask once more: a request that
crosses the closing of its connection would fail. Longer than a round trip, and shorter than somebody notices who
pressed Ctrl-C.
"""
ENDING_S = 5.0
"""Beyond all of a retiring worker's own deadlines, and for one that is cut off."""
GONE_S = 2.0
"""A process that is still there so long after SIGKILL waits in the kernel, for a disk or a network file system. Nobody
can end it."""
BACK_OFF_FIRST_S = 0.1
BACK_OFF_LAST_S = 10.0
"""Between the deaths of a worker and its successor, from the second in a row on: doubled each time, so that one that
cannot live costs little."""
SETTLED_S = 10.0
"""A worker that ran this long resets the count of consecutive deaths."""
STANDSTILL_S = 1.5 * BEAT_S
"""A supervisor that runs looks at least as often."""


class State(Enum):
    """Of the supervisor; see the module."""

    FIRST = auto()
    SERVING = auto()
    LOADING = auto()
    CHANGING = auto()
    STOPPING = auto()
    ABORTING = auto()


class Life(Enum):
    """Of a worker; see the module."""

    STARTING = auto()
    SERVING = auto()
    LEAVING = auto()
    RETIRING = auto()
    KILLED = auto()


@dataclass
class Worker:
    """One process. deadline_s, began_s: by the machine's clock. served: it has said that it serves. hangs: on which
    file systems.
    """

    number: int
    slot: int
    plan: Plan
    is_new: bool
    began_s: float
    deadline_s: float
    life: Life = Life.STARTING
    served: bool = False
    accepts: bool = True
    silent_looks: int = 0
    hangs: str = ""

    @property
    def is_late(self) -> bool:
        """Whether nothing is heard of it."""
        return self.is_there and self.silent_looks >= LATE_LOOKS

    @property
    def is_there(self) -> bool:
        """Whether it can be told anything."""
        return self.life is not Life.KILLED

    @property
    def is_up(self) -> bool:
        """Whether it is not on its way out."""
        return self.life in (Life.STARTING, Life.SERVING)


def next_look(now_s: float) -> float:
    """When to look again, by the monotonic clock: half-way between two words, in 0.5 to 1.5 s."""
    return (now_s // BEAT_S + 1.5) * BEAT_S


class Machine:
    """See the module. watchdog_s: how often the service manager wants to hear that all is well; it may be infinite."""

    def __init__(self, now_s: float, watchdog_s: float = math.inf) -> None:
        self.state = State.FIRST
        self.workers: dict[int, Worker] = {}
        self._watchdog_s = watchdog_s
        self._seen_s = now_s
        self._clock_s = 0.0
        self._look_at_s = next_look(now_s)
        self._watchdog_at_s = now_s + watchdog_s
        self._plan = self._new_plan = Plan(0, 0, 0.0, "")
        self._due: dict[int, float] = {}
        """Slots whose worker is to be started again, and when by the machine's clock."""
        self._deaths: dict[int, int] = {}
        self._drain_at_s: float | None = math.inf
        """When to tell all to drain; None in a stop, until nobody accepts any more."""
        self._reload_again = False
        self._status = 0
        self._count = 0
        self._actions: list[Action] = []

    def next_look_s(self) -> float:
        """When `Fact.LOOKED` has something to do, at the latest, by the clock of `step`."""
        times = [worker.deadline_s for worker in self.workers.values()]
        if self.state in (State.SERVING, State.LOADING):
            times += self._due.values()
        if self._drain_at_s is not None:
            times.append(self._drain_at_s)
        deadline_s = min(times, default=math.inf)
        return min(self._look_at_s, self._watchdog_at_s, self._seen_s + deadline_s - self._clock_s)

    def step(self, event: Event, now_s: float) -> list[Action]:
        """What to do, in this order, after what happened."""
        self._clock_s += min(max(0.0, now_s - self._seen_s), STANDSTILL_S)
        self._seen_s = now_s
        match event:
            case Fact():
                self._heed(event)
            case Bound(plan):
                self._start_generation(plan)
            case NotLoaded(why):
                self._not_loaded(why)
            case NotStarted(number, why):
                self._not_started(self.workers.pop(number), why)
            case Said(number, word):
                self._said(self.workers[number], word)
            case Hangs(number, where):
                self._hangs(self.workers[number], where)
            case _:
                self._died(self.workers.pop(event.worker), event.code, event.how)
        self._settle()
        actions, self._actions = self._actions, []
        return actions

    def _do(self, *actions: Action) -> None:
        self._actions += actions

    def _tell_all(self, order: Kind) -> None:
        for worker in self.workers.values():
            if worker.is_there:
                self._do(Tell(worker.number, order))

    @property
    def _is_ending(self) -> bool:
        return self.state in (State.STOPPING, State.ABORTING)

    # -- asked by signals ---------------------------------------------------------------------------------------

    def _heed(self, fact: Fact) -> None:
        if fact is Fact.LOOKED:
            self._pass_time()
        elif fact is Fact.STOP_ASKED:
            if self._is_ending:
                self._abort()
            else:
                self._stop()
        elif fact is Fact.RELOAD_ASKED:
            self._reload()
        elif fact is Fact.LOG_ASKED:
            self._do(Do.OPEN_LOG)
        elif fact is Fact.LOG_OPENED:
            self._tell_all(Kind.LOG)
        elif self.state is State.LOADING:
            self._do(Do.BIND)

    def _reload(self) -> None:
        if self.state is State.SERVING:
            # Told in any case: `systemctl reload` waits for it, and then for READY=1 (Type=notify-reload).
            self._do(Notify(("RELOADING=1", f"MONOTONIC_USEC={int(self._seen_s * 1e6)}")), Do.LOAD)
            self.state = State.LOADING
        else:
            self._reload_again = True  # the file may have changed since the one that comes up was read

    def _stop(self) -> None:
        self.state, self._drain_at_s = State.STOPPING, None
        self._due.clear()
        # The workers have the last descriptors now; what a dead one's successor would have accepted is lost.
        self._do(Notify(("STOPPING=1",)), Do.CLOSE_ALL)
        for worker in tuple(self.workers.values()):
            if worker.is_up:
                self._leave(worker)
            elif worker.life is Life.KILLED and worker.deadline_s == math.inf:
                self._abandon(worker)

    def _abort(self) -> None:
        self.state, self._drain_at_s = State.ABORTING, math.inf
        self._tell_all(Kind.ABORT)
        end_s = self._clock_s + ENDING_S
        for worker in self.workers.values():
            if worker.life is Life.LEAVING:
                worker.life, worker.deadline_s = Life.RETIRING, end_s
            elif worker.life is Life.RETIRING:
                worker.deadline_s = min(worker.deadline_s, end_s)

    # -- generations --------------------------------------------------------------------------------------------

    def _start_generation(self, plan: Plan) -> None:
        self._new_plan = plan
        if self.state is State.LOADING:
            self.state = State.CHANGING
        for slot in range(plan.slots):
            self._start(slot, plan, is_new=True)

    def _not_loaded(self, why: str) -> None:
        if self.state is State.LOADING:
            self.state = State.SERVING
            self._not_reloaded(f"{why}; the configuration before stays in force")

    def _not_reloaded(self, why: str) -> None:
        self._do(Say("SIGHUP: {}", (why,)), Notify(("READY=1", f"STATUS=Not reloaded: {why}")))

    def _is_coming_up(self, worker: Worker) -> bool:
        return worker.is_new and self.state in (State.FIRST, State.CHANGING)

    def _take_over(self) -> None:
        """All of the new generation serve."""
        plan = self._plan = self._new_plan
        count = "1 worker serves" if plan.slots == 1 else f"{plan.slots} workers serve"
        ready = Notify(("READY=1", f"STATUS={count} {plan.urls}"))
        if self.state is State.FIRST:
            self._do(ready, Do.ANNOUNCE)
        else:
            self._do(Do.COMMIT, ready, Say("reloaded: {} by the new configuration", (count,)))
        self.state = State.SERVING
        self._due.clear()
        for worker in self.workers.values():
            if worker.is_up and not worker.is_new:
                self._leave(worker)
            worker.is_new = False

    def _give_up(self) -> None:
        """One of the new generation did not come up: the others of it go again."""
        new = [worker for worker in self.workers.values() if worker.is_new]
        for worker in new:
            worker.is_new = False
            if worker.life is Life.STARTING:
                self._kill(worker)  # it may hang in a start that heeds nothing
        if self.state is State.FIRST:
            self._status = self._status or USER_ERROR
            self._stop()
            return
        # First, so that those who serve have the last descriptors of what was made for them: see `_stop`.
        self._do(Do.REVERT)
        for worker in new:
            if worker.life is Life.SERVING:  # it may have clients already
                self._retire(worker)
        self.state = State.SERVING
        self._not_reloaded("the new workers did not come up; those before them go on")

    # -- workers ------------------------------------------------------------------------------------------------

    def _start(self, slot: int, plan: Plan, *, is_new: bool) -> None:
        self._count += 1
        ready_s = self._clock_s + READY_S
        self.workers[self._count] = Worker(self._count, slot, plan, is_new, self._clock_s, ready_s)
        self._do(Start(self._count, slot))

    def _not_started(self, worker: Worker, why: str) -> None:
        if self._is_coming_up(worker):
            self._do(Say("cannot start a worker: {}", (why,)))
        elif worker.is_up:
            self._do(Say("cannot start a worker: {}; tried again in {:g} s", (why, BACK_OFF_LAST_S)))
            self._due[worker.slot] = self._clock_s + BACK_OFF_LAST_S

    def _said(self, worker: Worker, word: Kind) -> None:
        worker.silent_looks = 0
        if word is Kind.SERVES:
            worker.served = True
            if worker.life is Life.STARTING:
                worker.life, worker.deadline_s = Life.SERVING, math.inf
            elif worker.life is Life.RETIRING and self.state is not State.ABORTING:
                self._set_retiring(worker)  # it may have clients, whom it gives the time of a drain
        elif word is Kind.ACCEPTS_NO_MORE:
            worker.accepts = False
            if worker.life is Life.SERVING:  # nobody here has told it to
                self._miss(worker, "retires")
                self._set_retiring(worker)

    def _hangs(self, worker: Worker, where: str) -> None:
        worker.hangs = where
        if worker.life is Life.RETIRING:
            self._kill(worker)

    def _leave(self, worker: Worker) -> None:
        worker.life, worker.deadline_s = Life.LEAVING, self._clock_s + HANDSHAKES_S

    def _retire(self, worker: Worker) -> None:
        self._set_retiring(worker)
        self._do(Tell(worker.number, Kind.RETIRE))

    def _set_retiring(self, worker: Worker) -> None:
        # A worker drains when it has retired for a drain's time, by itself too. One that has not served has nobody.
        worker.life = Life.RETIRING
        own_s = 2 * worker.plan.drain_s if worker.served else 0.0
        worker.deadline_s = self._clock_s + own_s + ENDING_S

    def _kill(self, worker: Worker) -> None:
        worker.life, worker.deadline_s = Life.KILLED, self._clock_s + GONE_S
        self._do(Kill(worker.number))

    def _kill_for(self, worker: Worker, why: str) -> None:
        if worker.is_up:
            self._miss(worker, f"{why}; it is killed")
        else:
            self._do(Say("{}; it is killed", (why,), worker.number))
        if self._is_ending:
            self._status = self._status or BROKEN
        self._kill(worker)

    def _abandon(self, worker: Worker) -> None:
        del self.workers[worker.number]
        self._do(Abandon(worker.number))
        self._status = self._status or BROKEN

    def _died(self, worker: Worker, code: int, how: str) -> None:
        if code and self.state in (State.FIRST, State.STOPPING, State.ABORTING) and worker.is_there:
            self._status = self._status or (code if code > 0 else BROKEN)
        if worker.is_up and not self._is_coming_up(worker):
            self._miss(worker, how)
        elif code and (worker.served or (code < 0 and worker.is_up)):
            # One that never served and ended with a status has said why.
            self._do(Say("{}", (how,), worker.number))

    def _miss(self, worker: Worker, why: str) -> None:
        """Another has to take the place of one that is up."""
        if self._is_coming_up(worker):
            self._do(Say("{}", (why,), worker.number))
            return
        settled = self._clock_s - worker.began_s >= SETTLED_S
        before = 0 if settled else self._deaths.get(worker.slot, 0)
        # The exponent is bounded as well: 2.0**1024 is no number, and one may die that often.
        delay_s = min(BACK_OFF_LAST_S, BACK_OFF_FIRST_S * 2.0 ** min(before - 1, 32)) if before else 0.0
        self._deaths[worker.slot] = before + 1
        again = "at once" if not delay_s else f"in {delay_s:g} s"
        if self.state is State.CHANGING:
            again = "with the new generation"
        self._do(Say("{}; another is started {}", (why, again), worker.number))
        self._due[worker.slot] = self._clock_s + delay_s

    # -- time ---------------------------------------------------------------------------------------------------

    def _pass_time(self) -> None:
        now_s = self._seen_s
        for worker in tuple(self.workers.values()):
            if self._clock_s >= worker.deadline_s:
                self._at_deadline(worker)
        if self._drain_at_s is not None and self._clock_s >= self._drain_at_s:
            self._drain_at_s = math.inf
            self._tell_all(Kind.DRAIN)
        if now_s >= self._look_at_s:
            self._look_at_s = next_look(now_s)
            for worker in tuple(self.workers.values()):
                self._look_at(worker)
        if now_s >= self._watchdog_at_s:
            late = any(worker.is_late for worker in self.workers.values())
            self._watchdog_at_s = self._look_at_s if late else now_s + self._watchdog_s
            if not late:
                self._do(Notify(("WATCHDOG=1",)))

    def _at_deadline(self, worker: Worker) -> None:
        if worker.life is Life.STARTING:
            self._kill_for(worker, f"does not serve after {READY_S:g} s")
        elif worker.life is Life.LEAVING:
            self._retire(worker)
        elif worker.life is Life.RETIRING:
            self._kill_for(worker, "does not end")
        else:
            assert worker.life is Life.KILLED, "one that serves has no deadline"
            worker.deadline_s = math.inf
            if worker.hangs:
                stuck = f"is stuck in the kernel on {worker.hangs}; it ends when that file system answers"
            else:
                stuck = "is stuck in the kernel; it ends by itself when what it waits for answers"
            self._do(Say("{}", (stuck,), worker.number))
            if self._is_ending:
                self._abandon(worker)

    def _look_at(self, worker: Worker) -> None:
        if not (worker.served and worker.is_there):
            return
        worker.silent_looks += 1
        silence = f"has not turned its loop for {worker.silent_looks} s"
        if 0 < worker.plan.silent_looks_max <= worker.silent_looks:
            self._kill_for(worker, silence)
        elif worker.silent_looks == LATE_LOOKS:
            self._do(Say("{}", (silence,), worker.number))

    # -- what follows of it -------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Go on with what waits for workers, as far as they have come."""
        if self.state in (State.FIRST, State.CHANGING):
            new = [worker for worker in self.workers.values() if worker.is_new and worker.is_up]
            if len(new) < self._new_plan.slots:
                self._give_up()
            elif all(worker.life is Life.SERVING for worker in new):
                self._take_over()
        if self.state in (State.SERVING, State.LOADING):
            for slot in [slot for slot, when_s in self._due.items() if when_s <= self._clock_s]:
                del self._due[slot]
                self._start(slot, self._plan, is_new=False)
        if self.state is State.SERVING and self._reload_again:
            self._reload_again = False
            self._reload()
        if self._drain_at_s is None and not any(each.accepts for each in self.workers.values() if each.is_there):
            self._drain_at_s = self._clock_s + GRACE_S
        if self._is_ending and not self.workers:
            self._do(End(self._status))
