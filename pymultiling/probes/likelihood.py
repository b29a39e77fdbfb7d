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
from pymultiling.models.decoder import Decoder, model_device
from pymultiling.models.head import Head
from pymultiling.models.length_scaling import length_group
from pymultiling.models.modes import evaluation_mode
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.neuron_changes import change_neurons
from pymultiling.probes.row_sets import RowSets
from pymultiling.probes.verification.entry import require_verified, sites_of_sets
from pymultiling.runtime.device_copies import sums_device, to_device


class LikelihoodProbe:
    """Measures the log-likelihoods of a batch's rows inside a `with` block, each row with its own set of neurons off.

    Args:
        model: a Hugging Face decoder with a language-model head. If any neurons are off, it must be of a supported
            family.
        sets: the sets of neurons, one of which is off in each row. An element None turns no neuron off.
        scale: as in `deactivate`.
        mean: as in `deactivate`.

    Attributes:
        group: as in `make_batches`; the rows of a batch must have the same group.
    """

    def __init__(
        self,
        model: nn.Module,
        sets: Sequence[NeuronSet | None],
        scale: float = 0.0,
        mean: Mapping[str, Tensor] | None = None,
    ):
        self._model, self._device = model, model_device(model)
        self.group = length_group(model)
        self._sets, self._scale, self._mean = sets, scale, mean
        self._decoder = _decoder_or_none(model)
        self._row_sets: RowSets | None = None
        self._stack = ExitStack()

    @property
    def sums_device(self) -> torch.device:
        """The device of what `measure` returns."""
        return sums_device(self._device)

    def __enter__(self) -> Self:
        self._stack.enter_context(evaluation_mode(self._model))
        self._row_sets, self._head = None, Head(self._model, self._decoder)
        # A Decoder is needed only where neurons are off, because models of any family have likelihoods.
        if any(neurons is not None for neurons in self._sets):
            decoder = self._decoder or Decoder(self._model)  # which says why the family is not supported
            require_verified(decoder, sites_of_sets(self._sets))
            self._row_sets = self._stack.enter_context(change_neurons(decoder, self._sets, self._scale, self._mean))
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
            (rows,) float64 in nats, on the model's device, or on the CPU if the device has no float64; NaN or infinite
            where the model's output is. Nothing waits for the device.
        """
        if self._row_sets is not None:
            self._row_sets.assign(torch.tensor(set_indices))
        mask = batch.attention_mask
        ranges = [
            row * mask.shape[1] + torch.arange(start, length)
            for row, (start, length) in enumerate(zip(starts, mask.sum(1).tolist()))
        ]
        hidden = self._head.hidden_states(batch.input_ids, mask).flatten(0, 1)
        counted = torch.cat(ranges)
        targets = to_device(batch.input_ids.flatten()[counted], hidden.device)
        counted = to_device(counted, hidden.device)
        losses = []
        for part in self._head.parts(len(counted), hidden):
            logits = upcast(self._head.logits(hidden[counted[part] - 1]))
            losses.append(F.cross_entropy(logits, targets[part].to(logits.device), reduction="none"))
            del logits  # else two parts are in memory at a time
        by_row = torch.split(torch.cat(losses).to(self.sums_device).double(), [len(row) for row in ranges])
        return -torch.stack([row_losses.sum() for row_losses in by_row])


def _decoder_or_none(model: nn.Module) -> Decoder | None:
    """Returns the decoder of a supported family, or None: models of other families may need their mask."""
    try:
        return Decoder(model)
    except UnsupportedModel:
        return None
