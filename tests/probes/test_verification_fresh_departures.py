"""Departures that users' code makes, planted without knowledge of the checks: right values, or a sentence."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import pymultiling as pml
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model

NEURONS = (0, 3, 5)  # of every site, which are compared with setting them to zero


def parts_of(layer) -> dict[str, nn.Module]:
    """Returns {site: the module whose input (ffn, o) or output (q, k, v) is the neurons}."""
    attention = layer.self_attn
    return {"ffn": layer.mlp.down_proj, **{site: getattr(attention, f"{site}_proj") for site in "qkvo"}}


def switch_off(layer, site: str, neurons):
    """Sets neurons to zero by a hook, and returns its handle."""

    def zero(x):
        return x.index_fill(-1, torch.tensor(neurons), 0)

    module = parts_of(layer)[site]
    if site in ("ffn", "o"):
        return module.register_forward_pre_hook(lambda _, args: (zero(args[0]),))
    return module.register_forward_hook(lambda _, args, output: zero(output))


@torch.no_grad()
def seen(model, batch: dict, layer: int, site: str):
    """Returns what the importance of a site compares: the sublayer's output, or the attention probabilities (eager)."""
    module, found = model.model.layers[layer].mlp if site == "ffn" else model.model.layers[layer].self_attn, []
    with module.register_forward_hook(lambda _, args, output: found.append(output)):
        model(**batch, use_cache=False)
    output = found[0]
    if site == "ffn":
        return output
    return output[1].transpose(1, 2) if site in "qk" else output[0]  # (documents, length, ...)


def assert_right(model, *sites: str) -> None:
    """Compares importance with setting neurons to zero by hand, and the logits of `deactivate` with the same."""
    model.set_attn_implementation("eager")  # it returns probabilities
    batch = tiny_batch(padding="right")
    values = pml.importance(model, **batch, sites=sites)
    for site in sites:
        for index, layer in enumerate(model.model.layers):
            before = seen(model, batch, index, site)
            for n in NEURONS:
                with switch_off(layer, site, [n]):
                    change = (seen(model, batch, index, site) - before).flatten(2).square().sum(-1)
                truth = (change * batch["attention_mask"]).sum(1)
                floor = 1e-3 * values[site][:, index].max()
                torch.testing.assert_close(values[site][:, index, n], truth, rtol=1e-3, atol=float(1e-3 * floor))
        assert_deactivated(model, site)


@torch.no_grad()
def assert_deactivated(model, site: str) -> None:
    """Compares the logits inside `deactivate` with those with hooks of our own."""
    batch, neurons = tiny_batch(), random_neurons(model, sites=(site,))
    with pml.deactivate(model, neurons):
        logits = model(**batch, use_cache=False).logits
    handles = [
        switch_off(layer, site, mask.nonzero().flatten().tolist())
        for layer, mask in zip(model.model.layers, neurons.sites[site])
    ]
    expected = model(**batch, use_cache=False).logits
    for handle in handles:
        handle.remove()
    assert not torch.allclose(model(**batch, use_cache=False).logits, expected, rtol=1e-3)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def assert_refused(model, sentence: str, *sites: str) -> None:
    """Checks that importance of each of the sites is refused with a sentence."""
    for site in sites:
        with pytest.raises(pml.UnsupportedModel, match=sentence):
            pml.importance(model, **tiny_batch(), sites=site)


def replace_forward(module, forward) -> None:
    module.forward = types.MethodType(forward, module)


def replace_attention(layer, values=lambda v: v, attended=lambda o: o) -> None:
    """Gives Llama's attention a forward that changes the values by head, or the input of o_proj."""

    def forward(self, hidden_states, position_embeddings, attention_mask=None, **kwargs):
        modeling = sys.modules[type(self).__module__]
        by_head = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (p(hidden_states).view(by_head).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = modeling.apply_rotary_pos_emb(q, k, *position_embeddings)
        output, a = modeling.eager_attention_forward(self, q, k, values(v), attention_mask, self.scaling)
        return self.o_proj(attended(output).flatten(2)), a

    replace_forward(layer.self_attn, forward)
    layer.self_attn.config._attn_implementation = "eager"


def in_few_bits(x):
    step = x.abs().amax(-1, keepdim=True).clamp(min=1e-6) / 7
    return (x / step).round() * step


ATTENTIONS = {
    "a norm of the values": dict(values=lambda v: F.rms_norm(v, v.shape[-1:])),
    "a norm of each head": dict(attended=lambda o: F.rms_norm(o, o.shape[-1:])),
    "a norm before o_proj": dict(attended=lambda o: F.rms_norm(o, o.shape[-2:])),
    "values in few bits": dict(values=in_few_bits),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_values_that_are_not_only_summed_up_are_refused_at_v_alone(name):
    model = tiny_model("llama", attention_bias=False)
    replace_attention(model.model.layers[1], **ATTENTIONS[name])
    assert_refused(model, "layers.1.self_attn does more than to sum up what model.layers.1.self_attn.v_proj", "v")
    assert_right(model, "o", "ffn")
    if "norm" in name:
        assert_deactivated(model, "v")


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["instead of its own", "beside its own"])
def test_a_layer_that_uses_the_values_of_another_one_is_refused_at_v(share):
    """As attention across layers and value residuals do."""
    model, kept = tiny_model("llama"), []

    def keep(v):
        kept.append(v)
        return v

    replace_attention(model.model.layers[0], values=keep)
    replace_attention(model.model.layers[1], values=lambda v: share * v + (1 - share) * kept.pop())
    assert_refused(model, "layers.1.self_attn does more than to sum up", "v")
    kept.clear()
    assert_right(model, "o", "ffn")


def test_a_gate_of_each_head_leaves_every_value_right():
    model = tiny_model("llama")
    for layer in model.model.layers:
        gate = torch.tensor([1.0, 0.3, 0.0, 2.0])[:, None]
        replace_attention(layer, attended=lambda o, gate=gate: o * gate)
    assert_right(model, "v", "o", "ffn")
    assert_refused(model, "site q was seen in 0 of 2 layers", "q")


def test_modules_that_two_layers_share_are_refused_at_their_site_alone():
    model = tiny_model("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    assert_refused(model, r"calls model.layers.0.mlp.gate_proj 2 times", "ffn")
    assert_right(model, "q", "k", "v", "o")
    assert_deactivated(model, "ffn")


def test_layers_that_run_twice_are_not_measured_but_their_neurons_can_be_off():
    model = tiny_model("llama")

    def twice(self, states, **kwargs):
        return type(self).forward(self, type(self).forward(self, states, **kwargs), **kwargs)

    replace_forward(model.model.layers[1], twice)
    assert_refused(model, r"_proj 2 times, and not once with every token", *pml.SITES)
    for site in pml.SITES:
        assert_deactivated(model, site)
    with pytest.raises(pml.UnsupportedModel, match="of layer 1 was seen twice in one forward"):
        pml.importance(model, **tiny_batch(), verify=False)


def test_an_ffn_that_runs_in_pieces_is_refused_and_other_sites_are_right():
    model = tiny_model("llama")
    for layer in model.model.layers:
        forward = type(layer.mlp).forward
        replace_forward(layer.mlp, lambda self, x, f=forward: torch.cat([f(self, part) for part in x.split(16, 1)], 1))
    assert_refused(model, r"mlp does not return the output of model.layers.0.mlp.down_proj: ", "ffn")
    assert_right(model, "q", "k", "v", "o")


def test_an_ffn_without_padding_is_refused_and_other_sites_are_right():
    model, mask = tiny_model("llama"), []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: mask.append(kwargs.get("attention_mask")), with_kwargs=True
    )

    def forward(self, x):
        if mask[-1] is None:
            return type(self).forward(self, x)
        output, is_token = torch.zeros_like(x), mask[-1].bool()
        output[is_token] = type(self).forward(self, x[is_token])
        return output

    for layer in model.model.layers:
        replace_forward(layer.mlp, forward)
    assert_refused(model, r"mlp does not return the output of model.layers.0.mlp.down_proj", "ffn")
    assert_right(model, "q", "k", "v", "o")


def call_with_other_weights(model) -> None:
    def forward(self, *args, **kwargs):
        if vars(self).get("is_inside"):
            return type(self).forward(self, *args, **kwargs)
        self.is_inside = True
        weights = {name: 1.1 * x.data if "_proj" in name else x.data for name, x in self.named_parameters()}
        try:
            return torch.func.functional_call(self, weights, args, kwargs)
        finally:
            self.is_inside = False

    replace_forward(model, forward)


def scale_embeddings(model) -> None:
    def forward(self, input_ids=None, **kwargs):
        return type(self).forward(self, inputs_embeds=3 * self.model.embed_tokens(input_ids), **kwargs)

    replace_forward(model, forward)


def drop_mask(model) -> None:
    model.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
    )


def run_twice(model) -> None:
    def forward(self, *args, **kwargs):
        type(self).forward(self, *args, **kwargs)
        return type(self).forward(self, *args, **kwargs)

    replace_forward(model, forward)


OUTER = {
    "LlamaForCausalLM runs its base model with another layers.0.self_attn.q_proj.weight": call_with_other_weights,
    "LlamaForCausalLM gives its base model another inputs_embeds than it gets": scale_embeddings,
    "LlamaForCausalLM gives its base model another attention_mask than it gets": drop_mask,
    "LlamaForCausalLM calls its base model 2 times in a forward": run_twice,
}


@pytest.mark.parametrize("sentence", OUTER)
def test_a_model_that_gives_its_base_model_something_else_is_refused_and_its_base_model_is_not(sentence):
    model = tiny_model("llama")
    expected = pml.importance(model, **tiny_batch())
    OUTER[sentence](model)
    assert_refused(model, sentence, *pml.SITES)
    values = pml.importance(model.base_model, **tiny_batch())
    assert all(torch.equal(values[site], expected[site]) for site in pml.SITES)
    with pytest.raises(pml.UnsupportedModel, match=sentence):
        pml.importance(model, **tiny_batch())


def test_positions_that_a_model_counts_itself_are_no_departure():
    model = tiny_model("llama")

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        kwargs["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        return type(self).forward(self, input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    replace_forward(model, forward)
    pml.importance(model, **tiny_batch())


def test_a_norm_of_queries_that_is_taken_out_is_refused_at_q_and_k_alone():
    model = tiny_model("gemma3_text")
    model.model.layers[1].self_attn.q_norm = nn.Identity()
    assert_refused(model, "layers.1.self_attn does not work as its family says", "q", "k")
    pml.importance(model, **tiny_batch(), sites=("ffn", "v", "o"))


def test_a_model_that_doubles_its_batch_is_refused_with_a_sentence():
    """As guidance without a classifier does."""
    model = tiny_model("llama")

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        return type(self).forward(self, input_ids=torch.cat([input_ids] * 2), attention_mask=None, **kwargs)

    replace_forward(model.model, forward)
    assert_refused(model, "does not run with 3 documents of 8 tokens, one of them padded on the left", "ffn", "q")


def test_a_function_of_the_models_file_that_is_replaced_after_the_first_use_is_noticed(monkeypatch):
    model = tiny_model("llama")
    pml.importance(model, **tiny_batch())
    modeling = sys.modules[type(model.model).__module__]
    rotate = modeling.apply_rotary_pos_emb
    monkeypatch.setattr(modeling, "apply_rotary_pos_emb", lambda q, k, *tables: rotate(1.4 * q, k, *tables))
    assert_refused(model, "does not pass on the q heads", "q", "k")
    assert_right(model, "v", "o", "ffn")


def keep_the_largest(model) -> None:
    """Every token keeps the ten largest products of its FFN."""

    def keep(_, args):
        return (args[0] * (args[0].abs() >= args[0].abs().topk(10).values[..., -1:]),)

    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(keep)


def normalise_weights(model) -> None:
    for layer in model.model.layers:
        for projection in (layer.mlp.down_proj, layer.self_attn.k_proj, layer.self_attn.o_proj):
            nn.utils.parametrizations.weight_norm(projection, dim=0)
            projection.parametrizations.weight.original0.data *= 1.7


def scale_rotation(model) -> None:
    model.model.rotary_emb.inv_freq /= 4
    model.model.rotary_emb.attention_scaling = 1.3


def change_temperature(model) -> None:
    for layer in model.model.layers:
        layer.self_attn.scaling *= 1.3


def prune_weights(model) -> None:
    for layer in model.model.layers:
        prune.random_unstructured(layer.mlp.down_proj, "weight", 0.4)
        prune.random_unstructured(layer.self_attn.v_proj, "weight", 0.4)


def add_steering(model) -> None:
    model.model.layers[0].register_forward_hook(lambda _, args, output: output + 0.5)


@pytest.mark.parametrize(
    "change", [keep_the_largest, normalise_weights, scale_rotation, change_temperature, prune_weights, add_steering]
)
def test_a_change_that_importance_can_follow_has_right_values(change):
    model = tiny_model("llama")
    change(model)
    assert_right(model, *pml.SITES)
