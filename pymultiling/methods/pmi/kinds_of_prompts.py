"""The kinds of prompts that are compared, and the items that fit the model in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from pymultiling.errors import CorpusError
from pymultiling.methods.pmi.prompts import PromptForm
from pymultiling.models.positions import position_limit


def kinds_of_prompts(others: Sequence[str], pivot: str | None) -> dict[str, tuple[PromptForm, tuple[str, ...]]]:
    """Returns {"direct", "pivot", "PMI-1", ...: its form, the inputs beside the source}.

    Args:
        others: the inputs to add, in this order.
        pivot: the input that is shown alone; None: there is no such kind.
    """
    shown: dict[str, tuple[PromptForm, tuple[str, ...]]] = {"direct": ("direct", ())}
    if pivot is not None:
        shown["pivot"] = ("pivot", (pivot,))
    for number in range(1, len(others) + 1):
        shown[f"PMI-{number}"] = ("pmi", tuple(others[:number]))
    return shown


def languages_shown(name: str, added: Sequence[str]) -> int:
    """Returns how many inputs a kind of prompt shows. The pivot is shown without the source."""
    return 1 if name == "pivot" else 1 + len(added)


def fitting_items(model: nn.Module, prompts: Mapping[str, Sequence[list[int]]], answer_tokens: int) -> list[int]:
    """Returns the indices of the items whose prompts and answers all fit the model's positions.

    Args:
        model: the model.
        prompts: {kind of prompt: tokens of each item's prompt}.
        answer_tokens: tokens of the longest answer.

    Raises:
        CorpusError: none fits, or there are no items.
    """
    max_positions = position_limit(model)
    longest = [max(map(len, item_prompts)) for item_prompts in zip(*prompts.values())]
    if not longest:
        raise CorpusError("there are no items to compare: give more, or fewer examples")
    fitting = [
        place
        for place, length in enumerate(longest)
        if max_positions is None or length + answer_tokens <= max_positions
    ]
    if not fitting:
        raise CorpusError(
            f"no items to compare: the shortest take {min(longest)} tokens and {answer_tokens} for the answer; the "
            f"model has {max_positions} positions, so give fewer languages or shorter items"
        )
    return fitting
