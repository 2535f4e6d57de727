"""A page of `report --html` as readers have it: in a real browser, light and dark, wide and as narrow as a phone."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright

import bench
from bench import questions, results
from bench.show import page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("GREET_REQUIRE") != "all",
        reason="no Chromium here: install it to try the page in a browser",
    ),
]

# The middle of each mark, and what the browser shows to who points there: the nearest title around what lies on top.
POINTED_AT = """() => [...document.querySelectorAll('g[pointer-events]')].map(mark => {
    mark.scrollIntoView({block: 'center', inline: 'center'});
    const box = mark.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    const above = document.elementFromPoint(x, y)?.closest('g[pointer-events]');
    return above?.querySelector('title')?.textContent ?? '';
})"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the published runs, as a file."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page.page(bench.reference(), *map(bench.about, results.published())), encoding="utf-8")
    return file


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        await browser.close()


def test_it_is_small_enough_to_be_sent(published: Path) -> None:
    assert published.stat().st_size < 5e6


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
async def test_each_mark_can_be_pointed_at(browser: Browser, published: Path, scheme: str, width: int) -> None:
    shown = await browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    asked: list[str] = []
    shown.on("request", lambda request: asked.append(request.url))
    await shown.goto(published.as_uri())
    assert asked == [published.as_uri()], "it asks for no other file"
    assert await shown.locator("svg").count() == len({*bench.reference()["question"]})
    said = await shown.evaluate(POINTED_AT)
    assert len(said) > 100
    assert "" not in said
    assert await shown.evaluate("document.documentElement.scrollWidth") <= width, (
        "the page itself does not scroll aside"
    )
    ground = await shown.evaluate("getComputedStyle(document.querySelector('svg')).backgroundColor")
    assert ground == "rgba(0, 0, 0, 0)"


async def test_a_picture_is_named_for_who_cannot_see_it(browser: Browser, published: Path) -> None:
    shown = await browser.new_page()
    await shown.goto(published.as_uri())
    names = await shown.locator("svg[role=img]").evaluate_all("found => found.map(one => one.ariaLabel)")
    asked = {questions.asked(name) for name in questions.NAMES}
    assert len(names) == len({*bench.reference()["question"]})
    assert not asked & {*names}, "each says what its rows say"
