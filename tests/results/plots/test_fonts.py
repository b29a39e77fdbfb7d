import logging

import pandas
import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from pymultiling.results import plots
from pymultiling.results.plots import fonts


def characters(family: str) -> set[int]:
    return set(FT2Font(font_manager.findfont(font_manager.FontProperties(family=family))).get_charmap())


def figure_of(name: str):
    return plots.ablation(pandas.DataFrame({name: [1.0]}, index=[name]))


def test_a_name_in_another_script_gets_a_font_that_has_it(tmp_path):
    """The character is one of STIX, which matplotlib contains, and is not in DejaVu Sans, its own font."""
    character = chr(max(code for code in characters("STIXGeneral") - characters("DejaVu Sans") if code < 0xD800))
    figure = figure_of(character)
    plots.save(figure, tmp_path / "a.png")
    named = [text for text in figure.findobj(Text) if text.get_text() == character]
    assert len(named) >= 2  # of the row and the column
    for text in named:
        families = text.get_fontfamily()
        assert any(ord(character) in characters(family) for family in families[1:])
    others = {text.get_fontfamily()[0] for text in figure.findobj(Text) if text.get_text().isascii()}
    assert others == {named[0].get_fontfamily()[0]}


def test_characters_that_no_font_has_are_named_with_the_packages_to_install(tmp_path, caplog, monkeypatch, recwarn):
    monkeypatch.setattr(fonts, "_entries", lambda: iter(()))
    with caplog.at_level(logging.WARNING):
        plots.save(figure_of("ไทย"), tmp_path / "a.png")
    assert "fonts-noto-core" in caplog.text and all(character in caplog.text for character in "ไทย")
    assert not any("Glyph" in str(warning.message) for warning in recwarn)
    assert (tmp_path / "a.png").exists()


def test_names_that_the_font_has_search_no_other_font(tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "_entries", lambda: pytest.fail("fonts were searched"))
    plots.save(figure_of("Français, русский, العربية"), tmp_path / "a.png")
