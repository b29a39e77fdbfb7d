"""Values of another size than queries and keys, and with a factor; layers with and without sinks (MiMo-V2-Flash).

tests/models/test_further_families.py compares importance with brute force, and deactivated neurons with zeroed ones.
"""

from dataclasses import replace
from unittest import mock

import pytest
import torch

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.models.families import FAMILIES, family_of
from pymultiling.probes.verification.verify import verify
from pymultiling.probes.verification.zeroing import spot_check
from tests.support.tiny_models import tiny_batch, tiny_model

NAMES = ("mimo_v2_flash", "mimo_v2_flash-half-dense")
ATTENTION = r"computes other attention than softmax\(scores\)"


def test_layers_differ_in_key_heads_and_in_sinks():
    decoder = Decoder(tiny_model("mimo_v2_flash"))
    full, sliding = decoder.layers
    assert [(layer.heads, layer.kv_heads) for layer in (full, sliding)] == [(4, 1), (4, 2)]
    assert {(layer.head_size, layer.value_size) for layer in (full, sliding)} == {(8, 5)}
    assert decoder.layer_widths() == dict(ffn=(48, 48), q=(32, 32), k=(8, 16), v=(5, 10), o=(20, 20))
    assert decoder.sinks(full) is None and decoder.sinks(sliding).shape == (4,)


@pytest.mark.parametrize("name", NAMES)
def test_the_check_of_doctor_agrees(name):
    assert max(spot_check(tiny_model(name, torch.float64)).values()) < 1e-4


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(own_value_size=False), "widths of queries, keys and values, 32, 8 and 5, do not fit the 20 values"),
        (dict(value_scale=1.0), f"{ATTENTION} v with scale"),
        (dict(value_scale=0.8), f"{ATTENTION} 0.8 v with scale"),
        (dict(sinks=None), ATTENTION),
        (dict(sinks="sink"), "the family's sinks, sink of MiMoV2FlashAttention, .* got None"),
        (dict(interleaved=True), "does not pass on the q heads"),
    ],
)
def test_another_entry_is_refused(monkeypatch, changes, sentence):
    model = tiny_model("mimo_v2_flash")
    monkeypatch.setitem(FAMILIES, "mimo_v2_flash", replace(family_of(model), **changes))
    with pytest.raises(pml.UnsupportedModel, match=sentence):
        pml.importance(model, **tiny_batch())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_factor_of_values_is_refused(dtype):
    model = tiny_model("mimo_v2_flash", dtype)
    with mock.patch.object(model.model.layers[1].self_attn, "v_scale", 0.8):
        assert {departure.check for departure in verify(Decoder(model)).departures} == {"scores"}
        with pytest.raises(pml.UnsupportedModel, match=f"{ATTENTION} 0.707 v with scale"):
            pml.importance(model, **tiny_batch())


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
def test_an_entry_with_a_size_of_its_own_is_as_right_where_sizes_are_equal(monkeypatch, name):
    model, batch = tiny_model(name), tiny_batch()
    expected = pml.importance(model, **batch)
    monkeypatch.setitem(FAMILIES, name, replace(family_of(model), own_value_size=True))
    measured = pml.importance(tiny_model(name), **batch)
    assert all(torch.equal(measured[site], expected[site]) for site in pml.SITES)


@pytest.mark.parametrize("field", [dict(own_value_size=True), dict(value_scale=2.0)])
@pytest.mark.parametrize("other", [dict(qkv="qkv"), dict(output_gate=True), dict(v_norm="v_norm"), dict(clip=1.0)])
def test_entries_that_would_be_measured_wrongly_are_refused(field, other):
    with pytest.raises(ValueError, match="own_value_size and value_scale need"):
        pml.Family(**field, **other)
