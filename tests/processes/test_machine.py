"""The supervisor's decisions, without a process and without a clock: nobody is forgotten, and nobody killed by the
clock.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringserve.config.settings import LATE_LOOKS
from ringserve.processes.events import (
    Abandon,
    Action,
    Bound,
    Died,
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
from ringserve.processes.machine import (
    BACK_OFF_LAST_S,
    BEAT_S,
    BROKEN,
    ENDING_S,
    GONE_S,
    GRACE_S,
    HANDSHAKES_S,
    READY_S,
    SETTLED_S,
    STANDSTILL_S,
    USER_ERROR,
    Life,
    Machine,
    State,
    next_look,
)
from ringserve.processes.messages import Kind

DRAIN_S = 1.5
SILENT_LOOKS_MAX = 10
RETIRING_S = 2 * DRAIN_S + ENDING_S
MOMENT_S = 0.001


def plan(slots: int = 2, silent_looks_max: int = SILENT_LOOKS_MAX, drain_s: float = DRAIN_S) -> Plan:
    return Plan(slots, silent_looks_max, drain_s, "http://here/")


class Play:
    """A machine and its clock. done: what it did since that was last taken. Workers that do not stand still speak at
    each second.
    """

    def __init__(self, first: Plan | None = None, *, watchdog_s: float = math.inf) -> None:
        self.now_s = 100.75  # the next look is after the next word
        self.machine = Machine(self.now_s, watchdog_s)
        self.done: list[Action] = []
        self.silent: set[int] = set()
        if first is not None:
            self.do(Bound(first))

    def do(self, *events: Event) -> None:
        for event in events:
            self.done += self.machine.step(event, self.now_s)

    def take(self) -> list[Action]:
        done, self.done = self.done, []
        return done

    def wait(self, seconds: float) -> list[Action]:
        """Let so much time pass, and take what was done in it."""
        until_s = self.now_s + seconds
        while self.now_s < until_s and not of(End, self.done):
            beat_s = (self.now_s // BEAT_S + 1) * BEAT_S
            self.now_s = min(until_s, beat_s, max(self.machine.next_look_s(), self.now_s + MOMENT_S))
            if self.now_s == beat_s:
                for worker in tuple(self.machine.workers.values()):
                    if worker.served and worker.number not in self.silent:
                        self.do(Said(worker.number, Kind.ALIVE))
            self.do(Fact.LOOKED)
        return self.take()

    def serve(self, *workers: int) -> None:
        self.do(*(Said(worker, Kind.SERVES) for worker in workers))

    def life(self, worker: int) -> Life:
        return self.machine.workers[worker].life

    def lives(self) -> dict[int, Life]:
        return {number: worker.life for number, worker in self.machine.workers.items()}


@pytest.fixture
def play() -> Play:
    """Of two workers, which serve."""
    made = Play(plan())
    made.serve(1, 2)
    made.take()
    return made


@pytest.fixture
def changing(play: Play) -> Play:
    """And of two more, which come up."""
    play.do(Fact.RELOAD_ASKED, Fact.LOADED, Bound(plan()))
    play.take()
    return play


def died(worker: int, code: int = -9) -> Died:
    return Died(worker, code, f"ended by {code}")


def said(actions: list[Action]) -> list[str]:
    """The lines for the operator."""
    lines = [action for action in actions if isinstance(action, Say)]
    return [
        ("" if line.worker is None else f"worker {line.worker} ") + line.template.format(*line.values) for line in lines
    ]


def of(kind: type[Any], actions: list[Action]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


# -- the first generation -------------------------------------------------------------------------------------------


def test_clients_are_served_when_all_workers_say_so() -> None:
    play = Play(plan())
    assert play.take() == [Start(1, 0), Start(2, 1)]
    play.serve(2)
    assert play.take() == []
    play.serve(1)
    assert play.take() == [Notify(("READY=1", "STATUS=2 workers serve http://here/")), Do.ANNOUNCE]
    assert play.machine.state is State.SERVING


def test_a_first_worker_that_dies_ends_all_with_its_status() -> None:
    play = Play(plan(3))
    play.serve(1)
    play.take()
    play.do(died(2, 5))
    assert play.take() == [Kill(3), Notify(("STOPPING=1",)), Do.CLOSE_ALL]
    assert play.lives() == {1: Life.LEAVING, 3: Life.KILLED}
    play.do(died(3), died(1, 0))
    assert play.take() == [End(5)]


@pytest.mark.parametrize("code", [0, -9])
def test_a_first_worker_that_dies_without_a_status_ends_all_with_one(code: int) -> None:
    play = Play(plan(1))
    play.do(died(1, code))
    done = play.take()
    assert done[-1] == End(USER_ERROR if code == 0 else BROKEN)
    assert said(done) == (["worker 1 ended by -9"] if code else [])


def test_first_workers_that_cannot_be_started_end_all() -> None:
    play = Play(plan(3))
    play.take()
    play.do(NotStarted(2, "no more processes"), NotStarted(3, "no more processes"))
    assert said(play.done) == ["cannot start a worker: no more processes"]
    assert of(Kill, play.take()) == [Kill(1), Kill(3)]
    play.do(died(1))
    assert play.take() == [End(USER_ERROR)]


def test_a_first_worker_that_does_not_serve_in_time_ends_all() -> None:
    play = Play(plan(1))
    assert said(play.wait(READY_S - 0.1)) == []
    assert said(play.wait(0.2)) == ["worker 1 does not serve after 30 s; it is killed"]
    play.do(died(1))
    assert play.take() == [End(USER_ERROR)]


def test_what_is_asked_for_before_anybody_serves_is_done_then_or_at_once() -> None:
    play = Play(plan(1))
    play.do(Fact.RELOAD_ASKED)
    assert of(Notify, play.take()) == []
    play.serve(1)
    assert Do.LOAD in play.take()
    stopped = Play(plan(1))
    stopped.take()
    stopped.do(Fact.STOP_ASKED)
    assert stopped.take() == [Notify(("STOPPING=1",)), Do.CLOSE_ALL]
    assert stopped.wait(HANDSHAKES_S + MOMENT_S) == [Tell(1, Kind.RETIRE)], "it hears that when it serves"
    stopped.serve(1)
    assert stopped.life(1) is Life.RETIRING
    stopped.do(died(1, 0))
    assert stopped.take() == [End(0)]


# -- a worker that dies ---------------------------------------------------------------------------------------------


def test_one_that_dies_again_and_again_is_started_after_pauses_that_double(play: Play) -> None:
    victim = 1
    for pause_s in (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, BACK_OFF_LAST_S, BACK_OFF_LAST_S):
        play.do(died(victim))
        done = play.take()
        again = "at once" if not pause_s else f"in {pause_s:g} s"
        assert said(done) == [f"worker {victim} ended by -9; another is started {again}"]
        if pause_s:
            assert of(Start, done + play.wait(pause_s - 2 * MOMENT_S)) == []
            done = play.wait(4 * MOMENT_S)
        (start,) = of(Start, done)
        assert start.slot == 0
        victim = start.worker
    play.serve(victim)
    play.wait(SETTLED_S)
    play.do(died(victim))
    assert said(play.take()) == [f"worker {victim} ended by -9; another is started at once"]


def test_a_successor_that_cannot_be_started_is_tried_again(play: Play) -> None:
    play.do(died(1), NotStarted(3, "no more processes"))
    assert said(play.take())[-1] == "cannot start a worker: no more processes; tried again in 10 s"
    assert of(Start, play.wait(BACK_OFF_LAST_S - 0.1)) == []
    assert of(Start, play.wait(0.2)) == [Start(4, 0)]


def test_a_successor_that_does_not_serve_in_time_is_killed_and_replaced(play: Play) -> None:
    play.do(died(1))
    play.take()
    play.wait(READY_S - 0.1)
    done = play.wait(0.2)
    assert said(done) == ["worker 3 does not serve after 30 s; it is killed; another is started at once"]
    assert of(Kill, done) == [Kill(3)]
    assert of(Start, done) == [Start(4, 0)]


def test_a_worker_that_retires_by_itself_is_replaced_at_once_and_has_a_deadline(play: Play) -> None:
    play.do(Said(1, Kind.ACCEPTS_NO_MORE))
    done = play.take()
    assert said(done) == ["worker 1 retires; another is started at once"]
    assert of(Start, done) == [Start(3, 0)]
    play.serve(3)
    assert said(play.wait(RETIRING_S - 0.1)) == []
    assert said(play.wait(0.2)) == ["worker 1 does not end; it is killed"]


def test_the_exponent_of_the_pause_is_bounded(play: Play) -> None:
    play.machine._deaths[0] = 5000
    play.do(died(1))
    assert said(play.take()) == ["worker 1 ended by -9; another is started in 10 s"]


# -- a worker whose loop does not turn ------------------------------------------------------------------------------


def test_a_silent_worker_is_late_once_and_then_killed_and_replaced(play: Play) -> None:
    play.silent.add(1)
    done = play.wait(LATE_LOOKS)
    assert said(done) == [f"worker 1 has not turned its loop for {LATE_LOOKS} s"]
    assert play.machine.workers[1].is_late
    done = play.wait(SILENT_LOOKS_MAX - LATE_LOOKS)
    silence = f"worker 1 has not turned its loop for {SILENT_LOOKS_MAX} s; it is killed"
    assert said(done) == [f"{silence}; another is started at once"]
    assert (of(Kill, done), of(Start, done)) == ([Kill(1)], [Start(3, 0)])
    play.do(died(1))
    assert said(play.take()) == ["worker 1 ended by -9"]


def test_a_word_begins_the_count_anew(play: Play) -> None:
    for _time in range(3):
        play.silent.add(1)
        assert len(said(play.wait(SILENT_LOOKS_MAX - 2))) == 1, "it is said again"
        play.silent.clear()
        play.wait(1)
        assert not play.machine.workers[1].is_late


def test_a_limit_of_zero_kills_nobody() -> None:
    play = Play(plan(1, silent_looks_max=0))
    play.serve(1)
    play.silent.add(1)
    assert len(said(play.wait(1000))) == 1


def test_the_shortest_limit_kills_at_the_look_that_would_find_it_late() -> None:
    play = Play(plan(1, silent_looks_max=LATE_LOOKS))
    play.serve(1)
    play.silent.add(1)
    assert len(said(play.wait(LATE_LOOKS - 1))) == 0
    assert len(of(Kill, play.wait(1))) == 1


@pytest.mark.parametrize("stood_s", [0.0, 5.0, 100.0, 86400.0])
@pytest.mark.parametrize("at", [7.0, 7.25, 7.5, 7.999])
def test_a_supervisor_that_stood_still_looks_once_and_then_leaves_time_for_a_word(at: float, stood_s: float) -> None:
    now = next_look(at) + stood_s  # it was due long ago; now it goes on
    following = next_look(now)
    assert now + BEAT_S / 2 <= following <= now + 1.5 * BEAT_S
    spoken = (now // BEAT_S + 1) * BEAT_S
    assert now < spoken < following, "each worker has a word due in between"


def test_nobody_is_killed_when_all_stood_still_again_and_again() -> None:
    play = Play(plan(2, silent_looks_max=LATE_LOOKS))
    play.serve(1, 2)
    play.do(Fact.RELOAD_ASKED, Fact.LOADED, Bound(plan(2)))
    play.serve(3)
    play.take()
    for _stop in range(10):
        play.now_s += 1000.0
        play.do(Fact.LOOKED)  # the one look that is due at once, before the workers run
        assert of(Kill, play.take() + play.wait(1)) == []


def test_standing_still_counts_as_a_moment_of_a_deadline() -> None:
    play = Play(plan(1))
    play.now_s += 1000.0
    play.do(Fact.LOOKED)
    assert of(Kill, play.take() + play.wait(READY_S - STANDSTILL_S - 0.1)) == []
    assert of(Kill, play.wait(0.2)) == [Kill(1)]


def test_the_watchdog_is_told_in_time_unless_somebody_is_late() -> None:
    play = Play(plan(1), watchdog_s=0.4)
    play.serve(1)
    play.take()
    assert len(of(Notify, play.wait(10.0))) in (24, 25)
    play.silent.add(1)
    play.wait(LATE_LOOKS)
    assert of(Notify, play.wait(1)) == []
    play.wait(SILENT_LOOKS_MAX - LATE_LOOKS)
    assert play.life(1) is Life.KILLED
    assert of(Notify, play.wait(1)) != [], "it does not wait for one that is killed"


# -- reloading ------------------------------------------------------------------------------------------------------


def test_a_reload_starts_the_next_generation_and_then_the_one_before_leaves(play: Play) -> None:
    play.do(Fact.RELOAD_ASKED)
    assert play.take() == [Notify(("RELOADING=1", "MONOTONIC_USEC=100750000")), Do.LOAD]
    play.do(Fact.LOADED)
    assert play.take() == [Do.BIND]
    play.do(Bound(plan(1)))
    assert play.take() == [Start(3, 0)]
    play.serve(3)
    assert play.take() == [
        Do.COMMIT,
        Notify(("READY=1", "STATUS=1 worker serves http://here/")),
        Say("reloaded: {} by the new configuration", ("1 worker serves",)),
    ]
    assert play.lives() == {1: Life.LEAVING, 2: Life.LEAVING, 3: Life.SERVING}
    assert play.wait(HANDSHAKES_S + MOMENT_S) == [Tell(1, Kind.RETIRE), Tell(2, Kind.RETIRE)]
    play.do(Said(1, Kind.ACCEPTS_NO_MORE), died(1, 0))
    assert play.take() == []
    assert said(play.wait(RETIRING_S - 0.1)) == []
    assert said(play.wait(0.2)) == ["worker 2 does not end; it is killed"]
    play.do(died(2))
    assert said(play.take()) == ["worker 2 ended by -9"]
    assert play.machine.state is State.SERVING


@pytest.mark.parametrize("is_read", [False, True])
def test_a_configuration_that_is_bad_or_cannot_be_bound_changes_nothing(play: Play, is_read: bool) -> None:
    play.do(Fact.RELOAD_ASKED)
    if is_read:
        play.do(Fact.LOADED)
    play.take()
    play.do(NotLoaded("no such thing"))
    why = "no such thing; the configuration before stays in force"
    assert play.take() == [Say("SIGHUP: {}", (why,)), Notify(("READY=1", f"STATUS=Not reloaded: {why}"))]
    assert play.lives() == {1: Life.SERVING, 2: Life.SERVING}
    play.do(Fact.RELOAD_ASKED)
    assert Do.LOAD in play.take()


def test_who_dies_while_a_configuration_is_read_is_replaced(play: Play) -> None:
    play.do(Fact.RELOAD_ASKED, died(1))
    assert of(Start, play.take()) == [Start(3, 0)]


def test_reloads_that_are_asked_for_in_a_reload_are_one_after_it(changing: Play) -> None:
    changing.do(Fact.RELOAD_ASKED, Fact.RELOAD_ASKED)
    assert changing.take() == []
    changing.serve(3, 4)
    assert changing.take()[-1] is Do.LOAD
    changing.do(NotLoaded("bad"))
    assert Do.LOAD not in changing.take()


NOT_UP = "SIGHUP: the new workers did not come up; those before them go on"


def test_a_new_worker_that_dies_takes_the_new_ones_back(changing: Play) -> None:
    changing.serve(3)
    changing.do(died(4, 2), died(3, 0))
    done = changing.take()
    assert done[:2] == [Do.REVERT, Tell(3, Kind.RETIRE)]
    assert said(done) == [NOT_UP]
    assert of(Notify, done) == [Notify(("READY=1", f"STATUS=Not reloaded: {NOT_UP[len('SIGHUP: ') :]}"))]
    assert changing.lives() == {1: Life.SERVING, 2: Life.SERVING}
    assert changing.machine.state is State.SERVING


def test_new_workers_that_do_not_serve_in_time_or_cannot_be_started_are_taken_back(changing: Play) -> None:
    changing.do(NotStarted(3, "no more processes"))
    done = changing.take()
    assert said(done) == ["cannot start a worker: no more processes", NOT_UP]
    assert of(Kill, done) == [Kill(4)]
    changing.do(died(4), Fact.RELOAD_ASKED, Fact.LOADED, Bound(plan(1)))
    assert said(changing.take()) == []
    assert said(changing.wait(READY_S + 0.1)) == ["worker 5 does not serve after 30 s; it is killed", NOT_UP]


def test_who_dies_of_the_old_generation_is_replaced_by_the_new_one_or_when_that_is_given_up(changing: Play) -> None:
    changing.do(died(1))
    assert said(changing.take()) == ["worker 1 ended by -9; another is started with the new generation"]
    assert of(Start, changing.wait(1)) == []
    changing.do(died(3, 2))
    assert of(Start, changing.take()) == [Start(5, 0)]


def test_who_died_of_the_old_generation_is_not_started_beside_the_new_one(changing: Play) -> None:
    changing.do(died(1))
    changing.serve(3, 4)
    assert of(Start, changing.take() + changing.wait(1)) == []


def test_what_was_loaded_when_a_stop_was_asked_for_is_not_bound(play: Play) -> None:
    play.do(Fact.RELOAD_ASKED, Fact.STOP_ASKED)
    play.take()
    play.do(Fact.LOADED, NotLoaded("bad"), Fact.RELOAD_ASKED)
    assert play.take() == []


# -- the log --------------------------------------------------------------------------------------------------------


def test_a_log_that_was_opened_anew_is_given_to_all_who_can_be_told(changing: Play) -> None:
    changing.do(Fact.LOG_ASKED)
    assert changing.take() == [Do.OPEN_LOG]
    changing.serve(3, 4)
    changing.silent.add(3)
    changing.wait(SILENT_LOOKS_MAX + 1)
    changing.do(Fact.LOG_OPENED)
    told = {action.worker for action in of(Tell, changing.take())}
    assert told == {number for number, life in changing.lives().items() if life is not Life.KILLED}
    assert 3 not in told


# -- stopping -------------------------------------------------------------------------------------------------------


def test_a_stop_retires_and_then_drains_after_a_moment(play: Play) -> None:
    play.do(Fact.STOP_ASKED)
    assert play.take() == [Notify(("STOPPING=1",)), Do.CLOSE_ALL]
    assert play.wait(HANDSHAKES_S + MOMENT_S) == [Tell(1, Kind.RETIRE), Tell(2, Kind.RETIRE)]
    play.do(Said(1, Kind.ACCEPTS_NO_MORE))
    assert play.wait(2 * GRACE_S) == [], "one accepts still"
    play.do(Said(2, Kind.ACCEPTS_NO_MORE))
    assert play.wait(GRACE_S - 2 * MOMENT_S) == []
    assert play.wait(4 * MOMENT_S) == [Tell(1, Kind.DRAIN), Tell(2, Kind.DRAIN)]
    play.do(died(1, 0))
    assert play.take() == []
    play.do(died(2, 0))
    assert play.take() == [End(0)]


def test_a_second_stop_cuts_off_and_then_kills(play: Play) -> None:
    play.do(Fact.STOP_ASKED)
    play.wait(HANDSHAKES_S / 2)
    play.do(Fact.STOP_ASKED)
    assert play.take() == [Tell(1, Kind.ABORT), Tell(2, Kind.ABORT)]
    play.do(died(2, 0))
    assert said(play.wait(ENDING_S - 0.1)) == []
    done = play.wait(0.2)
    assert said(done) == ["worker 1 does not end; it is killed"]
    play.do(died(1))
    assert play.take() == [Say("{}", ("ended by -9",), 1), End(BROKEN)]


def test_a_second_stop_gives_nobody_more_time_and_tells_nothing_to_one_that_is_killed() -> None:
    play = Play(plan(2, drain_s=0.0))
    play.serve(1, 2)
    play.do(Fact.STOP_ASKED)
    play.wait(HANDSHAKES_S + 3.0)
    play.silent.add(1)
    play.do(Fact.STOP_ASKED)
    assert len(of(Kill, play.wait(ENDING_S - 3.0 + 0.1))) == 2
    play.take()
    play.do(Fact.STOP_ASKED)
    assert play.take() == []


def test_who_dies_while_the_server_stops_is_said_is_not_replaced_and_shows_in_the_status(play: Play) -> None:
    play.do(Fact.STOP_ASKED)
    play.take()
    play.do(died(1, 3))
    assert play.take() == [Say("{}", ("ended by 3",), 1)]
    play.do(died(2, -11))
    assert play.take() == [Say("{}", ("ended by -11",), 2), End(3)]


def test_a_silent_worker_is_killed_in_a_stop_too_which_does_not_wait_for_it_to_accept_no_more() -> None:
    play = Play(plan(2, drain_s=60.0))
    play.serve(1, 2)
    play.silent.add(1)
    play.do(Fact.STOP_ASKED)
    play.wait(HANDSHAKES_S + MOMENT_S)
    play.do(Said(2, Kind.ACCEPTS_NO_MORE))
    done = play.wait(SILENT_LOOKS_MAX + 1)
    assert Tell(2, Kind.DRAIN) in done
    play.do(died(2, 0), died(1))
    assert play.take()[-1] == End(BROKEN)


def test_a_stop_in_a_reload_retires_both_generations(changing: Play) -> None:
    changing.do(Fact.STOP_ASKED)
    changing.take()
    assert set(changing.lives().values()) == {Life.LEAVING}
    assert len(of(Tell, changing.wait(HANDSHAKES_S + MOMENT_S))) == 4


def test_a_stop_gives_a_worker_that_has_not_served_no_time_to_drain(changing: Play) -> None:
    changing.do(Fact.STOP_ASKED, died(1, 0), died(2, 0))
    changing.take()
    changing.wait(HANDSHAKES_S + MOMENT_S)
    changing.do(Said(4, Kind.SERVES))
    assert of(Kill, changing.wait(ENDING_S)) == [Kill(3)]
    assert of(Kill, changing.wait(RETIRING_S - ENDING_S)) == [Kill(4)], "this one may have had clients"


def test_one_that_serves_late_has_no_more_time_when_all_are_cut_off(changing: Play) -> None:
    changing.do(Fact.STOP_ASKED)
    changing.wait(HANDSHAKES_S + MOMENT_S)
    changing.do(Fact.STOP_ASKED, Said(3, Kind.SERVES))
    assert Kill(3) in changing.wait(ENDING_S + MOMENT_S)


def test_nobody_waits_for_a_process_that_stays_after_it_was_killed(play: Play) -> None:
    play.silent.add(1)
    play.wait(SILENT_LOOKS_MAX)
    play.serve(3)
    done = play.wait(GONE_S)
    stuck = "worker 1 is stuck in the kernel; it ends by itself when what it waits for answers"
    assert said(done) == [stuck]
    assert of(Abandon, done) == [], "it may end before the server does"
    assert said(play.wait(100)) == []
    play.do(Fact.LOG_OPENED)
    assert of(Tell, play.take()) == [Tell(2, Kind.LOG), Tell(3, Kind.LOG)]
    play.do(Fact.STOP_ASKED)
    assert Abandon(1) in play.take()
    play.do(died(2, 0), died(3, 0))
    assert play.take() == [End(BROKEN)]


@pytest.mark.parametrize("event", [Fact.STOP_ASKED, Fact.RELOAD_ASKED])
def test_a_worker_that_a_file_system_keeps_from_ending_is_abandoned_by_name(play: Play, event: Fact) -> None:
    play.do(event)
    if event is Fact.RELOAD_ASKED:
        play.do(Fact.LOADED, Bound(plan()))
        play.serve(3, 4)
    play.wait(HANDSHAKES_S + MOMENT_S)
    play.do(Hangs(1, "/mnt/nfs"), died(2, 0))
    assert of(Kill, play.take()) == [Kill(1)]
    done = play.wait(GONE_S + MOMENT_S)
    assert said(done) == ["worker 1 is stuck in the kernel on /mnt/nfs; it ends when that file system answers"]
    assert (Abandon(1) in done) is (event is Fact.STOP_ASKED)


def test_a_worker_that_serves_is_not_ended_for_what_hangs(play: Play) -> None:
    play.do(Hangs(1, "/mnt/nfs"))
    assert play.take() == []


def test_a_stop_abandons_a_process_that_stays_after_it_was_killed(play: Play) -> None:
    play.do(Fact.STOP_ASKED)
    play.do(died(2, 0))
    play.take()
    done = play.wait(HANDSHAKES_S + RETIRING_S + GONE_S + 0.1)
    assert said(done)[0] == "worker 1 does not end; it is killed"
    assert done[-2:] == [Abandon(1), End(BROKEN)]


# -- whatever happens -----------------------------------------------------------------------------------------------


SIGNALS = (*[Fact.RELOAD_ASKED] * 4, Fact.LOG_ASKED, Fact.LOG_OPENED, Fact.STOP_ASKED)


class World:
    """What can happen to a supervisor, in an order that somebody else chooses, and what has to hold then."""

    def __init__(self, choose: st.DataObject) -> None:
        self._choose = choose
        self._machine = Machine(100.0, 0.4)
        self._now_s = 100.0
        self._loading = False
        self._next_slots = 0
        self._bound = False
        self.processes: set[int] = set()
        self.started: set[int] = set()
        self.killed: set[int] = set()
        self.ended = False
        self._happen(Bound(plan(self._choose.draw(st.integers(1, 3)))))

    def _happen(self, event: Event) -> None:
        events = [event]
        while events:
            for action in self._machine.step(events.pop(0), self._now_s):
                assert not self.ended, "nothing comes after the end"
                outcome = self._perform(action)
                if outcome is not None:
                    events.append(outcome)
        self._check()

    def _perform(self, action: Action) -> Event | None:
        if isinstance(action, Start):
            assert action.worker not in self.started
            self.started.add(action.worker)
            if self._choose.draw(st.integers(0, 9)) == 0:
                return NotStarted(action.worker, "why not")
            self.processes.add(action.worker)
        elif isinstance(action, Tell):
            assert action.worker in self.processes - self.killed
        elif isinstance(action, Kill):
            assert action.worker not in self.killed
            self.killed.add(action.worker)
        elif isinstance(action, Abandon):
            assert action.worker in self.killed
            self.processes.discard(action.worker)
        elif isinstance(action, End):
            assert not self.processes
            self.ended = True
        elif action is Do.LOAD:
            assert not self._loading
            self._loading = True
        elif action is Do.BIND:
            if self._choose.draw(st.booleans()):
                return NotLoaded("why not")
            self._bound = True
            return Bound(plan(self._choose.draw(st.integers(1, 3))))
        elif action in (Do.COMMIT, Do.REVERT):
            assert self._bound
            self._bound = False
        return None

    def _check(self) -> None:
        machine = self._machine
        assert self.ended or self.processes == set(machine.workers)
        assert machine.next_look_s() <= self._now_s + 1.5 * BEAT_S
        if machine.state in (State.SERVING, State.LOADING):
            up = sorted(worker.slot for worker in machine.workers.values() if worker.is_up)
            assert sorted((*up, *machine._due)) == list(range(machine._plan.slots)), "one a slot, or one that is due"
        elif not self.ended and machine.state in (State.STOPPING, State.ABORTING):
            assert all(worker.deadline_s < math.inf for worker in machine.workers.values())

    def go_on(self) -> None:
        what = self._choose.draw(st.sampled_from(("time", "time", "word", "word", "death", "signal", "load")))
        number = self._choose.draw(st.sampled_from(sorted(self.processes))) if self.processes else None
        if what == "word" and number is not None:
            served = self._machine.workers[number].served
            words = (Kind.ALIVE, Kind.ACCEPTS_NO_MORE) if served else (Kind.SERVES,)
            self._happen(Said(number, self._choose.draw(st.sampled_from(words))))
        elif what == "death" and number is not None:
            self.processes.discard(number)
            self._happen(died(number, self._choose.draw(st.sampled_from((0, 2, -9)))))
        elif what == "signal":
            self._happen(self._choose.draw(st.sampled_from(SIGNALS)))
        elif what == "load" and self._loading:
            self._loading = False
            self._happen(Fact.LOADED if self._choose.draw(st.booleans()) else NotLoaded("why not"))
        else:
            self.pass_time(self._choose.draw(st.sampled_from((0.01, 0.1, 1.0, 5.0, 100.0))))

    def pass_time(self, seconds: float) -> None:
        self._now_s += seconds
        self._happen(Fact.LOOKED)

    def stop(self) -> None:
        """And nobody dies of what is asked of it, nor of SIGKILL."""
        for _time in range(2):
            if not self.ended:
                self._happen(Fact.STOP_ASKED)
        for _second in range(100):
            if not self.ended:
                self.pass_time(0.5)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_whatever_happens_no_worker_is_forgotten_and_the_end_comes_once(data: st.DataObject) -> None:
    world = World(data)
    for _event in range(data.draw(st.integers(0, 60))):
        if not world.ended:
            world.go_on()
    world.stop()
    assert world.ended
    assert not world.processes
