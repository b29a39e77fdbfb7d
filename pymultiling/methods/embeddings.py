"""Sentences as points: the mean hidden state of every layer, for each language."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch, batches
from pymultiling.data.corpora import REPLACEMENT, CorpusReport, without_half_pairs
from pymultiling.data.documents import TEXTS_AT_A_TIME, document_length
from pymultiling.errors import CorpusError, NonFiniteActivations, UnsupportedModel
from pymultiling.models.decoder import Decoder, evaluation, model_device
from pymultiling.models.linear import is_linear, weight_of
from pymultiling.passes.document_names import naming
from pymultiling.probes.hooks import Hooks
from pymultiling.runtime.progress import progress as show_progress
from pymultiling.runtime.storage import written_whole

DTYPES = {torch.float16: numpy.float16, torch.float32: numpy.float32, torch.float64: numpy.float64}


class SentenceEmbeddings(dict[str, Tensor]):
    """{language: (sentences, layers + 1, hidden)}; rows of missing sentences are NaN.

    Attributes:
        corpora: {language: CorpusReport}; `empty` counts the missing sentences, `cut` those that were shortened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.corpora: dict[str, CorpusReport] = {}


@torch.no_grad()
def sentence_embeddings(
    model: nn.Module,
    tokenizer,
    sentences: Mapping[str, Iterable[str | None]],
    *,
    max_length: int = 512,
    batch_tokens: int = 4096,
    dtype: torch.dtype = torch.float32,
    folder: str | Path | None = None,
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
        sentences: {language: sentences}. A sentence that is None, empty or only spaces, or without a token, is missing.
        max_length: longer sentences are cut to this many tokens (or to the model's positions).
        batch_tokens: tokens in one forward, padding included.
        dtype: of the result: float32, float64 or float16. Means are taken in float32, of a float64 model in float64.
        folder: write every language to <folder>/<language>.npy and return these files as tensors, so that memory does
            not grow with the sentences; what is there is replaced. Read one again with
            `torch.from_numpy(numpy.load(path, mmap_mode="c"))`.
        progress: show it on stderr.

    Returns:
        {language: (sentences, layers + 1, hidden)} on the CPU, in the order of the sentences, with `corpora` as an
        attribute; the rows of missing sentences are NaN.

    Raises:
        CorpusError: sentences are no strings, or a language has none.
        NonFiniteActivations: naming the language and the sentence.
        UnsupportedModel, ValueError: as `importance`; also where the last hidden states have another width (OPT 350M).
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
    if not sentences:
        raise CorpusError("no sentences were given: pass {language: sentences}")
    decoder, length = Decoder(model), document_length(model, max_length, batch_tokens, None)
    decoder.require_weights()
    if any(is_linear(one) for one in decoder.final):
        raise UnsupportedModel(
            f"{type(model).__name__} projects its last hidden states to another width: they are no points beside others"
        )
    shape = len(decoder.layers) + 1, weight_of(decoder.layers[0].o).shape[0]
    found = SentenceEmbeddings()
    for language, texts in sentences.items():
        texts = _checked(language, texts)
        report = found.corpora[language] = CorpusReport(texts=len(texts))
        path = None if folder is None else _file(Path(folder), language)
        rows: list[int] = []
        with _table((len(texts), *shape), dtype, path) as table:
            documents = _documents(texts, tokenizer, length, report, rows)
            with show_progress(f"{language}: embedding", "sentences", progress, len(texts)) as bar:
                for batch in batches(documents, batch_tokens):
                    # The numbers that `batches` gives count documents; a sentence that is missing is none.
                    batch = Batch(batch.input_ids, batch.attention_mask, [rows[number] for number in batch.order])
                    with naming(f"language {language!r}", batch):
                        table[batch.order] = _finite(_means(decoder, batch), dtype)
                    bar.update(len(batch.order))
            if not rows:
                raise CorpusError(f"language {language!r} has no sentences: {str(report) or 'nothing was read'}")
            missing = torch.ones(len(texts), dtype=torch.bool)
            missing[rows] = False
            table[missing] = torch.nan
        found[language] = table
    return found


def watch_layers(decoder: Decoder, hooks: Hooks, see: Callable[[int, Tensor], None]) -> None:
    """Calls see(0, what the first layer reads), then see(l, output of layer l), none normalised, in every forward."""

    def first(_, args, kwargs) -> None:
        see(0, args[0] if args else kwargs["hidden_states"])

    modules = list(decoder.base.get_submodule(decoder.family.layers))
    hooks.before(modules[0], first, with_kwargs=True)
    for index, module in enumerate(modules, 1):
        hooks.after(module, lambda _, args, output, at=index: see(at, _tensor(output)))


def _tensor(output) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _means(decoder: Decoder, batch: Batch) -> Tensor:
    """(documents, layers + 1, hidden) on the CPU."""
    found: dict[int, Tensor] = {}

    def see(index: int, hidden: Tensor) -> None:
        mask = batch.attention_mask.bool().to(hidden.device)
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        # Not a product with the mask: what stands beside padding may be NaN.
        total = wide.masked_fill(~mask[..., None], 0).sum(1)
        found[index] = (total / mask.sum(1, keepdim=True)).cpu()

    device = model_device(decoder.model)
    with Hooks() as hooks, evaluation(decoder.model):
        watch_layers(decoder, hooks, see)
        output = decoder.base(
            input_ids=batch.input_ids.to(device), attention_mask=batch.attention_mask.to(device), use_cache=False
        )
        see(len(decoder.layers), output[0])
    if len(found) < len(decoder.layers) + 1:
        raise UnsupportedModel(
            f"{len(found)} of {len(decoder.layers) + 1} hidden states were seen: layers were not run"
        )
    return torch.stack([found[index] for index in range(len(found))], 1)


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


def _checked(language: str, texts: Iterable[str | None]) -> list[str | None]:
    if isinstance(texts, (str, Mapping)) or not isinstance(texts, Iterable):
        raise CorpusError(f"language {language!r}: pass its sentences as a list of strings, not {type(texts).__name__}")
    texts = list(texts)
    for number, text in enumerate(texts):
        if not (text is None or isinstance(text, str)):
            raise CorpusError(f"language {language!r}, sentence {number}: looked for a string or None, got {text!r}")
    return texts


def _documents(
    texts: list[str | None], tokenizer, length: int, report: CorpusReport, rows: list[int]
) -> Iterator[list[int]]:
    """Token ids of the sentences that are not missing; rows gets their places."""
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        some = enumerate(texts[start : start + TEXTS_AT_A_TIME], start)
        present = [(row, without_half_pairs(text)) for row, text in some if text and text.strip()]
        report.replaced += sum(REPLACEMENT in text for _, text in present)
        report.empty += min(TEXTS_AT_A_TIME, len(texts) - start) - len(present)
        if not present:
            continue
        lists = tokenizer([text for _, text in present], return_attention_mask=False, verbose=False)["input_ids"]
        for (row, _), tokens in zip(present, lists):
            if not tokens:
                report.empty += 1
                continue
            report.cut += len(tokens) > length
            rows.append(row)
            yield tokens[:length]


def _file(folder: Path, language: str) -> Path:
    if not language or Path(language).name != language:
        raise ValueError(f"language {language!r} is no name of a file: leave out folder or rename it")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{language}.npy"


@contextmanager
def _table(shape: tuple[int, ...], dtype: torch.dtype, path: Path | None) -> Iterator[Tensor]:
    """In memory, or in a file that gets its name when the block ends well, and is gone when it does not."""
    if path is None or 0 in shape:
        yield torch.zeros(shape, dtype=dtype)
        return
    with written_whole(path) as partial:
        yield torch.from_numpy(numpy.lib.format.open_memmap(partial, "w+", DTYPES[dtype], shape))
