"""Which neurons `deactivate` has switched off, for probes that read FFN activations before it changes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pymultiling.models.experts import Experts, attached_changes
from pymultiling.models.linear import Linear
from pymultiling.models.routing import Routed
from pymultiling.probes.hooks import acting_pre_hooks

# An attribute of a hook, or of a change of experts, that sets neurons to zero: the function that does it.
_ATTRIBUTE = "switches_off"


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


def switch_off_routed(experts: Experts, routed: Routed) -> Routed:
    """As `switch_off`, for gate and up of experts."""
    for change in attached_changes(experts):
        switch = getattr(change, _ATTRIBUTE, None)
        if switch is not None:
            gate, up = (switch(routed._replace(hidden=x)) for x in (routed.gate, routed.up))
            routed = routed._replace(gate=gate, up=up)
    return routed
