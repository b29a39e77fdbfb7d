"""log_likelihoods against a document at a time, for every family: padding, starts, sets."""

import pytest
import torch

from pymultiling.tasks.likelihood import log_likelihoods
from tests.support.tiny_models import (
    REPRESENTATIVE_MODELS,
    VOCABULARY_SIZE,
    random_neurons,
    tiny_model,
    with_zeroed_neurons,
)

LENGTHS, STARTS = (9, 4, 11, 2, 7), (5, 3, 10, 1, 5)


@torch.no_grad()
def alone(model, document: list[int], start: int) -> float:
    logs = model(torch.tensor([document])).logits[0].log_softmax(-1)
    return sum(logs[place - 1, document[place]].item() for place in range(start, len(document)))


@pytest.mark.parametrize("batch_tokens", [1, 24, 4096])
@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_every_document_under_every_set(name, batch_tokens):
    # eager attention, which some need, gives NaN for rows of padding only in float64 (transformers' own)
    dtype, close = (torch.float32, 1e-5) if name in ("gemma2", "bloom") else (torch.float64, 1e-9)
    model, generator = tiny_model(name, dtype), torch.Generator().manual_seed(0)
    documents = [torch.randint(3, VOCABULARY_SIZE, (length,), generator=generator).tolist() for length in LENGTHS]
    sets = [None, random_neurons(model, seed=1), random_neurons(model, seed=2)]
    models = [model, *(with_zeroed_neurons(model, one) for one in sets[1:])]
    for starts in (None, STARTS):
        found = log_likelihoods(model, documents, sets, starts=starts, batch_tokens=batch_tokens)
        for row, document in enumerate(documents):
            for column, other in enumerate(models):
                truth = alone(other, document, 1 if starts is None else starts[row])
                assert found[row, column].item() == pytest.approx(truth, rel=close), (row, column)
