"""What switching neurons off does to each language (arXiv 2402.18815, section 3)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import document_length
from pymultiling.data.tokenising import Tokenisation
from pymultiling.errors import CorpusError, NonFiniteActivations
from pymultiling.models.spread import process_count
from pymultiling.neurons.sets import NeuronSet
from pymultiling.passes.corpus_pass import BatchSource, Job, Options, identify_inputs, run_pass
from pymultiling.passes.sums import Sums
from pymultiling.probes.likelihood import LikelihoodProbe
from pymultiling.tasks.likelihood import SetLikelihoods
from pymultiling.tasks.shared_batches import prepend_none

if TYPE_CHECKING:
    import pandas


def perplexity(
    model: nn.Module,
    tokenizer,
    texts,
    *,
    max_length: int = 512,
    batch_tokens: int = 4096,
    pack: int | None = None,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = False,
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
        workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress: as in `detect`.

    Under torchrun, or wherever torch.distributed is initialised, every process must make this call: each measures a part of the
    texts, and all return the whole.

    Raises:
        CorpusError: the texts cannot be read, or have no token to predict.
        CheckpointError: as `detect`.
        NonFiniteActivations: the loss is NaN or infinite.
    """
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress)
    losses = _losses(model, tokenizer, {"texts": texts}, {"none": None}, max_length, pack, options, named="the texts")
    return _perplexity(losses["texts"], 0, "the texts")


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
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = False,
) -> pandas.DataFrame:
    """Perplexity of every language with each set of neurons off.

    Texts are read once, and one forward carries many sets: each row of a batch is a document under its own set.

    Args:
        model, tokenizer, max_length, batch_tokens, pack: as in `perplexity`.
        sets: {name: NeuronSet}.
        texts: {language: texts}, as `perplexity` takes them; held-out ones, not those that the sets were found with.
        scale, mean: what becomes of the sets' neurons, as in `deactivate`; by default they are zero.
        workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress: as in `detect`.

    Under torchrun, or wherever torch.distributed is initialised, every process must make this call: each measures a part of the
    texts, and all return the whole.

    Returns:
        DataFrame of perplexities; rows: "none" and the sets; columns: languages.

    Raises:
        CorpusError: naming the language; CheckpointError: as `detect`; UnsupportedModel, ValueError: as `deactivate`, naming the set.
        NonFiniteActivations: naming the language and the set.
    """
    import pandas

    named = prepend_none(model, sets)
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress)
    change = {"scale": scale, "mean": mean}
    losses = _losses(model, tokenizer, texts, named, max_length, pack, options, **change)
    columns = {
        language: {name: _perplexity(total, number, _what(language, name)) for number, name in enumerate(named)}
        for language, total in losses.items()
    }
    return pandas.DataFrame(columns, index=list(named))


def _what(language: str, name: str) -> str:
    return f"language {language!r}" + ("" if name == "none" else f" with set {name!r} off")


def _losses(
    model: nn.Module,
    tokenizer,
    texts: Mapping[str, object],
    sets: Mapping[str, NeuronSet | None],
    max_length: int,
    pack: int | None,
    options: Options,
    named: str = "language {!r}",
    **change,
) -> dict[str, Sums]:
    """{language: log_likelihood (sets,) float64, of its documents under every set; predicted () int64, their tokens but the first}."""
    tokenisation = Tokenisation(tokenizer, document_length(model, max_length, options.batch_tokens, pack), pack)
    nothing = Sums(
        log_likelihood=torch.zeros(len(sets), dtype=torch.float64), predicted=torch.zeros((), dtype=torch.int64)
    )

    def check(language: str, total: Sums, _: CorpusReport) -> None:
        if not total["predicted"]:
            raise CorpusError(f"{named.format(language)}: no token to predict; give texts of at least two tokens")

    spread_over = process_count(model)
    with LikelihoodProbe(model, list(sets.values()), **change) as probe:
        likelihoods = SetLikelihoods(probe, len(sets), options.batch_tokens, halves=spread_over == 1)

        def measure(batch: Batch, _: BatchSource) -> Sums:
            lengths = batch.attention_mask.sum(1)
            documents = [ids[:length] for ids, length in zip(batch.input_ids.numpy(), lengths.tolist())]
            return Sums(log_likelihood=likelihoods(documents).sum(0), predicted=(lengths - 1).sum())

        job = Job(
            activity="perplexity",
            tokenisation=tokenisation,
            empty_statistics=lambda *_: nothing,
            measure=measure,
            identity=lambda: {"measure": _decides(sets, **change), **identify_inputs(model, tokenisation)},
            check=check,
            content_label=named.format,
            corpus_label=named.format,
            spread_over=spread_over,
            halve_batches=False,  # rows are halved, of which a document has one for each set
        )
        return {language: total for language, (total, _) in run_pass(texts, job, options).items()}


def _decides(sets: Mapping[str, NeuronSet | None], scale: float = 0.0, mean: Mapping[str, Tensor] | None = None) -> str:
    """A hash of the sets and of what becomes of their neurons."""
    digest = hashlib.blake2b(repr(float(scale)).encode(), digest_size=16)
    members = {name: {} if neurons is None else neurons.sites for name, neurons in sets.items()}
    for what, tensors in (*members.items(), ("mean", mean or {})):
        for site, values in sorted(tensors.items()):
            values = values.detach().cpu().contiguous()
            digest.update(repr((what, site, values.dtype, tuple(values.shape))).encode())
            digest.update(values.view(torch.uint8).numpy().tobytes())
        digest.update(repr((what, len(tensors))).encode())
    return f"log-likelihoods under {len(sets)} sets, {digest.hexdigest()}"


def _perplexity(total: Sums, number: int, what: str) -> float:
    """Of the set with this number."""
    log_likelihood = total["log_likelihood"][number].item()
    if not math.isfinite(log_likelihood):
        raise NonFiniteActivations(f"{what}: the loss is NaN or infinite; look for NaN weights or activations")
    return float(numpy.exp(-log_likelihood / total["predicted"].item()))  # inf where math.exp would raise
