"""Fine-tuning on a corpus: of a whole model, or of what `train_only` or `freeze` leave trainable."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pymultiling.data.chat import chat_frame
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.documents import TEXTS_AT_A_TIME, document_length, tokenise, tokenise_messages
from pymultiling.errors import BackendUnavailable, CorpusError, NonFiniteActivations
from pymultiling.models.decoder import model_device
from pymultiling.models.head import refuse_encoder
from pymultiling.models.modes import preserve_modes
from pymultiling.models.pretrained import pretrained
from pymultiling.models.unwrap import unwrap
from pymultiling.runtime.progress import show_progress
from pymultiling.runtime.short_repr import short_repr

if TYPE_CHECKING:
    import pandas
    from torch.utils.data import Dataset
    from transformers import PreTrainedTokenizerBase, Trainer, TrainerControl, TrainerState, TrainingArguments

    from pymultiling.data.corpus_types import Corpus

IGNORED = -100  # the label of tokens that are not predicted
PREPARED = "_is_accelerate_prepared"  # a model with this attribute gets no mixed precision from another Trainer


class _Step(TypedDict):
    """A row of `FineTuning.log`."""

    step: int
    loss: float
    rate: float


@dataclass(frozen=True)
class FineTuning:
    """The result of `fine_tune`.

    Attributes:
        log: DataFrame with a row for each step. Columns: step (from 1), loss (mean over the tokens of the step, nats),
            rate (learning rate).
        documents: number of documents in each epoch.
        parameters: number of trained parameters (single numbers).
        optimizer_bytes: size of the optimizer's state, in bytes.
        corpus: how many texts were read, left out or cut, up to the last document that was trained on.
    """

    log: pandas.DataFrame
    documents: int
    parameters: int
    optimizer_bytes: int
    corpus: CorpusReport

    def __repr__(self) -> str:
        return short_repr(self)


def fine_tune(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Corpus,
    *,
    rate: float = 1e-4,
    epochs: int = 1,
    batch: int = 8,
    documents: int | None = None,
    tokens: int | None = None,
    warm_up: float = 0.1,
    weight_decay: float = 0.0,
    max_length: int = 512,
    pack: int | None = None,
    chat_template: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> FineTuning:
    """Trains a language model to predict texts, with transformers' Trainer.

    The optimizer is AdamW, with the norm of the gradients clipped at 1. Only parameters with requires_grad are trained:

        with pml.train_only(model, neurons) as trained:      # or pml.freeze(model), or neither to train all parameters
            pml.fine_tune(model, tokenizer, "it.txt")
            trained.merge()

    Parameters in 16 bits lose small steps, and a warning says so. Train a float32 model, or use `train_only`, whose
    parameters are float32. For large models call `model.gradient_checkpointing_enable()` before.

    Args:
        model: a Hugging Face decoder with a language-model head, on the CPU or the first GPU. It is trained in place.
        tokenizer: the model's tokenizer.
        texts: an iterable of str or of records, or a path, as one corpus of `detect`. Their tokens are
            held in memory.
        rate: the highest learning rate, above 0. The learning rate rises linearly from 0 to it, and falls linearly to
            0. A rate of 1e-3 can harm a pretrained model, also in the language that it trains on.
        epochs: number of passes over the documents, each in another random order.
        batch: number of documents in a step.
        documents: train on this many documents, the first ones. None: on all.
        tokens: train on the first documents, as many as have at most this many tokens. None: on all.
        warm_up: fraction of the steps in which the learning rate rises, from 0 to below 1.
        weight_decay: weight decay of AdamW. It does not apply to biases and norms.
        max_length: as in `detect`.
        pack: as in `detect`.
        chat_template: as in `detect`: the texts' own tokens are predicted, each text as the user's message of the
            tokenizer's chat template.
        seed: seed of the order of the documents and of dropout. The random generators of torch, numpy and Python are
            set to it.
        progress: show progress on stderr.

    Returns:
        A `FineTuning`. Only the parameters of the model have changed.

    Raises:
        BackendUnavailable: accelerate is not installed.
        CorpusError: the texts cannot be read, or have no token to predict.
        NonFiniteActivations: the loss or a parameter is NaN or infinite. The model cannot be used any more.
        ValueError: no parameter is trainable, an argument is out of its range, or the model is on a GPU other than the
            first; or as `detect` for `chat_template`.

    Warns:
        UserWarning: trainable parameters are in 16 bits.
    """
    import pandas

    _check(rate, epochs, batch, documents, tokens, warm_up)
    model = unwrap(model)
    refuse_encoder(model, "to learn to predict the next token takes")
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parameters = sum(parameter.numel() for parameter in trainable)
    if parameters == 0:
        raise ValueError(
            "no parameter of the model has requires_grad, so that there is nothing to train: set it for some"
        )
    device = model_device(model)
    if device.type == "cuda" and device.index not in (None, 0):
        raise ValueError(f"training takes the first GPU: move the model from {device}, or set CUDA_VISIBLE_DEVICES")
    if any(parameter.dtype.itemsize < 4 for parameter in trainable):
        warnings.warn("parameters in 16 bits lose small steps: train a float32 model, or some neurons", stacklevel=2)
    report = CorpusReport()
    length = document_length(model, max_length, 1, pack)
    tokenisation = read_texts(texts, report), tokenizer, length, report, pack
    at_a_time = TEXTS_AT_A_TIME if documents is None and tokens is None else 1  # the report is of what is trained on
    if chat_template:
        found = tokenise_messages(*tokenisation, chat_frame(tokenizer), at_a_time=at_a_time)
    else:
        found = ((document, 0) for document in tokenise(*tokenisation, at_a_time=at_a_time))
    trained, report = _first_documents(found, report, documents, tokens)
    if not trained:
        raise CorpusError(f"the texts have no token to predict: {str(report) or 'nothing was read'}")
    steps = epochs * -(-len(trained) // batch)
    log: list[_Step] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        _restore_settings(model),
        show_progress("training", "steps", progress, steps) as bar,
    ):

        def on_step(step: _Step) -> None:
            log.append(step)
            bar.update()

        arguments = _training_arguments(
            output_dir=folder,
            learning_rate=rate,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch,
            warmup_steps=int(warm_up * steps),
            weight_decay=weight_decay,
            seed=seed,
            use_cpu=device.type == "cpu",
        )
        trainer = _trainer(model, trained, arguments, on_step)
        trainer.train()
    if not all(parameter.isfinite().all() for parameter in model.parameters() if parameter.requires_grad):
        raise NonFiniteActivations(f"after {steps} steps parameters are NaN or infinite; try a lower rate")
    assert trainer.optimizer is not None  # train() has made it
    state = (value for values in trainer.optimizer.state.values() for value in values.values())
    optimizer_bytes = sum(value.nbytes for value in state if isinstance(value, Tensor))
    return FineTuning(pandas.DataFrame(log), len(trained), parameters, optimizer_bytes, report)


@contextmanager
def _restore_settings(model: nn.Module) -> Iterator[None]:
    """Restores, at the end of the block, everything that Trainer sets on a model besides its parameters."""
    config = pretrained(model).config
    use_cache, was_prepared = config.use_cache, hasattr(model, PREPARED)
    try:
        with preserve_modes(model):
            yield
    finally:
        config.use_cache = use_cache
        if not was_prepared:
            vars(model).pop(PREPARED, None)


def _first_documents(
    found: Iterator[tuple[list[int], int]], report: CorpusReport, documents: int | None, tokens: int | None
) -> tuple[list[tuple[list[int], int]], CorpusReport]:
    """Returns the first documents, and the report of the texts up to the last of them.

    Args:
        found: yields the tokens of each document, and the index of the first one that counts.
        report: the report, which `found` updates.
        documents: take at most this many. None: all.
        tokens: take as many as have at most this many tokens that count. None: all.
    """
    taken: list[tuple[list[int], int]] = []
    while documents is None or len(taken) < documents:
        before = replace(report)
        document, start = next(found, ([], 0))
        if not document:
            break
        if tokens is not None:
            tokens -= len(document) - start
            if tokens < 0:
                return taken, before
        taken.append((document, start))
    return taken, report


def _check(rate: float, epochs: int, batch: int, documents: int | None, tokens: int | None, warm_up: float) -> None:
    if not 0 < rate < float("inf"):
        raise ValueError(f"rate must be above 0 and finite, got {rate}")
    if epochs < 1 or batch < 1 or (documents is not None and documents < 1):
        raise ValueError(f"epochs, batch and documents must be at least 1, got {epochs}, {batch} and {documents}")
    if tokens is not None and tokens < 1:
        raise ValueError(f"tokens must be at least 1, or None for all, got {tokens}")
    if not 0 <= warm_up < 1:
        raise ValueError(f"warm_up must be a fraction of the steps, from 0 to below 1, got {warm_up}")


def _training_arguments(
    *,
    output_dir: str,
    learning_rate: float,
    num_train_epochs: int,
    per_device_train_batch_size: int,
    warmup_steps: int,
    weight_decay: float,
    seed: int,
    use_cpu: bool,
) -> TrainingArguments:
    """Returns arguments of a Trainer that prints nothing, saves nothing and logs every step.

    Raises:
        BackendUnavailable: accelerate is not installed.
    """
    from transformers import TrainingArguments

    try:
        arguments = TrainingArguments(
            output_dir=output_dir,
            learning_rate=learning_rate,
            num_train_epochs=num_train_epochs,
            per_device_train_batch_size=per_device_train_batch_size,
            warmup_steps=warmup_steps,
            weight_decay=weight_decay,
            seed=seed,
            use_cpu=use_cpu,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="steps",
            logging_steps=1,
            logging_nan_inf_filter=False,
            max_grad_norm=1.0,
            lr_scheduler_type="linear",
        )
    except ImportError:
        raise BackendUnavailable("training needs accelerate: pip install 'pymultiling[tune]'") from None
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one device: else Trainer copies the model to every GPU it sees
    return arguments


def _trainer(
    model: nn.Module,
    documents: list[tuple[list[int], int]],
    arguments: TrainingArguments,
    on_step: Callable[[_Step], None],
) -> Trainer:
    """Returns a Trainer that calls on_step after every step. Its `train` raises NonFiniteActivations for a NaN loss.

    A document is its tokens and the index of the first one that is predicted.
    """
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    class StepLog(TrainerCallback):
        def on_log(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            logs: dict[str, float] | None = None,
            **kwargs: Any,
        ) -> None:
            if logs is None or "loss" not in logs:  # the summary at the end
                return
            loss = float(logs["loss"])
            if not abs(loss) < float("inf"):
                raise NonFiniteActivations(f"step {state.global_step}: the loss is {loss}; try a lower rate")
            on_step({"step": state.global_step, "loss": loss, "rate": logs["learning_rate"]})

    # The labels are in the records, since Trainer removes what is no argument of the model's forward.
    records = [{"input_ids": tokens, "labels": [IGNORED] * start + tokens[start:]} for tokens, start in documents]
    trainer = Trainer(
        model,
        arguments,
        data_collator=_collate,
        train_dataset=cast("Dataset[dict[str, list[int]]]", records),  # a list serves as a data set
        callbacks=[StepLog()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _collate(records: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """Makes a batch, padded on the right; padding is not attended to and not predicted."""
    tokens = [torch.tensor(record["input_ids"]) for record in records]
    mask = pad_sequence([torch.ones_like(document) for document in tokens], batch_first=True)
    labels = [torch.tensor(record["labels"]) for record in records]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True),
        "attention_mask": mask,
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }
