"""A call of an operator whose dtype and backend can be selected, to time it or to compare it with float64."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pymultiling import ops
from pymultiling.ops.operator import Operator
from pymultiling.ops.registry import OPERATORS

SUMS = ("gram", "scaled_gram")  # arguments that are sums: they have at least the precision of float32


@dataclass(frozen=True)
class Case:
    """A call of an operator.

    Attributes:
        operator: name of the operator.
        name: name of the input in tables.
        arguments: the arguments of the operator's reference, in its order.
    """

    operator: str
    name: str
    arguments: tuple

    @property
    def entry(self) -> Operator:
        """The operator's entry of the registry."""
        return OPERATORS[self.operator]

    @property
    def title(self) -> str:
        """The operator's name in tables."""
        return self.entry.title

    @property
    def named(self) -> dict[str, object]:
        """{argument of the schema: value} of the arguments that are given."""
        return dict(zip(self.entry.argument_names, self.entry.schema_arguments(self.arguments)))

    @property
    def tensors(self) -> list[Tensor]:
        return [x for x in self.named.values() if isinstance(x, Tensor)]

    def on(self, backend: str) -> Callable[[], tuple[Tensor, ...]]:
        """Returns a function that runs the operator on a backend; "torch.compile" is the compiled reference."""
        if backend == "torch.compile":
            call = torch.compile(self.entry.reference(), dynamic=False)
            return lambda: as_tuple(call(*self.arguments))
        call, named = getattr(ops, self.entry.public_function or self.operator), self.named
        if "offsets" in named:
            ids, offsets, order = named["documents"], named.pop("offsets"), named.pop("order")
            named["documents"] = ops.Documents(ids, named["count"], offsets, order)
        return lambda: as_tuple(call(**named, **self.entry.options, backend=backend))

    def to(self, dtype: torch.dtype) -> "Case":
        """Returns the same call with all floating point tensors in `dtype`, but sums in float32 at least."""
        changed = [
            x.to(torch.promote_types(dtype, torch.float32) if name in SUMS else dtype)
            if isinstance(x, Tensor) and x.is_floating_point()
            else x
            for name, x in self.named.items()
        ]
        return replace(self, arguments=self.entry.python_arguments(tuple(changed)))

    def fresh(self) -> "Case":
        """Returns the same call with copies of the tensors that the operator overwrites."""
        copied = [x.clone() if name in self.entry.mutates else x for name, x in self.named.items()]
        return replace(self, arguments=self.entry.python_arguments(tuple(copied)))


def as_tuple(result: Tensor | tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    """Returns an operator's results as a tuple."""
    if result is None:
        return ()
    return (result,) if isinstance(result, Tensor) else tuple(result)
