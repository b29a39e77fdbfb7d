"""A device that computes on the CPU and counts how often the host would wait for it.

Kernels of operators count as launches: operators that have a Triton kernel run without being watched. Those that have
none run their reference on the device, as on a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pymultiling.models import head, linear
from pymultiling.models.decoder import Decoder
from pymultiling.ops.dispatch import REFERENCES
from pymultiling.ops.registry import OPERATORS
from pymultiling.runtime.device_copies import HostCopy

DEVICE = torch.device("meta")  # torch has all that is needed to name this device, and its kernels never run
aten = torch.ops.aten
# The number of results depends on the values, so the host reads it.
READ_SIZES = (
    aten.nonzero.default,
    aten.masked_select.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
    aten._unique2.default,
)
READ_VALUES = (aten._local_scalar_dense.default, aten.equal.default)


class DeviceTensor(torch.Tensor):
    """A tensor of the device. Its values are in the CPU tensor `values`."""

    @staticmethod
    def __new__(cls, values: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=DEVICE
        )

    def __init__(self, values: torch.Tensor):
        self.values = values

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} was called outside of the fake device's block")


class FakeDevice(TorchDispatchMode):
    """Runs what is called with tensors on DEVICE. `why` lists the operations that the host has waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.why: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        operator = OPERATORS.get(function._schema.name.removeprefix("pymultiling::"))
        if operator is not None and "triton" not in operator.kernels:
            kwargs.pop("backend", None)
            with self:
                return REFERENCES[operator.name](*operator.python_arguments(args))
        if _is_composite(function):  # under another operator torch does not take these apart itself
            with self:
                return function.decompose(*args, **kwargs)
        target = kwargs.get("device")
        target = None if target is None else torch.device(target)
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_device = [isinstance(x, DeviceTensor) for x in inputs]
        if self._makes_the_host_wait(function, args, kwargs, target, on_device):
            self.why.append(str(function))
        if target is not None and target.type == DEVICE.type:
            kwargs["device"] = torch.device("cpu")
        result = function(*tree_map(_to_host, args), **tree_map(_to_host, kwargs))
        stays_on_host = target is not None and target.type == "cpu"
        if stays_on_host:  # also a copy in memory, since the device has its own
            return result.clone() if any(on_device) and isinstance(result, torch.Tensor) else result
        if function._schema.name.endswith("_") and function._schema.returns:
            return args[0]
        is_of_device = any(on_device) or (target is not None and target.type == DEVICE.type)
        return tree_map(_to_device, result) if is_of_device else result

    @staticmethod
    def _makes_the_host_wait(function, args, kwargs, target, on_device) -> bool:
        if function in READ_SIZES + READ_VALUES:
            return any(on_device)
        if function is aten._to_copy.default and target is not None:
            crosses = (target.type == DEVICE.type) != on_device[0]
            return crosses and not kwargs.get("non_blocking", False)
        if function is aten.copy_.default:
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            return on_device[0] != on_device[1] and not non_blocking
        if function in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
            indices = [x for x in args[1] if x is not None]
            is_mask = any(x.dtype == torch.bool for x in indices)
            comes_from_host = not all(isinstance(x, DeviceTensor) for x in indices)
            return isinstance(args[0], DeviceTensor) and (is_mask or comes_from_host)
        return False


@contextmanager
def fake_device() -> Iterator[FakeDevice]:
    """Inside the block, tensors can be on DEVICE, and waiting for a HostCopy counts too."""
    device, plain_wait = FakeDevice(), HostCopy.wait

    def wait(copy: HostCopy) -> torch.Tensor:
        device.why.append("HostCopy.wait")
        return plain_wait(copy)

    # Parameters on DEVICE look like those that accelerate keeps elsewhere, their class like that of quantised weights.
    with (
        mock.patch.object(HostCopy, "wait", wait),
        mock.patch.object(Decoder, "require_weights"),
        mock.patch.object(head, "require_weights"),
        mock.patch.object(linear, "PLAIN_TENSORS", (*linear.PLAIN_TENSORS, DeviceTensor)),
        device,
    ):
        yield device


def _to_device(x):
    return DeviceTensor(x) if isinstance(x, torch.Tensor) and not isinstance(x, DeviceTensor) else x


def _to_host(x):
    if isinstance(x, torch.Tensor) and x.device == DEVICE and not isinstance(x, DeviceTensor):
        raise RuntimeError("a tensor of Python's numbers was made on the device, for which the host would wait")
    return x.values if isinstance(x, DeviceTensor) else x


def _is_composite(function) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")


def move(model: nn.Module) -> nn.Module:
    """Moves a model to the fake device, inside its block."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(DeviceTensor(parameter.detach()), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = DeviceTensor(buffer)
    return model
