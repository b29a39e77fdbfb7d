"""Tables as text."""

from pymultiling.results.tables import markdown_table


def test_markdown_tables_escape_bars():
    assert markdown_table(["a", "b"], [["x|y", 1], ["", "1,234"]]) == (
        "| a | b |\n| --- | --- |\n| x\\|y | 1 |\n|  | 1,234 |"
    )
    assert markdown_table(["a"], []) == "| a |\n| --- |"
