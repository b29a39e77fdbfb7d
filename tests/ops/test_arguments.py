"""What the operators refuse: the same arguments on every backend, in the same words, before any backend runs."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor

from pymultiling import ops
from pymultiling.ops import dispatch
from pymultiling.ops.registry import OPERATORS
from tests.support.operator_calls import CHANGES, ODD, Call, changed_calls, layer_calls

CALL = dispatch._call  # before the fixtures of this folder replace it
WAYS: dict[str, Callable[..., object]] = {"direct": CALL, "torch operator": dispatch.call_torch_operator}

Change = Callable[[Tensor], object]

# {operator: {argument: (changes of it, with the words that refuse them)}}
COLUMNS: dict[str, list[tuple[Change, str]]] = {
    "x": [(lambda x: x[0], "x must be (tokens, neurons)"), (lambda x: x.int(), "x must be floating point")],
    "documents": [
        (lambda x: x[1:], "documents must be"),
        (lambda x: x.int(), "documents must be int64"),
    ],
    "count": [(lambda x: -1, "count must not be negative")],
    "offsets": [(lambda x: x[1:], "offsets must be int32"), (lambda x: None, "order needs offsets")],
    "order": [(lambda x: x[1:], "order must be int32"), (lambda x: x.long(), "order must be int32")],
}
SCORES: dict[str, list[tuple[Change, str]]] = {
    "valid": [(lambda x: x[:, 1:], "valid must be bool"), (lambda x: x.int(), "valid must be bool")],
    "scale": [(lambda x: torch.nan, "scale must be finite"), (lambda x: -torch.inf, "scale must be finite")],
    "window": [(lambda x: 0, "window must be positive")],
    "softcap": [(lambda x: 0.0, "softcap must be positive"), (lambda x: torch.inf, "softcap must be positive")],
}
TABLES: dict[str, list[tuple[Change, str]]] = {
    "cos": [
        (lambda x: x.int(), "cos and sin must share a floating dtype"),
        (lambda x: x.double(), "cos and sin must share a floating dtype"),
        (lambda x: x[:, 1:], "cos and sin must be (B or 1,"),
        (lambda x: None, "cos and sin must be given together"),
    ],
}
HEADS: list[tuple[Change, str]] = [
    (lambda x: x.int(), "must be floating point, got torch.int32"),
    (lambda x: x[:, :, 1:], "must be"),
]
QK: dict[str, list[tuple[Change, str]]] = {
    "q": [
        (lambda x: x[0], "q must be (B, H, l, d)"),
        (lambda x: x.int(), "q and k must share a floating dtype"),
        (lambda x: x[:, :3], "the number of query heads must be a multiple"),
    ],
    "k": [(lambda x: x.double(), "q and k must share a floating dtype")],
    "q_plain": [*HEADS, (lambda x: None, "q_plain and k_plain must be given together")],
    "k_plain": HEADS,
    **TABLES,
    **SCORES,
}
WRONG: dict[str, dict[str, list[tuple[Change, str]]]] = {
    "active_count": COLUMNS,
    "column_energy": COLUMNS,
    "gated_ffn": {
        "gate": [(lambda x: x[0], "gate must be (tokens, neurons)")],
        "up": [(lambda x: x.double(), "up must be"), (lambda x: x[1:], "up must be")],
        "activation": [(lambda x: "tanh", "activation 'tanh' is not one of silu, gelu, gelu_tanh, relu")],
        **{name: wrong for name, wrong in COLUMNS.items() if name != "x"},
    },
    "mask_neurons": {
        "x": [(lambda x: x[0], "x must be (tokens, neurons)"), (lambda x: x.int(), "x must be floating point")],
        "masks": [(lambda x: x[:, 1:], "masks must be bool"), (lambda x: x.float(), "masks must be bool")],
        "mask_ids": [(lambda x: x[1:], "mask_ids must be int64"), (lambda x: x.int(), "mask_ids must be int64")],
        "values": [(lambda x: torch.ones(3), "values must be")],
    },
    "nearest_neighbors": {
        "points": [(lambda x: x[0], "points must be (P, D)"), (lambda x: x.int(), "points must be floating point")],
        "k": [(lambda x: 0, "k must be 1 to"), (lambda x: 10**6, "k must be 1 to")],
        "metric": [(lambda x: "manhattan", "metric must be one of cosine, euclidean, got 'manhattan'")],
    },
    "normed_energy": {
        "x": [(lambda x: x.int(), "x must be floating point")],
        "output": [(lambda x: x[1:], "x, output and weight must be")],
        "multiplier": [(lambda x: x.int(), "multiplier must be floating point")],
        "gram": [(lambda x: x.bfloat16(), "gram must be torch.float32"), (lambda x: x[0], "gram must be (K, d, G, G)")],
        "scaled_gram": [(lambda x: x.bfloat16(), "scaled_gram must be")],
        "documents": COLUMNS["documents"],
    },
    "normed_value_energy": {
        "q": [(lambda x: x[0], "q must be (B, H, l, d)")],
        "v": [(lambda x: x[:, :, 1:], "v must be ("), (lambda x: x.int(), "v must be floating point")],
        "growth": [(lambda x: x[..., 1:], "growth must be"), (lambda x: x.int(), "growth must be floating point")],
        "weight": [(lambda x: x[:, 1:], "weight must have H d = "), (lambda x: x[0], "weight must be")],
        "counted": [(lambda x: torch.ones(2, 2), "counted must be bool")],
        "factors": [(lambda x: torch.ones(2, 2), "factors must be floating point")],
        "output": [
            (lambda x: x[:, 1:], "output must be floating point"),
            (lambda x: None, "output and multiplier must be given together"),
        ],
        "multiplier": [(lambda x: x.int(), "multiplier must be floating point"), (lambda x: x.double(), "all tensors")],
        **SCORES,
    },
    "value_energy": {
        "attention": [(lambda x: x.int(), "attention must be floating point")],
        "gram": [(lambda x: x.int(), "gram must be torch.float32"), (lambda x: x[0], "gram must be (K, d, G, G)")],
        **{name: wrong for name, wrong in COLUMNS.items() if name != "x"},
    },
    "value_gram": {
        "weight": [(lambda x: x[0], "weight must be (tokens, neurons)"), (lambda x: x[:, 1:], "weight must have")],
        "size": [(lambda x: 0, "weight must have")],
    },
    "qk_importance": QK,
    "centred_importance": {
        "q": [(lambda x: x.int(), "q must be floating point")],
        "k_weight": [(lambda x: x.int(), "k_weight must be floating point"), (lambda x: x[1:], "k_weight must be")],
        **TABLES,
        **SCORES,
    },
    "whole_norm_importance": {
        "q_rescale": [(lambda x: x.int(), "q_rescale must be floating point")],
        "k_rescale": [(lambda x: x[:, 1:], "k_rescale must be")],
        "q_own": [(lambda x: x.int(), "q_own must be floating point")],
        "k_own": [(lambda x: x[:, 1:], "k_own must be floating point")],
        **SCORES,
    },
}
WRONG["mask_neurons_"], WRONG["qk_estimate"] = (
    WRONG["mask_neurons"] | {"x": [(lambda x: x[:1].expand(x.shape), "x must not be expanded")]},
    QK,
)

# {operator: {argument with indices: what they are indices of}}
INDICES = {
    "active_count": {"documents": "document"},
    "column_energy": {"documents": "document"},
    "gated_ffn": {"documents": "document", "mask_ids": "mask set"},
    "mask_neurons": {"mask_ids": "mask set"},
    "mask_neurons_": {"mask_ids": "mask set"},
    "normed_energy": {"documents": "document"},
    "value_energy": {"documents": "document"},
}

each_operator = pytest.mark.parametrize("name", OPERATORS)
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def small_call(name: str) -> Call:
    """Returns a small call in which all optional tensors are given where they can be."""
    device = torch.get_default_device()
    calls = layer_calls(name, ODD, torch.float32, device)
    if name in CHANGES:
        calls += changed_calls(name, ODD, torch.float32, device)
    call = max(calls, key=lambda call: sum(isinstance(x, Tensor) for x in call.arguments))
    named = dict(call.named)
    if "offsets" in named and named["offsets"] is None:
        grouped = ops.group_tokens(named["documents"], named["count"])
        named |= {"offsets": grouped.offsets, "order": grouped.order}
    return Call(name, named)


def refuses(call: Call, way: Callable[..., object], backend: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as refused:
        way(call.operator, call.reference_arguments, backend)
    assert words in str(refused.value), refused.value


@each_way
@each_operator
def test_tensors_on_several_devices_are_refused(backend, name, way):
    """One tensor alone on "meta" would make torch return uninitialised memory."""
    call = small_call(name)
    tensors = [argument for argument, x in call.named.items() if isinstance(x, Tensor)]
    for moved in tensors if len(tensors) > 1 else ():
        on_meta = Call(name, call.named | {moved: call.named[moved].to("meta")})
        refuses(on_meta, way, backend, ValueError, "all tensors must be on one device, got ")
        refuses(on_meta, way, backend, ValueError, f"{moved} on meta")


@each_way
@each_operator
def test_wrong_arguments_are_refused_in_the_same_words(backend, name, way):
    call = small_call(name)
    assert set(WRONG[name]) <= set(call.named)
    for argument, changes in WRONG[name].items():
        for change, words in changes:
            refuses(Call(name, call.named | {argument: change(call.named[argument])}), way, backend, ValueError, words)


@each_way
@pytest.mark.parametrize("name", INDICES)
def test_an_index_out_of_range_is_refused_in_the_same_words(backend, name, way):
    call = small_call(name)
    for argument, kind in INDICES[name].items():
        count = call.named["count"] if kind == "document" else len(call.named["masks"])
        for wrong in (-2, count, 2**40):
            indices = call.named[argument].clone()
            if not indices.is_cpu:
                pytest.skip("on a GPU the check would have to wait for the indices")
            indices[1] = wrong
            changed = Call(name, call.named | {argument: indices})
            refuses(changed, way, backend, IndexError, f"token 1 has {kind} {wrong}, there are {count}")


@each_operator
def test_the_fake_implementation_refuses_the_same(name):
    """torch.compile calls it, and torch itself for tensors on "meta"."""
    call = small_call(name)
    argument, changes = next(iter(WRONG[name].items()))
    change, words = changes[0]
    on_meta = {key: x.to("meta") if isinstance(x, Tensor) else x for key, x in call.named.items()}
    on_meta[argument] = change(on_meta[argument])
    refuses(Call(name, on_meta), dispatch.call_torch_operator, "auto", ValueError, words)


def test_public_functions_refuse_before_they_fill_in_defaults():
    matrix, heads = torch.ones(()), torch.ones(3)
    for call in (
        lambda: ops.column_energy(matrix),
        lambda: ops.active_count(matrix),
        lambda: ops.gated_ffn(matrix),
        lambda: ops.mask_neurons(matrix, torch.ones(1, 1, dtype=torch.bool)),
        lambda: ops.value_energy(matrix, torch.ones(1, 1, 1, 1)),
        lambda: ops.qk_importance(heads, heads, scale=1.0),
        lambda: ops.whole_norm_importance(heads, heads, heads, heads, scale=1.0),
    ):
        with pytest.raises(ValueError, match="must be"):
            call()


def test_one_check_of_each_call(monkeypatch):
    """A direct call checks its arguments once; the host of a GPU pays for every check."""
    monkeypatch.undo()  # of registered_operators
    entry = OPERATORS["column_energy"]
    with mock.patch.object(type(entry), "require_fitting") as require_fitting:
        ops.column_energy(torch.ones(2, 3))
    assert require_fitting.call_count == 1
