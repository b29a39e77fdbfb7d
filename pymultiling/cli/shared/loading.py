"""Loads the model that a command measures."""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.results.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_logger = logging.getLogger(__name__)


def load(arguments: Namespace, run: Run) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns the model and its tokenizer, and notes in the run's record which model it is."""
    from pymultiling.models.loading import auto_model_of, hub_commit, load_model, pick_device

    with run.stage("load"):
        device = pick_device(arguments.device)
        _warn_of_slow_kernels(device.type)
        model, tokenizer = load_model(
            model_folder(arguments.model), device, arguments.dtype, arguments.revision, arguments.trust_remote_code
        )
    run.note(
        model={
            "name": arguments.model,
            "revision": hub_commit(arguments.model, arguments.revision),
            "type": model.config.model_type,
            "dtype": str(model.dtype).removeprefix("torch."),
            "loader": auto_model_of(model.config).__name__,
        },
        device=str(device),
    )
    return model, tokenizer


def model_folder(name: str) -> str:
    """Returns the folder of the model in the results of `tune`, or any other name as it is."""
    inner = Path(name) / "model"
    if (Path(name) / "config.json").exists() or not (inner / "config.json").exists():
        return name
    _logger.info("of %s the model in %s is loaded", name, inner)
    return str(inner)


def _warn_of_slow_kernels(device: str) -> None:
    """Says, before the model is loaded, that the kernels for the device are missing, and how to build them."""
    from pymultiling.ops.backends import unavailable

    reason = unavailable("cpp" if device == "cpu" else "triton")
    if reason is not None:
        checkout = Path(__file__).resolve().parents[3]
        build = "pip install --no-build-isolation " + (str(checkout) if (checkout / "setup.py").is_file() else "...")
        how = f"; to build it, run {build}" if device == "cpu" else ""
        _logger.warning("plain PyTorch computes, which is much slower: %s%s", reason, how)
