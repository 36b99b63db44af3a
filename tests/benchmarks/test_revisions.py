"""What is said of two revisions."""

from __future__ import annotations

import pytest
import revisions
from figures import Outcome, Round, Table


@pytest.mark.parametrize(
    ("cost_of_b", "said"),
    [(2.0, "**B costs more** (+100.0% to +100.0%)"), (0.5, "**B costs less**"), (1.0, "the same within 3%")],
)
def test_two_revisions_are_told_apart_by_what_a_request_costs_and_not_by_how_many_there_were(
    cost_of_b: float, said: str
) -> None:
    table = Table("application", "", logged=True, goals=())
    for name in revisions.SERVERS:
        cpu_s = cost_of_b if name.startswith("B") else 1.0
        rounds = [Round(cycle, requests=1000, seconds=1.0, cpu_s=cpu_s) for cycle in range(6)]
        table.outcomes[name] = Outcome("", rounds)
    assert said in revisions.markdown([table])
