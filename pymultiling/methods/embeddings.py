"""Sentences as points: the mean hidden state of every layer, for each language."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from operator import length_hint
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import document_length
from pymultiling.data.tokenising import Tokenisation
from pymultiling.errors import CorpusError, NonFiniteActivations
from pymultiling.models.decoder import model_device
from pymultiling.passes.corpus_pass import BatchSource, Job, Options, identify_inputs, run_pass
from pymultiling.passes.table_rows import TableRows
from pymultiling.probes.hidden_states import SentenceMeanProbe
from pymultiling.runtime.row_tables import DTYPES, FileTable, MemoryTable, RowTable
from pymultiling.runtime.storage import write_atomically


class SentenceEmbeddings(dict[str, Tensor]):
    """{language: (sentences, layers + 1, hidden)}; rows of missing sentences are NaN.

    Attributes:
        corpora: {language: CorpusReport}; `empty` counts the missing sentences, `cut` those that were shortened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.corpora: dict[str, CorpusReport] = {}


def sentence_embeddings(
    model: nn.Module,
    tokenizer,
    sentences: Mapping[str, Iterable[str | None]],
    *,
    max_length: int = 512,
    batch_tokens: int = 4096,
    dtype: torch.dtype = torch.float32,
    folder: str | Path | None = None,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = False,
) -> SentenceEmbeddings:
    """The mean hidden state of every sentence in every layer.

        mean[s, l] = sum_t h[l, s, t] / #t,    t over the sentence's tokens, the tokenizer's special ones included

    h as transformers' output_hidden_states has it: index 0 is what the first layer reads (the embeddings, as scaled by
    the model), index l the output of layer l, and the last index the last layer's output after the final norm. The last
    layer's output before that norm is not among them.

    Args:
        model: a Hugging Face decoder of a supported family.
        tokenizer: its tokenizer.
        sentences: {language: sentences}, iterables that are read once. A sentence that is None, empty or only spaces, or without a
            token, is missing.
        max_length: longer sentences are cut to this many tokens (or to the model's positions).
        batch_tokens: tokens in one forward, padding included.
        dtype: of the result: float32, float64 or float16. Means are taken in float32, of a float64 model in float64.
        folder: write every language to <folder>/<language>.npy and return these files as tensors, so that memory does
            not grow with the sentences; what is there is replaced. Read one again with
            `torch.from_numpy(numpy.load(path, mmap_mode="c"))`.
        workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress: as in `detect`.

    Under torchrun, or wherever torch.distributed is initialised, every process must make this call: each measures a part of the
    texts, and all return the whole.

    Returns:
        {language: (sentences, layers + 1, hidden)} on the CPU, in the order of the sentences, with `corpora` as an
        attribute; the rows of missing sentences are NaN.

    Raises:
        CorpusError: sentences are no strings, or a language has none.
        CheckpointError: as `detect`.
        NonFiniteActivations: naming the language and the sentence.
        UnsupportedModel, ValueError: as `importance`; also where the last hidden states have another width (OPT 350M).
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
    if not sentences:
        raise CorpusError("no sentences were given: pass {language: sentences}")
    probe, device = SentenceMeanProbe(model), model_device(model)
    tokenisation = Tokenisation(tokenizer, document_length(model, max_length, batch_tokens, None), form="sentences")
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress)
    texts = {language: _checked(language, of_language) for language, of_language in sentences.items()}
    with ExitStack() as stack:
        tables = _Tables(stack, probe.shape, dtype, texts, None if folder is None else Path(folder))

        def measure(batch: Batch, source: BatchSource) -> TableRows:
            means = probe.measure(batch.input_ids.to(device), batch.attention_mask.to(device))
            rows = source.chunk.start.record + source.positions[batch.order]
            return TableRows.write(tables[source.chunk.corpus], rows, _finite(means, dtype))

        def check(language: str, total: TableRows, report: CorpusReport) -> None:
            if not total.present.any():
                why = str(report) or "nothing was read"
                raise CorpusError(f"language {language!r} has no sentences: {why}")

        job = Job(
            activity="embedding",
            tokenisation=tokenisation,
            empty_statistics=lambda language, row_file: TableRows(tables.begun(language, row_file)),
            measure=measure,
            identity=lambda: {
                "measure": f"means of sentences in {dtype}",
                **identify_inputs(model.base_model, tokenisation),
            },
            check=check,
            spread_over=probe.decoder.tensor_parallel.count,
            unit="sentences",
        )
        found = SentenceEmbeddings()
        for language, (total, report) in run_pass(texts, job, options).items():
            found.corpora[language] = report
            found[language] = tables.finished(language, total, report.texts)
    return found


class _Tables(dict[str, RowTable]):
    """{language: the table of its sentences}: in memory, in `folder`, or beside a checkpoint's states.

    Files in `folder` get their names when the block of `stack` ends well, and are gone when it does not.
    """

    def __init__(
        self,
        stack: ExitStack,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        texts: Mapping[str, Iterable[str]],
        folder: Path | None,
    ):
        super().__init__()
        self._stack, self._kind, self._texts = stack, (shape, dtype), texts
        self._paths = {} if folder is None else {language: _file(folder, language) for language in texts}
        self._partial: dict[str, Path] = {}
        self._beside: dict[str, Path | None] = {}

    def begun(self, language: str, beside: Path | None) -> RowTable:
        self._beside[language] = beside
        path = beside
        if language in self._paths:
            self._paths[language].parent.mkdir(parents=True, exist_ok=True)
            self._partial[language] = self._stack.enter_context(write_atomically(self._paths[language]))
            path = beside or self._partial[language]
        if path is None:
            self[language] = MemoryTable(*self._kind, rows=length_hint(self._texts[language]))
        else:
            self[language] = FileTable(path, *self._kind)
        return self[language]

    def finished(self, language: str, rows: TableRows, count: int) -> Tensor:
        """The table, of so many sentences; what is beside a checkpoint's states is copied, and stays the checkpoint's."""
        values, beside = rows.finish(count), self._beside[language]
        if beside is None:
            return values
        if language not in self._partial:
            return values.clone()
        shutil.copyfile(beside, self._partial[language])
        return torch.from_numpy(numpy.load(self._partial[language], mmap_mode="r+"))


def _finite(means: Tensor, dtype: torch.dtype) -> Tensor:
    """NonFiniteActivations where a mean, or what the dtype makes of it, is NaN or infinite."""
    stored = means.to(dtype)
    broken = ~stored.isfinite().all(-1)
    if broken.any():
        document, layer = broken.nonzero()[0].tolist()
        overflow = bool(means[document, layer].isfinite().all())
        why = f"larger than {dtype} can be: use torch.float32" if overflow else "NaN or infinite: look for NaN weights"
        raise NonFiniteActivations(f"hidden states of index {layer} are {why}", document)
    return stored


def layer_points(embeddings: Mapping[str, Tensor], layer: int) -> dict[str, tuple[Tensor, Tensor]]:
    """{language: ((sentences, hidden) in float32 or wider, (sentences,) bool: which are there)} of one layer.

    Raises:
        NonFiniteActivations: a value is infinite.
    """
    found = {}
    for language, one in embeddings.items():
        points = one[:, layer]
        points = points.to(torch.promote_types(points.dtype, torch.float32))
        present = ~points.isnan().any(1)
        if points.isinf().any():
            raise NonFiniteActivations(f"infinite embeddings of language {language!r}, index {layer}")
        found[language] = points, present
    return found


def checked_layers(embeddings: Mapping[str, Tensor]) -> int:
    """How many layers the embeddings have.

    Raises:
        ValueError: there are fewer than two languages, or shapes other than (sentences, layers, hidden) of one model.
    """
    if len(embeddings) < 2:
        raise ValueError(f"at least two languages are compared, got {', '.join(map(repr, embeddings)) or 'none'}")
    for language, one in embeddings.items():
        if one.ndim != 3:
            shape = tuple(one.shape)
            raise ValueError(f"language {language!r}: embeddings are (sentences, layers, hidden), got {shape}")
    shapes = {tuple(one.shape[1:]) for one in embeddings.values()}
    if len(shapes) > 1:
        raise ValueError(f"embeddings of one model are compared, got (layers, hidden) of {', '.join(map(str, shapes))}")
    return next(iter(shapes))[0]


def _checked(language: str, sentences: Iterable[str | None]) -> Iterable[str]:
    """The sentences, "" for those that are None; those of a list are looked at before anything is measured."""
    if isinstance(sentences, (str, Mapping)) or not isinstance(sentences, Iterable):
        kind = type(sentences).__name__
        raise CorpusError(f"language {language!r}: pass its sentences as a list of strings, not {kind}")
    checked = _strings(language, sentences)
    return _Sentences(checked) if isinstance(sentences, (list, tuple)) else checked


class _Sentences(Sequence):
    """A list of sentences, none of which is taken for the name of a file."""

    def __init__(self, sentences: Iterable[str]):
        self._sentences = tuple(sentences)

    def __len__(self) -> int:
        return len(self._sentences)

    def __getitem__(self, place):
        return self._sentences[place]

    @property
    def _fingerprint(self) -> str:
        """As data sets have one: by it a checkpoint knows them again."""
        return hashlib.blake2b(repr(self._sentences).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _strings(language: str, sentences: Iterable[str | None]) -> Iterator[str]:
    for number, text in enumerate(sentences):
        if not (text is None or isinstance(text, str)):
            raise CorpusError(f"language {language!r}, sentence {number}: looked for a string or None, got {text!r}")
        yield text or ""


def _file(folder: Path, language: str) -> Path:
    if not language or Path(language).name != language:
        raise ValueError(f"language {language!r} is no name of a file: leave out folder or rename it")
    return folder / f"{language}.npy"
