"""What the tables of arXiv 2403.09073 are made from: translations and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pymultiling.data.languages import find_language, match_language
from pymultiling.data.parallel_texts import read_columns
from pymultiling.errors import CorpusError
from pymultiling.methods import pmi
from pymultiling.methods.pmi.kinds_of_prompts import kinds_of_prompts, languages_shown
from pymultiling.methods.pmi.scores import require_sacrebleu
from pymultiling.methods.reproduction.data_folder import DataFolder
from pymultiling.methods.reproduction.plan import Notes

# Six inputs are added to the source. The order is ours.
SOURCE, TARGET = "deu_Latn", "eng_Latn"
OTHERS = ["spa_Latn", "rus_Cyrl", "fra_Latn", "zho_Hans", "jpn_Jpan", "ces_Latn"]
BLEU, LIKELIHOOD = "bleu", "likelihood"


@dataclass(frozen=True)
class PmiInputs:
    """What is read before the model is loaded.

    Attributes:
        file: the table of translations.
        source: the language of the original input.
        others: the languages that are added to it, in order; the first is the pivot too.
        target: the language of the answers.
        prompts: {"direct", "pivot", "PMI-1", ...: the prompt of each item}.
        languages: {kind of prompt: number of languages that it shows}.
        references: the right answer of each item.
        metric: "bleu" or "likelihood".
        notes: what is known to differ from the paper by now.
    """

    file: Path
    source: str
    others: list[str]
    target: str
    prompts: dict[str, list[str]]
    languages: dict[str, int]
    references: list[str]
    metric: str
    notes: Notes


def read_inputs(folder: DataFolder, names: Sequence[str] | None, metric: str | None) -> PmiInputs:
    """Reads the table of translations and makes the prompts.

    Args:
        folder: the data folder.
        names: the source and the languages to add, in order; None: German and those of `OTHERS` that the table has.
        metric: "bleu", or "likelihood" for the mean log-likelihood of the reference's tokens; None: "bleu".

    Raises:
        CorpusError: there is no table, a language is not in it or is that of the answers, or there are too few.
        BackendUnavailable: sacrebleu is not installed, and the metric needs it.
        ValueError: another metric, or the English name of a language is unknown.
    """
    metric = BLEU if metric is None else metric
    if metric not in (BLEU, LIKELIHOOD):
        raise ValueError(f"metric must be {BLEU} or {LIKELIHOOD} for pmi, got {metric!r}")
    if metric == BLEU:
        require_sacrebleu()
    file = folder.parallel()
    columns = read_columns(str(file))
    target = find_language(TARGET, columns, file)
    if names is None:
        others = [column for name in OTHERS if (column := match_language(name, columns)) is not None]
        languages = [find_language(SOURCE, columns, file), *others]
    else:
        languages = list(dict.fromkeys(find_language(name, columns, file) for name in names))
    if target in languages:
        raise CorpusError(f"{target} is the language of the answers: leave it out of the languages")
    if len(languages) < 2:
        raise CorpusError(f"{file}: the source and at least one language to add are needed, got {', '.join(languages)}")
    rows = [row for row in zip(*(columns[name] for name in (target, *languages))) if all(map(str.strip, row))]
    if not rows:
        raise CorpusError(f"{file} has no row with a text in {', '.join((target, *languages))}")
    texts = dict(zip((target, *languages), map(list, zip(*rows))))
    items = pmi.translation(texts, target=target, languages=languages).items
    source, *added = languages
    shown = kinds_of_prompts(added, added[0])
    prompts = {
        name: [pmi.prompt(item, form=form, source=source, others=inputs, target=target) for item in items]
        for name, (form, inputs) in shown.items()
    }
    notes = Notes()
    if metric != BLEU:
        notes.departures.append("metric: mean log-likelihood of the reference's tokens, in nats; the paper has BLEU")
    languages_of = {name: languages_shown(name, inputs) for name, (_, inputs) in shown.items()}
    return PmiInputs(file, source, added, target, prompts, languages_of, texts[target], metric, notes)
