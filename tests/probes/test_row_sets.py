"""pml.deactivate with a set for each row: one forward gives what a forward under each set gives."""

import pytest
import torch

import pymultiling as pml
from tests.probes.test_masking import TOLERANCE, decoded, difference, footprint, logits
from tests.support.tiny_models import (
    ENCODERS,
    REPRESENTATIVE_MODELS,
    random_neurons,
    tiny_batch,
    tiny_model,
    with_zeroed_neurons,
)

BEAMS = dict(num_beams=3, max_new_tokens=5, do_sample=False)


def sets_of(model, sites=pml.SITES) -> list:
    """Returns a set, None, and two more sets. The tests assign them to rows in the order of ROWS."""
    return [
        random_neurons(model, seed=1, sites=sites),
        None,
        *(random_neurons(model, seed=s, sites=sites) for s in (2, 3)),
    ]


ROWS = [2, 0, 1, 3, 0]  # index of each row's set in `sets_of`


def without(model, neurons):
    """Returns the model, or a copy in which the neurons are zero."""
    return model if neurons is None else with_zeroed_neurons(model, neurons)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("site", pml.SITES)
@pytest.mark.parametrize("name", [*REPRESENTATIVE_MODELS, *ENCODERS])
def test_every_row_is_under_its_own_set(name, site, dtype):
    model, batch = tiny_model(name, dtype), tiny_batch((9,) * len(ROWS))
    sets = sets_of(model, [site])
    plain = model(**batch).logits
    with pml.deactivate(model, sets, rows=ROWS):
        result = model(**batch).logits
    for row, place in enumerate(ROWS):
        batch_of_row = {key: value[row : row + 1] for key, value in batch.items()}
        truth = without(model, sets[place])(**batch_of_row).logits[0]
        assert difference(result[row], truth) < TOLERANCE[dtype], row
        assert place == 1 or difference(plain[row], truth) > 1e-3
        if sets[place] is not None:
            with pml.deactivate(model, sets[place]):
                assert difference(result[row], model(**batch_of_row).logits[0]) < TOLERANCE[dtype]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_rows_of_different_lengths_are_under_their_own_sets(name, padding):
    model, batch = tiny_model(name), tiny_batch((9, 4, 7, 11, 2), padding=padding)
    sets = sets_of(model)
    with pml.deactivate(model, sets, rows=torch.tensor(ROWS)):
        result = model(**batch).logits
    for row, place in enumerate(ROWS):
        truth = without(model, sets[place])(**batch).logits[row]
        valid = batch["attention_mask"][row].bool()
        assert difference(result[row][valid], truth[valid]) < (1e-3 if name == "qwen2" else TOLERANCE[torch.float32])


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_rows_are_decoded_with_a_cache_under_their_own_sets(name):
    model, tokens = tiny_model(name, torch.float64), tiny_batch((9,) * len(ROWS))["input_ids"]
    sets = sets_of(model)
    with pml.deactivate(model, sets, rows=ROWS):
        result = decoded(model, tokens)
    for row, place in enumerate(ROWS):
        truth = decoded(without(model, sets[place]), tokens[row : row + 1])[0]
        assert difference(result[row], truth) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("arguments", [dict(max_new_tokens=5, do_sample=False), BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_rows_are_generated_under_their_own_sets(name, arguments):
    model, prompts = tiny_model(name), tiny_batch((5, 3, 5, 4, 5), padding="left")
    sets = sets_of(model)
    with pml.deactivate(model, sets, rows=ROWS):
        result = model.generate(**prompts, **arguments)
    plain = model.generate(**prompts, **arguments)
    for row, place in enumerate(ROWS):
        truth = without(model, sets[place]).generate(**prompts, **arguments)
        assert torch.equal(result[row], truth[row]), row
    assert not torch.equal(result, plain)


def test_all_beams_of_a_prompt_are_under_its_set():
    model, prompts = tiny_model("llama"), tiny_batch((5, 5), padding="left")
    sets, arguments = sets_of(model), dict(BEAMS, num_return_sequences=3)
    with pml.deactivate(model, sets, rows=[3, 1]):
        result = model.generate(**prompts, **arguments).view(2, 3, -1)
    for row, place in enumerate([3, 1]):
        truth = without(model, sets[place]).generate(**prompts, **arguments).view(2, 3, -1)[row]
        assert torch.equal(result[row], truth)


def test_all_samples_of_a_prompt_are_under_its_set():
    model, prompt = tiny_model("qwen3"), tiny_batch((6,))
    sets = sets_of(model)
    sampled = dict(max_new_tokens=4, do_sample=True, num_return_sequences=4, top_k=0)
    with pml.deactivate(model, sets[3:]):
        torch.manual_seed(0)
        result = model.generate(**prompt, **sampled)
    torch.manual_seed(0)
    assert torch.equal(result, with_zeroed_neurons(model, sets[3]).generate(**prompt, **sampled))


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_without_rows_each_row_has_its_own_set(name):
    model, batch = tiny_model(name), tiny_batch((9, 9, 9, 9))
    sets = sets_of(model)
    with pml.deactivate(model, sets, rows=[0, 1, 2, 3]):
        truth = model(**batch).logits
    with pml.deactivate(model, sets):
        assert torch.equal(model(**batch).logits, truth)
    row = {key: value[:1] for key, value in batch.items()}
    with pml.deactivate(model, sets[:1]):
        assert difference(model(**row).logits, truth[:1]) < TOLERANCE[torch.float32]


def test_nested_sets_are_a_union():
    model, batch = tiny_model("gemma2"), tiny_batch((9, 9))
    a, b, c = (random_neurons(model, seed=seed) for seed in (1, 2, 3))
    with pml.deactivate(model, [a | c, b | c]):
        union = logits(model, batch)
    with pml.deactivate(model, [a, b]), pml.deactivate(model, c):
        assert torch.equal(logits(model, batch), union)
        assert model.generate(**batch, max_new_tokens=2).shape == (2, 11)
    with pml.deactivate(model, c), pml.deactivate(model, [a, b]):
        assert torch.equal(logits(model, batch), union)


def test_the_model_is_the_same_after_an_exception():
    model, batch = tiny_model("phi3"), tiny_batch((9, 9))
    before, attributes, plain = footprint(model), vars(model).copy(), logits(model, batch)
    with pytest.raises(KeyboardInterrupt), pml.deactivate(model, [None, random_neurons(model)]):
        raise KeyboardInterrupt
    with pytest.raises(IndexError), pml.deactivate(model, [None, random_neurons(model)]):
        model.generate(torch.full((2, 1), 10_000))
    assert footprint(model) == before and vars(model).keys() == attributes.keys()
    assert torch.equal(logits(model, batch), plain)


def test_neurons_of_a_model_without_a_head_are_deactivated():
    model, batch = tiny_model("llama"), tiny_batch((9, 9))
    a, b = random_neurons(model, seed=1), random_neurons(model, seed=2)
    with pml.deactivate(model, [a, b]):
        truth = model.model(**batch).last_hidden_state
    with pml.deactivate(model.model, [a, b]):
        assert torch.equal(model.model(**batch).last_hidden_state, truth)


def test_rows_that_name_no_set_are_refused():
    model = tiny_model("llama")
    for rows, message in {
        (0, 4): "rows name set 4, the 4 sets are 0 to 3",
        (-1, 0): "rows name set -1",
        (0.5, 1): "whole numbers",
    }.items():
        with pytest.raises(ValueError, match=message), pml.deactivate(model, sets_of(model), rows=rows):
            pytest.fail("the block was entered")
    with pytest.raises(ValueError, match="give a list"), pml.deactivate(model, random_neurons(model), rows=[0]):
        pytest.fail("the block was entered")


@pytest.mark.parametrize("name", ["llama", "opt"])  # the FFNs of OPT get the tokens of all rows in one dimension
def test_batches_of_the_wrong_size_are_refused(name):
    model = tiny_model(name)
    with pml.deactivate(model, sets_of(model, ["ffn"]), rows=[0, 1]):
        for batch in (1, 3, 4):
            message = f"each of 2 rows, the batch has {batch}"
            with pytest.raises(ValueError, match=message):
                model(**tiny_batch((5,) * batch))
            with pytest.raises(ValueError, match=message):
                model.generate(**tiny_batch((5,) * batch), max_new_tokens=2)
        assert model(**tiny_batch((5, 5))).logits.shape[0] == 2


def test_messages_name_the_set_that_does_not_fit_and_the_empty_one():
    model = tiny_model("llama")
    a, misfit = random_neurons(model), random_neurons(tiny_model("llama", intermediate_size=41))
    with pytest.raises(ValueError, match="set 1 is of another model"), pml.deactivate(model, [a, misfit]):
        pytest.fail("the block was entered")
    with pytest.warns(UserWarning, match="set 2 has no neurons"), pml.deactivate(model, [None, a, a - a]):
        pass
    with pytest.warns(UserWarning, match="the set has no neurons"), pml.deactivate(model, a - a):
        pass
