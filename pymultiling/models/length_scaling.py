"""Rotations whose frequencies depend on the longest document of a batch: rope types "dynamic" and "longrope".

A short document would be rotated otherwise beside a longer one. With "dynamic", transformers also keeps the frequencies
of the longest batch so far for later batches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pymultiling.models.attached import replace
from pymultiling.models.blocks import Block
from pymultiling.models.module_state import restored_buffers

# Documents share a batch only if they have the same group: the group of a length, and of the tokens that are added to
# it during generation. Groups are contiguous: they part the lengths into ranges.
LengthGroup: TypeAlias = Callable[[int, int], Hashable]

_lock = threading.RLock()  # of forwards that change a rotation and put it back


def any_length(length: int, added: int) -> Hashable:
    """The group of every length for models whose rotation depends on positions alone."""
    return None


def length_group(model: nn.Module) -> LengthGroup:
    """Returns the groups of a model.

    "dynamic" has other frequencies for each length above the model's positions, so such documents share a batch with
    those of their own length. "longrope" has two tables: one up to the original number of positions, and one above.

    Args:
        model: a Hugging Face model.
    """
    limits = [(limit, rope_type == "longrope") for rope_type, limit in _scalings(model)]
    if not limits:
        return any_length

    def group(length: int, added: int) -> Hashable:
        return tuple(
            0 if length + added <= limit else limit + 1 if has_two and length > limit else length
            for limit, has_two in limits
        )

    return group


def group_rows(lengths: Sequence[int], group: LengthGroup) -> list[list[int]]:
    """Returns the indices of the rows of a batch that may share a forward, group by group."""
    rows: dict[Hashable, list[int]] = {}
    for row, length in enumerate(lengths):
        rows.setdefault(group(length, 0), []).append(row)
    return list(rows.values())


@contextmanager
def own_frequencies(model: nn.Module) -> Iterator[None]:
    """Inside, the frequencies of a forward depend on its own length alone, and the model keeps those that it has.

    Each forward of a rotation runs on a stand-in with tables of its own. So threads that measure documents of different
    lengths, or run the model meanwhile, do not see each other's frequencies.
    """
    if not _scalings(model):
        yield
        return
    with Block() as block:
        for module in model.modules():
            if hasattr(module, "rope_type") and _prefixes(module):
                replace(block, module, "forward", None, _run_apart)
        yield


def _scalings(model: nn.Module) -> list[tuple[str, int]]:
    """Returns (rope type, positions up to which nothing is scaled) of every rotation that depends on length."""
    config = getattr(model, "config", None)
    if config is None:
        return []
    config = config.get_text_config()
    parameters: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    tables = [parameters] if "rope_type" in parameters else [x for x in parameters.values() if isinstance(x, Mapping)]
    scalings = []
    for table in tables:
        rope_type = str(table.get("rope_type"))
        if "dynamic" in rope_type:
            scalings.append((rope_type, config.max_position_embeddings))
        elif rope_type == "longrope":
            scalings.append((rope_type, table["original_max_position_embeddings"]))
    return scalings


def _prefixes(module: nn.Module) -> dict[str, str]:
    """Returns {beginning of the names of a table's attributes: its rope type} of the tables that depend on length."""
    rope_type: str | dict[str, str] = module.rope_type  # type: ignore[assignment]
    by_prefix = {"": rope_type} if isinstance(rope_type, str) else {f"{name}_": x for name, x in rope_type.items()}
    return {prefix: x for prefix, x in by_prefix.items() if "dynamic" in x or x == "longrope"}


def _run_apart(
    module: nn.Module, original: Callable[..., Any], items: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    is_dynamic = any("dynamic" in rope_type for rope_type in _prefixes(module).values())
    if torch.compiler.is_compiling() and not is_dynamic:
        return original(*args, **kwargs)  # "longrope" chooses its table in each forward, and one graph computes it
    return _run_on_stand_in(module, original, args, kwargs)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _run_on_stand_in(
    module: nn.Module, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Runs a rotation that has the tables of short documents. transformers then computes those of the batch.

    It is not compiled, because compiled code leaves out what depends on the length in any case.
    """
    if getattr(original, "__self__", None) is not module:  # a forward that the user has set
        with _lock, restored_buffers(module):
            _forget_longest(module)
            return original(*args, **kwargs)
    stand_in = nn.Module.__new__(type(module))
    vars(stand_in).update(vars(module))
    # longrope overwrites its table, and dynamic puts another one in its place.
    buffers = {name: None if table is None else table.clone() for name, table in module._buffers.items()}
    vars(stand_in).update(_buffers=buffers, _non_persistent_buffers_set=set(module._non_persistent_buffers_set))
    _forget_longest(stand_in)
    output = original.__func__(stand_in, *args, **kwargs)  # type: ignore[attr-defined]
    for prefix in _prefixes(module):
        long_table = vars(stand_in).get(f"{prefix}long_inv_freq")
        if long_table is not None:  # the same in all forwards; copying it to a GPU again would wait for it
            vars(module)[f"{prefix}long_inv_freq"] = long_table
    return output


def _forget_longest(module: nn.Module) -> None:
    """Sets the tables of "dynamic" to those of short documents. transformers then computes those of the batch."""
    for prefix, rope_type in _prefixes(module).items():
        if "dynamic" in rope_type:
            table: Tensor = getattr(module, f"{prefix}inv_freq")
            original: Tensor = getattr(module, f"{prefix}original_inv_freq").to(table.device)
            module.register_buffer(f"{prefix}inv_freq", original, persistent=False)
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
