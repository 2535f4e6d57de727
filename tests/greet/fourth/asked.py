"""Run within the copy of the kit that has the fourth design."""

from __future__ import annotations

import pytest

from bench import contenders, questions
from bench.faults.catalogue import FAULTS
from bench.model import Settings
from bench.show import plots
from greet import Guarantee

NAME = "memory-log"
OF_OTHERS = {
    *("ladder", "tweaking"),  # which are of the plain clients
    *("takeover", "connections", "scaling"),  # which are of a broker
}


@pytest.mark.parametrize("profile", ["quick", "full"])
@pytest.mark.parametrize("name", questions.NAMES)
def test_a_question_asks_nothing_that_it_cannot(name: str, profile: str) -> None:
    cells = questions.question(name).cells(Settings((NAME,), tuple(contenders.every()), profile=profile))
    assert bool(cells) == (name not in OF_OTHERS)
    assert all(one.contender.design == NAME and one.guarantee is not Guarantee.DURABLE for one in cells)
    assert not any(one.partitions > 1 or one.phase != "together" or one.options for one in cells)


def test_its_faults_are_those_of_one_process() -> None:
    assert {fault for fault, what in FAULTS.items() if NAME in what.designs} == {
        *("member killed", "member raises", "members come and go", "soak")
    }
    assert not any((NAME, "DURABLE") in what.means for what in FAULTS.values())


def test_it_is_drawn_as_the_log_that_it_is() -> None:
    assert plots.architectures(NAME).get_label() == (
        "a log in memory: one log in one process, which both groups read, each at its own place"
    )
