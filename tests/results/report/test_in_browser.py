"""The page in Chromium: nothing is requested, nothing fails, and the controls, tables and schemes work.

Skipped without Playwright (`pip install playwright`) or without a Chromium on this machine, or where CHROMIUM says.
"""

import os
import shutil
from pathlib import Path

import pytest

from pymultiling.results.report import read_results, write_report
from tests.support.report_runs import HOSTILE, KINDS, LANGUAGES, write_run

sync_api = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
PROGRAMS = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in PROGRAMS if name and (found := shutil.which(name))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium was found", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """A report of runs of all kinds, two of them of `detect`."""
    root = tmp_path_factory.mktemp("runs")
    folders = [write_run(root / kind, kind) for kind in KINDS]
    folders.insert(1, write_run(root / "again", "detect", seed=1))
    write_report([read_results(folder) for folder in folders], root / "report.html")
    return root / "report.html"


@pytest.fixture
def open_page(browser, page_file):
    """Opens the report. At the end of the test, asserts that nothing else was requested, and that nothing failed."""
    faults, pages = [], []

    def open_it(width: int = 1280, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        address = page_file.as_uri()
        page.on("request", lambda request: request.url != address and faults.append(f"request of {request.url}"))
        page.on("console", lambda message: faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (faults.append("a dialog"), dialog.dismiss()))
        page.goto(address)
        wait(page)
        pages.append(page)
        return page

    yield open_it
    for page in pages:
        page.close()
    assert faults == []


def wait(page) -> None:
    """Waits until all charts are drawn."""
    page.locator("body[data-ready=yes]").wait_for()


def figure(page, title: str):
    """Returns the first figure of this title."""
    return page.locator("figure", has=page.get_by_role("heading", name=title, exact=True)).first


def test_draws_every_panel_and_names_it(open_page):
    page = open_page()
    charts = page.locator(".chart")
    assert charts.count() == page.locator(".chart svg.marks").count() > 20
    names = charts.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
    assert all(name.endswith(".") for name in names)
    assert page.get_by_role("img", name="site ffn, again: Heat maps").count() == 2
    marks = charts.evaluate_all(
        "all => all.map(one => one.querySelectorAll('.mark-rect.role-mark path, .mark-line path').length)"
    )
    assert min(marks) > 0


def test_names_from_files_stay_texts(open_page):
    page = open_page()
    assert page.evaluate("document.querySelectorAll('script').length") == 5
    assert page.locator("main img, main b, form img").count() == 0
    for name in LANGUAGES:
        assert page.get_by_role("checkbox", name=name, exact=True).count() == 1
    axis = figure(page, "Neurons selected for a language").locator("svg text", has_text=HOSTILE)
    assert axis.count() == 4  # two sites of two runs
    figure(page, "Neurons selected for a language").locator(".mark-rect.role-mark path").first.hover(force=True)
    page.locator("#vg-tooltip-element.visible").wait_for()
    figure(page, "ILO by language and layer").locator(".mark-rect.role-mark path").nth(5).hover(force=True)
    assert page.locator("#vg-tooltip-element img").count() == 0


def test_the_controls_choose_languages_sites_and_layers(open_page):
    page = open_page()
    sets = figure(page, "Neurons selected for a language")
    panels = sets.locator(".panel:visible")
    cells = sets.locator(".panel").first.locator(".mark-rect.role-mark path")
    assert (panels.count(), cells.count()) == (4, 9)
    page.get_by_role("checkbox", name="fr", exact=True).uncheck()
    page.get_by_role("checkbox", name="q", exact=True).uncheck()
    page.get_by_label("from").fill("1")
    wait(page)
    assert (panels.count(), cells.count()) == (2, 4)
    assert sets.locator("summary").last.text_content() == "Table (4 rows)"
    assert "Shown: 3 languages" in page.locator("#state").text_content()  # de of `tune` is one of them
    page.get_by_role("button", name="Show all").click()
    page.locator("body[data-ready=no]").wait_for()
    wait(page)
    assert (panels.count(), cells.count()) == (4, 9) and page.locator("#state").text_content() == ""
    for name in (*LANGUAGES, "de"):
        page.get_by_role("checkbox", name=name, exact=True).uncheck()
    wait(page)
    assert panels.count() == 0 and sets.get_by_text("No rows with this choice.").is_visible()


def test_tables_open_and_are_sorted_from_the_keyboard(open_page):
    page = open_page()
    sets = figure(page, "Neurons selected for a language")
    sets.locator("details.data > summary").focus()
    page.keyboard.press("Enter")
    heads = sets.locator("thead button")
    heads.first.wait_for()
    assert heads.all_text_contents() == [
        "language", "layer", "site",
        *(f"share of the layer's neurons, {of}" for of in ("detect", "again", "difference")),
        *(f"neurons, {of}" for of in ("detect", "again", "difference")),
    ]  # fmt: skip

    def column(number: int) -> list[int]:
        cells = sets.locator(f"tbody td:nth-child({number})").all_text_contents()
        return [int(text.replace("−", "-")) for text in cells]

    assert len(column(7)) == 18
    assert [b - a for a, b in zip(column(7), column(8))] == column(9)
    for order, is_down in (("descending", True), ("ascending", False)):
        heads.nth(8).focus()
        page.keyboard.press("Enter")
        assert column(9) == sorted(column(9), reverse=is_down)
        assert sets.locator("thead th").nth(8).get_attribute("aria-sort") == order
        assert heads.nth(8).evaluate("head => head === document.activeElement")


@pytest.mark.parametrize("scheme, background", [("light", "rgb(255, 255, 255)"), ("dark", "rgb(15, 19, 24)")])
def test_follows_the_scheme_and_fits_a_phone(open_page, scheme, background):
    page = open_page(width=390, color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    colour = figure(page, "ILO by language and layer").locator("svg .role-axis-label text").first.get_attribute("fill")
    assert colour == {"light": "#1b1f24", "dark": "#e6edf3"}[scheme]


def test_prints_dark_on_white_without_controls(open_page):
    page = open_page(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    page.locator("body[data-ready=no]").wait_for()
    wait(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#controls").is_visible() and not page.locator("nav").is_visible()
    colour = figure(page, "ILO by language and layer").locator("svg .role-axis-label text").first.get_attribute("fill")
    assert colour == "#1b1f24"
