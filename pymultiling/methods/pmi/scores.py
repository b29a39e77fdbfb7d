"""How the answers to a task are scored: BLEU, chrF and COMET of translations, the share of right numbers or labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from pymultiling.errors import BackendUnavailable
from pymultiling.methods.pmi.items import ParallelTask
from pymultiling.tasks.metrics import UNSPACED, best

# sacrebleu's tokenisers of languages without spaces between words, by code; "char" where its own needs other packages.
TOKENISERS = dict.fromkeys(("zh", "zho", "cmn", "yue"), "zh")
TOKENISERS |= dict.fromkeys(("ja", "jpn", "th", "tha", "lo", "lao", "my", "mya", "km", "khm"), "char")
LATIN = "[0-9_A-Za-zÀ-ɏ\u0300-\u036fḀ-ỿ]"  # goes on a word of ASCII: no word changes its script


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
    """The label that comes first in an answer, as whole words; of "not" and "not sure", at one place, the longest."""
    places = {one: found.start() for one in labels if (found := _pattern(one).search(answer))}
    return min(places, key=lambda one: (places[one], -len(one)), default=None)


def require_sacrebleu() -> None:
    """Raises BackendUnavailable where sacrebleu is not installed."""
    try:
        import sacrebleu  # noqa: F401
    except ImportError:
        raise BackendUnavailable("scores need sacrebleu: pip install 'pymultiling[pmi]'") from None


def load_comet(name: str) -> Callable[[Sequence[str], Sequence[str], Sequence[Sequence[str]]], float]:
    """A COMET model (arXiv 2009.09025).

    Args:
        name: of it, such as "Unbabel/wmt22-comet-da", or its checkpoint file.

    Returns:
        Called with sources, answers and the references of each, the first of which counts, gives percent.

    Raises:
        BackendUnavailable: its package is not installed.
    """
    try:
        from comet import download_model, load_from_checkpoint
    except ImportError:
        raise BackendUnavailable(
            "COMET is not installed; its releases so far need transformers below 5, so score answers.jsonl of the "
            "command pmi in an environment of COMET's own, or leave out comet"
        ) from None
    model = load_from_checkpoint(name if Path(name).is_file() else download_model(name))

    def score(sources: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        rows = [{"src": a, "mt": b, "ref": c[0]} for a, b, c in zip(sources, answers, references, strict=True)]
        return 100 * model.predict(rows, batch_size=8, gpus=int(torch.cuda.is_available())).system_score

    return score


def _pattern(label: str) -> re.Pattern[str]:
    """A label, parted from what is beside it where its own end is a letter or a digit of ASCII."""
    before, after = (one.isascii() and one.isalnum() for one in (label[:1], label[-1:]))
    parts = (f"(?<!{LATIN})" if before else "", re.escape(label), f"(?!{LATIN})" if after else "")
    return re.compile("".join(parts), re.IGNORECASE)


def _corpus_metrics(references: Sequence[Sequence[str]], target: str | None) -> dict:
    require_sacrebleu()
    from sacrebleu.metrics import BLEU, CHRF

    return {"bleu": BLEU(tokenize=_tokeniser(references, target)), "chrf": CHRF()}


def _tokeniser(references: Sequence[Sequence[str]], target: str | None) -> str:
    """By the target's code; else by whether most items have a reference in a script without spaces."""
    code = (target or "").lower().replace("-", "_").partition("_")[0]
    unspaced = sum(any(map(UNSPACED.search, of_item)) for of_item in references)
    return TOKENISERS.get(code) or ("char" if 2 * unspaced > len(references) else "13a")


def _streams(references: Sequence[Sequence[str]]) -> list[list[str]]:
    """sacrebleu's order: the first reference of every item, then the second ..."""
    most = max(map(len, references))
    return [[one[place] if place < len(one) else one[0] for one in references] for place in range(most)]
