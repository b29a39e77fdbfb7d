"""Log-likelihoods of documents under many sets of neurons, in shared batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.models.spread import process_count
from pymultiling.neurons.sets import NeuronSet
from pymultiling.passes.memory import SplitOnOutOfMemory
from pymultiling.probes.likelihood import LikelihoodProbe
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
    done: Callable[[int], object] = lambda count: None,
) -> Tensor:
    """log p of every document with every set off.

        sum_t log p(token_t | tokens before it),   t = start, start + 1, ...

    A batch holds documents of like length, each once for every set; the sets of its rows differ. One that does not fit in memory
    is measured in halves.

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
    halves = (
        process_count(model) == 1
    )  # a half here would be a whole batch in another process that has a part of the model
    with LikelihoodProbe(model, sets, scale, mean) as probe:
        return SetLikelihoods(probe, len(sets), batch_tokens, halves)(documents, starts, done)


class SetLikelihoods:
    """As `log_likelihoods`, called with some documents after others, inside the block of a probe of so many sets.

    halves: a batch that does not fit in memory is measured in halves.
    """

    def __init__(self, probe: LikelihoodProbe, sets: int, batch_tokens: int, halves: bool = True):
        self._probe, self._sets, self._batch_tokens = probe, sets, batch_tokens
        self._measure = SplitOnOutOfMemory(self._rows, join=lambda *halves: torch.cat(halves)) if halves else self._rows

    def __call__(
        self,
        documents: Sequence[Sequence[int]],
        starts: Sequence[int] | None = None,
        done: Callable[[int], object] = lambda count: None,
    ) -> Tensor:
        found = torch.zeros(len(documents), self._sets, dtype=torch.float64)
        starts = [1] * len(documents) if starts is None else starts
        for batch, places, numbers in shared_batches(documents, self._sets, self._batch_tokens):
            # A half of the batch has some of its orders; of which documents and sets they are, these say.
            work = dict(zip(batch.order, zip(numbers, (starts[place] for place in places))))
            found[places, numbers] = self._measure(batch, work)
            done(len(places))
        return found

    def _rows(self, batch: Batch, work: Mapping[int, tuple[int, int]]) -> Tensor:
        sets, starts = zip(*(work[order] for order in batch.order))
        return self._probe.measure(batch, sets, starts)
