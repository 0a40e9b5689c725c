"""The page in a browser: Debian's Chromium without a window, driven by playwright, from a file and without a network.

JATTN_SCREENSHOTS=FOLDER keeps the pictures that are taken.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests import runs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
READY = "panel => 'ready' in panel.dataset"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
    pytest.mark.usefixtures("experiments_are_kept"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -r requirements-dev.txt")
    with playwright.sync_playwright() as driver:
        # Containers forbid the sandbox of Chromium; it opens nothing but the page made here.
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page of a real comparison."""
    return (runs.smoke_comparison(tmp_path_factory) / "report.html").as_uri()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the page is about."""
    return json.loads((runs.smoke_comparison(tmp_path_factory) / "comparison.json").read_text())


@pytest.fixture
def opened(browser, address):
    """Opens the page with options of a browser's context; fails at the end if it has complained or asked for a file."""
    complaints, contexts = [], []

    def open_page(**options):
        contexts.append(browser.new_context(offline=True, **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
        page.on("request", lambda request: None if local(request.url, address) else complaints.append(request.url))
        page.goto(address)
        for panel in page.locator("[data-panel]").all():
            panel.scroll_into_view_if_needed()
            page.wait_for_function(READY, arg=panel.element_handle())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def local(url, address):
    return url.startswith(("data:", "blob:")) or url.partition("#")[0] == address


@pytest.fixture
def save(tmp_path):
    folder = Path(os.environ.get("JATTN_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)

    def screenshot(page, name):
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=folder / f"{name}.png", full_page=True)
        assert (folder / f"{name}.png").stat().st_size > 20_000

    return screenshot


def names(page):
    return page.locator("#cells tbody tr:visible th").all_inner_texts()


def picture(page, selector):
    """What a canvas shows, as text."""
    return page.eval_on_selector(selector, "canvas => canvas.toDataURL()")


def test_a_page_is_sorted_filtered_and_looked_into(opened, found, save):
    page = opened(viewport={"width": 1280, "height": 900})
    assert page.locator(".drawing .bk-Figure").count() == 5
    assert names(page) == list(runs.COMPARED)

    page.get_by_role("button", name="cell", exact=True).first.click()
    assert names(page) == sorted(runs.COMPARED)
    speeds = {cell["cell"]: cell["steps_per_second"] for cell in found["cells"]}
    head = page.locator("#cells thead th", has_text="steps/s")
    for order in ("ascending", "descending"):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == order
        assert names(page) == sorted(speeds, key=speeds.get, reverse=order == "descending")
    page.locator('.filter[data-table="runs"] input').fill("softmax seed")
    assert page.locator("#runs tbody tr:visible").count() == 0
    page.locator('.filter[data-table="runs"] input').fill("softmax")
    assert page.locator("#runs tbody tr:visible").count() == 2
    assert page.locator('.filter[data-table="runs"] [role=status]').inner_text() == "2 of 4 rows"

    before = picture(page, ".frame canvas")
    page.get_by_label("Layer", exact=True).select_option("1")
    of_layer = picture(page, ".frame canvas")
    page.get_by_label("Head", exact=True).select_option("1")
    of_head = picture(page, ".frame canvas")
    page.get_by_label("Map", exact=True).select_option("2")
    of_example = picture(page, ".frame canvas")
    page.get_by_label("Cell", exact=True).select_option("1")
    page.locator(".gallery button[aria-pressed=true]", has_text="local").wait_for()
    assert len({before, of_layer, of_head, of_example, picture(page, ".frame canvas")}) == 5
    assert page.locator(".grid button[aria-pressed=true]").get_attribute("aria-label") == "layer 1, head 1"
    page.locator(".grid button[aria-pressed=true]").press("ArrowUp")
    assert page.locator(".grid button[aria-pressed=true]").get_attribute("aria-label") == "layer 0, head 1"

    unlit = picture(page, ".heads > :last-child canvas")
    page.locator(".frame canvas").press("ArrowDown")
    page.get_by_text("Query 0,0; largest keys").wait_for()
    page.wait_for_function(
        "before => document.querySelector('.heads > :last-child canvas').toDataURL() !== before", arg=unlit
    )
    page.get_by_label("Heads by").select_option("entropy, nats")
    assert float(page.locator(".grid button").first.inner_text()) > 0
    page.locator('[data-panel="curves"] .legend button').first.click()
    assert page.locator('[data-panel="curves"] .legend button').first.get_attribute("aria-pressed") == "false"
    save(page, "desktop")


def test_a_phone_scrolls_down_only(opened, save):
    page = opened(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    save(page, "phone")


def test_dark_is_the_system_s_choice_and_the_reader_s(opened, save):
    page = opened(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    plot = "Bokeh.documents.at(-1).roots()[0].background_fill_color"
    dark, drawn = page.evaluate(paper), page.evaluate(plot)
    save(page, "dark")
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate(paper) != dark
    page.wait_for_function(f"{plot} != '{drawn}'")

    # Of choices in quick succession the last is drawn, and no other is left beside it.
    title = page.evaluate("""() => {
      const select = document.querySelector("[data-panel=curves] select");
      for (const { value } of [...select.options].slice(1)) {
        select.value = value;
        select.dispatchEvent(new Event("change"));
      }
      for (let i = 0; i < 3; i++) document.querySelector("#theme").click();
      return select.options[select.selectedIndex].textContent;
    }""")
    shown = "Bokeh.documents.map(of => of.roots()[0])"
    page.wait_for_function(f"{shown}.every(plot => plot.background_fill_color === '{drawn}')")
    page.wait_for_function("Bokeh.documents.every(of => of.is_idle)")
    assert page.locator(".drawing .bk-Figure").count() == 5
    assert page.evaluate(f"{shown}.map(plot => plot.left[0].axis_label)").count(title) == 1
