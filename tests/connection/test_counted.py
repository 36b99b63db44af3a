"""What is remembered takes about as much memory as it is counted for."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest
from heads_cases import HOST, LIMITS, joined

from ringserve.connection import remembered
from ringserve.connection.prepared import PreparedResponses
from ringserve.connection.remembered import BLOCK_BYTES, LINE_BYTES, TAIL_BYTES, Memory
from ringserve.files.entries import Entry, Key
from ringserve.http.request import Parser
from ringserve.http.response import Response

COUNT = 4000
FIELDS = (
    (b"Content-Type", b"text/html; charset=utf-8"), (b"X-Content-Type-Options", b"nosniff"),
    (b"Accept-Ranges", b"bytes"), (b"Cache-Control", b"no-cache"),
)  # fmt: skip
BODY = bytes(800)
BLOCK = joined(HOST, b"Connection: keep-alive")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """With room for all."""
    for name in ("BLOCKS_BYTES", "TAILS_BYTES", "SELECTIONS_BYTES"):
        monkeypatch.setattr(remembered, name, 1 << 30)
    made = Memory(Parser(LIMITS, ()), PreparedResponses(b"ringserve", 10**6, 1 << 30))
    made.read(line_of(0) + BLOCK)
    return made


def line_of(number: int) -> bytes:
    return b"GET /directory/name-%05d.html HTTP/1.1\r\n" % number


def traced(remember: Callable[[], None]) -> float:
    """How many bytes are held for each of COUNT."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _peak = tracemalloc.get_traced_memory()
        remember()
        gc.collect()
        after, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / COUNT


def assert_counted(held: float, counted: float) -> None:
    assert counted * 0.6 < held <= counted


def test_a_request_line_and_its_prepared_answer_are_counted(memory: Memory) -> None:
    entries = [Entry(b"directory/name-%05d.html" % number) for number in range(COUNT)]
    counted = 0

    def remember() -> None:
        nonlocal counted
        for number, entry in enumerate(entries):
            entry.freshness.until = 1.0
            head = memory.recall(line_of(number) + BLOCK)
            assert head is not None
            assert head[0].line.location
            head[0].log_piece = bytes(60)
            fields = (*FIELDS, (b"ETag", b'"%024d"' % number))
            prepared = memory.prepare(head, Response(200, fields, (BODY,), len(BODY)), {entry: Key(0, entry.path)})
            counted += LINE_BYTES + len(line_of(number)) + prepared.memory_bytes - len(BODY)  # which is shared

    held = traced(remember)
    assert len(memory.lines.recent) + len(memory.lines.old) == COUNT
    assert_counted(held, counted / COUNT)


def test_a_header_block_with_a_selection_of_its_own_is_counted(memory: Memory) -> None:
    blocks = [joined(HOST, b"Accept-Encoding: x%05d" % number) for number in range(COUNT)]

    def remember() -> None:
        for block in blocks:
            memory.read(line_of(0) + block)

    held = traced(remember)
    assert len(memory.blocks.sifted.recent) == COUNT + 1
    assert_counted(held, BLOCK_BYTES + len(blocks[0]))


def test_the_end_of_a_head_is_counted(memory: Memory) -> None:
    memory.recall(line_of(0) + BLOCK)
    memory.recall(line_of(0) + BLOCK)
    heads = [BLOCK[:-2] + b'If-None-Match: "%024d"\r\n\r\n' % number for number in range(COUNT)]

    def remember() -> None:
        for head in heads:
            memory.recall(line_of(0) + head)

    held = traced(remember)
    assert len(memory._tails.recent) == COUNT
    assert_counted(held, TAIL_BYTES + len(heads[0]) - len(BLOCK))
