"""Assigns one of several sets of neurons to each row of a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.models.attached import replace
from pymultiling.models.blocks import Block
from pymultiling.models.pretrained import uncompiled
from pymultiling.runtime.device_copies import to_device


class RowSets:
    """The index of each row's set in a list of sets. Until `assign` is called, all rows are under the first set.

    Args:
        model: the model.
        takes_flat: whether modules of the model may get the tokens of all rows in one dimension, after `check_input`.
    """

    def __init__(self, model: nn.Module, takes_flat: bool = False):
        self._model, self._takes_flat = model, takes_flat
        self._devices = {parameter.device for parameter in model.parameters()}
        # (batch,) int64, the index of each row's set, on every device, so that a forward copies nothing.
        self._ids: dict[torch.device, Tensor] = {}
        self._count = 0  # how many rows have a set
        self._thread = _ThreadState()

    def assign(self, ids: Tensor) -> None:
        """Sets the index of each row's set, for the batches that follow. ids: (batch,) int64."""
        self._ids = {device: to_device(ids, device) for device in self._devices}
        self._count = len(ids)

    def check_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Checks the batch size. It is a hook before an FFN whose linear modules get (batch length, N).

        module: the FFN, or the layer if the FFN is no module of its own.

        Raises:
            ValueError: the batch has another number of rows than `assign` got.
        """
        if self._ids:
            self._check_batch_size((args[0] if args else kwargs["hidden_states"]).shape[0])

    def _check_batch_size(self, batch_size: int) -> None:
        copies, rest = divmod(batch_size, self._count)
        if rest or (copies != 1 and not self._thread.is_generating):
            raise ValueError(_wrong_length(self._count, batch_size))

    def sets_of_tokens(self, x: Tensor) -> Tensor | None:
        """Returns the index of each token's set, (tokens,) int64, or None: all tokens are under the first set.

        Args:
            x: activations, (batch, .., length, N), or (batch length, N) of a batch that `check_input` has seen.

        Raises:
            ValueError: the batch has another number of rows than `assign` got.
            UnsupportedModel: a module gets the tokens of all rows in one dimension, where it should not.
        """
        if not self._ids:
            return None
        if x.ndim > 2:
            self._check_batch_size(x.shape[0])
        elif not self._takes_flat:  # they might be any of the batch's tokens
            raise UnsupportedModel(
                "the model gives a module tokens without their rows, so that sets of rows cannot be told apart: use "
                "transformers' own forward, or give one set for all rows"
            )
        tokens = x.shape[:-1].numel()
        return self._ids[x.device].repeat_interleave(tokens // self._count)

    @contextmanager
    def in_generate(self, all_threads: bool) -> Iterator[None]:
        """Inside the block, model.generate may run several consecutive rows (beams or samples) for each prompt.

        all_threads: also in other threads.
        """
        # What torch.compile returns looks up methods in the model itself.
        model = uncompiled(self._model)
        with Block(all_threads) as block:
            if hasattr(model, _METHOD):  # it is missing without a language-model head
                replace(block, model, _METHOD, self._generate, _run_generate)
            yield

    def _generate(self, generate: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls generate(*args, **kwargs).

        Raises:
            ValueError: there is another number of prompts than `assign` got.
        """
        candidates = [*args[:1], *(kwargs.get(name) for name in _PROMPT_ARGUMENTS)]
        prompts = next((candidate for candidate in candidates if candidate is not None), None)
        if prompts is not None and len(prompts) != self._count:
            raise ValueError(_wrong_length(self._count, len(prompts)))
        self._thread.is_generating = True
        try:
            return generate(*args, **kwargs)
        finally:
            self._thread.is_generating = False


class _ThreadState(threading.local):
    is_generating = False  # whether the thread has called model.generate


def _run_generate(
    module: nn.Module,
    original: Callable[..., Any],
    checks: Sequence[Callable[..., Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Runs model.generate with the checks of nested blocks, the innermost first."""

    def generate(*args: Any, **kwargs: Any) -> Any:
        if len(checks) == 1:
            return original(*args, **kwargs)
        return _run_generate(module, original, checks[:-1], args, kwargs)

    return checks[-1](generate, args, kwargs)


_METHOD = "generate"
_PROMPT_ARGUMENTS = ("inputs", "input_ids", "inputs_embeds")  # the prompts are the first of them that is given


def _wrong_length(count: int, batch_size: int) -> str:
    return f"rows name a set for each of {count} rows, the batch has {batch_size}: give one for each row"


def check_rows(rows: Tensor | Sequence[int] | None, sets: int) -> Tensor:
    """Returns the index of each row's set, (batch,) int64 on the CPU. If `rows` is None, row r is under set r.

    Raises:
        ValueError: `rows` are no indices of the sets.
    """
    if rows is None:
        return torch.arange(sets)
    ids = torch.as_tensor(rows).cpu()
    if ids.ndim != 1 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(
            f"rows must be whole numbers, one for each row of the batch, got {ids.dtype} {tuple(ids.shape)}"
        )
    if len(ids) and not (0 <= int(ids.min()) and int(ids.max()) < sets):
        unknown = ids[(ids < 0) | (ids >= sets)][0].item()
        raise ValueError(
            f"rows name set {unknown}, the {sets} sets are 0 to {sets - 1}; "
            "for a row without a set, add None to the list of sets"
        )
    return ids.long()
