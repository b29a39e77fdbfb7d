"""Takes the model out of what spreads it over devices, and says in one sentence what cannot be measured."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.nn.parallel import DataParallel, DistributedDataParallel

from pymultiling.errors import UnsupportedModel
from pymultiling.models.adapters import MERGE, is_of_peft
from pymultiling.models.pretrained import class_name, pretrained, uncompiled
from pymultiling.models.walk import each_module


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the model inside torch's DataParallel or DistributedDataParallel, or inside a PEFT model.

    Any other model is returned as it is, also a PEFT model that does more than to call the model inside.

    Raises:
        UnsupportedModel: this is no model of transformers, or FSDP has put its weights into flat tensors.
    """
    inner = model
    while isinstance(inner, nn.Module) and (wrapped := _inside(uncompiled(inner))) is not None:
        inner = wrapped
    if not isinstance(inner, nn.Module):
        raise UnsupportedModel(
            f"expected a model, got {type(model).__name__}: load one with AutoModelForCausalLM.from_pretrained"
        )
    if any(isinstance(module, FullyShardedDataParallel) for module in each_module(inner)):
        raise UnsupportedModel(_SPREAD_BY_FSDP)
    if getattr(inner, "config", None) is None:
        raise UnsupportedModel(
            f"expected a model of transformers, got {type(inner).__name__}, which has no config: give the model inside "
            "it, or load one with AutoModelForCausalLM.from_pretrained"
        )
    return inner


def _inside(wrapper: nn.Module) -> nn.Module | None:
    """Returns the model inside a wrapper that only calls it; None for any other model."""
    inner: nn.Module | None = None
    if isinstance(wrapper, DataParallel | DistributedDataParallel):
        inner = wrapper.module
    elif (kinds := {config.peft_type for config in _peft_configs(wrapper)}) and kinds <= ADAPTERS:
        tuner: Any = wrapper if isinstance(wrapper._modules.get("model"), nn.Module) else wrapper.base_model
        inner = tuner.model
    return inner


def _peft_configs(model: nn.Module) -> list[Any]:
    """Returns the configurations of the adapters of a PEFT model, or of the tuner inside it; [] for any other model."""
    return list(getattr(model, "peft_config", {}).values()) if is_of_peft(model) else []


def without_prompt(model: nn.Module) -> nn.Module:
    """Returns the model to which PEFT's prompt or prefix tuning adds virtual tokens; any other model as it is.

    Neurons can be switched off in it. What it computes by itself is not what the PEFT model computes.
    """
    wrapper = uncompiled(model) if isinstance(model, nn.Module) else model
    configs = _peft_configs(wrapper)
    if configs and all(getattr(config, "is_prompt_learning", False) for config in configs):
        inner: nn.Module = wrapper.base_model  # type: ignore[assignment]
        return inner
    return model


def refuse_spread_weights(model: nn.Module) -> None:
    """Refuses models of FSDP2. Each of its processes keeps some rows of a weight, and importance needs all rows.

    Raises:
        UnsupportedModel: `fully_shard` was applied to a module of the model.
    """
    if any(isinstance(module, FSDPModule) for module in each_module(model)):
        raise UnsupportedModel(_SPREAD_BY_FSDP)


def refuse_replicas(model: nn.Module) -> None:
    """Refuses DataParallel on several devices, which runs copies of the modules, and not those that have the hooks.

    Raises:
        UnsupportedModel: the model is such a one.
    """
    if isinstance(model, DataParallel) and len(model.device_ids) > 1:
        raise UnsupportedModel(
            "DataParallel runs copies of the model, in which the neurons would stay on: call deactivate on its module, "
            "and run that"
        )


def refuse_peft(model: nn.Module) -> None:
    """Refuses the wrappers of PEFT.

    Raises:
        UnsupportedModel: the model is one.
    """
    if is_of_peft(uncompiled(model)):
        raise UnsupportedModel(
            f"{class_name(model)} is a wrapper of PEFT, and its kind of adapter cannot be measured: {MERGE} (prompt "
            "and prefix tuning have no weights to merge: under them neurons can be deactivated, and only the model "
            "without them, get_base_model(), can be measured)"
        )


def text_decoder(model: nn.Module, is_pair: bool = False) -> nn.Module:
    """Returns the model without its head. Of a model that takes more than text, it is the decoder of the text in it.

    For input that is text alone, that decoder and the head compute what the whole model does.

    Args:
        model: the model.
        is_pair: whether it is an encoder-decoder. Then its encoder is returned.

    Raises:
        UnsupportedModel: the model takes more than text, and transformers' `get_decoder` does not find such a decoder.
    """
    if is_pair:
        return uncompiled(pretrained(model).get_encoder())
    config = pretrained(model).config
    text_config = config.get_text_config()
    if text_config is config:
        return without_head(model)
    decoder = uncompiled(pretrained(model).get_decoder())  # type: ignore[no-untyped-call]
    if getattr(decoder, "config", None) is not text_config:
        raise UnsupportedModel(
            f"{class_name(model)} takes more than text, and its get_decoder() gives {type(decoder).__name__}, which "
            f"is no decoder of model_type {text_config.model_type!r}: give that decoder, which has no head"
        )
    return without_head(decoder)


def body_of(model: nn.Module) -> nn.Module:
    """Returns the module that a causal model calls before its head, as it is called, also if it is compiled.

    It is what transformers' `get_decoder` returns, or the base model where that takes the head for a decoder by its
    name (ModernBERT's).
    """
    body: nn.Module | None = pretrained(model).get_decoder()  # type: ignore[no-untyped-call]
    if body is None or not hasattr(uncompiled(body), "base_model"):
        base: nn.Module = pretrained(model).base_model
        return base
    return body


def without_head(model: nn.Module) -> nn.Module:
    """Returns transformers' base model, also where its `base_model_prefix` names no module of the model (Llama 4).

    A module that is no model of transformers has no head.
    """
    if not hasattr(model, "base_model"):
        return model
    base = uncompiled(pretrained(model).base_model)
    head = pretrained(model).get_output_embeddings()  # type: ignore[no-untyped-call]
    if base is model and head is not None:
        return uncompiled(model.get_submodule("model"))
    return base


def refuse_quantisation_mark(model: nn.Module) -> None:
    """Refuses to train a model that transformers has marked as quantised, as it marks models loaded from GGUF files.

    Raises:
        UnsupportedModel: the model is marked.
    """
    if getattr(model, "is_quantized", False):
        raise UnsupportedModel(
            "transformers marks this model as loaded from quantised weights, and neither trains nor saves it: load it "
            "without quantisation, or if its weights are floating-point numbers now, as those from a GGUF file are, "
            "call `del model.hf_quantizer, model.is_quantized, model.config.quantization_config` first"
        )


def has_weights(model: nn.Module) -> bool:
    """Whether all weights are in memory, and none is offloaded or on the "meta" device."""
    parameters = (parameter for module in each_module(model) for parameter in module._parameters.values())
    return not any(parameter is not None and parameter.is_meta for parameter in parameters)


def require_weights(model: nn.Module) -> None:
    """Checks that all weights are in memory.

    Raises:
        UnsupportedModel: weights are offloaded or on the "meta" device.
    """
    if not has_weights(model):
        raise UnsupportedModel("weights of the model are offloaded: load it whole, on one device or several")


# PEFT's names of the methods whose wrappers do nothing but call the model with the adapters inside.
ADAPTERS = {"LORA", "IA3", "LN_TUNING"}

_SPREAD_BY_FSDP = (
    "FSDP has spread the weights of the model over processes, row by row: load the model whole in every process, or "
    "spread it with transformers' tp_plan"
)
