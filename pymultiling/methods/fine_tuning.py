"""Training on a corpus what of a model is left to train: all of it, or what `train_only` or `freeze` leave."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.documents import document_length, tokenise
from pymultiling.errors import BackendUnavailable, CorpusError, NonFiniteActivations
from pymultiling.models.decoder import model_device, preserve_modes
from pymultiling.runtime.progress import show_progress

if TYPE_CHECKING:
    import pandas
    from transformers import Trainer

IGNORED = -100  # of a label: no token is predicted there
PREPARED = "_is_accelerate_prepared"  # with this another Trainer would leave out its mixed precision


@dataclass(frozen=True)
class FineTuning:
    """What a training took.

    Attributes:
        log: a row a step: step, loss (mean over the step's tokens, nats), rate.
        documents: how many were trained on, in each epoch.
        parameters: how many numbers were trained.
        optimizer_bytes: of the optimizer's state.
        corpus: what became of the texts that were read.
    """

    log: pandas.DataFrame
    documents: int
    parameters: int
    optimizer_bytes: int
    corpus: CorpusReport


def fine_tune(
    model: nn.Module,
    tokenizer,
    texts,
    *,
    rate: float,
    epochs: int = 1,
    batch: int = 8,
    documents: int | None = None,
    warm_up: float = 0.1,
    weight_decay: float = 0.0,
    max_length: int = 512,
    pack: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> FineTuning:
    """Trains a language model to predict texts, by transformers' Trainer: AdamW, norms of gradients clipped at 1.

    Only parameters with requires_grad train:

        with pml.train_only(model, neurons) as trained:      # or pml.freeze(model), or neither, which trains all
            pml.fine_tune(model, tokenizer, "it.txt", rate=1e-3)
            trained.merge()

    Parameters in 16 bits lose small steps, of which a warning tells: train those of a float32 model, or some neurons,
    whose differences are float32. For large models call `model.gradient_checkpointing_enable()` before.

    Args:
        model: a Hugging Face decoder with a language-model head; on the CPU or the first GPU.
        tokenizer: its tokenizer.
        texts: an iterable of str or rows, or a path, as `detect` takes them. Their tokens are held in memory.
        rate: the highest rate of learning: the rate rises to it from zero, and falls to zero, linearly.
        epochs: times that every document is seen, each in another order.
        batch: documents of a step.
        documents: train on the first so many; None: on all.
        warm_up: part of the steps in which the rate rises, below 1.
        weight_decay: AdamW's; not of biases and norms.
        max_length, pack, progress: as in `detect`.
        seed: of the order of documents, and of dropout; torch's, numpy's and Python's are set to it.

    Returns:
        FineTuning; nothing of the model has changed but its parameters.

    Raises:
        BackendUnavailable: accelerate is not installed.
        CorpusError: the texts cannot be read, or have no token to predict.
        NonFiniteActivations: the loss or a parameter is NaN or infinite; the model is then of no use.
        ValueError: no parameter trains, a number makes no sense, or the model is on another than the first GPU.
    """
    import pandas

    _check(rate, epochs, batch, documents, warm_up)
    parameters = sum(one.numel() for one in model.parameters() if one.requires_grad)
    if parameters == 0:
        raise ValueError("no parameter of the model has requires_grad: there is nothing to train")
    device = model_device(model)
    if device.type == "cuda" and device.index not in (None, 0):
        raise ValueError(f"training takes the first GPU: move the model from {device}, or set CUDA_VISIBLE_DEVICES")
    if any(one.requires_grad and one.dtype.itemsize < 4 for one in model.parameters()):
        warnings.warn("parameters in 16 bits lose small steps: train a float32 model, or some neurons", stacklevel=2)
    report = CorpusReport()
    length = document_length(model, max_length, 1, pack)
    found = list(islice(tokenise(read_texts(texts, report), tokenizer, length, report, pack), documents))
    if not found:
        raise CorpusError(f"the texts have no token to predict: {str(report) or 'nothing was read'}")
    steps = epochs * -(-len(found) // batch)
    rows: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        _left_as_it_was(model),
        show_progress("training", "steps", progress, steps) as bar,
    ):
        trainer = _trainer(
            model,
            found,
            lambda row: (rows.append(row), bar.update()),
            output_dir=folder,
            learning_rate=rate,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch,
            warmup_steps=int(warm_up * steps),
            weight_decay=weight_decay,
            seed=seed,
            use_cpu=device.type == "cpu",
        )
        trainer.train()
    if not all(one.isfinite().all() for one in model.parameters() if one.requires_grad):
        raise NonFiniteActivations(f"after {steps} steps parameters are NaN or infinite; try a lower rate")
    state = (value for kept in trainer.optimizer.state.values() for value in kept.values())
    taken = sum(value.nbytes for value in state if isinstance(value, Tensor))
    return FineTuning(pandas.DataFrame(rows), len(found), parameters, taken, report)


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """What Trainer sets on a model besides its parameters is set back."""
    cache, prepared = model.config.use_cache, hasattr(model, PREPARED)
    try:
        with preserve_modes(model):
            yield
    finally:
        model.config.use_cache = cache
        if not prepared:
            vars(model).pop(PREPARED, None)


def _check(rate: float, epochs: int, batch: int, documents: int | None, warm_up: float) -> None:
    if not 0 < rate < float("inf"):
        raise ValueError(f"rate must be above 0, and finite, got {rate}")
    if epochs < 1 or batch < 1 or (documents is not None and documents < 1):
        raise ValueError("epochs, batch and documents must be at least 1")
    if not 0 <= warm_up < 1:
        raise ValueError(f"warm_up is a part of the steps, from 0 to below 1, got {warm_up}")


def _trainer(model: nn.Module, documents: list[list[int]], see: Callable[[dict], object], **options) -> Trainer:
    """A Trainer that says nothing; see(row) is called after every step."""
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    class Log(TrainerCallback):
        def on_log(self, arguments, state, control, logs=None, **_):
            if "loss" not in logs:  # the summary at the end
                return
            loss = float(logs["loss"])
            if not abs(loss) < float("inf"):
                raise NonFiniteActivations(f"step {state.global_step}: the loss is {loss}; try a lower rate")
            see({"step": state.global_step, "loss": loss, "rate": logs["learning_rate"]})

    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    every = {"logging_strategy": "steps", "logging_steps": 1, "logging_nan_inf_filter": False}
    try:
        arguments = TrainingArguments(**options, **quiet, **every, max_grad_norm=1.0, lr_scheduler_type="linear")
    except ImportError:
        raise BackendUnavailable("training needs accelerate: pip install 'pymultiling[tune]'") from None
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one device: else Trainer copies the model to every GPU it sees
    rows = [{"input_ids": tokens} for tokens in documents]
    trainer = Trainer(model, arguments, data_collator=_collate, train_dataset=rows, callbacks=[Log()])
    trainer.remove_callback(PrinterCallback)
    return trainer


def _collate(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """A batch, padded on the right; what is padded is not attended to and not predicted."""
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    mask = pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)
    ids = pad_sequence(ids, batch_first=True)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, IGNORED)}
