"""Log-likelihoods of documents under many sets of neurons, in shared batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.mathematics.sums import wide
from pymultiling.models.decoder import Decoder, evaluation, model_device
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.masking import changed
from pymultiling.tasks.shared_batches import shared_batches


@torch.no_grad()
def log_likelihoods(
    model: nn.Module,
    documents: Sequence[list[int]],
    sets: Sequence[NeuronSet | None],
    *,
    starts: Sequence[int] | None = None,
    batch_tokens: int,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    done: Callable[[int], object] = lambda count: None,
) -> Tensor:
    """log p of every document with every set off.

        sum_t log p(token_t | tokens before it),   t = start, start + 1, ...

    A batch holds documents of like length, each once for every set; the sets of its rows differ.

    Args:
        model: a Hugging Face decoder with a language-model head; of a supported family, if anything is off.
        documents: their tokens.
        sets: what is off; None: nothing.
        starts: of every document the first token that counts, at least 1 (the first token has nothing before it); None: 1.
        batch_tokens: tokens in one forward, padding included.
        scale, mean: as in `deactivate`.
        done: is called with the number of rows (documents x sets) that were measured.

    Returns:
        (documents, sets) float64, in nats; NaN or infinite where the model's output is.
    """
    device, found = model_device(model), torch.zeros(len(documents), len(sets), dtype=torch.float64)
    starts = [1] * len(documents) if starts is None else starts
    with ExitStack() as stack:
        stack.enter_context(evaluation(model))
        rows = None
        if any(one is not None for one in sets):  # a model of any kind has likelihoods
            rows = stack.enter_context(changed(Decoder(model), sets, scale, mean))
        for batch, places, numbers in shared_batches(documents, len(sets), batch_tokens):
            if rows is not None:
                rows.assign(torch.tensor(numbers))
            ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
            of_rows = [starts[place] for place in places]
            first = min(of_rows) - 1  # logits before it, nobody asks for
            options = {"logits_to_keep": ids.shape[1] - first} if first else {}
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
            found[places, numbers] = _of_rows(logits, ids[:, first:], batch, first, of_rows)
            done(len(places))
    return found


def _of_rows(logits: Tensor, ids: Tensor, batch: Batch, first: int, starts: Sequence[int]) -> Tensor:
    """logits and ids begin with token `first`. A row at a time: float32 logits of all would take twice the model's memory."""
    losses = [
        F.cross_entropy(
            wide(logits[row, start - 1 - first : length - 1 - first]),
            ids[row, start - first : length - first],
            reduction="sum",
        )
        for row, (start, length) in enumerate(zip(starts, batch.attention_mask.sum(1).tolist()))
    ]
    return -torch.stack(losses).double().cpu()
