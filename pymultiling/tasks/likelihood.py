"""Log-likelihoods of documents under several sets of deactivated neurons, in shared batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.models.tensor_parallel import process_count
from pymultiling.neurons.sets import NeuronSet
from pymultiling.passes.memory import SplitOnOutOfMemory
from pymultiling.probes.likelihood import LikelihoodProbe
from pymultiling.runtime.device_copies import to_device
from pymultiling.tasks.shared_batches import shared_batches


def log_likelihoods(
    model: nn.Module,
    documents: Sequence[Sequence[int]],
    sets: Sequence[NeuronSet | None],
    *,
    starts: Sequence[int] | None = None,
    batch_tokens: int,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    on_progress: Callable[[int], object] = lambda count: None,
) -> Tensor:
    """Log-likelihood of every document under every set.

        sum_t log p(token_t | tokens before it),   t = start, start + 1, ...

    A batch holds documents of similar length, each once for every set. If a batch does not fit in memory, its halves
    are measured.

    Args:
        model: a Hugging Face decoder with a language-model head; of a supported family if a set is given.
        documents: the tokens of every document.
        sets: the sets of neurons to deactivate; None: no neurons.
        starts: for every document the index of the first token that counts, at least 1, because nothing comes before
            the first token; None: 1.
        batch_tokens: tokens in one forward, including padding.
        scale: as in `deactivate`.
        mean: as in `deactivate`.
        on_progress: is called with the number of rows (documents x sets) that were measured since the last call.

    Returns:
        (documents, sets) float64, in nats; NaN or infinite if the model's output is.
    """
    # The processes of a spread model run every forward together, so none of them may halve a batch alone.
    halve_batches = process_count(model) == 1
    with LikelihoodProbe(model, sets, scale, mean) as probe:
        return SetLikelihoods(probe, len(sets), batch_tokens, halve_batches)(documents, starts, on_progress).cpu()


class SetLikelihoods:
    """Computes what `log_likelihoods` returns, for one group of documents per call, inside the block of a probe.

    Args:
        probe: the probe; its `with` block must be active.
        sets: the number of the probe's sets.
        batch_tokens: tokens in one forward, including padding.
        halves: whether a batch that does not fit in memory is measured in halves.
    """

    def __init__(self, probe: LikelihoodProbe, sets: int, batch_tokens: int, halves: bool = True) -> None:
        self._probe, self._sets, self._batch_tokens = probe, sets, batch_tokens
        self._measure: Callable[[Batch, Mapping[int, tuple[int, int]]], Tensor] = self._measure_rows
        if halves:
            self._measure = SplitOnOutOfMemory(self._measure_rows, join=lambda *parts: torch.cat(parts))

    def __call__(
        self,
        documents: Sequence[Sequence[int]],
        starts: Sequence[int] | None = None,
        on_progress: Callable[[int], object] = lambda count: None,
    ) -> Tensor:
        """Measures some documents. Arguments are as in `log_likelihoods`.

        Returns:
            As `log_likelihoods`, but on the model's device, or on the CPU if the device has no float64. Nothing waits
            for the device.
        """
        values = torch.zeros(len(documents) * self._sets, dtype=torch.float64, device=self._probe.sums_device)
        starts = [1] * len(documents) if starts is None else starts
        batches = shared_batches(documents, self._sets, self._batch_tokens, group=self._probe.group)
        for batch, document_indices, set_indices in batches:
            # A half of a batch has only some of its rows. {order: (set, start)} gives those of any row.
            set_and_start = dict(zip(batch.order, zip(set_indices, (starts[index] for index in document_indices))))
            places = torch.tensor(document_indices) * self._sets + torch.tensor(set_indices)
            values[to_device(places, values.device)] = self._measure(batch, set_and_start)
            on_progress(len(document_indices))
        return values.view(-1, self._sets)

    def _measure_rows(self, batch: Batch, set_and_start: Mapping[int, tuple[int, int]]) -> Tensor:
        """Returns the log-likelihood of every row, (rows,). set_and_start: {order: (index of the set, start)}."""
        sets, starts = zip(*(set_and_start[order] for order in batch.order))
        return self._probe.measure(batch, sets, starts)
