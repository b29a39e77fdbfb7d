"""What became of each language between two models, such as before and after fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy
from torch import nn

from pymultiling.methods.ablation import ablation_matrix
from pymultiling.methods.activations import activations
from pymultiling.methods.embeddings import sentence_embeddings
from pymultiling.methods.ilo import TAU, K, check_k_and_tau, ilo
from pymultiling.methods.ternary import Ternary, ternary
from pymultiling.methods.ternary_change import TernaryChange, ternary_change
from pymultiling.models.decoder import model_device

if TYPE_CHECKING:
    import pandas

OVERLAPS = ("bridge", "reach", "ilo")


class ModelMeasures(NamedTuple):
    """What `measure_model` found; None for what it was given no text for.

    Attributes:
        perplexity: Series by language.
        ternary: the neurons' kinds.
        ilo: DataFrame of `ilo`.
    """

    perplexity: pandas.Series | None
    ternary: Ternary | None
    ilo: pandas.DataFrame | None


class ModelComparison(NamedTuple):
    """What `compare_models` found; None for what one of the models was not measured on.

    Attributes:
        perplexity: DataFrame, a row a language: before, after, change = ln after - ln before, in nats a token.
        ternary: TernaryChange of the neurons' kinds.
        ilo: DataFrame, a row for each layer and language: layer, language, and of each of bridge, reach and ilo
            NAME_before, NAME_after, NAME_change = after - before.
    """

    perplexity: pandas.DataFrame | None
    ternary: TernaryChange | None
    ilo: pandas.DataFrame | None


def measure_model(
    model: nn.Module,
    tokenizer,
    *,
    texts: Mapping[str, object] | None = None,
    sentences: Mapping[str, Iterable[str | None]] | None = None,
    ternary_options: Mapping[str, object] | None = None,
    ilo_options: Mapping[str, object] | None = None,
    max_length: int = 512,
    batch_tokens: int = 4096,
    pack: int | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> ModelMeasures:
    """A model by language: perplexity, kinds of neuron, and overlap of the sentences.

    Args:
        model: a Hugging Face decoder of a supported family; also one that still trains some neurons.
        tokenizer: its tokenizer.
        texts: {language: texts}, held-out ones, as `detect` takes them, for perplexity and, of two languages or more,
            the kinds of neuron. They are held in memory.
        sentences: {language: sentences}, as `sentence_embeddings` takes them, for ILO.
        ternary_options: arguments of `ternary`.
        ilo_options: arguments of `ilo`; its device is the model's unless another is given.
        max_length, batch_tokens, progress: as in `detect`; pack: of the texts.
        folder: for the sentences' embeddings, as in `sentence_embeddings`; None: they are in memory.

    Raises:
        ValueError: neither texts nor sentences are given; and as `ternary` and `ilo`.
        CorpusError, NonFiniteActivations, UnsupportedModel: as `perplexity`, `activations`, `sentence_embeddings`.
    """
    if not texts and not sentences:
        raise ValueError("there is nothing to measure the model on: give texts, or sentences")
    ilo_options = {"device": model_device(model), **(ilo_options or {})}
    if sentences:  # before the texts take their time
        check_k_and_tau(ilo_options.get("k", K), ilo_options.get("tau", TAU), len(sentences))
    common = {"max_length": max_length, "batch_tokens": batch_tokens}
    of_texts, kinds, overlap = None, None, None
    if texts:
        texts = _held(texts)
        matrix = ablation_matrix(model, tokenizer, {}, texts, pack=pack, progress=progress, **common)
        of_texts = matrix.loc["none"].rename("perplexity").rename_axis("language")
        if len(texts) > 1:
            counts = activations(model, tokenizer, texts, pack=pack, progress=progress, **common)
            kinds = ternary(counts, **ternary_options or {})
    if sentences:
        points = sentence_embeddings(model, tokenizer, sentences, folder=folder, progress=progress, **common)
        overlap = ilo(points, **ilo_options)
    return ModelMeasures(of_texts, kinds, overlap)


def compare_models(
    before: nn.Module | ModelMeasures, after: nn.Module | ModelMeasures, tokenizer=None, **options
) -> ModelComparison:
    """What changed by language: perplexity, kinds of neuron, and overlap of the sentences.

        pml.compare_models(base, tuned, tokenizer, texts=held_out, sentences=parallel)

    Args:
        before, after: two models of one shape, or what `measure_model` found of them: then a base is measured once for
            many, and only one model need be in memory at a time.
        tokenizer, options: of `measure_model`, for both; ternary's lam="auto" finds each model's own.

    Returns:
        ModelComparison.

    Raises:
        ValueError: the models have different shapes, or were measured on other languages; options are given for models
            that are measured already, or no tokenizer for one that is not; and all that `measure_model` raises.
    """
    measured = [isinstance(one, ModelMeasures) for one in (before, after)]
    if all(measured) and (tokenizer or options):
        raise ValueError("both models are measured already: a tokenizer and options would change nothing")
    if not all(measured) and tokenizer is None:
        raise ValueError("a model is measured with its tokenizer: give it")
    options |= {name: _held(options[name]) for name in ("texts", "sentences") if options.get(name)}  # for both models
    first, second = (
        one if isinstance(one, ModelMeasures) else measure_model(one, tokenizer, **options) for one in (before, after)
    )
    changes = zip((perplexity_change, ternary_change, _overlaps), first, second)
    return ModelComparison(*(None if a is None or b is None else change(a, b) for change, a, b in changes))


def _held(texts: Mapping[str, object]) -> dict[str, object]:
    """Texts that can be read more than once; a mapping is no texts, which is said where it is read."""
    return {name: some if isinstance(some, (str, Path, Mapping)) else list(some) for name, some in texts.items()}


def perplexity_change(before: pandas.Series, after: pandas.Series) -> pandas.DataFrame:
    """As `ModelComparison.perplexity`, of perplexities by language."""
    import pandas

    _require_same("texts", before.index, after.index)
    table = pandas.DataFrame({"before": before, "after": after.reindex(before.index)})
    return table.assign(change=numpy.log(table["after"]) - numpy.log(table["before"]))


def _overlaps(before: pandas.DataFrame, after: pandas.DataFrame) -> pandas.DataFrame:
    _require_same("sentences", before["language"].unique(), after["language"].unique())
    if before["layer"].max() != after["layer"].max():
        raise ValueError(
            f"the models have {before['layer'].max()} and {after['layer'].max()} layers: they are not compared"
        )
    table = before.merge(after, on=["layer", "language"], suffixes=("_before", "_after"), sort=False)
    for name in OVERLAPS:
        table[f"{name}_change"] = table[f"{name}_after"] - table[f"{name}_before"]
    order = (f"{name}_{when}" for name in OVERLAPS for when in ("before", "after", "change"))
    return table[["layer", "language", *order]]


def _require_same(what: str, before: Iterable[str], after: Iterable[str]) -> None:
    before, after = list(before), list(after)
    if set(before) != set(after):
        raise ValueError(
            f"the languages of the {what} must be the same: {', '.join(before)} before, {', '.join(after)} after"
        )
