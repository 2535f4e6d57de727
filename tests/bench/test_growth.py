"""The question of growth: the groups of before are removed, and what cannot be is not forgotten."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from bench.contenders.greets import CONTENDERS
from bench.model import Cell, Figures, Session
from bench.questions import growth
from greet import Guarantee

(RABBITMQ,) = (one for one in CONTENDERS if (one.design, one.way) == ("rabbitmq", "name"))


@pytest.mark.parametrize("fails", [True, False])
async def test_a_removal_that_fails_costs_no_figures_and_is_tried_again(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {"before": {"g0"}}

    async def make_groups(cell: Cell) -> None:
        made["others"] = {f"g{number}" for number in range(cell.groups)}

    async def names_for(_: Cell) -> int:
        return 10

    async def deliver(_: Cell, __: int) -> list[Figures]:
        return [Figures({"error": None})]

    async def removed(*_: object) -> None:
        if fails:
            raise TimeoutError

    monkeypatch.setattr(growth, "removed", removed)
    site = SimpleNamespace(made=made, url="")
    session = SimpleNamespace(sites={"rabbitmq": site}, make_groups=make_groups, names_for=names_for, deliver=deliver)
    cell = Cell(RABBITMQ, Guarantee.AT_LEAST_ONCE, rung=growth.AFTER)
    (found,) = await growth.after_groups(cast("Session", session), cell, 0)
    assert found.fields["error"] is None
    assert [*made] == (["before", "others"] if fails else ["before"])
