"""log_likelihoods against one document at a time, with padding, starts and sets, for every family."""

import pytest
import torch

from pymultiling.models import head
from pymultiling.tasks.likelihood import log_likelihoods
from tests.support.tiny_models import (
    REPRESENTATIVE_MODELS,
    VOCABULARY_SIZE,
    random_neurons,
    tiny_model,
    with_zeroed_neurons,
)

CAPPED = dict(final_logit_softcapping=0.7)
LENGTHS, STARTS = (9, 4, 11, 2, 7), (5, 3, 10, 1, 5)


@torch.no_grad()
def document_log_likelihood(model, document: list[int], start: int) -> float:
    logs = model(torch.tensor([document])).logits[0].log_softmax(-1)
    return sum(logs[place - 1, document[place]].item() for place in range(start, len(document)))


@pytest.mark.parametrize("batch_tokens", [1, 24, 4096])
@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_every_document_is_measured_under_every_set(name, batch_tokens):
    # transformers' eager attention, which these families need, gives NaN for rows of padding in float64.
    dtype, tolerance = (torch.float32, 1e-5) if name in ("gemma2", "bloom") else (torch.float64, 1e-9)
    model, generator = tiny_model(name, dtype), torch.Generator().manual_seed(0)
    documents = [torch.randint(3, VOCABULARY_SIZE, (length,), generator=generator).tolist() for length in LENGTHS]
    sets = [None, random_neurons(model, seed=1), random_neurons(model, seed=2)]
    models = [model, *(with_zeroed_neurons(model, neurons) for neurons in sets[1:])]
    for starts in (None, STARTS):
        values = log_likelihoods(model, documents, sets, starts=starts, batch_tokens=batch_tokens)
        for row, document in enumerate(documents):
            for column, changed_model in enumerate(models):
                expected = document_log_likelihood(changed_model, document, 1 if starts is None else starts[row])
                assert values[row, column].item() == pytest.approx(expected, rel=tolerance), (row, column)


# Families whose logits are capped or scaled, or whose layers are not the base model (OPT).
@pytest.mark.parametrize("name", ["gemma2", "cohere", "granite", "opt-post-norm", "falcon", "gpt2"])
@pytest.mark.parametrize("positions", [1, 5, 10**6])
def test_logits_in_parts_give_the_same_likelihoods(name, positions, monkeypatch):
    """No forward of the head has more positions than a part, and padding has no logits at all."""
    scales = {"cohere": dict(logit_scale=0.3), "granite": dict(logits_scaling=3.0), "gemma2": CAPPED}
    model, generator = tiny_model(name, **scales.get(name, {})), torch.Generator().manual_seed(0)
    documents = [torch.randint(3, VOCABULARY_SIZE, (length,), generator=generator).tolist() for length in LENGTHS]
    monkeypatch.setattr(head, "PART_BYTES", positions * VOCABULARY_SIZE * (4 + head.FLOAT32_BYTES))
    sizes = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, args, output: sizes.append(args[0].shape[:-1]))
    values = log_likelihoods(model, documents, [None], starts=STARTS, batch_tokens=4096)
    hook.remove()
    counted = sum(LENGTHS) - sum(STARTS)
    assert all(rows == 1 and size <= positions for rows, size in sizes)
    assert (
        sum(size for _, size in sizes) == counted + 1
    )  # one position shows that the model runs its layers as expected
    for value, document, start in zip(values[:, 0].tolist(), documents, STARTS):
        assert value == pytest.approx(document_log_likelihood(model, document, start), rel=1e-5)


def test_a_model_that_runs_its_layers_in_another_way_gets_whole_logits():
    model = tiny_model("llama", torch.float64)
    body, documents = model.model, [[3, 4, 5], [6, 7]]
    expected = log_likelihoods(model, documents, [None], batch_tokens=4096)
    model.model.forward = lambda **options: type(body).forward(body, **options)
    model.get_decoder = lambda: other.model
    other = tiny_model("llama", torch.float64)
    assert torch.allclose(log_likelihoods(model, documents, [None], batch_tokens=4096), expected)
