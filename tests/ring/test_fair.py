"""Which item is next: origins in turn, a bound, and which item is refused at it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringserve.ring.fair import FairQueue


def filled(waiting_max: int, *items: str) -> FairQueue[str]:
    """A queue of items whose first letter is their origin, none of which is refused."""
    queue: FairQueue[str] = FairQueue(waiting_max)
    for item in items:
        assert queue.add(item[0], item) is None
    return queue


def taken(queue: FairQueue[str]) -> list[str]:
    return [queue.take() for _index in range(len(queue))]


def test_one_origin_is_served_in_its_order() -> None:
    assert taken(filled(4, "a1", "a2", "a3")) == ["a1", "a2", "a3"]


def test_origins_are_served_in_turn_however_much_one_has_waiting() -> None:
    assert taken(filled(8, "a1", "a2", "a3", "a4", "b1", "b2", "c1")) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_a_newcomer_waits_for_one_of_each_other_origin_at_most() -> None:
    queue = filled(10, "a1", "a2", "a3", "b1", "b2")
    assert queue.take() == "a1"
    queue.add("c", "c1")
    assert taken(queue)[:3] == ["b1", "a2", "c1"]


def test_an_origin_that_asks_again_at_once_comes_after_those_that_wait() -> None:
    queue = filled(10, "a1", "b1", "c1")
    assert queue.take() == "a1"
    queue.add("a", "a2")
    assert taken(queue) == ["b1", "c1", "a2"]


def test_an_origin_that_fills_the_queue_refuses_itself() -> None:
    queue = filled(3, "a1", "a2", "a3")
    assert queue.add("a", "a4") == "a4"
    assert taken(queue) == ["a1", "a2", "a3"]


def test_a_newcomer_takes_the_place_of_the_newest_of_the_origin_that_has_most() -> None:
    queue = filled(4, "a1", "a2", "a3", "b1")
    assert queue.add("c", "c1") == "a3"
    assert queue.add("d", "d1") == "a2"
    assert taken(queue) == ["a1", "b1", "c1", "d1"]


def test_where_all_have_as_little_as_a_newcomer_the_newcomer_is_refused() -> None:
    queue = filled(3, "a1", "b1", "c1")
    assert queue.add("d", "d1") == "d1"
    assert taken(queue) == ["a1", "b1", "c1"]


@given(st.integers(1, 8), st.lists(st.sampled_from("abcde*"), max_size=60))
def test_nothing_is_lost_and_nobody_is_refused_for_one_that_has_more(waiting_max: int, steps: list[str]) -> None:
    queue: FairQueue[str] = FairQueue(waiting_max)
    waiting: list[str] = []
    for number, step in enumerate(steps):
        if step == "*":
            if waiting:
                waiting.remove(queue.take())
            continue
        item = f"{step}{number}"
        waiting.append(item)
        refused = queue.add(step, item)
        if refused is not None:
            each = [sum(one[0] == origin for one in waiting) for origin in "abcde"]
            assert len(waiting) > waiting_max
            assert sum(one[0] == refused[0] for one in waiting) == max(each)
            assert refused == max((one for one in waiting if one[0] == refused[0]), key=lambda one: int(one[1:]))
            waiting.remove(refused)
        assert len(queue) == len(waiting) <= waiting_max
    assert sorted(taken(queue)) == sorted(waiting)
