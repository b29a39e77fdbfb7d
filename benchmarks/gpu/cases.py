"""A call of an operator, whose tensors and backend can be chosen: what is timed, and what is compared with float64."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pymultiling import ops
from pymultiling.ops.operator import Operator
from pymultiling.ops.registry import OPERATORS

SUMS = ("gram", "scaled_gram")  # float32 at least


@dataclass(frozen=True)
class Case:
    """`arguments` are those of the operator's reference, in its order."""

    operator: str
    name: str
    arguments: tuple

    @property
    def row(self) -> Operator:
        return OPERATORS[self.operator]

    @property
    def title(self) -> str:
        return self.row.title

    @property
    def named(self) -> dict[str, object]:
        """{argument of the schema: value}, as far as they are given."""
        return dict(zip(self.row.argument_names, self.row.schema_arguments(self.arguments)))

    @property
    def tensors(self) -> list[Tensor]:
        return [x for x in self.named.values() if isinstance(x, Tensor)]

    def on(self, backend: str) -> Callable[[], tuple[Tensor, ...]]:
        """The call; "torch.compile" is that of the compiled reference."""
        if backend == "torch.compile":
            call = torch.compile(self.row.reference(), dynamic=False)
            return lambda: as_tuple(call(*self.arguments))
        call, named = getattr(ops, self.row.public_function or self.operator), self.named
        return lambda: as_tuple(call(**named, **self.row.options, backend=backend))

    def to(self, dtype: torch.dtype) -> "Case":
        """The same with every floating tensor in `dtype`; products of a weight's columns stay float32 at least."""
        changed = [
            x.to(torch.promote_types(dtype, torch.float32) if name in SUMS else dtype)
            if isinstance(x, Tensor) and x.is_floating_point()
            else x
            for name, x in self.named.items()
        ]
        return replace(self, arguments=self.row.python_arguments(tuple(changed)))

    def fresh(self) -> "Case":
        """On copies of what the operator overwrites."""
        copied = [x.clone() if name in self.row.mutates else x for name, x in self.named.items()]
        return replace(self, arguments=self.row.python_arguments(tuple(copied)))


def as_tuple(result: Tensor | tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    if result is None:
        return ()
    return (result,) if isinstance(result, Tensor) else tuple(result)
