"""Writes the page: HTML with its data, styles, scripts and libraries inside."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from pymultiling import __version__
from pymultiling.results.report.contents import Shown, contents, differences
from pymultiling.results.report.overview import overview
from pymultiling.results.report.run_folder import Results, read_results
from pymultiling.results.report.sections import Section, sections_of
from pymultiling.results.run import REPORT_FILE
from pymultiling.runtime.storage import write_atomically

LARGEST = 5_000_000  # bytes of a report
LIBRARIES = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js")
STATIC = Path(__file__).parent / "static"

_logger = logging.getLogger(__name__)


def write_own_report(folder: Path, place: Path) -> bool:
    """Writes the report of a run into its folder.

    The results of a run are worth more than its report: an error is logged as a warning.

    Args:
        folder: the folder.
        place: where the folder will be.

    Returns:
        Whether the report was written. It is not if no section shows the results, such as an exported checkpoint.
    """
    try:
        results = [read_results(folder, place=place)]
        if not sections_of(results):
            return False
        write_report(results, folder / REPORT_FILE)
        return True
    except Exception as error:  # noqa: BLE001 - the results stay, whatever is wrong with the report
        _logger.warning("no %s was written: %s: %s", REPORT_FILE, type(error).__name__, error)
        return False


def write_report(results: Sequence[Results], file: Path) -> None:
    """Writes a report of the results, at most 5 MB.

    Args:
        results: the runs. Those of the same kind are shown side by side; the later ones are compared with the first.
        file: the HTML file; it is replaced.

    Raises:
        CheckpointError: a file of the results is missing or damaged.
    """
    page = make_page(results)
    with write_atomically(file) as partial:
        partial.write_text(page, "utf-8")


def make_page(results: Sequence[Results]) -> str:
    """Returns the HTML of the report. The largest figures are left out, with a sentence, if it would exceed 5 MB."""
    found = contents(results)
    data = {id(shown): _as_json(_figure_data(shown, results)) for _, figures in found for shown in figures}
    while len((page := _page(results, found, data)).encode()) > LARGEST and data:
        del data[max(data, key=lambda key: len(data[key]))]
    return page


def _page(results: Sequence[Results], found: list[tuple[Section, list[Shown]]], data: dict[int, str]) -> str:
    """Returns the HTML. data: {id of a figure: its data}; figures without data are left out."""
    title = "pymultiling: " + ", ".join(run.name for run in results)
    numbers = {key: number for number, key in enumerate(data)}
    body = [
        f"<header><h1>{escape(title)}</h1>{_about(results)}</header>",
        _navigation(section for section, _ in found),
        _CONTROLS if data else "",
        "<main>",
        _overview(results),
        *(_section(number, section, figures, numbers) for number, (section, figures) in enumerate(found)),
        "" if found else "<p>The report has no section for results of this kind; their files are in the folder.</p>",
        "</main>",
        f"<footer><p>Written by pymultiling {escape(__version__)}. Charts by Vega-Lite.</p>",
        f"<details><summary>Licences</summary><pre>{escape(_read('LICENSES.txt'))}</pre></details></footer>",
        f'<script type="application/json" id="data">[{",".join(data.values())}]</script>',
        *(f"<script>{script}</script>" for script in _scripts()),
    ]
    return _document(title, "\n".join(body))


def _document(title: str, body: str) -> str:
    """Returns the document. Its policy lets the browser run the scripts with these hashes and load nothing at all."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in _scripts())
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{_read("report.css")}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _read(name: str) -> str:
    return (STATIC / name).read_text("utf-8")


@cache
def _scripts() -> tuple[str, ...]:
    """Returns the libraries, without the comments by which a browser would look for their sources, and our script."""
    libraries = [re.sub(r"\n//# sourceMappingURL=.*\n?$", "\n", _read(name)) for name in LIBRARIES]
    return (*libraries, _read("report.js"))


def _as_json(value: object) -> str:
    """Returns JSON that can stand in an HTML script element: no character of it begins a tag or a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _figure_data(shown: Shown, results: Sequence[Results]) -> dict[str, Any]:
    figure = shown.figure
    return {
        "columns": [
            {"name": c.name, "title": c.title, "form": c.form, "control": c.control, "shown": c.is_shown}
            for c in figure.columns
        ],
        "runs": [{"name": name, "rows": rows} for name, rows in shown.rows.items()],
        "alternatives": shown.alternatives,
        "chart": figure.chart,
        "value": figure.value,
        "panel": figure.panel,
        "title": figure.title,
        "named": len(results) > 1,
    }


def _about(results: Sequence[Results]) -> str:
    abouts = {(run.record.get("card") or {}).get("about") or "" for run in results}
    return f"<p>{escape(abouts.pop())}</p>" if len(abouts) == 1 else ""


def _navigation(sections: Iterable[Section]) -> str:
    links = ['<a href="#run">What was run</a>']
    links += [f'<a href="#section-{number}">{escape(section.title)}</a>' for number, section in enumerate(sections)]
    return f'<nav aria-label="sections">{"".join(links)}</nav>'


_CONTROLS = """<form id="controls" aria-label="what the figures show" hidden>
<fieldset id="languages"><legend>Languages</legend><div></div></fieldset>
<fieldset id="sites"><legend>Sites</legend><div></div></fieldset>
<fieldset id="layers"><legend>Layers</legend><div></div></fieldset>
<button type="reset">Show all</button>
<output id="state" aria-live="polite"></output>
</form>"""


def _overview(results: Sequence[Results]) -> str:
    rows = []
    is_one_kind = len({run.command for run in results}) == 1
    runs = [f' data-run="{escape(run.name)}"' if len(results) > 1 else "" for run in results]
    for name, values in overview(results):
        differs = is_one_kind and name not in ("folder", "command", "started", "took") and len(set(values)) > 1
        cells = "".join(f"<td{run}>{escape(value)}</td>" for run, value in zip(runs, values))
        mark = ' <span class="mark">differs</span>' if differs else ""
        rows.append(f'<tr><th scope="row">{escape(name)}{mark}</th>{cells}</tr>')
    head = ""
    if len(results) > 1:
        names = "".join(f'<th scope="col">{escape(run.name)}</th>' for run in results)
        head = f"<thead><tr><td></td>{names}</tr></thead>"
    return (
        '<section id="run"><h2>What was run</h2><div class="scroll" tabindex="0" role="region" '
        f'aria-label="what was run"><table class="facts">{head}<tbody>{"".join(rows)}</tbody></table></div></section>'
    )


def _section(number: int, section: Section, figures: Sequence[Shown], numbers: dict[int, int]) -> str:
    parts = [f'<section id="section-{number}"><h2>{escape(section.title)}</h2><p>{escape(section.about)}</p>']
    parts += [_figure(shown, numbers.get(id(shown))) for shown in figures]
    return "\n".join([*parts, "</section>"])


def _figure(shown: Shown, number: int | None) -> str:
    """Returns a figure. number: the place of its data; None: it is left out, since the page would be too large."""
    figure = shown.figure
    heading = f"<h3>{escape(figure.title)}</h3><p>{escape(figure.reading)}</p>"
    source = f"<figcaption>Source: {escape(figure.source)}.</figcaption>"
    count = sum(map(len, shown.rows.values()))
    if number is None:
        return (
            f"<figure>{heading}<p>Its {count:,} rows are too many for a page of 5 MB: see the CSV files of the run.</p>"
            f"{source}</figure>"
        )
    changed = differences(shown)
    if changed is not None:
        heading += f'<p class="changed">{changed:,} rows of the table differ between the two runs.</p>'
    return (
        f'<figure data-number="{number}">{heading}<div class="panels"></div>{source}<details class="data"><summary>'
        f"Table</summary></details></figure>"
    )
