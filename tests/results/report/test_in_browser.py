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

MANY = ("ar", "bn", "de", "en", "eo", "fr", "hi", "ja", "lg", "rw", "ta", "th")
# Texts in charts of which a part is outside the chart, or that are smaller than 11 pixels.
UNREADABLE = """charts => charts.flatMap(chart => {
  const box = chart.querySelector('svg').getBoundingClientRect();
  return [...chart.querySelectorAll('svg text')].filter(text => {
    const { left, right, width } = text.getBoundingClientRect();
    const { opacity, fontSize } = getComputedStyle(text);
    const isSeen = width > 0 && opacity !== '0' && parseFloat(fontSize) > 0;
    return isSeen && (left < box.left - 1 || right > box.right + 1 || parseFloat(fontSize) < 11);
  }).map(text => `${chart.ariaLabel}: ${text.textContent}`);
})"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def write_page(root: Path, languages: tuple[str, ...]) -> Path:
    """Writes a report of runs of all kinds, two of them of `detect`."""
    folders = [write_run(root / kind, kind, languages=languages) for kind in KINDS]
    folders.insert(1, write_run(root / "again", "detect", seed=1, languages=languages))
    write_report([read_results(folder) for folder in folders], root / "report.html")
    return root / "report.html"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """A report of languages with hostile names."""
    return write_page(tmp_path_factory.mktemp("hostile"), LANGUAGES)


@pytest.fixture(scope="module")
def page_of_many(tmp_path_factory) -> Path:
    """A report of more languages than a chart has colours for."""
    return write_page(tmp_path_factory.mktemp("many"), MANY)


@pytest.fixture
def open_page(browser, page_file):
    """Opens a report. At the end of the test, asserts that nothing else was requested, and that nothing failed."""
    faults, pages = [], []

    def open_it(width: int = 1280, file: Path = page_file, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        address = file.as_uri()
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


def figure(page, title: str, section: str = "Neurons of languages"):
    """Returns the first figure of this title in a section."""
    inside = page.locator("section", has=page.get_by_role("heading", name=section, exact=True, level=2))
    return inside.locator("figure", has=page.get_by_role("heading", name=title, exact=True, level=3)).first


def ilo_figure(page):
    return figure(page, "ILO by language and layer", "Interlingual local overlap")


def test_draws_every_panel_and_names_it(open_page):
    page = open_page()
    charts = page.locator(".chart")
    assert charts.count() == page.locator(".chart svg.marks").count() > 20
    names = charts.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
    assert all(name.endswith(".") for name in names)
    assert page.get_by_role("img", name="site ffn, again: Heat maps").count() == 2
    drawn = ", ".join(f".mark-{mark}.role-mark path" for mark in ("rect", "line", "symbol"))
    marks = charts.evaluate_all(f"all => all.map(one => one.querySelectorAll('{drawn}').length)")
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
    ilo_figure(page).locator(".mark-rect.role-mark path").nth(5).hover(force=True)
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


@pytest.mark.parametrize("width", [1280, 390])
def test_texts_of_charts_are_whole_and_large_enough(open_page, page_of_many, width):
    page = open_page(width, page_of_many)
    assert page.locator(".chart").evaluate_all(UNREADABLE) == []


def test_wide_tables_scroll_inside_the_page_of_a_phone(open_page):
    page = open_page(width=390)
    page.evaluate("document.querySelectorAll('details.data').forEach(details => (details.open = true))")
    regions = page.locator("details.data .scroll")
    regions.nth(page.locator("details.data").count() - 1).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    wide = regions.evaluate_all("all => all.filter(region => region.scrollWidth > region.clientWidth)")
    assert len(wide) > 5
    scrolled = regions.evaluate_all("all => all.map(one => ((one.scrollLeft = 9999), one.scrollLeft))")
    assert sum(left > 0 for left in scrolled) == len(wide)


def test_none_of_many_languages_are_chosen_with_one_click(open_page, page_of_many):
    page = open_page(file=page_of_many)
    page.get_by_role("button", name="none of the languages").click()
    page.get_by_role("checkbox", name="ja", exact=True).check()
    wait(page)
    assert page.locator("#state").text_content() == "Shown: 1 language."
    rows = figure(page, "ILO by language and layer", "Interlingual local overlap").locator(".mark-rect.role-mark path")
    assert rows.count() == 4  # layers
    assert page.get_by_role("button", name="none of the sites").count() == 0  # of two sites


@pytest.mark.parametrize("scheme, background", [("light", "rgb(255, 255, 255)"), ("dark", "rgb(15, 19, 24)")])
def test_follows_the_scheme_and_fits_a_phone(open_page, scheme, background):
    page = open_page(width=390, color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    colour = ilo_figure(page).locator("svg .role-axis-label text").first.get_attribute("fill")
    assert colour == {"light": "#1b1f24", "dark": "#e6edf3"}[scheme]


@pytest.mark.parametrize("scheme, background", [("light", "#ffffff"), ("dark", "#0f1318")])
def test_a_chart_is_saved_with_the_background_that_its_letters_need(open_page, scheme, background):
    chart = ilo_figure(open_page(color_scheme=scheme)).locator(".chart")
    chart.locator("summary").click()
    with chart.page.expect_download() as download:
        chart.get_by_text("Save as SVG").click()
    picture = Path(download.value.path()).read_text("utf-8")
    assert f'fill="{background}"' in picture and "layer (0: embeddings)" in picture


def test_a_click_on_a_legend_leaves_one_bar_in_full_colour(open_page):
    chart = figure(open_page(), "Each set's effect on its own language", "Ablation").locator(".chart")
    bars = chart.locator(".mark-rect.role-mark path")
    assert {bar.evaluate("bar => getComputedStyle(bar).opacity") for bar in bars.all()} == {"1"}
    chart.locator(".role-legend-symbol path").first.click(force=True)
    opacities = [bar.evaluate("bar => getComputedStyle(bar).opacity") for bar in bars.all()]
    assert opacities == ["1", "0.15", "0.15"] * len(LANGUAGES)


def test_prints_dark_on_white_without_controls(open_page):
    page = open_page(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#controls").is_visible() and not page.locator("nav").is_visible()
    ilo_figure(page).locator("svg .role-axis-label text[fill='#1b1f24']").first.wait_for()
