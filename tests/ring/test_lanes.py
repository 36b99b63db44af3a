"""Who may ask a file system that may hang, and who waits."""

from __future__ import annotations

from ringserve.ring.linux.lanes import IN_LANE_MAX, LANES_MAX, WAIT_S, WAITING_MAX, Lane, Lanes
from ringserve.ring.linux.mountinfo import Mount


def mount(number: int) -> Mount:
    return Mount(number, 0, b"/mnt/%d" % number, "nfs4", b"0:30")


def full(lanes: Lanes[str], number: int = 1) -> Lane[str]:
    lane = lanes.of(mount(number))
    assert all(lanes.enter(lane, "inside", 0.0) for _item in range(IN_LANE_MAX))
    return lane


def test_few_are_in_a_lane_and_the_next_goes_on_when_one_has_ended() -> None:
    lanes: Lanes[str] = Lanes()
    lane = full(lanes)
    assert lanes.enter(lane, "first", 0.0) is False
    assert lanes.enter(lane, "second", 0.0) is False
    assert lanes.waiting == 2
    assert [lanes.leave(lane) for _ended in range(3)] == ["first", "second", None]
    assert lanes.waiting == 0
    assert lanes.enter(lane, "third", 0.0) is True
    assert [lanes.leave(lane) for _ended in range(IN_LANE_MAX)] == [None] * IN_LANE_MAX
    assert lane.is_idle()


def test_a_full_lane_holds_up_no_other() -> None:
    lanes: Lanes[str] = Lanes()
    full(lanes)
    assert lanes.enter(lanes.of(mount(2)), "other", 0.0) is True
    assert len(lanes) == 2
    assert lanes.busy() == (mount(1), mount(2))
    lanes.leave(lanes.of(mount(2)))
    assert lanes.busy() == (mount(1),)


def test_who_waits_too_long_is_told() -> None:
    lanes: Lanes[str] = Lanes()
    first, second = full(lanes, 1), full(lanes, 2)
    assert lanes.deadline() is None
    for lane, item, now in ((first, "early", 0.0), (second, "middle", 1.0), (first, "late", 2.0)):
        lanes.enter(lane, item, now)
    assert lanes.deadline() == WAIT_S
    assert list(lanes.late(WAIT_S - 0.1)) == []
    assert list(lanes.late(WAIT_S + 1.5)) == ["early", "middle"]
    assert (lanes.waiting, lanes.deadline()) == (1, WAIT_S + 2.0)


def test_a_lane_lets_so_many_wait_and_no_more() -> None:
    lanes: Lanes[str] = Lanes()
    lane = full(lanes)
    assert [lanes.enter(lane, "waits", 0.0) for _item in range(WAITING_MAX + 1)] == [False] * WAITING_MAX + [None]
    assert lanes.enter(lane, "close", 0.0, closes=True) is False


def test_what_gives_something_back_comes_first_and_waits_for_as_long_as_it_takes() -> None:
    lanes: Lanes[str] = Lanes()
    lane = full(lanes)
    lanes.enter(lane, "question", 0.0)
    lanes.enter(lane, "close", 0.0, closes=True)
    assert lanes.leave(lane) == "close"
    lanes.enter(lane, "close", 0.0, closes=True)
    assert list(lanes.late(1e9)) == ["question"]
    assert (lanes.waiting, lanes.deadline()) == (1, None)


def test_who_gives_up_waits_no_longer() -> None:
    lanes: Lanes[str] = Lanes()
    lane = full(lanes)
    stays, goes = "stays", "goes"
    for item in (goes, stays):
        lanes.enter(lane, item, 0.0)
    lanes.give_up(lane, goes)
    assert lanes.waiting == 1
    assert lanes.leave(lane) == stays


def test_more_mounts_than_lanes_take_one_that_is_idle_or_share() -> None:
    lanes: Lanes[str] = Lanes()
    made = [full(lanes, number) for number in range(LANES_MAX)]
    assert lanes.of(mount(LANES_MAX + 3)) is made[3]
    assert made[3].mount == mount(3)
    for _ended in range(IN_LANE_MAX):
        lanes.leave(made[5])
    assert lanes.of(mount(1000)) is made[5]
    assert (made[5].mount, len(lanes)) == (mount(1000), LANES_MAX)
    assert lanes.of(mount(1000)) is made[5]
