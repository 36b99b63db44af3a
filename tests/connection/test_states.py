"""The table of a connection's states, by itself."""

from __future__ import annotations

import itertools

import pytest

from ringserve.connection import states
from ringserve.connection.states import ABORTED, CLOSED, CLOSING, DISMISSED, RECEIVE_OVER, STATES, Event, State

EVENTS = tuple(value for value in vars(states).values() if isinstance(value, str) and " " in value)[1:]
"""The module's own text is not one."""
ROWS = [(state, event) for state in STATES for event in state.on]


def test_the_events_are_those_of_the_rows() -> None:
    assert set(EVENTS) == {event for _state, event in ROWS}
    assert len(set(EVENTS)) == len(EVENTS)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(STATES, EVENTS)), ids=str)
def test_each_event_leads_to_a_state_or_is_a_fault(state: State, event: Event) -> None:
    if event in state.on:
        assert state.on[event] in STATES
    else:
        with pytest.raises(KeyError):
            state.on[event]


def test_every_state_leads_to_the_end_and_nothing_leads_out_of_it() -> None:
    for state in STATES:
        reached = {state}
        for _step in STATES:
            reached |= {follower for one in reached for follower in one.on.values()}
        assert CLOSED in reached
    assert not CLOSED.on
    assert list(CLOSING.on) == [RECEIVE_OVER]


def test_a_server_that_stops_ends_whatever_has_not_ended() -> None:
    assert [state for state in STATES if state.on.get(ABORTED) is CLOSING] == list(STATES[:-2])


def test_a_drain_ends_what_waits_for_a_request_and_nothing_else() -> None:
    assert [state.name for state in STATES if DISMISSED in state.on] == ["PREFACE", "IDLE", "READING", "LINGERING"]


def test_what_is_late_is_answered_where_an_answer_is_owed() -> None:
    for state in STATES:
        late = state.on.get(states.LATE)
        assert (late is states.SENDING) is bool(state.late_status)
