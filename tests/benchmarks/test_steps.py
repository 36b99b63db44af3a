"""Where a sample of the loop is counted, and what a table of steps is made of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sampled
import steps

ROOT = Path(sampled.__file__).resolve().parent.parent
PACKAGE = f"{ROOT}/ringserve"


def test_every_rule_names_a_module_or_a_package_that_is_there() -> None:
    assert [path for path, _name, _step in sampled.RULES if not Path(PACKAGE, path).exists()] == []


@pytest.mark.parametrize(
    ("stack", "step"),
    [
        ([("ring/uring/ring.py", "UringRing.turn"), ("server.py", "Server.run")], sampled.TURN),
        ([("ring/uring/ring.py", "UringRing.load"), ("files/table.py", "FileTable._load")], sampled.FILES),
        ([("connection/remembered.py", "Memory.read")], sampled.HEAD),
        ([("connection/prepared.py", "PreparedResponses.share")], sampled.RENDER),
        ([("conn.py", "Connection._answer")], sampled.LOOP),
        ([("observe/access_log.py", "AccessLog.add")], sampled.LOG),
    ],
)
def test_the_innermost_function_decides_the_step(stack: list[tuple[str, str]], step: str) -> None:
    assert sampled.step_of_stack([(f"{PACKAGE}/{path}", name) for path, name in stack]) == step


@pytest.mark.parametrize(
    ("caller", "step"),
    [("static.py", sampled.DECIDE), ("files/table.py", sampled.LOOK_UP), ("http/request.py", sampled.HEAD)],
)
def test_arithmetic_and_what_is_not_ours_counts_for_its_caller(caller: str, step: str) -> None:
    ours = [(f"{PACKAGE}/http/semantics.py", "content_hash"), (f"{PACKAGE}/{caller}", "f")]
    stack = [("/usr/lib/python3/re.py", "match"), *ours]
    assert sampled.step_of_stack(stack) == step


def test_a_stack_without_the_package_counts_for_the_loop() -> None:
    assert sampled.step_of_stack([("/usr/lib/python3/os.py", "read")]) == sampled.LOOP


def test_a_sampler_counts_where_the_cpu_time_of_its_thread_goes(tmp_path: Path) -> None:
    # In a process of its own: its signal and its timer stay. It works until it was looked at.
    code = (
        "import os, sampled, sys; from pathlib import Path\n"
        "path = Path(sys.argv[1]); sampled.Sampler(path).start()\n"
        "while sum(sampled.read(path)[:-1]) < 3: sum(range(1000))\n"
        "os._exit(0)  # as a worker ends; the timer would kill what has given up its handlers\n"
    )
    counts = tmp_path / "counts"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")}
    subprocess.run([sys.executable, "-c", code, str(counts)], env=environment, check=True, timeout=60)
    *by_step, loop_ns = sampled.read(counts)
    assert by_step[sampled.STEPS.index(sampled.LOOP)] >= 3
    assert loop_ns > 0


def test_the_loops_time_is_shared_out_by_samples_and_the_rest_is_of_other_threads() -> None:
    counts = [0] * len(sampled.STEPS)
    counts[sampled.STEPS.index(sampled.HEAD)] = 3
    counts[sampled.STEPS.index(sampled.LOG)] = 1
    us = steps.by_step(counts, loop_s=0.8, cpu_s=1.0, requests=10_000)
    assert us[sampled.HEAD] == pytest.approx(60)
    assert us[sampled.LOG] == pytest.approx(20)
    assert us[steps.BESIDE] == pytest.approx(20)
    assert sum(us.values()) == pytest.approx(100)


def test_a_table_has_each_step_as_microseconds_and_as_a_part_of_nginxs_request() -> None:
    us = dict.fromkeys((*sampled.STEPS, steps.BESIDE), 2.0)
    lines = steps.markdown([steps.Steps("query", us, 400, 8.0)]).splitlines()
    assert lines[0] == "| step | query |"
    assert "| head | 2.0 (0.25) |" in lines
    assert "| **ringserve's request** | 20.0 (2.50) |" in lines
    assert lines[-1].endswith("a step of a half is known to 5 % of the whole.")
