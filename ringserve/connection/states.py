"""The states of a connection, and what leads from each to the next. To be read by itself; pure.

A state is an object with a dictionary `on` from each event that can come in it to the state that follows. An event that
has no row raises KeyError: it is a fault of ours. An event is a text that says what happened.

    PREFACE    waits for what a trusted proxy says of its client before anything else      header limit, 408
    IDLE       waits for the first byte of a request; only the receive is in flight        keep-alive limit, FIN
    READING    part of a request has come                                                  header limit, 408
    HOT        a prepared response is being sent, without the coroutine                    write limit, RST
    FINDING    the response to a request is looked for; earlier ones may wait to be sent   answer limit, 503
    SENDING    what has gathered is being sent                                             write limit, RST
    LINGERING  the last response is out; what the peer still sends is thrown away          linger limits, FIN
    CLOSING    nothing more is done for the peer; its receive is being ended
    CLOSED     nothing of it is in flight

What leads to CLOSING takes effect when the operation in flight has ended, and so does what is late.

Beside its state a connection has two values. One says what follows its response: KEEP until it is settled that this is
the last one, and then CLOSE or LINGER. They are the very events that come when all is sent. The other says what becomes
of the input: ONCE, ARMED, PAUSED or ENDED. That the peer ended its side is an event only where more was awaited of it;
in HOT, FINDING and SENDING the input is ENDED from then on, and the peer gets its answers.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

Event = str


class State:
    """See the module.

    limit: which setting of its listener says how long it may last; empty where that is not all there is to it.
    late_status: with what a peer that is late here is answered, if at all.
    """

    __slots__ = ("late_status", "limit", "name", "on")

    def __init__(self, name: str, limit: str = "", late_status: int = 0) -> None:
        self.name = name
        self.limit = limit
        self.late_status = late_status
        self.on: dict[Event, State] = {}

    def __repr__(self) -> str:
        return self.name


PREFACE: Final = State("PREFACE", "header_timeout_s", 408)
IDLE: Final = State("IDLE", "keep_alive_timeout_s")
READING: Final = State("READING", "header_timeout_s", 408)
HOT: Final = State("HOT")
FINDING: Final = State("FINDING", "answer_timeout_s", 503)
SENDING: Final = State("SENDING")
LINGERING: Final = State("LINGERING")
CLOSING: Final = State("CLOSING")
CLOSED: Final = State("CLOSED")

INTRODUCED: Final = "a preface is read"
BYTES: Final = "bytes have come, or were here already"
NOTHING: Final = "no byte of a request was among what came"
RECALLED: Final = "a remembered head has come, and its response is prepared"
HEAD: Final = "a whole head is here"
BAD: Final = "what came is no request"
GATHERED: Final = "the response is found, and no more can be gathered"
KEEP: Final = "all is sent, and more may be asked"
CLOSE: Final = "all is sent, and the peer wanted no more"
LINGER: Final = "all is sent, and the peer may be sending what is not read"
INPUT_ENDED: Final = "the peer ended its side"
LATE: Final = "what was awaited did not come in time"
SLOW: Final = "the peer takes too little"
BROKEN: Final = "the connection is broken"
DISMISSED: Final = "the server drains, or needs room"
ABORTED: Final = "the server stops"
RECEIVE_OVER: Final = "no receive is in flight"

PREFACE.on = {
    INTRODUCED: IDLE, BAD: SENDING, LATE: SENDING,
    INPUT_ENDED: CLOSING, BROKEN: CLOSING, DISMISSED: CLOSING, ABORTED: CLOSING,
}  # fmt: skip
IDLE.on = {
    RECALLED: HOT, BYTES: READING,
    INPUT_ENDED: CLOSING, LATE: CLOSING, BROKEN: CLOSING, DISMISSED: CLOSING, ABORTED: CLOSING,
}  # fmt: skip
READING.on = {
    HEAD: FINDING, NOTHING: IDLE, BAD: SENDING, LATE: SENDING,
    INPUT_ENDED: CLOSING, BROKEN: CLOSING, DISMISSED: CLOSING, ABORTED: CLOSING,
}  # fmt: skip
HOT.on = {
    KEEP: IDLE, CLOSE: CLOSING,
    LATE: CLOSING, SLOW: CLOSING, BROKEN: CLOSING, ABORTED: CLOSING,
}  # fmt: skip
FINDING.on = {
    HEAD: FINDING, GATHERED: SENDING, BAD: SENDING, LATE: SENDING,
    BROKEN: CLOSING, ABORTED: CLOSING,
}  # fmt: skip
SENDING.on = {
    KEEP: IDLE, CLOSE: CLOSING, LINGER: LINGERING,
    LATE: CLOSING, SLOW: CLOSING, BROKEN: CLOSING, ABORTED: CLOSING,
}  # fmt: skip
LINGERING.on = {
    BYTES: LINGERING,
    INPUT_ENDED: CLOSING, LATE: CLOSING, DISMISSED: CLOSING, ABORTED: CLOSING,
}  # fmt: skip
CLOSING.on = {RECEIVE_OVER: CLOSED}

STATES: Final = (PREFACE, IDLE, READING, HOT, FINDING, SENDING, LINGERING, CLOSING, CLOSED)


class Input(Enum):
    """What becomes of the bytes that the peer sends."""

    ONCE = "one piece is received"
    ARMED = "they are received as they come"
    PAUSED = "they wait in the kernel"
    ENDED = "there are no more"


ONCE, ARMED, PAUSED, ENDED = Input
