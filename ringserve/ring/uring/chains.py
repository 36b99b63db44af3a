"""Questions that take several steps on the ring or by a helper, and how they wait for each other.

Theory of operation. A chain is a generator that yields what is to be done next and is sent the result; what it returns,
or raises, is the answer. It keeps the memory that its submission needs. Whoever asked may give up and hears of it at
once; what is with the kernel goes on, keeps its memory and its lane, and is thrown away when it has ended.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

from ringserve.ring.helpers import Helpers
from ringserve.ring.linux.lanes import Lane, Lanes
from ringserve.ring.uring.library import lib

OWN = 1 << 63  # RINGSERVE_OWN of shim.c
CANCEL = OWN | 2  # of shim.c as well
FIRST_STEP = OWN | 16  # above what else the ring submits for itself


class Submit(NamedTuple):
    """A step that is submitted. function: of the library; arguments: behind ring and user_data. It uses nothing that
    belongs to whoever asked, who may give up. opens: its result is a descriptor.
    """

    function: Callable[..., int]
    arguments: tuple[int, ...]
    opens: bool = False


class Call(NamedTuple):
    """A step that a helper makes. Its result is what was returned, or -EBUSY."""

    function: Callable[[], object]
    lane: str


class Enter(NamedTuple):
    """A step that waits for the lane of a mount. Its result is 0, and the chain is in the lane to its end; or -EBUSY.
    closes: see `Lane`.
    """

    lane: Lane[Any]
    closes: bool = False


Answer = TypeVar("Answer")
Step = Submit | Call | Enter
Chain = Generator[Step, Any, Answer]

_abandoned: list[object] = []
"""What the kernel may still write to, when its ring is gone and a file system hangs."""


class _Asked:
    """A chain on its way. owner: None when nobody waits for the answer any more. step: what it waits for. lane: in
    which it is, or waits.
    """

    __slots__ = ("body", "given_up", "lane", "owner", "step", "user_data")

    def __init__(self, owner: int | None, body: Chain[Any]) -> None:
        self.owner = owner
        self.body = body
        self.step: Step | None = None
        self.user_data = 0
        self.lane: Lane[_Asked] | None = None
        self.given_up = False


class Chains:
    """The chains of a ring.

    queue: takes a function of the library, a user_data and arguments. close: takes a descriptor and the lane in which
    that has to be done, if any. tell: takes an owner, an answer, and what was raised in its place. now: the ring's
    clock.
    """

    def __init__(
        self,
        helpers: Helpers,
        queue: Callable[..., None],
        close: Callable[[int, Lane[Any] | None], None],
        tell: Callable[[int, object, BaseException | None], None],
        now: Callable[[], float],
    ) -> None:
        self._helpers = helpers
        self._queue = queue
        self._close = close
        self._tell = tell
        self._now = now
        self._serial = itertools.count(FIRST_STEP)
        self._by_step: dict[int, _Asked] = {}
        self._by_owner: dict[int, _Asked] = {}
        self.lanes: Lanes[_Asked] = Lanes()

    def ask(self, owner: int | None, body: Chain[Answer]) -> Answer | None:
        """Begin a chain. Returns its answer if it waits for nothing. owner: None if nobody wants one."""
        asked = _Asked(owner, body)
        try:
            step = body.send(None)
        except StopIteration as done:
            answer: Answer = done.value
            return answer
        except Exception as error:  # it is raised where the answer is taken
            self._answer(asked, None, error)
            return None
        if owner is not None:
            self._by_owner[owner] = asked
        self._begin(asked, step)
        return None

    def cancel(self, owner: int) -> bool:
        """Whether `owner` had asked for something. It hears at once."""
        asked = self._by_owner.get(owner)
        if asked is None:
            return False
        if isinstance(asked.step, Enter):
            assert asked.lane is not None, "it waits for one"
            self.lanes.give_up(asked.lane, asked)
            asked.lane = None
            asked.body.close()
        elif isinstance(asked.step, Submit):
            self._queue(lib.ringserve_cancel, CANCEL, asked.user_data)
        asked.given_up = True
        self._answer(asked, -errno.ECANCELED, None)
        return True

    def finished(self, user_data: int, result: Any, failure: BaseException | None = None) -> bool:
        """A submission or a job has ended. False: it is no step of a chain."""
        asked = self._by_step.pop(user_data, None)
        if asked is None:
            return False
        if not asked.given_up:
            self._go_on(asked, result, failure)
            return True
        if isinstance(asked.step, Submit) and asked.step.opens and result >= 0:
            self._close(result, asked.lane)
        asked.body.close()
        self._end(asked, None, None)
        return True

    def refuse_late(self) -> None:
        """Tell those who have waited for a lane for too long."""
        for asked in list(self.lanes.late(self._now())):
            asked.lane = None
            self._go_on(asked, -errno.EBUSY, None)

    def shut(self) -> None:
        """The kernel has ended what they waited for, except what hangs."""
        for asked in self._by_step.values():
            if asked.lane is not None:
                _abandoned.append(asked)
            elif isinstance(asked.step, Submit):
                asked.body.close()

    def _begin(self, asked: _Asked, step: Step) -> None:
        asked.step = step
        if isinstance(step, Enter):
            asked.lane = step.lane
            entered = self.lanes.enter(step.lane, asked, self._now(), step.closes)
            if entered is None:
                asked.lane = None
                self._go_on(asked, -errno.EBUSY, None)
            elif entered:
                self._go_on(asked, 0, None)
            return
        asked.user_data = next(self._serial)
        self._by_step[asked.user_data] = asked
        if isinstance(step, Call):
            self._helpers.call(asked.user_data, step.function, step.lane, "")
        else:
            self._queue(step.function, asked.user_data, *step.arguments)

    def _go_on(self, asked: _Asked, result: object, failure: BaseException | None) -> None:
        try:
            step = asked.body.send(result) if failure is None else asked.body.throw(failure)
        except StopIteration as done:
            self._end(asked, done.value, None)
        except Exception as error:  # it is raised where the answer is taken
            self._end(asked, None, error)
        else:
            self._begin(asked, step)

    def _end(self, asked: _Asked, answer: object, failure: BaseException | None) -> None:
        self._answer(asked, answer, failure)
        lane, asked.lane = asked.lane, None
        successor = None if lane is None else self.lanes.leave(lane)
        if successor is not None:
            self._go_on(successor, 0, None)

    def _answer(self, asked: _Asked, answer: object, failure: BaseException | None) -> None:
        owner, asked.owner = asked.owner, None
        if owner is not None:
            self._by_owner.pop(owner, None)
            self._tell(owner, answer, failure)
