"""Takes the model out of what spreads it over devices, and says in one sentence what cannot be measured."""

from __future__ import annotations

from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.nn.parallel import DataParallel, DistributedDataParallel

from pymultiling.errors import UnsupportedModel
from pymultiling.models.pretrained import pretrained


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the model inside torch's DataParallel or DistributedDataParallel; any other model is returned as it is.

    Raises:
        UnsupportedModel: this is no model of transformers, or FSDP has put its weights into flat tensors.
    """
    inner = model
    while isinstance(wrapper := getattr(inner, "_orig_mod", inner), DataParallel | DistributedDataParallel):
        inner = wrapper.module
    if not isinstance(inner, nn.Module):
        raise UnsupportedModel(
            f"expected a model, got {type(model).__name__}: load one with AutoModelForCausalLM.from_pretrained"
        )
    if any(isinstance(module, FullyShardedDataParallel) for module in inner.modules()):
        raise UnsupportedModel(_SPREAD_BY_FSDP)
    if getattr(inner, "config", None) is None:
        raise UnsupportedModel(
            f"expected a model of transformers, got {type(inner).__name__}, which has no config: give the model inside "
            "it, or load one with AutoModelForCausalLM.from_pretrained"
        )
    return inner


def refuse_spread_weights(model: nn.Module) -> None:
    """Refuses models of FSDP2. Each of its processes keeps some rows of a weight, and importance needs all rows.

    Raises:
        UnsupportedModel: `fully_shard` was applied to a module of the model.
    """
    if any(isinstance(module, FSDPModule) for module in model.modules()):
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
    if is_of_peft(model):
        raise UnsupportedModel(
            f"{type(model).__name__} is a wrapper of PEFT: give the model that its merge_and_unload() returns (prompt "
            "and prefix tuning have no weights to merge: of them only get_base_model() can be measured)"
        )


def refuse_multimodal(model: nn.Module) -> None:
    """Refuses models that take images or sound too.

    Raises:
        UnsupportedModel: the model is one.
    """
    config = pretrained(model).config
    text_config = config.get_text_config()
    if text_config is not config:
        raise UnsupportedModel(
            f"{type(model).__name__} takes more than text: give the decoder inside it, model.get_decoder(), which is "
            f"of model_type {text_config.model_type!r} and has no head"
        )


def is_of_peft(module: nn.Module) -> bool:
    """Whether PEFT defines the module's class. PEFT need not be installed."""
    return any(base.__module__.partition(".")[0] == "peft" for base in type(module).__mro__)


def require_language_model(model: nn.Module) -> None:
    """Checks that a model predicts the next token, and that its weights are in memory.

    Raises:
        UnsupportedModel: it has no language-model head, or is an encoder-decoder; or as `require_weights`.
    """
    can_generate = getattr(model, "can_generate", None)
    if can_generate is None or not can_generate() or pretrained(model).config.is_encoder_decoder:
        raise UnsupportedModel(
            f"{type(model).__name__} does not predict the next token of a text, so that it has no perplexity: load the "
            "model with AutoModelForCausalLM"
        )
    require_weights(model)


def require_weights(model: nn.Module) -> None:
    """Checks that all weights are in memory.

    Raises:
        UnsupportedModel: weights are offloaded or on the "meta" device.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise UnsupportedModel("weights of the model are offloaded: load it whole, on one device or several")


_SPREAD_BY_FSDP = (
    "FSDP has spread the weights of the model over processes, row by row: load the model whole in every process, or "
    "spread it with transformers' tp_plan"
)
