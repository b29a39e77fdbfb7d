"""What switching neurons off does to each language (arXiv 2402.18815, section 3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pymultiling.data.batches import Batch, batches
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.documents import document_length, tokenise
from pymultiling.errors import CorpusError, NonFiniteActivations
from pymultiling.models.decoder import evaluation, model_device
from pymultiling.models.masking import deactivate
from pymultiling.neurons import NeuronSet
from pymultiling.progress import progress as show_progress

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
    documents = _documents(tokenizer, texts, length, pack)
    return _perplexity(model, batches(documents, batch_tokens), "the texts")


def ablation_matrix(
    model: nn.Module,
    tokenizer,
    sets: Mapping[str, NeuronSet],
    texts: Mapping[str, object],
    *,
    max_length: int = 512,
    batch_tokens: int = 4096,
    pack: int | None = None,
    progress: bool = False,
) -> pandas.DataFrame:
    """Perplexity of every language with each set of neurons off.

    Args:
        model, tokenizer, max_length, batch_tokens, pack: as in `perplexity`.
        sets: {name: NeuronSet}.
        texts: {language: texts}, as `perplexity` takes them; held-out ones, not those that the sets were found with.
        progress: show it on stderr.

    Returns:
        DataFrame of perplexities; rows: "none" and the sets; columns: languages.

    Raises:
        CorpusError: naming the language; UnsupportedModel, ValueError: as `deactivate`.
    """
    import pandas

    if "none" in sets:
        raise ValueError('"none" names the row without any set; give the set another name')
    length = document_length(model, max_length, batch_tokens, pack)
    prepared = {
        language: list(batches(_documents(tokenizer, source, length, pack), batch_tokens))
        for language, source in texts.items()
    }
    rows = {}
    with show_progress("ablation", "sets x languages", progress, (len(sets) + 1) * len(texts)) as bar:
        for name, neurons in {"none": None, **sets}.items():
            with nullcontext() if neurons is None else deactivate(model, neurons):
                rows[name] = {}
                for language, of_language in prepared.items():
                    rows[name][language] = _perplexity(model, of_language, f"language {language!r}")
                    bar.update()
    return pandas.DataFrame.from_dict(rows, orient="index")


def _documents(tokenizer, texts, length: int, pack: int | None) -> Iterable[list[int]]:
    report = CorpusReport()
    return tokenise(read_texts(texts, report), tokenizer, length, report, pack)


@torch.no_grad()
def _perplexity(model: nn.Module, prepared: Iterable[Batch], what: str) -> float:
    device = model_device(model)
    total, predicted = 0.0, 0
    with evaluation(model):
        for batch in prepared:
            ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            for row_logits, row_ids, length in zip(logits, ids, batch.attention_mask.sum(1).tolist()):
                total += _loss(row_logits[: length - 1], row_ids[1:length])
                predicted += length - 1
    if predicted == 0:
        raise CorpusError(f"{what}: no token to predict; give texts of at least two tokens")
    if not math.isfinite(total):
        raise NonFiniteActivations(f"{what}: the loss is NaN or infinite; look for NaN weights or activations")
    return float(numpy.exp(total / predicted))  # inf where math.exp would raise


def _loss(logits: Tensor, targets: Tensor) -> float:
    return F.cross_entropy(logits.float(), targets, reduction="sum").item()
