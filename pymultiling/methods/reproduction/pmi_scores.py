"""Answers to each kind of prompt, item by item, so that BLEU of any sample of items can be computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pymultiling.mathematics.bootstrap import resampling_weights
from pymultiling.methods.reproduction.plan import Setup, Stream, interval_ends
from pymultiling.tasks.evaluate import metric_values
from pymultiling.tasks.generation import generate
from pymultiling.tasks.items import Item, Task

MAX_NEW_TOKENS = 256  # of an answer
ORDERS = 4  # of the n-grams of BLEU


def bleu_stream(setup: Setup, name: str, prompts: Sequence[list[int]], references: Sequence[str]) -> Stream:
    """Returns the stream of the items' statistics of BLEU: `bleu_statistics` of greedy answers."""
    # The metric of this task is not used.
    task = Task("translation", {}, "likelihood", ("\n",), MAX_NEW_TOKENS)

    def measure(start: int, stop: int) -> Tensor:
        answers = generate(
            setup.model, setup.tokenizer, prompts[start:stop], [None], task, batch_tokens=setup.batch_tokens
        )
        return bleu_statistics([answer.text.strip() for (answer,) in answers], references[start:stop])

    return Stream(f"bleu.{name}", len(references), measure)


def likelihood_stream(setup: Setup, name: str, prompts: Sequence[str], references: Sequence[str]) -> Stream:
    """Returns the stream of the mean log-likelihoods of the references' tokens."""
    items = [Item(text, f" {reference}") for text, reference in zip(prompts, references, strict=True)]

    def measure(start: int, stop: int) -> Tensor:
        task = Task("translation", {"all": items[start:stop]}, "likelihood")
        return metric_values(setup.model, setup.tokenizer, task, "all", [None], batch_tokens=setup.batch_tokens)

    return Stream(f"likelihood.{name}", len(references), measure)


def bleu_statistics(answers: Sequence[str], references: Sequence[str]) -> Tensor:
    """Returns (items, 2 orders + 2): n-grams in common, n-grams of the answer, and the lengths of both.

    Their sums over items give BLEU of a corpus (arXiv 1804.08771).
    """
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(effective_order=True)  # changes the score of a sentence, which is not used, and not the counts
    scores = [metric.sentence_score(answer, [reference]) for answer, reference in zip(answers, references, strict=True)]
    rows = [[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores]
    return torch.tensor(rows, dtype=torch.float64)


def corpus_bleu(sums: Tensor) -> float:
    """Returns BLEU in percent. sums: of `bleu_statistics` over items."""
    from sacrebleu.metrics.bleu import BLEU

    numbers = [round(number) for number in sums.tolist()]
    common, total, (answered, expected) = numbers[:ORDERS], numbers[ORDERS:-2], numbers[-2:]
    return float(BLEU.compute_bleu(common, total, answered, expected, smooth_method="exp").score)


def mean_value(sums: Tensor) -> float:
    """Returns the mean, if sums is the sum over items of a value and of ones."""
    return float(sums[0] / sums[1])


def with_interval(statistics: Tensor, value: Callable[[Tensor], float]) -> tuple[float, float, float, int]:
    """Returns a value of a corpus, the ends of its bootstrap interval, and the number of items.

    Args:
        statistics: (items, columns), such as `bleu_statistics`.
        value: computes the value from the sums over items.
    """
    count = len(statistics)
    drawn = (resampling_weights(count) * count).round() @ statistics
    low, high = interval_ends(torch.tensor([value(sums) for sums in drawn], dtype=torch.float64), count)
    return value(statistics.sum(0)), low, high, count
