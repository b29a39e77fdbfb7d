"""Tables as text: Markdown, and changes that round to zero."""

import pandas

from pymultiling.results.tables import markdown_table, own_effects_table


def test_markdown_tables_escape_bars():
    assert markdown_table(["a", "b"], [["x|y", 1], ["", "1,234"]]) == (
        "| a | b |\n| --- | --- |\n| x\\|y | 1 |\n|  | 1,234 |"
    )
    assert markdown_table(["a"], []) == "| a |\n| --- |"


def test_changes_that_round_to_zero_have_no_minus_sign():
    table = pandas.DataFrame({"own": [0.5], "others": [-0.0004], "own/others": [float("nan")]}, index=["fr"])
    assert own_effects_table(table).splitlines()[1].split() == ["fr", "+0.500", "+0.000", "-"]
