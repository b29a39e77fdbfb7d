"""A call of an operator, whose tensors and backend can be chosen: what is timed, and what is compared with float64."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pymultiling import ops
from pymultiling.ops import reference


@dataclass(frozen=True)
class Case:
    """`arguments` are those of the reference, in its order; `mode` is that of qk_importance."""

    operator: str
    name: str
    arguments: tuple
    mode: str | None = None

    @property
    def title(self) -> str:
        return self.operator if self.mode is None else f"{self.operator}, {self.mode}"

    def on(self, backend: str) -> Callable[[], tuple[Tensor, ...]]:
        """The call; "torch.compile" is that of the compiled reference."""
        if backend == "torch.compile":
            call = torch.compile(getattr(reference, self.operator), dynamic=False)
            return lambda: as_tuple(call(*self.arguments))
        options = {"backend": backend}
        if self.mode is not None:
            options["mode"] = self.mode
        call = _PUBLIC[self.operator]
        return lambda: as_tuple(call(*self.arguments, **options))

    def to(self, dtype: torch.dtype) -> "Case":
        """The same with every floating tensor in `dtype`; the products of value_energy stay float32 at least."""
        arguments = [x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in self.arguments]
        if self.operator == "value_energy":
            arguments[1] = self.arguments[1].to(torch.promote_types(dtype, torch.float32))
        return Case(self.operator, self.name, tuple(arguments), self.mode)


def _gated_ffn(gate, up, activation, documents, count, masks, mask_ids, **options):
    return ops.gated_ffn(
        gate,
        up,
        activation=activation,
        documents=documents,
        count=count,
        masks=masks,
        mask_ids=mask_ids,
        **options,
    )


def _qk_importance(*arguments, **options):
    settings = dict(zip(("scale", "window", "softcap", "interleaved"), arguments[9:]))
    return ops.qk_importance(*arguments[:9], **settings, **options)


_PUBLIC = {
    "gated_ffn": _gated_ffn,
    "active_count": ops.active_count,
    "column_energy": ops.column_energy,
    "value_energy": ops.value_energy,
    "mask_neurons": ops.mask_neurons,
    "mask_neurons_": lambda x, masks, mask_ids, **options: ops.mask_neurons(
        x, masks, mask_ids, inplace=True, **options
    ),
    "nearest_neighbors": lambda points, k, metric, **options: ops.nearest_neighbors(
        points, k, metric=metric, **options
    ),
    "qk_importance": _qk_importance,
}


def as_tuple(result: Tensor | tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    if result is None:
        return ()
    return (result,) if isinstance(result, Tensor) else tuple(result)
