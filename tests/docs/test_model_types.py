"""docs/model_types.md is what docs/make_model_types.py writes, and names no family that is not tested."""

import re
import runpy
from pathlib import Path

import pytest
import transformers

from pymultiling.models.families import FAMILIES
from tests.models.test_multimodal_models import MODELS, multimodal_model

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "model_types.md").read_text("utf-8")
VERSION = re.search(r"transformers (\d+\.\d+\.\d+)", PAGE)[1]


@pytest.fixture(scope="module")
def script() -> dict:
    if transformers.__version__ != VERSION:
        pytest.skip(f"the page is of transformers {VERSION}, and {transformers.__version__} has other types")
    return runpy.run_path(str(DOCS / "make_model_types.py"))


def test_the_page_is_what_the_script_writes(script):
    assert script["page"]() == PAGE, "run python docs/make_model_types.py"


def test_a_type_without_a_reason_is_an_error(script, monkeypatch):
    others = {name: family for name, family in FAMILIES.items() if name != "llama"}
    monkeypatch.setitem(script["page"].__globals__, "FAMILIES", others)
    with pytest.raises(ValueError, match=r"lacks the reasons of \['llama'\]"):
        script["page"]()


def test_multimodal_models_of_the_page_are_those_that_are_tested():
    """Compared with the models whose importance tests/models/test_multimodal_models.py measures."""
    decoders: dict[str, list[str]] = {}
    for name in MODELS:
        config = multimodal_model(name).config
        decoders.setdefault(config.model_type, []).append(f"`{config.get_text_config().model_type}`")
    tested = {kind: " or ".join(names) for kind, names in decoders.items()}
    listed = dict(re.findall(r"^\| (\w+) \| .* of its text decoder (.*) \|$", PAGE, re.MULTILINE))
    assert listed == tested
