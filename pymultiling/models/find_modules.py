"""Finding a family's modules inside a layer; UnsupportedModel, with what was looked for, where they are not there."""

from __future__ import annotations

from torch import nn

from pymultiling.errors import UnsupportedModel
from pymultiling.models.experts import Experts
from pymultiling.models.family import Family
from pymultiling.models.linear import Projection, is_linear, weight_of


def attention_projections(
    attention: nn.Module, family: Family, where: str, width: int, head_size: int
) -> tuple[Projection, Projection, Projection]:
    """q, k and v, `width` being that of q."""
    if family.qkv is None:
        q, k, v = (_whole(find_linear(attention, name, where)) for name in (family.q, family.k, family.v))
    else:
        fused = find_linear(attention, family.qkv, where)
        rows = weight_of(fused).shape[0]
        keys = (rows - width) // 2
        if family.qkv_by_head:
            groups = max(1, keys // head_size)
            last, block = rows // groups, rows // groups - 2 * head_size
            ends = (0, block, block + head_size, last)
        else:
            groups, ends = 1, (0, width, width + keys, rows)
        q, k, v = (Projection(fused, start, stop, groups) for start, stop in zip(ends, ends[1:]))
    if q.width != width or k.width != v.width or k.width % head_size or not k.width or width % k.width:
        raise UnsupportedModel(
            f"{where}: the widths of queries, keys and values, {q.width}, {k.width} and {v.width}, do not fit the "
            f"{width} values that {family.o} takes, in heads of {head_size}"
        )
    return q, k, v


def ffn_projections(ffn: nn.Module, family: Family, where: str, width: int) -> tuple[Projection, Projection | None]:
    """Gate and up, of `width` neurons; a plain FFN has no up."""
    if family.gate_up is not None:
        fused = find_linear(ffn, family.gate_up, where)
        rows = weight_of(fused).shape[0]
        gate, up = Projection(fused, 0, rows // 2), Projection(fused, rows // 2, rows)
    else:
        gate, up = _whole(find_linear(ffn, family.up, where)), None
        if family.gate is not None:
            gate, up = _whole(find_linear(ffn, family.gate, where)), gate
    for one in (gate, up):
        if one is not None and one.width != width:
            names = family.gate_up or (f"{family.gate} or {family.up}" if family.gate else family.up)
            raise UnsupportedModel(f"{where}: {family.down} takes {width} values, and {names} gives {one.width}")
    return gate, up


def ffn_experts(ffn: nn.Module, family: Family, where: str) -> Experts:
    if hasattr(ffn, family.down):
        raise UnsupportedModel(
            f"{where} has one dense FFN, and {family.experts} were looked for: models in which only some layers are "
            "mixtures of experts (Qwen3-MoE with mlp_only_layers or decoder_sparse_step) are not supported"
        )
    return Experts.of(find(ffn, family.experts, where), where)


def _whole(linear: nn.Module) -> Projection:
    return Projection(linear, 0, weight_of(linear).shape[0])


def find_linear(parent: nn.Module, path: str, where: str) -> nn.Module:
    module = find(parent, path, where)
    if not is_linear(module):
        raise UnsupportedModel(
            f"{path} of {where} is no plain torch.nn.Linear in float32, float64, bfloat16 or float16: load the model "
            "without quantisation, and merge its adapters"
        )
    return module


def find(parent: nn.Module, path: str, where: str):
    try:
        return parent.get_submodule(path)
    except AttributeError:
        raise UnsupportedModel(
            f"{where}: looked for {path} in {type(parent).__name__}, which has "
            f"{', '.join(name for name, _ in parent.named_children()) or 'no modules'}"
        ) from None
