"""What switching neurons off does to each language (arXiv 2402.18815, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING

import numpy
from torch import Tensor, nn

from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.documents import document_length, tokenise
from pymultiling.errors import CorpusError, NonFiniteActivations
from pymultiling.neurons.sets import NeuronSet
from pymultiling.runtime.progress import progress as show_progress
from pymultiling.tasks.likelihood import log_likelihoods
from pymultiling.tasks.shared_batches import with_none

if TYPE_CHECKING:
    import pandas


def perplexity(
    model: nn.Module, tokenizer, texts, *, max_length: int = 512, batch_tokens: int = 4096, pack: int | None = None
) -> float:
    """Perplexity of texts, over all their tokens.

        exp( - sum_t log p(token_t | tokens before it) / #t ),   t over every predicted token of every text

    Weighted by token, of the true token only. A text's first token is not predicted.

    Args:
        model: a Hugging Face decoder with a language-model head.
        tokenizer: its tokenizer.
        texts: an iterable of str or rows, or a path, as `detect` takes them.
        max_length: longer texts are cut to this many tokens (or to the model's positions).
        batch_tokens: tokens in one forward, padding included.
        pack: join consecutive texts into documents of this many tokens; None: a text is a document.

    Raises:
        CorpusError: the texts cannot be read, or have no token to predict.
        NonFiniteActivations: the loss is NaN or infinite.
    """
    length = document_length(model, max_length, batch_tokens, pack)
    documents = _documents(tokenizer, texts, length, pack, "the texts")
    total = log_likelihoods(model, documents, [None], batch_tokens=batch_tokens).sum().item()
    return _perplexity(total, documents, "the texts")


def ablation_matrix(
    model: nn.Module,
    tokenizer,
    sets: Mapping[str, NeuronSet],
    texts: Mapping[str, object],
    *,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    max_length: int = 512,
    batch_tokens: int = 4096,
    pack: int | None = None,
    progress: bool = False,
) -> pandas.DataFrame:
    """Perplexity of every language with each set of neurons off.

    Texts are tokenised once, and one forward carries many sets: each row of a batch is a document under its own set.

    Args:
        model, tokenizer, max_length, batch_tokens, pack: as in `perplexity`.
        sets: {name: NeuronSet}.
        texts: {language: texts}, as `perplexity` takes them; held-out ones, not those that the sets were found with.
        scale, mean: what becomes of the sets' neurons, as in `deactivate`; by default they are zero.
        progress: show it on stderr.

    Returns:
        DataFrame of perplexities; rows: "none" and the sets; columns: languages.

    Raises:
        CorpusError: naming the language; UnsupportedModel, ValueError: as `deactivate`, naming the set.
        NonFiniteActivations: naming the language and the set.
    """
    import pandas

    named = with_none(model, sets)
    length = document_length(model, max_length, batch_tokens, pack)
    documents = {
        language: _documents(tokenizer, source, length, pack, f"language {language!r}")
        for language, source in texts.items()
    }
    pooled = list(chain.from_iterable(documents.values()))
    with show_progress("ablation", "sets x documents", progress, len(named) * len(pooled)) as bar:
        options = {"batch_tokens": batch_tokens, "scale": scale, "mean": mean, "done": bar.update}
        found = log_likelihoods(model, pooled, list(named.values()), **options)
    columns = {}
    for language, of_language in zip(documents, found.split([len(some) for some in documents.values()])):
        columns[language] = {
            name: _perplexity(total, documents[language], _what(language, name))
            for name, total in zip(named, of_language.sum(0).tolist())
        }
    return pandas.DataFrame(columns, index=list(named))


def _what(language: str, name: str) -> str:
    return f"language {language!r}" + ("" if name == "none" else f" with set {name!r} off")


def _documents(tokenizer, texts, length: int, pack: int | None, what: str) -> list[list[int]]:
    report = CorpusReport()
    documents = list(tokenise(read_texts(texts, report), tokenizer, length, report, pack))
    if not documents:
        raise CorpusError(f"{what}: no token to predict; give texts of at least two tokens")
    return documents


def _perplexity(total: float, documents: list[list[int]], what: str) -> float:
    """total: their log-likelihood."""
    if not math.isfinite(total):
        raise NonFiniteActivations(f"{what}: the loss is NaN or infinite; look for NaN weights or activations")
    return float(numpy.exp(-total / sum(len(one) - 1 for one in documents)))  # inf where math.exp would raise
