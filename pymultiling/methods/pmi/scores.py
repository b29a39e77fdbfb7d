"""Metrics of a task's answers: BLEU, chrF and COMET of translations, the percentage of correct numbers or labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from pymultiling.errors import BackendUnavailable
from pymultiling.methods.pmi.items import ParallelTask
from pymultiling.tasks.metrics import UNSPACED, best_value

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

# sacrebleu's tokenisers for languages without spaces between words, by code. "char" is for languages whose own
# tokeniser needs other packages.
TOKENISERS = dict.fromkeys(("zh", "zho", "cmn", "yue"), "zh")
TOKENISERS |= dict.fromkeys(("ja", "jpn", "th", "tha", "lo", "lao", "my", "mya", "km", "khm"), "char")
LATIN = "[0-9_A-Za-zÀ-ɏ\u0300-\u036fḀ-ỿ]"  # continues an ASCII word: a word does not change its script


class Comet(Protocol):
    """A loaded COMET model."""

    def __call__(self, sources: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """Returns the mean value in percent; the first reference of each answer is used."""
        ...


def answer_metrics(
    task: ParallelTask, answers: Sequence[str], references: Sequence[Sequence[str]], target: str | None
) -> tuple[dict[str, float], dict[str, str]]:
    """Evaluates the answers to a task.

    bleu and chrf are those of the whole corpus (sacrebleu, arXiv 1804.08771). accuracy is the percentage of items where
    the last number of the answer is that of a reference, or where the first label in the answer is a reference.

    Args:
        task: the task, whose metric and labels are used.
        answers: the answer to each item.
        references: the correct answers to each item.
        target: the code of the answers' language; None: it is unknown.

    Returns:
        {metric: value in percent}, and {metric: signature} of the metrics that sacrebleu computes.

    Raises:
        BackendUnavailable: sacrebleu is not installed.
    """
    if task.metric == "bleu":
        metrics, streams = _corpus_metrics(references, target), _reference_streams(references)
        values = {name: metric.corpus_score(list(answers), streams).score for name, metric in metrics.items()}
        return values, {name: str(metric.get_signature()) for name, metric in metrics.items()}
    if task.metric == "number":
        correct = [
            best_value("number", answer, item_references, target or "")
            for answer, item_references in zip(answers, references)
        ]
    else:
        correct = [
            float(find_label(answer, task.labels) in item_references)
            for answer, item_references in zip(answers, references)
        ]
    return {"accuracy": 100 * sum(correct) / len(correct)}, {}


def find_label(answer: str, labels: Sequence[str]) -> str | None:
    """Returns the label that comes first in an answer as whole words, or None.

    If two labels begin at the same place, such as "not" and "not sure", the longer one is returned.
    """
    starts = {label: match.start() for label in labels if (match := _label_pattern(label).search(answer))}
    return min(starts, key=lambda label: (starts[label], -len(label)), default=None)


def require_sacrebleu() -> None:
    """Raises BackendUnavailable if sacrebleu is not installed."""
    try:
        import sacrebleu  # noqa: F401  only whether it can be imported
    except ImportError:
        raise BackendUnavailable("BLEU needs sacrebleu: pip install 'pymultiling[pmi]'") from None


def load_comet(name: str) -> Comet:
    """Loads a COMET model (arXiv 2009.09025).

    Args:
        name: its name, such as "Unbabel/wmt22-comet-da", or the path of its checkpoint file.

    Returns:
        A function of sources, answers and references.

    Raises:
        BackendUnavailable: COMET is not installed.
    """
    try:
        from comet import download_model, load_from_checkpoint
    except ImportError:
        raise BackendUnavailable(
            "COMET is not installed; its releases so far need transformers below 5, so evaluate answers.jsonl of the "
            "command pmi in a separate environment with COMET, or leave out comet"
        ) from None
    model = load_from_checkpoint(name if Path(name).is_file() else download_model(name))

    def comet(sources: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        samples = [
            {"src": source, "mt": answer, "ref": item_references[0]}
            for source, answer, item_references in zip(sources, answers, references, strict=True)
        ]
        value: float = model.predict(samples, batch_size=8, gpus=int(torch.cuda.is_available())).system_score
        return 100 * value

    return comet


def _label_pattern(label: str) -> re.Pattern[str]:
    """Matches a label as whole words. A boundary is required only next to an ASCII letter or digit of the label."""
    before, after = (c.isascii() and c.isalnum() for c in (label[:1], label[-1:]))
    parts = (f"(?<!{LATIN})" if before else "", re.escape(label), f"(?!{LATIN})" if after else "")
    return re.compile("".join(parts), re.IGNORECASE)


def _corpus_metrics(references: Sequence[Sequence[str]], target: str | None) -> dict[str, Metric]:
    require_sacrebleu()
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return {"bleu": BLEU(tokenize=_select_tokeniser(references, target)), "chrf": CHRF()}


def _select_tokeniser(references: Sequence[Sequence[str]], target: str | None) -> str:
    """Selects by the target's code, or else by whether most items have a reference in a script without spaces."""
    code = (target or "").lower().replace("-", "_").partition("_")[0]
    unspaced = sum(any(map(UNSPACED.search, item_references)) for item_references in references)
    return TOKENISERS.get(code) or ("char" if 2 * unspaced > len(references) else "13a")


def _reference_streams(references: Sequence[Sequence[str]]) -> list[list[str]]:
    """Returns the references in sacrebleu's order: the first reference of every item, then the second, and so on."""
    number = max(map(len, references))
    return [
        [
            item_references[place] if place < len(item_references) else item_references[0]
            for item_references in references
        ]
        for place in range(number)
    ]
