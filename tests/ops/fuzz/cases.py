"""Calls of every operator that has kernels, each described by a few plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from pymultiling.mathematics.documents import group_tokens
from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.ops import value_gram
from tests.ops.fuzz.tensors import Numbers, document_ids, lay_out


class Case(Protocol):
    """A call of an operator."""

    @property
    def operator(self) -> str:
        """Name of the operator."""

    def arguments(self) -> tuple[object, ...]:
        """Returns the arguments of the operator's reference. In-place operators get a fresh tensor."""


def _documents(seed: int, tokens: int, count: int, grouped: str) -> tuple[object, ...]:
    """Returns ids, count, offsets and order. `grouped`: "no", "yes", or "in order" for tokens in order."""
    ids = document_ids(seed, tokens, count)
    if grouped == "no":
        return ids, count, None, None
    if grouped == "in order":
        ids = torch.where(ids < 0, count, ids).sort().values
        ids = torch.where(ids == count, -1, ids)
    documents = group_tokens(ids, count, in_order=grouped == "in order")
    return ids, count, documents.offsets, documents.order


def _mask_sets(seed: int, tokens: int, width: int, sets: int) -> tuple[Tensor, Tensor]:
    """Returns masks (sets, width) bool and mask_ids (tokens,), -1 for none."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(sets, width, generator=generator) < 0.4
    return masks, torch.randint(-1, sets, (tokens,), generator=generator)


@dataclass(frozen=True)
class Columns:
    operator: str = "column_energy"
    tokens: int = 5
    width: int = 3
    count: int = 2
    grouped: str = "no"
    numbers: Numbers = field(default_factory=Numbers)

    def arguments(self) -> tuple[object, ...]:
        x = self.numbers.tensor(0, self.tokens, self.width)
        return x, *_documents(self.numbers.seed, self.tokens, self.count, self.grouped)


@dataclass(frozen=True)
class Ffn:
    tokens: int = 5
    width: int = 3
    count: int = 2
    grouped: str = "no"
    gated: bool = True
    activation: str = "silu"
    sets: int | None = None
    numbers: Numbers = field(default_factory=Numbers)
    operator: str = "gated_ffn"

    def arguments(self) -> tuple[object, ...]:
        gate, up = (self.numbers.tensor(which, self.tokens, self.width) for which in (0, 1))
        masks = ids = None
        if self.sets is not None:
            masks, ids = _mask_sets(self.numbers.seed, self.tokens, self.width, self.sets)
        documents, count, *grouped = _documents(self.numbers.seed, self.tokens, self.count, self.grouped)
        return gate, up if self.gated else None, self.activation, documents, count, masks, ids, *grouped


@dataclass(frozen=True)
class Mask:
    operator: str = "mask_neurons"
    tokens: int = 5
    width: int = 3
    sets: int = 2
    scale: float = 0.0
    values: str | None = None
    numbers: Numbers = field(default_factory=Numbers)

    def arguments(self) -> tuple[object, ...]:
        x = self.numbers.tensor(0, self.tokens, self.width)
        if self.operator == "mask_neurons_" and self.numbers.layout == "expanded":
            x = x.contiguous()
        values = None if self.values is None else self.numbers.tensor(1, self.width)
        if self.values == "a row of x" and self.tokens:
            values = x[self.tokens // 2]
        return x, *_mask_sets(self.numbers.seed, self.tokens, self.width, self.sets), self.scale, values


@dataclass(frozen=True)
class Value:
    tokens: int = 5
    kv_heads: int = 2
    group: int = 2
    size: int = 3
    count: int = 2
    grouped: str = "no"
    gram_kind: str = "normal"
    numbers: Numbers = field(default_factory=Numbers)
    operator: str = "value_energy"

    def arguments(self) -> tuple[object, ...]:
        attention = self.numbers.tensor(0, self.tokens, self.kv_heads * self.group * self.size)
        columns = Numbers(self.numbers.seed, kind=self.gram_kind).tensor(1, self.kv_heads, self.size, self.group, 30)
        gram = lay_out(columns @ columns.mT, self.numbers.layout)
        return attention, gram, *_documents(self.numbers.seed, self.tokens, self.count, self.grouped)


@dataclass(frozen=True)
class Gram:
    rows: int = 5
    kv_heads: int = 2
    group: int = 2
    size: int = 3
    numbers: Numbers = field(default_factory=Numbers)
    operator: str = "value_gram"

    def arguments(self) -> tuple[object, ...]:
        return self.numbers.tensor(0, self.rows, self.kv_heads * self.group * self.size), self.kv_heads, self.size


@dataclass(frozen=True)
class Normed:
    """f is drawn apart from x and W, so that no neuron is parallel to f, where the terms of the result cancel."""

    tokens: int = 5
    kv_heads: int = 2
    group: int = 2
    size: int = 3
    outputs: int = 40
    columns: bool = False
    count: int = 2
    grouped: str = "no"
    weight_kind: str = "normal"
    numbers: Numbers = field(default_factory=Numbers)
    operator: str = "normed_energy"

    def arguments(self) -> tuple[object, ...]:
        inputs = self.kv_heads * self.group * self.size
        x = self.numbers.tensor(0, self.tokens, inputs)
        others = replace(self.numbers, kind="normal", factor=0)
        output = others.tensor(1, self.tokens, self.outputs)
        weight = others.tensor(2, self.outputs, inputs, kind=self.weight_kind)
        multiplier = others.tensor(3, self.outputs)
        grams = (
            value_gram(w, self.kv_heads, self.size, backend="torch")
            for w in (weight.float(), weight.float() * multiplier.float()[:, None])
        )
        documents, count, *grouped = _documents(self.numbers.seed, self.tokens, self.count, self.grouped)
        return x, output, weight, multiplier, *grams, 1e-6, documents, count, self.columns, *grouped


@dataclass(frozen=True)
class Nearest:
    count: int = 5
    size: int = 3
    k: int = 2
    metric: str = "cosine"
    copies: int = 1
    numbers: Numbers = field(default_factory=Numbers)
    operator: str = "nearest_neighbors"

    def arguments(self) -> tuple[object, ...]:
        distinct = self.numbers.tensor(0, -(-self.count // self.copies), self.size)
        points = lay_out(distinct.repeat(self.copies, 1)[: self.count], self.numbers.layout)
        return points, min(self.k, self.count - 1), self.metric


@dataclass(frozen=True)
class WholeNorm:
    batch: int = 1
    kv_heads: int = 2
    group: int = 1
    length: int = 5
    size: int = 4
    rescale: float = 1e-3  # the largest t, up to rounding
    own: bool = False
    valid: str = "all"
    scale: float = 0.5
    window: int | None = None
    softcap: float | None = None
    numbers: Numbers = field(default_factory=Numbers)
    operator: str = "whole_norm_importance"

    def arguments(self) -> tuple[object, ...]:
        queries = (self.batch, self.kv_heads * self.group, self.length, self.size)
        keys = (self.batch, self.kv_heads, self.length, self.size)
        q, k = self.numbers.tensor(0, *queries), self.numbers.tensor(1, *keys)
        generator = torch.Generator().manual_seed(self.numbers.seed)
        rescale, own = [], []
        for batch, heads, length, size in (queries, keys):
            t = self.rescale * torch.rand(batch, length, heads * size, generator=generator)
            rescale.append(lay_out(t, self.numbers.layout))
            own.append(torch.rand(batch, heads * size, generator=generator) if self.own else None)
        valid = _valid(self.valid, self.batch, self.length, self.numbers.seed)
        return q, k, *rescale, valid, self.scale, self.window, self.softcap, *own


@dataclass(frozen=True)
class Centred:
    batch: int = 1
    kv_heads: int = 1
    group: int = 2
    length: int = 5
    size: int = 8
    own_norms: bool = False
    rotated: int | None = 4
    interleaved: bool = False
    valid: str = "all"
    scale: float = 0.5
    window: int | None = None
    softcap: float | None = None
    numbers: Numbers = field(default_factory=Numbers)
    operator: str = "centred_importance"

    def arguments(self) -> tuple[object, ...]:
        heads = (self.kv_heads * self.group, self.kv_heads)
        normed, weights = [], []
        raw = [self.numbers.tensor(i, self.batch, self.length, count * self.size) for i, count in enumerate(heads)]
        for i, (x, count) in enumerate(zip(raw, heads)):
            weight = Numbers(self.numbers.seed).tensor(2 + i, *((count,) if self.own_norms else ()), self.size)
            y = torch.nn.functional.layer_norm(x.float().unflatten(2, (count, self.size)), (self.size,), eps=1e-3)
            normed.append(lay_out((y * weight).transpose(1, 2).to(x.dtype), self.numbers.layout))
            weights.append(weight)
        cos = sin = None
        if self.rotated is not None:
            generator = torch.Generator().manual_seed(self.numbers.seed)
            angle = 6 * torch.rand(1, self.length, min(self.rotated, self.size // 2 * 2), generator=generator)
            cos, sin = angle.cos(), angle.sin()
        valid = _valid(self.valid, self.batch, self.length, self.numbers.seed)
        limits = (self.scale, self.window, self.softcap, self.interleaved)
        return *normed, *raw, *weights, 1e-3, 1e-3, cos, sin, valid, *limits


def _valid(kind: str, batch: int, length: int, seed: int) -> Tensor:
    """Returns (batch, length) bool: "all" True, "none", or "some"."""
    if kind == "some":
        return torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < 0.6
    return torch.full((batch, length), kind == "all")


@dataclass(frozen=True)
class Qk:
    operator: str = "qk_importance"
    batch: int = 1
    kv_heads: int = 1
    group: int = 2
    length: int = 5
    size: int = 4
    rotated: int | None = 4
    tables: str = "float32"
    tables_per_document: bool = False
    interleaved: bool = False
    plain: bool = True
    growth: str | None = None
    valid: str = "all"
    scale: float = 0.5
    window: int | None = None
    softcap: float | None = None
    sinks: float | None = None  # the size of the sinks' scores; infinite: all are -inf
    causal: bool = True
    bias: float | None = None  # the size of the biases of the attention scores, without a soft cap
    numbers: Numbers = field(default_factory=Numbers)

    def arguments(self) -> tuple[object, ...]:
        queries = (self.batch, self.kv_heads * self.group, self.length, self.size)
        keys = (self.batch, self.kv_heads, self.length, self.size)
        q, k, q_plain, k_plain = (self.numbers.tensor(i, *(keys if i % 2 else queries)) for i in range(4))
        q_growth = k_growth = cos = sin = None
        if not self.plain:
            q_plain = k_plain = None
        if self.plain and self.rotated is not None:
            generator = torch.Generator().manual_seed(self.numbers.seed)
            documents = self.batch if self.tables_per_document else 1
            turned = min(self.rotated, self.size // 2 * 2)
            angle = 6 * torch.rand(documents, self.length, turned, generator=generator)
            dtype = getattr(torch, self.tables)
            cos, sin = (lay_out(x.to(dtype), self.numbers.layout) for x in (angle.cos(), angle.sin()))
        if self.plain and self.growth is not None:
            growths = [self.numbers.tensor(10 + i, *shape, kind="normal") for i, shape in enumerate((queries, keys))]
            q_growth, k_growth = (x.nan_to_num().abs().clamp(max=3).float() for x in growths)
            q_growth = None if self.growth == "keys" else q_growth
            k_growth = None if self.growth == "queries" else k_growth
        valid = _valid(self.valid, self.batch, self.length, self.numbers.seed)
        sinks = None
        if self.sinks is not None:
            generator = torch.Generator().manual_seed(self.numbers.seed)
            drawn = torch.randn(self.kv_heads * self.group, generator=generator)
            sinks = -drawn.abs() * math.inf if math.isinf(self.sinks) else self.sinks * drawn
        bias = None
        if self.bias is not None and self.softcap is None:
            generator = torch.Generator().manual_seed(self.numbers.seed)
            shape = self.batch if self.tables_per_document else 1, queries[1], self.length, self.length
            bias = self.bias * torch.randn(shape, generator=generator)
        return (
            QKProblem(
                q, k, q_plain, k_plain, cos, sin, valid, q_growth, k_growth,
                self.scale, self.window, self.softcap, self.interleaved, sinks, self.causal, bias,
            ),
        )  # fmt: skip
