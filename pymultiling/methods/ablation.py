"""Perplexity of languages with sets of neurons deactivated (arXiv 2402.18815, section 3)."""

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
from pymultiling.data.chat import chat_frame
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import document_length
from pymultiling.data.tokenising import Tokenisation
from pymultiling.errors import NON_FINITE_ADVICE, CorpusError, NonFiniteActivations
from pymultiling.methods.random_sets import add_random_sets
from pymultiling.models.head import require_language_model
from pymultiling.models.length_scaling import length_group
from pymultiling.models.tensor_parallel import process_count
from pymultiling.models.unwrap import unwrap
from pymultiling.neurons.sets import NeuronSet
from pymultiling.passes.corpus_pass import run_pass
from pymultiling.passes.job import BatchSource, Job, Options, identify_inputs
from pymultiling.passes.sums import Sums
from pymultiling.probes.likelihood import LikelihoodProbe
from pymultiling.probes.verification.entry import unverified
from pymultiling.tasks.likelihood import SetLikelihoods
from pymultiling.tasks.shared_batches import prepend_none

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedTokenizerBase

    from pymultiling.data.corpus_types import Corpus


def perplexity(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Corpus,
    *,
    max_length: int = 512,
    batch_tokens: int = 4096,
    pack: int | None = None,
    chat_template: bool = False,
    tokens: int | None = None,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = True,
) -> float:
    """Computes the perplexity of a model on texts, over all tokens of all texts.

        exp( - sum_t log p(token_t | tokens before it) / #t ),   t over every token of every text

    Every token has the same weight, so a long text counts more than a short one. Each text has a context of its own:
    the tokens that the tokenizer puts before a text (such as <s>), and the text's tokens so far. The tokens that the
    tokenizer adds are not predicted. If it puts none before a text, the first token of a text is not predicted either.

    Under torchrun, or wherever torch.distributed is initialised, all processes must make this call. Each measures a
    part of the texts, and all return the result for all texts.

    Args:
        model: a Hugging Face decoder with a language-model head. Any family works, also an unsupported one.
        tokenizer: the model's tokenizer.
        texts: an iterable of str or of records, or a path, as one corpus of `detect`.
        max_length: longer texts are cut to this many tokens, or to the length that the model supports.
        batch_tokens: the largest number of tokens in one forward, padding included.
        pack: cut no text. A text of more than this many tokens is measured in documents of this many tokens. Each of
            them begins as a text does, and repeats the last token of the document before it as context. So `pack`
            changes the contexts of long texts, and which tokens count if None cuts texts. None: texts are cut.
        chat_template: as in `detect`: the texts' own tokens are predicted, each text as the user's message of the
            tokenizer's chat template. A template begins with tokens, so that the first token of a text is predicted.
        tokens: as in `detect`; tokens that are predicted count.
        workers: as in `detect`.
        checkpoint: as in `detect`.
        checkpoint_seconds: as in `detect`.
        checkpoint_documents: as in `detect`.
        progress: show progress on stderr.

    Returns:
        The perplexity, at least 1; inf where it exceeds the range of float64.

    Raises:
        CorpusError: the texts cannot be read, or have no token to predict.
        CheckpointError: as `detect`.
        UnsupportedModel: the model has no language-model head, or its weights are offloaded.
        NonFiniteActivations: the loss is NaN or infinite.
        ValueError: an argument is out of its range, or as `detect` for `chat_template`.
    """
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress, tokens)
    sums = _sum_log_likelihoods(
        model,
        tokenizer,
        {"texts": texts},
        {"none": None},
        scale=0.0,
        mean=None,
        max_length=max_length,
        pack=pack,
        chat_template=chat_template,
        options=options,
        label="the texts",
    )
    return _perplexity(sums["texts"], 0, "the texts")


def ablation_matrix(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, NeuronSet],
    texts: Mapping[str, Corpus],
    *,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    random_draws: int = 0,
    seed: int = 0,
    max_length: int = 512,
    batch_tokens: int = 4096,
    pack: int | None = None,
    chat_template: bool = False,
    tokens: int | None = None,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = True,
    verify: bool = True,
) -> pandas.DataFrame:
    """Computes the perplexity of every language with each set of neurons deactivated.

    Row by row it shows which languages lose most when the neurons of one language are off. The texts are read once. One
    forward carries several sets: each row of a batch is a document under its own set.

    Under torchrun, or wherever torch.distributed is initialised, all processes must make this call. Each measures a
    part of the texts, and all return the result for all texts.

    Source: arXiv 2402.18815, section 3.

    Args:
        model: a Hugging Face decoder with a language-model head, of a supported family.
        tokenizer: the model's tokenizer.
        sets: {name: NeuronSet}, the sets to deactivate, one at a time. No set may be called "none".
        texts: {language: texts}, each as in `perplexity`. Use held-out texts: not those that the sets were found with.
        scale: as in `deactivate`: the activations of the neurons are multiplied by it. 0 deactivates them.
        mean: as in `deactivate`: {site: (layers, neurons)}, values that the activations are set to. None: they are
            scaled.
        random_draws: how many random sets to measure for each set, with as many neurons in each site and layer. One
            draw says little, since draws can lie far apart; the command `ablate` takes 5.
        seed: seed of the random sets.
        max_length: as in `perplexity`.
        batch_tokens: as in `perplexity`.
        pack: as in `perplexity`.
        chat_template: as in `perplexity`.
        tokens: as in `perplexity`.
        workers: as in `detect`.
        checkpoint: as in `detect`.
        checkpoint_seconds: as in `detect`.
        checkpoint_documents: as in `detect`.
        progress: show progress on stderr.
        verify: as in `importance`.

    Returns:
        DataFrame of perplexities (float64). Rows: "none" (the model as it is) and the names of the sets, followed by
        "random 1 as NAME", "random 2 as NAME", ... for each of them. Columns: the languages.

    Raises:
        CorpusError: as `perplexity`; the message names the language.
        CheckpointError: as `detect`.
        UnsupportedModel: as `deactivate` and `perplexity`.
        ValueError: as `deactivate`, the message names the set; or a set is called "none" or as a random set; or
            `random_draws` is below 0; or as `perplexity`.
        NonFiniteActivations: as `perplexity`; the message names the language and the set.

    Warns:
        UserWarning: a set has no neurons.
    """
    import pandas

    all_sets = prepend_none(model, add_random_sets(sets, random_draws, seed))
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress, tokens)
    with unverified(not verify):
        sums = _sum_log_likelihoods(
            model,
            tokenizer,
            texts,
            all_sets,
            scale=scale,
            mean=mean,
            max_length=max_length,
            pack=pack,
            chat_template=chat_template,
            options=options,
            label="language {!r}",
        )
    columns = {
        language: {name: _perplexity(total, number, _label(language, name)) for number, name in enumerate(all_sets)}
        for language, total in sums.items()
    }
    return pandas.DataFrame(columns, index=list(all_sets))


def _label(language: str, set_name: str) -> str:
    return f"language {language!r}" + ("" if set_name == "none" else f" with set {set_name!r} off")


def _sum_log_likelihoods(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[str, Corpus],
    sets: Mapping[str, NeuronSet | None],
    *,
    scale: float,
    mean: Mapping[str, Tensor] | None,
    max_length: int,
    pack: int | None,
    chat_template: bool,
    options: Options,
    label: str,
) -> dict[str, Sums]:
    """Sums the log-likelihoods of every language's documents under every set.

    Args:
        model: as in `ablation_matrix`.
        tokenizer: as in `ablation_matrix`.
        texts: {language: texts}.
        sets: {name: NeuronSet, or None for the model as it is}.
        scale: as in `deactivate`.
        mean: as in `deactivate`.
        max_length: as in `perplexity`.
        pack: as in `perplexity`.
        chat_template: as in `perplexity`.
        options: how the pass is run.
        label: a format string that makes a language's name in messages.

    Returns:
        {language: Sums} with log_likelihood: (sets,) float64, nats; predicted: () int64, the number of predicted
        tokens.
    """
    model = unwrap(model)
    require_language_model(model)
    length = document_length(model, max_length, options.batch_tokens, pack)
    chat = chat_frame(tokenizer) if chat_template else None
    tokenisation = Tokenisation(tokenizer, length, pack, "predicted", chat)
    zero_sums = Sums(
        log_likelihood=torch.zeros(len(sets), dtype=torch.float64), predicted=torch.zeros((), dtype=torch.int64)
    )

    def check(language: str, total: Sums, _: CorpusReport) -> None:
        if not total["predicted"]:
            raise CorpusError(f"{label.format(language)}: no token to predict; give texts of at least two tokens")

    spread_over = process_count(model)
    assert options.batch_tokens is not None, "the functions of this module take a number"
    with LikelihoodProbe(model, list(sets.values()), scale, mean) as probe:
        likelihoods = SetLikelihoods(probe, len(sets), options.batch_tokens, halves=spread_over == 1)

        def measure(batch: Batch, source: BatchSource) -> Sums:
            lengths, starts = batch.attention_mask.sum(1), source.positions[batch.order]
            documents = [ids[:length] for ids, length in zip(batch.input_ids.numpy(), lengths.tolist())]
            return Sums(
                log_likelihood=likelihoods(documents, starts.tolist()).sum(0), predicted=(lengths - starts).sum()
            )

        job = Job(
            activity="perplexity",
            tokenisation=tokenisation,
            empty_statistics=lambda *_: zero_sums,
            measure=measure,
            identity=lambda: {"measure": _identity(sets, scale, mean), **identify_inputs(model, tokenisation)},
            check=check,
            content_label=label.format,
            corpus_label=label.format,
            spread_over=spread_over,
            halve_batches=False,  # SetLikelihoods halves its own batches, which hold a document once for each set
            group=length_group(model),
        )
        return {language: total for language, (total, _) in run_pass(texts, job, options).items()}


def _identity(sets: Mapping[str, NeuronSet | None], scale: float, mean: Mapping[str, Tensor] | None) -> str:
    """Hashes the sets, the scale and the means: a checkpoint belongs to one combination of them."""
    digest = hashlib.blake2b(repr(float(scale)).encode(), digest_size=16)
    groups: list[tuple[str, Mapping[str, Tensor]]] = [
        (name, {} if neurons is None else neurons.sites) for name, neurons in sets.items()
    ]
    for name, tensors in (*groups, ("mean", mean or {})):
        for site, values in sorted(tensors.items()):
            values = values.detach().cpu().contiguous()
            digest.update(repr((name, site, values.dtype, tuple(values.shape))).encode())
            digest.update(values.view(torch.uint8).numpy().tobytes())
        digest.update(repr((name, len(tensors))).encode())
    return f"log-likelihoods under {len(sets)} sets, {digest.hexdigest()}"


def _perplexity(total: Sums, set_number: int, label: str) -> float:
    log_likelihood = total["log_likelihood"][set_number].item()
    if not math.isfinite(log_likelihood):
        raise NonFiniteActivations(f"{label}: the loss is NaN or infinite: {NON_FINITE_ADVICE}")
    return float(numpy.exp(-log_likelihood / total["predicted"].item()))  # inf where math.exp would raise
