"""Comparison of two models by language, for example before and after fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict, TypeVar, Unpack, cast

import numpy
from torch import nn

from pymultiling.methods.ablation import ablation_matrix
from pymultiling.methods.activations import activations
from pymultiling.methods.embeddings import sentence_embeddings
from pymultiling.methods.ilo import TAU, K, check_k_and_tau, ilo
from pymultiling.methods.ternary import Ternary, ternary
from pymultiling.methods.ternary_change import TernaryChange, ternary_change
from pymultiling.models.decoder import model_device
from pymultiling.models.unwrap import unwrap
from pymultiling.runtime.short_repr import short_repr

if TYPE_CHECKING:
    import pandas
    import torch
    from transformers import PreTrainedTokenizerBase

    from pymultiling.data.corpus_types import Corpus
    from pymultiling.methods.ternary import TernaryScale
    from pymultiling.ops.arguments import Metric

ILO_COLUMNS = ("bridge", "reach", "ilo")

_Texts = TypeVar("_Texts")


class TernaryOptions(TypedDict, total=False):
    """Keyword arguments of `ternary`.

    Attributes:
        top: as in `ternary`.
        bar: as in `ternary`.
        lam: as in `ternary`.
        scale: as in `ternary`.
    """

    top: float
    bar: float
    lam: float | Literal["auto"]
    scale: TernaryScale


class IloOptions(TypedDict, total=False):
    """Keyword arguments of `ilo`.

    Attributes:
        k: as in `ilo`.
        tau: as in `ilo`.
        metric: as in `ilo`.
        device: as in `ilo`.
    """

    k: int
    tau: int
    metric: Metric
    device: torch.device | str | None


class MeasureOptions(TypedDict, total=False):
    """Keyword arguments of `measure_model`.

    Attributes:
        texts: as in `measure_model`.
        sentences: as in `measure_model`.
        ternary_options: as in `measure_model`.
        ilo_options: as in `measure_model`.
        max_length: as in `measure_model`.
        batch_tokens: as in `measure_model`.
        pack: as in `measure_model`.
        folder: as in `measure_model`.
        progress: as in `measure_model`.
    """

    texts: Mapping[str, Corpus] | None
    sentences: Mapping[str, Iterable[str | None]] | None
    ternary_options: TernaryOptions | None
    ilo_options: IloOptions | None
    max_length: int
    batch_tokens: int
    pack: int | None
    folder: str | Path | None
    progress: bool


class ModelMeasures(NamedTuple):
    """The result of `measure_model`. A part is None if there was no input for it.

    Attributes:
        perplexity: Series of float, the perplexity of each language (the index).
        ternary: the ternary neurons, as `ternary` returns them. None also for texts of a single language.
        ilo: DataFrame, as `ilo` returns it.
    """

    perplexity: pandas.Series[float] | None
    ternary: Ternary | None
    ilo: pandas.DataFrame | None

    def __repr__(self) -> str:
        return short_repr(self)


class ModelComparison(NamedTuple):
    """The result of `compare_models`. A part is None if one of the models was not measured on it.

    Attributes:
        perplexity: DataFrame with a row for each language (the index). Columns: before, after and change = ln after -
            ln before, in nats per token.
        ternary: the change of the ternary neurons, as `ternary_change` returns it.
        ilo: DataFrame with a row for each layer and language. Columns: layer, language, and for each NAME of bridge,
            reach and ilo: NAME_before, NAME_after and NAME_change = after - before.
    """

    perplexity: pandas.DataFrame | None
    ternary: TernaryChange | None
    ilo: pandas.DataFrame | None

    def __repr__(self) -> str:
        return short_repr(self)


def measure_model(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    *,
    texts: Mapping[str, Corpus] | None = None,
    sentences: Mapping[str, Iterable[str | None]] | None = None,
    ternary_options: TernaryOptions | None = None,
    ilo_options: IloOptions | None = None,
    max_length: int = 512,
    batch_tokens: int = 4096,
    pack: int | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> ModelMeasures:
    """Measures a model by language: perplexity, ternary neurons, and interlingual local overlap (ILO).

    Args:
        model: a Hugging Face decoder with a language-model head, of a supported family. It may be inside `train_only`.
        tokenizer: the model's tokenizer.
        texts: {language: texts}, held-out texts as `detect` takes them. They are measured for perplexity and, if
            there are two languages or more, for ternary neurons. They are held in memory.
        sentences: {language: sentences}, as `sentence_embeddings` takes them, for ILO.
        ternary_options: keyword arguments of `ternary`, such as {"top": 0.01}.
        ilo_options: keyword arguments of `ilo`, such as {"k": 5}. The device is the model's unless it is given.
        max_length: as in `detect`.
        batch_tokens: as in `detect`.
        pack: as in `perplexity` and `detect`, for the texts. Sentences are not packed.
        folder: as in `sentence_embeddings`. None: the embeddings are in memory.
        progress: show progress on stderr.

    Returns:
        The measures. Those without input are None.

    Raises:
        CorpusError: as `perplexity`, `activations` and `sentence_embeddings`.
        NonFiniteActivations: as `perplexity`, `activations` and `sentence_embeddings`.
        UnsupportedModel: as `activations` and `sentence_embeddings`.
        ValueError: neither texts nor sentences are given; or as `ternary` and `ilo`.
    """
    if not texts and not sentences:
        raise ValueError("there is nothing to measure the model on: give texts or sentences")
    model = unwrap(model)
    ilo_arguments: IloOptions = {"device": model_device(model)}
    ilo_arguments.update(ilo_options or {})
    if sentences:  # before the texts take their time
        check_k_and_tau(ilo_arguments.get("k", K), ilo_arguments.get("tau", TAU), len(sentences))
    perplexities, ternary_neurons, overlap = None, None, None
    if texts:
        texts = _make_rereadable(texts)
        matrix = ablation_matrix(
            model,
            tokenizer,
            {},
            texts,
            max_length=max_length,
            batch_tokens=batch_tokens,
            pack=pack,
            progress=progress,
        )
        unchanged = cast("pandas.Series[float]", matrix.loc["none"])
        perplexities = unchanged.rename("perplexity").rename_axis("language")
        if len(texts) > 1:
            counts = activations(
                model,
                tokenizer,
                texts,
                max_length=max_length,
                batch_tokens=batch_tokens,
                pack=pack,
                progress=progress,
            )
            ternary_neurons = ternary(counts, **(ternary_options or {}))
    if sentences:
        embeddings = sentence_embeddings(
            model,
            tokenizer,
            sentences,
            max_length=max_length,
            batch_tokens=batch_tokens,
            folder=folder,
            progress=progress,
        )
        overlap = ilo(embeddings, **ilo_arguments)
    return ModelMeasures(perplexities, ternary_neurons, overlap)


def compare_models(
    before: nn.Module | ModelMeasures,
    after: nn.Module | ModelMeasures,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **options: Unpack[MeasureOptions],
) -> ModelComparison:
    """Compares two models by language: perplexity, ternary neurons, and interlingual local overlap (ILO).

        pml.compare_models(base, tuned, tokenizer, texts=held_out, sentences=parallel)

    Args:
        before: the first model, or the result of `measure_model` for it. With a result, a base model is measured once
            for many comparisons, and only one model need be in memory at a time.
        after: the second model, of the same shape, or the result of `measure_model` for it.
        tokenizer: the tokenizer of both models. None if both models are measured already.
        **options: keyword arguments of `measure_model`, for both models; none if both are measured already. With
            lam="auto" `ternary` finds a lam for each model.

    Returns:
        The changes. Those of a part that one of the models was not measured on are None.

    Raises:
        CorpusError: as `measure_model`.
        NonFiniteActivations: as `measure_model`.
        UnsupportedModel: as `measure_model`.
        ValueError: the models have different shapes or were measured in different languages; a tokenizer or options are
            given though both models are measured already, or no tokenizer though one is not; or as `measure_model`.
    """
    if isinstance(before, ModelMeasures) and isinstance(after, ModelMeasures):
        if tokenizer or options:
            raise ValueError("both models are measured already: leave out the tokenizer and the options")
    elif tokenizer is None:
        raise ValueError("a model is measured with its tokenizer: pass tokenizer")
    if texts := options.get("texts"):
        options["texts"] = _make_rereadable(texts)
    if sentences := options.get("sentences"):
        options["sentences"] = _make_rereadable(sentences)
    old, new = (_measures(model, tokenizer, options) for model in (before, after))
    perplexity = None
    if old.perplexity is not None and new.perplexity is not None:
        perplexity = perplexity_change(old.perplexity, new.perplexity)
    ternary_neurons = None
    if old.ternary is not None and new.ternary is not None:
        ternary_neurons = ternary_change(old.ternary, new.ternary)
    overlap = None
    if old.ilo is not None and new.ilo is not None:
        overlap = _ilo_change(old.ilo, new.ilo)
    return ModelComparison(perplexity, ternary_neurons, overlap)


def _measures(
    model: nn.Module | ModelMeasures, tokenizer: PreTrainedTokenizerBase | None, options: MeasureOptions
) -> ModelMeasures:
    if isinstance(model, ModelMeasures):
        return model
    assert tokenizer is not None  # compare_models has checked it
    return measure_model(model, tokenizer, **options)


def _make_rereadable(texts: Mapping[str, _Texts]) -> dict[str, _Texts]:
    """Returns texts that can be read more than once.

    A mapping in place of a corpus is an error. It is returned as it is, so that the reader of corpora refuses it.
    """
    rereadable: dict[str, _Texts] = {}
    for name, corpus in texts.items():
        if isinstance(corpus, (str, Path, Mapping)):
            rereadable[name] = corpus
        else:
            rereadable[name] = cast("_Texts", list(cast("Iterable[object]", corpus)))
    return rereadable


def perplexity_change(before: pandas.Series[float], after: pandas.Series[float]) -> pandas.DataFrame:
    """Compares perplexities by language.

    Args:
        before: the perplexity of each language (the index).
        after: the perplexity of each language for the second model.

    Returns:
        As `ModelComparison.perplexity`.

    Raises:
        ValueError: the languages are not the same.
    """
    import pandas

    _require_same_languages("texts", before.index, after.index)
    table = pandas.DataFrame({"before": before, "after": after.reindex(before.index)})
    return table.assign(change=numpy.log(table["after"]) - numpy.log(table["before"]))


def _ilo_change(before: pandas.DataFrame, after: pandas.DataFrame) -> pandas.DataFrame:
    _require_same_languages("sentences", before["language"].unique(), after["language"].unique())
    if before["layer"].max() != after["layer"].max():
        raise ValueError(
            f"the models have {before['layer'].max()} and {after['layer'].max()} layers and cannot be compared: give "
            "models of the same shape"
        )
    table = before.merge(after, on=["layer", "language"], suffixes=("_before", "_after"), sort=False)
    for name in ILO_COLUMNS:
        table[f"{name}_change"] = table[f"{name}_after"] - table[f"{name}_before"]
    order = (f"{name}_{suffix}" for name in ILO_COLUMNS for suffix in ("before", "after", "change"))
    return table[["layer", "language", *order]]


def _require_same_languages(inputs: str, before: Iterable[str], after: Iterable[str]) -> None:
    before, after = list(before), list(after)
    if set(before) != set(after):
        raise ValueError(
            f"the languages of the {inputs} must be the same: {', '.join(before)} before, {', '.join(after)} after"
        )
