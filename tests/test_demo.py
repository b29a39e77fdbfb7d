"""The demo's claim, on the packaged model: a language's own neurons are what that language needs."""

import pandas

from pymultiling import demo


def test_own_neurons_matter_to_their_language_alone(tmp_path):
    """The effect that the README shows, on fewer held-out documents."""
    demo.run(tmp_path / "out", heldout=6)
    effect = pandas.read_csv(tmp_path / "out" / "ablation.csv", index_col="language").drop(index="mean")
    assert len(effect) == 8
    assert (effect["own"] >= 0.1).all(), effect
    assert (effect["own"] >= 5 * effect["others"]).all(), effect
    assert (effect["own"] >= 5 * effect["random"]).all(), effect
