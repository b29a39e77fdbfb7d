"""The languages of the tokens that a model's layers decode to (logit lens; arXiv 2402.18815, figure 1)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.data.chat import chat_frame
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import document_length
from pymultiling.data.languages import match_language
from pymultiling.data.tokenising import Tokenisation
from pymultiling.errors import BackendUnavailable, CorpusError
from pymultiling.models.length_scaling import length_group
from pymultiling.models.unwrap import unwrap
from pymultiling.passes.corpus_pass import run_pass
from pymultiling.passes.job import BatchSource, Job, Options, identify_inputs
from pymultiling.passes.pending import Pending
from pymultiling.passes.sums import Sums
from pymultiling.probes.hidden_states import TopTokenProbe
from pymultiling.probes.verification.entry import unverified
from pymultiling.runtime.processes import is_first_process
from pymultiling.runtime.progress import show_progress

if TYPE_CHECKING:
    from types import ModuleType

    import pandas
    from lingua import Language
    from transformers import PreTrainedTokenizerBase

    from pymultiling.data.corpus_types import Corpus

OTHER = "other"
WORDS_AT_A_TIME = 4096  # words that lingua identifies in one call
# Expectation maximisation ends after MAX_STEPS steps, or when every share changes by less than MIN_CHANGE. The shares
# are then right to 0.001.
MAX_STEPS, MIN_CHANGE = 1000, 1e-6

# {tokenizer: {(language codes, size of the vocabulary, number of tokens): confidences}}
_confidences: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[tuple[str, ...], int, int], Tensor]] = (
    WeakKeyDictionary()
)


def lens(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Corpus,
    *,
    languages: Iterable[str] | None = None,
    top: int = 10,
    max_length: int = 512,
    batch_tokens: int = 4096,
    pack: int | None = None,
    tokens: int | None = None,
    chat_template: bool = False,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = True,
    verify: bool = True,
) -> pandas.DataFrame:
    """Estimates the share of each language among the tokens that the hidden states of every layer decode to.

    At every position the output of each layer passes the final norm and the language-model head, and the `top` most
    probable tokens are counted: count[l, v]. Most tokens are pieces of words that many languages of a script share
    ("de", "ation"), so a token is not assigned to one language. Instead, the shares of a layer are those that make its
    tokens most likely, found by expectation maximisation:

        share[l] = argmax_s  sum_v count[l, v] log sum_L s[L] p(v | L),    s >= 0,  sum_L s[L] = 1

    p(v | L) is, up to a factor that depends on v alone, the confidence that the letters of token v are in language L.
    It comes from lingua, an offline identifier of 75 languages. A piece thus counts for the languages that the layer's
    other tokens point to, and a token of a script that only one language uses counts for that language.

    "other" is the share of tokens that say nothing about the language: numbers, punctuation, special tokens, parts of a
    character, and scripts of none of the languages. The shares of the languages are scaled so that all shares of a
    layer add up to 1. For texts whose languages are known, the shares are right to some 5 percentage points; shares
    of a few percent may be noise.

    Under torchrun, or wherever torch.distributed is initialised, all processes must make this call. Each decodes a part
    of the texts, and all return the table of all texts. Memory does not grow with the texts.

    Source: the question and the figure are those of arXiv 2402.18815, figure 1; the estimate is this package's own.

    Args:
        model: a Hugging Face decoder of a supported family, with a language-model head.
        tokenizer: the model's tokenizer.
        texts: an iterable of str or of records, or a path, as one corpus of `detect`.
        languages: the languages to tell apart, two or more ISO 639-1 codes. None: all that lingua knows. A language
            that is not listed is taken for the most similar listed language of its script.
        top: number of tokens that are counted at each position, from 1 to the size of the vocabulary.
        max_length: as in `detect`.
        batch_tokens: as in `detect`.
        pack: as in `detect`.
        tokens: as in `detect`.
        chat_template: as in `detect`: only the positions of the texts' own tokens are decoded.
        workers: as in `detect`.
        checkpoint: as in `detect`.
        checkpoint_seconds: as in `detect`.
        checkpoint_documents: as in `detect`.
        progress: show progress on stderr.
        verify: as in `importance`.

    Returns:
        DataFrame with a row for each layer and language. Columns: layer, language (a code, or "other"), share (0 to 1).
        Layer 0 is the input of the first layer, layer l the output of layer l; the last layer is the model's own
        prediction. `attrs["corpus"]` is the CorpusReport of the texts.

    Raises:
        BackendUnavailable: lingua is not installed.
        CorpusError: the texts cannot be read, or there are none.
        CheckpointError: as `detect`.
        UnsupportedModel: as `importance`; or the model has no language-model head or no final norm.
        NonFiniteActivations: hidden states are NaN or infinite; the message names layer and document.
        ValueError: unknown, repeated or fewer than two languages; an argument is out of its range; or as `detect`
            for `chat_template`.
    """
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress, tokens)
    codes = lens_language_codes(languages)
    with unverified(not verify):
        counts = count_top_tokens(
            model,
            tokenizer,
            {"texts": texts},
            top=top,
            max_length=max_length,
            pack=pack,
            chat_template=chat_template,
            options=options,
            named="the texts",
        )
    return lens_tables(counts, tokenizer, codes, progress and is_first_process())["texts"]


def lens_tables(
    counts: Mapping[str, tuple[Tensor, CorpusReport]],
    tokenizer: PreTrainedTokenizerBase,
    codes: Sequence[str],
    progress: bool,
) -> dict[str, pandas.DataFrame]:
    """Makes the table of `lens` for each of several texts.

    Args:
        counts: as `count_top_tokens` returns them.
        tokenizer: the model's tokenizer.
        codes: the languages to tell apart, as `lens_language_codes` returns them.
        progress: show progress on stderr.

    Returns:
        {name of the texts: DataFrame}.
    """
    return {
        name: _table(token_counts, codes, token_confidences(tokenizer, codes, token_counts.shape[1], progress), report)
        for name, (token_counts, report) in counts.items()
    }


def _table(counts: Tensor, codes: Sequence[str], confidences: Tensor, report: CorpusReport) -> pandas.DataFrame:
    import pandas

    shares = language_shares(counts, confidences)
    rows = [
        (layer, code, share)
        for layer, layer_shares in enumerate(shares.tolist())
        for code, share in zip([*codes, OTHER], layer_shares)
    ]
    table = pandas.DataFrame(rows, columns=["layer", "language", "share"])
    table.attrs["corpus"] = report
    return table


def count_top_tokens(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[str, Corpus],
    *,
    top: int,
    max_length: int,
    pack: int | None,
    chat_template: bool = False,
    options: Options,
    named: str = "texts {!r}",
) -> dict[str, tuple[Tensor, CorpusReport]]:
    """Counts how often each token is among the top tokens of a layer, for each of several texts.

    Args:
        model: as in `lens`.
        tokenizer: as in `lens`.
        texts: {name: texts}, each as in `lens`.
        top: as in `lens`.
        max_length: as in `detect`.
        pack: as in `detect`.
        chat_template: as in `lens`.
        options: how the pass is run.
        named: a format string that makes the name of the texts in messages.

    Returns:
        {name: ((layers + 1, vocabulary) int64, the report on the texts)}.

    Raises:
        CorpusError: as `lens`.
        CheckpointError: as `lens`.
        UnsupportedModel: as `lens`.
        NonFiniteActivations: as `lens`.
        ValueError: as `lens`.
    """
    model = unwrap(model)
    probe = TopTokenProbe(model, top)
    length = document_length(model, max_length, options.batch_tokens, pack)
    tokenisation = Tokenisation(tokenizer, length, pack, chat=chat_frame(tokenizer) if chat_template else None)

    def measure(batch: Batch, source: BatchSource) -> Pending[Sums]:
        counted = batch.counted(source.positions[batch.order])
        counts, require_finite = probe.launch(batch.input_ids, batch.attention_mask, counted)
        return Pending.checked(Sums(counts=counts), len(batch.order), require_finite)

    def check(name: str, total: Sums, report: CorpusReport) -> None:
        if not total["counts"].any():
            reason = str(report) or "nothing was read"
            raise CorpusError(f"{named.format(name)}: no documents to decode: {reason}")

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
        group=length_group(model),
    )
    return {name: (total["counts"], report) for name, (total, report) in run_pass(texts, job, options).items()}


def language_shares(counts: Tensor, confidences: Tensor) -> Tensor:
    """Computes the shares of `lens` from token counts.

    Args:
        counts: (layers, vocabulary), how often each token is among the top tokens of each layer.
        confidences: (vocabulary, languages), as `token_confidences` returns them; all 0 for tokens that are "other".

    Returns:
        (layers, languages + 1) float64. The last column is "other".
    """
    informative = (confidences > 0).any(1) & (counts > 0).any(0)
    weights = counts[:, informative].T.double()  # (tokens, layers)
    likelihoods = confidences[informative].double()  # (tokens, languages)
    total = weights.sum(0)
    weights /= total.clamp(min=1)
    languages = likelihoods.shape[1]
    shares = torch.full((languages, counts.shape[0]), 1 / languages, dtype=torch.float64)
    for _ in range(MAX_STEPS):
        before = shares
        shares = shares * (likelihoods.T @ (weights / (likelihoods @ shares).clamp(min=1e-300)))
        if (shares - before).abs().max() < MIN_CHANGE:
            break
    informative_fraction = total / counts.sum(1).clamp(min=1)
    return torch.cat([informative_fraction * shares, 1 - informative_fraction[None]]).T


def lens_language_codes(languages: Iterable[str] | None = None) -> tuple[str, ...]:
    """Checks the codes of languages that `lens` is to tell apart.

    Args:
        languages: ISO 639-1 codes, or other names of languages (fra_Latn, French). None: all languages that lingua
            knows.

    Returns:
        The ISO 639-1 codes in the order of `languages`. For None all known codes, in alphabetical order.

    Raises:
        BackendUnavailable: lingua is not installed.
        ValueError: lingua does not know a language, a language is repeated, or there are fewer than two.
    """
    known = sorted(_code(language) for language in _import_lingua().Language.all())
    if languages is None:
        return tuple(known)
    codes = tuple(match_language(language, known) or language for language in languages)
    if unknown := [code for code in codes if code not in known]:
        raise ValueError(f"languages must be among {', '.join(known)}, got {', '.join(map(repr, unknown))}")
    if len(codes) < 2 or len(set(codes)) < len(codes):
        raise ValueError(
            f"languages must be two or more different ones to be told apart, got {', '.join(codes) or 'none'}"
        )
    return codes


def token_confidences(
    tokenizer: PreTrainedTokenizerBase, codes: Sequence[str], vocabulary: int, progress: bool = False
) -> Tensor:
    """Returns lingua's confidence that the letters of a token are in each of the languages.

    The result is cached as long as the tokenizer lives.

    Args:
        tokenizer: the model's tokenizer.
        codes: ISO 639-1 codes of the languages.
        vocabulary: size of the model's vocabulary.
        progress: show progress on stderr.

    Returns:
        (vocabulary, languages) float32; 0 for tokens without letters, special tokens and ids that the tokenizer lacks.
    """
    cached = _confidences.setdefault(tokenizer, {})
    key = tuple(codes), vocabulary, len(tokenizer)
    if key not in cached:
        cached[key] = _identify(_words(tokenizer, vocabulary), codes, progress)
    return cached[key]


def _words(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> list[str]:
    """Returns the letters of every token; "" for a token that has none or is special."""
    special_ids = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special_ids.update(tokenizer.all_special_ids)
    ids = range(min(vocabulary, len(tokenizer)))
    words = ["" if token in special_ids else _letters(cast("str", tokenizer.decode([token]))) for token in ids]
    return words + [""] * (vocabulary - len(words))


def _letters(text: str) -> str:
    """Replaces all characters but letters and combining marks by spaces; returns "" if there is no letter."""
    letters = "".join(
        character if character.isalpha() or unicodedata.category(character)[0] == "M" else " " for character in text
    )
    return letters.strip() if any(map(str.isalpha, letters)) else ""


def _identify(words: list[str], codes: Sequence[str], progress: bool) -> Tensor:
    """Returns (words, languages) float32: lingua's confidences, 0 for empty words."""
    lingua = _import_lingua()
    languages = [lingua.IsoCode639_1.from_str(code.upper()) for code in codes]
    detector = lingua.LanguageDetectorBuilder.from_iso_codes_639_1(*languages).build()
    column = {code: number for number, code in enumerate(codes)}
    confidences = torch.zeros(len(words), len(codes))
    different_words = sorted({word for word in words if word})
    rows: dict[str, list[float]] = {}
    with show_progress("languages of the vocabulary", "words", progress, len(different_words)) as bar:
        for start in range(0, len(different_words), WORDS_AT_A_TIME):
            some_words = different_words[start : start + WORDS_AT_A_TIME]
            for word, values in zip(some_words, detector.compute_language_confidence_values_in_parallel(some_words)):
                rows[word] = [0.0] * len(codes)
                for value in values:
                    rows[word][column[_code(value.language)]] = value.value
            bar.update(len(some_words))
    detector.unload_language_models()  # they take more than a gigabyte
    for number, word in enumerate(words):
        if word:
            confidences[number] = torch.tensor(rows[word])
    return confidences


def _code(language: Language) -> str:
    return language.iso_code_639_1.name.lower()


def _import_lingua() -> ModuleType:
    try:
        import lingua
    except ImportError:
        raise BackendUnavailable("the lens needs lingua: pip install 'pymultiling[lens]'") from None
    return lingua
