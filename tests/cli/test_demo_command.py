"""The demo's claim, on the packaged model: a language's own neurons are what that language needs."""

import pandas

from pymultiling import demo
from pymultiling.cli import main


def test_own_neurons_matter_to_their_language_alone(tmp_path):
    """The effect that the README shows, on fewer held-out documents."""
    demo.run(tmp_path / "out", heldout=6)
    effect = pandas.read_csv(tmp_path / "out" / "ablation.csv", index_col="language").drop(index="mean")
    assert len(effect) == 8
    assert (effect["own"] >= 0.1).all(), effect
    assert (effect["own"] >= 5 * effect["others"]).all(), effect
    assert (effect["own"] >= 5 * effect["random"]).all(), effect


def test_what_parts_of_the_packaged_model_are_for(tmp_path):
    """Own neurons of the first and last layers matter to their languages, random ones and those of English's text do not."""
    assert main(["mwork", "--demo", "--out", str(tmp_path / "out"), "--limit", "6", "--seeds", "2"]) == 0
    table = pandas.read_csv(tmp_path / "out" / "mwork.csv")
    own, drawn = table[table["neurons"] == "own"], table[table["neurons"].str.startswith("random")]
    everywhere = own[~own[["understanding", "attention", "ffn", "generation"]].any(axis=1)].iloc[0]
    assert everywhere["delta"] > 0.2 and everywhere["d_others"] < -0.2
    assert (drawn["delta"].abs() < everywhere["delta"] / 4).all(), table
    assert {"search.csv", "mwork.png", "run.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
