"""Which languages a model's layers speak: their hidden states decoded to tokens (arXiv 2402.18815, figure 1)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import document_length
from pymultiling.data.tokenising import Tokenisation
from pymultiling.errors import BackendUnavailable, CorpusError
from pymultiling.models.decoder import model_device
from pymultiling.passes.corpus_pass import BatchSource, Job, Options, identify_inputs, run_pass
from pymultiling.passes.sums import Sums
from pymultiling.probes.hidden_states import TopTokenProbe
from pymultiling.runtime.processes import is_first
from pymultiling.runtime.progress import show_progress

if TYPE_CHECKING:
    import pandas

OTHER = "other"
WORDS = 4096  # that are identified at a time
STEPS, CHANGE = 1000, 1e-6  # of the search for shares: how many at most, and the change that ends it; right to 0.001

_kept: WeakKeyDictionary = WeakKeyDictionary()  # {tokenizer: {(codes, tokens): confidences}}


def lens(
    model: nn.Module,
    tokenizer,
    texts,
    *,
    languages: Iterable[str] | None = None,
    top: int = 10,
    max_length: int = 512,
    batch_tokens: int = 4096,
    pack: int | None = None,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = False,
) -> pandas.DataFrame:
    """The share of each language among the tokens that every layer's hidden states decode to.

    At every position, what each layer gives goes through the final norm and the language-model head, and the `top`
    tokens are counted, count[l, v]. Most tokens are pieces that many languages of a script share ("de", "ation"), so a
    token is not given to one language; the shares of a layer are those that make its tokens likeliest:

        share[l] = argmax_s  sum_v count[l, v] log sum_L s[L] p(v | L),    s >= 0,  sum_L s[L] = 1

    with p(v | L), up to a factor of v alone, the confidence of lingua, an offline identifier of 75 languages, that the
    letters of token v are in L: a piece counts for the languages that the layer's other tokens speak for, and one whose
    script a single language has counts for that language alone. Found by expectation maximisation.

    "other" is the share of tokens that say nothing: numbers, punctuation, special tokens, parts of a character, scripts
    of none of the languages. The languages' shares are scaled by the rest, so that all of a layer add up to 1. Of texts
    whose languages are known the shares come out right to some 5 points; those of a few percent may be noise.

    Args:
        model: a Hugging Face decoder of a supported family, with a language-model head.
        tokenizer: its tokenizer.
        texts: an iterable of str or rows, or a path, as `detect` takes them.
        languages: two or more codes (ISO 639-1) to tell apart; all that lingua knows, if None. A language that is not
            among them is taken for the most similar one of its script.
        top: tokens of each position.
        max_length, batch_tokens, pack, progress: as in `detect`.
        workers, checkpoint, checkpoint_seconds, checkpoint_documents: as in `detect`.

    Under torchrun, or wherever torch.distributed is initialised, every process must make this call: each measures a part of the
    texts, and all return the whole.

    Returns:
        DataFrame with a row for each layer and language: layer, language, share. Layer 0 is what the first layer reads,
        layer l the output of layer l, and the last the model's own prediction. Its attrs["corpus"] says what
        became of the texts, with which memory does not grow.

    Raises:
        BackendUnavailable: lingua is not installed.
        CorpusError: the texts cannot be read, or there are none.
        CheckpointError: as `detect`.
        UnsupportedModel: also where there is no head or no final norm.
        NonFiniteActivations: naming the document.
        ValueError: also for unknown languages or another top.
    """
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress)
    codes = lens_language_codes(languages)
    counted = {"top": top, "max_length": max_length, "pack": pack, "options": options}
    found = count_top_tokens(model, tokenizer, {"texts": texts}, named="the texts", **counted)
    return lens_tables(found, tokenizer, codes, progress and is_first())["texts"]


def lens_tables(
    found: Mapping[str, tuple[Tensor, CorpusReport]], tokenizer, codes: Sequence[str], progress: bool
) -> dict[str, pandas.DataFrame]:
    """The table of `lens` for each of what `count_top_tokens` found; codes: of `lens_language_codes`."""
    return {
        name: _table(counts, codes, token_confidences(tokenizer, codes, counts.shape[1], progress), report)
        for name, (counts, report) in found.items()
    }


def _table(counts: Tensor, codes: Sequence[str], confidences: Tensor, report: CorpusReport) -> pandas.DataFrame:
    import pandas

    shares = language_shares(counts, confidences)
    rows = [
        (layer, code, share)
        for layer, of_layer in enumerate(shares.tolist())
        for code, share in zip([*codes, OTHER], of_layer)
    ]
    table = pandas.DataFrame(rows, columns=["layer", "language", "share"])
    table.attrs["corpus"] = report
    return table


def count_top_tokens(
    model: nn.Module,
    tokenizer,
    texts: Mapping[str, object],
    *,
    top: int,
    max_length: int,
    pack: int | None,
    options: Options,
    named: str = "texts {!r}",
) -> dict[str, tuple[Tensor, CorpusReport]]:
    """Of each of the texts (layers + 1, vocabulary) int64, how often a token is among the top ones, and what became of them.

    named: what messages call the texts, with a place for their name where there are several; else as `lens`.
    """
    probe, device = TopTokenProbe(model, top), model_device(model)
    tokenisation = Tokenisation(tokenizer, document_length(model, max_length, options.batch_tokens, pack), pack)

    def measure(batch: Batch, _: BatchSource) -> Sums:
        return Sums(counts=probe.measure(batch.input_ids.to(device), batch.attention_mask.to(device)))

    def check(name: str, total: Sums, report: CorpusReport) -> None:
        if not total["counts"].any():
            why = str(report) or "nothing was read"
            raise CorpusError(f"{named.format(name)}: no documents to decode: {why}")

    job = Job(
        activity="decoding",
        tokenisation=tokenisation,
        empty_statistics=lambda *_: Sums(counts=probe.zero_counts()),
        measure=measure,
        identity=lambda: {"measure": f"top {top} tokens", **identify_inputs(model, tokenisation)},
        check=check,
        content_label=named.format,
        corpus_label=named.format,
        spread_over=probe.decoder.tensor_parallel.count,
    )
    found = run_pass(texts, job, options)
    return {name: (total["counts"], report) for name, (total, report) in found.items()}


def language_shares(counts: Tensor, confidences: Tensor) -> Tensor:
    """(layers, languages + 1) float64, the last of them "other": the shares of `lens`.

    Args:
        counts: (layers, vocabulary).
        confidences: (vocabulary, languages), all 0 for tokens that are "other".
    """
    telling = (confidences > 0).any(1) & (counts > 0).any(0)
    weights = counts[:, telling].T.double()  # (tokens, layers)
    given = confidences[telling].double()  # (tokens, languages)
    total = weights.sum(0)
    weights /= total.clamp(min=1)
    shares = torch.full((given.shape[1], counts.shape[0]), 1 / given.shape[1], dtype=torch.float64)
    for _ in range(STEPS):
        before = shares
        shares = shares * (given.T @ (weights / (given @ shares).clamp(min=1e-300)))
        if (shares - before).abs().max() < CHANGE:
            break
    told = total / counts.sum(1).clamp(min=1)
    return torch.cat([told * shares, 1 - told[None]]).T


def lens_language_codes(languages: Iterable[str] | None = None) -> tuple[str, ...]:
    """Codes (ISO 639-1) of languages that can be told apart: all that lingua knows, if None.

    Raises:
        BackendUnavailable: lingua is not installed.
        ValueError: lingua does not know one, or there are fewer than two, or one is given twice.
    """
    known = sorted(_code(language) for language in _lingua().Language.all())
    if languages is None:
        return tuple(known)
    codes = tuple(languages)
    if unknown := [code for code in codes if code not in known]:
        raise ValueError(f"languages must be among {', '.join(known)}, got {', '.join(map(repr, unknown))}")
    if len(codes) < 2 or len(set(codes)) < len(codes):
        raise ValueError("languages must be two or more different ones: there is nothing to tell apart")
    return codes


def token_confidences(tokenizer, codes: Sequence[str], vocabulary: int, progress: bool = False) -> Tensor:
    """(vocabulary, languages) float32: lingua's confidence that a token's letters are in each of the languages.

    0 for tokens without letters, special tokens and ids that the tokenizer does not have. Kept with the tokenizer.
    """
    kept = _kept.setdefault(tokenizer, {})
    key = tuple(codes), vocabulary, len(tokenizer)
    if key not in kept:
        kept[key] = _identify(_words(tokenizer, vocabulary), codes, progress)
    return kept[key]


def _words(tokenizer, vocabulary: int) -> list[str]:
    """The letters of every token; "" for one that has none or is special."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special.update(tokenizer.all_special_ids)
    ids = range(min(vocabulary, len(tokenizer)))
    words = ["" if token in special else _letters(tokenizer.decode([token])) for token in ids]
    return words + [""] * (vocabulary - len(words))


def _letters(text: str) -> str:
    """Spaces in place of all but letters and the signs that go on them; "" where there is no letter."""
    kept = "".join(one if one.isalpha() or unicodedata.category(one)[0] == "M" else " " for one in text)
    return kept.strip() if any(map(str.isalpha, kept)) else ""


def _identify(words: list[str], codes: Sequence[str], progress: bool) -> Tensor:
    lingua = _lingua()
    chosen = [lingua.IsoCode639_1.from_str(code.upper()) for code in codes]
    detector = lingua.LanguageDetectorBuilder.from_iso_codes_639_1(*chosen).build()
    place = {code: number for number, code in enumerate(codes)}
    found = torch.zeros(len(words), len(codes))
    different = sorted({word for word in words if word})
    confidences = {}
    with show_progress("languages of the vocabulary", "words", progress, len(different)) as bar:
        for start in range(0, len(different), WORDS):
            some = different[start : start + WORDS]
            for word, values in zip(some, detector.compute_language_confidence_values_in_parallel(some)):
                row = confidences[word] = [0.0] * len(codes)
                for one in values:
                    row[place[_code(one.language)]] = one.value
            bar.update(len(some))
    detector.unload_language_models()  # they take more than a gigabyte
    for number, word in enumerate(words):
        if word:
            found[number] = torch.tensor(confidences[word])
    return found


def _code(language) -> str:
    return language.iso_code_639_1.name.lower()


def _lingua():
    try:
        import lingua
    except ImportError:
        raise BackendUnavailable("the lens needs lingua: pip install 'pymultiling[lens]'") from None
    return lingua
