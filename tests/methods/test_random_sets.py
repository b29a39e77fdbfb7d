import pytest
import torch

from pymultiling import NeuronSet
from pymultiling.methods.random_sets import add_random_sets, draws_by_set

SETS = {
    "fr": NeuronSet({"ffn": torch.rand(2, 50, generator=torch.Generator().manual_seed(0)) < 0.3}),
    "de": NeuronSet({"ffn": torch.rand(2, 50, generator=torch.Generator().manual_seed(1)) < 0.1}),
}


def test_every_draw_has_a_seed_of_its_own_and_the_size_of_its_set():
    result = add_random_sets(SETS, 3, seed=7)
    drawn = [f"random {draw} as {name}" for name in SETS for draw in (1, 2, 3)]
    assert list(result) == ["fr", "de", *drawn]
    assert len({tuple(result[name].sites["ffn"].flatten().tolist()) for name in result}) == 8
    for name in drawn:
        assert result[name].count("layer") == SETS[name.split()[-1]].count("layer")
    seeds = {"random 1 as fr": 7, "random 1 as de": 8, "random 2 as fr": 9, "random 3 as de": 12}
    for name, seed in seeds.items():
        assert result[name] == SETS[name.split()[-1]].random_like(seed)


def test_no_draws_leave_the_sets_as_they_are():
    assert add_random_sets(SETS, 0, seed=7) == SETS


def test_a_negative_number_and_a_name_that_is_taken_are_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        add_random_sets(SETS, -1, seed=0)
    with pytest.raises(ValueError, match="'random 1 as fr' is the name of a random set"):
        add_random_sets({**SETS, "random 1 as fr": SETS["de"]}, 1, seed=0)


def test_draws_are_found_by_their_names():
    names = ["none", *add_random_sets(SETS, 2, seed=0), "random 1 as it", "random x as fr"]
    assert draws_by_set(names) == {name: [f"random {draw} as {name}" for draw in (1, 2)] for name in SETS}
