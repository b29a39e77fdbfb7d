"""Loads models for the command line, from a folder or the Hugging Face Hub. An error message is one sentence."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import transformers
from huggingface_hub import errors as hub_errors
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from pymultiling.errors import BackendUnavailable, CheckpointError, type_and_text
from pymultiling.models.families import known_family
from pymultiling.models.pretrained import pretrained
from pymultiling.models.stored_dtype import widen_where_better

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

HUB_SECONDS = 10.0  # how long the Hub may take to say that it has a model

AutoModel: TypeAlias = (
    type[transformers.AutoModel]
    | type[AutoModelForCausalLM]
    | type[AutoModelForImageTextToText]
    | type[AutoModelForMaskedLM]
    | type[AutoModelForPreTraining]
    | type[AutoModelForQuestionAnswering]
    | type[AutoModelForSeq2SeqLM]
    | type[AutoModelForSequenceClassification]
    | type[AutoModelForTextEncoding]
    | type[AutoModelForTokenClassification]
)
# {how the name of a model's class ends: what loads it}, of models that have another head than a language model's
OTHER_HEADS: dict[str, AutoModel] = {
    "ElectraForPreTraining": AutoModelForPreTraining,  # says of every token whether it was replaced
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForQuestionAnswering": AutoModelForQuestionAnswering,
}

# Types whose causal class lacks its weights in a checkpoint of the class that takes images too.
WHOLE_ONLY = ("emu3",)


def pick_device(name: str) -> torch.device:
    """Returns the device called "cpu", "cuda" or "auto"; "auto" is CUDA where it is available.

    Several processes on one machine take its GPUs in turn. They share GPUs if there are more processes than GPUs.

    Raises:
        BackendUnavailable: "cuda" was asked for, and torch finds no CUDA device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(f"torch {torch.__version__} finds no CUDA device here: use --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def load_model(
    name: str,
    device: torch.device,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal language model or an encoder in evaluation mode, and its tokenizer.

    Args:
        name: a folder that `save_pretrained` wrote, a file of llama.cpp (.gguf), or the name of a model on the Hub.
        device: where to put the model.
        dtype: "float32", "bfloat16" or "auto". "auto" is the dtype of the stored weights, but float32 where
            `widen_where_better` takes it, and they are not quantised.
        revision: a branch, tag or commit on the Hub; None: the main branch.
        trust_remote_code: whether Python code that comes with the model may run.

    Returns:
        The model and its tokenizer.

    Raises:
        CheckpointError: the model cannot be loaded, or weights are missing.
    """
    tokenizer = load_tokenizer(name, revision, trust_remote_code)
    return load_weights(name, device, dtype, revision, trust_remote_code=trust_remote_code), tokenizer


def hub_commit(name: str, revision: str | None = None) -> str | None:
    """Returns the commit of a model from the Hub, which is part of its path in the cache; None for a folder or file."""
    file = None if Path(name).exists() else try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(file).parent.name if isinstance(file, str) else None


def load_translator(name: str, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a model that translates, and its tokenizer. The dtype is selected as by "auto" in `load_model`.

    Args:
        name: a folder that `save_pretrained` wrote, or the name of a model on the Hub: an encoder-decoder or a causal
            language model.
        device: where to put the model.

    Returns:
        The model in evaluation mode, and its tokenizer.

    Raises:
        CheckpointError: the model cannot be loaded, or weights are missing.
    """
    check_name(name)
    auto_model: AutoModel
    try:
        is_encoder_decoder = AutoConfig.from_pretrained(name).is_encoder_decoder
        auto_model = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    except Exception as error:
        raise CheckpointError(_cannot_load(name, error)) from error
    tokenizer = load_tokenizer(name)
    return load_weights(name, device, auto_model=auto_model), tokenizer


def load_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model. The arguments are those of `load_model`.

    Raises:
        CheckpointError: the model has no tokenizer, or it cannot be loaded.
    """
    check_name(name, revision)
    silence_transformers()
    try:
        folder, options = _source(name)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, revision=revision, trust_remote_code=trust_remote_code, **options
        )
    except Exception as error:  # the message of transformers lists all its attempts on several lines
        _require_config(name, revision, trust_remote_code)
        raise CheckpointError(_no_tokenizer(name, type(error).__name__)) from error
    # For some kinds of models transformers makes up a tokenizer where there is none.
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise CheckpointError(_no_tokenizer(name, "it would have no tokens but special ones"))
    return tokenizer


def load_weights(
    name: str,
    device: torch.device,
    dtype: str = "auto",
    revision: str | None = None,
    auto_model: AutoModel | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Loads a model in evaluation mode without its tokenizer.

    Args:
        name: as in `load_model`.
        device: as in `load_model`.
        dtype: as in `load_model`.
        revision: as in `load_model`.
        auto_model: the class of transformers that loads the model. None: that of causal language models; or of models
            that take images too, or have another head, or of encoders, if the model is one.
        trust_remote_code: as in `load_model`.

    Raises:
        CheckpointError: the model cannot be loaded, or weights are missing.
    """
    check_name(name, revision)
    silence_transformers()
    try:
        folder, gguf = _source(name)
        options: dict[str, Any] = dict(revision=revision, trust_remote_code=trust_remote_code, **gguf)
        if auto_model is None:
            auto_model = auto_model_of(AutoConfig.from_pretrained(folder, **options))
        loaded: Any = auto_model.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    except Exception as error:  # every library that is involved has exceptions of its own
        raise CheckpointError(_cannot_load(name, error)) from error
    model: nn.Module = loaded[0]
    info: dict[str, set[str]] = loaded[1]
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise CheckpointError(
            f"{name} lacks {len(missing)} weights, such as {missing[0]}: load a complete model of its kind"
        )
    if gguf:  # the weights are floating-point numbers now
        del model.hf_quantizer, model.is_quantized, pretrained(model).config.quantization_config
    if dtype == "auto" and not getattr(model, "is_quantized", False):
        widen_where_better(model, device)
    return pretrained(model.to(device).eval())


def auto_model_of(config: PreTrainedConfig) -> AutoModel:
    """Returns the class of transformers that loads models of a configuration."""
    architecture = next(iter(config.architectures or []), "")
    for ending, auto_model in OTHER_HEADS.items():
        if architecture.endswith(ending):
            return auto_model
    family = known_family(config.get_text_config())
    if family is not None and not family.causal:
        if config.is_encoder_decoder:
            return AutoModelForSeq2SeqLM
        if architecture.endswith("EncoderModel"):  # the encoder of an encoder-decoder alone
            return AutoModelForTextEncoding
        return transformers.AutoModel if architecture.endswith("Model") else AutoModelForMaskedLM
    takes_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    is_whole = config.model_type in WHOLE_ONLY and not architecture.endswith("ForCausalLM")
    is_known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not is_whole
    return AutoModelForImageTextToText if takes_images and not is_known else AutoModelForCausalLM


def load_without_weights(name: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedModel:
    """Builds a model on the "meta" device from its configuration: weights have shapes and no values.

    The arguments are those of `load_model`.

    Raises:
        CheckpointError: the configuration cannot be loaded, or is not that of a causal language model.
    """
    check_name(name, revision)
    silence_transformers()
    try:
        folder, options = _source(name)
        config = AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=trust_remote_code, **options)
        with torch.device("meta"):
            model: PreTrainedModel = auto_model_of(config).from_config(  # type: ignore[no-untyped-call]
                config, trust_remote_code=trust_remote_code
            )
    except Exception as error:
        raise CheckpointError(_cannot_load(name, error)) from error
    return model


def check_name(name: str, revision: str | None = None) -> None:
    """Checks that there is such a model: a folder, a file of llama.cpp, or one in the cache or on the Hub.

    The Hub is asked once, because transformers asks it again and again if it does not answer.

    Raises:
        CheckpointError: `name` is neither a folder with a model nor a model on the Hub, or the Hub cannot be reached.
        BackendUnavailable: it is a file of llama.cpp, and the package gguf is missing.
    """
    folder = Path(name)
    if folder.suffix == ".gguf":
        if not folder.is_file():
            raise CheckpointError(f"{name}: no such file; give the path of a file on this machine")
        if find_spec("gguf") is None:
            raise BackendUnavailable(
                f"{name} is a file of llama.cpp, which the package gguf reads: pip install 'pymultiling[gguf]'"
            )
        return
    if folder.is_dir():
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            raise CheckpointError(_is_adapter(name))
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{name} has no config.json: give a folder that save_pretrained wrote")
        return
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise CheckpointError(f"{name}: no such folder; give a folder that save_pretrained wrote, or a name on the Hub")
    if not isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        _ask_hub(name, revision)


def _source(name: str) -> tuple[str, dict[str, str]]:
    """Returns what transformers calls the model, and its keyword for a file of llama.cpp, whose weights it widens."""
    path = Path(name)
    return (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (name, {})


def _ask_hub(name: str, revision: str | None) -> None:
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=HUB_SECONDS)
    except hub_errors.GatedRepoError:
        return  # the reason that transformers gives says what to do
    except hub_errors.RevisionNotFoundError:
        raise CheckpointError(f"{name} has no revision {revision}: give one of its branches, tags or commits") from None
    except hub_errors.EntryNotFoundError:
        raise CheckpointError(f"{name} on the Hub has no config.json; {_is_adapter('if it')}") from None
    except (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError):
        raise CheckpointError(
            f"{name}: there is no such folder, and no such model on the Hub (or it is private, and needs "
            "`hf auth login`): check the spelling"
        ) from None
    except Exception as error:  # the network library depends on the client's version and has its own errors
        raise CheckpointError(
            f"{name}: there is no such folder, the model is not in the cache, and the Hub cannot be reached "
            f"({type_and_text(error)}): check the spelling and the network"
        ) from error


def silence_transformers() -> None:
    """Turns off the progress bars and the warnings of transformers; its errors are still raised."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _require_config(name: str, revision: str | None, trust_remote_code: bool) -> None:
    """Raises CheckpointError where not even the configuration can be loaded."""
    try:
        AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise CheckpointError(_cannot_load(name, error)) from error


def _no_tokenizer(name: str, reason: str) -> str:
    files = "tokenizer.json, or the files of its kind"
    return f"{name} has no tokenizer that can be loaded ({reason}): save the model's own beside its weights ({files})"


def _is_adapter(name: str) -> str:
    return (
        f"{name} is an adapter of PEFT: load it with peft's class for its task, such as AutoPeftModelForCausalLM, call "
        "merge_and_unload(), save what it returns with save_pretrained, and give that folder"
    )


def _cannot_load(name: str, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"{name} needs Python code that comes with it: read that code, and give --trust-remote-code to let it run"
        )
    first_line = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    reason = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    if first_line.startswith("Unrecognized configuration class"):
        return f"{name} is no decoder that transformers can load for generating text ({reason}): give a decoder"
    where = "folder" if Path(name).is_dir() else "folder or name on the Hub"
    return f"{name} cannot be loaded ({reason}): check the {where} and its weights"
