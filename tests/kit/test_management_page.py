"""RabbitMQ's management page in a real browser, while all goes wrong: notebook 08 has a picture of it."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright, expect

from bench.show import inside, tools
from bench.show.inside import TOPIC, Stage
from greet import brokers
from greet.designs import DESIGNS, RABBITMQ

PICTURE = Path(__file__).parents[2] / "notebooks" / "08_rabbitmq_management.png"
"""Taken by this test, with `GREET_SCREENSHOTS=notebooks`."""
LARGEST = 100_000  # bytes
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("GREET_REQUIRE") != "all",
    reason="no Chromium here: install it to try RabbitMQ's page in a browser",
)
async def test_rabbitmqs_page_shows_how_far_behind_each_queue_is() -> None:
    design = next(one for one in DESIGNS if one.product is RABBITMQ)
    async with (
        brokers.rabbitmq(plugins=("rabbitmq_management",)) as broker,
        asyncio.TaskGroup() as tasks,
        inside.gone_wrong(Stage(design, broker, tasks), lambda: asyncio.sleep(0)),
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        page = await browser.new_page(viewport={"width": 1100, "height": 700})
        port, (user, password) = broker.nodes[0].plugins["rabbitmq_management"], tools._login(broker.url)
        await page.goto(f"http://127.0.0.1:{port}/")
        await page.fill("input[name=username]", user)
        await page.fill("input[name=password]", password)
        await page.click("input[type=submit]")
        await page.goto(f"http://127.0.0.1:{port}/#/queues")
        await waits(page, "goodbye", 3000)
        await expect(page.locator("table.list tr", has_text=f"{TOPIC}:hello")).to_contain_text("/s")
        if folder := os.environ.get("GREET_SCREENSHOTS"):
            await page.locator("table.list").screenshot(path=Path(folder) / PICTURE.name)


async def waits(page: Page, group: str, least: int) -> None:
    """Return when the page shows that so many messages wait for a group; it renews itself each five seconds."""
    row = page.locator("table.list tr", has_text=f"{TOPIC}:{group}")
    async with asyncio.timeout(60):
        while max(map(number, await row.locator("td.r").all_inner_texts()), default=0) < least:
            await page.wait_for_timeout(500)


def number(text: str) -> int:
    return int(text.replace(",", "")) if text.replace(",", "").isdigit() else 0


def test_the_picture_of_it_is_small() -> None:
    assert 10_000 < PICTURE.stat().st_size < LARGEST
