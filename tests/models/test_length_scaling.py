"""Rotations that depend on the longest document of a batch: each document is measured as if it were alone."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import pymultiling as pml
from pymultiling import tasks
from pymultiling.data.batches import make_batches
from pymultiling.models.length_scaling import length_group, own_frequencies
from pymultiling.tasks.generation import generate
from pymultiling.tasks.likelihood import log_likelihoods
from tests.support.brute_force import brute_force
from tests.support.comparison import TOLERANCE, importance_in_float64, largest_error
from tests.support.tiny_models import VOCABULARY_SIZE, tiny_batch, tiny_model
from tests.support.tiny_text import tiny_tokenizer

LIMIT = 8
MODELS = {
    "dynamic": (
        "llama",
        dict(max_position_embeddings=LIMIT, rope_parameters=dict(rope_type="dynamic", rope_theta=1e2, factor=4.0)),
    ),
    "longrope": (
        "phi3",
        dict(
            sliding_window=None,
            original_max_position_embeddings=LIMIT,
            rope_parameters=dict(
                rope_type="longrope",
                rope_theta=1e2,
                short_factor=[1.0] * 4,
                long_factor=[1.0, 2.0, 5.0, 9.0],
                original_max_position_embeddings=LIMIT,
            ),
        ),
    ),
}
MODELS["longrope-phi4"] = ("phi4_multimodal", MODELS["longrope"][1])
LENGTHS = (20, 5, 13, LIMIT, LIMIT + 1, 20)


def make_model(kind: str):
    name, changes = MODELS[kind]
    return tiny_model(name, torch.float64, **changes)


def frequencies(model) -> tuple[torch.Tensor, object]:
    (rotation,) = {module for module in model.modules() if hasattr(module, "inv_freq")}
    return rotation.inv_freq.clone(), getattr(rotation, "max_seq_len_cached", None)


def documents() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, VOCABULARY_SIZE, (length,), generator=generator).tolist() for length in LENGTHS]


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("kind", MODELS)
def test_importance_of_a_document_is_that_without_its_neighbours(kind, padding):
    model, batch = make_model(kind), tiny_batch(LENGTHS, padding)
    together = pml.importance(model, **batch)
    for row, mask in enumerate(batch["attention_mask"].bool()):
        fresh = make_model(kind)
        alone = pml.importance(fresh, batch["input_ids"][row, mask][None])
        for site, values in together.items():
            torch.testing.assert_close(values[row], alone[site][0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("length", [LIMIT - 3, LIMIT, LIMIT + 1, 20])
@pytest.mark.parametrize("kind", MODELS)
def test_importance_of_a_document_is_brute_force(kind, length):
    """Below the limit, at it and above."""
    batch = tiny_batch((length,))
    truth, result = brute_force(make_model(kind), **batch), importance_in_float64(make_model(kind), **batch)
    assert max(largest_error(result[site], truth[site]) for site in truth) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("kind", MODELS)
def test_a_long_batch_changes_neither_later_ones_nor_the_model(kind):
    model, batch = make_model(kind), tiny_batch((10,))
    expected = pml.importance(model, **batch)
    before = frequencies(model)
    pml.importance(model, **tiny_batch((30,)))
    after = frequencies(model)
    assert torch.equal(before[0], after[0]) and before[1] == after[1]
    with torch.no_grad():
        model(**tiny_batch((30,)))  # a forward of the user's own leaves the frequencies of 30 tokens
    kept = frequencies(model)
    for site, values in pml.importance(model, **batch).items():
        assert torch.equal(values, expected[site])
    assert torch.equal(kept[0], frequencies(model)[0]) and kept[1] == frequencies(model)[1]


@pytest.mark.parametrize("kind", MODELS)
def test_likelihoods_are_those_of_single_documents(kind):
    values = log_likelihoods(make_model(kind), documents(), [None], batch_tokens=4096)[:, 0]
    for value, document in zip(values.tolist(), documents()):
        with torch.no_grad():
            logs = make_model(kind)(torch.tensor([document])).logits[0].log_softmax(-1)
        expected = sum(logs[place - 1, document[place]].item() for place in range(1, len(document)))
        assert value == pytest.approx(expected, rel=1e-9)


def test_answers_are_those_of_single_prompts():
    """Longrope: prompts that stay short, that cross the limit, and that are long."""
    task = tasks.Task("t", {}, "f1", (), 4)
    prompts = [document[:length] for document, length in zip(documents(), (4, 3, 6, 7, 9, 20))]
    together = generate(make_model("longrope"), tiny_tokenizer(), prompts, [None], task)
    for prompt, (answer,) in zip(prompts, together):
        ((alone,),) = generate(make_model("longrope"), tiny_tokenizer(), [prompt], [None], task)
        assert answer == alone


def test_statistics_of_a_corpus_do_not_depend_on_its_batches():
    model, tokenizer = make_model("longrope"), tiny_tokenizer()
    texts = {"fr": [" ".join(f"w{token}" for token in document) for document in documents()]}
    one, many = (
        pml.activations(model, tokenizer, texts, batch_tokens=tokens, workers=0, progress=False)["fr"]
        for tokens in (1, 4096)
    )
    assert torch.equal(one.active, many.active) and one.tokens == many.tokens


def test_batches_hold_documents_of_one_group():
    for kind, expected in (
        ("dynamic", [[20, 20], [13], [9], [8, 5]]),
        ("longrope", [[20, 20, 13, 9], [8, 5]]),
    ):
        batches = make_batches(documents(), 4096, group=length_group(make_model(kind)))
        assert [batch.attention_mask.sum(1).tolist() for batch in batches] == expected
        group = length_group(make_model(kind))
        assert len({group(length, 4) for length in (5, 6, 7, 8)}) == 4  # they cross the limit at different tokens
        assert len({group(length, 4) for length in (1, 2, 3, 4)}) == 1
    assert length_group(tiny_model("llama"))(5, 0) == length_group(tiny_model("llama"))(500, 0)


@pytest.mark.parametrize("kind", MODELS)
def test_threads_with_documents_of_other_lengths_do_not_share_frequencies(kind, frequent_switches):
    """One thread runs the model as it is, whose frequencies stay those of its own documents."""
    model, lengths = make_model(kind), (30, 5, 13)
    batches = [tiny_batch((length,)) for length in lengths]
    expected = [pml.importance(make_model(kind), **batch) for batch in batches]
    with torch.no_grad():
        logits = model(**batches[0]).logits
    before = frequencies(model)

    def measure(number):
        return [pml.importance(model, **batches[number]) for _ in range(10)]

    def run(_):
        with torch.no_grad():
            return [model(**batches[0]).logits for _ in range(30)]

    with ThreadPoolExecutor(4) as pool:
        plain = pool.submit(run, 0)
        results = list(pool.map(measure, range(len(batches))))
    for all_values, right in zip(results, expected):
        assert all(torch.equal(values[site], right[site]) for values in all_values for site in right)
    assert all(torch.equal(each, logits) for each in plain.result())
    after = frequencies(model)
    assert torch.equal(before[0], after[0]) and before[1] == after[1]


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
def test_blocks_that_end_in_another_order_leave_the_frequencies_as_they_were(kind):
    model = make_model(kind)
    before = frequencies(model)
    first, second = own_frequencies(model), own_frequencies(model)
    first.__enter__()
    model(**tiny_batch((30,)))
    second.__enter__()
    first.__exit__(None, None, None)
    model(**tiny_batch((20,)))
    second.__exit__(None, None, None)
    after = frequencies(model)
    assert torch.equal(before[0], after[0]) and before[1] == after[1]


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
def test_what_a_forward_in_another_thread_leaves_stays(kind):
    model, other = make_model(kind), make_model(kind)
    other(**tiny_batch((30,)))
    with own_frequencies(model), ThreadPoolExecutor(1) as pool:
        pool.submit(torch.no_grad()(model), **tiny_batch((30,))).result()
        model(**tiny_batch((5,)))
    assert torch.equal(frequencies(model)[0], frequencies(other)[0])
    assert frequencies(model)[1] == frequencies(other)[1]


@pytest.fixture
def frequent_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_a_rotation_with_a_forward_of_the_users_is_as_it_was():
    model, batch = make_model("dynamic"), tiny_batch((30,))
    expected = pml.importance(model, **batch)
    rotary = model.model.rotary_emb
    forward = rotary.forward
    rotary.forward = lambda *args, **kwargs: forward(*args, **kwargs)
    before = frequencies(model)
    values = pml.importance(model, **batch)
    assert all(torch.equal(values[site], expected[site]) for site in expected)
    assert torch.equal(before[0], frequencies(model)[0]) and before[1] == frequencies(model)[1]


def test_other_models_are_not_touched():
    model = tiny_model("gemma3_text")
    with own_frequencies(model):
        assert not any("forward" in vars(module) for module in model.modules())
