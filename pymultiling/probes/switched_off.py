"""Which neurons `deactivate` has switched off or scaled, for probes that read activations before it changes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pymultiling.models.experts import Experts, attached_changes
from pymultiling.models.linear import Linear
from pymultiling.models.routing import Routed
from pymultiling.probes.hooks import acting_pre_hooks

# An attribute of a hook, or of a change of experts, that sets neurons to zero: the function that does it.
_ATTRIBUTE = "switches_off"
# An attribute of a hook before a linear module that changes its input: the InputChange.
_CHANGE = "changes"


def mark_as_switch(hook: Callable[..., Any], switch_off: Callable[[Any], Tensor]) -> None:
    """Says that a hook before a down projection, or a change of experts, sets neurons to zero.

    Args:
        hook: the hook or the change.
        switch_off: does the same to a tensor (batch, length, neurons), or to the `hidden` of Routed.
    """
    setattr(hook, _ATTRIBUTE, switch_off)


def switch_off(down: Linear, x: Tensor) -> Tensor:
    """Returns x (..., neurons), such as the output of gate, with zeros where `deactivate` has switched neurons off.

    down: the projection whose inputs are the neurons.
    """
    for hook in acting_pre_hooks(down):
        switch = getattr(hook, _ATTRIBUTE, None)
        x = x if switch is None else switch(x)
    return x


class InputChange(NamedTuple):
    """How a hook before a linear module changes the module's input.

    Attributes:
        apply: does the same to a tensor (batch, length, neurons).
        sets_values: whether it sets neurons to values, and does not multiply them by a factor.
    """

    apply: Callable[[Tensor], Tensor]
    sets_values: bool


def mark_as_change(hook: Callable[..., Any], change: InputChange) -> None:
    """Says how a hook before a linear module changes its input."""
    setattr(hook, _CHANGE, change)


def input_factors(linear: Linear, x: Tensor) -> Tensor | None:
    """Returns by what `deactivate` multiplies the inputs of a linear module, 0 where it sets them to a value.

    Args:
        linear: the module.
        x: (rows, 1, inputs), of any values, in the dtype and on the device of its input.

    Returns:
        (rows, inputs), or None where nothing changes the inputs.
    """
    changes = _input_changes(linear)
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    for change in changes:
        ones, zeros = change.apply(ones), change.apply(zeros)
    return (ones - zeros).squeeze(1) if changes else None


def computed_part(linear: Linear, x: Tensor) -> Tensor:
    """Returns the input x (rows, .., inputs) of a linear module, with zeros where `deactivate` has set it to a value.

    There nothing that the model has computed reaches the module. Elsewhere x stays as it is, scaled or not.
    """
    changes = _input_changes(linear)
    if not any(change.sets_values for change in changes):
        return x
    set_values = torch.zeros_like(x)  # what the changes make of zeros: the values, and zero elsewhere
    for change in changes:
        set_values = change.apply(set_values)
    return x - set_values


def _input_changes(linear: Linear) -> list[InputChange]:
    return [change for hook in acting_pre_hooks(linear) if (change := getattr(hook, _CHANGE, None)) is not None]


def switch_off_routed(experts: Experts, routed: Routed) -> Routed:
    """As `switch_off`, for gate and up of experts."""
    for change in attached_changes(experts):
        switch = getattr(change, _ATTRIBUTE, None)
        if switch is not None:
            gate, up = (switch(routed._replace(hidden=x)) for x in (routed.gate, routed.up))
            routed = routed._replace(gate=gate, up=up)
    return routed
