"""What the server says of itself: how much of it is kept, and that nobody waits for it to be written."""

from __future__ import annotations

import ast
import errno
import math
from pathlib import Path

import pytest

from ringserve.ring.diagnostics import (
    BATCH_BYTES_MAX,
    INTERVAL_S,
    KINDS_MAX,
    LINES_FIRST,
    WAITING_BYTES_MAX,
    Diagnostics,
)


def taken(diagnostics: Diagnostics, now: float = 0.0) -> list[str]:
    """All lines that wait, by as many batches as it takes."""
    lines = []
    while batch := diagnostics.take(now):
        assert len(batch) <= BATCH_BYTES_MAX
        assert batch.endswith(b"\n")
        lines += batch.decode().splitlines()
    assert diagnostics.idle
    return lines


def test_a_line_is_its_template_with_its_values() -> None:
    diagnostics = Diagnostics()
    assert diagnostics.idle
    diagnostics.report(0.0, "cannot open {}: {}", "/a{}", OSError(errno.EIO, "bad disk"))
    diagnostics.report(0.0, "braces of a {path}")
    assert not diagnostics.idle
    assert taken(diagnostics) == ["ringserve: cannot open /a{}: [Errno 5] bad disk", "ringserve: braces of a {path}"]


def test_of_a_kind_the_first_are_kept_and_the_others_are_counted_at_the_end_of_the_interval() -> None:
    diagnostics = Diagnostics()
    for number in range(LINES_FIRST + 412):
        diagnostics.report(100.0, "{} leads out", number)
    diagnostics.report(100.0, "another kind")
    assert taken(diagnostics, 100.0) == [
        *(f"ringserve: {number} leads out" for number in range(LINES_FIRST)),
        "ringserve: another kind",
    ]
    assert diagnostics.due == 100.0 + INTERVAL_S
    assert taken(diagnostics, diagnostics.due - 0.001) == []
    assert taken(diagnostics, diagnostics.due) == ["ringserve: and 412 more: ... leads out"]
    assert diagnostics.due == math.inf
    diagnostics.report(200.0, "{} leads out", "again")
    assert taken(diagnostics, 200.0) == ["ringserve: again leads out"]


def test_a_report_of_a_later_interval_says_first_how_many_there_were_in_the_one_before() -> None:
    diagnostics = Diagnostics()
    for now in (0.0, INTERVAL_S):
        for number in range(LINES_FIRST + 1):
            diagnostics.report(now, "{}", number)
    lines = taken(diagnostics, INTERVAL_S)
    assert lines[LINES_FIRST] == "ringserve: and 1 more: ..."
    assert len(lines) == 2 * LINES_FIRST + 1


def test_a_kind_that_is_rare_is_never_left_out() -> None:
    diagnostics = Diagnostics()
    for number in range(3 * LINES_FIRST):
        diagnostics.report(number * INTERVAL_S, "{}", number)
        assert taken(diagnostics, number * INTERVAL_S) == [f"ringserve: {number}"]


def test_at_the_end_all_that_were_left_out_are_said() -> None:
    diagnostics = Diagnostics()
    for number in range(LINES_FIRST + 5):
        diagnostics.report(0.0, "{}", number)
    diagnostics.settle(math.inf)
    assert taken(diagnostics)[-1] == "ringserve: and 5 more: ..."


def test_kinds_beyond_the_limit_are_one_kind_until_others_have_had_their_time() -> None:
    diagnostics = Diagnostics()
    for number in range(KINDS_MAX):
        diagnostics.report(0.0, f"kind {number}")
    for number in range(KINDS_MAX, KINDS_MAX + LINES_FIRST + 7):
        diagnostics.report(1.0, f"kind {number}")
    assert len(taken(diagnostics, 1.0)) == KINDS_MAX + LINES_FIRST
    assert taken(diagnostics, 1.0 + INTERVAL_S) == ["ringserve: and 7 more: lines of other kinds"]
    for _again in range(LINES_FIRST + 1):
        diagnostics.report(2.0 + INTERVAL_S, "kind of its own")
    diagnostics.settle(math.inf)
    assert taken(diagnostics)[-1] == "ringserve: and 1 more: kind of its own"


def test_what_nobody_takes_is_bounded_and_what_is_lost_is_counted_and_said_when_it_can() -> None:
    diagnostics = Diagnostics()
    line = "x" * 999
    for _ in range(1000):
        diagnostics.say(line)
    lines = taken(diagnostics)
    assert len(lines) == (WAITING_BYTES_MAX - 1) // 1000 + 1
    assert lines[-1] == f"ringserve: {1000 - len(lines) + 1} diagnostic lines lost, because stderr did not take them"
    diagnostics.say("there is room again")
    assert taken(diagnostics) == ["there is room again"]


def test_lines_that_were_left_out_and_cannot_be_said_are_lost_all_of_them() -> None:
    diagnostics = Diagnostics()
    for number in range(LINES_FIRST + 100):
        diagnostics.report(0.0, "{}", number)
    taken(diagnostics)
    fillers = WAITING_BYTES_MAX // 80
    for _ in range(fillers):
        diagnostics.say("x" * 79)
    diagnostics.settle(math.inf)
    *kept, last = taken(diagnostics)
    assert last.startswith(f"ringserve: {fillers - len(kept) + 100} diagnostic lines lost")


def test_a_long_line_is_cut_to_what_a_pipe_takes_in_one_piece() -> None:
    diagnostics = Diagnostics()
    diagnostics.report(0.0, "{}", "\N{SNOWMAN}" * 5000)
    (line,) = taken(diagnostics)
    assert line.startswith("ringserve: \N{SNOWMAN}\N{SNOWMAN}")
    assert line.endswith("\N{SNOWMAN} [...]")
    assert 4000 < len(line.encode()) < BATCH_BYTES_MAX


@pytest.mark.parametrize("length", range(BATCH_BYTES_MAX - 3, BATCH_BYTES_MAX + 2))
def test_a_line_as_long_as_a_batch_is_a_batch(length: int) -> None:
    diagnostics = Diagnostics()
    diagnostics.say("x" * length)
    diagnostics.say("next")
    assert len(taken(diagnostics)) == 2


def test_what_is_no_text_is_said_all_the_same() -> None:
    diagnostics = Diagnostics()
    diagnostics.say("a\udcffb")
    assert taken(diagnostics) == ["a\\udcffb"]


def test_what_no_client_causes_is_said_as_it_is_and_not_limited() -> None:
    diagnostics = Diagnostics()
    diagnostics.say("\n".join(["line"] * 50))
    assert taken(diagnostics) == ["line"] * 50


def test_a_fault_is_said_with_the_end_of_its_traceback_and_is_limited_too() -> None:
    diagnostics = Diagnostics()

    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        raise ZeroDivisionError("a fault of ours" + " and more" * 200)

    for _ in range(LINES_FIRST + 3):
        try:
            deep(3)
        except ZeroDivisionError as fault:
            diagnostics.report_fault(0.0, fault)
    lines = taken(diagnostics, INTERVAL_S)
    assert lines.count("ringserve: a fault of ringserve; please report it") == LINES_FIRST
    assert sum(line.endswith(" and more") for line in lines) == LINES_FIRST
    assert lines[-1] == "ringserve: and 3 more: a fault of ringserve; please report it"


def writes_to_stderr(node: ast.AST) -> bool:
    """Whether it writes there by itself, or may."""
    match node:
        case ast.Attribute() | ast.Name():
            return ast.unparse(node) in ("sys.stderr", "sys.__stderr__", "print", "traceback.print_exc", "print_exc")
        case ast.keyword():
            return node.arg == "err"  # of click.echo
        case ast.Call():
            fd = ast.unparse(node.args[0]) if node.args else ""
            return ast.unparse(node.func) == "os.write" and (fd == "2" or fd.startswith("STDERR"))
        case ast.Import() | ast.ImportFrom():
            return "logging" in ast.unparse(node) or "warnings" in ast.unparse(node)
    return False


def test_nobody_else_writes_to_stderr_once_clients_are_served() -> None:
    import ringserve

    writers = set()
    package = Path(ringserve.__file__).parent
    for module in package.rglob("*.py"):
        for statement in ast.parse(module.read_text()).body:
            if any(map(writes_to_stderr, ast.walk(statement))):
                writers.add((module.name, getattr(statement, "name", ast.unparse(statement))))
    assert writers == {
        ("stderr.py", "ThreadWriter"),  # what all others report to
        ("standard.py", "open_standard_descriptors"),  # before it serves: writes nothing, but makes it a file
        ("command.py", "_exit"),  # before it serves, or in its place
        ("command.py", "check_health"),  # another command
        ("command.py", "password_command"),  # another command
        ("compress.py", "_say"),  # another command
    }
