"""log_likelihoods against one document at a time, with padding, starts and sets, for every family."""

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
