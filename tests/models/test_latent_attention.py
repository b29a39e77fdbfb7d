"""Multi-head latent attention (DeepSeek-V2 and V3, GLM-4-MoE-Lite, Mistral 4, MiniCPM3, Youtu).

tests/models/test_further_families.py compares importance with brute force, and deactivated neurons with zeroed ones.
"""

import copy
import inspect
import sys
import textwrap
import types
from dataclasses import replace

import pytest
import torch

import pymultiling as pml
from pymultiling.cli import main
from pymultiling.models.decoder import Decoder
from pymultiling.models.families import FAMILIES, family_of
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.verification.verify import verify
from pymultiling.probes.verification.zeroing import spot_check
from tests.probes.test_masking import TOLERANCE, difference, logits
from tests.support.anatomy import LATENT as ALL_LATENT
from tests.support.anatomy import latent_row, sizes
from tests.support.brute_force import float64_throughout
from tests.support.comparison import brute_force_importance, importance_in_float64, largest_error
from tests.support.departures import replace_eager_attention
from tests.support.tiny_models import (
    FURTHER_MODELS,
    LATENT,
    configuration,
    hidden_of,
    is_missing,
    random_neurons,
    tiny_batch,
    tiny_model,
    with_zeroed_neurons,
)
from tests.support.tiny_text import save_model, texts, tiny_tokenizer

# One of each kind of rotation: pairs as complex numbers, pairs that are put into halves, and halves.
KINDS = ("deepseek_v2", "deepseek_v3", "minicpm3")
NAMES = [
    name
    for name, (kind, _) in FURTHER_MODELS.items()
    if not is_missing(kind) and configuration(kind).model_type in ALL_LATENT
]
OWN, SHARED = 4 * LATENT["qk_nope_head_dim"], LATENT["qk_rope_head_dim"]  # the k neurons of a layer, in this order


def change_method(module, name: str, old: str, new: str) -> None:
    """Replaces a method of a module by the one of its class with other text in its place."""
    source = textwrap.dedent(inspect.getsource(getattr(type(module), name)))
    assert old in source
    namespace = dict(vars(sys.modules[type(module).__module__]))
    exec(compile(source.replace(old, new), "<changed>", "exec"), namespace)
    setattr(module, name, types.MethodType(namespace[name], module))


@pytest.mark.parametrize("name", NAMES)
def test_neurons_are_those_rows(name):
    model = tiny_model(name)
    decoder = Decoder(model)
    assert decoder.widths() == sizes(model.config)
    for number, layer in enumerate(decoder.layers):
        assert (layer.heads, layer.kv_heads, layer.head_size, layer.value_size) == (4, 4, 10, 5)
        attention, found = model.model.layers[number].self_attn, {"q": [], "k": [], "v": []}
        for site, projection, members in layer.projections():
            assert members == slice(len(found[site]), len(found[site]) + projection.width)
            found[site] += [(projection.module, row) for row in projection.row_indices().tolist()]
        for site, rows in found.items():
            assert rows == [latent_row(attention, model.config, site, n) for n in range(sizes(model.config)[site])]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", KINDS)
def test_importance_is_brute_force_to_float64(name, padding):
    """Documents are longer than the original context of YaRN, which scales rotation and attention scores."""
    model, batch = tiny_model(name, torch.float64), tiny_batch(padding=padding)
    rotation = model.config.rope_parameters
    assert max(batch["attention_mask"].sum(1)) > rotation["original_max_position_embeddings"]
    assert model.model.layers[0].self_attn.scaling > 1.2 * 10**-0.5 and model.model.rotary_emb.attention_scaling != 1
    truth = brute_force_importance(name, padding)
    result = importance_in_float64(model, **batch)
    assert max(largest_error(result[site], truth[site]) for site in truth) < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_rope_post_is_brute_force_on_rotated_dimensions(monkeypatch, name):
    """Where pairs are put into halves, neurons 2m and 2m + 1 of the rotated ones are dimensions m and m + r/2."""
    model, batch, change = tiny_model(name, torch.float64, num_hidden_layers=1), tiny_batch(), [lambda q, k: None]
    order = [0, 2, 1, 3] if name == "deepseek_v3" else range(4)
    source, seen = sys.modules[type(model).__module__], []
    attend = source.eager_attention_forward

    def attend_changed(module, query, key, *args, **kwargs):
        query, key = query.clone(), key.clone()
        change[0](query, key)
        output = attend(module, query, key, *args, **kwargs)
        seen.append(output[1] * batch["attention_mask"][:, None, :, None])
        return output

    def zero(place: int, head: int | slice, dimension: int):
        def function(*heads):
            heads[place][:, head, :, dimension] = 0

        return function

    rotated = [6 + order.index(n) if isinstance(order, list) else 6 + n for n in range(4)]
    queries = [zero(0, head, n) for head in range(4) for n in (*range(6), *rotated)]
    keys = [zero(1, head, n) for head in range(4) for n in range(6)] + [zero(1, slice(None), n) for n in rotated]
    result = importance_in_float64(model, **batch, rope="post", sites=("q", "k"))
    monkeypatch.setattr(source, "eager_attention_forward", attend_changed)
    model.set_attn_implementation("eager")
    with float64_throughout(model):
        for change[0] in (lambda q, k: None, *queries, *keys):
            hidden_of(model, batch)
    truth = torch.stack([(after - seen[0]).square().sum((1, 2, 3)) for after in seen[1:]], 1)[:, None]
    assert largest_error(torch.cat([result["q"], result["k"]], -1), truth) < 1e-6


@pytest.mark.parametrize("name", KINDS)
def test_the_score_of_the_published_code_adds_up_a_shared_key_neuron_over_heads(name):
    """As the keys of a group of query heads, which are one key."""
    model, batch = tiny_model(name, torch.float64), tiny_batch()
    released = importance_in_float64(model, **batch, score="released", sites=("q", "k"))
    assert released["k"].shape[-1] == OWN + SHARED
    # The two share their measure in a query head, of dimensions that are not rotated as of the rotated ones.
    q = released["q"].unflatten(-1, (4, 10))
    torch.testing.assert_close(q[..., :6].flatten(-2), released["k"][..., :OWN])
    torch.testing.assert_close(q[..., 6:].sum(-2), released["k"][..., OWN:])


@pytest.mark.parametrize("name", KINDS)
def test_the_estimate_is_exact_where_queries_see_few_keys(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch()
    exact, fast = (pml.importance(model, **batch, sites=("q", "k"), qk=mode) for mode in ("exact", "fast"))
    for site in ("q", "k"):
        torch.testing.assert_close(fast[site], exact[site], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_check_of_doctor_agrees(name):
    assert max(spot_check(tiny_model(name)).values()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", KINDS)
def test_another_scale_is_refused(monkeypatch, name, dtype):
    """That of the head size, without YaRN's factor."""
    model = tiny_model(name, dtype)
    source = sys.modules[type(model).__module__]
    attend = source.eager_attention_forward
    model.set_attn_implementation("eager")
    monkeypatch.setattr(
        source, "eager_attention_forward", lambda *args, scaling, **kwargs: attend(*args, scaling=10**-0.5, **kwargs)
    )
    sentence = f"other attention than softmax.* with scale {model.model.layers[0].self_attn.scaling:.4g}, window None"
    assert {departure.check for departure in verify(Decoder(model)).departures} == {"scores"}
    with pytest.raises(pml.UnsupportedModel, match=sentence):
        pml.importance(model, **tiny_batch(), sites=("q", "k"))


@pytest.mark.parametrize("change", ["ahead", "sink", "values", "bias"])
@pytest.mark.parametrize("name", KINDS)
def test_other_attention_is_refused(monkeypatch, name, change):
    model = tiny_model(name)
    replace_eager_attention(monkeypatch, model, "none")
    assert verify(Decoder(model)).departures == ()
    replace_eager_attention(monkeypatch, model, change)
    assert "scores" in {departure.check for departure in verify(Decoder(model)).departures}


PASSED = "does not pass on the {} heads that the norms, clip and rotation"
ROTATED = "if self.config.rope_interleave:"
BETA = 'self.config.rope_parameters.get("llama_4_scaling_beta")'  # how queries grow with their position
NORMED = "kv_nope = self.kv_a_layernorm(kv_nope)"


@pytest.mark.parametrize(
    "name, method, old, new, site",
    [
        ("deepseek_v3", "forward", ROTATED, "if False:", "q"),
        ("glm4_moe_lite", "forward", ROTATED, "if False:", "q"),
        ("youtu", "forward", ROTATED, "if False:", "q"),
        ("deepseek_v3-half-dense", "forward", ROTATED, "if True:", "q"),
        ("mistral4", "forward", ROTATED, "if False:", "q"),
        ("mistral4", "forward", BETA, "0.5", "q"),
        ("mistral4", "forward", "position_ids,\n        self", "position_ids + 4,\n        self", "q"),
        ("deepseek_v2", "forward", "position_embeddings.to(", "position_embeddings.conj().to(", "q"),
        ("minicpm3", "forward", "cos, sin = position_embeddings", "sin, cos = position_embeddings", "q"),
        ("deepseek_v3", "forward", NORMED, f"{NORMED}; k_rot = k_rot / k_rot.norm(dim=-1, keepdim=True)", "k"),
        ("deepseek_v3", "expand_kv", ".copy_(k_rot)", ".copy_(k_rot.roll(1, -1))", "k"),
        ("deepseek_v2", "expand_kv", ".copy_(k_nope)", ".copy_(k_nope.roll(1, 1))", "k"),
        ("minicpm3", "forward", "torch.cat((q_pass, q_rot)", "torch.cat((q_rot, q_pass)", "q"),
    ],
    ids=[
        "halves in place of pairs", "the same, of GLM", "the same, of Youtu", "pairs in place of halves",
        "halves in place of pairs, of Mistral 4", "queries that grow faster", "queries of other positions", "backwards",
        "sines for cosines", "a norm of the shared key", "another shared key", "keys of other heads", "another order",
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_queries_or_keys_are_refused(name, method, old, new, site, dtype):
    model = tiny_model(name, dtype)
    change_method(model.model.layers[1].self_attn, method, old, new)
    with pytest.raises(pml.UnsupportedModel, match=PASSED.format(site)):
        pml.importance(model, **tiny_batch(), sites=("q", "k"))
    assert {departure.check for departure in verify(Decoder(model)).departures} == {"scores"}


@pytest.mark.parametrize("change", ["value_states = 1.01 * value_states", "value_states = value_states.roll(1, 1)"])
def test_other_values_are_refused(change):
    model = tiny_model("deepseek_v2")
    end = "return key_states, value_states"
    change_method(model.model.layers[1].self_attn, "expand_kv", end, f"{change}; {end}")
    checks = {departure.check for departure in verify(Decoder(model)).departures}
    assert {"scores", "values" if "roll" in change else "scores"} <= checks


def test_a_projection_with_something_added_is_refused():
    model = tiny_model("deepseek_v3")
    model.model.layers[1].self_attn.kv_a_proj_with_mqa.register_forward_hook(lambda _, args, output: 1.01 * output)
    with pytest.raises(pml.UnsupportedModel, match=r"layers.1.self_attn.kv_a_proj_with_mqa does not return its weight"):
        pml.importance(model, **tiny_batch(), sites=("k",))


def test_the_norm_of_the_latent_vector_is_no_part_of_the_formulas():
    """They begin with what kv_b_proj gets: in a model without this norm they are as right as in one with it."""
    model = tiny_model("deepseek_v3")
    with_norm = pml.importance(model, **tiny_batch())
    change_method(model.model.layers[1].self_attn, "forward", NORMED, "kv_nope = 3 * kv_nope")
    assert max(spot_check(model).values()) < 1e-4 and verify(Decoder(model)).departures == ()
    without = pml.importance(model, **tiny_batch())
    assert all(largest_error(without[site][:, 1:], with_norm[site][:, 1:].double()) > 0.1 for site in "kvo")


@pytest.mark.parametrize(
    "name, changes, sentence",
    [
        ("deepseek_v3", dict(regrouped=False), PASSED.format("q")),
        ("minicpm3", dict(regrouped=True), PASSED.format("q")),
        ("deepseek_v3-half-dense", dict(regrouped=False, interleaved=True), PASSED.format("q")),
        ("deepseek_v2", dict(complex_tables=False), "cos|unpack|values"),
        ("deepseek_v2", dict(q="q_a_proj"), "layer 0: q_a_proj with 12 outputs.* 4 heads whose keys share dimensions"),
        ("deepseek_v2", dict(shared_k="q_a_proj"), "q_a_proj with 12, kv_b_proj with 44 and 10 inputs"),
        ("youtu", dict(kv="kv"), "layer 0: looked for kv in YoutuAttention, which has .*kv_b_proj"),
        ("minicpm3", dict(kv=None, shared_k=None), "layer 0: looked for k_proj in MiniCPM3Attention"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_refused(monkeypatch, name, changes, sentence):
    model = tiny_model(name)
    monkeypatch.setitem(FAMILIES, model.config.model_type, replace(family_of(model), **changes))
    with pytest.raises(pml.UnsupportedModel, match=sentence):
        pml.importance(model, **tiny_batch())


@pytest.mark.parametrize(
    "fields, rule",
    [
        (dict(kv="kv"), "give kv and shared_k both"),
        (dict(kv="kv", shared_k="k", interface=False), "kv needs interface=True"),
        (dict(kv="kv", shared_k="k", rotation=None), "a rotation in all layers"),
        (dict(kv="kv", shared_k="k", sinks="sinks"), "with kv, q_norm, output_gate, scaled_queries and sinks"),
        (dict(regrouped=True), "regrouped needs kv"),
        (dict(complex_tables=True), "complex_tables needs interleaved=True"),
    ],
)
def test_entries_that_contradict_themselves_are_refused(fields, rule):
    with pytest.raises(ValueError, match=rule):
        pml.Family(**fields)


@pytest.mark.parametrize("context", [80, 100_000])
@pytest.mark.parametrize("name", KINDS)
def test_copies_beyond_the_first_context_are_accepted(name, context):
    rotation = dict(LATENT["rope_parameters"], original_max_position_embeddings=context)
    model = tiny_model(name, rope_parameters=rotation, max_position_embeddings=1000)
    result = verify(Decoder(model))
    assert not result.departures and not result.notes


@pytest.mark.parametrize("name", KINDS)
def test_models_that_are_spread_over_processes_are_refused(monkeypatch, name):
    model = tiny_model(name)
    monkeypatch.setattr(model, "_tp_size", 2)
    with pytest.raises(pml.UnsupportedModel, match=r"whose heads share a part of their keys.* without tp_plan"):
        Decoder(model)


def only_shared_keys(model) -> pml.NeuronSet:
    """Returns a set of some key neurons that all heads share."""
    mask = torch.zeros(len(model.model.layers), OWN + SHARED, dtype=torch.bool)
    mask[:, OWN + 1 :: 2] = True
    return pml.NeuronSet({"k": mask})


@torch.no_grad()
@pytest.mark.parametrize("site", pml.SITES)
@pytest.mark.parametrize("name", KINDS)
def test_rows_are_under_their_own_sets(name, site):
    model, batch = tiny_model(name), tiny_batch((9, 9, 9))
    a, b = random_neurons(model, seed=1, sites=(site,)), random_neurons(model, seed=2, sites=(site,))
    b = only_shared_keys(model) if site == "k" else b
    truths = [logits(model if x is None else with_zeroed_neurons(model, x), batch).view(3, 9, -1) for x in (b, None, a)]
    with pml.deactivate(model, [a, b, None], rows=[1, 2, 0]):
        result = logits(model, batch).view(3, 9, -1)
    for row, truth in enumerate(truths):
        assert difference(result[row], truth[row]) < TOLERANCE[torch.float32]
    assert difference(result[0], truths[1][0]) > 1e-3 < difference(result[2], truths[1][2])


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_beams_are_under_the_sets_of_their_prompts(name):
    """The cache holds latent vectors, and every step computes keys and values of all of them again."""
    model, batch, options = tiny_model(name), tiny_batch((7, 7)), dict(max_new_tokens=4, num_beams=3, do_sample=False)
    neurons = random_neurons(model, sites=("k", "v"))
    with pml.deactivate(model, [None, neurons]):
        tokens = model.generate(**batch, **options)
    assert torch.equal(tokens[0], model.generate(**batch, **options)[0])
    assert torch.equal(tokens[1], with_zeroed_neurons(model, neurons).generate(**batch, **options)[1])


@torch.no_grad()
def test_a_shared_key_neuron_that_is_off_leaves_the_latent_vector():
    model, batch, seen = tiny_model("deepseek_v3"), tiny_batch((9,)), []
    projection = model.model.layers[0].self_attn.kv_a_proj_with_mqa
    logits(model, batch)
    for neurons in (None, only_shared_keys(model)):
        with pml.deactivate(model, [neurons]):
            handle = projection.register_forward_hook(lambda _, args, output: seen.append(output))
            logits(model, batch)
            handle.remove()
    off = torch.zeros(14, dtype=torch.bool)
    off[[11, 13]] = True
    assert torch.equal(seen[1], seen[0].masked_fill(off, 0)) and seen[0][..., off].any()


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_means_are_those_of_the_rows(name):
    model, tokenizer, outputs = tiny_model(name), tiny_tokenizer(), {}
    means = pml.mean_activations(model, tokenizer, texts("fr"), progress=False)
    for site in "qkv":
        for number, layer in enumerate(model.model.layers):
            rows = [latent_row(layer.self_attn, model.config, site, n) for n in range(sizes(model.config)[site])]
            outputs[site, number] = rows
    modules = {module for rows in outputs.values() for module, _ in rows}
    sums, tokens = dict.fromkeys(modules, 0.0), 0
    handles = [
        module.register_forward_hook(
            lambda module, args, output: sums.update({module: sums[module] + output.double().flatten(0, -2).sum(0)})
        )
        for module in modules
    ]
    for text in texts("fr"):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        tokens += ids.shape[1]
        hidden_of(model, dict(input_ids=ids, attention_mask=torch.ones_like(ids)))
    for handle in handles:
        handle.remove()
    for (site, number), rows in outputs.items():
        truth = torch.stack([sums[module][row] for module, row in rows]) / tokens
        torch.testing.assert_close(means[site][number].double(), truth, rtol=1e-4, atol=1e-6)
    with pml.deactivate(model, only_shared_keys(model), mean=means):
        logits(model, tiny_batch())


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_those_of_experts_and_dense_layers(name):
    """Of a mixture, no more than the experts of a token are active; the shared expert is so in every token."""
    model, batch = tiny_model(name), tiny_batch((9, 9))
    expected = logits(model, batch)
    mask = batch["attention_mask"]
    counts = ActivationProbe(model).measure(batch["input_ids"], mask, mask.bool())
    assert torch.equal(logits(model, batch), expected)
    for number, layer in enumerate(model.model.layers):
        if hasattr(layer.mlp, "experts"):
            routed, shared = counts[number].split([48, counts.shape[1] - 48])
            assert 0 < routed.sum() < 18 * 2 * 8 and 0 < shared.sum()
        else:
            assert 0 < counts[number].sum()


@pytest.mark.parametrize("name", KINDS)
def test_detect_averages_the_importance_of_the_documents(name):
    model, tokenizer = tiny_model(name), tiny_tokenizer()
    corpora, options = {"fr": texts("fr"), "de": texts("de")}, dict(progress=False, workers=0)
    detection = pml.detect(model, tokenizer, corpora, **options)
    for site in pml.SITES:
        total = sum(
            pml.importance(model, torch.tensor([tokenizer(text)["input_ids"]]))[site][0].double()
            for text in texts("fr")
        )
        mean = total / len(texts("fr"))
        found = detection.statistics["fr"].mean(site).double()
        torch.testing.assert_close(found, mean, rtol=1e-3, atol=1e-6 * mean.max().item())
    matrix = pml.ablation_matrix(model, tokenizer, detection.neurons, corpora, **options)
    assert matrix.notna().all().all()


def test_trained_neurons_are_the_rows_of_both_projections():
    model = tiny_model("deepseek_v3")
    before, neurons = copy.deepcopy(model.state_dict()), random_neurons(model, sites=("k",)) | only_shared_keys(model)
    tuning = pml.train_only(model, neurons)
    model(**tiny_batch((9,)), labels=tiny_batch((9,))["input_ids"]).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    tuning.merge()
    expected = set()
    for number, n in neurons.sites["k"].nonzero().tolist():
        module, row = latent_row(model.model.layers[number].self_attn, model.config, "k", n)
        expected.add((next(name for name, other in model.named_modules() if other is module), row))
    changed = {
        (name.removesuffix(".weight"), row)
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
        for row in (value != before[name]).any(1).nonzero().flatten().tolist()
    }
    assert changed == expected


def test_doctor_says_which_keys_are_shared(tmp_path, capsys):
    assert main(["doctor", "--model", str(save_model(tmp_path, tiny_model("deepseek_v3")))]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "heads 4; queries and keys of size 10, values of size 5" in printed
    assert "k 28 neurons per layer: 6 of each head, then 4 rotated ones that all heads share" in printed
    assert "keys and values come from one of size 10; what gives it has no neurons" in printed
    assert "k model.layers.0.self_attn.kv_b_proj, outputs 0 to 5 of each block of 11" in printed
    assert "k of all heads model.layers.0.self_attn.kv_a_proj_with_mqa, outputs 10 to 13 of 14" in printed
    assert "v model.layers.0.self_attn.kv_b_proj, outputs 6 to 10 of each block of 11" in printed
