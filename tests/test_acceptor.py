"""The acceptor, on a ring that does what the case says; what it makes is counted, and is no connection."""

from __future__ import annotations

import errno
import inspect
from typing import Any, cast

import pytest
from scripted import LISTENER_FD, note_rows, scripted_tasks

from ringserve import acceptor
from ringserve.acceptor import (
    ACCEPT_BACK_OFF_S,
    ARMED,
    FULL,
    OVER,
    RESTING,
    STATES,
    STOPPING,
    SWEEPING,
    Acceptor,
)
from ringserve.connection.budget import Shares
from ringserve.connection.states import State
from ringserve.ring.linux.listeners import Listener


class Door:
    """An acceptor with two places behind it, and what came through it.

    served, refused: descriptors. has_spare: whether one of those that are served can be closed for another.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, in_bursts: bool = True) -> None:
        self.ring, self.tasks, self.world = scripted_tasks()
        self.served: list[int] = []
        self.refused: list[int] = []
        self.has_spare = False
        self.given_up = 0
        self.closes_idle = False
        self._next_fd = 10
        monkeypatch.setattr(acceptor, "Connection", self._connect)
        self.acceptor = Acceptor(
            cast(Any, self), Listener(LISTENER_FD, "http://test/", None), Shares(2, 1, 1, 1, in_bursts)
        )

    @property
    def shared(self) -> Door:
        return self

    @property
    def files(self) -> Door:
        return self

    @property
    def connections(self) -> list[int]:
        return [*self.served, *self.refused]

    def give_up_descriptors(self) -> None:
        self.given_up += 1

    def make_room(self) -> bool:
        if self.has_spare:
            del self.served[0]
        return self.has_spare

    def _connect(self, listening: object, fd: int, *, refused: bool = False) -> None:
        assert listening is self
        (self.refused if refused else self.served).append(fd)

    @property
    def state(self) -> State:
        return self.acceptor.state

    @property
    def doing(self) -> list[str]:
        """What is in flight on the listener."""
        return self.ring.doing(LISTENER_FD)

    def turn(self) -> None:
        self.tasks.turn(0)
        assert not self.tasks.faults
        if self.acceptor.waits_for_room:
            self.acceptor.resume()

    def comes(self, *, more: bool = True) -> int:
        """A client. more: the accept goes on."""
        (verb,) = self.doing
        self._next_fd += 1
        self.ring.complete(verb, LISTENER_FD, self._next_fd, more=more and verb == "accept")
        self.turn()
        return self._next_fd

    def fails(self, number: int) -> None:
        (verb,) = self.doing
        self.ring.complete(verb, LISTENER_FD, -number)
        self.turn()

    def ends_what_is_cancelled(self) -> None:
        assert self.ring.cancelled
        self.ring.end_cancelled()
        self.turn()

    def waits(self) -> None:
        self.ring.now += ACCEPT_BACK_OFF_S
        self.turn()

    def fills(self) -> None:
        """Three clients, of which the third finds no place."""
        for _client in range(3):
            self.comes()


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    return Door(monkeypatch)


def test_clients_come_in_as_long_as_there_is_room(door: Door) -> None:
    assert [door.comes(), door.comes()] == door.served
    assert (door.state, door.doing, door.refused) == (ARMED, ["accept"], [])


def test_at_the_limit_one_is_refused_and_the_others_wait_until_there_is_room(door: Door) -> None:
    door.fills()
    assert (len(door.served), len(door.refused), door.state) == (2, 1, FULL)
    door.comes()  # before the cancel takes effect
    assert (len(door.refused), door.state) == (2, FULL)
    door.ends_what_is_cancelled()
    assert door.doing == []
    door.turn()
    assert door.state is FULL
    door.refused.clear()
    door.served.clear()
    door.turn()
    assert (door.state, door.doing) == (ARMED, ["accept"])


def test_the_longest_idle_one_leaves_for_a_new_client(door: Door) -> None:
    door.has_spare = True
    for _client in range(5):
        door.comes()
    assert (len(door.served), door.refused, door.state) == (2, [], ARMED)


def test_one_by_one_the_next_is_accepted_at_the_limit_too_and_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(monkeypatch, in_bursts=False)
    door.fills()
    assert (len(door.served), len(door.refused), door.state, door.doing) == (2, 1, FULL, [])
    door.has_spare = True
    door.turn()
    assert (door.state, door.doing) == (ARMED, ["accept_once"])


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.ECANCELED])
def test_an_accept_that_ends_by_itself_is_armed_again(door: Door, number: int) -> None:
    door.fails(number)
    assert (door.state, door.doing) == (ARMED, ["accept"])


def test_to_look_at_the_queue_anew_the_accept_is_ended_and_armed_again(door: Door) -> None:
    door.acceptor.renew()
    door.ends_what_is_cancelled()
    assert (door.state, door.doing) == (ARMED, ["accept"])
    door.fills()
    door.ends_what_is_cancelled()
    door.acceptor.renew()
    assert door.doing == [], "who waits for room needs no wake-up"


def test_without_descriptors_one_client_is_told_with_that_of_the_reserve(door: Door) -> None:
    door.fails(errno.EMFILE)
    assert (door.state, door.doing, door.ring.reserves, door.given_up) == (RESTING, ["accept_once"], 0, 1)
    told = door.comes()
    assert (door.refused, door.state, door.doing) == ([told], RESTING, [])
    door.ring.reserve_refused = True
    door.waits()
    assert (door.state, door.doing) == (RESTING, [])
    door.ring.reserve_refused = False
    door.waits()
    assert (door.state, door.doing, door.ring.reserves) == (ARMED, ["accept"], 1)
    assert b"LimitNOFILE" in door.world.diagnostics.take(door.ring.now)


def test_if_nobody_comes_to_be_told_the_next_client_is_served(door: Door) -> None:
    door.fails(errno.ENFILE)
    door.waits()
    door.ends_what_is_cancelled()
    door.waits()
    assert (door.state, door.doing, door.ring.reserves) == (ARMED, ["accept"], 1)
    assert door.comes() in door.served


def test_any_other_error_is_said_and_tried_again_in_a_moment(door: Door) -> None:
    door.fails(errno.ENETDOWN)
    assert (door.state, door.doing, door.ring.reserves) == (RESTING, [], 1)
    assert b"ENETDOWN" in door.world.diagnostics.take(door.ring.now)
    door.waits()
    assert (door.state, door.doing) == (ARMED, ["accept"])


def test_after_a_rest_there_may_be_no_room(door: Door) -> None:
    for _client in range(2):
        door.comes()
    door.fails(errno.ENETDOWN)
    door.waits()
    assert (door.state, door.doing) == (FULL, [])


def test_who_came_while_accepting_was_stopped_is_served_before_the_listener_may_be_closed(door: Door) -> None:
    door.acceptor.stop()
    assert (door.state, door.doing) == (STOPPING, ["accept"])
    first = door.comes()
    assert door.state is STOPPING
    door.ends_what_is_cancelled()
    assert (door.state, door.doing) == (SWEEPING, ["accept_waiting"])
    second = door.comes()
    assert (door.state, door.doing, door.served) == (SWEEPING, ["accept_waiting"], [first, second])
    assert not door.acceptor.is_over
    door.fails(errno.EAGAIN)
    assert (door.state, door.doing) == (OVER, [])
    assert door.acceptor.is_over
    door.acceptor.stop()
    door.acceptor.renew()
    assert door.state is OVER
    door.acceptor.close()
    assert not door.ring.reserves


def test_who_comes_in_a_drain_is_let_go_at_once(door: Door) -> None:
    door.closes_idle = True
    door.acceptor.stop()
    fd = door.comes()
    assert (door.ring.closed, door.served) == ([fd], [])


def test_a_stop_in_a_rest_waits_for_nobody_to_be_told(door: Door) -> None:
    door.fails(errno.EMFILE)
    door.acceptor.stop()
    assert (door.state, door.doing) == (STOPPING, ["accept_once"])
    door.ends_what_is_cancelled()
    assert (door.state, door.doing) == (SWEEPING, ["accept_waiting"])
    door.waits()
    assert door.state is SWEEPING
    door.fails(errno.EMFILE)  # nothing can be done for who waits
    assert door.state is OVER


def test_a_stop_at_the_limit_sweeps_as_well(door: Door) -> None:
    door.fills()
    door.acceptor.stop()
    assert door.state is STOPPING
    door.ends_what_is_cancelled()
    assert (door.state, door.doing) == (SWEEPING, ["accept_waiting"])


def test_a_stop_while_nothing_is_in_flight_sweeps_at_once(door: Door) -> None:
    door.fills()
    door.ends_what_is_cancelled()
    door.acceptor.stop()
    assert (door.state, door.doing) == (SWEEPING, ["accept_waiting"])


def test_descriptors_may_run_out_at_the_limit(door: Door) -> None:
    door.fills()
    door.fails(errno.EMFILE)
    assert (door.state, door.doing) == (RESTING, ["accept_once"])


def test_every_row_of_the_table_is_taken_by_a_case_above(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = note_rows(monkeypatch, STATES)
    for name, case in tuple(globals().items()):
        if name.startswith("test_") and list(inspect.signature(case).parameters) == ["door"]:
            with monkeypatch.context() as patches:
                case(Door(patches))
    assert seen == {(state, event) for state in STATES for event in state.on}


@pytest.mark.parametrize("state", STATES, ids=str)
def test_an_event_without_a_row_is_a_fault(state: State) -> None:
    for event in {event for each in STATES for event in each.on} - state.on.keys():
        with pytest.raises(KeyError):
            state.on[event]
