"""The tables of arXiv 2402.18815: language neurons (PLND), what happens without them, and the parts of the model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor, nn

from pymultiling.data.added_tokens import added_tokens, encode_alone
from pymultiling.data.corpora import TEXT, CorpusReport, read_texts
from pymultiling.data.languages import match_language
from pymultiling.data.long_texts import cut_text
from pymultiling.data.shards import check_first_record, shards_of
from pymultiling.errors import CorpusError
from pymultiling.mathematics.bootstrap import percentile_interval, resampling_weights
from pymultiling.methods.detection import Detection
from pymultiling.methods.mwork import ANYWHERE, OWN, PARTS, SETTINGS, Setting, parts, setting_rows
from pymultiling.methods.mwork_search import MWorkSearch, search_result, search_trials
from pymultiling.methods.plnd import detect
from pymultiling.methods.random_sets import add_random_sets, draws_by_set
from pymultiling.methods.reproduction.data_folder import DataFolder
from pymultiling.methods.reproduction.measured import Measured, sets_digest
from pymultiling.methods.reproduction.plan import Notes, Stream, TimeLimit, measure_evenly
from pymultiling.models.decoder import Decoder
from pymultiling.models.pretrained import position_limit
from pymultiling.neurons.importance_statistics import NeuronStatistics
from pymultiling.neurons.selection import TopK
from pymultiling.neurons.sets import NeuronSet
from pymultiling.runtime.progress import show_progress
from pymultiling.tasks import Task, continuation, mgsm, xcsqa, xlsum, xquad
from pymultiling.tasks.evaluate import metric_values
from pymultiling.tasks.likelihood import log_likelihoods
from pymultiling.tasks.metrics import Metric
from pymultiling.tasks.shared_batches import prepend_none

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedTokenizerBase

RULE = TopK(0.05, 0.05, share=0.7)
PACK = 128  # tokens of a document of the detection
ROUND = 16  # documents of each language that are measured before the next language comes
ROUNDS = 32  # so at most 512 documents of a language
HELDOUT, SEARCH = 400, 200  # the most texts of a language for perplexity, and items for the search of the parts
MAX_LENGTH = 512
DRAWS = 3  # random sets for each set in the table of perplexities
SECONDS_BETWEEN_FILES = 60.0
PAPER_LANGUAGE = "zh"  # of the search for the parts
# Of the time: the detection takes at most 0.3, the perplexities 0.25 of the rest, the search 0.2 of what then is left.
DETECTION_PART, PERPLEXITY_PART, SEARCH_PART, TASKS_PART = 0.3, 0.25, 0.2, 0.95
TASKS: tuple[tuple[str, tuple[str, ...], Callable[..., Task]], ...] = (
    ("XQuAD", ("xquad", "xquad_contexts"), xquad),
    ("MGSM", ("mgsm", "mgsm_exemplars"), mgsm),
    ("X-CSQA", ("xcsqa",), xcsqa),
    ("XLSum", ("xlsum",), xlsum),
)


@dataclass(frozen=True)
class Inputs:
    """What is read before the model is loaded.

    Attributes:
        english: the name of English.
        texts: {language: file}, for the detection; English first.
        heldout: {language: file}, for perplexity.
        tasks: the tasks, with the languages that have texts.
        files: all files, by what they are, for the record of the run.
        notes: what is known to differ from the paper by now.
    """

    english: str
    texts: dict[str, Path]
    heldout: dict[str, Path]
    tasks: list[Task]
    files: dict[str, Path]
    notes: Notes


@dataclass(frozen=True)
class PlndTables:
    """The result of `reproduce_plnd`.

    Attributes:
        detection: the neurons of each language.
        rounds: rounds of the detection, for `Measured.copy_to`.
        perplexities: as `ablation_matrix` returns them.
        search: the parts of the model.
        table1: a row for each task, language and set of neurons: original, random, own.
        mwork: the table of `mwork`, all tasks.
        intervals: a value of the tables with the ends of its bootstrap interval in each row.
        samples: how many items each value stands on.
        notes: what differs from the paper.
    """

    detection: Detection
    rounds: int
    perplexities: pandas.DataFrame
    search: MWorkSearch
    table1: pandas.DataFrame
    mwork: pandas.DataFrame
    intervals: pandas.DataFrame
    samples: pandas.DataFrame
    notes: Notes


def read_inputs(folder: DataFolder, names: Sequence[str] | None, metric: Metric | None) -> Inputs:
    """Reads the tasks, and the first record of every file of texts.

    Args:
        folder: the data folder.
        names: the languages to take; None: all that have texts and held-out texts, and, if there are tasks, items.
        metric: the metric of all tasks; None: each task's own.

    Raises:
        CorpusError: something is missing, or a file cannot be read.
    """
    english = match_language("en", folder.corpora) or "en"
    languages = folder.languages(names, english)
    notes, tasks, files = Notes(), [], {}
    for name, stems, make in TASKS:
        found = folder.task(*stems)
        if found is None:
            needed = " and ".join(f"tasks/{stem}.jsonl" for stem in stems)
            notes.left_out.append(f"{name} of tables 1 to 5 is not measured: {folder.folder} has no {needed}")
            continue
        task = _with_languages(make(*map(str, found)), languages)
        if english not in task.items or len(task.items) < 2:
            notes.left_out.append(f"{name} is not measured: it needs English and another of {', '.join(languages)}")
            continue
        tasks.append(task)
        files |= dict(zip(stems, found))
    if names is None and tasks:  # each other language would only lengthen the run
        languages = [language for language in languages if any(language in task.items for task in tasks)]
    if not tasks:
        tasks = [continuation({language: str(folder.heldout[language]) for language in languages})]
        notes.departures.append(
            "tasks: the paper has XQuAD, MGSM, X-CSQA and XLSum; here the second half of a held-out text is to be "
            "chosen, since no task is in the data folder"
        )
    texts = {language: folder.corpora[language] for language in languages}
    heldout = {language: folder.heldout[language] for language in languages}
    for file in (*texts.values(), *heldout.values()):
        check_first_record(shards_of(str(file)), TEXT)
    if metric is not None:
        tasks = [task.judged_by(metric) for task in tasks]
        notes.departures.append(f"metric: {metric}, and not each task's own")
    files |= {f"{name}, heldout": file for name, file in heldout.items()} | texts
    return Inputs(english, texts, heldout, tasks, files, notes)


def _with_languages(task: Task, languages: Sequence[str]) -> Task:
    """Returns the task in these languages, by these names."""
    names = {language: match_language(language, task.items) for language in languages}
    return dataclasses.replace(
        task, items={language: task.items[name] for language, name in names.items() if name is not None}
    )


def reproduce_plnd(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Inputs,
    measured: Measured,
    limit: TimeLimit,
    *,
    seeds: int,
    batch_tokens: int,
    progress: bool,
) -> PlndTables:
    """Measures the paper's tables, and goes on from what is measured already.

    Source: arXiv 2402.18815, sections 2 and 3; tables 1 to 5.

    Args:
        model: a Hugging Face decoder with a language-model head, of a supported family.
        tokenizer: the model's tokenizer.
        inputs: what `read_inputs` returned.
        measured: where the values are kept.
        limit: the time that may be taken; all parts measure at least one item.
        seeds: random sets for each setting of tables 1 to 5.
        batch_tokens: as in `detect`.
        progress: show progress on stderr.

    Raises:
        CorpusError: texts cannot be read, or are too few.
        UnsupportedModel: as `detect`.
        NonFiniteActivations: as `detect`.
    """
    work = _Work(model, tokenizer, inputs, measured, batch_tokens, progress)
    rounds, statistics = work.detect(limit.part(DETECTION_PART))
    neurons = {language: RULE.select(of_language) for language, of_language in statistics.items()}
    detection = Detection(neurons, statistics)
    specific = detection.specific()
    tables = _Tables()
    for language, of_language in statistics.items():
        tables.samples.append(("detection, documents", language, of_language.documents, ROUND * ROUNDS))
    perplexities = work.perplexities(specific, limit.part(PERPLEXITY_PART), tables)
    search = work.search(specific, limit.part(SEARCH_PART), tables)
    for number, task in enumerate(inputs.tasks):
        part = limit.part(TASKS_PART / (len(inputs.tasks) - number))
        reason = work.measure_task(task, specific, search, range(seeds), part, tables)
        if reason is not None:
            inputs.notes.left_out.append(f"{task.name}: {reason}, more than --minutes leaves; a longer run measures it")
    _add_notes(inputs, model, statistics, tables)
    return PlndTables(
        detection,
        rounds,
        perplexities,
        search,
        tables.frame(tables.table1, ("task", "metric", "language", "neurons", "score", "low", "high", "items")),
        tables.frame(tables.mwork, ()),
        tables.frame(tables.intervals, ("table", "row", "language", "value", "low", "high", "items")),
        tables.frame(tables.samples, ("measured", "language", "items", "of")),
        inputs.notes,
    )


class _Tables:
    """Rows of tables while they are made."""

    def __init__(self) -> None:
        self.table1: list[tuple[object, ...]] = []
        self.mwork: list[dict[str, object]] = []
        self.intervals: list[tuple[object, ...]] = []
        self.samples: list[tuple[object, ...]] = []

    @staticmethod
    def frame(rows: Sequence[object], columns: Sequence[str]) -> pandas.DataFrame:
        import pandas

        return pandas.DataFrame(rows, columns=list(columns) or None)


class _Work:
    """The parts of the reproduction, in order."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Inputs,
        measured: Measured,
        batch_tokens: int,
        progress: bool,
    ) -> None:
        self.model, self.tokenizer, self.inputs, self.measured = model, tokenizer, inputs, measured
        self.batch_tokens, self.progress = batch_tokens, progress

    def detect(self, limit: TimeLimit) -> tuple[int, dict[str, NeuronStatistics]]:
        """Measures importance in rounds: in each the same number of documents of every language."""
        languages = list(self.inputs.texts)
        rounds, statistics = self.measured.statistics(languages)
        written_rounds, written_at = rounds, time.monotonic()
        if rounds == ROUNDS:
            return rounds, statistics
        blocks = {
            language: text_blocks(read_texts(str(file), CorpusReport()), self.tokenizer)
            for language, file in self.inputs.texts.items()
        }
        most, seconds = max(map(len, blocks.values())), 0.0
        try:
            with show_progress("detection", "rounds", self.progress, most) as bar:
                bar.update(rounds)
                while rounds < most and (rounds == 0 or limit.left > seconds):
                    started = time.monotonic()
                    corpora = {name: texts[rounds] for name, texts in blocks.items() if rounds < len(texts)}
                    options = {"pack": PACK, "batch_tokens": self.batch_tokens, "workers": 0, "progress": False}
                    found = detect(
                        self.model, self.tokenizer, corpora, select=RULE, verify=rounds == written_rounds, **options
                    )
                    for language, more in found.statistics.items():
                        statistics[language] = statistics[language] + more if language in statistics else more
                    rounds += 1
                    seconds = time.monotonic() - started
                    bar.update()
                    if time.monotonic() - written_at > SECONDS_BETWEEN_FILES:
                        self.measured.keep_statistics(rounds, statistics)
                        written_rounds, written_at = rounds, time.monotonic()
        finally:
            if rounds > written_rounds:
                self.measured.keep_statistics(rounds, statistics)
        return rounds, statistics

    def perplexities(
        self, specific: Mapping[str, NeuronSet], limit: TimeLimit, tables: _Tables
    ) -> pandas.DataFrame:
        """Measures held-out texts with each language's neurons off, and as many random ones."""
        import pandas

        sets = prepend_none(self.model, add_random_sets(specific, DRAWS, 0))
        digest = sets_digest(sets.values())
        streams: dict[str, Stream] = {}
        for language, file in self.inputs.heldout.items():
            documents = self._documents(file, language)

            def measure(start: int, stop: int, documents: list[tuple[list[int], int]] = documents) -> Tensor:
                tokens, starts = zip(*documents[start:stop])
                values = log_likelihoods(
                    self.model, tokens, list(sets.values()), starts=starts, batch_tokens=self.batch_tokens
                )
                predicted = torch.tensor([len(ids) - first for ids, first in documents[start:stop]])
                return torch.cat([predicted[:, None].double(), values], 1)

            streams[language] = Stream(f"perplexity.{language}.{digest}", len(documents), measure)
        measure_evenly(
            "perplexity", list(streams.values()), self.measured, limit, at_least=1, progress=self.progress
        )
        logs: dict[str, Tensor] = {}  # {language: (resamples + 1, sets) mean log-likelihood}; row 0 has all texts
        for number, (language, stream) in enumerate(streams.items()):
            values = self.measured.values(stream.name)
            tables.samples.append(("perplexity, texts", language, len(values), stream.count))
            weights = torch.cat([torch.ones(1, len(values)), resampling_weights(len(values), seed=number)])
            sums = weights.double() @ values
            logs[language] = sums[:, 1:] / sums[:, :1]
        names, draws = list(sets), draws_by_set(sets)
        for name in specific:
            own = logs[name][:, :1] - logs[name]
            others = [(logs[other][:, 0] - logs[other][:, names.index(name)]) for other in specific if other != name]
            count = len(self.measured.values(streams[name].name))
            for row, values in (
                ("own neurons off", own[:, names.index(name)]),
                ("own neurons off, other languages", torch.stack(others).mean(0)),
                ("random neurons off", own[:, [names.index(drawn) for drawn in draws[name]]].mean(1)),
            ):
                low, high = _ends(values[1:], count)
                tables.intervals.append(("change of log-perplexity", row, name, values[0].item(), low, high, count))
        return pandas.DataFrame({name: numpy.exp(-values[0].numpy()) for name, values in logs.items()}, index=names)

    def _documents(self, file: Path, language: str) -> list[tuple[list[int], int]]:
        """Returns the tokens of the first held-out texts, and the index of the first token that counts."""
        before = added_tokens(self.tokenizer).before
        start, length = max(1, len(before)), min(MAX_LENGTH, position_limit(self.model) or MAX_LENGTH)
        documents = []
        for text in read_texts(str(file), CorpusReport()):
            tokens = [*before, *encode_alone(self.tokenizer, text)][:length]
            if len(tokens) > start:
                documents.append((tokens, start))
            if len(documents) == HELDOUT:
                break
        if not documents:
            raise CorpusError(f"{file}: {language} has no text of at least two tokens")
        return documents

    def search(self, specific: Mapping[str, NeuronSet], limit: TimeLimit, tables: _Tables) -> MWorkSearch:
        """Finds the parts of the model on the first task, in Chinese as the paper does, if it is in the task."""
        task, english = self.inputs.tasks[0], self.inputs.english
        others = [language for language in task.items if language != english]
        language = match_language(PAPER_LANGUAGE, others) or others[0]
        if task.name != "XQuAD" or match_language(PAPER_LANGUAGE, [language]) is None:
            self.inputs.notes.departures.append(
                f"search of the parts: the paper uses XQuAD in Chinese, here {task.name} in {language}"
            )
        trials = search_trials(len(Decoder(self.model).layers))
        sets = [specific[language].layers(span.start, span.stop) for _, span in trials]
        streams = self._pair(task, language, sets, "search", SEARCH)
        measure_evenly("search", streams, self.measured, limit, at_least=1, progress=self.progress)
        values = [self.measured.values(stream.name) for stream in streams]
        tables.samples.append((f"search, {task.name}", language, len(values[1]), streams[1].count))
        return search_result(trials, torch.stack([of_text.mean(0) for of_text in values]))

    def _pair(
        self, task: Task, language: str, sets: Sequence[NeuronSet], use: str, most: int | None = None
    ) -> list[Stream]:
        """Returns the streams of a task in English and in a language, without and with each of the sets off."""
        count = min(len(items) for items in task.items.values())
        count = count if most is None else min(count, most)
        digest = sets_digest(sets)

        def stream(text: str) -> Stream:
            def measure(start: int, stop: int) -> Tensor:
                items = {text: task.items[text][start:stop]}
                return metric_values(
                    self.model,
                    self.tokenizer,
                    dataclasses.replace(task, items=items),
                    text,
                    [None, *sets],
                    batch_tokens=self.batch_tokens,
                )

            metric = task.metric.replace(" ", "-")
            return Stream(f"{use}.{task.name}.{metric}.{language}.{text}.{digest}", count, measure)

        return [stream(text) for text in (self.inputs.english, language)]

    def measure_task(
        self,
        task: Task,
        specific: Mapping[str, NeuronSet],
        search: MWorkSearch,
        seeds: Sequence[int],
        limit: TimeLimit,
        tables: _Tables,
    ) -> str | None:
        """Measures a task with neurons off by part, and adds its rows to the tables. Returns why it is left out."""
        languages = [language for language in task.items if language != self.inputs.english]
        pairs: dict[str, list[Stream]] = {}
        counts: list[list[int]] = []
        for language in languages:
            by_part = parts(specific[language], search.understanding, search.generation)
            sets = [setting.sets(by_part, seeds) for setting in SETTINGS]
            counts.append([len(setting_sets[0]) for setting_sets in sets])
            pairs[language] = self._pair(task, language, list(chain.from_iterable(sets)), "task")
        streams = list(chain.from_iterable(pairs.values()))
        reason = measure_evenly(task.name, streams, self.measured, limit, progress=self.progress)
        items = min(self.measured.count(stream.name) for stream in streams)
        if items == 0:
            return reason
        values = {
            language: torch.stack([self.measured.values(stream.name)[:items] for stream in pair])
            for language, pair in pairs.items()
        }  # each (2, items, 1 + sets)
        for language in languages:
            tables.samples.append((task.name, language, items, streams[0].count))
        means = torch.stack([of_language.mean(1) for of_language in values.values()]).mean(0)
        rows = setting_rows(task, SETTINGS, means, numpy.mean(counts, axis=0).tolist(), seeds)
        deltas = _deltas(values, seeds)
        for row, of_item in zip(rows, [None, *deltas], strict=True):
            tables.mwork.append(row)
            if of_item is not None:
                low, high = _ends(resampling_weights(items) @ of_item, items)
                row |= {"delta_low": low, "delta_high": high, "items": items}
            else:
                row |= {"delta_low": numpy.nan, "delta_high": numpy.nan, "items": items}
        for language, of_language in values.items():
            tables.table1 += _table1_rows(task, language, of_language[1], seeds)
        return None


def text_blocks(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[list[str]]:
    """Returns texts in blocks of `ROUND` documents of `PACK` tokens, at most `ROUNDS` blocks.

    A text that is longer than the rest of its block is cut. The last texts that fill no block are left out, unless
    they are all.
    """
    blocks: list[list[str]] = []
    block: list[str] = []
    room = ROUND * PACK
    for text in texts:
        tokens = len(encode_alone(tokenizer, text))
        block.append(text if tokens <= room else cut_text(text, tokenizer, room))
        room -= min(tokens, room) + 1  # and the token between texts
        if room <= 0:
            blocks.append(block)
            block, room = [], ROUND * PACK
            if len(blocks) == ROUNDS:
                break
    return blocks or [block]


def _deltas(values: Mapping[str, Tensor], seeds: Sequence[int]) -> list[Tensor]:
    """Returns delta of every item, (items,), for each of the settings: a mean over languages and random sets."""
    changes = torch.stack([of_language - of_language[:, :, :1] for of_language in values.values()]).mean(0)[:, :, 1:]
    sizes = [1 if setting.neurons == OWN else len(seeds) for setting in SETTINGS]
    return [(part[0] - part[1]).mean(1) for part in torch.split(changes, sizes, dim=2)]


def _table1_rows(task: Task, language: str, values: Tensor, seeds: Sequence[int]) -> list[tuple[object, ...]]:
    """Returns the rows of table 1: the model as it is, with all own neurons off, and with as many random ones off.

    values: (items, 1 + sets), those of the language.
    """
    sizes = [1 if setting.neurons == OWN else len(seeds) for setting in SETTINGS]
    by_setting = dict(zip(SETTINGS, torch.split(values[:, 1:], sizes, dim=1)))
    weights = resampling_weights(len(values))
    rows: list[tuple[object, ...]] = []
    for name, columns in (
        ("none", values[:, :1]),
        ("random", by_setting[Setting(PARTS, ANYWHERE)]),
        ("own", by_setting[Setting(PARTS, OWN)]),
    ):
        of_item = columns.mean(1)
        low, high = _ends(weights @ of_item, len(of_item))
        rows.append((task.name, task.metric, language, name, of_item.mean().item(), low, high, len(of_item)))
    return rows


def _ends(samples: Tensor, items: int) -> tuple[float, float]:
    """Returns the ends of the interval of (resamples,) values; NaN for one item, of which all samples are the same."""
    if items < 2:
        return numpy.nan, numpy.nan
    low, high = percentile_interval(samples)
    return low.item(), high.item()


def _add_notes(
    inputs: Inputs, model: nn.Module, statistics: Mapping[str, NeuronStatistics], tables: _Tables
) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    documents = sorted(of_language.documents for of_language in statistics.values())
    inputs.notes.departures[:0] = [
        f"model: {parameters / 1e6:,.0f} million parameters; the paper has larger ones, such as Vicuna",
        f"languages: {', '.join(inputs.texts)}",
        f"detection: {documents[0]:,} to {documents[-1]:,} documents of {PACK} tokens of each language, joined from the "
        "texts of the data folder; the paper has a corpus of its own",
        f"selection: {RULE.rule()}; the paper has a threshold (eq. 2), its code a number of neurons in every document",
        "importance: eq. 1 and 9 to 11, exactly; the paper's code ranks by other sums (docs/papers/plnd.md)",
        "prompts: those of pymultiling.tasks, not the paper's",
        f"perplexity: held-out texts of the data folder, with {DRAWS} random sets for each set",
    ]
    inputs.notes.left_out += [
        "training of a language's neurons (section 3.3) needs training: see the command tune",
        "the languages that layers decode to (figure 1): see the command lens",
    ]
    inputs.notes.published.append(
        (
            "improvement by training a language's neurons on 400 documents, all tasks (abstract)",
            "3.6% (high-resource languages), 2.3% (low-resource languages)",
            "not measured: needs training",
        )
    )
