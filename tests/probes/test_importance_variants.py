"""pml.importance at some sites, after the rotation, and as the published code scores."""

import sys
from contextlib import contextmanager
from unittest import mock

import pytest
import torch

import pymultiling as pml
from tests.support.anatomy import (
    attention_of,
    experts_of,
    ffn_modules,
    key_heads,
    layers_of,
    output_of,
    routed_gate_and_up,
    sizes,
)
from tests.support.brute_force import float64_throughout, shown
from tests.support.comparison import TOLERANCE, brute_force_importance, importance_in_float64, largest_error
from tests.support.tiny_models import MODELS, hidden_of, tiny_batch, tiny_model

WITHOUT_ROTATION = [name for name in MODELS if name.startswith(("gpt2", "opt", "bloom", "xglm", "falcon-alibi"))]


@pytest.mark.parametrize("sites", [("ffn",), ("q",), ("k",), ("v",), ("o",), ("o", "q"), ["v", "ffn"], "k"])
@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_some_sites_have_the_numbers_of_all(name, sites):
    model, batch = tiny_model(name), tiny_batch()
    everything, some = pml.importance(model, **batch), pml.importance(model, **batch, sites=sites)
    assert set(some) == set([sites] if isinstance(sites, str) else sites)
    assert all(torch.equal(some[site], everything[site]) for site in some)


@contextmanager
def heads_watched(model, change):
    """Inside, change(q, k) replaces all queries (B, H, l, d) and keys (B, K, l, d) that an attention multiplies."""
    home = sys.modules[type(attention_of(layers_of(model)[0], model.config)).__module__]
    if model.config.model_type == "falcon":
        rotate = home.apply_rotary_pos_emb
        wrapped = "apply_rotary_pos_emb", lambda *args, **kwargs: change(*rotate(*args, **kwargs))
    else:
        attend = home.eager_attention_forward
        wrapped = "eager_attention_forward", lambda m, q, k, *args, **kwargs: attend(m, *change(q, k), *args, **kwargs)
    with mock.patch.object(home, *wrapped):
        yield


@torch.no_grad()
def probabilities(model, batch, change=lambda q, k: (q, k)) -> list[torch.Tensor]:
    """Attention probabilities of layer 0 (documents, heads, l, l), 0 for padded queries, in float64."""
    caught = []
    attention = attention_of(layers_of(model)[0], model.config)
    handles = [
        attention.register_forward_pre_hook(
            lambda _, args, kwargs: (args, shown(kwargs, model.config)), with_kwargs=True
        ),
        attention.register_forward_hook(lambda _, args, output: caught.append(output[1])),
    ]
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with float64_throughout(model), heads_watched(model, change):
        hidden_of(model, batch)
    model.set_attn_implementation(own)
    for handle in handles:
        handle.remove()
    return caught[0] * batch["attention_mask"][:, None, :, None]


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", [name for name in MODELS if name not in WITHOUT_ROTATION])
def test_rope_post_zeroes_the_rotated_dimension(name, padding):
    model, batch = tiny_model(name, torch.float64, num_hidden_layers=1, **one_layer(name)), tiny_batch(padding=padding)
    before, truth = probabilities(model, batch), {"q": [], "k": []}
    head = sizes(model.config)["q"] // model.config.num_attention_heads
    for site, which in (("q", 0), ("k", 1)):
        for n in range(sizes(model.config)[site]):

            def change(*rotated):
                rotated = [x.clone() for x in rotated]
                if rotated[which].shape[1] == key_heads(model.config) or which == 0:
                    rotated[which][:, n // head, :, n % head] = 0
                else:  # keys that are there for every query head
                    group = rotated[which].shape[1] // key_heads(model.config)
                    rotated[which][:, n // head * group : (n // head + 1) * group, :, n % head] = 0
                return rotated

            truth[site].append((probabilities(model, batch, change) - before).square().sum((1, 2, 3)))
    found = importance_in_float64(model, **batch, rope="post")
    for site in truth:
        assert largest_error(found[site], torch.stack(truth[site], 1)[:, None]) < TOLERANCE[torch.float64], site
    others = importance_in_float64(model, **batch)
    assert all(torch.equal(found[site], others[site]) for site in ("ffn", "v", "o"))


@pytest.mark.parametrize("name", WITHOUT_ROTATION)
def test_without_a_rotation_there_is_no_before_and_after(name):
    model = tiny_model(name, torch.float64)
    found = importance_in_float64(model, **tiny_batch(), rope="post")
    for site, truth in brute_force_importance(name, "right").items():
        assert largest_error(found[site], truth) < TOLERANCE[torch.float64], site


def one_layer(name: str) -> dict:
    return dict(layer_types=["sliding_attention"]) if name in ("gemma3_text", "cohere2") else {}


# The published code has no soft caps: gemma2 is left out.
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma3_text",
        "phi3-partial-rotary",
        "gpt2",
        "gpt_neox",
        "opt",
        "falcon",
        "cohere-norms",
        "olmo2",
        "mixtral",
    ],
)
def test_released_score_is_what_the_published_code_ranks_by(name, padding):
    model, batch = tiny_model(name, torch.float64, num_hidden_layers=1, **one_layer(name)), tiny_batch(padding=padding)
    layer, config, valid = layers_of(model)[0], model.config, batch["attention_mask"]
    caught, rotated, width = {}, [], sizes(config)["ffn"]

    def watch(q, k):
        rotated.append((q, k))
        return q, k

    def keep_up(up):
        caught["up"] = up.view(*valid.shape, width)

    handles = [output_of(layer, config).register_forward_pre_hook(lambda _, args: caught.update(o=args[0]))]
    experts = experts_of(layer)
    if experts is None:
        up = ffn_modules(layer)[1]
        handles.append(up.register_forward_hook(lambda _, args, output: keep_up(output[..., -width:])))
    else:  # no token counts where it is not routed to the expert
        handles.append(
            experts.register_forward_pre_hook(lambda _, args: keep_up(routed_gate_and_up(experts, *args[:2], 0.0)[1]))
        )
    log_a = probabilities(model, batch, watch).log()
    for handle in handles:
        handle.remove()

    q, k = rotated[0]
    q = q / layer.self_attn.scaling if name == "opt" else q  # which hands over queries times the scale
    group = q.shape[1] // k.shape[1]
    product = q[:, :, :, None] * k.repeat_interleave(group, 1)[:, :, None]  # (B, H, i, j, d)
    change = (log_a[..., None] - product).softmax(-2) - log_a[..., None].exp()
    by_head = torch.where(valid[:, None, :, None, None] == 1, change, 0).square().sum((2, 3))  # (B, H, d)
    attention = (caught["o"].abs() * valid[..., None]).sum(1)
    truth = {
        "ffn": (caught["up"].abs() * valid[..., None]).sum(1),
        "o": attention,
        "v": attention.view(2, -1, group, q.shape[-1]).sum(2).flatten(1),
        "q": by_head.flatten(1),
        "k": by_head.view(2, -1, group, q.shape[-1]).sum(2).flatten(1),
    }
    found = importance_in_float64(model, **batch, score="released")
    for site in truth:
        assert largest_error(found[site], truth[site][:, None]) < TOLERANCE[torch.float64], site


@pytest.mark.parametrize(
    "arguments, names",
    [
        (dict(sites=("ffn", "x")), "ffn, q, k, v, o"),
        (dict(sites=()), "ffn, q, k, v, o"),
        (dict(rope="none"), "pre"),
        (dict(score="best"), "released"),
    ],
    ids=str,
)
def test_unknown_arguments_are_refused_and_the_known_ones_named(arguments, names):
    with pytest.raises(ValueError, match=names):
        pml.importance(tiny_model("llama"), **tiny_batch(), **arguments)
