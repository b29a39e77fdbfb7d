"""Models for the command line: from a folder or the Hugging Face Hub, or one sentence that says why not."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from pymultiling.errors import BackendUnavailable, CheckpointError


def pick_device(name: str) -> torch.device:
    """The device called "cpu", "cuda", or "auto": CUDA where there is one; of several processes on a machine each has its own."""
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(f"torch {torch.__version__} finds no CUDA device here: use --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def load_model(name: str, device: torch.device, dtype: str = "auto", revision: str | None = None):
    """A causal language model in evaluation mode, and its tokenizer.

    Args:
        name: a folder that `save_pretrained` wrote, or a model's name on the Hub.
        device: where to put it.
        dtype: "float32", "bfloat16", or "auto": as it is stored, but float16, which overflows early, as float32.
        revision: of a model on the Hub.

    Raises:
        CheckpointError: it cannot be loaded, or weights are missing.
    """
    return _loaded(AutoModelForCausalLM, name, device, dtype, revision)


def hub_commit(name: str, revision: str | None = None) -> str | None:
    """The commit of a model that was loaded from the Hub, by where the cache has it; None where `name` is a folder."""
    file = None if Path(name).is_dir() else try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(file).parent.name if isinstance(file, str) else None


def load_translator(name: str, device: torch.device):
    """A causal language model, or an encoder-decoder that translates, and its tokenizer: as `load_model`, dtype "auto"."""
    check_name(name)
    try:
        kind = AutoModelForSeq2SeqLM if AutoConfig.from_pretrained(name).is_encoder_decoder else AutoModelForCausalLM
    except Exception as error:
        raise CheckpointError(_cannot_load(name, error)) from error
    return _loaded(kind, name, device, "auto", None)


def _loaded(kind, name: str, device: torch.device, dtype: str, revision: str | None):
    tokenizer = load_tokenizer(name, revision)
    return load_weights(name, device, dtype, revision, kind), tokenizer


def load_tokenizer(name: str, revision: str | None = None):
    """A model's tokenizer.

    Raises:
        CheckpointError: there is none, or it cannot be loaded.
    """
    check_name(name)
    silence_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except Exception as error:  # transformers says in several lines what it tried
        _require_config(name, revision)
        raise CheckpointError(_no_tokenizer(name, type(error).__name__)) from error
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):  # transformers makes it up for some kinds of models
        raise CheckpointError(_no_tokenizer(name, "it would have no tokens but special ones"))
    return tokenizer


def load_weights(
    name: str, device: torch.device, dtype: str = "auto", revision: str | None = None, kind=AutoModelForCausalLM
):
    """A model without its tokenizer: as `load_model`."""
    check_name(name)
    silence_transformers()
    try:
        model, found = kind.from_pretrained(name, revision=revision, dtype=dtype, output_loading_info=True)
    except Exception as error:  # every library below has errors of its own
        raise CheckpointError(_cannot_load(name, error)) from error
    if found["missing_keys"]:
        some = sorted(found["missing_keys"])
        raise CheckpointError(f"{name} lacks {len(some)} weights, such as {some[0]}: load a complete model of its kind")
    if dtype == "auto" and model.dtype == torch.float16:
        model.float()
    return model.to(device).eval()


def load_without_weights(name: str, revision: str | None = None):
    """The modules of a model with the shapes of its weights, without their values: reads the configuration only."""
    check_name(name)
    silence_transformers()
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception as error:
        raise CheckpointError(_cannot_load(name, error)) from error


def check_name(name: str) -> None:
    """CheckpointError where `name` can be neither a folder's nor a model's on the Hub."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{name} has no config.json: give a folder that save_pretrained wrote")
        return
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise CheckpointError(f"{name}: no such folder; give a folder that save_pretrained wrote, or a name on the Hub")


def silence_transformers() -> None:
    """Turns off the bars and remarks of transformers: errors are raised all the same."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _require_config(name: str, revision: str | None) -> None:
    """CheckpointError where not even a configuration is there."""
    try:
        AutoConfig.from_pretrained(name, revision=revision)
    except Exception as error:
        raise CheckpointError(_cannot_load(name, error)) from error


def _no_tokenizer(name: str, reason: str) -> str:
    files = "tokenizer.json, or the files of its kind"
    return f"{name} has no tokenizer that can be loaded ({reason}): save the model's own beside its weights ({files})"


def _cannot_load(name: str, error: Exception) -> str:
    reason = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    if reason.startswith("Unrecognized configuration class"):
        return f"{name} is no decoder that transformers can load for generating text ({type(error).__name__}: {reason})"
    where = "folder" if Path(name).is_dir() else "folder or name on the Hub"
    return f"{name} cannot be loaded ({type(error).__name__}: {reason}): check the {where} and its weights"
