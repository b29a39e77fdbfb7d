"""Log-likelihoods of a batch's rows, each under its own set of neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.mathematics.sums import upcast
from pymultiling.models.decoder import Decoder, evaluation_mode, model_device
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.masking import change_neurons


class LikelihoodProbe:
    """Measures batches inside a `with` block, in which some of the model's neurons are off.

    Args:
        model: a Hugging Face decoder with a language-model head; of a supported family, if anything is off.
        sets: what is off; None: nothing.
        scale, mean: as in `deactivate`.
    """

    def __init__(
        self,
        model: nn.Module,
        sets: Sequence[NeuronSet | None],
        scale: float = 0.0,
        mean: Mapping[str, Tensor] | None = None,
    ):
        self._model, self._device = model, model_device(model)
        self._sets, self._scale, self._mean = sets, scale, mean
        self._stack = ExitStack()

    def __enter__(self) -> LikelihoodProbe:
        self._stack.enter_context(evaluation_mode(self._model))
        self._rows = None
        if any(one is not None for one in self._sets):  # a model of any kind has likelihoods
            self._rows = self._stack.enter_context(
                change_neurons(Decoder(self._model), self._sets, self._scale, self._mean)
            )
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    @torch.no_grad()
    def measure(self, batch: Batch, sets: Sequence[int], starts: Sequence[int]) -> Tensor:
        """log p of every row.

            sum_t log p(token_t | tokens before it),   t = start, start + 1, ...

        Args:
            batch: padded on the right.
            sets: of every row the place of its set.
            starts: of every row the first token that counts, at least 1: the first token has nothing before it.

        Returns:
            (rows,) float64 on the CPU, in nats; NaN or infinite where the model's output is.
        """
        if self._rows is not None:
            self._rows.assign(torch.tensor(sets))
        ids, mask = batch.input_ids.to(self._device), batch.attention_mask.to(self._device)
        first = min(starts) - 1  # logits before it, nobody asks for
        options = {"logits_to_keep": ids.shape[1] - first} if first else {}
        logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
        return _of_rows(logits, ids[:, first:], batch, first, starts)


def _of_rows(logits: Tensor, ids: Tensor, batch: Batch, first: int, starts: Sequence[int]) -> Tensor:
    """logits and ids begin with token `first`. A row at a time: float32 logits of all would take twice the model's memory."""
    losses = [
        F.cross_entropy(
            upcast(logits[row, start - 1 - first : length - 1 - first]),
            ids[row, start - first : length - first],
            reduction="sum",
        )
        for row, (start, length) in enumerate(zip(starts, batch.attention_mask.sum(1).tolist()))
    ]
    return -torch.stack(losses).double().cpu()
