"""The tables of arXiv 2503.11280 before training: interlingual local overlap by language and layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pymultiling.data.languages import find_language, match_language
from pymultiling.data.parallel_texts import read_columns
from pymultiling.errors import CorpusError
from pymultiling.mathematics.bootstrap import resampling_weights
from pymultiling.methods.embeddings import sentence_embeddings
from pymultiling.methods.ilo import TAU, K, neighbour_languages, overlap_of_samples
from pymultiling.methods.reproduction.data_folder import DataFolder
from pymultiling.methods.reproduction.plan import (
    Notes,
    Setup,
    Stream,
    TimeLimit,
    interval_ends,
    measure_evenly,
    model_note,
)
from pymultiling.methods.retrieval import cka, retrieval
from pymultiling.models.unwrap import unwrap
from pymultiling.probes.hidden_states import SentenceMeanProbe

if TYPE_CHECKING:
    import pandas

# The 31 languages of the paper's script.
PAPER_LANGUAGES = [
    "swe_Latn",
    "nld_Latn",
    "bjn_Latn",
    "jav_Latn",
    "tgl_Latn",
    "ind_Latn",
    "rus_Cyrl",
    "ces_Latn",
    "dan_Latn",
    "eng_Latn",
    "ukr_Cyrl",
    "tel_Telu",
    "srp_Cyrl",
    "fra_Latn",
    "tha_Thai",
    "ban_Latn",
    "zho_Hans",
    "deu_Latn",
    "sun_Latn",
    "hin_Deva",
    "pol_Latn",
    "slv_Latn",
    "yue_Hant",
    "sin_Sinh",
    "spa_Latn",
    "urd_Arab",
    "gle_Latn",
    "swh_Latn",
    "ben_Beng",
    "jpn_Jpan",
    "min_Latn",
]
BLOCK = 64  # sentences of a language that are measured at a time
MAX_LENGTH = 512  # tokens of a sentence
AT_LEAST = 8  # sentences of each language, however short the time is
EMBEDDINGS_PART = 0.85  # of the time; the rest is for the neighbours


@dataclass(frozen=True)
class IloInputs:
    """What is read before the model is loaded.

    Attributes:
        file: the table of translations.
        sentences: {language: sentences}; sentence i of all languages means the same, and none is missing.
        notes: what is known to differ from the paper by now.
    """

    file: Path
    sentences: dict[str, list[str]]
    notes: Notes


@dataclass(frozen=True)
class IloTables:
    """The result of `reproduce_ilo`.

    Attributes:
        ilo: the table of `ilo`, with the ends of the interval of each ILO: ilo_low, ilo_high.
        means: for each layer the mean ILO over the languages, with the ends of its interval.
        retrieval: the table of `retrieval`.
        cka: the table of `cka`.
        samples: on how many sentences the values stand.
        notes: what differs from the paper.
    """

    ilo: pandas.DataFrame
    means: pandas.DataFrame
    retrieval: pandas.DataFrame
    cka: pandas.DataFrame
    samples: pandas.DataFrame
    notes: Notes


def read_inputs(folder: DataFolder, names: Sequence[str] | None) -> IloInputs:
    """Reads the table of translations.

    Args:
        folder: the data folder.
        names: the languages to take; None: those of the paper that the table has.

    Raises:
        CorpusError: there is no table, a language is not in it, or it has too few languages or sentences.
    """
    notes, file = Notes(), folder.parallel()
    columns = read_columns(str(file))
    if names is None:
        found = {name: match_language(name, columns) for name in PAPER_LANGUAGES}
        languages = [column for column in dict.fromkeys(found.values()) if column is not None]
    else:
        languages = list(dict.fromkeys(find_language(name, columns, file) for name in names))
    if len(languages) <= TAU:
        raise CorpusError(f"{file} has {len(languages)} of the languages, and ILO needs more than {TAU}: add columns")
    if len(languages) < len(PAPER_LANGUAGES):
        notes.departures.append(f"languages: {len(languages)} ({', '.join(languages)}); the paper has 31")
    rows = [row for row in zip(*(columns[language] for language in languages)) if all(map(str.strip, row))]
    if len(rows) < AT_LEAST:
        raise CorpusError(f"{file} has {len(rows)} rows without an empty cell, and at least {AT_LEAST} are needed")
    return IloInputs(file, {name: list(column) for name, column in zip(languages, zip(*rows))}, notes)


def reproduce_ilo(setup: Setup, inputs: IloInputs, limit: TimeLimit) -> IloTables:
    """Measures ILO, retrieval and CKA of all layers, and goes on from the sentences that are measured already.

    The embeddings of all sentences are in memory: sentences x languages x (layers + 1) x hidden x 4 bytes.

    Source: arXiv 2503.11280.

    Args:
        setup: the model, and where the embeddings are kept.
        inputs: what `read_inputs` returned. Its notes get what is other than in the paper.
        limit: the time that may be taken; a few sentences are measured in any case.

    Returns:
        The tables.

    Raises:
        UnsupportedModel: as `sentence_embeddings`.
        NonFiniteActivations: as `sentence_embeddings`.
    """
    import pandas

    streams = {language: _stream(setup, language, texts) for language, texts in inputs.sentences.items()}
    measure_evenly(
        "embeddings",
        list(streams.values()),
        setup.measured,
        limit.part(EMBEDDINGS_PART),
        at_least=AT_LEAST,
        block=BLOCK,
        progress=setup.progress,
    )
    count = min(setup.measured.count(stream.name) for stream in streams.values())
    shape = (count, *SentenceMeanProbe(unwrap(setup.model)).shape)
    embeddings = {
        language: setup.measured.values(stream.name)[:count].view(shape) for language, stream in streams.items()
    }
    device = next(setup.model.parameters()).device
    table, means = _overlap(embeddings, device)
    samples = [("sentences", language, count, len(texts)) for language, texts in inputs.sentences.items()]
    _add_notes(inputs, setup.model)
    return IloTables(
        table,
        means,
        retrieval(embeddings, device=device),
        cka(embeddings, device=device),
        pandas.DataFrame(samples, columns=["measured", "language", "items", "of"]),
        inputs.notes,
    )


def _stream(setup: Setup, language: str, sentences: list[str]) -> Stream:
    def measure(start: int, stop: int) -> Tensor:
        embeddings = sentence_embeddings(
            setup.model,
            setup.tokenizer,
            {language: sentences[start:stop]},
            max_length=MAX_LENGTH,
            batch_tokens=setup.batch_tokens,
            workers=0,
            progress=False,
            verify=start == 0,
        )
        values = embeddings[language].flatten(1)
        if values.isnan().any():
            number = start + int(values.isnan().any(1).nonzero()[0]) + 1
            raise CorpusError(f"language {language!r}: sentence {number} has no token; remove the row")
        return values

    return Stream(f"embeddings.{language}", len(sentences), measure)


def _overlap(embeddings: Mapping[str, Tensor], device: torch.device) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Returns ILO by layer and language, and its mean by layer, with intervals.

    A sentence is drawn again in all languages at once. Its neighbours stay those that it has among all sentences.
    """
    import pandas

    count, layers = next(iter(embeddings.values())).shape[:2]
    weights = torch.cat([torch.ones(1, count, dtype=torch.float64), resampling_weights(count)])
    rows, means = [], []
    for layer in range(layers):
        values = []
        for language, has_neighbour in neighbour_languages(embeddings, layer, K, "cosine", device).items():
            samples = overlap_of_samples(has_neighbour, weights, TAU)
            values.append(samples[:, 2])
            rows.append((layer, language, *samples[0].tolist(), *interval_ends(samples[1:, 2], count)))
        mean = torch.stack(values).mean(0)
        means.append((layer, mean[0].item(), *interval_ends(mean[1:], count), count))
    columns = ["layer", "language", "bridge", "reach", "ilo", "ilo_low", "ilo_high"]
    return pandas.DataFrame(rows, columns=columns), pandas.DataFrame(
        means, columns=["layer", "ilo", "low", "high", "items"]
    )


def _add_notes(inputs: IloInputs, model: nn.Module) -> None:
    inputs.notes.departures[:0] = [
        model_note(model, "others"),
        f"sentences: the table {inputs.file.name}; the paper has FLORES-200, and its script reads the part dev",
        "neighbours: a sentence is never its own; the paper's code drops the nearest of k + 1 points instead",
    ]
    inputs.notes.left_out.append(
        "fine-tuning in one language, with and without frozen first layers, needs training: see the command tune"
    )
