"""Tells which calls may run an implementation directly, without the torch operator around it.

The torch operator exists for torch.compile, autograd, torch.func and everything else that watches PyTorch's calls. It
costs the host 20 to 40 microseconds, as long as some of the kernels. Where nothing watches, a direct call gives the
same result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

TENSORS = frozenset({Tensor, torch.nn.Parameter})
CONSTANTS = frozenset({int, float, bool, str, type(None)})


def nothing_watches(arguments: Iterable[object]) -> bool:
    """Returns whether only the implementation would see a call of a torch operator with these arguments.

    That is so outside of torch.compile, traces, torch.func and modes that intercept calls; if no argument needs a
    gradient; and if all tensors are of PyTorch's own types and have memory.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._get_tracing_state() is None
        and forward_ad._current_level < 0
        and not _any_is_special(arguments, torch.is_grad_enabled())
    )


def _any_is_special(arguments: Iterable[object], records_gradients: bool) -> bool:
    """Returns whether an argument is more than a number or the memory of a tensor.

    A tensor is if it is of another type, if its gradient is recorded, if it has no memory, or if its signs are stored
    as one flag. So is a number that a trace stands for.
    """
    for x in arguments:
        kind = type(x)
        if kind in TENSORS:
            tensor = cast(Tensor, x)
            if (records_gradients and tensor.requires_grad) or tensor.is_meta or tensor.is_neg():
                return True
        elif kind not in CONSTANTS:
            return True
    return False
