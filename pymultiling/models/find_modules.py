"""Finds a family's modules inside a decoder layer. UnsupportedModel names what is missing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.models.adapters import MERGE, adapted_linear, in_effect, is_of_peft
from pymultiling.models.experts import Experts
from pymultiling.models.family import Family
from pymultiling.models.linear import DTYPES, Linear, Projection, inputs_of, is_linear, outputs_of
from pymultiling.models.pretrained import uncompiled
from pymultiling.models.routing import ExpertsLayout

# What to do when a family's entry is wrong for a model.
CORRECT_ENTRY = "correct the family's entry with register_family (`pymultiling doctor` shows the sites)"


def attention_projections(
    attention: nn.Module, family: Family, where: str, heads: int, value_size: int
) -> tuple[Projection, Projection | None, Projection | None]:
    """Returns the projections q, k and v, of which k and v may be None as in `AttentionLayer`.

    Args:
        attention: the module of the attention.
        family: the family of the model.
        where: the layer, for messages.
        heads: the number of query heads.
        value_size: the number of dimensions of one value.

    Raises:
        UnsupportedModel: a projection is missing, or their widths do not fit.
    """
    k: Projection | None
    v: Projection | None
    head_size, width = value_size, heads * value_size
    if family.qkv is None:
        q = _whole_module(find_linear(attention, family.q, where))
        if family.output_gate is True:  # for every head the query, and then the gate
            if q.width != 2 * width:
                raise UnsupportedModel(
                    f"{where}: {family.q} gives {q.width} values, and with output_gate it gives a query and a gate for "
                    f"each of the {width} values that {family.o} takes: {CORRECT_ENTRY}"
                )
            q = Projection(q.module, 0, head_size, heads)
        if family.own_value_size:
            head_size, width = q.width // heads, q.width - q.width % heads
        has_own = family.shared_keys is None or not getattr(attention, family.shared_keys[0])
        k = _whole_module(find_linear(attention, family.k, where)) if has_own else None
        has_values = has_own and (family.keys_as_values is None or not getattr(attention, family.keys_as_values))
        v = _whole_module(find_linear(attention, family.v, where)) if has_values else None
    else:
        fused = find_linear(attention, family.qkv, where)
        rows = outputs_of(fused)
        key_width = (rows - width) // 2
        if family.qkv_blocks is not None:
            if heads % family.qkv_blocks or rows != 3 * width:
                raise UnsupportedModel(
                    f"{where}: the {rows} outputs of {family.qkv} are no {family.qkv_blocks} blocks of the queries, "
                    f"values and keys of {heads} heads of {head_size}: {CORRECT_ENTRY}"
                )
            block = width // family.qkv_blocks
            q, v, k = (Projection(fused, start, start + block, family.qkv_blocks) for start in (0, block, 2 * block))
            return q, k, v
        if family.qkv_by_head:
            groups = max(1, key_width // head_size)  # one for each key head
            query_end, block = rows // groups - 2 * head_size, rows // groups
            ends = (0, query_end, query_end + head_size, block)
        else:
            groups, ends = 1, (0, width, width + key_width, rows)
        q, k, v = (Projection(fused, start, stop, groups) for start, stop in pairwise(ends))
    keys = width if k is None else k.width
    values = keys // head_size * value_size if v is None else v.width
    if q.width != width or keys * value_size != values * head_size or keys % head_size or not keys or width % keys:
        gate = f" ({family.q} may give a gate too: output_gate)" if q.width == 2 * width else ""
        raise UnsupportedModel(
            f"{where}: the widths of queries, keys and values, {q.width}, {keys} and {values}, do not fit the "
            f"{heads * value_size} values that {family.o} takes, in heads of {value_size}{gate}: {CORRECT_ENTRY}"
        )
    return q, k, v


class LatentProjections(NamedTuple):
    """The projections of multi-head latent attention.

    Attributes:
        q: the query projection.
        k: the dimensions of the keys of which every head has its own.
        v: the value projection, a part of the same module.
        shared_k: the dimensions of the keys that all heads share.
    """

    q: Projection
    k: Projection
    v: Projection
    shared_k: Projection


def latent_projections(attention: nn.Module, family: Family, where: str, heads: int) -> LatentProjections:
    """Returns the projections of multi-head latent attention.

    Args:
        attention: the module of the attention.
        family: the family of the model, with `kv`.
        where: the layer, for messages.
        heads: the number of query heads.

    Raises:
        UnsupportedModel: a projection is missing, or their widths do not fit.
    """
    assert family.kv is not None and family.shared_k is not None, "the family has latent attention"
    q, o = _whole_module(find_linear(attention, family.q, where)), find_linear(attention, family.o, where)
    kv, down = find_linear(attention, family.kv, where), find_linear(attention, family.shared_k, where)
    shared = outputs_of(down) - inputs_of(kv)
    own, value = q.width // heads - shared, inputs_of(o) // heads
    if q.width % heads or shared < 2 or shared % 2 or own < 1 or outputs_of(kv) != heads * (own + value):
        raise UnsupportedModel(
            f"{where}: {family.q} with {q.width} outputs, {family.shared_k} with {outputs_of(down)}, {family.kv} with "
            f"{outputs_of(kv)} and {inputs_of(kv)} inputs, and {family.o} with {inputs_of(o)} inputs do not fit "
            f"{heads} heads whose keys share dimensions: {CORRECT_ENTRY}"
        )
    k, v = (Projection(kv, start, stop, heads) for start, stop in ((0, own), (own, own + value)))
    return LatentProjections(q, k, v, Projection(down, inputs_of(kv), outputs_of(down)))


def gate_projection(
    attention: nn.Module, family: Family, where: str, q: Projection, head_size: int
) -> Projection | None:
    """Returns the outputs of a projection by whose sigmoid or softplus the attention's output is multiplied, or None.

    Raises:
        UnsupportedModel: there is no such projection, or its gates are neither one for each value nor for each head.
    """
    if not family.output_gate:
        return None
    if family.output_gate is True:
        return replace(q, start=head_size, stop=2 * head_size)
    gate = _whole_module(find_linear(attention, family.output_gate, where))
    heads = q.width // head_size
    if gate.width not in (q.width, heads):
        raise UnsupportedModel(
            f"{where}: {family.output_gate} gives {gate.width} gates, and there are {q.width} values of {heads} heads: "
            f"{CORRECT_ENTRY}"
        )
    return gate


def ffn_projections(ffn: nn.Module, family: Family, where: str, width: int) -> tuple[Projection, Projection | None]:
    """Returns the projection that the activation is applied to, and the one that its result is multiplied by.

    Both have `width` neurons. A plain FFN has only the first, which Family calls `up`; the second is then None.
    """
    up: Projection | None
    if family.gate_up is not None:
        fused = find_linear(ffn, family.gate_up, where)
        rows = outputs_of(fused)
        gate, up = Projection(fused, 0, rows // 2), Projection(fused, rows // 2, rows)
    else:
        gate, up = _whole_module(find_linear(ffn, family.up, where)), None
        if family.gate is not None:
            gate, up = _whole_module(find_linear(ffn, family.gate, where)), gate
    for projection in (gate, up):
        if projection is not None and projection.width != width:
            names = family.gate_up or (f"{family.gate} or {family.up}" if family.gate else family.up)
            raise UnsupportedModel(
                f"{where}: {family.down} takes {width} values, and {names} gives {projection.width}: {CORRECT_ENTRY}"
            )
    return gate, up


def ffn_experts(ffn: nn.Module, path: str, family: Family, where: str) -> Experts:
    """Returns the experts of an FFN that is a mixture of them; `path` is their place in the FFN."""
    layout = ExpertsLayout(
        family.transposed_experts,
        family.interleaved_experts,
        family.clamped_swiglu,
        family.scaled_expert_inputs,
        family.expert_parts,
        family.routed_scale,
    )
    return Experts.from_module(find(ffn, path, where), where, layout)


def require_sinks(attention: nn.Module, name: str, where: str, heads: int) -> None:
    """Raises UnsupportedModel unless the attention's parameter of this name is None or a score for each query head."""
    sinks = getattr(attention, name, None)
    if sinks is None and hasattr(attention, name):
        return
    if not isinstance(sinks, Tensor) or sinks.shape != (heads,):
        shape = tuple(sinks.shape) if isinstance(sinks, Tensor) else sinks
        raise UnsupportedModel(
            f"{where}: the family's sinks, {name} of {type(attention).__name__}, must have a score for each of "
            f"{heads} query heads, got {shape}: {CORRECT_ENTRY}"
        )


def _whole_module(linear: Linear) -> Projection:
    return Projection(linear, 0, outputs_of(linear))


def find_linear(parent: nn.Module, path: str, where: str) -> Linear:
    """Returns the linear module at `path` inside `parent`.

    Raises:
        UnsupportedModel: there is no module, or it is not linear.
    """
    module = find(parent, path, where)
    if not is_linear(module):
        kind, weight = type(module).__name__, getattr(module, "weight", None)
        if isinstance(weight, Tensor):
            kind += f" with a weight of {weight.dtype if weight.dtype not in DTYPES else type(weight).__name__}"
        raise UnsupportedModel(
            f"{path} of {where} is no plain torch.nn.Linear in float32, float64, bfloat16 or float16, but a {kind}: "
            "load the model without quantisation, and merge its adapters"
        )
    return module


def has(parent: nn.Module, path: str) -> bool:
    """Whether there is a module at `path` inside `parent`."""
    module: object = parent
    for name in path.split("."):
        module = getattr(uncompiled(module) if isinstance(module, nn.Module) else module, name, None)
    return isinstance(module, nn.Module)


def find(parent: nn.Module, path: str, where: str) -> nn.Module:
    """Returns the module at `path` inside `parent`; `where` says in messages which part of the model `parent` is.

    Of a module that torch.compile has wrapped it returns the one inside, which the compiled code calls; of one of which
    PEFT keeps copies, the copy that computes.

    Raises:
        UnsupportedModel: there is no such module, and the message lists the children of `parent`; or it is an adapter.
    """
    module = parent
    for name in path.split(".") if path else ():
        child = getattr(module, name, None)
        if not isinstance(child, nn.Module):
            raise UnsupportedModel(
                f"{where}: looked for {path} in {type(parent).__name__}, which has "
                f"{', '.join(name for name, _ in parent.named_children()) or 'no modules'}: "
                f"{CORRECT_ENTRY}"
            )
        module = in_effect(uncompiled(child))
    if is_of_peft(module) and adapted_linear(module) is None:
        raise UnsupportedModel(
            f"{path} of {where} is an adapter of PEFT ({type(module).__name__}) whose effect on the weight is not "
            f"known: {MERGE}"
        )
    return module
