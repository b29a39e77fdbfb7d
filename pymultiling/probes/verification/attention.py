"""Attention: what is rotated, and the probabilities, computed again from the inputs of the attention scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pymultiling.mathematics.attention import capped, log_probabilities, visible
from pymultiling.mathematics.rotation import rotate
from pymultiling.mathematics.sums import upcast
from pymultiling.models.decoder import AttentionLayer, Decoder
from pymultiling.models.norms import centred_epsilon, centred_weight, normed, split_heads
from pymultiling.probes.chunks import chunk_numbers
from pymultiling.probes.scores import ScoreInputs
from pymultiling.probes.verification.linear import Norms
from pymultiling.probes.verification.rounding import ACCUMULATION, internal_roundoff, product_roundoff

ROUNDINGS = 8  # of a query or key: three of the norm, three of the rotation, clip or scale, and the tables' own
DEVIATIONS = 8  # how many standard deviations the squared error of a head may be above its mean


def passed_heads(inputs: ScoreInputs, decoder: Decoder, layer: AttentionLayer) -> Tensor:
    """Returns the queries and then the keys that the family's norms, rotation and scaling give, (B, H + K, l, d).

    In a layer that takes the keys of another one, they are the queries alone, (B, H, l, d).
    """
    family = decoder.family
    if family.norms_behind_rotation and inputs.rotation is not None:
        return torch.cat(
            [
                _behind_rotation(raw, norm, inputs.rotation, decoder, layer)
                for raw, norm in ((inputs.q, layer.q_norm), (inputs.k, layer.k_norm))
                if norm is not None and raw is not None
            ],
            1,
        )
    heads = _normed_heads(inputs.q, layer.q_norm, decoder, layer)
    if inputs.k is not None:
        heads = torch.cat([heads, _normed_heads(inputs.k, layer.k_norm, decoder, layer)], 1)
    if inputs.rotation is not None:
        cos, sin = (upcast(table).to(heads.dtype) for table in inputs.rotation)
        heads = rotate(heads, cos, sin, family.interleaved)
    if family.scaled_queries:
        heads[:, : layer.heads] *= layer.head_size**-0.5
    if inputs.query_factors is not None:
        heads[:, : layer.heads] *= inputs.query_factors[:, None, :, None]
    return heads


def _normed_heads(raw: Tensor, norm: nn.Module | None, decoder: Decoder, layer: AttentionLayer) -> Tensor:
    """Returns (B, heads, l, d) for the output of a projection, (B, l, heads d)."""
    if norm is None:
        return split_heads(upcast(raw), layer.head_size)
    if decoder.family.centred_norms:
        return _centred(split_heads(upcast(raw), layer.head_size), norm)
    return normed(raw, norm, decoder.head_multiplier(norm, layer), layer.head_size)[0]


def _behind_rotation(
    raw: Tensor, norm: nn.Module, rotation: tuple[Tensor, Tensor], decoder: Decoder, layer: AttentionLayer
) -> Tensor:
    """Returns (B, heads, l, d) for the output of a projection, (B, l, heads d), that is rotated and then normed."""
    multiplier = decoder.head_multiplier(norm, layer)
    heads = split_heads(upcast(raw), len(multiplier))
    cos, sin = (upcast(table).to(heads.dtype) for table in rotation)
    heads = rotate(heads, cos, sin, decoder.family.interleaved)
    return normed(heads.transpose(1, 2).flatten(2), norm, multiplier, len(multiplier))[0]


def _centred(x: Tensor, norm: nn.Module) -> Tensor:
    weight = upcast(centred_weight(norm))
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + centred_epsilon(norm)).sqrt()
    # The bias of Phi's norms moves all attention scores of a neuron's change alike, so that importance does without it.
    bias = getattr(norm, "bias", None)
    return scaled * (weight if weight.ndim == 1 else weight[:, None]) + (0.0 if bias is None else upcast(bias))


def passed_norms(given: Tensor, expected: Tensor, valid: Tensor, dtype: torch.dtype) -> Norms:
    r"""Compares queries or keys (B, heads, l, d), a norm for each head over all tokens but padding.

    Rounding is relative to |x cos| + |x' sin|, for x rotated with x'. Over a pair, the squares of both sums are at most

        (x^2 + x'^2) (cos^2 + sin^2) + 4 |x x' cos sin|  <=  2 (x^2 + x'^2) (cos^2 + sin^2)

    twice the squared norm of the rotated pair.

    Args:
        given: what the model passes to its attention, queries and keys one behind the other.
        expected: `passed_heads`.
        valid: (B, l) bool, False for padding, on the CPU.
        dtype: that of the model.
    """
    error, size = _head_norms(given - expected, valid), _head_norms(expected, valid)
    rounding = ROUNDINGS * internal_roundoff(dtype) + given.shape[-1] * ACCUMULATION
    return Norms(error, rounding * math.sqrt(2) * size, size)


def _head_norms(x: Tensor, valid: Tensor) -> Tensor:
    """Returns (heads,), the norms over all tokens but padding, for x (B, heads, l, d) and valid (B, l)."""
    if not valid.all():
        x = x.masked_fill(~valid[:, None, :, None].to(x.device), 0)
    norms: Tensor = torch.linalg.vector_norm(upcast(x).transpose(0, 1).flatten(1), dim=1)
    return norms


def output_norms(
    inputs: ScoreInputs,
    value: Tensor,
    gate: Tensor | None,
    gate_function: str,
    output: Tensor,
    valid: Tensor,
    is_passed: bool,
) -> Norms:
    r"""Compares the attention's output with softmax(scores) v, a norm for each head over all tokens but padding.

    The sum of the softmax includes the sink of the head, if the family has sinks.

    An error e[i, j] of the scores changes the output o[i] of query i, to first order, by

        sum_j A[i, j] (e[i, j] - mean e) v[j] = sum_j A[i, j] e[i, j] (v[j] - o[i])

    and in any case by at most A[i, j] (exp(e) - 1) in place of A[i, j] e. Errors by rounding are independent, so that
    the expected squared error of a query is

        s[i]^2 = sum_j (A[i, j] expm1(e[i, j]))^2 ||v[j] - o[i]||^2 + rounding of A and o

    and that of a head has the mean S = sum_i s[i]^2 and at most the variance 2 sum_i s[i]^4. The tolerance is the root
    of the mean and DEVIATIONS standard deviations. e has the size of six roundings of a score (product, scale, three of
    the cap, bias), each with a standard deviation of u / sqrt(3), and of what is lost in the sum over the head. A gate
    multiplies v[j] and o[i] by its factor at query i, and adds two roundings, of the factor and of the product.

    Args:
        inputs: the inputs of the attention scores.
        value: (B, K, l, d), the values that are summed up.
        gate: (B, l, H d), or (B, l, H) with one for each head: the gates by whose function the attention's output is
            multiplied; None: there are none.
        gate_function: as in `Family`.
        output: (B, l, H d), the input of the output projection.
        valid: (B, l) bool, False for padding, on the CPU.
        is_passed: whether queries and keys were passed to the attention as they are here. If not, roundings of
            queries and keys themselves count too.
    """
    query, key = inputs.query, inputs.key
    dtype, device = query.dtype, query.device
    # A float32 model is compared in float64, because float32 would err as much as the model does.
    wide = torch.float64 if dtype in (torch.float32, torch.float64) and device.type != "mps" else torch.float32
    heads, value_size = query.shape[1], output.shape[-1] // query.shape[1]
    q, k = query.to(wide), key.to(wide).repeat_interleave(heads // key.shape[1], 1)
    v = value.to(device, wide)
    v = v.repeat_interleave(heads // v.shape[1], 1)
    given = split_heads(output, value_size).to(device, wide)
    positions = torch.arange(q.shape[2], device=device)
    sees = visible(positions, positions, inputs.window, inputs.causal) & valid[:, None, None, :].to(device)
    if inputs.chunk is not None:
        chunks = chunk_numbers(valid, inputs.chunk).to(device)
        sees = sees & (chunks[:, None, :, None] == chunks[:, None, None, :])
    hidden = ~sees

    q = inputs.scale * q
    scores = q @ k.transpose(-1, -2)
    magnitudes = q.abs() @ k.abs().transpose(-1, -2)
    before_cap = scores.abs()
    if inputs.bias is not None:
        bias = inputs.scale * inputs.factor * inputs.bias.to(wide)[:, :, None, :]
        scores = scores + bias
        before_cap = before_cap + bias.abs()
    if inputs.position_bias is not None:
        scores = scores + inputs.position_bias.to(wide)
        before_cap = before_cap + inputs.position_bias.to(wide).abs()
    u, u_product = internal_roundoff(dtype), product_roundoff(dtype)
    lost = (
        query.shape[-1] * ACCUMULATION + (u_product if dtype == torch.float32 else 0.0) + (0.0 if is_passed else 3 * u)
    )
    error = 1.5 * u * before_cap + lost * magnitudes
    if inputs.softcap is not None:
        scores = capped(scores, inputs.softcap)
        error = (1 - (scores / inputs.softcap).square()) * error  # by the slope of the cap
    error += u * (1.5 * scores.abs() + 2)
    a = log_probabilities(scores, ~hidden, None, inputs.sinks)[..., : len(positions)].exp()
    expected = a @ v

    if gate is None:
        squares, products, roundings = v.square().sum(-1)[..., None, :], expected @ v.transpose(-1, -2), 1
    else:
        gates = split_heads(gate, gate.shape[-1] // heads).to(device, wide).expand_as(expected)
        factors = gates.sigmoid() if gate_function == "sigmoid" else nn.functional.softplus(gates)
        expected = factors * expected
        squares, products = factors.square() @ v.square().transpose(-1, -2), (factors * expected) @ v.transpose(-1, -2)
        roundings = 3
    own_squares = expected.square().sum(-1, keepdim=True)
    distances = products.mul_(-2).add_(own_squares).add_(squares).clamp_(min=0)
    change = (a * torch.expm1(error.clamp_(max=10.0))).square_().mul_(distances).sum(-1)
    summed = roundings * u + ACCUMULATION * len(positions)
    own = (2 * summed) ** 2 * (own_squares[..., 0] + (a.square_() * squares).sum(-1))
    variance = (change + own).masked_fill(~valid[:, None].to(device), 0).nan_to_num().transpose(0, 1).flatten(1)
    tolerance = (variance.sum(1) + DEVIATIONS * (2 * variance.square().sum(1)).sqrt()).sqrt()

    return Norms(_head_norms(given - expected, valid), tolerance, _head_norms(expected, valid))
