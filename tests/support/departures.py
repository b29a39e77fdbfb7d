"""Plants departures in models: changes of a tiny model after which it computes something else than its class says."""

import math
import sys
import types

import torch
import torch.nn.functional as F
from torch import nn


class WithAdapter(nn.Linear):
    """A Linear whose forward adds a product of rank two, as an adapter that is not merged."""

    def forward(self, x):
        generator = torch.Generator().manual_seed(0)
        a = torch.randn(2, self.in_features, generator=generator).to(x)
        b = torch.randn(self.out_features, 2, generator=generator).to(x)
        return super().forward(x) + 0.1 * (x @ a.T @ b.T) / self.in_features**0.5


class FakeQuantised(nn.Linear):
    """A Linear that rounds its weight to 8 bits in its forward."""

    def forward(self, x):
        step = self.weight.abs().amax(1, keepdim=True) / 127
        return F.linear(x, (self.weight / step).round() * step, self.bias)


def replace_linear(parent: nn.Module, name: str, kind: type[nn.Linear]) -> None:
    """Puts a module of another class, with the same weights, in place of a Linear."""
    old = getattr(parent, name)
    new = kind(old.in_features, old.out_features, bias=old.bias is not None)
    new.load_state_dict(old.state_dict())
    setattr(parent, name, new.to(old.weight.dtype))


def read_weights_without_calling(attention: nn.Module) -> None:
    """Makes the query projection's weight be used by F.linear, as attentions with fused projections do."""
    projection = attention.q_proj
    weight, bias = projection.weight, projection.bias

    class Reads(nn.Module):
        def forward(self, x):
            return F.linear(x, weight, bias)

    def forward(self, *args, **kwargs):
        original = self._modules["q_proj"]
        self._modules["q_proj"] = Reads()
        try:
            return type(self).forward(self, *args, **kwargs)
        finally:
            self._modules["q_proj"] = original

    attention.forward = types.MethodType(forward, attention)


def replace_eager_attention(monkeypatch, model, change: str) -> None:
    """Replaces the eager attention of the model's file by one with a change.

    change: "none", "scale", "ahead" (no causality), "sink" (a logit of 0 without a value), "positions" (queries grow
    with their position), "no cap", "window" (two tokens less), "values" (the values are normalised), "bias".
    """

    def attend(module, query, key, value, attention_mask, scaling=None, dropout=0.0, softcap=None, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        length = query.shape[2]
        if change == "positions":
            query = query * (1 + torch.arange(length)[:, None] / 64).log1p().to(query)
        scale = module.head_dim**-0.5 if scaling is None else scaling
        scores = query @ key.transpose(2, 3) * scale * (1.05 if change == "scale" else 1)
        if softcap is not None and change != "no cap":
            scores = softcap * torch.tanh(scores / softcap)
        if change == "bias":
            scores = scores + 0.05 * torch.arange(length).to(scores)
        if attention_mask is not None and change != "ahead":
            scores = scores + attention_mask
        if change == "window":
            positions = torch.arange(length)
            scores = scores.masked_fill(positions[:, None] - positions >= 9, -math.inf)
        if change == "sink":
            scores = F.pad(scores, (0, 1))
        a = scores.softmax(-1, dtype=torch.float32).to(query.dtype)[..., :length]
        if change == "values":
            value = value / value.norm(dim=-1, keepdim=True)
        return (a @ value).transpose(1, 2).contiguous(), a

    model.set_attn_implementation("eager")
    attention = next(module for name, module in model.named_modules() if name.endswith(("self_attn", "attn")))
    monkeypatch.setattr(sys.modules[type(attention).__module__], "eager_attention_forward", attend)


def double(_, args, output):
    """A hook that doubles a module's output."""
    return (2 * output[0], *output[1:]) if isinstance(output, tuple) else 2 * output


def double_in_place(_, args, output):
    """A hook that doubles a module's output in place."""
    output.mul_(2)
