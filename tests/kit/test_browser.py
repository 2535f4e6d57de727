"""The walkthrough as most users meet it: in JupyterLab, in a real browser, run from its menu or as it was stored."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from platformdirs import user_cache_path
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONG = ("04", "05", "06", "08")
"""Those that measure for long: they are run by nbval alone, and here shown as they are stored."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 120
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
SCREENSHOTS = os.environ.get("GREET_SCREENSHOTS")
"""A folder for pictures of the notebooks, in light and dark, and for the picture in README.md (walkthrough*.png)."""
WALKTHROUGH = ("00_start_here", 19)
"""The notebook in the picture of README.md, and its cell at the top: the film of twelve names."""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("GREET_REQUIRE") != "all",
        reason="no Chromium here: install it to try the notebooks in a browser",
    ),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, rabbitmq_url: str, kafka_url: str) -> Iterator[str]:
    """JupyterLab on a copy of the notebooks, with the shared brokers; its address, for a notebook's name."""
    assert rabbitmq_url
    assert kafka_url
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    settings = folder / ".jupyter/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false"}', encoding="utf-8")  # as `make lab`: else it asks, over the notebook
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex()
    options = ["--no-browser", f"--port={port}", "--ip=127.0.0.1", f"--ServerApp.root_dir={folder}"]
    options.append("--LabApp.expose_app_in_browser=True")  # so that the test can ask for what is not drawn
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=os.environ | {"JUPYTER_TOKEN": token, "HOME": str(folder), "XDG_CACHE_HOME": str(user_cache_path())},
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/api?token={token}", server)
            # A workspace for each: the notebooks that were open before would be opened again.
            yield f"http://127.0.0.1:{port}/lab/workspaces/{{0}}/tree/notebooks/{{0}}.ipynb?token={token}"
        finally:
            server.terminate()
            server.wait(30)


def _wait_until_up(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "JupyterLab ended as it started"
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("JupyterLab did not answer within a minute")


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        await browser.close()


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code" and cell["source"]]


class Pages:
    """The notebooks, opened and run. While one runs the next two do too: much of it is waiting for brokers."""

    def __init__(self, lab: str, browser: Browser) -> None:
        self._lab = lab
        self._browser = browser
        self._running: dict[Path, asyncio.Task[Page]] = {}

    async def of(self, notebook: Path, *following: Path) -> Page:
        """The page of `notebook`, all of whose cells have run, or which shows an error."""
        for one in (notebook, *following):
            if one not in self._running:
                self._running[one] = asyncio.create_task(self._run(one))
        return await self._running[notebook]

    async def close(self) -> None:
        """Wait for none that still runs."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _run(self, notebook: Path) -> Page:
        page = await self._browser.new_page(viewport={"width": 1280, "height": 1600})
        try:
            await page.goto(self._lab.format(notebook.stem))
            await expect(page.locator(".jp-Notebook").first).to_be_visible(timeout=60_000)
            await _idle(page)
            if not notebook.name.startswith(LONG):
                await _menu(page, "Edit", "Clear Outputs of All Cells")
                await _menu(page, "Run", "Run All Cells")
            await _all_have_run(page)
        except BaseException:
            if SCREENSHOTS:
                await page.screenshot(path=Path(SCREENSHOTS) / f"{notebook.stem}-failed.png")
            raise
        return page


@pytest.fixture(scope="module")
async def pages(lab: str, browser: Browser) -> AsyncIterator[Pages]:
    opened = Pages(lab, browser)
    yield opened
    await opened.close()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
async def test_a_notebook_is_whole_in_a_browser(pages: Pages, request: pytest.FixtureRequest, notebook: Path) -> None:
    cells = code_cells(notebook)
    pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    page = await pages.of(notebook, *_following(request)[:2])
    state = await _state(page)
    assert state["errors"] == []
    assert len(state["counts"]) == len(cells)
    assert None not in state["counts"]
    assert state["pictures"] == pictures
    if SCREENSHOTS:
        await _photograph(page, Path(SCREENSHOTS), notebook.stem)
    await page.close()


def _following(request: pytest.FixtureRequest) -> list[Path]:
    """The notebooks of the tests that come next."""
    same = [
        one for one in request.session.items if isinstance(one, pytest.Function) and one.function is request.function
    ]
    return [Path(str(one.callspec.params["notebook"])) for one in same[same.index(request.node) + 1 :]]


# What the notebook's own model holds: JupyterLab draws only the cells that are in view.
MODEL = """() => {
    const notebook = window.jupyterapp.shell.currentWidget.content.model.sharedModel;
    const cells = notebook.cells.filter(cell => cell.cell_type == 'code');
    const outputs = cells.flatMap(cell => cell.outputs);
    return JSON.stringify({
        counts: cells.map(c => c.execution_count),
        pictures: outputs.filter(o => o.data && 'image/png' in o.data).length,
        errors: outputs.filter(o => o.output_type == 'error').map(o => o.ename + ': ' + o.evalue),
    });
}"""

# The active cell is what JupyterLab keeps in view.
SCROLL = """share => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    notebook.activeCellIndex = Math.round(share * (notebook.widgets.length - 1));
    return notebook.scrollToItem(notebook.activeCellIndex, 'start');
}"""
SCROLL_TO = """place => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    notebook.activeCellIndex = place;
    return notebook.scrollToItem(place, 'start');
}"""


async def _menu(page: Page, menu: str, item: str) -> None:
    await page.locator(".lm-MenuBar-itemLabel", has_text=menu).first.click()
    await page.locator(".lm-Menu-itemLabel", has_text=item).first.click()


# The kernel's own word: the indicator says "idle" before there is a kernel.
IDLE = """() => {
    const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
    return kernel?.status == 'idle' && kernel.connectionStatus == 'connected';
}"""


async def _idle(page: Page) -> None:
    await page.wait_for_function(IDLE, timeout=60_000)


async def _state(page: Page) -> dict[str, Any]:
    return dict(json.loads(await page.evaluate(MODEL)))


async def _all_have_run(page: Page) -> None:
    """Return when each cell has its count, or one raised, after which no more are run."""
    async with asyncio.timeout(SECONDS):
        while None in (state := await _state(page))["counts"] and not state["errors"]:
            await page.wait_for_timeout(200)
    await _idle(page)


async def _photograph(page: Page, folder: Path, name: str) -> None:
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        await page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        await page.wait_for_timeout(1000)
        for place in range(6):
            await page.evaluate(SCROLL, place / 5)
            await page.wait_for_timeout(500)
            await page.screenshot(path=folder / f"{name}-{theme.split()[1].lower()}-{place}.png")
        if name == WALKTHROUGH[0]:
            await page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
            await page.set_viewport_size({"width": 1100, "height": 760})
            await page.evaluate(SCROLL_TO, WALKTHROUGH[1])
            await page.wait_for_timeout(1000)
            await page.screenshot(path=folder / f"walkthrough{'-dark' if theme.endswith('Dark') else ''}.png")
            await page.set_viewport_size({"width": 1280, "height": 1600})
            await page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")


# One cell after the other, each when the one before is done.
RUN = """async words => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    for (const [index, cell] of notebook.widgets.entries()) {
        if (words.some(one => cell.model.sharedModel.source.includes(one))) {
            notebook.activeCellIndex = index;
            await window.jupyterapp.commands.execute('notebook:run-cell');
        }
    }
}"""


async def test_the_answer_follows_the_form_of_a_workload(lab: str, browser: Browser) -> None:
    page = await browser.new_page(viewport={"width": 1280, "height": 1600})
    await page.goto(lab.replace("workspaces/{0}", "workspaces/form").format("07_choose"))
    await expect(page.locator(".jp-Notebook").first).to_be_visible(timeout=60_000)
    await _idle(page)
    await page.evaluate(RUN, ["bench.latest()", "form(rows)"])
    answer = page.locator(".widget-html").last

    async def answers(text: str) -> None:
        await expect(answer).to_contain_text(text, timeout=30_000)

    def field(label: str, what: str) -> Locator:
        row = page.locator(".widget-hbox").filter(has=page.get_by_text(label, exact=True)).last
        return row.locator(what)

    async def enter(label: str, value: int) -> None:
        await field(label, "input").fill(str(value))
        await field(label, "input").press("Enter")

    await answers("Take RabbitMQ")
    await enter("messages a second", 5000)
    await answers("None of them")
    await answers("the work of 3 readers at a time")
    await enter("readers in a group", 64)
    await answers("Take ")
    await answers("--rate 5000 --members 64")
    await field("read again later", "input").check()
    await answers("Take Kafka")
    await answers("Not RabbitMQ: it does not keep messages that were read")
    await field("read again later", "input").uncheck()
    await enter("messages a second", 100)
    await field("survives the kill of", "select").select_option("nothing")
    await answers("Take asyncio")
    assert (await _state(page))["errors"] == []
    if SCREENSHOTS:
        await page.screenshot(path=Path(SCREENSHOTS) / "07_choose-form.png")
    await page.close()
