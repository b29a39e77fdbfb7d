"""Loads the model that a command measures."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from pymultiling.results.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(arguments: Namespace, run: Run) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns the model and its tokenizer, and notes in the run's record which model it is."""
    from pymultiling.models.loading import hub_commit, load_model, pick_device

    with run.stage("load"):
        device = pick_device(arguments.device)
        model, tokenizer = load_model(arguments.model, device, arguments.dtype, arguments.revision)
    run.note(
        model={
            "name": arguments.model,
            "revision": hub_commit(arguments.model, arguments.revision),
            "type": model.config.model_type,
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        device=str(device),
    )
    return model, tokenizer
