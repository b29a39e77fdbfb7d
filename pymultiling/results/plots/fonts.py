"""Fonts for names of languages in any script."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

BOXES = "Last Resort"  # matplotlib's font that has a box for every character

_logger = logging.getLogger(__name__)


def add_fonts(figure: Figure) -> None:
    """Gives the texts of a figure further fonts of the system, for characters that matplotlib's own font lacks.

    Characters that no font has are drawn as boxes, and named in a warning.
    """
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and not text.get_text().isascii()]
    wanted = {ord(character) for text in texts for character in text.get_text() if not character.isspace()}
    missing = wanted - _characters(font_manager.findfont(font_manager.FontProperties()))
    families: list[str] = []
    for entry in _entries() if missing else ():
        if found := missing & _characters(entry.fname):
            families.append(entry.name)
            missing -= found
        if not missing:
            break
    if missing:
        _logger.warning(
            "no font of this system has %s, so that the plot shows boxes: install fonts, such as the packages "
            "fonts-noto-core and fonts-noto-cjk of Debian and Ubuntu",
            " ".join(map(chr, sorted(missing)[:20])),
        )
    for text in texts if families else ():
        text.set_fontfamily([*text.get_fontfamily(), *families])


def _entries() -> Iterator[FontEntry]:
    """Yields the upright fonts of the system: Noto Sans, of which a script has one, then the others."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:  # installed since matplotlib made its list
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError, ValueError):
                continue
    upright = [
        entry
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and entry.weight == 400 and not entry.name.startswith(BOXES)
    ]
    yield from sorted(upright, key=lambda entry: (not entry.name.startswith("Noto Sans"), entry.name, entry.fname))


def _characters(path: str | Path) -> set[int]:
    """Returns the code points that a font file has; none if it cannot be read."""
    try:
        return set(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return set()
