r"""Adapters of PEFT that are fixed linear maps: the weight and the bias that a module computes with.

    LoRA:  W + s B A,  b + s d                  DoRA:  m / ||W + s B A|| (W + s B A),  b
    IA3:   W diag(l),  b  (feed-forward),   or  diag(l) W,  l b

A (r, inputs), B (outputs, r) and its bias d, the scale s, the magnitudes m (outputs,) and the factors l are the
adapter's; the norm is that of every row. Sources: arXiv 2106.09685, 2402.09353, 2205.05638.

PEFT need not be installed: its classes are known by their names.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.mathematics.sums import upcast

MERGE = "give the model that merge_and_unload() of the PEFT model returns"

# {package of peft.tuners: its classes around linear modules}
_LINEAR = {
    "lora": ("Linear", "TorchaoLoraLinear", "Linear4bit", "Linear8bitLt"),
    "ia3": ("Linear", "Linear4bit", "Linear8bitLt"),
}


def is_of_peft(module: nn.Module) -> bool:
    """Whether PEFT defines the module's class. It cannot before PEFT is imported, which makes most calls fast."""
    return "peft" in sys.modules and any(base.__module__.partition(".")[0] == "peft" for base in type(module).__mro__)


def adapted_linear(module: nn.Module) -> nn.Module | None:
    """Returns the linear module inside an adapter whose effective weight is known; None for any other module."""
    if not is_of_peft(module) or _method(module) is None:
        return None
    base: nn.Module = module.base_layer  # type: ignore[assignment]
    return base if _has_known_weight(module) else None


def in_effect(module: nn.Module) -> nn.Module:
    """Returns the module that computes, where PEFT keeps several copies of one: `modules_to_save` and LNTuning."""
    state: Any = module
    kind = type(module).__name__ if is_of_peft(module) else None
    names: list[str] = state.active_adapters if kind in ("ModulesToSaveWrapper", "LNTuningLayer") else []
    if kind == "ModulesToSaveWrapper":
        is_used = not state.disable_adapters and names and all(name in state.modules_to_save for name in names)
        chosen: nn.Module = state.modules_to_save[names[0]] if is_used else state.original_module
        return in_effect(chosen)
    if kind == "LNTuningLayer":
        if state.disable_adapters and state.merged:  # its next forward takes the copies apart again
            chosen = state.ln_tuning_layers[state.merged_adapters[-1]]
        elif state.disable_adapters or state.merged or not names:
            chosen = state.base_layer
        else:
            chosen = state.ln_tuning_layers[names[0]]
        return in_effect(chosen)
    return module


class Effective(NamedTuple):
    """What an adapter makes of a linear module.

    Attributes:
        weight: (outputs, inputs).
        bias: (outputs,), or None.
        magnitude: (outputs, inputs): the sum of the magnitudes of the products that make up an entry of the weight, to
            which the module's rounding errors are relative; None where it was not asked for.
    """

    weight: Tensor
    bias: Tensor | None
    magnitude: Tensor | None


@torch.no_grad()
def effective(module: nn.Module, base: Effective) -> Effective:
    """Returns what the active adapters of `module` make of the linear module inside, rounded once to its dtype.

    Args:
        module: an adapter, of which `adapted_linear` returns the linear module inside.
        base: of that module.

    Raises:
        UnsupportedModel: the adapter is merged and disabled at once, so that its next forward changes the weight.
    """
    state: Any = module
    if state.disable_adapters and state.merged:
        raise UnsupportedModel(
            "an adapter of PEFT is merged and disabled, so that the next forward changes the weight: call "
            "unmerge_adapter() first"
        )
    names, add = _active(module), _scale_by_ia3 if _method(module) == "ia3" else _add_lora
    if not names:
        return base
    dtype = base.weight.dtype
    magnitude = None if base.magnitude is None else upcast(base.magnitude).abs()
    result = Effective(upcast(base.weight), None if base.bias is None else upcast(base.bias), magnitude)
    for name in names:
        result = add(state, name, result)
    bias = None if result.bias is None else result.bias.to(dtype)
    return Effective(result.weight.to(dtype), bias, result.magnitude)


def _scale_by_ia3(state: Any, name: str, before: Effective) -> Effective:
    factors = upcast(state.ia3_l[name]).flatten().to(before.weight.device)
    weight, bias, magnitude = before
    if not state.is_feedforward:
        bias = None if bias is None else bias * factors
        factors = factors[:, None]
    return Effective(weight * factors, bias, None if magnitude is None else magnitude * factors.abs())


def _add_lora(state: Any, name: str, before: Effective) -> Effective:
    weight, bias, magnitude = before
    scale: float = state.scaling[name]
    down, up = (upcast(part[name].weight).to(weight.device) for part in (state.lora_A, state.lora_B))
    product, added = scale * (up @ down), state.lora_B[name].bias
    added = None if added is None else scale * upcast(added).to(weight.device)
    if magnitude is not None:
        magnitude = magnitude + abs(scale) * (up.abs() @ down.abs())
    if _is_dora(state, name):  # it is the only adapter, and computes W x + (f - 1) W x + f s B A x
        norms = torch.linalg.vector_norm(weight + product, dim=1)
        factors = (upcast(state.lora_magnitude_vector[name].weight).to(weight.device).flatten() / norms)[:, None]
        if magnitude is not None:
            magnitude = factors.abs() * magnitude + 2 * weight.abs()
        weight, product = factors * weight, factors * product
        added = None if added is None else factors[:, 0] * added
    if added is not None:
        bias = added if bias is None else bias + added
    return Effective(weight + product, bias, magnitude)


def adapter_state(module: nn.Module) -> tuple[object, ...]:
    """Returns which adapters act in a module of PEFT, and their scales; () for any other module."""
    if not type(module).__module__.startswith("peft."):  # faster than is_of_peft
        return ()
    state: Any = module
    scaling = getattr(state, "scaling", None)
    scales = tuple(sorted(scaling.items())) if isinstance(scaling, dict) else ()
    names = ("active_adapters", "disable_adapters", "merged_adapters")
    return (*(str(getattr(state, name, None)) for name in names), scales)


def _method(module: nn.Module) -> str | None:
    """Returns "lora" or "ia3", or None for another class than those around linear modules."""
    path, name = type(module).__module__.split("."), type(module).__name__
    method = path[2] if path[:2] == ["peft", "tuners"] and len(path) > 2 else ""
    return method if name in _LINEAR.get(method, ()) else None


def _active(module: nn.Module) -> list[str]:
    """Returns the adapters whose products the forward adds; none if they are disabled, or merged into the weight."""
    state: Any = module
    if state.disable_adapters or state.merged:
        return []
    parts = state.ia3_l if _method(module) == "ia3" else state.lora_A
    return [name for name in state.active_adapters if name in parts]


def _has_known_weight(module: nn.Module) -> bool:
    """Whether all active adapters have a formula above: variants of LoRA other than DoRA have none."""
    state: Any = module
    names = _active(module)
    variants = [name for name in names if name in getattr(state, "lora_variant", {})]
    return not variants or (len(names) == 1 and _is_dora(module, names[0]))


def _is_dora(module: nn.Module, name: str) -> bool:
    state: Any = module
    return type(state.lora_variant.get(name)).__name__ == "DoraLinearVariant"
