"""What can happen to a supervisor, and what it can do about it: the events and actions of `machine.py`, as values."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from ringserve.processes.messages import Kind

# -- events -----------------------------------------------------------------------------------------------------


class Fact(Enum):
    """Events without a value."""

    STOP_ASKED = auto()
    """By a signal, as are the next two."""
    RELOAD_ASKED = auto()
    LOG_ASKED = auto()
    LOADED = auto()
    """The configuration was read, and its log opened: what `Do.LOAD` asked for."""
    LOG_OPENED = auto()
    """What `Do.OPEN_LOG` asked for."""
    LOOKED = auto()
    """Time has passed."""


class Plan(NamedTuple):
    """What the machine knows of a configuration.

    silent_looks_max: so many in a row without a word are too many; 0 is no limit. drain_s: how long a worker drains.
    urls: where clients reach it.
    """

    slots: int
    silent_looks_max: int
    drain_s: float
    urls: str


class Bound(NamedTuple):
    """The sockets of a configuration are there: of the first one, or what `Do.BIND` asked for."""

    plan: Plan


class NotLoaded(NamedTuple):
    """The configuration could not be read, its log not opened, or its sockets not bound."""

    why: str


class NotStarted(NamedTuple):
    """A worker that was to be started was not."""

    worker: int
    why: str


class Said(NamedTuple):
    """SERVES, ACCEPTS_NO_MORE or ALIVE, by a worker."""

    worker: int
    word: Kind


class Hangs(NamedTuple):
    """A worker has nothing left to do but to end, and file systems at `where` have not answered it."""

    worker: int
    where: str


class Died(NamedTuple):
    """A worker's process has ended. code: its status, or the negative number of a signal. how: the same in words."""

    worker: int
    code: int
    how: str


Event = Fact | Bound | NotLoaded | NotStarted | Said | Hangs | Died

# -- actions ----------------------------------------------------------------------------------------------------


class Do(Enum):
    """Actions without a value."""

    LOAD = auto()
    """Read the configuration, and open its log. `Fact.LOADED` or NotLoaded says what came of it, now or later."""
    BIND = auto()
    """Bind its sockets. Bound or NotLoaded says what came of it, at once."""
    COMMIT = auto()
    """It is in force: let nobody in any more where only the one before listened."""
    REVERT = auto()
    """It is given up, and so is what was made for it."""
    CLOSE_ALL = auto()
    """Let nobody in any more."""
    OPEN_LOG = auto()
    """Open the file of the log anew. `Fact.LOG_OPENED` says, now or later, that it is there."""
    ANNOUNCE = auto()
    """Clients are served for the first time."""


class Start(NamedTuple):
    """Start a worker: by the configuration that was bound and not yet committed or reverted, else by that in force."""

    worker: int
    slot: int


class Tell(NamedTuple):
    """Tell a worker RETIRE, DRAIN, ABORT or LOG."""

    worker: int
    order: Kind


class Kill(NamedTuple):
    """End a worker, by force."""

    worker: int


class Abandon(NamedTuple):
    """Wait no longer for it to die."""

    worker: int


class Say(NamedTuple):
    """A line for the operator, which begins with the worker's name if it is about one. template: its kind."""

    template: str
    values: tuple[object, ...] = ()
    worker: int | None = None


class Notify(NamedTuple):
    """Tell the service manager."""

    lines: tuple[str, ...]


class End(NamedTuple):
    """All is over."""

    status: int


Action = Do | Start | Tell | Kill | Abandon | Say | Notify | End
