"""Compares the inputs of a layer's attention scores, and what attention makes of them, with the family's formulas."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pymultiling.models.decoder import AttentionLayer, Decoder
from pymultiling.models.norms import normed, split_heads
from pymultiling.probes.scores import ScoreInputs
from pymultiling.probes.verification import advice
from pymultiling.probes.verification.attention import output_norms, passed_heads, passed_norms
from pymultiling.probes.verification.linear import Norms
from pymultiling.probes.verification.plan import Plan
from pymultiling.probes.verification.report import Check, Comparisons


def check_scores(
    decoder: Decoder,
    layer: AttentionLayer,
    name: str,
    inputs: ScoreInputs,
    value: Tensor | None,
    gate: Tensor | None,
    attended: Tensor,
    plan: Plan,
    comparisons: Comparisons,
) -> None:
    """Checks the attention scores of one layer.

    Args:
        decoder: the model.
        layer: the layer.
        name: the name of its attention.
        inputs: the inputs of its scores.
        value: (documents, length, K d), the output of the value projection, or of that of keys in layers that take keys
            as values; None in a layer that takes the values of another one.
        gate: (documents, length, H d) or (documents, length, H), the gates of the attention's output; None: there are
            none.
        attended: (documents, length, H d), the input of the output projection.
        plan: what the forward checks.
        comparisons: gets the comparisons.
    """
    family, dtype = decoder.family, inputs.q.dtype
    if family.interface:
        expected = passed_heads(inputs, decoder, layer)
        given = torch.cat([inputs.query, inputs.key], 1)[:, : expected.shape[1]]
        parts = "norms, clip and rotation" if gate is None else "norms, clip, rotation and output_gate"
        both = passed_norms(given, expected, plan.valid, dtype)
        sites: tuple[tuple[Check, slice], ...] = ("q", slice(layer.heads)), ("k", slice(layer.heads, None))
        for site, heads in sites if inputs.k is not None else sites[:1]:
            subject = f"{name} does not pass on the {site} heads that the {parts} of its family give"
            norms = Norms(*(part[heads] for part in both))
            comparisons.compare("scores", subject, advice.SCORES, *norms)
            _compare_off(layer, subject, [site], norms, plan, comparisons)
    if family.clip is not None and value is not None:
        value = value.clamp(-family.clip, family.clip)
    if value is not None:
        value = family.value_scale * value
    values = _values(value, inputs, layer, name, plan, comparisons)
    gated = "" if gate is None else f" {family.gate_function}(gate) (`output_gate`)"
    scaled = "" if family.value_scale == 1 else f"{family.value_scale:.4g} "
    causal = "causal" if inputs.causal else "not causal"
    subject = (
        f"{name} computes other attention than softmax(scores) {scaled}v{gated} with scale {inputs.scale:.4g}, window "
        f"{inputs.window}, chunk {inputs.chunk}, soft cap {inputs.softcap} and sinks {family.sinks}, {causal}"
    )
    norms = output_norms(inputs, values, gate, family.gate_function, attended, plan.valid, family.interface)
    comparisons.compare("scores", subject, advice.SCORES, *norms)
    if not family.interface:
        _compare_off(layer, subject, ["q", "k"], norms, plan, comparisons)


def _values(
    raw: Tensor | None, inputs: ScoreInputs, layer: AttentionLayer, name: str, plan: Plan, comparisons: Comparisons
) -> Tensor:
    """Returns the values (B, K, l, d) that attention sums up: the projection's, or those that it is given.

    It is given those of another layer, or normed ones, which are checked.
    """
    if raw is not None and layer.v_norm is None:
        return split_heads(raw, layer.value_size)
    assert inputs.value is not None, "only families with transformers' interface share or norm values"
    if raw is not None and layer.v_norm is not None:
        expected = normed(raw, layer.v_norm, torch.ones(layer.value_size, device=raw.device), layer.value_size)[0]
        subject = f"{name} does not pass on the values that the norm of its family (`v_norm`) gives"
        norms = passed_norms(inputs.value, expected, plan.valid, inputs.q.dtype)
        comparisons.compare("scores", subject, advice.SCORES, *norms)
    return inputs.value


def _compare_off(
    layer: AttentionLayer, subject: str, sites: Iterable[Check], norms: Norms, plan: Plan, comparisons: Comparisons
) -> None:
    """Checks that an attention that is right as it is stays right while neurons of q and k are off.

    Otherwise it does not read them where hooks change them, and `deactivate` has no effect at these sites.
    """
    key = layer.attention, "".join(sites)
    if plan.kind == "as it is":
        plan.wrong[key] = (norms.error > norms.tolerance).any()
    elif plan.kind == "off" and key in plan.wrong:
        error = norms.error.masked_fill(plan.wrong[key].to(norms.error.device), 0)
        for site in sites:
            comparisons.compare(site, f"with neurons off, {subject}", advice.OUTPUT, error, norms.tolerance, norms.size)
