"""The page of the report: its sections, its size, what it may load, and hostile texts."""

import base64
import hashlib
import itertools
import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pandas
import pytest

from pymultiling.cli.shared.command_line import command_modules
from pymultiling.errors import CheckpointError
from pymultiling.results.report import page, read_results, write_own_report, write_report
from pymultiling.results.report.sections import sections
from tests.support.report_runs import HOSTILE, KINDS, LANGUAGES, random_sets, write_run

NO_SECTION = {
    "bench",
    "export",
    "report",
    "show",
    "doctor",
    "push",
    "pull",
}  # they write no results
# Names of XML and texts of messages in the libraries. None of them is loaded.
ADDRESSES_IN_LIBRARIES = {
    "http://",
    "https://",
    "http://www.w3.org/1999/xlink",
    "http://www.w3.org/2000/svg",
    "http://www.w3.org/2000/xmlns/",
    "https://github.com/Starcounter-Jack/JSON-Patch",
    "https://github.com/vega/vega-lite/issues/2415",
    "https://vega.github.io/editor/",
    "https://vega.github.io/schema/vega/v6.json",
}


class Page(HTMLParser):
    """The tags of a page, its text outside of scripts and styles, and its scripts."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.texts, self.scripts, self.headings, self._open = [], [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style", "h2"):
            self._open = tag
            self.scripts += [""] if tag == "script" else []

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open == "h2":
            self.headings.append(data)
        elif not self._open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    @property
    def data(self) -> list[dict]:
        return json.loads(self.scripts[0])


@pytest.fixture
def all_runs(tmp_path) -> list[Path]:
    return [write_run(tmp_path / kind, kind) for kind in KINDS]


def report(tmp_path: Path, *folders: Path) -> str:
    write_report([read_results(folder) for folder in folders], tmp_path / "report.html")
    return (tmp_path / "report.html").read_text("utf-8")


def test_every_command_that_writes_results_has_a_section():
    covered = {command for section in sections() for command in section.commands}
    assert covered == {module.COMMAND.name for module in command_modules()} - NO_SECTION


@pytest.mark.parametrize(
    "kind, titles",
    [
        ("detect", ["Neurons of languages", "Overlap between languages"]),
        ("ablate", ["Ablation"]),
        ("count", ["Activation counts"]),
        ("classify", ["Neurons of languages", "Overlap between languages", "Ternary neurons"]),
        ("lens", ["Lens"]),
        ("ilo", ["Interlingual local overlap"]),
        ("pmi", ["Parallel multilingual input"]),
        ("mwork", ["Parts of the model (MWork)"]),
        ("tune", ["Training"]),
        ("reproduce", ["A paper's tables"]),
        ("reproduce_ternary", ["A paper's tables"]),
        ("reproduce_pmi", ["A paper's tables"]),
    ],
)
def test_a_folder_gets_the_sections_of_its_kind(tmp_path, kind, titles):
    html = report(tmp_path, write_run(tmp_path / "run", kind))
    assert Page(html).headings == ["What was run", *titles]


def test_every_figure_has_its_sentence_source_table_and_alternative_text(tmp_path, all_runs):
    html = report(tmp_path, *all_runs)
    figures = re.findall(r"<figure data-number=.*?</figure>", html, re.DOTALL)
    parsed = Page(html)
    assert len(figures) == len(parsed.data) > 15
    for figure, data in zip(figures, parsed.data, strict=True):
        assert re.search(r"<h3>[^<]+</h3><p>[^<]+[.,][^<]*</p>", figure)
        assert re.search(r"<figcaption>Source: [^<]{10,}\.</figcaption>", figure)
        assert "<summary>" in figure
        for run in data["runs"]:
            assert run["rows"] and all(len(row) == len(data["columns"]) for row in run["rows"])
            assert data["alternatives"][run["name"]].endswith(".")
        assert any(column["form"] for column in data["columns"]), "a figure has a measured column"
        names = {column["name"] for column in data["columns"]}
        fields = set(re.findall(r'"field": "(\w+)"', json.dumps(data["chart"]))) - {"place", "written_"}
        assert fields <= names and data["value"] in names and data["panel"] in names | {None}


def test_says_what_was_run(tmp_path):
    text = Page(report(tmp_path, write_run(tmp_path / "run", "detect"))).text
    for fact in ("pymultiling detect --out 'a folder'", "tiny/<b>llama</b>, commit abc (llama, float32)", "1.5 s",
                 "fr.txt; SHA-256 0123456789ab; 5 texts", "torch 2.13.0", "2026-11-30T12:00:00+00:00",
                 str(tmp_path / "run")):  # fmt: skip
        assert fact in text


def test_no_text_becomes_markup_or_script(tmp_path, all_runs):
    """Languages are called <script> and <img ...>, and the model <b>...</b>."""
    parsed = Page(report(tmp_path, *all_runs))
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("script") == 1 + 4 and "img" not in tags and "b" not in tags
    assert HOSTILE in parsed.text and "tiny/<b>llama</b>" in parsed.text
    assert not re.search("[<>]", parsed.scripts[0])
    languages = {row[0] for figure in parsed.data for run in figure["runs"] for row in run["rows"]}
    assert set(LANGUAGES) <= languages
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]


def test_loads_nothing(tmp_path, all_runs):
    """No attribute and no style names another file, no address is outside of the libraries, and the policy forbids all
    requests and every script but the four of the page.
    """
    html = report(tmp_path, *all_runs)
    parsed = Page(html)
    loading = {"src", "srcset", "action", "data", "poster", "background"}
    assert not [attributes for _, attributes in parsed.tags if loading & attributes.keys()]
    assert all(attributes["href"].startswith("#") for tag, attributes in parsed.tags if "href" in attributes)
    assert "link" not in {tag for tag, _ in parsed.tags} and "@import" not in html and "sourceMappingURL" not in html
    _, *libraries, own = parsed.scripts
    rest = html
    for script in libraries:
        rest = rest.replace(script, "")
    assert "://" not in rest and "url(" not in rest
    assert set(re.findall(r"""https?://[^"' )`\s]*""", "".join(libraries))) == ADDRESSES_IN_LIBRARIES
    policy = next(attributes["content"] for _, attributes in parsed.tags if attributes.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data: blob:"
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in (*libraries, own)]
    assert rules["script-src"] == " ".join(f"'sha256-{value}'" for value in hashes)


def test_a_report_of_everything_is_small(tmp_path, all_runs):
    assert len(report(tmp_path, *all_runs).encode()) < 2_000_000


def test_figures_that_do_not_fit_are_named(tmp_path, monkeypatch):
    """With a smaller limit the largest figures are left out, and the page says where their rows are."""
    folder = write_run(tmp_path / "run", "detect")
    whole = report(tmp_path, folder)
    monkeypatch.setattr(page, "LARGEST", len(whole.encode()) - 1)
    html = report(tmp_path, folder)
    assert "rows are too many for a page of 5 MB" in html
    assert 0 < len(Page(html).data) < len(Page(whole).data)
    assert len(html.encode()) <= page.LARGEST


def test_a_large_run_stays_below_5_mb(tmp_path):
    """100 languages, of which every pair is in the table of the overlap."""
    folder = write_run(tmp_path / "run", "detect", languages=tuple(f"l{number:02}" for number in range(100)))
    assert len(report(tmp_path, folder).encode()) < 5_000_000


def test_writing_the_own_report_takes_less_than_half_a_second(tmp_path):
    """After the first one, which loads modules and libraries; the run has eight languages and all figures of detect."""
    folder = write_run(tmp_path / "run", "detect", languages=tuple("abcdefgh"))
    assert write_own_report(folder, folder)
    start = time.process_time()
    assert write_own_report(folder, folder)
    assert time.process_time() - start < 0.5


def test_the_results_stay_if_the_report_cannot_be_written(tmp_path, caplog):
    folder = write_run(tmp_path / "run", "detect")
    (folder / "report.csv").write_text("language\nfr\n")
    assert not write_own_report(folder, folder)
    assert "no report.html was written: CheckpointError" in caplog.text and not (folder / "report.html").exists()


def test_two_runs_stand_side_by_side(tmp_path):
    first, second = (write_run(tmp_path / f"run{seed}", "detect", seed=seed) for seed in (0, 1))
    parsed = Page(report(tmp_path, first, second))
    changes, selected, *_ = parsed.data
    assert [run["name"] for run in selected["runs"]] == ["run0", "run1"]
    before, after = random_sets(0), random_sets(1)
    expected = {
        "kept": sum(len(before[name] & after[name]) for name in LANGUAGES),
        "gained": sum(len(after[name] - before[name]) for name in LANGUAGES),
        "lost": sum(len(before[name] - after[name]) for name in LANGUAGES),
    }
    rows = changes["runs"][0]["rows"]
    assert {kind: sum(row[4] for row in rows if row[3] == kind) for kind in expected} == expected
    assert f"{expected['gained']} gained, {expected['lost']} lost" in changes["alternatives"]["run1"]
    tables = [{tuple(row[:3]): row[3:] for row in run["rows"]} for run in selected["runs"]]
    different = sum(tables[0][key] != tables[1][key] for key in tables[0])
    assert different and f"{different:,} rows of the table differ between the two runs." in parsed.text
    assert f"texts, {HOSTILE}" in parsed.text and "differs" in parsed.text


def test_a_language_of_one_run_is_gained_or_lost_as_a_whole(tmp_path):
    first = write_run(tmp_path / "one", "detect", languages=("fr", "de"))
    second = write_run(tmp_path / "two", "detect", languages=("fr", "ru"))
    rows = Page(report(tmp_path, first, second)).data[0]["runs"][0]["rows"]
    sets = random_sets(languages=("fr", "de")) | {"ru": random_sets(languages=("fr", "ru"))["ru"]}
    counts = {(language, change): 0 for language, *_, change, _ in rows}
    for language, *_, change, count in rows:
        counts[language, change] += count
    kinds = {"fr": "kept", "de": "lost", "ru": "gained"}
    assert counts == {(language, change): len(sets[language]) for language, change in kinds.items()}


def test_equal_runs_differ_in_nothing(tmp_path):
    first, second = (write_run(tmp_path / name, "ablate") for name in ("one", "two"))
    text = Page(report(tmp_path, first, second)).text
    assert "0 rows of the table differ between the two runs." in text and "differs" not in text


def test_sets_of_other_models_are_not_compared(tmp_path):
    first, second = (write_run(tmp_path / name, "detect") for name in ("one", "two"))
    for neurons in (second / "neurons").iterdir():
        random = random_sets()["fr"]
        type(random)({site: mask[:, :5] for site, mask in random.sites.items()}).save(neurons)
    html = report(tmp_path, first, second)
    assert "gained" not in html.partition('id="data"')[0]


def test_codes_that_look_like_numbers_or_missing_values_stay_texts(tmp_path):
    folder = write_run(tmp_path / "run", "ablate", languages=("nan", "NA", "01"))
    matrix = Page(report(tmp_path, folder)).data[0]
    assert {row[1] for row in matrix["runs"][0]["rows"]} == {"nan", "NA", "01"}
    assert {"nan", "NA", "01"} <= {row[0] for row in matrix["runs"][0]["rows"]}


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("run.json", None, "has no run.json"),
        ("run.json", "{", "is damaged"),
        ("log_change.csv", "", "is damaged"),
        ("log_change.csv", "a,b\n1,2\n", "has no column off"),
    ],
)
def test_names_what_is_missing_or_damaged(tmp_path, name, text, message):
    folder = write_run(tmp_path / "run", "ablate")
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        report(tmp_path, folder)


def test_importing_the_folders_loads_nothing_heavy():
    program = (
        "import sys, pymultiling.results.folders; print([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_ablation_matrix_has_the_values_of_the_files(tmp_path):
    """Also the mean, the smallest and the largest value of the random sets."""
    folder = write_run(tmp_path / "run", "ablate", languages=("fr", "de"))
    change, perplexity = (pandas.read_csv(folder / f"{name}.csv", index_col=0) for name in ("log_change", "perplexity"))
    rows = {tuple(row[:2]): row[2:] for row in Page(report(tmp_path, folder)).data[0]["runs"][0]["rows"]}
    assert len(rows) == 8
    for off, language in itertools.product(("fr", "de"), repeat=2):
        assert rows[off, language][:2] == pytest.approx([change.loc[off, language], perplexity.loc[off, language]])
        drawn = change.loc[[f"random {draw} as {off}" for draw in (1, 2)], language]
        value, _, least, most, owner = rows[f"random as {off}", language]
        assert [value, least, most] == pytest.approx([drawn.mean(), drawn.min(), drawn.max()]) and owner == off


def test_a_set_of_no_single_language_is_no_language(tmp_path):
    folder = write_run(tmp_path / "run", "ablate", languages=("fr", "de"))
    for name, values in (("log_change", "0.5,0.6"), ("perplexity", "9.0,8.0"), ("ablation", ",0.55,")):
        path = folder / f"{name}.csv"
        columns = path.read_text().splitlines()[0].count(",")
        path.write_text(f"{path.read_text()}all specific,{values}{',' * (columns - values.count(',') - 1)}\n")
    matrix, own = (figure["runs"][0]["rows"] for figure in Page(report(tmp_path, folder)).data[:2])
    assert [row[-1] for row in matrix if row[0] == "all specific"] == [None, None]
    assert {row[0] for row in own} == {"fr", "de"}


def test_many_languages_are_rows_and_few_are_curves(tmp_path):
    """Curves have at most as many colours and shapes as Vega-Lite has."""
    for number, mark in ((8, "line"), (9, "rect")):
        run = write_run(tmp_path / mark, "count", languages=tuple(f"l{i}" for i in range(number)))
        for figure in Page(report(tmp_path, run)).data:
            assert f'"type": "{mark}"' in json.dumps(figure["chart"])


@pytest.mark.parametrize("number, shown", [(8, 9), (12, 9)])
def test_the_lens_has_no_more_names_than_colours(tmp_path, number, shown):
    run = write_run(tmp_path / "run", "lens", languages=("fr",))
    table = pandas.DataFrame(
        [("fr", layer, f"l{i}", 0.5 / number) for layer in range(3) for i in range(number)]
        + [("fr", layer, "other", 0.5) for layer in range(3)],
        columns=["texts", "layer", "language", "share"],
    )
    table.to_csv(run / "lens.csv", index=False)
    (figure,) = Page(report(tmp_path, run)).data
    rows = figure["runs"][0]["rows"]
    assert len({row[2] for row in rows}) == shown
    assert sum(row[3] for row in rows if row[1] == 0) == pytest.approx(1)
