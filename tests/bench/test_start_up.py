"""The question of start_up: the application is run as the row says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bench.contenders import every
from bench.measure.run import session
from bench.model import Settings
from bench.questions import start_up
from greet import Guarantee


@pytest.mark.parametrize("guarantee", [Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE])
async def test_the_application_has_the_guarantee_of_the_row(
    guarantee: Guarantee, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []
    run = asyncio.create_subprocess_exec

    async def noted(*words: str, **options: Any) -> Any:
        ran.append(words)
        return await run(*words, **options)

    settings = Settings(("asyncio",), tuple(every()), guarantee=guarantee)
    (cell,) = start_up.cells(settings)
    async with session(settings) as opened:
        monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
        (found,) = await start_up.first_greeting(opened, cell, 1)
    assert found.fields["error"] is None
    ((_, *words),) = ran
    assert words[words.index("--guarantee") + 1] == guarantee.name.lower().replace("_", "-")
    assert found.fields["survives"] == guarantee.value
