"""Refuses copies of a module for as long as something of this package is attached to it."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn

# copy.deepcopy, pickle and torch.save look it up on the object. A copy would keep hooks that belong to the original.
_METHOD = "__reduce_ex__"


def refuse_copies(module: nn.Module) -> bool:
    """Makes copy.deepcopy, pickle and torch.save of the module, or of what contains it, raise a ValueError.

    Returns:
        True if the caller has to call `allow_copies` at the end; False if an outer block has refused copies already.
    """
    if _METHOD in vars(module):
        return False
    setattr(module, _METHOD, _refuse)
    return True


def allow_copies(module: nn.Module) -> None:
    """Ends what `refuse_copies` began."""
    delattr(module, _METHOD)


def _refuse(*_: Any) -> NoReturn:
    raise ValueError(
        "the model is inside a block, such as that of deactivate, that is attached to its modules: copy or pickle it "
        "outside of the block, or save it with save_pretrained or state_dict, which give the model as it was"
    )
