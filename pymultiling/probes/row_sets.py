"""Under which of several sets of neurons each row of a batch runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Rows:
    """The place of each row's set in a list of sets; as long as none are assigned, all rows are under the first."""

    def __init__(self, model: nn.Module):
        self._model = model
        self._devices = {parameter.device for parameter in model.parameters()}
        self._ids: dict[torch.device, Tensor] = {}  # on every device, so that a forward copies nothing
        self._count = 0
        self._batch: int | None = None  # of a layer whose FFN sees all tokens in a row
        self._generating = False

    def assign(self, ids: Tensor) -> None:
        """ids: (batch,) int64, for the batches that follow."""
        self._ids = {device: ids.to(device) for device in self._devices}
        self._count = len(ids)

    def see(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """A hook before a decoder layer whose own modules are its FFN: they may get (batch length, N)."""
        self._batch = (args[0] if args else kwargs["hidden_states"]).shape[0]

    def of_tokens(self, x: Tensor) -> Tensor | None:
        """(tokens,) for activations x (batch, length, N), or (batch length, N); None: all are under the first set."""
        if not self._ids:
            return None
        batch, length = x.shape[:2] if x.ndim == 3 else (self._batch, x.shape[0] // self._batch)
        each, rest = divmod(batch, self._count)
        if rest or (each != 1 and not self._generating):
            raise ValueError(_wrong_length(self._count, batch))
        return self._ids[x.device].repeat_interleave(each * length)

    @contextmanager
    def in_generate(self) -> Iterator[None]:
        """Inside, model.generate is known to lay out a prompt's beams or samples as so many rows that follow each other."""
        run, own = getattr(self._model, "generate", None), vars(self._model).get("generate")
        if run is None:  # a model without a language-model head
            yield
            return

        def generate(*args, **kwargs):
            given = [*args[:1], *(kwargs.get(name) for name in _PROMPTS)]
            prompts = next((one for one in given if one is not None), None)
            if not inside:  # somebody kept it
                return run(*args, **kwargs)
            if prompts is not None and len(prompts) != self._count:
                raise ValueError(_wrong_length(self._count, len(prompts)))
            self._generating = True
            try:
                return run(*args, **kwargs)
            finally:
                self._generating = False

        inside = True
        self._model.generate = generate
        try:
            yield
        finally:
            inside = False
            if own is None:
                del self._model.generate
            else:
                self._model.generate = own


_PROMPTS = ("inputs", "input_ids", "inputs_embeds")


def _wrong_length(count: int, batch: int) -> str:
    return f"rows name a set for each of {count} rows, the batch has {batch}: give one for each row"


def checked_rows(rows: Tensor | Sequence[int] | None, sets: int) -> Tensor:
    """(batch,) int64 of places among so many sets; None: each row has its own.

    Raises:
        ValueError: they are not places.
    """
    if rows is None:
        return torch.arange(sets)
    ids = torch.as_tensor(rows)
    if ids.ndim != 1 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(
            f"rows must be whole numbers, one for each row of the batch, got {ids.dtype} {tuple(ids.shape)}"
        )
    if len(ids) and not (0 <= int(ids.min()) and int(ids.max()) < sets):
        wrong = ids[(ids < 0) | (ids >= sets)][0].item()
        raise ValueError(f"rows name set {wrong}, the {sets} sets are 0 to {sets - 1}; None in the list is no set")
    return ids.long()
