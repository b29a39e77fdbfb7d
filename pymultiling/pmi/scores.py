"""How the answers to a task are scored: BLEU, chrF and COMET of translations, the share of right numbers or labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pymultiling.errors import BackendUnavailable
from pymultiling.pmi.items import ParallelTask
from pymultiling.tasks.metrics import UNSPACED, best

# sacrebleu's tokenisers of languages without spaces between words, by code; "char" where its own needs other packages.
TOKENISERS = {"zh": "zh", "zho": "zh", "yue": "zh"}


def scores(
    task: ParallelTask, answers: Sequence[str], references: Sequence[Sequence[str]], target: str | None
) -> tuple[dict[str, float], dict[str, str]]:
    """{name: score} in percent, and {name: signature} of those that sacrebleu (arXiv 1804.08771) gives.

    bleu, chrf: of the whole corpus. accuracy: the share of items where the last number of the answer is the reference's, or
    where the first of the task's labels in the answer is.

    Raises:
        BackendUnavailable: sacrebleu is not installed.
    """
    if task.metric == "bleu":
        metrics, streams = _corpus_metrics(references, target), _streams(references)
        values = {name: metric.corpus_score(list(answers), streams).score for name, metric in metrics.items()}
        return values, {name: str(metric.get_signature()) for name, metric in metrics.items()}
    if task.metric == "number":
        right = [best("number", answer, of_item, target or "") for answer, of_item in zip(answers, references)]
    else:
        right = [float(label(answer, task.labels) in of_item) for answer, of_item in zip(answers, references)]
    return {"accuracy": 100 * sum(right) / len(right)}, {}


def label(answer: str, labels: Sequence[str]) -> str | None:
    """The label that comes first in an answer; of several at one place, such as "not" and "not sure", the longest."""
    places = {one: answer.lower().find(one.lower()) for one in labels}
    found = [one for one in labels if places[one] >= 0]
    return min(found, key=lambda one: (places[one], -len(one)), default=None)


def comet(name: str, sources: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """COMET (arXiv 2009.09025) in percent, of a model such as "Unbabel/wmt22-comet-da" or of its checkpoint file.

    Raises:
        BackendUnavailable: its package is not installed.
    """
    try:
        from comet import download_model, load_from_checkpoint
    except ImportError:
        raise BackendUnavailable("COMET is not installed: pip install unbabel-comet, or leave out comet") from None
    model = load_from_checkpoint(name if Path(name).is_file() else download_model(name))
    rows = [{"src": a, "mt": b, "ref": c[0]} for a, b, c in zip(sources, answers, references)]
    return 100 * model.predict(rows, batch_size=8, gpus=int(torch.cuda.is_available())).system_score


def _corpus_metrics(references: Sequence[Sequence[str]], target: str | None) -> dict:
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise BackendUnavailable("scores need sacrebleu: pip install 'pymultiling[pmi]'") from None
    code = (target or "").split("_")[0]
    tokeniser = TOKENISERS.get(code) or ("char" if UNSPACED.search(references[0][0]) else "13a")
    return {"bleu": BLEU(tokenize=tokeniser), "chrf": CHRF()}


def _streams(references: Sequence[Sequence[str]]) -> list[list[str]]:
    """sacrebleu's order: the first reference of every item, then the second ..."""
    most = max(map(len, references))
    return [[one[place] if place < len(one) else one[0] for one in references] for place in range(most)]
