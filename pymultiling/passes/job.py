"""What a pass over corpora does, and how it is run: the arguments of `run_pass`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.data.chunks import Chunk
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import tokenizer_hash
from pymultiling.data.tokenising import Tokenisation
from pymultiling.models.length_scaling import LengthGroup, any_length
from pymultiling.passes.batch_size import USUAL
from pymultiling.passes.checkpoints import CheckpointInterval, S
from pymultiling.passes.identity import model_hash
from pymultiling.passes.pending import Pending


@dataclass(frozen=True)
class Options:
    """How a pass is run. Of these, only `batch_tokens` and `tokens` affect the result.

    Attributes:
        batch_tokens: tokens in one forward, padding included; None: as many as fit in the free memory.
        workers: number of processes that tokenise while the model runs; 0: this process tokenises.
        checkpoint: folder for checkpoints; None: no checkpoints are written.
        checkpoint_seconds: seconds after which a state is written.
        checkpoint_documents: documents after which a state is written; None: only the seconds count.
        progress: whether to show progress on stderr.
        tokens: how many tokens are taken of each corpus, at most; None: all.
    """

    batch_tokens: int | None
    workers: int = 1
    checkpoint: str | Path | None = None
    checkpoint_seconds: float = 60.0
    checkpoint_documents: int | None = None
    progress: bool = True
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {self.batch_tokens}")
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, or None for all, got {self.tokens}")
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, got {self.workers}")
        self.checkpoint_interval()  # checks its arguments

    def checkpoint_interval(self) -> CheckpointInterval:
        """Returns how often a state is written."""
        return CheckpointInterval(self.checkpoint_seconds, self.checkpoint_documents)


@dataclass(frozen=True)
class BatchSource:
    """Where the documents of a batch come from.

    Attributes:
        chunk: the chunk of all documents from which the batch was made.
        positions: (documents of the chunk,) int64, as described in `Tokenisation`. `positions[batch.order]` are those
            of the batch.
    """

    chunk: Chunk
    positions: Tensor


@dataclass(frozen=True)
class Job(Generic[S]):
    """What a pass does with the documents of corpora.

    Attributes:
        activity: a word for the progress, such as "measuring".
        tokenisation: how records become documents.
        empty_statistics: gives the statistics of a corpus before its first document. Its arguments are the corpus's
            name, and a path for a row file, or None if there are no checkpoints.
        measure: gives the statistics of a batch. They are added up after the next batch has been launched if they are
            `Pending`, and at once otherwise.
        identity: gives the settings that affect the result, without the corpora and `batch_tokens`.
        check: raises a CorpusError if nothing was measured. Its arguments are the corpus's name, statistics and report.
        content_label: what error messages call the content of a corpus, such as "language 'fr'".
        corpus_label: what error messages call the corpus that is read, such as "corpus 'fr'". It is "" if there is only
            one.
        spread_over: how many processes have a part of the model; 1: each process has the whole model.
        tokens_that_fit: gives the tokens of a forward if `batch_tokens` is None.
        halve_batches: whether a batch that does not fit in memory is measured in halves. False: `measure` halves its
            batches itself.
        group: which documents may share a batch, as `length_group` says of the model.
        unit: what the progress calls documents.
    """

    activity: str
    tokenisation: Tokenisation
    empty_statistics: Callable[[str, Path | None], S]
    measure: Callable[[Batch, BatchSource], S | Pending[S]]
    identity: Callable[[], Mapping[str, object]]
    check: Callable[[str, S, CorpusReport], None]
    tokens_that_fit: Callable[[], int] = lambda: USUAL
    content_label: Callable[[str], str] = "language {!r}".format
    corpus_label: Callable[[str], str] = "corpus {!r}".format
    spread_over: int = 1
    halve_batches: bool = True
    group: LengthGroup = any_length
    unit: str = "documents"


def identify_inputs(model: nn.Module, tokenisation: Tokenisation) -> dict[str, object]:
    """Returns what identifies the model and the tokenisation, for `Job.identity`.

    Args:
        model: the module that the pass runs, such as a model without its head. Its weights must be in memory.
        tokenisation: how records become documents.

    Returns:
        {name: text, number or None}. A checkpoint is resumed only if all values are the same.
    """
    return {
        "dtype": str(model.dtype),
        "model": model_hash(model),
        "tokenizer": tokenizer_hash(tokenisation.tokenizer),
        "max_length": tokenisation.max_length,
        "pack": tokenisation.pack,
        "form": tokenisation.form,
        "chat_template": None if tokenisation.chat is None else tokenisation.chat.hash,
    }
