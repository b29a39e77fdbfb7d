"""The other ways to get importance and counts, in the demo model: their numbers are pymultiling's."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig

from benchmarks.whole_model.peers import __main__ as peers
from benchmarks.whole_model.peers.formulas import Formulas
from pymultiling import demo_model

DEMO = Path(demo_model.__file__).parent / "model"
PACKAGES = ("transformer_lens", "nnsight")


def measure(monkeypatch) -> dict[tuple[str, str], dict]:
    """{(by, computed): row}. Nothing is compiled, which takes seconds."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    rows = peers.measure(DEMO, "float32", length=12, rounds=1)
    return {(row["by"], row["computed"]): row for row in rows}


def check(row: dict) -> None:
    """All numbers are those of pymultiling: the number of counts that differ is 0, and others agree to rounding."""
    number = float(row["differs"].split(" of ")[0])
    assert number == 0 if "counts" in row["computed"] else number < 1e-5
    assert row["median ms"] > 0 and row["times forward"] > 0


def test_rows_say_which_package_is_not_installed_and_the_others_agree(monkeypatch):
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    rows = measure(monkeypatch)
    for package in PACKAGES:
        row = rows.pop((package, peers.FORWARD))
        assert row["differs"].startswith("not installed") and "median ms" not in row
    compared = [row for row in rows.values() if "differs" in row]
    of_plain = {(peers.PLAIN, computed) for computed in (peers.COUNTS, peers.FFN_V_O, peers.ONE_OFF)}
    assert {(row["by"], row["computed"]) for row in compared} == {*of_plain, (peers.PUBLISHED, peers.QUERIES)}
    for row in compared:
        check(row)
    assert {"ffn, v, o, in a pass", "all sites", "all sites, fast q and k"} <= {computed for _, computed in rows}


def test_installed_packages_agree(monkeypatch):
    for package in PACKAGES:
        pytest.importorskip(package)
    rows = measure(monkeypatch)
    compared = [row for (by, _), row in rows.items() if by.startswith(PACKAGES) and "differs" in row]
    assert len(compared) == 3 * len(PACKAGES)
    for row in compared:
        check(row)


def test_differences_are_found():
    """A count that differs, and a value that differs by half of the largest."""
    assert peers.difference({"x": torch.tensor([1, 2])}, {"x": torch.tensor([1, 3])}) == "1 of 2"
    assert peers.difference({"x": torch.tensor([1.0, 2])}, {"x": torch.tensor([2.0, 2])}) == "5.0e-01"


def test_models_with_norms_behind_their_sublayers_are_refused():
    config = Gemma3TextConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, head_dim=8
    )
    with pytest.raises(ValueError, match="norms behind its sublayers"):
        Formulas(AutoModelForCausalLM.from_config(config))
