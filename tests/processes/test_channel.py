"""The channel between a supervisor and a worker, without either."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from ringserve.processes.channel import WAITING_MAX, Channel, ChannelEndedError
from ringserve.processes.messages import Kind, Message

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """When the test is over, no descriptor is left."""
    before = os.listdir("/proc/self/fd")
    ends = Channel.pair()
    yield ends
    for end in ends:
        end.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def taken(channel: Channel) -> list[Message]:
    messages = []
    while (message := channel.receive()) is not None:
        messages.append(message)
    return messages


def test_messages_arrive_one_by_one_and_in_their_order(pair: Pair) -> None:
    sent = [Message(kind, text) for kind in Kind for text in ("", "x", "two\nlines", "no UTF-8: \udcff")]
    for message in sent:
        pair[0].send(message)
    assert taken(pair[1]) == sent
    pair[1].send(Message(Kind.ALIVE))
    assert pair[0].wait() == Message(Kind.ALIVE)


def test_a_descriptor_goes_with_its_own_message_and_is_not_inherited_any_further(pair: Pair) -> None:
    read_fd, write_fd = os.pipe()
    pair[0].send(Message(Kind.START, "1"))
    pair[0].send(Message(Kind.LOG, "", write_fd))
    os.close(write_fd)
    first, second = taken(pair[1])
    assert (first.fd, second.kind) == (-1, Kind.LOG)
    assert not os.get_inheritable(second.fd)
    os.write(second.fd, b"?")
    assert os.read(read_fd, 10) == b"?"
    os.close(second.fd)
    os.close(read_fd)


def test_what_somebody_does_not_read_waits_for_room_with_its_descriptor_and_nobody_waits_with_it(pair: Pair) -> None:
    text = "x" * 10_000
    sent = 0
    while pair[0].flush():
        assert sent < 1000
        pair[0].send(Message(Kind.FAILED, text))
        sent += 1
    read_fd, write_fd = os.pipe()
    pair[0].send(Message(Kind.LOG, "", write_fd))
    os.close(write_fd)
    got = []
    while not pair[0].flush():
        got += taken(pair[1])
    got += taken(pair[1])
    assert [message.kind for message in got] == [Kind.FAILED] * sent + [Kind.LOG]
    os.write(got[-1].fd, b"?")
    os.close(got[-1].fd)
    os.close(read_fd)


def test_of_what_waits_the_first_messages_are_kept(pair: Pair) -> None:
    while pair[0].flush():
        pair[0].send(Message(Kind.FAILED, "x" * 10_000))
    with open("/dev/null") as file:
        for _number in range(2 * WAITING_MAX):
            pair[0].send(Message(Kind.LISTEN, "", file.fileno()))
    got = []
    while not pair[0].flush():
        got += taken(pair[1])
    got += taken(pair[1])
    told = [message.fd for message in got if message.kind is Kind.LISTEN]
    assert len(told) == WAITING_MAX - 1
    for fd in told:
        os.close(fd)


def test_what_waits_when_a_channel_is_closed_is_given_up(pair: Pair) -> None:
    while pair[0].flush():
        pair[0].send(Message(Kind.FAILED, "x" * 10_000))
    with open("/dev/null") as file:
        pair[0].send(Message(Kind.LOG, "", file.fileno()))


def test_the_end_is_seen_after_what_was_said_before_it(pair: Pair) -> None:
    pair[0].send(Message(Kind.SERVES))
    pair[1].send(Message(Kind.RETIRE))  # which the other has not read
    pair[0].close()
    assert pair[1].receive() == Message(Kind.SERVES)
    for _twice in range(2):
        with pytest.raises(ChannelEndedError):
            pair[1].receive()
    with pytest.raises(ChannelEndedError):
        pair[1].wait()


def test_nobody_hears_what_is_said_to_one_that_has_ended_or_by_one_that_is_closed(pair: Pair) -> None:
    pair[0].close()
    for channel in pair:
        channel.send(Message(Kind.ALIVE))
        assert channel.flush()
    with pytest.raises(ChannelEndedError):
        pair[0].receive()


def test_of_logs_that_wait_the_last_one_is_kept_in_the_place_of_the_first(pair: Pair) -> None:
    while pair[0].flush():
        pair[0].send(Message(Kind.FAILED, "x" * 10_000))
    with open("/dev/null") as file:
        for number in range(3):
            pair[0].send(Message(Kind.LOG, str(number), file.fileno()))
            pair[0].send(Message(Kind.START, str(number)))
    got = []
    while not pair[0].flush():
        got += taken(pair[1])
    got += taken(pair[1])
    after = [message for message in got if message.kind is not Kind.FAILED]
    assert [(message.kind, message.text) for message in after] == [
        (Kind.LOG, "2"), (Kind.START, "0"), (Kind.START, "1"), (Kind.START, "2"),
    ]  # fmt: skip
    os.close(after[0].fd)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM])
def test_what_the_kernel_cannot_send_now_is_sent_later_with_its_descriptor(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    with open("/dev/null") as file:
        with monkeypatch.context() as patched:
            patched.setattr(socket.socket, "sendmsg", refuse)
            pair[0].send(Message(Kind.LOG, "", file.fileno()))
            assert not pair[0].flush()
        assert pair[0].flush()
    (got,) = taken(pair[1])
    os.fstat(got.fd)
    os.close(got.fd)


def test_what_has_to_wait_and_cannot_be_kept_is_an_error_and_nothing_waits(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

    def full(_fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "dup", full)
    with open("/dev/null") as file, monkeypatch.context() as patched:
        patched.setattr(socket.socket, "sendmsg", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            pair[0].send(Message(Kind.LOG, "", file.fileno()))
    assert pair[0].flush()
    assert taken(pair[1]) == []
