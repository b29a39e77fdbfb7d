"""pml.importance at some sites, after the rotation, and as the published code scores."""

import sys
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from brute_force import float64_throughout
from comparison import TOLERANCE, exactly, largest_error
from tiny import MODELS, ffn_modules, positions, sizes, tiny_batch, tiny_model

import pymultiling as pml


@pytest.mark.parametrize("sites", [("ffn",), ("q",), ("k",), ("v",), ("o",), ("o", "q"), ["v", "ffn"], "k"])
@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_some_sites_have_the_numbers_of_all(name, sites):
    model, batch = tiny_model(name), tiny_batch()
    everything, some = pml.importance(model, **batch), pml.importance(model, **batch, sites=sites)
    assert set(some) == set([sites] if isinstance(sites, str) else sites)
    assert all(torch.equal(some[site], everything[site]) for site in some)


@contextmanager
def rotation_watched(model, change):
    """Inside, change(q, k) replaces every rotated query (B, H, l, d) and key (B, K, l, d)."""
    home = sys.modules[type(model.model.layers[0].self_attn).__module__]
    rotate = home.apply_rotary_pos_emb
    with mock.patch.object(home, "apply_rotary_pos_emb", lambda *args, **kwargs: change(*rotate(*args, **kwargs))):
        yield


@torch.no_grad()
def probabilities(model, batch, change=lambda q, k: (q, k)) -> list[torch.Tensor]:
    """Attention probabilities of layer 0 (documents, heads, l, l), 0 for padded queries, in float64."""
    caught = []
    handle = model.model.layers[0].self_attn.register_forward_hook(lambda _, args, output: caught.append(output[1]))
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with float64_throughout(model), rotation_watched(model, change):
        model.model(**batch, position_ids=positions(batch["attention_mask"]), use_cache=False)
    model.set_attn_implementation(own)
    handle.remove()
    return caught[0] * batch["attention_mask"][:, None, :, None]


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_rope_post_zeroes_the_rotated_dimension(name, padding):
    model, batch = tiny_model(name, torch.float64, num_hidden_layers=1, **one_layer(name)), tiny_batch(padding=padding)
    before, truth = probabilities(model, batch), {"q": [], "k": []}
    for site, which in (("q", 0), ("k", 1)):
        head = model.model.layers[0].self_attn.head_dim
        for n in range(sizes(model.config)[site]):

            def change(*rotated):
                rotated = [x.clone() for x in rotated]
                rotated[which][:, n // head, :, n % head] = 0
                return rotated

            truth[site].append((probabilities(model, batch, change) - before).square().sum((1, 2, 3)))
    found = exactly(model, **batch, rope="post")
    for site in truth:
        assert largest_error(found[site], torch.stack(truth[site], 1)[:, None]) < TOLERANCE[torch.float64], site
    others = exactly(model, **batch)
    assert all(torch.equal(found[site], others[site]) for site in ("ffn", "v", "o"))


def one_layer(name: str) -> dict:
    return dict(layer_types=["sliding_attention"]) if name == "gemma3_text" else {}


# The published code has no soft caps: gemma2 is left out.
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "phi3-partial-rotary"])
def test_released_score_is_what_the_published_code_ranks_by(name, padding):
    model, batch = tiny_model(name, torch.float64, num_hidden_layers=1, **one_layer(name)), tiny_batch(padding=padding)
    layer, config, valid = model.model.layers[0], model.config, batch["attention_mask"]
    caught, rotated = {}, []

    def watch(q, k):
        rotated.append((q, k))
        return q, k

    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: caught.update(o=args[0])),
        ffn_modules(layer.mlp)[1].register_forward_hook(
            lambda _, args, output: caught.update(up=output[..., -config.intermediate_size :])
        ),
    ]
    log_a = probabilities(model, batch, watch).log()
    for handle in handles:
        handle.remove()

    q, k = rotated[0]
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
    found = exactly(model, **batch, score="released")
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
