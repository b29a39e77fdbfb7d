"""Tables as text: Markdown, changes that round to zero, and effects of sets and of random ones."""

import numpy
import pandas

from pymultiling.results.tables import (
    change_table,
    compare_own_effects,
    log_change,
    markdown_table,
    own_effects_table,
    perplexity_table,
)


def test_markdown_tables_escape_bars():
    assert markdown_table(["a", "b"], [["x|y", 1], ["", "1,234"]]) == (
        "| a | b |\n| --- | --- |\n| x\\|y | 1 |\n|  | 1,234 |"
    )
    assert markdown_table(["a"], []) == "| a |\n| --- |"


def test_changes_that_round_to_zero_have_no_minus_sign():
    table = pandas.DataFrame({"own": [0.5], "others": [-0.0004], "own/others": [float("nan")]}, index=["fr"])
    assert own_effects_table(table).splitlines()[1].split() == ["fr", "+0.500", "+0.000", "-"]


# Changes of log-perplexity, with two random sets for each of fr and de.
CHANGES = pandas.DataFrame(
    {"fr": [0.5, 0.1, 0.3, 0.0, 0.2, 0.1, 0.1], "de": [0.0, 0.4, 0.1, 0.1, 0.1, -0.3, 0.1]},
    index=["fr", "de", "all", "random 1 as fr", "random 2 as fr", "random 1 as de", "random 2 as de"],
)


def test_own_effects_have_the_mean_and_the_range_of_the_random_sets():
    table = compare_own_effects(CHANGES)
    assert list(table.index) == ["fr", "de", "all", "mean"]
    rows = table.round(6).astype(object).where(table.notna(), None).to_dict("index")
    assert rows["fr"] == {
        "own": 0.5, "others": 0.0, "random": 0.1, "random_least": 0.0, "random_most": 0.2, "own/others": None,
        "own/random": 5.0,
    }  # fmt: skip
    assert rows["de"]["random"] == -0.1 and rows["de"]["own/others"] == 4.0 and rows["de"]["own/random"] is None
    assert rows["all"]["own"] is None and rows["all"]["others"] == 0.2 and rows["all"]["random"] is None
    assert rows["mean"]["own"] == 0.45 and rows["mean"]["random"] == 0.0 and rows["mean"]["random_most"] is None
    lines = [line.split() for line in own_effects_table(table).splitlines()]
    assert lines[0] == ["own", "others", "random", "least", "to", "most", "own/others", "own/random"]
    assert lines[1] == ["fr", "+0.500", "+0.000", "+0.100", "+0.000", "to", "+0.200", "-", "5.0x"]
    assert lines[3] == ["all", "-", "+0.200", "-", "-", "-", "-"]


def test_own_effects_without_random_sets():
    assert list(compare_own_effects(CHANGES.iloc[:2]).columns) == ["own", "others", "own/others"]


def test_printed_tables_have_the_mean_over_the_random_sets():
    perplexities = 30 * numpy.exp(pandas.concat([pandas.DataFrame({"fr": 0.0, "de": 0.0}, index=["none"]), CHANGES]))
    assert change_table(log_change(perplexities)).splitlines()[4:] == [
        "random as fr +0.100 +0.100",
        "random as de +0.100 -0.100",
    ]
    rows = [line.split() for line in perplexity_table(perplexities).splitlines()]
    assert rows[1] == ["none", "30.00", "30.00"] and rows[5] == ["random", "as", "fr", "33.16", "33.16"]
