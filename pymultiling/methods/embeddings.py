"""Sentence embeddings: the mean hidden state of a sentence in every layer, for each language."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy
import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.corpus_types import TextFile
from pymultiling.data.documents import document_length
from pymultiling.data.parallel_texts import read_lines
from pymultiling.data.tokenising import Tokenisation
from pymultiling.errors import NON_FINITE_ADVICE, CorpusError, NonFiniteActivations
from pymultiling.models.length_scaling import length_group
from pymultiling.models.unwrap import unwrap
from pymultiling.passes.corpus_pass import run_pass
from pymultiling.passes.job import BatchSource, Job, Options, identify_inputs
from pymultiling.passes.pending import Pending
from pymultiling.passes.table_rows import TableRows
from pymultiling.probes.hidden_states import SentenceMeanProbe
from pymultiling.probes.verification.entry import unverified
from pymultiling.runtime.row_tables import DTYPES, FileTable, MemoryTable, RowTable
from pymultiling.runtime.short_repr import describe
from pymultiling.runtime.storage import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SentenceEmbeddings(dict[str, Tensor]):
    """The result of `sentence_embeddings`: {language: (sentences, layers + 1, hidden)}.

    The rows of missing sentences are NaN.

    Attributes:
        corpora: {language: CorpusReport}; `empty` is the number of missing sentences, `cut` that of shortened ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.corpora: dict[str, CorpusReport] = {}

    def __repr__(self) -> str:
        return f"SentenceEmbeddings({describe(self)})"


def sentence_embeddings(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Mapping[str, str | Path | TextFile | Iterable[str | None]],
    *,
    max_length: int = 512,
    batch_tokens: int = 4096,
    dtype: torch.dtype = torch.float32,
    folder: str | Path | None = None,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = True,
    verify: bool = True,
) -> SentenceEmbeddings:
    """Computes the mean hidden state of every sentence in every layer.

        mean[s, l] = sum_t h[l, s, t] / #t,    t over the tokens of sentence s, special tokens included

    The hidden states h are those of transformers' output_hidden_states. Index 0 is the input of the first layer (the
    embeddings, as scaled by the model). Index l is the output of layer l, except that the last index is the output of
    the last layer after the final norm. The output of the last layer before that norm is not included.

    The result is the input of `ilo`, `retrieval` and `cka`.

    Under torchrun, or wherever torch.distributed is initialised, all processes must make this call. Each measures a
    part of the sentences, and all return the embeddings of all sentences.

    Args:
        model: a Hugging Face decoder of a supported family.
        tokenizer: the model's tokenizer.
        sentences: {language: sentences}: an iterable of strings, which is read once, or files with one sentence per
            line, as `pmi.translation` takes them. A sentence is missing if it is None, empty, only spaces, or has no
            token. For `retrieval` and `cka` sentence i of all languages must be translations.
        max_length: longer sentences are cut to this many tokens, or to the length that the model supports.
        batch_tokens: the largest number of tokens in one forward, padding included.
        dtype: the dtype of the result: torch.float32, torch.float64 or torch.float16. Means are computed in float32, or
            in float64 for a float64 model.
        folder: write the embeddings of each language to <folder>/<language>.npy and return these files as memory-mapped
            tensors, so that memory does not grow with the sentences. Existing files are replaced. Read a file again
            with `torch.from_numpy(numpy.load(path, mmap_mode="c"))`. None: the embeddings are in memory.
        workers: as in `detect`.
        checkpoint: as in `detect`.
        checkpoint_seconds: as in `detect`.
        checkpoint_documents: as in `detect`; a document is a sentence.
        progress: show progress on stderr.
        verify: as in `importance`.

    Returns:
        {language: (sentences, layers + 1, hidden)} on the CPU, in the order of the sentences, with the reports in the
        attribute `corpora`. The rows of missing sentences are NaN.

    Raises:
        CorpusError: sentences are not strings, a file cannot be read, or a language has none.
        CheckpointError: as `detect`.
        NonFiniteActivations: a mean is NaN, infinite or too large for `dtype`; the message names language and sentence.
        UnsupportedModel: as `importance`; or the last hidden states have another width (OPT 350M).
        ValueError: an unsupported dtype, an argument out of its range, or a language that cannot be a file name.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
    if not sentences:
        raise CorpusError("no sentences were given: pass {language: sentences}")
    model = unwrap(model)
    with unverified(not verify):
        probe = SentenceMeanProbe(model)
    tokenisation = Tokenisation(tokenizer, document_length(model, max_length, batch_tokens, None), form="sentences")
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress)
    texts = {language: _check_sentences(language, items) for language, items in sentences.items()}
    with ExitStack() as stack:
        tables = _Tables(stack, probe.shape, dtype, texts, None if folder is None else Path(folder))

        def measure(batch: Batch, source: BatchSource) -> Pending[TableRows]:
            means = probe.launch(batch.input_ids, batch.attention_mask)
            rows = source.chunk.start.record + source.positions[batch.order]

            def write() -> TableRows:
                return TableRows.write(tables[source.chunk.corpus], rows, _to_finite(means.wait(), dtype))

            return Pending(write, len(batch.order))

        def check(language: str, total: TableRows, report: CorpusReport) -> None:
            if not total.present.any():
                reason = str(report) or "nothing was read"
                raise CorpusError(f"language {language!r} has no sentences: {reason}")

        job = Job(
            activity="embedding",
            tokenisation=tokenisation,
            empty_statistics=lambda language, row_file: TableRows(tables.create(language, row_file)),
            measure=measure,
            identity=lambda: {
                "measure": f"means of sentences in {dtype}",
                **identify_inputs(probe.decoder.base_model, tokenisation),
            },
            check=check,
            spread_over=probe.decoder.tensor_parallel.count,
            unit="sentences",
            group=length_group(model),
        )
        embeddings = SentenceEmbeddings()
        for language, (total, report) in run_pass(texts, job, options).items():
            embeddings.corpora[language] = report
            embeddings[language] = tables.finish(language, total, report.texts)
    return embeddings


class _Tables(dict[str, RowTable]):
    """{language: the table of its embeddings}: in memory, in `folder`, or in the row file of a checkpoint.

    A file in `folder` gets its final name when the block of `stack` ends without an error; otherwise it is deleted.
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
        self._stack, self._shape, self._dtype, self._texts = stack, shape, dtype, texts
        self._paths = {} if folder is None else {language: _file_path(folder, language) for language in texts}
        self._partial_paths: dict[str, Path] = {}
        self._row_files: dict[str, Path | None] = {}

    def create(self, language: str, row_file: Path | None) -> RowTable:
        """Creates the empty table of a language, in the row file of a checkpoint if there is one."""
        self._row_files[language] = row_file
        path = row_file
        if language in self._paths:
            self._paths[language].parent.mkdir(parents=True, exist_ok=True)
            self._partial_paths[language] = self._stack.enter_context(write_atomically(self._paths[language]))
            path = row_file or self._partial_paths[language]
        if path is None:
            self[language] = MemoryTable(self._shape, self._dtype, rows=length_hint(self._texts[language]))
        else:
            self[language] = FileTable(path, self._shape, self._dtype)
        return self[language]

    def finish(self, language: str, rows: TableRows, count: int) -> Tensor:
        """Returns the embeddings of a language, (count, layers + 1, hidden).

        The row file of a checkpoint is copied and stays as it is.

        Args:
            language: the language.
            rows: the rows that were written.
            count: the number of sentences.
        """
        values, row_file = rows.finish(count), self._row_files[language]
        if row_file is None:
            return values
        if language not in self._partial_paths:
            return values.clone()
        shutil.copyfile(row_file, self._partial_paths[language])
        return torch.from_numpy(numpy.load(self._partial_paths[language], mmap_mode="r+"))


def _to_finite(means: Tensor, dtype: torch.dtype) -> Tensor:
    """Converts means to a dtype; raises NonFiniteActivations if a mean or its converted value is NaN or infinite."""
    converted = means.to(dtype)
    broken = ~converted.isfinite().all(-1)
    if broken.any():
        document, layer = broken.nonzero()[0].tolist()
        is_overflow = bool(means[document, layer].isfinite().all())
        reason = f"too large for {dtype}: use torch.float32" if is_overflow else f"NaN or infinite: {NON_FINITE_ADVICE}"
        raise NonFiniteActivations(f"hidden states of index {layer} are {reason}", document)
    return converted


def layer_points(embeddings: Mapping[str, Tensor], layer: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns the embeddings from the input of the first layer, or from the output of a layer.

    Args:
        embeddings: {language: (sentences, layers + 1, hidden)}.
        layer: index in the second dimension, 0 for the input of the first layer.

    Returns:
        {language: (points, present)}: points are (sentences, hidden), float32 or wider; present is (sentences,) bool,
        False for missing sentences.

    Raises:
        NonFiniteActivations: a value is infinite.
    """
    points_by_language = {}
    for language, values in embeddings.items():
        points = values[:, layer]
        points = points.to(torch.promote_types(points.dtype, torch.float32))
        present = ~points.isnan().any(1)
        if points.isinf().any():
            raise NonFiniteActivations(
                f"infinite embeddings of language {language!r}, index {layer}: use torch.float32"
            )
        points_by_language[language] = points, present
    return points_by_language


def checked_layers(embeddings: Mapping[str, Tensor]) -> int:
    """Checks the shapes of embeddings and returns their second size, which is the number of layers + 1.

    Raises:
        ValueError: there are fewer than two languages, or the shapes are not (sentences, layers + 1, hidden) of one
            model.
    """
    if len(embeddings) < 2:
        raise ValueError(f"at least two languages are compared, got {', '.join(map(repr, embeddings)) or 'none'}")
    for language, values in embeddings.items():
        if values.ndim != 3:
            shape = tuple(values.shape)
            raise ValueError(f"language {language!r}: embeddings must be (sentences, layers + 1, hidden), got {shape}")
    shapes = {tuple(values.shape[1:]) for values in embeddings.values()}
    if len(shapes) > 1:
        raise ValueError(
            f"embeddings must be those of one model, got different (layers + 1, hidden): {', '.join(map(str, shapes))}"
        )
    return next(iter(shapes))[0]


def _check_sentences(language: str, sentences: str | Path | TextFile | Iterable[str | None]) -> Iterable[str]:
    """Returns the sentences, with "" for None. A list is checked at once, another iterable while it is read."""
    if isinstance(sentences, str | Path | TextFile):
        return _Sentences(read_lines(sentences))
    if isinstance(sentences, Mapping) or not isinstance(sentences, Iterable):
        kind = type(sentences).__name__
        raise CorpusError(f"language {language!r}: pass its sentences as a list of strings, not {kind}")
    strings = _to_strings(language, sentences)
    return _Sentences(strings) if isinstance(sentences, (list, tuple)) else strings


class _Sentences(Sequence[str]):
    """A list of sentences, none of which is read as the name of a file."""

    def __init__(self, sentences: Iterable[str]):
        self._sentences = tuple(sentences)

    def __len__(self) -> int:
        return len(self._sentences)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[str, ...]: ...
    def __getitem__(self, place: int | slice) -> str | tuple[str, ...]:
        return self._sentences[place]

    @property
    def _fingerprint(self) -> str:
        """Identifies the sentences in a checkpoint. A datasets.Dataset has an attribute of this name."""
        return hashlib.blake2b(repr(self._sentences).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _to_strings(language: str, sentences: Iterable[str | None]) -> Iterator[str]:
    for number, text in enumerate(sentences, 1):
        if not (text is None or isinstance(text, str)):
            raise CorpusError(f"language {language!r}, sentence {number}: expected a string or None, got {text!r}")
        yield text or ""


def _file_path(folder: Path, language: str) -> Path:
    if not language or Path(language).name != language:
        raise ValueError(f"language {language!r} cannot be a file name: leave out folder or rename the language")
    return folder / f"{language}.npy"
