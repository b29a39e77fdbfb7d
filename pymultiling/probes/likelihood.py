"""Log-likelihoods of a batch's rows, each under its own set of neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.errors import UnsupportedModel
from pymultiling.mathematics.sums import upcast
from pymultiling.models.decoder import Decoder, check_token_ids, model_device
from pymultiling.models.modes import evaluation_mode
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.masking import change_neurons
from pymultiling.probes.row_sets import RowSets
from pymultiling.runtime.device_copies import to_device


class LikelihoodProbe:
    """Measures the log-likelihoods of a batch's rows inside a `with` block, each row with its own set of neurons off.

    Args:
        model: a Hugging Face decoder with a language-model head. If any neurons are off, it must be of a supported
            family.
        sets: the sets of neurons, one of which is off in each row. An element None turns no neuron off.
        scale: as in `deactivate`.
        mean: as in `deactivate`.
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
        self._row_sets: RowSets | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(evaluation_mode(self._model))
        self._row_sets = None
        # A Decoder is needed only where neurons are off, because models of any family have likelihoods.
        if any(neurons is not None for neurons in self._sets):
            self._row_sets = self._stack.enter_context(
                change_neurons(Decoder(self._model), self._sets, self._scale, self._mean)
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @torch.no_grad()
    def measure(self, batch: Batch, set_indices: Sequence[int], starts: Sequence[int]) -> Tensor:
        """Returns log p of every row.

            sum_t log p(token_t | tokens before it),   t = start, start + 1, ...

        Args:
            batch: padded on the right.
            set_indices: for every row, the index of its set in `sets` of the probe.
            starts: for every row, the first token that counts; at least 1, because nothing comes before the first
                token.

        Returns:
            (rows,) float64 on the CPU, in nats; NaN or infinite where the model's output is.
        """
        if self._row_sets is not None:
            self._row_sets.assign(torch.tensor(set_indices))
        check_token_ids(self._model, batch.input_ids)
        ids, mask = to_device(batch.input_ids, self._device), to_device(batch.attention_mask, self._device)
        first = min(starts) - 1  # logits before this position are not needed
        options = {"logits_to_keep": ids.shape[1] - first} if first else {}
        logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
        if logits.shape[:-1] != ids[:, first:].shape:
            raise UnsupportedModel("the model adds tokens to its input, such as PEFT's virtual ones: load it without")
        return _row_likelihoods(logits, ids[:, first:], batch, first, starts)


def _row_likelihoods(logits: Tensor, ids: Tensor, batch: Batch, first: int, starts: Sequence[int]) -> Tensor:
    """Returns (rows,) float64 on the CPU: the log-likelihood of every row's tokens from its start on.

    The first position of logits (rows, positions, vocabulary) and of ids (rows, positions) is that of token `first`.
    The sums are computed one row at a time, because float32 logits of all rows would take twice the memory of the
    model's logits.
    """
    losses = [
        F.cross_entropy(
            upcast(logits[row, start - 1 - first : length - 1 - first]),
            ids[row, start - first : length - first],
            reduction="sum",
        )
        for row, (start, length) in enumerate(zip(starts, batch.attention_mask.sum(1).tolist()))
    ]
    return -torch.stack(losses).double().cpu()
